"""Terms, their weights, and what each is made of."""

import functools

import jax
import jax.numpy as jnp
import models as model
import numpy as np
import pytest

from sine_jax import config as configs
from sine_jax import losses, objectives
from sine_jax.layers import scoring
from sine_jax.model import active_relation, build_model
from sine_jax.types import PAD, TrainBatch

N, T = 20, 4


def setup(**overrides):
    names = {"model.max_len": T, "model.dim": 8, "model.num_blocks": 1, "model.dropout": 0.0}
    names |= {"objective.l2": 0.01, "objective.sampled": 1.0, "objective.num_skips": 1}
    config = configs.replace(configs.Config(), names | {k.replace("__", "."): v for k, v in overrides.items()})
    rng = np.random.default_rng(0)
    shape = (3, T)
    positives = rng.integers(1, N + 1, shape)
    positives[0, :2] = PAD
    skips = rng.integers(1, N + 1, (*shape, config.objective.num_skips))
    skips[1] = PAD
    negatives = rng.integers(1, N + 1, (*shape, config.objective.num_negatives))
    items = rng.integers(1, N + 1, shape)
    batch = TrainBatch(*map(jnp.array, (np.arange(3), items, items > 0, positives, negatives, skips)))
    return config, model.init(jax.random.key(0), config, N), batch


def test_loss_is_the_weighed_sum_of_its_terms():
    config, params, batch = setup(objective__sampled=0.5, objective__passive=2.0, objective__dcor=0.3)
    loss, terms = model.objective(params, batch, None, config)
    weights = {"sampled": 0.5, "passive": 2.0, "dcor": 0.3, "l2": 0.01, "active": 0.1}
    assert set(terms) == set(weights)
    np.testing.assert_allclose(loss, sum(weights[name] * terms[name] for name in terms), rtol=1e-5)


@pytest.mark.parametrize("term", ["sampled", "passive", "dcor", "l2", "active"])
def test_a_term_of_weight_zero_is_left_out(term):
    config, params, batch = setup(**{f"objective__{term}": 0.0})
    assert term not in model.objective(params, batch, None, config)[1]


def test_pairs_are_those_that_exist():
    config, params, batch = setup(objective__num_negatives=2, objective__num_skips=3)
    scores = np.asarray(
        scoring.score(
            model.apply(params, batch, config).state,
            params["item_embedding"][jnp.concatenate([batch.positives[..., None], batch.negatives, batch.skips], -1)],
        )
    )
    expected = {"sampled": [], "passive": []}
    for b, t in zip(*np.nonzero(batch.positives), strict=True):
        expected["sampled"] += [np.log1p(np.exp(scores[b, t, 1 + m] - scores[b, t, 0])) for m in range(2)]
        expected["passive"] += [
            np.log1p(np.exp(scores[b, t, 3 + s] - scores[b, t, 0])) for s in range(3) if batch.skips[b, t, s] != PAD
        ]
    _, terms = model.objective(params, batch, None, config)
    for name, values in expected.items():
        np.testing.assert_allclose(terms[name], np.mean(values), rtol=1e-5)


def test_l2_is_the_norm_or_its_square():
    config, params, batch = setup(objective__l2_form="norm")
    norm = np.linalg.norm(params["item_embedding"])
    np.testing.assert_allclose(model.objective(params, batch, None, config)[1]["l2"], norm, rtol=1e-5)
    config, params, batch = setup(objective__l2_form="squared")
    np.testing.assert_allclose(model.objective(params, batch, None, config)[1]["l2"], norm**2, rtol=1e-5)


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_active_term_is_a_cross_entropy_to_what_the_pair_names(form):
    config, params, batch = setup(objective__active_target=form)
    relation = active_relation(params, batch)
    table, interests = params["item_embedding"], params["interests"]
    skips = jnp.where((batch.skips[..., 0] != PAD)[..., None], table[batch.skips[..., 0]], 0)
    np.testing.assert_allclose(relation, (table[batch.positives] - skips) @ interests.T, rtol=1e-4, atol=1e-6)
    if form == "soft":
        target = jax.nn.softmax(relation)
    else:
        target = np.eye(config.model.num_interests)[np.argmax(relation, -1)]
    log_active = model.apply(params, batch, config).log_active
    where = batch.positives != PAD
    expected = -np.sum(np.where(where, np.sum(target * log_active, -1), 0)) / np.sum(where)
    np.testing.assert_allclose(model.objective(params, batch, None, config)[1]["active"], expected, rtol=1e-5)


def test_the_active_term_reaches_the_head_and_the_interests_through_the_prediction_alone():
    config, params, batch = setup(
        objective__sampled=0.0, objective__passive=0.0, objective__dcor=0.0, objective__l2=0.0
    )
    gradients = jax.jit(jax.grad(lambda p: model.objective(p, batch, None, config)[0]))(params)
    assert np.any(gradients["active"]["query"]["kernel"])
    unread = np.setdiff1d(np.arange(1, N + 1), np.asarray(batch.items))
    assert len(unread)
    assert not np.any(np.asarray(gradients["item_embedding"])[unread])


def test_learned_weights_follow_the_uncertainty():
    config, params, batch = setup(objective__weighting="learned")
    log_variances = {"sampled": 0.4, "passive": -0.3, "active": 0.1}
    assert set(params["log_variances"]) == set(log_variances)
    params["log_variances"] = jax.tree.map(jnp.asarray, log_variances)
    loss, terms = model.objective(params, batch, None, config)
    weights = {"sampled": 1.0, "passive": 1.0, "active": 0.1, "dcor": 1.0, "l2": 0.01}
    expected = sum(
        weights[name]
        * (
            np.exp(-log_variances[name]) * terms[name] + log_variances[name] / 2
            if name in log_variances
            else terms[name]
        )
        for name in terms
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_schedules_start_and_end_where_they_say():
    for kind in ("linear", "cosine"):
        spec = f"{kind}:0.5:2:10"
        np.testing.assert_allclose(
            [objectives.weight(spec, step) for step in (0, 5, 10, 99)], [0.5, 1.25, 2.0, 2.0], rtol=1e-5
        )
    assert objectives.weight("0.25", 3) == 0.25


def test_a_scheduled_weight_is_a_function_of_the_step_inside_jit():
    config, params, batch = setup(objective__passive="linear:0:1:10")

    def loss(step):
        return model.objective(params, batch, None, config, step=step)[0]

    _, terms = model.objective(params, batch, None, config)
    np.testing.assert_allclose(loss(10) - loss(0), terms["passive"], rtol=1e-4)


def test_one_batch_and_its_halves_give_the_same():
    config, params, batch = setup()
    halves = tuple(jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(0, 1), slice(1, 3)))
    whole, parts = (model.objective(params, b, None, config) for b in (batch, halves))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts, whole)


def test_best_interest_compares_by_the_interest_that_parts_the_pair_best():
    config, params, batch = setup(model__fusion="sum", objective__passive_form="best_interest")
    table = params["item_embedding"]
    difference = table[batch.positives] - table[batch.skips[..., 0]]
    margin = jnp.max(jnp.einsum("btkd,btd->btk", model.apply(params, batch, config).interests, difference), -1)
    where = (batch.positives != PAD) & (batch.skips[..., 0] != PAD)
    expected = losses.mean([losses.preference_loss(margin, jnp.zeros_like(margin), where=where)])
    np.testing.assert_allclose(model.objective(params, batch, None, config)[1]["passive"], expected, rtol=1e-5)


@pytest.mark.parametrize("chunk", [7, 1024])
def test_the_full_softmax_is_over_the_catalogue_less_what_else_was_watched(chunk, monkeypatch):
    monkeypatch.setattr(objectives, "CHUNK", chunk)
    config, params, batch = setup(objective__sampled_form="full_softmax")
    value = functools.partial(objectives.objective, config=config, model=model.of(params, config))
    found = jax.jit(value)(params, batch, None)[1]["sampled"]
    read = model.apply(params, batch, config)
    scores = np.asarray(model.score_items(params, read, jnp.arange(1, N + 1), config))
    expected = []
    for b, t in zip(*np.nonzero(batch.positives), strict=True):
        target = int(batch.positives[b, t])
        own = set(batch.positives[b].tolist()) | set(batch.items[b].tolist())
        rivals = [i for i in range(1, N + 1) if i not in own]
        everything = scores[b, t, [target - 1] + [i - 1 for i in rivals]]
        expected.append(np.log(np.exp(everything).sum()) - everything[0])
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_the_pointwise_term_is_over_the_watched_item_and_its_skips():
    config, params, batch = setup(objective__pointwise=1.0, objective__num_skips=2)
    found = model.objective(params, batch, None, config)[1]["pointwise"]
    items = jnp.concatenate([batch.positives[..., None], batch.skips], axis=-1)
    scores = np.asarray(scoring.score(model.apply(params, batch, config).state, params["item_embedding"][items]))
    there = np.asarray((batch.positives != PAD)[..., None] & (items != PAD))
    margins = np.where(np.arange(3) == 0, scores, -scores)
    np.testing.assert_allclose(found, np.log1p(np.exp(-margins))[there].mean(), rtol=1e-5)


def test_a_softmax_without_chances_is_refused():
    config, params, batch = setup(objective__sampled_form="softmax")
    with pytest.raises(ValueError, match="log_chances"):
        model.objective(params, batch, None, config)


def test_a_model_of_another_configuration_is_refused():
    config, params, batch = setup()
    other = build_model(configs.replace(config, {"model.fusion": "sum"}).model, num_items=N)
    with pytest.raises(ValueError, match="model.fusion=sum in the model and collapsed in the config; make"):
        objectives.objective(params, batch, None, config=config, model=other)
