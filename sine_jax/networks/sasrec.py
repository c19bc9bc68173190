"""SASRec: causal self-attention, one vector per user."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sine_jax.layers.attention import layer_norm
from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.network import Network
from sine_jax.types import Histories


class SASRec(Network):
    """Self-attention over the watched items, or over all exposures with polarity embeddings (`model.read_skips`).

    References:
      Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781.
    """

    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x, valid, visible = self.read(histories, deterministic=deterministic)
        for i in range(config.num_blocks):
            block = self.block(f"block_{i}")
            x = block(x, valid=valid, where=visible, deterministic=deterministic)
        return Outputs(of_vector(layer_norm(config.norm_eps, dtype, "final_norm")(x)))
