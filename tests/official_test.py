"""Agreement with the values that the released PyTorch model computes, for every golden case.

Bounds are float32's: rtol 1e-4, atol 1e-5, none looser. The item's half and the bias of the released fusion layer have
no counterpart here: they cancel, which `test_dropped_weights_have_no_gradient` checks against the released gradients.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import models as model
import numpy as np
import optax
import pytest

from sine_jax import config as configs
from sine_jax import official, presets
from sine_jax.layers import scoring
from sine_jax.types import PAD, TrainBatch

score = jax.jit(model.score, static_argnames="config")
apply = jax.jit(model.apply, static_argnames="config")
init = jax.jit(model.init, static_argnums=(1, 2))
close = lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)  # noqa: E731


@pytest.fixture(params=range(5))
def case(request, golden_dir: pathlib.Path):
    with np.load(golden_dir / f"case_{request.param}.npz", allow_pickle=False) as archive:
        return dict(archive)


def prefixed(case, prefix):
    return {name.removeprefix(prefix): value for name, value in case.items() if name.startswith(prefix)}


def settings(case):
    released = json.loads(str(case["config"]))
    config = presets.official(adaptive=released["adaptive"], filter_strength=released["filter"])
    names = {
        "model.max_len": "max_len",
        "model.dim": "dim",
        "model.num_heads": "heads",
        "model.num_interests": "interests",
        "model.dropout": "dropout",
        "objective.l2": "l2_emb",
        "objective.dcor": "dcor_weight",
        "optimizer.learning_rate": "lr",
        "optimizer.b1": "b1",
        "optimizer.b2": "b2",
        "optimizer.eps": "eps",
    }
    return configs.replace(config, {ours: released[theirs] for ours, theirs in names.items()})


def train_batch(case):
    items = jnp.asarray(case["input_items"], jnp.int32)
    return TrainBatch(
        users=jnp.arange(len(items)),
        items=items,
        watched=items != PAD,
        positives=jnp.asarray(case["positives"], jnp.int32),
        negatives=jnp.asarray(case["sampled_negatives"], jnp.int32)[..., None],
        skips=jnp.asarray(case["skips"], jnp.int32)[..., None],
    )


def last_columns(batch, width):
    return TrainBatch(batch.users, *(x[:, -width:] for x in batch[1:6]))


def test_logits(case):
    config, batch = settings(case), train_batch(case)
    params = official.import_weights(prefixed(case, "param/"))
    outputs = apply(params, batch, config)
    where = np.asarray(batch.positives) != PAD
    table = params["item_embedding"]
    positive = scoring.score(outputs.state, table[batch.positives][:, :, None])[..., 0]
    negative = scoring.score(outputs.state, table[batch.negatives])[..., 0]
    close(positive[where], case["pos_logits"][where])
    close(negative[where], case["neg_logits"][where])
    where = where & (case["skips"] != PAD)
    if config.objective.passive_form == "score":
        margin = positive - scoring.score(outputs.state, table[batch.skips])[..., 0]
    else:
        difference = table[batch.positives] - table[batch.skips[..., 0]]
        margin = jnp.max(jnp.einsum("btkd,btd->btk", outputs.interests, difference), axis=-1)
    close(margin[where], case["pos_minus_skip_logits"][where])


def test_losses_gradients_and_weights_over_three_adam_steps(case):
    config, batch = settings(case), train_batch(case)
    weights = config.optimizer
    optimizer = optax.adam(weights.learning_rate, b1=weights.b1, b2=weights.b2, eps=weights.eps)
    params = official.import_weights(prefixed(case, "param/"))
    state = optimizer.init(params)
    value_and_grad = jax.jit(
        jax.value_and_grad(lambda p: model.objective(p, batch, jax.random.key(0), config), has_aux=True)
    )
    for step, (total, sampled, passive, dcor, norm) in enumerate(case["losses_3_adam_steps"]):
        (loss, terms), gradients = value_and_grad(params)
        close(loss, total)
        close([terms["sampled"], terms["passive"], terms["dcor"]], [sampled, passive, dcor])
        close(jnp.linalg.norm(params["item_embedding"]), norm)
        if "l2" in terms:
            close(terms["l2"], norm)
        if step == 0:
            jax.tree.map(close, gradients, official.import_weights(prefixed(case, "grad/")))
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(close, params, official.import_weights(prefixed(case, "param_after_3_steps/")))


def test_candidate_scores(case):
    params = official.import_weights(prefixed(case, "param/"))
    histories = train_batch(case).histories
    close(score(params, histories, jnp.asarray(case["candidates"]), settings(case)), case["candidate_scores"])


def test_narrow_windows_change_nothing(case):
    """Columns of padding left out, but for one, leave loss and gradients: what they add to the softmax is known."""
    config, batch = settings(case), train_batch(case)
    longest = int(np.max(np.sum(np.asarray(batch.items) != PAD, axis=1)))
    rows = np.sum(np.asarray(batch.items) != PAD, axis=1) < longest
    batch = jax.tree.map(lambda x: x[np.flatnonzero(rows)], batch)
    width = int(np.max(np.sum(np.asarray(batch.items) != PAD, axis=1))) + 1
    assert width < config.model.max_len + 1
    params = official.import_weights(prefixed(case, "param/"))
    value_and_grad = jax.jit(jax.value_and_grad(lambda p, b: model.objective(p, b, None, config)[0]))
    jax.tree.map(close, value_and_grad(params, last_columns(batch, width)), value_and_grad(params, batch))


def test_dropped_weights_have_no_gradient(case):
    dropped = [value.ravel() for name, value in prefixed(case, "grad/interest_attention_linear.").items()]
    adaptive = settings(case).model.fusion == "collapsed"
    assert [d.size for d in dropped] == ([2 * settings(case).model.dim, 1] if adaptive else [])
    for gradient in dropped:
        np.testing.assert_allclose(gradient[gradient.size // 2 :], 0, atol=1e-6)


def test_imported_weights_are_what_init_draws(case):
    config = settings(case)
    imported = official.import_weights(prefixed(case, "param/"))
    drawn = init(jax.random.key(0), config, imported["item_embedding"].shape[0] - 1)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, imported)


def test_import_names_what_is_missing_and_what_is_foreign(case):
    weights = prefixed(case, "param/")
    with pytest.raises(ValueError, match=r"^foreign\.weight: not weights of .*; leave them out"):
        official.import_weights(weights | {"foreign.weight": np.zeros(1)})
    del weights["pos_emb.weight"]
    with pytest.raises(ValueError, match=r"^pos_emb\.weight: .* is missing; pass all"):
        official.import_weights(weights)
