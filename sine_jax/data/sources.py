"""The sources of a log: which files, which columns in which roles, in which units.

References:
  KuaiRand: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos",
    CIKM 2022, https://kuairand.com
  WeChat Big Data Challenge 2021, https://algo.weixin.qq.com
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from sine_jax.data import cells, rawfiles, rawtext, synthetic
from sine_jax.data.ingest import Roles, Units
from sine_jax.data.rawfiles import ROW, Piece, Style

SOURCES = {
    "sample": "The shipped sample: 2,000 users of KuaiRand-Pure.",
    "log": "Any table, CSV, JSON lines, Parquet or Arrow, or a folder of them, with a column map.",
    "mind": "MIND as published: behaviors.tsv, whose cells list what was shown and what was clicked.",
    "kuairand": "KuaiRand-Pure, -1K or -27K as published.",
    "wechat2021": "WeChat Big Data Challenge 2021: user_action.csv and feed_info.csv.",
    "released": "The text format of the authors' code: user<TAB>items<TAB>feedback.",
    "synthetic": "Drawn from a seed, with interests and a skip effect of known strength.",
    "redrawn": "A prepared data set, with feedback drawn anew from user and item biases: no memory, no taste.",
}
FRAME_ROWS = 1 << 18  # of a piece of a frame in memory
_KEY = "#item"  # ids in their one form
SAMPLE = "kuairand_pure_sample_seq.parquet"

Reader = Callable[[Sequence[str], Sequence[str]], Iterator[Piece]]  # (columns, kinds of bad row to drop) -> pieces


class RawLog(NamedTuple):
    """A log that can be prepared: what its raw columns mean, and how its pieces are read."""

    name: str
    roles: Roles
    read: Reader
    units: Units = Units()
    label: str = "column"  # the label rule if the user names none
    law: synthetic.Settings | None = None  # what a synthetic log is drawn from
    not_read: Sequence[str] = ()  # files of the folder that are no tables


def log(
    path: Path,
    roles: Roles,
    units: Units,
    *,
    items: Path | None = None,
    style: Style = rawfiles.AS_FOUND,
    max_bytes: int = rawfiles.MAX_BYTES,
) -> RawLog:
    """Any table of a format that `rawfiles` reads, or a folder of them, with a column map.

    Args:
      path: the file or folder.
      roles: which column plays which role.
      units: how numbers are written.
      items: a table of items, which has their durations; its ids are in a column of the same name as the log's.
      style: how text is written.
      max_bytes: how large a file may be when decompressed.

    Raises:
      ValueError: there is no such path, or it has no table.
    """
    found = rawfiles.find(path)

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        own = [name for name in names if items is None or name != roles.duration]
        table = None
        if len(own) < len(names):
            assert items is not None
            table = _keyed(items, roles.item, roles.duration, drop)
        for file in found.files:
            part = len(found.files) > 1
            for piece in rawfiles.read(file, own, drop=drop, style=style, max_bytes=max_bytes, part=part):
                yield piece if table is None else _joined(piece, roles.item, table)

    return RawLog("log", roles, read, units, not_read=found.not_read)


def _keyed(path: Path, key: str, value: str, drop: Sequence[str]) -> pl.DataFrame:
    """A table of items: their ids in their one form, and a value."""
    frame = _table(path, (key, value), drop)
    cells.check_type(path, key, frame[key], "ids")
    frame = frame.select(cells.read(frame[key], "ids").value.alias(_KEY), value)
    return frame.drop_nulls(_KEY).unique(_KEY, keep="first", maintain_order=True)


def _joined(piece: Piece, key: str, table: pl.DataFrame) -> Piece:
    """A piece with the value of its items; null for items that the table lacks."""
    frame = piece.frame
    cells.check_type(piece.path, key, frame[key], "ids")
    frame = frame.with_columns(cells.read(frame[key], "ids").value.alias(_KEY))
    return piece._replace(frame=frame.join(table, on=_KEY, how="left", maintain_order="left").drop(_KEY))


def of_frame(frame: pl.DataFrame, roles: Roles, units: Units) -> RawLog:
    """A frame in memory, with a column map."""

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        rawtext.check_columns(Path("frame"), names, frame.columns)
        for begin in range(0, max(len(frame), 1), FRAME_ROWS):
            yield Piece(
                Path("frame"), frame.select(names)[begin : begin + FRAME_ROWS].with_row_index(ROW, offset=begin + 1)
            )

    return RawLog("log", roles, read, units)


def mind(path: Path) -> RawLog:
    """MIND as published: behaviors.tsv, or the folder that holds it. What was shown and clicked is watched.

    A row is an impression: its user and time, and `ITEM-1` or `ITEM-0` for each item that was shown. The column of
    earlier clicks is not read, because it has no times and no skips.

    References:
      Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020.
    """
    header = ("impression", "user", "time", "history", "shown")
    file = path / "behaviors.tsv" if path.is_dir() else path

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        for piece in rawfiles.read(file, ("user", "time", "shown"), drop=drop, style=Style("\t", header)):
            rows = piece.frame.with_columns(pl.col("shown").str.strip_chars().str.split(" ")).explode("shown")
            rows = rows.with_columns(
                pl.col("time").str.strip_chars().str.to_datetime("%m/%d/%Y %I:%M:%S %p", strict=False),
                pl.col("shown").str.extract(r"^(.+)-[01]$").alias("item"),
                pl.col("shown").str.extract(r"^.+-([01])$").alias("watched"),
            )
            bad = rows["item"].is_null() | rows["time"].is_null()
            if bad.any() and "invalid" not in drop:
                row = rows.row(bad.to_list().index(True), named=True)
                raise ValueError(
                    f"{piece.path}, row {row[ROW]}: {row['shown']!r} at {row['time']} is not ITEM-0 or ITEM-1 at a "
                    "time such as 11/15/2019 8:55:22 AM; mend the row, or leave such rows out with --on_bad_row=drop"
                )
            dropped = (
                {**piece.dropped, "impressions that cannot be read": int(bad.sum())} if bad.any() else piece.dropped
            )
            yield piece._replace(frame=rows.filter(~bad).select(*names, ROW), dropped=dropped)

    return RawLog("mind", Roles("user", "item", time="time", watched="watched"), read)


def sample() -> RawLog:
    """The shipped sample: 2,000 users of KuaiRand-Pure."""

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        with importlib.resources.as_file(importlib.resources.files("sine_jax.data.sample") / SAMPLE) as path:
            yield from rawfiles.read(path, names, drop=drop)

    return RawLog("sample", Roles("user_id", "item_id", order="step", watched="long_view"), read)


def released(path: Path) -> RawLog:
    """The text format of the released reader: `user<TAB>items<TAB>feedback`, separated by blanks, oldest first."""

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        header = ("user", "items", "feedback")
        for file in rawfiles.find(path).files:
            for piece in rawfiles.read(file, header, drop=drop, style=Style("\t", header)):
                yield _exploded(piece, drop)

    return RawLog("released", Roles("user", "items", order=ROW, watched="feedback"), read)


def generated(settings: synthetic.Settings) -> RawLog:
    """A log drawn from a seed."""
    synthetic.check(settings)

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        for frame in synthetic.frames(settings):
            yield Piece(Path("synthetic"), frame.select(names).with_row_index(ROW), {})

    roles = Roles(
        "user_id", "item_id", time="time_ms", watched="long_view", play="play_time_ms", duration="duration_ms"
    )
    return RawLog("synthetic", roles, read, law=settings)


def kuairand(path: Path, roles: Roles | None, *, random_logs: bool) -> RawLog:
    """KuaiRand-Pure, -1K or -27K as published: the folder, or the one above it.

    It reads the standard logs of 8-21 April and of 22 April - 8 May, then (unless `random_logs` is False) the log of
    randomly exposed videos. Each may come in parts. If video_features_basic is there, its `video_duration` replaces a
    `duration_ms` of 0.
    """
    folder = path / "data" if (path / "data").is_dir() else path
    if not folder.is_dir():
        raise ValueError(
            f"{path}: no such folder; pass the folder that holds the log_standard_*.csv of KuaiRand as --input"
        )
    pattern = re.compile(
        r"(log_standard|log_random)_(4_08_to_4_21|4_22_to_5_08)_(pure|1k|27k)(?:_part(\d+))?\.csv(\.gz)?"
    )
    found = [(match, file) for file in folder.iterdir() if (match := pattern.fullmatch(file.name.lower()))]
    versions = sorted({match[3] for match, _ in found})
    if not any(match[1] == "log_standard" for match, _ in found):
        raise ValueError(
            f"{folder}: no log_standard_4_08_to_4_21_*.csv here; unpack KuaiRand and pass that folder as --input"
        )
    if len(versions) > 1:
        raise ValueError(f"{folder}: holds KuaiRand {' and '.join(versions)}; keep one of them in the folder")
    found = [(match, file) for match, file in found if random_logs or match[1] == "log_standard"]
    found.sort(key=lambda pair: (pair[0][1] == "log_random", pair[0][2], int(pair[0][4] or 0)))
    files = [file for _, file in found]
    features = sorted(folder.glob(f"video_features_basic_{versions[0]}.csv*"))
    defaults = Roles(
        "user_id",
        "video_id",
        time="time_ms",
        watched="long_view",
        play="play_time_ms",
        duration="duration_ms",
        dislike="is_hate",
    )

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        pieces = _files(files, names, drop)
        if not features or "duration_ms" not in names:
            return pieces
        table = _table(features[0], ("video_id", "video_duration"), drop)
        return (_with_durations(piece, table) for piece in pieces)

    return RawLog("kuairand", roles or defaults, read)


def wechat2021(path: Path) -> RawLog:
    """WeChat Big Data Challenge 2021: user_action.csv, with the durations of feed_info.csv if that is there.

    The log has days and no times: exposures of one day keep the order of the file.
    """
    actions, feeds = path / "user_action.csv", path / "feed_info.csv"
    if not actions.is_file():
        raise ValueError(f"{path}: no user_action.csv here; pass the folder that holds it and feed_info.csv as --input")
    has_feeds = feeds.is_file()
    roles = Roles("userid", "feedid", order="date_", play="play", duration="videoplayseconds" if has_feeds else "")

    def read(names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
        pieces = _files([actions], [name for name in names if name != "videoplayseconds"], drop)
        if not has_feeds:
            return pieces
        table = _table(feeds, ("feedid", "videoplayseconds"), drop)
        return (
            piece._replace(frame=piece.frame.join(table, on="feedid", how="left", maintain_order="left"))
            for piece in pieces
        )

    return RawLog("wechat2021", roles, read, Units(duration=1000.0), label="ratio:0.5" if has_feeds else "seconds:5")


def _files(files: Sequence[Path], names: Sequence[str], drop: Sequence[str]) -> Iterator[Piece]:
    """The pieces of several files, one after the other."""
    for file in files:
        yield from rawfiles.read(file, names, drop=drop)


def _table(path: Path, names: Sequence[str], drop: Sequence[str]) -> pl.DataFrame:
    """A small table in memory; its first column is a key, and the first row of each key is kept."""
    frame = pl.concat([piece.frame for piece in rawfiles.read(path, names, drop=drop)])
    return frame.select(names).unique(names[0], keep="first", maintain_order=True)


def _with_durations(piece: Piece, table: pl.DataFrame) -> Piece:
    """Fills durations that are missing or 0 from the table of videos."""
    frame = piece.frame.join(table, on="video_id", how="left", maintain_order="left")
    unknown = pl.col("duration_ms").is_null() | (pl.col("duration_ms") == "0")
    filled = pl.when(unknown).then(pl.coalesce("video_duration", "duration_ms")).otherwise("duration_ms")
    return piece._replace(frame=frame.with_columns(filled.alias("duration_ms")).drop("video_duration"))


def _exploded(piece: Piece, drop: Sequence[str]) -> Piece:
    """Turns one row per user into one row per exposure."""
    lists = piece.frame.with_columns(pl.col("items", "feedback").str.strip_chars().str.split(" ").list.drop_nulls())
    unequal = lists["items"].list.len().fill_null(0) != lists["feedback"].list.len().fill_null(0)
    if unequal.any() and "invalid" not in drop:
        row = lists.row(unequal.to_list().index(True), named=True)
        raise ValueError(
            f"{piece.path}, row {row[ROW]}: {len(row['items'] or [])} items but {len(row['feedback'] or [])} "
            "feedbacks; mend the row, or leave such rows out with --on_bad_row=drop"
        )
    dropped = dict(piece.dropped)
    if unequal.any():
        dropped["items and feedback of unequal length"] = int(unequal.sum())
    rows = lists.filter(~unequal).explode("items", "feedback")
    foreign = ~rows["items"].str.contains(r"^[1-9]\d{0,9}$").fill_null(True)
    if foreign.any() and "invalid" not in drop:
        row = rows.row(foreign.to_list().index(True), named=True)
        raise ValueError(
            f"{piece.path}, row {row[ROW]}: item {row['items']!r} is not a number from 1 (blanks separate items); "
            "mend the row, or leave such items out with --on_bad_row=drop"
        )
    if foreign.any():
        dropped["items that are not numbers from 1"] = int(foreign.sum())
    return Piece(piece.path, rows.filter(~foreign), dropped)
