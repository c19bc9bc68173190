"""Intervals of means agree with theory and with each other."""

import numpy as np

from sine_jax.evaluation import bootstrap


def test_interval_is_that_of_the_normal_theory():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    low, high = bootstrap.intervals(values)
    half = 1.96 * np.std(values) / np.sqrt(len(values))
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.15 * half)


def test_users_without_a_value_do_not_count():
    values = np.random.default_rng(0).random(50)
    holes = np.stack([np.where(np.arange(50) < 25, values, np.nan), np.full(50, np.nan), np.ones(50)], axis=1)
    low, high = bootstrap.intervals(holes)
    assert low[0] < values[:25].mean() < high[0]
    assert np.isnan([low[1], high[1]]).all() and (low[2], high[2]) == (1, 1)


def test_columns_share_their_resamples_and_a_seed_repeats_them():
    values = np.random.default_rng(0).random(100)
    low, high = bootstrap.intervals(np.stack([values, values + 1], axis=1), seed=3)
    np.testing.assert_allclose(low + 1, [low[1], low[1] + 1])
    np.testing.assert_allclose((high[0], high[1]), (bootstrap.intervals(values, seed=3)[1], high[0] + 1))
    assert bootstrap.intervals(values, seed=4)[0] != low[0]
