"""Dropout that draws no more random bits than its rate needs."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax.types import Array

_WORD = 32


def _bits_per_entry(rate: float) -> int:
    """The fewest bits (1, 2, 4 or 8) that tell `rate` exactly, 8 where none does."""
    return next((bits for bits in (1, 2, 4) if (rate * 2**bits).is_integer()), 8)


def keep_mask(key: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """A random mask, False with probability `rate` (rounded to 1/256).

    Each 32-bit random word serves several entries, since drawing words is what dropout costs on a CPU.

    Args:
      key: random key.
      rate: share of entries to drop.
      shape: of the mask.

    Returns:
      A boolean array.
    """
    bits = _bits_per_entry(rate)
    size = 1
    for n in shape:
        size *= n
    words = jax.random.bits(key, (-(-size * bits // _WORD),), jnp.uint32)
    shifts = jnp.arange(0, _WORD, bits, dtype=jnp.uint32)
    values = (words[:, None] >> shifts[None, :]) & jnp.uint32(2**bits - 1)
    return (values.reshape(-1)[:size] >= round(rate * 2**bits)).reshape(shape)


class Dropout(nn.Module):
    """Zeroes entries at random and scales the others so that the expectation stays.

    Attributes:
      rate: share of entries to drop, rounded to 1/256.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """Maps an array of any shape to one of the same shape."""
        if deterministic or self.rate == 0:
            return x
        levels = 2 ** _bits_per_entry(self.rate)
        kept = 1 - round(self.rate * levels) / levels
        mask = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(mask, x / kept, jnp.zeros((), x.dtype))
