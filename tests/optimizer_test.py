import dataclasses
import math

import jax
import jax.numpy as jnp
import models as model
import numpy as np
import optax
import pytest

from sine_jax import config as configs
from sine_jax import optimizer
from sine_jax.config import OptimizerConfig


def steps(config, gradients, value=1.0, num_steps=100):
    """Parameters after each gradient."""
    tx, params, seen = optimizer.build(config, num_steps=num_steps), {"x": jnp.array([[value]])}, []
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update({"x": jnp.array([[gradient]])}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(params["x"][0, 0]))
    return seen


def test_the_first_adam_step_is_the_learning_rate():
    (x,) = steps(OptimizerConfig(learning_rate=0.1, eps=1e-30), [3.0])
    assert x == pytest.approx(1 - 0.1)


def test_adagrad_divides_by_the_root_of_summed_squares():
    (x,) = steps(OptimizerConfig(name="adagrad", learning_rate=0.1, eps=1e-30), [2.0])
    assert x == pytest.approx(1 - 0.1 * 2 / math.sqrt(0.1 + 2**2))


def test_adamw_shrinks_maps_by_rate_times_decay():
    config = OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5)
    (x,) = steps(config, [0.0], value=2.0)
    assert x == pytest.approx(2 - 0.1 * 0.5 * 2)


def test_decay_spares_embeddings_norms_and_biases():
    config = configs.replace(configs.Config(), {"model.max_len": 4, "model.dim": 4, "model.read_skips": True})
    config = configs.replace(config, {"model.kernel_dim": 2})
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), config, 5))
    leaves = jax.tree_util.tree_leaves_with_path(optimizer.decayed(params))
    decayed = {jax.tree_util.keystr(path) for path, yes in leaves if yes}
    spared = {jax.tree_util.keystr(path) for path, yes in leaves if not yes}
    assert decayed and all("kernel" in name or "weights" in name for name in decayed)
    assert {"['item_embedding']", "['position_embedding']", "['polarity_embedding']", "['interests']"} <= spared
    assert {"['item_factors']", "['signed_kernel']['weights']", "['signed_kernel']['decays']"} <= spared
    assert not any("bias" in name or "norm" in name for name in decayed)


@pytest.mark.parametrize("embedding", ["dense", "rows"])
def test_the_factors_of_the_kernel_have_no_moments_and_stay(embedding):
    config = configs.replace(configs.Config(), {"model.max_len": 4, "model.dim": 4, "model.kernel_dim": 2})
    params = model.init(jax.random.key(0), config, 5)
    tx = optimizer.build(OptimizerConfig(embedding=embedding), num_steps=10)
    state = tx.init(params)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert any("item_embedding" in name for name in names) and not any("item_factors" in name for name in names)
    entries = {"entries": jnp.arange(6)} if embedding == "rows" else {}
    gradients = {**jax.tree.map(jnp.ones_like, params), "item_factors": jnp.zeros((6, 2))}
    updates, _ = tx.update(gradients, state, params, **entries)
    assert not updates["item_factors"].any() and updates["item_embedding"].all()


def test_gradients_are_clipped_to_the_global_norm():
    config = OptimizerConfig(name="adagrad", learning_rate=0.1, eps=1e-30, clip_norm=1.0)
    (x,) = steps(config, [1000.0])
    assert x == pytest.approx(1 - 0.1 * 1 / math.sqrt(0.1 + 1**2))


def test_warm_up_is_linear_and_cosine_ends_at_zero():
    config = OptimizerConfig(learning_rate=0.4, schedule="cosine", warmup_steps=4)
    rate = optimizer.learning_rate(config, num_updates=12)
    np.testing.assert_allclose([rate(i) for i in range(5)], [0.0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert rate(8) == pytest.approx(0.2)
    assert rate(12) == pytest.approx(0.0, abs=1e-7)


def test_accumulation_updates_once_with_the_mean_gradient():
    config = OptimizerConfig(name="adagrad", learning_rate=0.1, eps=1e-30)
    (at_once,) = steps(config, [2.0])
    first, second = steps(dataclasses.replace(config, accumulate=2), [1.0, 3.0])
    assert first == 1.0
    assert second == pytest.approx(at_once)
