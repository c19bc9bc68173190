"""Feedback without a memory: what a gain in the protocol `by_prefix` is read against.

A protocol can reward what is no memory at all: streaks tell how a part of a log was cut, and what came before tells how
far the rest is from a user's mean. On feedback that is redrawn from user and item biases, every gain is of that kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from sine_jax.data import datasets
from sine_jax.data.ingest import Roles
from sine_jax.data.rawfiles import ROW, Piece
from sine_jax.data.sources import RawLog
from sine_jax.evaluation import simple_scorers
from sine_jax.evaluation.simple_scorers import Biases
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog


def law_of(log: EventLog, *, num_items: int) -> Biases:
    """The log-odds of watching by user and item, fitted to all exposures."""
    return simple_scorers.logistic_biases(log, np.ones(len(log.items), bool), num_items=num_items)


def redrawn(log: EventLog, biases: Biases, *, seed: int) -> EventLog:
    """The same exposures with other feedback, each watched by a chance of its own; dislikes stay.

    Args:
      log: the exposures.
      biases: log-odds of watching by user and item, as of `law_of`.
      seed: of the draw.
    """
    odds = np.asarray(biases.users)[log.users] + np.asarray(biases.items)[log.items]
    watched = np.random.default_rng(seed).random(len(odds)) < 1 / (1 + np.exp(-odds))
    drawn = np.where(watched, WATCHED, SKIPPED).astype(log.feedback.dtype)
    return log._replace(feedback=np.where(np.isin(log.feedback, (WATCHED, SKIPPED)), drawn, log.feedback))


def source(path: str | os.PathLike[str], *, seed: int) -> RawLog:
    """A prepared data set with redrawn feedback, to prepare as a log of its own; watch times are left out.

    Args:
      path: the data set.
      seed: of the draw.

    Raises:
      ValueError: there is no data set, or it is damaged.
    """
    dataset = datasets.load(path)
    log = redrawn(dataset.log, law_of(dataset.log, num_items=dataset.info.num_items), seed=seed)
    columns = {
        "#user": datasets.user_ids(path).gather(log.users),
        "#item": datasets.item_ids(path).gather(log.items),
        "#time": log.times,
        "#place": np.arange(len(log.items)),
        "#watched": log.feedback == WATCHED,
        "#duration": pl.Series(log.durations).replace(-1, None),
        "#dislike": log.feedback == DISLIKED,
        **_contexts(log, dataset.info.contexts),
    }

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        yield Piece(Path(path), pl.DataFrame({name: columns[name] for name in names}).with_row_index(ROW), {})

    roles = Roles(
        "#user",
        "#item",
        time="#time" if dataset.info.has_times else "",
        order="#place",
        watched="#watched",
        duration="#duration",
        dislike="#dislike",
        context="+".join(dataset.info.contexts),
    )
    return RawLog("redrawn", roles, read)


def _contexts(log: EventLog, contexts: Mapping[str, Sequence[str]]) -> dict[str, pl.Series]:
    """The context columns as text; null where a value is unknown."""
    found, values = {}, [value for column in contexts.values() for value in column]
    table = pl.Series([None, *values], dtype=pl.String)
    for place, name in enumerate(contexts):
        assert log.contexts is not None
        found[name] = table.gather(log.contexts[:, place])
    return found
