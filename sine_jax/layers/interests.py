"""Sub-interests, which of them is active, and their fusion into a score."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax.layers.dense import dense
from sine_jax.layers.forms import Forms
from sine_jax.layers.scoring import UserState, of_vector
from sine_jax.types import Array


def read_interests(states: Array, interests: Array) -> Array:
    """Reads encoder states once per sub-interest: `H_k = h + sigmoid(h * s_k) * h`.

    Args:
      states: [..., D].
      interests: [K, D].

    Returns:
      [..., K, D].

    References:
      Pan et al., "Understanding and Modeling Passive-Negative Feedback for Short-video Sequential Recommendation",
      RecSys 2023, arXiv 2308.04086.
    """
    states = states[..., None, :]
    gates = nn.sigmoid(states * interests.reshape((1,) * (states.ndim - 2) + interests.shape))
    return states + gates * states


def relation_to_interests(interests: Array, positives: Array, skips: Array, *, skipped: Array) -> Array:
    """How much more each sub-interest has to do with the watched item than with the skipped one.

    Args:
      interests: [K, D].
      positives: [..., D] embeddings of watched items.
      skips: [..., D] embeddings of their passive negatives.
      skipped: [...] True where there is a passive negative.

    Returns:
      [..., K] `p . s_k - 1[skipped] f . s_k`; its argmax is the active sub-interest.
    """
    return jnp.einsum("...d,kd->...k", positives - jnp.where(skipped[..., None], skips, 0.0), interests)


def fuse(logits: Array, vectors: Array) -> UserState:
    """Weighs sub-interests by the state alone, which leaves one vector.

    A linear layer over [H_k; e] cannot tell candidates apart: the part of e is the same for every k and cancels.

    Args:
      logits: [..., K].
      vectors: [..., K, D].

    Returns:
      The state with Q = 1.
    """
    weights = jax.nn.softmax(logits, axis=-1)
    return of_vector(jnp.einsum("...k,...kd->...d", weights, vectors))


class ActiveInterest(nn.Module):
    """Predicts the active sub-interest from the past: a query of the state meets each sub-interest.

    Attributes:
      dtype: of the computation.
      forms: how it is computed.
    """

    dtype: jnp.dtype
    forms: Forms = Forms()

    @nn.compact
    def __call__(self, states: Array, interests: Array) -> Array:
        """Maps states [..., D] and sub-interests [K, D] to log-probabilities [..., K] in float32."""
        query = dense(states.shape[-1], self.dtype, "query", chunked_gradients=self.forms.chunked_gradients)
        logits = jnp.einsum("...d,kd->...k", query(states), interests, preferred_element_type=jnp.float32)
        return jax.nn.log_softmax(logits, axis=-1)


class Fusion(nn.Module):
    """The adaptive fusion layer: one weight per sub-interest and state, or per sub-interest, state and candidate.

    Attributes:
      candidate_aware: whether the candidate takes part, by the bilinear form `H_k W e`.
      dtype: of the computation.
    """

    candidate_aware: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, vectors: Array, log_prior: Array | None) -> UserState:
        """Maps sub-interest states [..., K, D] and log-probabilities [..., K] or None to a state that scores items."""
        dim = vectors.shape[-1]
        # The deviation is that of Xavier for the (1, 2D) map over [H; e]; only its half over H matters.
        weights = self.param("weights", nn.initializers.normal(math.sqrt(2 / (2 * dim + 1))), (dim,))
        logits = jnp.einsum("...kd,d->...k", vectors, weights.astype(self.dtype), preferred_element_type=jnp.float32)
        if log_prior is not None:
            logits = logits + log_prior
        if not self.candidate_aware:
            return fuse(logits.astype(self.dtype), vectors)
        # A small start: at first the candidate weighs little, and training decides how much it should.
        keys = nn.Dense(
            dim, use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.normal(0.1 / dim), name="candidate"
        )
        return UserState(vectors, keys=keys(vectors), logits=logits)
