"""Attention by a fused GPU kernel (cuDNN), for the shapes and the type that it takes.

It never stores the scores of the heads, which are most of what attention reads and writes. It has no dropout, so it is
for evaluation, and for training without dropout on the probabilities.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sine_jax.types import Array

_ERROR = 0.05  # the largest error allowed for bfloat16, relative to the size of the result
_WIDEST = 256  # the largest d on a Hopper GPU; older GPUs take 128, and `fault` finds that out


def attend(queries: Array, keys: Array, values: Array, *, where: Array) -> Array:
    """Softmax attention, `softmax(q . k / sqrt(d)) v`.

    Args:
      queries: [B, T, H, d], heads before their width; bfloat16.
      keys: the same shape.
      values: the same shape.
      where: [B, T, T] True where a query may see a key. A query that sees none reads 0.

    Returns:
      [B, T, H, d].
    """
    return _seen(_kernel(queries, keys, values, where), where)


def _kernel(q: Array, k: Array, v: Array, where: Array) -> Array:
    return jax.nn.dot_product_attention(q, k, v, mask=where[:, None], implementation="cudnn")


def _seen(found: Array, where: Array) -> Array:
    """The result, with 0 for queries that see nothing: the kernel gives them the mean of all values."""
    return jnp.where(jnp.any(where, axis=-1)[..., None, None], found, jnp.zeros((), found.dtype))


def takes(length: int, width: int, dtype: jnp.dtype | str) -> bool:
    """Whether the kernel takes windows of T, heads of width d and a type, also in training."""
    return jnp.dtype(dtype) == jnp.bfloat16 and length % 2 == 0 and width % 8 == 0 and width <= _WIDEST


@functools.cache
def fault(length: int, heads: int, width: int) -> str | None:
    """Runs the kernel on this device, once for each T, H and d that it `takes`, and compares it with float32.

    Returns:
      Why it does not run, or that it disagrees; None if it works.
    """
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), 3)
        inputs = [jax.random.normal(key, (2, length, heads, width)).astype(jnp.bfloat16) for key in keys]
        # like padding, which differs between rows
        hidden = jnp.arange(2)[:, None] * (length // 2) > jnp.arange(length)[None]
        where = jnp.tril(jnp.ones((1, length, length), bool)) & ~hidden[:, None, :]
        try:
            found = jax.block_until_ready(_with_gradients(attend)(*inputs, where))
        except (NotImplementedError, RuntimeError, ValueError) as error:  # no cuDNN, or not for this shape
            return str(error)
        expected = _with_gradients(_reference)(*(x.astype(jnp.float32) for x in inputs), where)
        agrees = all(bool(_close(a.astype(jnp.float32), b)) for a, b in zip(found, expected, strict=True))
        return None if agrees else "it disagrees with attention in float32"


def _with_gradients(attention: Callable[..., Array]) -> Callable[..., list[Array]]:
    """The result of an attention, and the gradients of a sum over it."""

    @jax.jit
    def run(q: Array, k: Array, v: Array, where: Array) -> list[Array]:
        def total(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
            found = attention(q, k, v, where=where)
            return jnp.sum(jnp.sin(found.astype(jnp.float32))), found

        (_, found), gradients = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return [found, *gradients]

    return run


def _reference(q: Array, k: Array, v: Array, *, where: Array) -> Array:
    """Attention by its definition, in float32."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision="highest") / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(where[:, None], logits, jnp.finfo(logits.dtype).min), axis=-1)
    return _seen(jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision="highest"), where)


def _close(found: Array, expected: Array) -> Array:
    """Whether the error of each column [B, T, H, d] is small beside its size; later columns are smaller."""
    error, size = (jnp.linalg.norm(x, axis=(2, 3)) for x in (found - expected, expected))
    return jnp.all(error <= _ERROR * size + _ERROR * jnp.mean(size, axis=1, keepdims=True) / 4)
