"""Prepares a log: reads, validates, labels, filters, numbers, sorts and writes it, completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sine_jax import files
from sine_jax.data import collation, datasets, ingest, labels, manifest, records, synthetic
from sine_jax.data.datasets import INFO, ITEMS, USERS, DataInfo, combined_digest, id_digest
from sine_jax.data.records import FORMAT
from sine_jax.data.sources import RawLog
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog


def prepare(
    raw: RawLog,
    out: str | os.PathLike[str],
    *,
    rule: labels.Rule | None = None,
    min_positives: int = 3,
    min_exposures: int = 1,
    drop: Sequence[str] = (),
    drop_duplicates: bool = False,
    overwrite: bool = False,
) -> DataInfo:
    """Prepares a log: reads, validates, labels, filters, numbers, sorts and writes it.

    Everything is written to a temporary folder next to `out`, which is renamed at the end. There is a complete data set
    afterwards, or none.

    Args:
      raw: where the log comes from.
      out: folder of the prepared data set.
      rule: what counts as watched; None for the rule of the source.
      min_positives: users with fewer watched exposures are left out; a split needs 3.
      min_exposures: items shown less often are left out.
      drop: which bad rows to drop and count, of `ragged` and `invalid`; other bad rows are refused.
      drop_duplicates: of rows that are equal in all that is read, keep only the first; otherwise they are counted.
      overwrite: replace the prepared data set at `out`, if any.

    Returns:
      The description of the data set.

    Raises:
      ValueError: the input is bad (the message has file, row and remedy), or `out` cannot be written.
    """
    out, rule = Path(os.path.abspath(out)), rule or labels.parse(raw.label)
    _check_target(out, overwrite=overwrite)
    ingest.check_rule(raw.roles, rule)
    with _scratch(out) as scratch:
        pieces = raw.read(ingest.raw_columns(raw.roles, rule), drop)
        pieces = ingest.canonical(pieces, raw.roles, raw.units, rule, drop=drop)
        spilled = collation.spill(pieces, scratch)
        collated = collation.collate(
            spilled.files,
            scratch,
            min_positives=min_positives,
            min_exposures=min_exposures,
            drop_duplicates=drop_duplicates,
        )
        for file in spilled.files:
            file.unlink()
        num_contexts = len(collated.contexts)
        summary = _Summary(num_contexts)
        blocks = summary.through(collation.blocks(collated, summary.count_equal))
        folder = records.write(raw.name, blocks, scratch, num_contexts=num_contexts)
        truth = synthetic.truth(raw.law) if raw.law else (None, None)
        for name, ids, known in zip((ITEMS, USERS), (collated.items, collated.users), truth, strict=True):
            _with_truth(pl.DataFrame({"id": ids}), known).write_parquet(folder / name)
        info = summary.info(
            source=raw.name,
            label_rule=_readable(raw, rule),
            filters={"min_positives": min_positives, "min_exposures": min_exposures},
            dropped=spilled.dropped | collated.dropped,
            missing=spilled.missing,
            read_as=spilled.read_as,
            not_read=list(raw.not_read),
            users=collated.users,
            items=collated.items,
            contexts=collated.contexts,
            law=raw.law and raw.law._asdict(),
        )
        (folder / INFO).write_text(info.to_json())
        manifest.write(folder)
        out.parent.mkdir(parents=True, exist_ok=True)
        files.put(folder, out)
    return info


class _Summary:
    """Counts and digests of the blocks that pass through it."""

    def __init__(self, num_contexts: int) -> None:
        self._digests = {name: hashlib.sha256() for name in records.names(num_contexts)}
        self._counts = np.zeros(3, np.int64)
        self._has_times = True
        self._equal_rows = 0

    def count_equal(self, number: int) -> None:
        """Adds rows that are equal to an earlier one."""
        self._equal_rows += number

    def through(self, blocks: Iterator[EventLog]) -> Iterator[EventLog]:
        """Yields the blocks unchanged."""
        for block in blocks:
            for name, digest in self._digests.items():
                digest.update(records.column(block, name).data)
            self._counts += np.bincount(block.feedback, minlength=3)
            self._has_times &= bool((block.times >= 0).all())
            yield block

    def info(self, *, users: pl.Series, items: pl.Series, **told: Any) -> DataInfo:
        """The description, once all blocks have passed."""
        watched, skipped = int(self._counts[WATCHED]), int(self._counts[SKIPPED])
        vocabulary = id_digest(items)
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
            equal_rows=self._equal_rows,
            fingerprint=combined_digest([*digests, id_digest(users), vocabulary]),
            vocabulary=vocabulary,
            versions=_versions(),
            **told,
        )


def _with_truth(vocabulary: pl.DataFrame, known: pl.DataFrame | None) -> pl.DataFrame:
    """External ids in their order, with what is known of each in a synthetic log."""
    return vocabulary if known is None else vocabulary.join(known, on="id", how="left", maintain_order="left")


def _readable(raw: RawLog, rule: labels.Rule) -> str:
    """The label rule in words that name the raw columns."""
    named = {role: getattr(raw.roles, role) for role in rule.needs}
    dislike = f"; disliked where {raw.roles.dislike} is 1" if raw.roles.dislike else ""
    return f"{rule.text} ({', '.join(f'{role}={name}' for role, name in named.items())}){dislike}"


def _check_target(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder that has something in it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / INFO).is_file():
        raise ValueError(f"{out}: exists and is not a prepared data set; choose another --out")
    if not overwrite:
        raise ValueError(f"{out}: a prepared data set is there already; choose another --out, or pass --overwrite")


_MAKE_ROOM = "free some space or choose another --out"


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `out`, which is always removed at the end; one process at a time has it."""
    place = next(parent for parent in out.parents if parent.exists())
    busy = f"{out}: another process prepares a data set there; choose another --out"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(place / f".{out.name}.lock", busy))
            scratch = stack.enter_context(files.scratch(out))
        except OSError as error:
            raise ValueError(f"{out}: cannot be written ({error.strerror}: {place}); choose another --out") from error
        try:
            yield scratch
        except (OSError, pl.exceptions.ComputeError) as error:
            occupied = isinstance(error, OSError) and error.errno == errno.EBUSY  # a mount point cannot be replaced
            remedy = f"choose a folder inside it, such as --out={out / 'prepared'}" if occupied else _MAKE_ROOM
            raise ValueError(f"{out}: cannot be written ({datasets.first_line(error)}); {remedy}") from error


def _versions() -> dict[str, str]:
    """The versions of the format and of the packages that made the data set."""
    versions = {"format": FORMAT, "python": platform.python_version()}
    for package in ("sine_jax", "polars", "tensorflow-datasets", "array_record"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
