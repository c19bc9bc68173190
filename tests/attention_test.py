"""Attention that leaves padding out, or counts it without computing it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.attention import causal_probabilities


def test_zero_keys_are_keys_whose_logits_are_zero():
    logits = jnp.array(np.random.default_rng(0).normal(size=(5, 5)) * 3)
    where = jnp.tril(jnp.ones((5, 5), bool))
    padded_logits = jnp.pad(logits, ((0, 0), (4, 0)))
    padded_where = jnp.pad(where, ((0, 0), (4, 0)), constant_values=True)
    expected = causal_probabilities(padded_logits, where=padded_where)[:, 4:]
    np.testing.assert_allclose(
        causal_probabilities(logits, where=where, zero_keys=jnp.full((5, 1), 4)), expected, rtol=1e-5
    )


def test_without_them_it_is_the_softmax():
    logits = jnp.array(np.random.default_rng(1).normal(size=(6, 6)))
    where = jnp.tril(jnp.ones((6, 6), bool))
    expected = jax.nn.softmax(jnp.where(where, logits, -jnp.inf), axis=-1)
    np.testing.assert_allclose(
        causal_probabilities(logits, where=where, zero_keys=jnp.zeros((6, 1))), expected, rtol=1e-5
    )


@pytest.mark.parametrize("zero_keys", [None, jnp.zeros((2, 1)), jnp.full((2, 1), 3)])
def test_a_query_that_sees_nothing_is_finite_with_finite_gradients(zero_keys):
    def total(logits):
        where = jnp.zeros((2, 2), bool)
        return jnp.sum(causal_probabilities(logits, where=where, zero_keys=zero_keys))

    value, gradient = jax.value_and_grad(total)(jnp.ones((2, 2)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_logits_stay_finite(size):
    logits = jnp.full((1, 2), size)
    probabilities = causal_probabilities(logits, where=jnp.ones((1, 2), bool), zero_keys=jnp.full((1, 1), 3))
    np.testing.assert_allclose(probabilities, 0.0 if size < 0 else 0.5)
