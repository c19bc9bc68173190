"""Records of a log: the columns of many users in each, written and read by tfds (array_record)."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sine_jax.data.sources import SOURCES
from sine_jax.types import EventLog

FORMAT = "1.0.0"
SPLIT = "log"  # what tfds calls the records
DTYPES = {
    "items": np.int32,
    "feedback": np.int8,
    "times": np.int64,
    "plays": np.int32,
    "durations": np.int32,
    "lengths": np.int64,  # exposures of each user
    "contexts": np.int16,  # those of an exposure side by side; only in a log that has context columns
}


class Exposures(tfds.core.GeneratorBasedBuilder):
    """Writes a log as records of many users each, in order.

    Columns are stored as raw bytes: writing a block copies it once, and makes no Python object per number.
    """

    VERSION = tfds.core.Version(FORMAT)
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, version=FORMAT, description=text) for name, text in SOURCES.items()
    ]

    def __init__(self, source: str, blocks: Iterator[EventLog], names: Sequence[str], **kwargs: Any) -> None:
        """Takes the blocks that `collation.blocks` yields, and the names of the columns to write."""
        self._blocks, self._names = blocks, names
        super().__init__(config=source, file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            name: tfds.features.Tensor(shape=(None,), dtype=DTYPES[name], encoding=tfds.features.Encoding.BYTES)
            for name in self._names
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
            yield key, {name: column(block, name) for name in self._names}


def names(num_contexts: int) -> list[str]:
    """The columns of a log with this many context columns."""
    return [name for name in DTYPES if num_contexts or name != "contexts"]


def column(log: EventLog, name: str) -> np.ndarray:
    """A column of a log as it is stored."""
    return np.ascontiguousarray(getattr(log, name), DTYPES[name]).reshape(-1)


def write(source: str, blocks: Iterator[EventLog], scratch: Path, *, num_contexts: int) -> Path:
    """Writes the blocks of a log with tfds.

    Args:
      source: name of the source, of SOURCES.
      blocks: the log in order, some users at a time.
      num_contexts: context columns of the log.
      scratch: where the folder of records is made.

    Returns:
      The folder.
    """
    tfds.disable_progress_bar()
    builder = Exposures(source, blocks, names(num_contexts), data_dir=scratch)
    with contextlib.redirect_stdout(io.StringIO()):  # tfds announces a download
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return Path(builder.data_dir)


def read(path: str | os.PathLike[str], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Reads all records of a folder into columns that are allocated once.

    Args:
      path: the folder.
      sizes: how long each column is, by its name in DTYPES.

    Raises:
      ValueError: a column has another size.
      Exception: whatever tfds and array_record raise for damaged files.
    """
    columns = {name: np.empty(size, DTYPES[name]) for name, size in sizes.items()}
    filled = dict.fromkeys(sizes, 0)
    for record in tfds.builder_from_directory(path).as_data_source(SPLIT):
        for name, values in record.items():
            columns[name][filled[name] : filled[name] + len(values)] = values
            filled[name] += len(values)
    for name, size in sizes.items():
        if filled[name] != size:
            raise ValueError(f"{filled[name]} {name} instead of {size}")
    return columns
