"""PNFRec: one encoder for what was watched, one for what was skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax import losses
from sine_jax.layers.attention import layer_norm
from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.losses import Mean
from sine_jax.network import Network, Pairs
from sine_jax.types import AnyArray, Array, Histories


class PNFRec(Network):
    """The positive encoder scores. The negative encoder learns what is skipped next, and both are kept different.

    The losses of the negative encoder are pairwise, as all others here; in the paper they are cross-entropies.

    References:
      Ivanova, Frolov and Vasilev, "Benefiting from Negative yet Informative Feedback by Contrasting Opposing Sequential
      Patterns", RecSys 2025, arXiv 2508.14786.
    """

    reads_skips: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x, valid, visible = self.read(histories, deterministic=deterministic)

        def encoded(kept: AnyArray, name: str) -> Array:
            states = x
            for i in range(config.num_blocks):
                block = self.block(f"{name}_{i}")
                where = visible & kept[:, None, :]
                states = block(states * kept[..., None], valid=valid, where=where, deterministic=deterministic)
            return layer_norm(config.norm_eps, dtype, f"{name}_norm")(states)

        watched, skipped = encoded(histories.watched, "watched"), encoded(valid & ~histories.watched, "skipped")
        return Outputs(of_vector(watched), extra=skipped)

    def auxiliary(self, outputs: Outputs, pairs: Pairs) -> Mapping[str, Mean]:
        """`opposite`: the negative encoder prefers the skipped item; `apart`: the two encoders point different ways."""
        opposite = outputs.extra[..., None, :]
        skips = jnp.sum(opposite * pairs.skips, axis=-1)
        watched = jnp.sum(outputs.extra * pairs.positives, axis=-1)[..., None]
        cosine = jnp.sum(_unit(outputs.extra) * _unit(outputs.state.vectors[..., 0, :]), axis=-1)
        return {
            "opposite": losses.preference_loss(skips, watched, where=pairs.skipped & pairs.has_target[..., None]),
            "apart": losses.masked(nn.relu(cosine), where=pairs.has_target),
        }


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
