"""Rates, independence and expectation of dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.dropout import Dropout, keep_mask

SHAPE = (64, 48, 50)


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.3125, 0.1])
def test_rate_is_met_within_five_deviations(rate):
    exact = round(rate * 256) / 256
    dropped = 1 - np.mean(keep_mask(jax.random.key(0), rate, SHAPE))
    assert abs(dropped - exact) < 5 * np.sqrt(exact * (1 - exact) / np.prod(SHAPE))


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1])
def test_neighbours_and_keys_are_independent(rate):
    masks = np.stack([keep_mask(jax.random.key(seed), rate, SHAPE) for seed in (0, 1)]).astype(float)
    bound = 5 / np.sqrt(np.prod(SHAPE))
    assert abs(np.corrcoef(masks[0].ravel(), masks[1].ravel())[0, 1]) < bound
    for axis in range(3):
        one, next_one = np.moveaxis(masks[0], axis, 0)[:-1], np.moveaxis(masks[0], axis, 0)[1:]
        assert abs(np.corrcoef(one.ravel(), next_one.ravel())[0, 1]) < 1.2 * bound


def test_expectation_is_kept():
    x = jnp.ones(SHAPE)
    y = Dropout(0.1).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - 26 / 256)], rtol=1e-6)
    np.testing.assert_allclose(np.mean(y), 1, atol=5e-3)


def test_nothing_is_dropped_when_deterministic():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, deterministic=True), x)
