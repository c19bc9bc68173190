"""Where items stand in the whole catalogue, counted chunk by chunk: what the `full` protocol runs on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sine_jax.evaluation.scorers import Scorer
from sine_jax.layers.scoring import Chunk, over_catalogue
from sine_jax.types import Array, EvalBatch

CHUNK = 8192  # items of the catalogue scored at once


class Counts(NamedTuple):
    """How the first candidates, the target and the skips around it, stand among other items."""

    greater: Array  # [B, C] int32, how many of the others have a higher score
    equal: Array  # [B, C] int32, how many of the others have the same
    number: Array  # [B] int32, how many others there are


class Standings(NamedTuple):
    """Where a batch's targets and the skips around them stand; columns of any other candidate stay 0."""

    unseen: Counts  # among the items that the user was never shown
    shown: Counts  # among the target and the skips around it
    nan: Array  # [B] int32, scores that are not numbers


def rank(scorer: Scorer, num_items: int) -> Callable[[Any, EvalBatch], Standings]:
    """Ranks the target and each skip around it against the very same items: all that the user was never shown.

    Args:
      scorer: what scores.
      num_items: N.

    Returns:
      A function of the scorer's parameters and a batch whose candidates are all that its users were shown: first the
      target, then the skips around it. It holds no more scores at once than a chunk's.
    """

    def ranked(params: Any, batch: EvalBatch) -> Standings:
        state = scorer.encode(params, batch.users, batch.histories)
        shape = batch.candidates.shape
        shown = batch.labels | batch.skipped

        def score(chunk: Chunk) -> Array:
            return scorer.score_items(params, state, chunk.items)

        def find(found: Array, chunk: Chunk) -> Array:
            # Candidates are scored by the very computation that scores their rivals, so that equal stays equal.
            scores, places = score(chunk), chunk.places(batch.candidates)
            size = len(chunk.items)
            value = jnp.take_along_axis(scores, jnp.clip(places, 0, size - 1), axis=1)
            return jnp.where((places >= 0) & (places < size), value, found)

        def compare(carry: tuple[Counts, Array], chunk: Chunk) -> tuple[Counts, Array]:
            counts, nan = carry
            scores, allowed = score(chunk), chunk.without(batch.candidates)
            bad = jnp.sum(allowed & jnp.isnan(scores), axis=1)
            return _count(counts, ours, scores, where=allowed, columns=columns), nan + bad

        columns = jnp.max(jnp.sum(shown, axis=1))
        nothing = Counts(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32), jnp.zeros(shape[0], jnp.int32))
        ours = over_catalogue(find, jnp.zeros(shape), num_items=num_items, size=CHUNK)
        among = _count(nothing, ours, ours, where=shown, columns=columns)
        nan = jnp.sum(shown & jnp.isnan(ours), axis=1)
        unseen, nan = over_catalogue(compare, (nothing, nan), num_items=num_items, size=CHUNK)
        return Standings(unseen, among._replace(equal=among.equal - shown, number=among.number - 1), nan)

    return ranked


def _count(counts: Counts, ours: Array, others: Array, *, where: Array, columns: Array) -> Counts:
    """Adds the others [B, X] that are above or level with each of the first columns of ours [B, C], one at a time."""
    others = jnp.where(where, others, jnp.nan)  # neither above nor level with anything

    def count(column: Array, greater_equal: tuple[Array, Array]) -> tuple[Array, Array]:
        one = jax.lax.dynamic_slice_in_dim(ours, column, 1, axis=1)
        found = [mask.astype(jnp.int32) for mask in (others > one, others == one)]
        # Both sums in one pass over the scores: several times faster than one after the other.
        more, level = jax.lax.reduce(found, [0, 0], lambda a, b: [a[0] + b[0], a[1] + b[1]], (1,))
        greater, equal = greater_equal
        return greater.at[:, column].add(more), equal.at[:, column].add(level)

    greater, equal = jax.lax.fori_loop(0, columns, count, counts[:2])
    return Counts(greater, equal, counts.number + jnp.sum(where, axis=1))
