"""SASRec: causal self-attention, one vector per user."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sine_jax.layers.attention import Block, layer_norm
from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.network import Network
from sine_jax.types import PAD, Array, Histories


class SASRec(Network):
    """Self-attention over the watched items, or over all exposures with polarity embeddings (`model.read_skips`).

    References:
      Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781.
    """

    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, active: Array | None, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, valid = self.config, histories.items != PAD
        x = self.embed(self.table(), histories, deterministic=deterministic)
        for i in range(config.num_blocks):
            x = Block(
                config.num_heads, config.dropout, config.norm_eps, dtype=jnp.dtype(config.dtype), name=f"block_{i}"
            )(x, valid=valid, where=self.visible(histories), deterministic=deterministic)
        return Outputs(of_vector(layer_norm(config.norm_eps, jnp.dtype(config.dtype), "final_norm")(x)))
