"""Dropout, and the generators of its masks."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry_prng_impl

from sine_jax.types import Array

_WORD = 32


def _hashed_words(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    """Random words: each entry's place in the array and the key [2], hashed twice.

    The hash is integer arithmetic on each entry, so XLA fuses it with its use, and every device gives the same words.

    References:
      The finaliser `lowbias32` (Wellons, public domain).
    """
    if bit_width != _WORD:
        raise ValueError(f"train.generator=hash: it draws no words of {bit_width} bits; draw words of {_WORD}")
    place = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        place = place + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**_WORD)
        stride *= shape[axis]
    return _mixed(_mixed(place ^ key[0]) + key[1])


def _mixed(x: Array) -> Array:
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 15)


_HASH = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    random_bits=_hashed_words,
    fold_in=threefry_prng_impl.fold_in,
    name="hash",
    tag="hash",
)
_GENERATORS = {"hash": _HASH, "threefry": "threefry2x32", "rbg": "rbg"}


def key(seed: Array | int, generator: str) -> Array:
    """A random key for a generator of masks.

    Args:
      seed: [] of the run.
      generator: `hash` (a hashed counter; the fastest on a CPU), `threefry` (JAX's own) or `rbg` (the device's own:
        fast on accelerators, with different masks on each kind).
    """
    return jax.random.key(seed, impl=_GENERATORS[generator])


def keep_mask(key: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """A random mask, False with probability `rate`; the hash rounds it to 2**-32, other generators to 1/256.

    Drawing words takes most of the time of dropout, so a word of 32 bits is used for several entries. A word of the
    hash is used for one: another hash is faster than cutting a word into parts.

    Args:
      key: random key.
      rate: share of entries to drop, below 1.
      shape: of the mask.

    Returns:
      A boolean array.
    """
    bits = bits_per_entry(key, rate)
    if bits == _WORD:
        return jax.random.bits(key, shape, jnp.uint32) >= jnp.uint32(round(rate * 2**_WORD))
    size = 1
    for n in shape:
        size *= n
    words = jax.random.bits(key, (-(-size * bits // _WORD),), jnp.uint32)
    shifts = jnp.arange(0, _WORD, bits, dtype=jnp.uint32)
    values = (words[:, None] >> shifts[None, :]) & jnp.uint32(2**bits - 1)
    return (values.reshape(-1)[:size] >= round(rate * 2**bits)).reshape(shape)


def bits_per_entry(key: Array, rate: float) -> int:
    """Random bits of an entry: 1, 2 or 4 if they express `rate` exactly, otherwise 8; with the hash, a whole word."""
    if jax.random.key_impl(key) == jax.random.key_impl(jax.random.key(0, impl=_HASH)):
        return _WORD
    return next((bits for bits in (1, 2, 4) if (rate * 2**bits).is_integer()), 8)


class Dropout(nn.Module):
    """Zeroes entries at random and scales the others, so that the expectation stays the same.

    Attributes:
      rate: share of entries to drop, as `keep_mask` rounds it.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """Maps an array of any shape to one of the same shape."""
        if deterministic or self.rate == 0:
            return x
        key = self.make_rng("dropout")
        levels = 2 ** bits_per_entry(key, self.rate)
        kept = 1 - round(self.rate * levels) / levels
        return jnp.where(keep_mask(key, self.rate, x.shape), x / kept, jnp.zeros((), x.dtype))
