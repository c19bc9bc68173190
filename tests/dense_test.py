"""A dense map's gradient is summed over chunks of rows, and is that of Flax's own map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.dense import dense, row_chunks, xavier_normal


@pytest.mark.parametrize("shape", [(7, 6), (1, 5, 6), (8, 160, 6), (509, 6), (3, 257, 2, 6)])
def test_values_and_gradients_are_those_of_flax(shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    own = dense(4, jnp.float32, "map")
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
    x = jnp.ones((64 * 256, 2), jnp.bfloat16)
    own = dense(2, jnp.bfloat16, "map", use_bias=False)
    gradient = jax.grad(lambda params: jnp.sum(own.apply(params, x).astype(jnp.float32)))(
        own.init(jax.random.key(0), x)
    )
    np.testing.assert_array_equal(gradient["params"]["kernel"], 64 * 256)


def test_second_derivatives_exist():
    x, own = jnp.ones((600, 3)), dense(3, jnp.float32, "map")
    params = own.init(jax.random.key(0), x)
    inner = jax.grad(lambda x: jnp.sum(own.apply(params, x) ** 3))
    assert np.isfinite(jax.grad(lambda x: jnp.sum(inner(x) ** 2))(x)).all()


@pytest.mark.parametrize("rows", [1, 255, 257, 509, 512, 25_000, 25_600, 1 << 20])
def test_chunks_divide_the_rows_and_are_not_short(rows):
    chunks = row_chunks(rows)
    assert rows % chunks == 0 and (chunks == 1 or rows // chunks >= 256)
