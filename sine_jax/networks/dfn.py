"""DFN: the deep feedback network; skips are denoised by what was watched, and both meet the candidate."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from sine_jax.layers import scoring
from sine_jax.layers.attention import layer_norm, pool
from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.scoring import Outputs, UserState
from sine_jax.network import Network
from sine_jax.types import AnyArray, Array, Histories


class Feedback(NamedTuple):
    """What each kind of feedback says to a candidate."""

    watched: UserState
    skipped: UserState


class DFN(Network):
    """The internal component encodes each kind of feedback; the external one reads skips by a query of the watches.

    The paper has three kinds (click, unclick, dislike); exposures here have two. Its wide and factorisation-machine
    parts are left out, since they read fields that a log here does not have. The candidate attends to what was watched.

    References:
      Xie et al., "Deep Feedback Network for Recommendation", IJCAI 2020, doi 10.24963/ijcai.2020/349.
    """

    reads_skips: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x, valid, visible = self.read(histories, deterministic=deterministic)

        def internal(kept: AnyArray, name: str) -> tuple[Array, Array]:
            """Encodes one kind of feedback: states [B, T, D], and [B, T, T] which of them a position sees."""
            where, states = visible & kept[:, None, :], x * kept[..., None]
            for i in range(config.num_blocks):
                block = self.block(f"{name}_{i}")
                states = block(states, valid=kept, where=where, deterministic=deterministic)
            return layer_norm(config.norm_eps, dtype, f"{name}_norm")(states) * kept[..., None], where

        def dense(name: str) -> nn.Dense:
            return nn.Dense(config.dim, use_bias=False, dtype=dtype, kernel_init=xavier_normal, name=name)

        watched, sees_watched = internal(histories.watched, "watched")
        skipped, sees_skipped = internal(valid & ~histories.watched, "skipped")
        strength = nn.Dense(1, dtype=dtype, name="watched_strength")(watched)[..., 0][:, None]
        # The external component: a strong reading of the watches asks the skips what is not liked.
        strong = pool(watched, strength, where=sees_watched)
        relation = jnp.einsum("btd,bjd->btj", dense("query")(strong), dense("key")(skipped)) / config.dim**0.5
        disliked = dense("disliked")(pool(skipped, relation, where=sees_skipped))
        # A first exposure of zeros, always seen: what the candidate reads where nothing was watched yet.
        nothing = ((0, 0), (1, 0), (0, 0))
        values, keys = (jnp.pad(dense(name)(watched), nothing)[:, None] for name in ("value", "candidate"))
        logits = jnp.where(sees_watched, strength, jnp.finfo(jnp.float32).min)
        choice = UserState(values, keys=keys, logits=jnp.pad(logits, ((0, 0), (0, 0), (1, 0))))
        return Outputs(Feedback(watched=choice, skipped=scoring.of_vector(disliked)))

    def score(self, state: Any, items: Array) -> Array:
        """See `Network`."""
        return scoring.score(state.watched, items) + scoring.score(state.skipped, items)
