"""Prepared data sets: their columns, their vocabulary and their description.

A prepared data set is a folder:

  exposures-log.array_record-*   the log, many users in each record (see records)
  dataset_info.json, features.json   its description for tfds; `tfds.builder_from_directory` reads the folder too
  users.parquet, items.parquet   the vocabulary: external ids, in the order of the numbers 0..U-1 and 1..N;
                                 beside them, for a synthetic log, what it was drawn from (see law)
  info.json                      DataInfo: label rule, filters, counts, skip rate, fingerprints, versions
  manifest.json                  size and SHA-256 of every other file (see manifest)
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sine_jax import files
from sine_jax.data import manifest, records
from sine_jax.types import EventLog

INFO, USERS, ITEMS = "info.json", "users.parquet", "items.parquet"


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """The description of a prepared data set.

    `fingerprint` identifies the content: the columns of the log in their final order, and the external ids of users and
    items. It does not depend on the files that the log came from, their format or compression, the name of the label
    rule or the versions. `vocabulary` identifies the item ids in order, which connect a model's item embeddings to
    items.
    """

    source: str
    num_users: int
    num_items: int
    num_events: int
    num_watched: int
    num_skipped: int
    num_disliked: int
    skip_rate: float  # skipped / (skipped + watched)
    has_times: bool
    label_rule: str
    filters: dict[str, int]
    dropped: dict[str, int]  # left out, by reason
    fingerprint: str
    vocabulary: str
    versions: dict[str, str]
    contexts: dict[str, list[str]] = dataclasses.field(
        default_factory=dict
    )  # values by column, numbered from 1 over all
    missing: dict[str, int] = dataclasses.field(default_factory=dict)  # cells without a value, by raw column
    read_as: dict[str, str] = dataclasses.field(default_factory=dict)  # how text and each role was understood
    not_read: list[str] = dataclasses.field(default_factory=list)  # files of the input that are no tables
    equal_rows: int = 0  # exposures that are equal to an earlier one in all that was read
    law: dict[str, Any] | None = None  # settings of a synthetic log (see data.law)

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> DataInfo:
        """The inverse of `to_json`."""
        return DataInfo(**json.loads(text))


class Dataset(NamedTuple):
    """A prepared data set in memory."""

    log: EventLog
    info: DataInfo
    path: str


def load(path: str | os.PathLike[str]) -> Dataset:
    """Reads a prepared data set into columns, and checks it against its fingerprint.

    Raises:
      ValueError: there is no data set, or it is damaged or incomplete.
    """
    info = read_info(path)
    per_exposure = {"contexts": len(info.contexts)}
    names = records.names(len(info.contexts))
    sizes = {name: info.num_events * per_exposure.get(name, 1) for name in names} | {"lengths": info.num_users}
    files = [file for file in manifest.verify(path, manifest.read(path)) if records.is_records(file.name)]
    try:
        columns = records.read(files, sizes)
    except Exception as error:  # array_record raises many types for a damaged file
        raise ValueError(f"{path}: the prepared data set is damaged ({first_line(error)}); prepare it again") from error
    digests = [hashlib.sha256(columns[name].data).hexdigest() for name in names]
    digests += [id_digest(_ids(Path(path) / USERS)), id_digest(_ids(Path(path) / ITEMS))]
    if combined_digest(digests) != info.fingerprint:
        raise ValueError(
            f"{path}: the prepared data set is damaged (it does not match its fingerprint); prepare it again"
        )
    offsets = np.concatenate([[0], np.cumsum(columns.pop("lengths"))])
    if info.contexts:
        columns["contexts"] = columns["contexts"].reshape(-1, len(info.contexts))
    return Dataset(EventLog(**columns, offsets=offsets), info, str(path))


def read_info(path: str | os.PathLike[str]) -> DataInfo:
    """Reads the description of a prepared data set.

    Raises:
      ValueError: there is no data set, or its description cannot be read.
    """
    file = Path(path) / INFO
    if not file.is_file():
        raise ValueError(f"{path}: no prepared data set here ({INFO} is missing); make one with launch.prepare")
    manifest.verify(path, [INFO])
    try:
        return DataInfo.from_json(file.read_text())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: damaged, or of another version ({error}); prepare the data set again") from error


def user_ids(path: str | os.PathLike[str]) -> pl.Series:
    """The external ids of users 0..U-1."""
    return _ids(Path(path) / USERS)


def item_ids(path: str | os.PathLike[str]) -> pl.Series:
    """The external ids of items, each at the item's number; the id at 0, PAD, is empty."""
    return pl.concat([pl.Series("id", [""]), _ids(Path(path) / ITEMS)])


def copy_catalogue(path: str | os.PathLike[str], out: Path) -> None:
    """Copies the description and the item ids of a data set, unless they are there already."""
    with contextlib.suppress(ValueError):
        if read_info(out) == read_info(path) and manifest.verify(out, [ITEMS]):
            return
    shutil.rmtree(out, ignore_errors=True)
    with files.write_folder_whole(out) as folder:
        for file in manifest.verify(path, [INFO, ITEMS]):
            shutil.copyfile(file, folder / file.name)
        manifest.write(folder)


def id_digest(ids: pl.Series) -> str:
    """SHA-256 of external ids: their lengths in bytes, then their bytes."""
    digest = hashlib.sha256(ids.str.len_bytes().cast(pl.Int64).to_numpy().data)
    digest.update("".join(ids.to_list()).encode())
    return digest.hexdigest()


def combined_digest(digests: Sequence[str]) -> str:
    """One fingerprint of several."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:32]


def vocabulary(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of a vocabulary file: `id`, and those of the law of a synthetic log.

    Raises:
      ValueError: the file is damaged or missing.
    """
    manifest.verify(file.parent, [file.name])
    try:
        return pl.read_parquet(file, glob=False).select(columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{file}: damaged or missing; prepare the data set again") from error


def _ids(file: Path) -> pl.Series:
    return vocabulary(file, ["id"])["id"]


def first_line(error: Exception) -> str:
    """An error in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
