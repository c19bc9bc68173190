"""The Sparse-Interest Network, the other model that is called SINE: a pool of concepts, of which a user has a few."""

from __future__ import annotations

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax.layers.attention import layer_norm
from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.network import Network
from sine_jax.types import Array, Histories


class SparseInterest(Network):
    """K = `model.num_interests` of a pool of concepts are active for a user; intentions choose among them.

    The paper's penalty on the covariance of the concepts is left out: the objective here is the same for all networks.

    Attributes:
      concepts: how many concepts the pool has.
      temperature: of the choice among the active interests.

    References:
      Tan et al., "Sparse-Interest Network for Sequential Recommendation", WSDM 2021, arXiv 2102.09267.
    """

    packs: ClassVar[bool] = True
    concepts: ClassVar[int] = 50
    temperature: ClassVar[float] = 0.1

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, eps = self.config, self.config.norm_eps
        x, _, visible = self.read(histories, deterministic=deterministic)
        pool = self.param("concepts", xavier_normal, (self.concepts, config.dim)).astype(x.dtype)

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, use_bias=False, dtype=config.dtype, kernel_init=xavier_normal, name=name)

        def pooled(logits: Array) -> Array:
            """Softmax over what is visible: logits [B, T or 1, T, ...] to weights of that shape."""
            seen = visible.reshape(*visible.shape, *(1,) * (logits.ndim - 3))
            return jax.nn.softmax(jnp.where(seen, logits, jnp.finfo(jnp.float32).min / 2), axis=2).astype(x.dtype)

        # The active concepts: the K nearest to a pooled reading of the history.
        reading = pooled(dense(1, "pool_out")(jnp.tanh(dense(config.dim, "pool_in")(x)))[:, None, :, 0])
        relation = jnp.einsum("btd,zd->btz", jnp.einsum("btj,bjd->btd", reading, x), pool)
        strengths, chosen = jax.lax.top_k(relation, config.num_interests)
        interests = pool[chosen] * nn.sigmoid(strengths)[..., None]  # [B, T, K, D]

        # How much each exposure is related to each of them, and how much it counts.
        queries = layer_norm(eps, x.dtype, "intention_norm")(dense(config.dim, "intention")(x))
        normed = layer_norm(eps, x.dtype, "interest_norm")(interests)
        assigned = jax.nn.softmax(jnp.einsum("bjd,btkd->btjk", queries, normed) / math.sqrt(config.dim), axis=-1)
        counts = pooled(dense(config.num_interests, "count_out")(jnp.tanh(dense(config.dim, "count_in")(x)))[:, None])
        vectors = jnp.einsum("btjk,btjk,bjd->btkd", assigned, jnp.broadcast_to(counts, assigned.shape), x)
        vectors = layer_norm(eps, x.dtype, "vector_norm")(vectors)

        # What is intended next, in terms of the interests, chooses among their vectors.
        intended = jnp.einsum("btjk,btkd->btjd", assigned, interests)
        weights = pooled(dense(1, "next_out")(jnp.tanh(dense(config.dim, "next_in")(intended)))[..., 0])
        intention = layer_norm(eps, x.dtype, "next_norm")(jnp.einsum("btj,btjd->btd", weights, intended))
        choice = jnp.einsum("btd,btkd->btk", intention, vectors) / (self.temperature * config.dim)
        return Outputs(of_vector(jnp.einsum("btk,btkd->btd", jax.nn.softmax(choice, axis=-1), vectors)))
