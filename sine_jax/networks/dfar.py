"""DFAR: attention heads that are factorised by feedback, and an interest each for liking and disliking."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sine_jax import losses
from sine_jax.layers.attention import causal_probabilities, layer_norm
from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.dropout import Dropout
from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.losses import Mean
from sine_jax.network import Network, Pairs
from sine_jax.types import AnyArray, Array, Histories


class DFAR(Network):
    """A head per relation of feedbacks (watched or skipped, to watched or skipped), then two disentangled interests.

    An item's score is what the positive interest says of it less what the negative one does. Besides the library's
    objective, the positive interest has to prefer the watched item, the negative one the skipped.

    References:
      Lin et al., "Dual-interest Factorization-heads Attention for Sequential Recommendation", WWW 2023, arXiv
      2302.03965.
    """

    reads_skips: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x, valid, visible = self.read(histories, deterministic=deterministic)
        for i in range(config.num_blocks):
            block = FactorizationHeads(dropout=config.dropout, norm_eps=config.norm_eps, dtype=dtype, name=f"block_{i}")
            x = block(x, histories.watched, visible, deterministic=deterministic) * valid[..., None]
        x = layer_norm(config.norm_eps, dtype, "final_norm")(x)

        def interest(name: str) -> Array:
            gate = nn.sigmoid(nn.Dense(config.dim, dtype=dtype, kernel_init=xavier_normal, name=f"{name}_gate")(x))
            return nn.Dense(config.dim, dtype=dtype, kernel_init=xavier_normal, name=name)(gate * x)

        liked, disliked = interest("liked"), interest("disliked")
        return Outputs(of_vector(liked - disliked), extra=(liked, disliked))

    def auxiliary(self, outputs: Outputs, pairs: Pairs) -> Mapping[str, Mean]:
        """`liking` and `disliking`: each interest has its own side of the (watched, skipped) pair."""
        liked, disliked = (
            (
                jnp.sum(vector * pairs.positives, axis=-1)[..., None],
                jnp.sum(vector[..., None, :] * pairs.skips, axis=-1),
            )
            for vector in outputs.extra
        )
        where = pairs.skipped & pairs.has_target[..., None]
        return {
            "liking": losses.preference_loss(*liked, where=where),
            "disliking": losses.preference_loss(disliked[1], disliked[0], where=where),
        }


class FactorizationHeads(nn.Module):
    """Self-attention with four heads, one per pair of feedbacks of query and key, mixed over heads, then a network.

    Attributes:
      dropout: rate.
      norm_eps: epsilon of the layer norms.
      dtype: of the computation.
    """

    dropout: float
    norm_eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, watched: AnyArray, where: Array, *, deterministic: bool) -> Array:
        """Maps [B, T, D], with feedback [B, T] and what may be seen [B, T, T], to [B, T, D]."""
        dim = x.shape[-1]

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=xavier_normal, name=name)

        def dropped(y: Array) -> Array:
            return Dropout(self.dropout)(y, deterministic=deterministic)

        normed = layer_norm(self.norm_eps, self.dtype, "attention_norm")(x)
        q, k = (dense(4 * dim, name)(normed).reshape(*x.shape[:2], 4, dim) for name in ("query", "key"))
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) / math.sqrt(dim)
        relation = 2 * watched[:, :, None].astype(jnp.int32) + watched[:, None, :]  # [B, T, T], the head of each pair
        of_head = relation[:, None] == jnp.arange(4)[None, :, None, None]
        weights = causal_probabilities(jnp.sum(jnp.where(of_head, logits, 0), axis=1), where=where)
        values = dense(4 * dim, "value")(normed).reshape(*x.shape[:2], 4, dim)
        by_head = jnp.where(of_head, dropped(weights.astype(self.dtype))[:, None], 0)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", by_head, values).reshape(*x.shape[:2], 4 * dim)
        x = x + dropped(dense(dim, "output")(mixed))
        z = layer_norm(self.norm_eps, self.dtype, "forward_norm")(x)
        return x + dropped(dense(dim, "forward_out")(dropped(nn.relu(dense(dim, "forward_in")(z)))))
