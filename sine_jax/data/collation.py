"""Filters, numbers and sorts canonical exposures in bounded memory.

Pieces are written to disk as they come. Users and items are then counted, filtered and numbered over the whole log,
which takes memory for the vocabulary. The exposures, now integers, are sorted one range of users at a time.

The result depends only on the exposures and their order of arrival, not on threads or file formats:
- ids are ordered by length, then by bytes, which is numeric order for numbers;
- exposures are ordered by user, then time, then the order column, then arrival;
- rare items are left out first, users with too few positives second, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from sine_jax.data.ingest import CONTEXT
from sine_jax.data.rawfiles import Piece
from sine_jax.types import WATCHED, EventLog

# Choices that bound memory.
SORT_EVENTS = 1 << 23  # exposures sorted at once
BLOCK_EVENTS = 1 << 17  # exposures of a block; a user is never split

MOST_CONTEXTS = 2**15 - 1  # values of all context columns, which are stored as int16

_COLUMNS = {"items": "item", "feedback": "feedback", "times": "time", "plays": "play", "durations": "duration"}


class Collation(NamedTuple):
    """A filtered and numbered log that is not sorted yet."""

    users: pl.Series  # [U] external ids, in order
    items: pl.Series  # [N] external ids of items 1..N
    lengths: np.ndarray  # [U] exposures of each user
    contexts: dict[str, list[str]]  # values of each context column; they are numbered from 1 over all columns
    dropped: dict[str, int]  # how many the filters left out, by reason
    path: Path  # the exposures: user, item, time, order, arrival, feedback, play, duration, contexts


class Spilled(NamedTuple):
    """Canonical exposures on the disk, and what was found on the way."""

    files: list[Path]
    dropped: dict[str, int]  # raw rows left out, by reason
    missing: dict[str, int]  # cells without a value, by column
    read_as: dict[str, str]  # how text and each role was understood


def spill(pieces: Iterable[Piece], folder: Path) -> Spilled:
    """Writes canonical pieces to `folder` as they come.

    Raises:
      ValueError: there is no exposure.
    """
    files: list[Path] = []
    dropped: dict[str, int] = {}
    missing: dict[str, int] = {}
    read_as: dict[str, dict[str, str]] = {}
    arrived = 0
    for piece in pieces:
        for total, found in ((dropped, piece.dropped), (missing, piece.missing)):
            for reason, count in found.items():
                total[reason] = total.get(reason, 0) + count
        for name, (kind, values) in piece.read_as.items():
            kinds = read_as.setdefault(name, {})
            kinds[kind] = kinds.get(kind) or values
        if len(piece.frame):
            files.append(folder / f"piece_{len(files):06d}.parquet")
            piece.frame.with_row_index("arrival", offset=arrived).cast({"arrival": pl.Int64}).write_parquet(
                files[-1], compression="lz4"
            )
            arrived += len(piece.frame)
    if not files:
        raise ValueError(f"exposures=0: the input has none{_because(dropped)}; pass a log that has some")
    told = {
        name: "; also ".join(f"{kind}, such as {values}" if values else kind for kind, values in kinds.items())
        for name, kinds in read_as.items()
    }
    return Spilled(files, dropped, missing, told)


def collate(
    files: list[Path], folder: Path, *, min_positives: int, min_exposures: int, drop_duplicates: bool = False
) -> Collation:
    """Filters and numbers spilled exposures.

    Args:
      files: what `spill` wrote.
      folder: where to write the numbered exposures.
      min_positives: users with fewer watched exposures are left out.
      min_exposures: items shown less often are left out, before users are counted.
      drop_duplicates: of rows that are equal in every column, only the first is kept.

    Raises:
      ValueError: no user passes the filters.
    """
    events = pl.scan_parquet(files)
    dropped: dict[str, int] = {}
    if drop_duplicates:
        columns = [name for name in events.collect_schema().names() if name != "arrival"]
        first = events.group_by(columns).agg(pl.col("arrival").min())
        number = _collected(events.select(pl.len())).item()
        unique = folder / "unique.parquet"
        first.sink_parquet(unique, compression="lz4")
        events = pl.scan_parquet(unique)
        dropped["rows equal to an earlier one"] = number - _collected(events.select(pl.len())).item()
    if min_exposures > 1:
        shown = _collected(events.group_by("item").len())
        rare = shown.filter(pl.col("len") < min_exposures)
        dropped[f"items shown fewer than {min_exposures} times"] = len(rare)
        dropped["exposures of these items"] = int(rare["len"].sum())
        events = events.join(rare.lazy().select("item"), on="item", how="anti")
    watched = (pl.col("feedback") == WATCHED).sum().alias("positives")
    users = _collected(events.group_by("user").agg(watched, pl.len().alias("length")))
    few = users.filter(pl.col("positives") < min_positives)
    dropped[f"users with fewer than {min_positives} positives"] = len(few)
    dropped["exposures of these users"] = int(few["length"].sum())
    users = _numbered(users.filter(pl.col("positives") >= min_positives), "user", first=0)
    dropped = {reason: count for reason, count in dropped.items() if count}
    if not len(users):
        raise ValueError(
            f"--min_positives={min_positives}, --min_exposures={min_exposures}: no user is left{_because(dropped)}; "
            "lower one of them"
        )
    events = events.join(users.lazy().select("user", "user number"), on="user", how="inner")
    items = _numbered(_collected(events.select("item").unique()), "item", first=1)
    encoded = events.join(items.lazy(), on="item", how="inner")
    contexts: dict[str, list[str]] = {}
    for column in (name for name in events.collect_schema().names() if name.startswith(CONTEXT)):
        found = _collected(events.select(column).unique()).drop_nulls()
        values = _numbered(found, column, first=1 + sum(map(len, contexts.values())))
        contexts[column.removeprefix(CONTEXT)] = values[column].to_list()
        encoded = encoded.join(values.lazy(), on=column, how="left").drop(column)
    _refuse_many(contexts)
    codes = [pl.col(f"{CONTEXT}{name} number").fill_null(0).cast(pl.Int16).alias(CONTEXT + name) for name in contexts]
    encoded = encoded.select(
        "arrival", "time", "order", "feedback", "play", "duration", *codes, user="user number", item="item number"
    )
    path = folder / "encoded.parquet"
    encoded.sink_parquet(path, compression="lz4")
    return Collation(users["user"], items["item"], users["length"].to_numpy().astype(np.int64), contexts, dropped, path)


def blocks(collation: Collation, count_equal: Callable[[int], None]) -> Iterator[EventLog]:
    """The sorted log, some users at a time; offsets count from the block's first exposure.

    Args:
      collation: of `collate`.
      count_equal: is told how many rows are equal to an earlier one, again and again as they are found.
    """
    events = pl.scan_parquet(collation.path)
    ends = np.cumsum(collation.lengths)
    for begin, end in _ranges(ends, SORT_EVENTS):
        mine = events.filter(pl.col("user").is_between(begin, end, closed="left"))
        frame = mine.collect().sort("user", "time", "order", "arrival")
        count_equal(_equal_rows(frame))
        columns = {name: frame[column].to_numpy() for name, column in _COLUMNS.items()}
        if collation.contexts:
            columns["contexts"] = frame.select(CONTEXT + name for name in collation.contexts).to_numpy()
        sub_ends = ends[begin:end] - (ends[begin] - collation.lengths[begin])
        for first, last in _ranges(sub_ends, BLOCK_EVENTS):
            offsets = np.concatenate([[0], sub_ends])[first : last + 1]
            block = {name: column[offsets[0] : offsets[-1]] for name, column in columns.items()}
            yield EventLog(**block, offsets=offsets - offsets[0])


def _equal_rows(frame: pl.DataFrame) -> int:
    """How many rows of sorted exposures are equal to an earlier one in everything but their arrival."""
    order = [pl.col(name) == pl.col(name).shift(1) for name in ("user", "time", "order")]
    after = frame.select(pl.all_horizontal(order).fill_null(False).alias("same"))["same"]
    tied = frame.filter(after | after.shift(-1).fill_null(False)).drop("arrival")
    return len(tied) - tied.n_unique() if len(tied) else 0


def _refuse_many(contexts: dict[str, list[str]]) -> None:
    """Refuses context columns whose values have no room in int16."""
    if sum(map(len, contexts.values())) > MOST_CONTEXTS:
        name = max(contexts, key=lambda name: len(contexts[name]))
        raise ValueError(
            f"--columns=context={name}: it has {len(contexts[name]):,} values, and all columns together may have "
            f"{MOST_CONTEXTS:,}; map columns of few categories, or bin this one"
        )


def _ranges(ends: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of users that hold at most `size` exposures, or a single user."""
    begin, total = 0, 0
    while begin < len(ends):
        end = max(begin + 1, int(np.searchsorted(ends, total + size, side="right")))
        yield begin, end
        begin, total = end, int(ends[end - 1])


def _collected(lazy: pl.LazyFrame) -> pl.DataFrame:
    """A result as large as a vocabulary, computed without holding the log."""
    return lazy.collect(engine="streaming")


def _numbered(frame: pl.DataFrame, name: str, *, first: int) -> pl.DataFrame:
    """Sorts by id and numbers the entries."""
    frame = frame.sort(pl.col(name).str.len_bytes(), pl.col(name))
    return frame.with_row_index(f"{name} number", offset=first).cast({f"{name} number": pl.Int32})


def _because(dropped: dict[str, int]) -> str:
    """What was dropped, as the end of a message."""
    return f"; dropped: {', '.join(f'{n:,} {reason}' for reason, n in dropped.items())}" if dropped else ""
