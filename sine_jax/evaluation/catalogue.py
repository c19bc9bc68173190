"""Ranks in the whole catalogue, counted chunk by chunk: the device part of the `full` protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sine_jax.evaluation.scorers import Scorer
from sine_jax.layers.scoring import Chunk, over_catalogue
from sine_jax.types import PAD, AnyArray, Array, EvalBatch

CHUNK = 8192  # items of the catalogue scored at once; a choice that bounds memory


class Counts(NamedTuple):
    """How the target and the skips around it, the first candidates, compare with other items."""

    greater: Array  # [B, C] int32, how many other items have a higher score
    equal: Array  # [B, C] int32, how many other items have the same score
    number: Array  # [B] int32, how many other items there are


class Standings(NamedTuple):
    """The ranks of a batch's targets and of the skips around them; other candidates have 0."""

    unseen: Counts  # among the items that the user was never shown
    shown: Counts  # among the target and the skips around it
    nan: Array  # [B] int32, how many scores are NaN
    first: Array  # [B, k] int32, the first of the unseen items and the target, best first; PAD after the last


def rank(scorer: Scorer, num_items: int, *, length: int) -> Callable[[Any, EvalBatch], Standings]:
    """Ranks the target and each skip around it against the same items: those that the user was never shown.

    Args:
      scorer: what scores.
      num_items: N.
      length: k, how many items of each user's list are kept; of equal scores the lower numbers come first.

    Returns:
      A function of the scorer's parameters and a batch. The batch's candidates are all that its users were shown: the
      target, the skips around it, and the rest. Only the scores of one chunk are in memory at once.
    """

    def ranked(params: Any, batch: EvalBatch) -> Standings:
        state = scorer.encode(params, batch.places, batch.histories)
        shape = batch.candidates.shape
        shown = batch.labels | batch.skipped

        def score(chunk: Chunk) -> Array:
            return scorer.score_items(params, state, chunk.items)

        def find(found: Array, chunk: Chunk) -> Array:
            # Candidates are scored by the same computation as their rivals, so that ties stay ties.
            scores, places = score(chunk), chunk.places(batch.candidates)
            size = len(chunk.items)
            value = jnp.take_along_axis(scores, jnp.clip(places, 0, size - 1), axis=1)
            return jnp.where((places >= 0) & (places < size), value, found)

        others = jnp.where(batch.candidates == batch.candidates[:, :1], PAD, batch.candidates)  # all but the target

        def compare(carry: tuple[Counts, Array, Array, Array], chunk: Chunk) -> tuple[Counts, Array, Array, Array]:
            counts, nan, best, first = carry
            scores, allowed = score(chunk), chunk.without(batch.candidates)
            bad = jnp.sum(allowed & jnp.isnan(scores), axis=1)
            listed = jnp.where(chunk.without(others), scores, -jnp.inf)
            best, places = jax.lax.top_k(jnp.concatenate([best, listed], axis=1), best.shape[1])
            items = jnp.concatenate([first, jnp.broadcast_to(chunk.items, listed.shape)], axis=1)
            first = jnp.take_along_axis(items, places, axis=1)
            return _count(counts, ours, scores, where=allowed, columns=columns), nan + bad, best, first

        columns = jnp.max(jnp.sum(shown, axis=1))
        nothing = Counts(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32), jnp.zeros(shape[0], jnp.int32))
        ours = over_catalogue(find, jnp.zeros(shape), num_items=num_items, size=CHUNK)
        among = _count(nothing, ours, ours, where=shown, columns=columns)
        nan = jnp.sum(shown & jnp.isnan(ours), axis=1)
        empty = (
            jnp.full((shape[0], min(length, num_items)), -jnp.inf),
            jnp.full((shape[0], min(length, num_items)), PAD),
        )
        unseen, nan, best, first = over_catalogue(compare, (nothing, nan, *empty), num_items=num_items, size=CHUNK)
        among = among._replace(equal=among.equal - shown, number=among.number - 1)
        return Standings(unseen, among, nan, jnp.where(best > -jnp.inf, first, PAD))

    return ranked


def _count(counts: Counts, ours: Array, others: Array, *, where: AnyArray, columns: Array) -> Counts:
    """Counts the others [B, X] that are above, or tie with, each of the first columns of ours [B, C]."""
    others = jnp.where(where, others, jnp.nan)  # NaN is neither above anything nor equal to it

    def count(column: Array, greater_equal: tuple[Array, Array]) -> tuple[Array, Array]:
        one = jax.lax.dynamic_slice_in_dim(ours, column, 1, axis=1)
        found = [mask.astype(jnp.int32) for mask in (others > one, others == one)]
        # Both sums in one pass over the scores.
        more, level = jax.lax.reduce(found, [0, 0], lambda a, b: [a[0] + b[0], a[1] + b[1]], (1,))
        greater, equal = greater_equal
        return greater.at[:, column].add(more), equal.at[:, column].add(level)

    greater, equal = jax.lax.fori_loop(0, columns, count, counts[:2])
    return Counts(greater, equal, counts.number + jnp.sum(where, axis=1))
