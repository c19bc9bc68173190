"""Prepared data sets: written once by tfds, read back in one go into columns.

A prepared data set is a folder:

  exposures-log.array_record-*   the log, a block of many users per record (tfds, array_record)
  dataset_info.json, features.json   what tfds says of it; `tfds.builder_from_directory` reads the folder too
  users.parquet, items.parquet   the vocabulary: external ids, in the order of the numbers 0..U-1 and 1..N
  info.json                      DataInfo: label rule, filters, counts, skip rate, fingerprints, versions
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import tensorflow_datasets as tfds

from sine_jax import collation, ingest, labels
from sine_jax.sources import SOURCES, Source
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog

FORMAT = "1.0.0"
SPLIT = "log"
INFO, USERS, ITEMS = "info.json", "users.parquet", "items.parquet"
DTYPES = {
    "items": np.int32,
    "feedback": np.int8,
    "times": np.int64,
    "plays": np.int32,
    "durations": np.int32,
    "lengths": np.int64,  # exposures of each user
}


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a prepared data set says of itself.

    `fingerprint` is of the content: the columns of the log in their final order and the external ids of users and
    items. Neither the files it came from, their format or compression, the label rule's name nor the versions
    enter it. `vocabulary` is of the item ids in order: what ties a model's item embeddings to items.
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


class Exposures(tfds.core.GeneratorBasedBuilder):
    """Writes a log as records of many users each, in order.

    Columns are stored as raw bytes: a block costs one copy, not one Python object per number.
    """

    VERSION = tfds.core.Version(FORMAT)
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, version=FORMAT, description=text) for name, text in SOURCES.items()
    ]

    def __init__(self, source: str, blocks: Iterator[EventLog], **kwargs: Any) -> None:
        """Takes the blocks that `collation.blocks` yields."""
        self._blocks = blocks
        super().__init__(config=source, file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            name: tfds.features.Tensor(shape=(None,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)
            for name, dtype in DTYPES.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Exposures of short videos with feedback, sorted by user and time.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for key, block in enumerate(self._blocks):
            columns = {name: getattr(block, name) for name in DTYPES if name != "lengths"}
            columns["lengths"] = np.diff(block.offsets)
            yield key, {name: column.astype(DTYPES[name], copy=False) for name, column in columns.items()}


def prepare(
    source: Source,
    out: str | os.PathLike[str],
    *,
    rule: labels.Rule | None = None,
    min_positives: int = 3,
    min_exposures: int = 1,
    drop: Sequence[str] = (),
    overwrite: bool = False,
) -> DataInfo:
    """Prepares a log: reads, validates, labels, filters, numbers, sorts and writes it.

    Everything is written to a temporary folder next to `out`, which is renamed at the end: either a whole data set
    is there or nothing.

    Args:
      source: where the log comes from.
      out: folder of the prepared data set.
      rule: what counts as watched; None for the source's own.
      min_positives: users with fewer watched exposures are left out; a split needs 3.
      min_exposures: items shown less often are left out.
      drop: kinds of bad rows to drop and count, of `ragged` and `invalid`; others are refused.
      overwrite: replace a prepared data set that is there.

    Raises:
      ValueError: bad input, with file, row and remedy, or a place that cannot be written.
    """
    out, rule = Path(os.path.abspath(out)), rule or labels.parse(source.label)
    _check_target(out, overwrite=overwrite)
    ingest.check_rule(source.columns, rule)
    with _scratch(out) as scratch:
        pieces = source.read(ingest.raw_columns(source.columns, rule), drop)
        pieces = ingest.canonical(pieces, source.columns, source.units, rule, drop=drop)
        files, dropped = collation.spill(pieces, scratch)
        collated = collation.collate(files, scratch, min_positives=min_positives, min_exposures=min_exposures)
        for file in files:
            file.unlink()
        summary = _Summary()
        folder = _write_records(source.name, summary.through(collation.blocks(collated)), scratch)
        pl.DataFrame({"id": collated.users}).write_parquet(folder / USERS)
        pl.DataFrame({"id": collated.items}).write_parquet(folder / ITEMS)
        info = summary.info(
            source=source.name,
            label_rule=_readable(source, rule),
            filters={"min_positives": min_positives, "min_exposures": min_exposures},
            dropped=dropped | collated.dropped,
            users=collated.users,
            items=collated.items,
        )
        (folder / INFO).write_text(info.to_json())
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rename(scratch / "replaced")
        folder.rename(out)
    return info


def load(path: str | os.PathLike[str]) -> Dataset:
    """Reads a prepared data set into columns, and checks it against its fingerprint.

    Raises:
      ValueError: there is none, or it is damaged or incomplete.
    """
    info = read_info(path)
    log = EventLog(*(np.empty(info.num_events, DTYPES[name]) for name in EventLog._fields[:-1]), offsets=np.empty(0))
    lengths = np.empty(info.num_users, DTYPES["lengths"])
    columns = log._asdict() | {"lengths": lengths}
    filled = dict.fromkeys(DTYPES, 0)
    try:
        for record in tfds.builder_from_directory(path).as_data_source(SPLIT):
            for name, values in record.items():
                columns[name][filled[name] : filled[name] + len(values)] = values
                filled[name] += len(values)
    except Exception as error:  # tfds and array_record raise a dozen types for what is one mistake here
        raise ValueError(
            f"{path}: the prepared data set is damaged ({_first_line(error)}); prepare it again"
        ) from error
    sizes = {name: info.num_users if name == "lengths" else info.num_events for name in DTYPES}
    log = log._replace(offsets=np.concatenate([[0], np.cumsum(lengths)]))
    digests = [hashlib.sha256(columns[name]).hexdigest() for name in DTYPES]
    if filled != sizes or _combined([*digests, _digest(user_ids(path)), info.vocabulary]) != info.fingerprint:
        raise ValueError(
            f"{path}: the prepared data set is damaged (its content is not what was written); prepare it again"
        )
    return Dataset(log, info, str(path))


def read_info(path: str | os.PathLike[str]) -> DataInfo:
    """What a prepared data set says of itself.

    Raises:
      ValueError: there is none, or it is not readable.
    """
    file = Path(path) / INFO
    if not file.is_file():
        raise ValueError(f"{path}: no prepared data set here ({INFO} is missing); make one with launch.prepare")
    try:
        return DataInfo.from_json(file.read_text())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: damaged, or of another version ({error}); prepare the data set again") from error


def user_ids(path: str | os.PathLike[str]) -> pl.Series:
    """The external ids of users 0..U-1."""
    return _ids(Path(path) / USERS)


def item_ids(path: str | os.PathLike[str]) -> pl.Series:
    """The external ids of items, at their numbers; the id of PAD, at 0, is empty."""
    return pl.concat([pl.Series("id", [""]), _ids(Path(path) / ITEMS)])


def numbers(ids: pl.Series, external: Sequence[str]) -> np.ndarray:
    """The numbers of external ids in a vocabulary, the inverse of indexing it; -1 for ids it does not hold."""
    places = pl.DataFrame({"id": ids}).with_row_index("number")
    wanted = pl.DataFrame({"id": pl.Series(external, dtype=pl.String)})
    found = wanted.join(places, on="id", how="left", maintain_order="left")["number"]
    return found.cast(pl.Int32).fill_null(-1).to_numpy()


class _Summary:
    """Counts and digests of the blocks that pass through it."""

    def __init__(self) -> None:
        self._digests = {name: hashlib.sha256() for name in DTYPES}
        self._counts = np.zeros(3, np.int64)
        self._has_times = True

    def through(self, blocks: Iterator[EventLog]) -> Iterator[EventLog]:
        """Yields the blocks unchanged."""
        for block in blocks:
            for name, digest in self._digests.items():
                column = np.diff(block.offsets) if name == "lengths" else getattr(block, name)
                digest.update(np.ascontiguousarray(column, DTYPES[name]))
            self._counts += np.bincount(block.feedback, minlength=3)
            self._has_times &= bool((block.times >= 0).all())
            yield block

    def info(self, *, users: pl.Series, items: pl.Series, **told: Any) -> DataInfo:
        """What is known once all blocks have passed."""
        watched, skipped = int(self._counts[WATCHED]), int(self._counts[SKIPPED])
        vocabulary = _digest(items)
        digests = [digest.hexdigest() for digest in self._digests.values()]
        return DataInfo(
            num_users=len(users),
            num_items=len(items),
            num_events=int(self._counts.sum()),
            num_watched=watched,
            num_skipped=skipped,
            num_disliked=int(self._counts[DISLIKED]),
            skip_rate=skipped / max(1, skipped + watched),
            has_times=self._has_times,
            fingerprint=_combined([*digests, _digest(users), vocabulary]),
            vocabulary=vocabulary,
            versions=_versions(),
            **told,
        )


def _digest(ids: pl.Series) -> str:
    """SHA-256 of external ids: their lengths in bytes, then their bytes."""
    digest = hashlib.sha256(ids.str.len_bytes().cast(pl.Int64).to_numpy())
    digest.update("".join(ids.to_list()).encode())
    return digest.hexdigest()


def _combined(digests: Sequence[str]) -> str:
    """One fingerprint of several."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:32]


def _readable(source: Source, rule: labels.Rule) -> str:
    """The label rule in words that name the raw columns."""
    named = {role: getattr(source.columns, role) for role in rule.needs}
    dislike = f"; disliked where {source.columns.dislike} is 1" if source.columns.dislike else ""
    return f"{rule.text} ({', '.join(f'{role}={name}' for role, name in named.items())}){dislike}"


def _write_records(source: str, blocks: Iterator[EventLog], scratch: Path) -> Path:
    """Has tfds write the blocks; returns the folder."""
    tfds.disable_progress_bar()
    builder = Exposures(source, blocks, data_dir=scratch)
    with contextlib.redirect_stdout(io.StringIO()):  # tfds announces a download
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return Path(builder.data_dir)


def _check_target(out: Path, *, overwrite: bool) -> None:
    """Refuses a target that holds something."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / INFO).is_file():
        raise ValueError(f"{out}: exists and is no prepared data set; choose another --out")
    if not overwrite:
        raise ValueError(f"{out}: a prepared data set is there already; choose another --out, or pass --overwrite")


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder on the disk of `out` that is gone afterwards, whatever happens."""
    place = next(parent for parent in out.parents if parent.exists())
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=place))
    except OSError as error:
        raise ValueError(f"{out}: cannot be written ({error.strerror}: {place}); choose another --out") from error
    try:
        yield scratch
    except (OSError, pl.exceptions.ComputeError) as error:
        raise ValueError(
            f"{out}: cannot be written ({_first_line(error)}); free some space or choose another --out"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _ids(file: Path) -> pl.Series:
    """A vocabulary file."""
    try:
        return pl.read_parquet(file)["id"]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{file}: damaged or missing; prepare the data set again") from error


def _first_line(error: Exception) -> str:
    """An error in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _versions() -> dict[str, str]:
    """Of what made the data set."""
    versions = {"format": FORMAT, "python": platform.python_version()}
    for package in ("sine_jax", "polars", "tensorflow-datasets", "array_record"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
