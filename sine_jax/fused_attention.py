"""Attention by a GPU's own kernel (cuDNN), where it has one for the shape and the type at hand.

It never holds a score per pair of query and key, which is most of what attention reads and writes. It takes no dropout,
so that it serves evaluation, and training without dropout on the probabilities.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from sine_jax import parallel
from sine_jax.types import Array

Kernel = Literal["cudnn", "xla"]
_TYPES = ("bfloat16", "float16")  # that cuDNN's kernel knows
_AGREEMENT = 0.05  # of values near 1: some units in the last place of bfloat16


def attend(queries: Array, keys: Array, values: Array, *, where: Array, kernel: Kernel = "cudnn") -> Array:
    """Softmax attention, `softmax(q . k / sqrt(d)) v`.

    Args:
      queries: [B, T, H, d], heads before their width.
      keys: the same shape.
      values: the same shape.
      where: [B or 1, T, T] True where a query may see a key. A query that sees none reads finite nonsense.
      kernel: an implementation of `jax.nn.dot_product_attention`.

    Returns:
      [B, T, H, d].
    """
    return jax.nn.dot_product_attention(queries, keys, values, mask=where[:, None], implementation=kernel)


@functools.cache
def works(length: int, heads: int, width: int, dtype: jnp.dtype) -> bool:
    """Whether the kernel runs here for T, H, d and a type, and agrees with the plain form; found out once each."""
    if parallel.backend() != "gpu" or jnp.dtype(dtype).name not in _TYPES:
        return False
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), 3)
        inputs = [jax.random.normal(key, (2, length, heads, width)).astype(dtype) for key in keys]
        where = jnp.tril(jnp.ones((1, length, length), bool))

        def total(q: Array, k: Array, v: Array, kernel: Kernel) -> tuple[Array, Array]:
            found = attend(q, k, v, where=where, kernel=kernel).astype(jnp.float32)
            return jnp.sum(jnp.sin(found)), found

        both = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True), static_argnums=3)
        try:
            (_, found), gradients = both(*inputs, "cudnn")
        except (NotImplementedError, RuntimeError, ValueError):  # no cuDNN, or not for this shape
            return False
        (_, expected), expected_gradients = both(*inputs, "xla")
        pairs = zip((found, *gradients), (expected, *expected_gradients), strict=True)
        return all(bool(jnp.allclose(a, b, rtol=_AGREEMENT, atol=_AGREEMENT)) for a, b in pairs)
