"""HSTU: pointwise aggregated attention over interleaved items and actions."""

from __future__ import annotations

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax.layers.attention import layer_norm
from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.dropout import Dropout
from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.network import Network
from sine_jax.types import PAD, Array, Histories


class HSTU(Network):
    """Each exposure is two tokens, the item and what was done with it; the state is that of the second.

    Attention weights are the SiLU of products plus biases, divided by the greatest length. They are not normalised, so
    the state knows how much was watched, not only which share. There is a bias for the distance and, with
    `model.read_times`, one for the time in between.

    References:
      Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
      Recommendations", ICML 2024, arXiv 2402.17152.
    """

    reads_skips: ClassVar[bool] = True
    packs: ClassVar[bool] = True
    reads_times: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        valid = histories.items != PAD
        items = math.sqrt(config.dim) * self.table()[histories.items]
        actions = self.param("action_embedding", xavier_normal, (2, config.dim))[histories.watched.astype(jnp.int32)]
        x = jnp.stack([items, actions], axis=2).reshape(*valid.shape[:1], -1, config.dim).astype(dtype)
        there = jnp.repeat(valid, 2, axis=1)  # [B, 2T]
        x = Dropout(config.dropout)(x, deterministic=deterministic) * there[..., None]
        doubled = jax.tree.map(lambda of_item: jnp.repeat(of_item, 2, axis=1), histories)
        where, times = self.visible(doubled), doubled.times
        for i in range(config.num_blocks):
            layer = PointwiseAttention(
                num_heads=config.num_heads,
                length=2 * config.max_len,
                norm_eps=config.norm_eps,
                dtype=dtype,
                name=f"layer_{i}",
            )
            x = (x + Dropout(config.dropout)(layer(x, where, times), deterministic=deterministic)) * there[..., None]
        return Outputs(of_vector(layer_norm(config.norm_eps, dtype, "final_norm")(x[:, 1::2])))


class PointwiseAttention(nn.Module):
    """`W (LN(A V) * U)` with `A = SiLU(Q K / sqrt(D) + bias by distance + bias by time in between) / length`.

    Attributes:
      num_heads: heads; divides D.
      length: the most tokens, which weights are divided by.
      norm_eps: epsilon of the layer norms.
      dtype: of the computation.
    """

    num_heads: int
    length: int
    norm_eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, where: Array, times: Array | None = None) -> Array:
        """Maps tokens [B, T, D], what each may see [B, T, T] and, if known, when each was [B, T] in s, to [B, T, D]."""
        width, dim = x.shape[1:]
        normed = layer_norm(self.norm_eps, self.dtype, "norm")(x)
        parts = nn.silu(nn.Dense(4 * dim, dtype=self.dtype, kernel_init=xavier_normal, name="project")(normed))
        heads = parts.reshape(*x.shape[:2], 4, self.num_heads, dim // self.num_heads)
        u, q, k, v = (heads[:, :, i] for i in range(4))
        by_distance = self.param("distance_bias", nn.initializers.normal(0.02), (self.length,))
        distances = jnp.maximum(jnp.arange(width)[:, None] - jnp.arange(width)[None, :], 0)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(heads.shape[-1])
        logits = logits + by_distance.astype(self.dtype)[distances][None, None]
        if times is not None:
            by_time = self.param("time_bias", nn.initializers.normal(0.02), (_TIME_BUCKETS,))
            logits = logits + by_time.astype(self.dtype)[_bucket(times[:, :, None] - times[:, None, :])][:, None]
        weights = nn.silu(logits) / self.length
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jnp.where(where[:, None], weights, 0.0), v).reshape(x.shape)
        gated = layer_norm(self.norm_eps, self.dtype, "mixed_norm")(mixed) * u.reshape(x.shape)
        return nn.Dense(dim, dtype=self.dtype, kernel_init=xavier_normal, name="output")(gated)


_TIME_BUCKETS = 32  # whole powers of two that an int32 can have


def _bucket(seconds: Array) -> Array:
    """The whole part of the binary logarithm of 1 + |seconds| int32, exactly: [...] in 0..31."""
    return 31 - jax.lax.clz(jnp.abs(seconds) + 1)
