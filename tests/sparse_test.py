"""Updates of the table entries of a batch, compared with updates of whole tables."""

import functools

import jax
import jax.numpy as jnp
import models as model
import numpy as np
import optax
import pytest
from logs import NUM_ITEMS, configured, fed

from sine_jax import build_model, optimizer, parallel, sparse, training
from sine_jax import config as configs
from sine_jax.batches import pipeline
from sine_jax.objectives import objective

SMALL = {"model__dim": 4, "model__num_blocks": 1, "model__num_interests": 2, "model__dropout": 0.0}
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)


def batches_of(config):
    feed = fed(config)
    users = [batch[0] for batch in pipeline.schedule(feed.strata, seed=0, epoch=0, multiple=4)]
    return pipeline.host_batches(feed, users, 0)


def lazy(gradients, table, transformation, dense):
    """Steps of a transformation of entries and of a dense one over the same gradients; NaN entries are left out."""
    ours, theirs = {"item_embedding": table}, table
    state, other = transformation.init(ours), dense.init(theirs)
    for gradient in gradients:
        chosen = jnp.flatnonzero(~jnp.isnan(gradient[:, 0]))
        # Two places too many, as where a batch has fewer items than room.
        places = jnp.concatenate([chosen, jnp.full(2, len(table))])
        values = jnp.concatenate([gradient[chosen], jnp.ones((2, table.shape[1]))])
        updates, state = transformation.update({"item_embedding": values}, state, entries=places)
        ours = sparse.apply_updates(ours, updates, places)
        updates, other = dense.update(jnp.nan_to_num(gradient), other, theirs)
        theirs = optax.apply_updates(theirs, updates)
    return ours["item_embedding"], theirs, state


def gradients_of(steps, seed=0):
    return [jnp.asarray(g) for g in np.random.default_rng(seed).normal(size=(steps, 6, 3)).astype(np.float32)]


def test_lazy_adam_is_adam_while_every_row_is_touched():
    rate = optax.cosine_decay_schedule(0.1, 10)
    table = jnp.ones((6, 3))
    ours, theirs, _ = lazy(gradients_of(5), table, sparse.lazy_adam(rate, 0.9, 0.98, 1e-8), optax.adam(rate, 0.9, 0.98))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_row_that_is_left_out_stays_with_its_moments_and_adam_would_move_it():
    table = jnp.ones((6, 3))
    gradients = gradients_of(3)
    gradients[1] = gradients[1].at[2].set(jnp.nan)
    made = functools.partial(sparse.lazy_adam, lambda _: 0.1, 0.9, 0.98, 1e-8)
    two, _, state = lazy(gradients[:2], table, made(), optax.adam(0.1, 0.9, 0.98))
    one, _, before = lazy(gradients[:1], table, made(), optax.adam(0.1, 0.9, 0.98))
    np.testing.assert_array_equal(two[2], one[2])
    for ours, theirs in zip((state.mu, state.nu), (before.mu, before.nu), strict=True):
        np.testing.assert_array_equal(ours["item_embedding"][2], theirs["item_embedding"][2])
    three, dense, _ = lazy(gradients, table, made(), optax.adam(0.1, 0.9, 0.98))
    g0, g2 = (np.asarray(gradients[i][2]) for i in (0, 2))  # it comes back: moments of two updates, corrected for three
    mu, nu = 0.1 * (0.9 * g0 + g2), 0.02 * (0.98 * g0**2 + g2**2)
    expected = one[2] - 0.1 * mu / (1 - 0.9**3) / (np.sqrt(nu / (1 - 0.98**3)) + 1e-8)
    np.testing.assert_allclose(three[2], expected, rtol=1e-5)
    assert np.abs(three[2] - dense[2]).max() > 1e-3
    np.testing.assert_allclose(np.delete(three, 2, 0), np.delete(dense, 2, 0), rtol=1e-5)


def test_row_adagrad_keeps_one_number_a_row_and_is_adagrad_where_a_row_has_one_entry():
    table, gradients = jnp.ones((6, 1)), [g[:, :1] for g in gradients_of(4)]
    made = sparse.row_adagrad(lambda _: 0.1, 1e-8)
    ours, theirs, state = lazy(gradients, table, made, optax.adagrad(0.1, eps=1e-8))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert state.squares["item_embedding"].shape == (6,)
    wide = gradients_of(1)[0]
    ours, _, state = lazy([wide], jnp.zeros((6, 3)), made, optax.adagrad(0.1))
    sums = 0.1 + np.square(wide).mean(axis=1)
    np.testing.assert_allclose(state.squares["item_embedding"], sums, rtol=1e-6)
    np.testing.assert_allclose(ours, -0.1 * wide / np.sqrt(sums)[:, None], rtol=1e-5)


OPTIONS = {
    "default": {},
    "biases": {"model__item_bias": True, "model__read_skips": True, "model__user_bias": True},
    "gbce": {"objective__sampled_form": "gbce"},
    "kernel": {"model__kernel_dim": 3, "model__read_skips": True},
    "softmax": {"objective__sampled_form": "softmax", "objective__negatives": "popularity"},
    "in_batch": {"objective__negatives": "in_batch"},
    "filter": {"model__active": "filter", "objective__active": 0.0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_gradient_of_touched_rows_is_the_dense_one(name):
    config = configured(**SMALL, **OPTIONS[name], optimizer__embedding="rows")
    batches = batches_of(config)
    params = model.moved(model.init(jax.random.key(0), config, NUM_ITEMS), jax.random.key(1))
    built = build_model(config.model, num_items=NUM_ITEMS)
    loss = functools.partial(objective, key=None, config=config, model=built)
    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    expected, dense = value_and_grad(params, batches)
    seen = jax.jit(sparse.touch)(params, batches)
    found, local = value_and_grad(seen.params, seen.batches)
    jax.tree.map(close, found, expected)
    items = np.unique(
        np.concatenate([np.ravel(x) for b in batches for x in (b.items, b.positives, b.negatives, b.skips)])
    )
    np.testing.assert_array_equal(np.unique(seen.entries)[: len(items)], items)
    there = np.asarray(seen.entries) <= NUM_ITEMS
    for table in sparse.TABLES:
        if table in dense:
            whole = np.zeros_like(dense[table])
            whole[np.asarray(seen.entries)[there]] = local[table][there]
            close(whole, dense[table])
    rest = [{k: v for k, v in tree.items() if k not in sparse.TABLES} for tree in (local, dense)]
    jax.tree.map(close, *rest)


def trained(config, *, devices=1, steps=3):
    """Steps over one batch, whose rows are split over devices."""
    tx = optimizer.build(config.optimizer, num_steps=10)
    state = model.init_state(config, tx, num_items=NUM_ITEMS)
    batches = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batches_of(config))
    built = build_model(config.model, num_items=NUM_ITEMS)
    step = functools.partial(
        training.train_step, seed=0, config=config, model=built, optimizer=tx, axis_name=parallel.AXIS
    )
    mapped = jax.pmap(
        step, axis_name=parallel.AXIS, in_axes=(None, 0), out_axes=None, devices=jax.local_devices()[:devices]
    )
    for _ in range(steps):
        state, report = jax.block_until_ready(mapped(state, batches))
    return state, report


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad"])
def test_four_devices_move_the_same_rows_as_one(name):
    config = configured(**SMALL, optimizer__embedding="rows", optimizer__name=name)
    (one, _), (four, _) = trained(config), trained(config, devices=4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), one, four)


def test_clipping_goes_by_the_norm_of_the_dense_gradient():
    options = {**SMALL, "optimizer__clip_norm": 0.01}
    found = [trained(configured(**options, optimizer__embedding=kind), steps=1) for kind in ("dense", "rows")]
    (dense, dense_report), (lazily, report) = found
    for name in ("loss", "gradient_norm", "update_norm"):
        close(report[name], dense_report[name])
    jax.tree.map(close, lazily.params, dense.params)  # the first step of Adam moves no row without a gradient


def test_rows_that_no_batch_holds_stay_to_the_bit():
    config = configured(**SMALL, optimizer__embedding="rows")
    tx = optimizer.build(config.optimizer, num_steps=10)
    before = model.init_state(config, tx, num_items=NUM_ITEMS + 40)
    built = build_model(config.model, num_items=NUM_ITEMS + 40)
    step = jax.jit(functools.partial(training.train_step, seed=0, config=config, model=built, optimizer=tx))
    after, _ = step(before, batches_of(config))
    moved = np.flatnonzero((after.params["item_embedding"] != before.params["item_embedding"]).any(axis=1))
    assert 0 < moved.size and moved.max() <= NUM_ITEMS


@pytest.mark.parametrize(
    "option", [{"objective.sampled_form": "full_softmax"}, {"objective.l2": 0.1}, {"optimizer.accumulate": 2}]
)
def test_what_needs_the_whole_catalogue_is_refused(option):
    with pytest.raises(ValueError, match=r"optimizer\.embedding=rows updates only .*, but .*\..*=.*; use dense"):
        configs.replace(configs.Config(), {"optimizer.embedding": "rows"} | option)
