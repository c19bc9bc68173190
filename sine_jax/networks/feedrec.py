"""FeedRec: strong feedback guides what is read out of weak feedback."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sine_jax.layers.attention import layer_norm, pool
from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.network import Network
from sine_jax.types import AnyArray, Array, Histories


class FeedRec(Network):
    """The paper's feedback-aware encoder: over all exposures, then within each kind, then from strong to weak.

    The paper has many feedbacks (click, share, dislike, dwell time, ...); exposures here have two: watching is strong,
    skipping is weak. Its disentangling loss and the prediction of dwell time are left out.

    References:
      Wu et al., "FeedRec: News Feed Recommendation with Various User Feedbacks", WWW 2022, arXiv 2102.04903.
    """

    reads_skips: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x, valid, visible = self.read(histories, deterministic=deterministic)

        def encoded(states: Array, kept: AnyArray, name: str) -> Array:
            block = self.block(name)
            return block(states, valid=kept, where=visible & kept[:, None, :], deterministic=deterministic)

        skips = valid & ~histories.watched
        for i in range(config.num_blocks):
            x = encoded(x, valid, f"heterogeneous_{i}")
        strong, weak = encoded(x, histories.watched, "watched"), encoded(x, skips, "skipped")
        strong = layer_norm(config.norm_eps, dtype, "watched_norm")(strong) * histories.watched[..., None]
        weak = layer_norm(config.norm_eps, dtype, "skipped_norm")(weak) * skips[..., None]
        strength = nn.Dense(1, dtype=dtype, name="strength")(strong)[..., 0][:, None]
        liked = pool(strong, strength, where=visible & histories.watched[:, None, :])
        query = nn.Dense(config.dim, use_bias=False, dtype=dtype, kernel_init=xavier_normal, name="strong_to_weak")(
            liked
        )
        relation = jnp.einsum("btd,bjd->btj", query, weak) / config.dim**0.5
        guided = pool(weak, relation, where=visible & skips[:, None, :])
        both = jnp.concatenate([liked, guided], axis=-1)
        return Outputs(of_vector(nn.Dense(config.dim, dtype=dtype, kernel_init=xavier_normal, name="user")(both)))
