"""The state that a network makes of a history, and how it scores items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from sine_jax.types import AnyArray, Array

Carry = TypeVar("Carry")


class UserState(NamedTuple):
    """What is kept of a history to score any item: Q vectors. Q is 1 if the candidate does not choose among them.

    Leading axes are [B] at the end of each history, or [B, T] after each exposure. T may be 1 for a part that is the
    same after every exposure.
    """

    vectors: Array  # [..., Q, D]
    keys: Array | None = None  # [..., Q, D], the candidate's part in the choice among the vectors; None if Q = 1
    logits: Array | None = None  # [..., Q], the state's part in that choice; None if Q = 1


class Outputs(NamedTuple):
    """What a network gives after each exposure."""

    state: Any  # a UserState, or what the network's own `score` reads; leading axes [B, T]
    interests: Array | None = None  # [B, T, K, D] the sub-interest states H
    log_active: Array | None = None  # [B, T, K] log-probabilities of the active sub-interest, if they are learned
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


class Chunk(NamedTuple):
    """Some items of the catalogue, one after another."""

    first: Array  # [] int32, the first of them
    items: Array  # [C] int32, the items to score, padded with the last item of the catalogue
    exists: Array  # [C] bool, False at that padding

    def places(self, items: AnyArray) -> AnyArray:
        """The places of items [...] in the chunk; below 0, or C and more, for items of other chunks."""
        return items - self.first

    def without(self, items: AnyArray) -> Array:
        """[B, C] bool, which items of the chunk are not among a row's own items [B, X]."""
        places, size = self.places(items), len(self.items)
        outside = jnp.where(places < 0, size, places)  # a negative index would count from the end
        rows = jnp.arange(len(items))[:, None]
        return jnp.broadcast_to(self.exists[None], (len(items), size)).at[rows, outside].set(False, mode="drop")


def over_catalogue(
    step: Callable[[Carry, Chunk], Carry], carry: Carry, *, num_items: int, size: int, recompute: bool = False
) -> Carry:
    """Goes through the catalogue chunk by chunk, so that the scores of all items are never in memory at once.

    Args:
      step: (carry, chunk) -> the carry after the chunk.
      carry: before the first chunk.
      num_items: N.
      size: C, items of a chunk.
      recompute: whether the backward pass computes each chunk again, which takes less memory.

    Returns:
      The carry after the last chunk.
    """
    size = min(size, num_items)

    def body(carry: Carry, index: Array) -> tuple[Carry, None]:
        first = 1 + index * size
        items = first + jnp.arange(size)
        return step(carry, Chunk(first, jnp.minimum(items, num_items), items <= num_items)), None

    carry, _ = jax.lax.scan(jax.checkpoint(body) if recompute else body, carry, jnp.arange(-(-num_items // size)))
    return carry
