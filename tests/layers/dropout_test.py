"""Rates, independence and expectation of dropout, by every generator."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.layers import dropout
from sine_jax.layers.dropout import Dropout, keep_mask

SHAPE = (64, 48, 50)
GENERATORS = pytest.mark.parametrize("generator", ["hash", "threefry", "rbg"])


def masks(generator, rate, seeds, shape=SHAPE):
    """Masks of keys as training makes them: folded from the seed, once more for each of a few layers and devices."""
    keys = [jax.random.fold_in(dropout.key(seed, generator), step) for seed in seeds for step in range(2)]
    return np.stack([keep_mask(jax.random.fold_in(k, device), rate, shape) for k in keys for device in range(2)])


def correlation(one, other):
    return abs(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@GENERATORS
@pytest.mark.parametrize("rate", [0.5, 0.25, 0.3125, 0.1])
def test_rate_is_met_within_five_deviations(generator, rate):
    exact = rate if generator == "hash" else round(rate * 256) / 256
    for mask in masks(generator, rate, [0]):
        assert abs(1 - mask.mean() - exact) < 5 * np.sqrt(exact * (1 - exact) / np.prod(SHAPE))


@GENERATORS
@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_positions_steps_devices_and_seeds_are_independent(generator, rate):
    every = masks(generator, rate, [0, 1]).astype(float)
    bound = 5 / np.sqrt(np.prod(SHAPE))
    for one, other in itertools.combinations(every, 2):
        assert correlation(one, other) < bound
    for axis, lag in itertools.product(range(3), (1, 2, 7, 16, 32)):
        moved = np.moveaxis(every[0], axis, 0)
        assert correlation(moved[:-lag], moved[lag:]) < 2 * bound


@GENERATORS
def test_rows_of_a_mask_differ_as_random_rows_do(generator):
    """Runs of kept entries, and agreement of any two rows, against the binomial's spread."""
    mask = masks(generator, 0.5, [3], (256, 256))[0].astype(int)
    agreement = ((2 * mask - 1) @ (2 * mask - 1).T)[np.triu_indices(256, 1)] / 16  # in deviations
    assert abs(agreement.mean()) < 0.05 and abs(agreement.std() - 1) < 0.03 and abs(agreement).max() < 6
    runs = (np.diff(mask, axis=1) != 0).mean()
    assert abs(runs - 0.5) < 5 * 0.5 / np.sqrt(256 * 255)


def test_layers_of_a_network_have_masks_of_their_own():
    class Two(dropout.nn.Module):
        @dropout.nn.compact
        def __call__(self, x):
            return [Dropout(0.5)(x, deterministic=False) for _ in range(2)]

    x = jnp.ones(SHAPE)
    for generator in ("hash", "threefry", "rbg"):
        one, other = Two().apply({}, x, rngs={"dropout": dropout.key(0, generator)})
        assert correlation(one, other) < 5 / np.sqrt(np.prod(SHAPE))


@GENERATORS
def test_expectation_is_kept(generator):
    x = jnp.ones(SHAPE)
    y = Dropout(0.1).apply({}, x, deterministic=False, rngs={"dropout": dropout.key(0, generator)})
    kept = 0.9 if generator == "hash" else 1 - 26 / 256
    np.testing.assert_allclose(np.unique(y), [0, 1 / kept], rtol=1e-6)
    np.testing.assert_allclose(np.mean(y), 1, atol=5e-3)


def test_a_hash_is_the_same_inside_and_outside_of_jit_and_on_any_device():
    key = dropout.key(5, "hash")
    masks = [jax.jit(lambda k: keep_mask(k, 0.3, (7, 9)))(jax.device_put(key, d)) for d in jax.local_devices()[:2]]
    for mask in masks:
        np.testing.assert_array_equal(mask, keep_mask(key, 0.3, (7, 9)))


def test_nothing_is_dropped_when_deterministic():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, deterministic=True), x)


def test_words_of_another_size_are_refused_by_the_hash():
    with pytest.raises(ValueError, match="^train.generator=hash: it draws no words of 8 bits; draw words of 32$"):
        jax.random.bits(dropout.key(0, "hash"), (3,), jnp.uint8)
