"""Segments: groups of users for whom a metric is shown apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sine_jax.evaluation.protocols import BY_PREFIX, Task
from sine_jax.types import EventLog

NAMES = ("history", "popularity", "new_item")  # and `context:COLUMN`
PARTS = 4  # of the users by the length of their histories; a choice
THIRDS = ("head", "middle", "tail")


class Segment(NamedTuple):
    """A name, and which group each user is in."""

    name: str
    words: list[str]  # of each group
    groups: np.ndarray  # [V] places in `words`; -1 for users who are in none


def check(names: Sequence[str], *, protocol: str, contexts: Sequence[str] | None = None) -> None:
    """Raises a ValueError for a segment that does not exist.

    Args:
      names: of segments.
      protocol: the name of the protocol that ranks.
      contexts: context columns of the log; None where they are not known yet.
    """
    for name in names:
        kind, _, column = name.partition(":")
        of_context = kind == "context" and (column in contexts if contexts is not None else bool(column))
        if name not in NAMES and not of_context:
            known = (
                [*NAMES, *(f"context:{c}" for c in contexts)] if contexts is not None else [*NAMES, "context:COLUMN"]
            )
            raise ValueError(f"segments={name}: no such segment; choose from {', '.join(known)}")
        if name != "history" and protocol == BY_PREFIX.name:
            raise ValueError(f"segments={name}: a user of {protocol} has several targets; choose history")


def of_task(log: EventLog, task: Task, names: Sequence[str], *, contexts: Mapping[str, Sequence[str]]) -> list[Segment]:
    """The segments of the users of an evaluation.

    history: `PARTS` groups of the same size by how many exposures may be read before the target (its first, for
    `by_prefix`). popularity: of the target item, by its exposures in the training part: the most shown items that have
    a third of all exposures together (head), the next third (middle), the rest that were shown (tail), or new.
    new_item: whether training shows the target item. context:COLUMN: where the target was shown.

    Args:
      log: the exposures.
      task: who is ranked.
      names: of segments.
      contexts: the values of each context column, numbered from 1 over all columns.

    Raises:
      ValueError: there is no such segment.
    """
    check(names, protocol=task.protocol.name, contexts=list(contexts))
    return [_segment(log, task, name, contexts) for name in names]


def _segment(log: EventLog, task: Task, name: str, contexts: Mapping[str, Sequence[str]]) -> Segment:
    population = task.population
    if name == "history":
        owners, first = np.unique(population.owners[population.places], return_index=True)
        lengths = population.ends[population.places][first] - log.offsets[owners]
        edges = np.unique(np.quantile(lengths, np.arange(1, PARTS) / PARTS).astype(int))
        bounds = [int(lengths.min()), *(edges + 1).tolist(), int(lengths.max()) + 1]
        words = [f"{low}-{high - 1}" for low, high in zip(bounds, bounds[1:], strict=False)]
        return Segment(name, words, np.searchsorted(edges, lengths, side="left"))
    shown = np.bincount(log.items[log.before(task.split.train_end)], minlength=task.num_items + 1)
    if name == "new_item":
        return Segment(name, ["known", "new"], (shown[population.targets] == 0).astype(int))
    if name == "popularity":
        order = np.argsort(-shown, kind="stable")
        before = np.cumsum(shown[order]) - shown[order]
        third = np.empty(len(shown), int)
        third[order] = np.minimum(3 * before // max(int(shown.sum()), 1), 2)
        groups = np.where(shown > 0, third, len(THIRDS))
        return Segment(name, [*THIRDS, "new"], groups[population.targets])
    column = list(contexts).index(name.partition(":")[2])
    first_code = 1 + sum(len(values) for values in list(contexts.values())[:column])
    values = list(list(contexts.values())[column])
    assert log.contexts is not None
    codes = log.contexts[task.split.target[population.places], column].astype(int)
    unknown = next(word for word in ("unknown", "(unknown)", "((unknown))") if word not in values)
    return Segment(name, [unknown, *values], np.where(codes > 0, codes - first_code + 1, 0))
