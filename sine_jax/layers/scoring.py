"""What a network says of a history, and how that scores items."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sine_jax.types import Array


class UserState(NamedTuple):
    """What remains of a history to score any item with: `Q` vectors, Q = 1 where the candidate does not choose.

    Leading axes are [B] at the end of each history, or [B, T] after each exposure; T may be 1 where a part is the same
    after every exposure.
    """

    vectors: Array  # [..., Q, D]
    keys: Array | None = None  # [..., Q, D], what the candidate chooses among the vectors by; None where Q = 1
    logits: Array | None = None  # [..., Q], the state's part of that choice; None where Q = 1


class Outputs(NamedTuple):
    """What a network says after each exposure."""

    state: Any  # a UserState, or what else the network's own `score` reads; leading axes [B, T]
    interests: Array | None = None  # [B, T, K, D] the sub-interest states H
    log_active: Array | None = None  # [B, T, K] log-probabilities of the active sub-interest, where they are learned
    extra: Any = None  # what the network's own `auxiliary` terms read


def of_vector(vector: Array) -> UserState:
    """The state that scores by an inner product with one vector [..., D]."""
    return UserState(vector[..., None, :])


def score(state: UserState, items: Array) -> Array:
    """Scores items: `sum_q softmax_q(logits_q + keys_q . e) (vectors_q . e)`.

    Args:
      state: leading axes [...].
      items: [..., C, D] embeddings of the candidates of each state, or [C, D] of all.

    Returns:
      [..., C] in float32.
    """
    product = "...qd,cd->...qc" if items.ndim == 2 else "...qd,...cd->...qc"
    scores = jnp.einsum(product, state.vectors, items, preferred_element_type=jnp.float32)
    if state.keys is None or state.logits is None:
        scores = scores[..., 0, :]
    else:
        chosen = jnp.einsum(product, state.keys, items, preferred_element_type=jnp.float32) + state.logits[..., None]
        scores = jnp.sum(jax.nn.softmax(chosen, axis=-2) * scores, axis=-2)
    return scores
