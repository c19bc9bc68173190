"""Attention that leaves padding out, or counts it without computing it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.layers import attention
from sine_jax.layers.attention import SelfAttention, causal_probabilities
from sine_jax.layers.forms import Forms


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


@pytest.mark.parametrize("size", [3, 5, 16])
@pytest.mark.parametrize("zero_keys", [None, 4])
def test_blocks_of_queries_compute_what_all_at_once_do(size, zero_keys):
    rng = np.random.default_rng(0)
    queries, keys, emphasis = (jnp.asarray(rng.normal(size=(2, 11, n))) for n in (6, 6, 11))
    where = jnp.asarray(rng.random((2, 11, 11)) < 0.7) & jnp.tril(jnp.ones((1, 11, 11), bool))
    zeros = None if zero_keys is None else jnp.full((2, 11), zero_keys)
    plain, blocks = (
        SelfAttention(num_heads=2, dropout=0.0, dtype=jnp.float32, forms=Forms(query_block=block))
        for block in (None, size)
    )

    def run(params, module):
        out = module.apply(
            params, queries, keys, where=where, zero_keys=zeros, emphasis=jnp.exp(emphasis), deterministic=True
        )
        return jnp.sum(jnp.sin(out)), out

    options = {"where": where, "zero_keys": zeros, "emphasis": emphasis, "deterministic": True}
    params = plain.init(jax.random.key(0), queries, keys, **options)
    found = [jax.value_and_grad(run, has_aux=True)(params, module) for module in (plain, blocks)]
    assert len(attention.query_blocks(11, size)) == -(-11 // size) and attention.query_blocks(11, None) == [(0, 11)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


def test_in_bfloat16_values_with_a_mean_of_their_own_do_not_spoil_gradients():
    rng = np.random.default_rng(0)
    queries, keys = (jnp.asarray(rng.normal(size=(2, 64, 16)) + shift, jnp.float32) for shift in (0.0, 2.0))
    where = jnp.tril(jnp.ones((1, 64, 64), bool))
    options = {"where": where, "zero_keys": None, "emphasis": None, "deterministic": True}
    params = SelfAttention(2, 0.0, jnp.float32).init(jax.random.key(0), queries, keys, **options)

    def gradient(dtype):
        module = SelfAttention(2, 0.0, dtype)

        def total(queries):
            out = module.apply(params, queries.astype(dtype), keys.astype(dtype), **options)
            return jnp.sum(jnp.sin(out.astype(jnp.float32)))

        return jax.grad(total)(queries)

    exact = gradient(jnp.float32)
    assert jnp.linalg.norm(gradient(jnp.bfloat16) - exact) < 0.04 * jnp.linalg.norm(exact)
