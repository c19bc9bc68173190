"""Who takes part in an evaluation, what each target is ranked against, and the batches of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sine_jax.batches import windows
from sine_jax.types import PAD, SKIPPED, WATCHED, EvalBatch, EventLog, Split

# Conventions, not tuned. More widths would pad less and compile more shapes; CELLS bounds the memory of a batch.
HALVED = 3  # how often the widest history is halved, for users with shorter histories
NARROW = 16  # candidates of most users; larger widths are this times a power of 4
CELLS = 1 << 20  # the most candidates in a batch
STRETCH = 32  # held-out exposures of a user that are ranked by themselves; bounds the cost of a long log


class Population(NamedTuple):
    """What is ranked in an evaluation: places of the log, each with a target and a list of other items.

    There are L places: one per user of the log, or one per held-out exposure that is ranked by itself.
    """

    places: np.ndarray  # [V] int32, of 0..L-1, ascending
    targets: np.ndarray  # [V] int32
    others: np.ndarray  # [F - V] int32; those of the v-th user are others[offsets[v]:offsets[v + 1]]
    offsets: np.ndarray  # [V + 1] int64
    skips: np.ndarray  # [V] int64, how many of the others are skips around the target; they come first
    watched: np.ndarray  # [V] bool, whether the target was watched
    owners: np.ndarray  # [L] int64, the user of each place
    ends: np.ndarray  # [L] int64, absolute positions; what was shown before may be read
    left_out: dict[str, int]  # users who take no part, by reason
    target_contexts: np.ndarray | None = None  # [V, X] int16; None where contexts are not used
    other_contexts: np.ndarray | None = None  # [F - V, X]

    @property
    def users(self) -> np.ndarray:
        """[W] int64 the users who take part, ascending."""
        return np.unique(self.owners[self.places])


def neighbouring_skips(log: EventLog, split: Split) -> Population:
    """Each target with the skips that the split names as its candidates.

    Users without such a skip take part: their target counts in the pooled AUC, as in the released code, and in no other
    metric. An item that was skipped twice is a candidate twice.
    """
    found = _population(log, split, split.candidates_begin, split.candidates_end, kept=log.feedback == SKIPPED)
    return found if log.contexts is None else found._replace(target_contexts=log.contexts[split.target[found.places]])


def seen_items(log: EventLog, split: Split) -> Population:
    """Each target with all other exposures of its user, before and after it.

    The skips that the split names as candidates come first. Contexts are not used: the catalogue was not shown in any.
    """
    found = _population(log, split, log.offsets[:-1], log.offsets[1:], kept=np.ones(len(log.items), bool))
    return found._replace(other_contexts=None)


def held_out(log: EventLog, split: Split) -> Population:
    """Each held-out exposure as a target of its own, which is ranked from all that came before it.

    Of each user at most `STRETCH` neighbouring exposures are drawn, by a fixed seed. A dislike is read and not ranked.
    """
    size = split.end - split.begin
    spare = np.maximum(size - STRETCH, 0)
    begin = split.begin + (np.random.default_rng(0).random(log.num_users) * (spare + 1)).astype(np.int64)
    length = np.minimum(size, STRETCH)
    owners = np.repeat(np.arange(log.num_users), length)
    ends = np.arange(len(owners)) - np.repeat(np.cumsum(length) - length - begin, length)
    ranked = np.isin(log.feedback[ends], (WATCHED, SKIPPED))
    owners, ends = owners[ranked], ends[ranked]
    watched = log.feedback[ends] == WATCHED
    number, positive = (np.bincount(x, minlength=log.num_users) for x in (owners, owners[watched]))
    both = (positive > 0) & (positive < number)
    kept = both[owners]
    owners, ends, watched = owners[kept], ends[kept], watched[kept]
    nothing = np.zeros(len(owners), np.int64)
    return Population(
        places=np.arange(len(owners), dtype=np.int32),
        targets=log.items[ends],
        others=np.zeros(0, np.int32),
        offsets=np.append(nothing, 0),
        skips=nothing,
        watched=watched,
        owners=owners,
        ends=ends,
        left_out={
            "nothing held out": int(np.count_nonzero(number == 0)),
            "one outcome alone among what is held out": int(np.count_nonzero((number > 0) & ~both)),
        },
        target_contexts=None if log.contexts is None else log.contexts[ends],
        other_contexts=None if log.contexts is None else log.contexts[:0],
    )


def _population(log: EventLog, split: Split, begins: np.ndarray, ends: np.ndarray, *, kept: np.ndarray) -> Population:
    has_target = split.target >= 0
    takes_part = has_target & (split.history_end > log.offsets[:-1])
    users = np.flatnonzero(takes_part)
    targets = log.items[split.target[users]]
    lengths = ends[users] - begins[users]
    owners = np.repeat(np.arange(len(users)), lengths)
    positions = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths - begins[users], lengths)
    chosen = kept[positions] & (positions != split.target[users][owners])
    owners, positions = owners[chosen], positions[chosen]
    around = (log.feedback[positions] == SKIPPED) & (positions >= split.candidates_begin[users][owners])
    around &= positions < split.candidates_end[users][owners]
    positions = positions[np.lexsort((~around, owners))]
    counts = np.bincount(owners, minlength=len(users))
    return Population(
        places=users.astype(np.int32),
        targets=targets,
        others=log.items[positions],
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        skips=np.bincount(owners[around], minlength=len(users)),
        watched=np.ones(len(users), bool),
        owners=np.arange(log.num_users),
        ends=split.history_end,
        left_out={
            "no target": int(np.count_nonzero(~has_target)),
            "nothing watched before the target": int(np.count_nonzero(has_target & ~takes_part)),
        },
        other_contexts=None if log.contexts is None else log.contexts[positions],
    )


def batches(
    population: Population,
    reading: windows.Reading,
    *,
    max_len: int,
    margin: int,
    batch_size: int,
    multiple_of: int,
) -> list[EvalBatch]:
    """Groups a population into batches of few shapes, each place in exactly one.

    A history is padded to the longest one, halved up to `HALVED` times. The few users with many candidates all get the
    full width, so there are at most as many shapes as widths of either kind. Users with similar numbers of skips go
    together, because the work on skips grows with the highest number in the batch.

    Args:
      population: who is ranked, and against what.
      reading: the exposures that may be read; `history_ends` are those of the population's places.
      max_len: T, the widest history.
      margin: how many of the T columns stay empty.
      batch_size: B, the most users in a batch.
      multiple_of: the number of devices; B is a multiple of it, filled up with places -1.

    Returns:
      Batches of numpy arrays. The target is the first candidate; the skips around it follow, then other items.
    """
    reading = reading._replace(offsets=reading.offsets[population.owners])  # from here on by place
    lengths = np.minimum(reading.history_ends - reading.offsets, max_len)[population.places]
    widths = np.unique([-(-int(lengths.max()) // 2**k) for k in range(1 + HALVED)])
    history_class = np.searchsorted(widths, lengths)
    counts = 1 + np.diff(population.offsets)
    candidate_class = np.ceil(np.log2(np.maximum(counts, NARROW) / NARROW) / 2).astype(int)
    history_class[candidate_class > 0] = len(widths) - 1
    result = []
    for kind in np.unique(candidate_class * len(widths) + history_class):
        rows = np.flatnonzero(candidate_class * len(widths) + history_class == kind)
        rows = rows[np.argsort(population.skips[rows], kind="stable")]
        num_candidates = NARROW * 4 ** int(kind // len(widths))
        size = max(1, min(batch_size, CELLS // num_candidates) // multiple_of) * multiple_of
        for begin in range(0, len(rows), size):
            chosen = np.full(size, -1)
            chosen[: len(rows[begin : begin + size])] = rows[begin : begin + size]
            result.append(
                _batch(
                    population,
                    reading,
                    chosen,
                    width=int(widths[kind % len(widths)]),
                    limit=max_len - margin,
                    num_candidates=num_candidates,
                )
            )
    return result


def _batch(
    population: Population, reading: windows.Reading, rows: np.ndarray, *, width: int, limit: int, num_candidates: int
) -> EvalBatch:
    """One batch by rows of the population, -1 for fillers."""
    known = rows >= 0
    places = np.where(known, population.places[rows], -1).astype(np.int32)
    read = windows.window(reading, places[:, None], reading.history_ends, width=width, limit=limit)
    columns = np.arange(num_candidates - 1)[None, :]
    begins, ends = population.offsets[:-1][rows][:, None], population.offsets[1:][rows][:, None]
    there = (columns < ends - begins) & known[:, None]
    candidates = np.full((len(rows), num_candidates), PAD, np.int32)
    candidates[known, 0] = population.targets[rows[known]]
    others = (begins + columns)[there]
    candidates[:, 1:][there] = population.others[others]
    first = np.arange(num_candidates) == 0
    labels = first & (known & population.watched[rows])[:, None]
    skipped = (candidates != PAD) & ~first & (np.arange(num_candidates) <= population.skips[rows][:, None])
    return EvalBatch(
        places=places,
        items=read.items,
        watched=read.watched,
        candidates=candidates,
        labels=labels,
        skipped=skipped,
        times=read.times,
        contexts=_contexts(population, rows, there, others),
    )


def _contexts(population: Population, rows: np.ndarray, there: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """[B, C, X] contexts of the targets, and of the others where there are any; None where they are not used."""
    if population.target_contexts is None or population.other_contexts is None:
        return None
    known = rows >= 0
    found = np.zeros((len(rows), 1 + there.shape[1], population.target_contexts.shape[1]), np.int16)
    found[known, 0] = population.target_contexts[rows[known]]
    found[:, 1:][there] = population.other_contexts[others]
    return found
