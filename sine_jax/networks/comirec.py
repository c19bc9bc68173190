"""ComiRec-SA: several interests by self-attentive pooling, the best of which scores."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sine_jax.layers.scoring import Outputs, UserState
from sine_jax.network import Network
from sine_jax.types import Array, Histories


class ComiRec(Network):
    """K = `model.num_interests` vectors; an item's score is the greatest of their inner products with it.

    The paper trains each pair by the interest nearest to the target, which is the same maximum.

    References:
      Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020, arXiv 2005.09347.
    """

    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config = self.config
        x, _, visible = self.read(histories, deterministic=deterministic)
        hidden = jnp.tanh(nn.Dense(4 * config.dim, use_bias=False, dtype=config.dtype, name="hidden")(x))
        logits = nn.Dense(config.num_interests, use_bias=False, dtype=config.dtype, name="interests_of")(hidden)
        logits = jnp.where(visible[:, None], jnp.moveaxis(logits, -1, 1)[:, :, None], jnp.finfo(jnp.float32).min / 2)
        weights = nn.softmax(logits, axis=-1)  # [B, K, T, T]
        return Outputs(UserState(jnp.einsum("bktj,bjd->btkd", weights.astype(x.dtype), x)))

    def score(self, state: UserState, items: Array) -> Array:
        """See `Network`."""
        product = "...kd,cd->...kc" if items.ndim == 2 else "...kd,...cd->...kc"
        return jnp.max(jnp.einsum(product, state.vectors, items, preferred_element_type=jnp.float32), axis=-2)
