"""A dense map's gradient is summed over chunks of rows, and is that of Flax's own map."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.layers.dense import dense, row_chunks, xavier_normal

chunked = functools.partial(dense, chunked_gradients=True)


@pytest.mark.parametrize("shape", [(7, 6), (1, 5, 6), (8, 160, 6), (509, 6), (3, 257, 2, 6)])
def test_values_and_gradients_are_those_of_flax(shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    own = chunked(4, jnp.float32, "map")
    other = nn.Dense(4, kernel_init=xavier_normal, name="map")
    params = other.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, own.init(jax.random.key(0), x), params)

    def total(module):
        return jax.value_and_grad(lambda params, x: jnp.sum(jnp.sin(module.apply(params, x))), argnums=(0, 1))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        total(own)(params, x),
        total(other)(params, x),
    )


def test_in_bfloat16_chunks_are_added_in_float32():
    rows = 63 * 257  # in bfloat16 the sum of 63 chunks of 257 would be 16128
    assert row_chunks(rows) == 63
    x = jnp.ones((rows, 2), jnp.bfloat16)
    own = chunked(2, jnp.bfloat16, "map", use_bias=False)
    params = own.init(jax.random.key(0), x)
    gradient = jax.grad(lambda params: jnp.sum(own.apply(params, x).astype(jnp.float32)))(params)
    np.testing.assert_array_equal(gradient["params"]["kernel"], float(jnp.bfloat16(rows)))


def test_gradients_of_gradients_are_those_of_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(600, 3)), jnp.float32)
    params = chunked(3, jnp.float32, "map").init(jax.random.key(0), x)

    def second(module):
        inner = jax.grad(lambda params: jnp.mean(module.apply(params, x) ** 3))
        return jax.grad(lambda params: sum(jnp.sum(g**2) for g in jax.tree.leaves(inner(params))))(params)

    found, expected = second(chunked(3, jnp.float32, "map")), second(nn.Dense(3, name="map"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("rows", [1, 255, 257, 509, 512, 25_000, 25_600, 1 << 20])
def test_chunks_divide_the_rows_and_are_not_short(rows):
    chunks = row_chunks(rows)
    assert rows % chunks == 0 and (chunks == 1 or rows // chunks >= 256)
