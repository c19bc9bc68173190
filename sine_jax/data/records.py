"""Records of a log: the columns of many users in each, written and read by tfds (array_record).

The description that tfds writes beside the records is for other programs. It is not read here, because it names classes
that tfds would import.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

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
        return tfds.core.DatasetInfo(
            builder=self,
            description="Exposures of short videos with feedback, sorted by user and time.",
            features=_features(self._names),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for key, block in enumerate(self._blocks):
            yield key, {name: column(block, name) for name in self._names}


def _features(names: Sequence[str]) -> tfds.features.FeaturesDict:
    """How a record holds these columns."""
    bytes_of = tfds.features.Encoding.BYTES
    return tfds.features.FeaturesDict(
        {name: tfds.features.Tensor(shape=(None,), dtype=DTYPES[name], encoding=bytes_of) for name in names}
    )


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


def is_records(name: str) -> bool:
    """Whether a file of a data set holds records."""
    return name.startswith(f"exposures-{SPLIT}.array_record-")


def read(files: Sequence[Path], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Reads all records of some files into columns that are allocated once.

    Args:
      files: of records, in order.
      sizes: how long each column is, by its name in DTYPES.

    Raises:
      ValueError: a column has another size.
      Exception: whatever tfds and array_record raise for damaged files.
    """
    columns = {name: np.empty(size, DTYPES[name]) for name, size in sizes.items()}
    filled = dict.fromkeys(sizes, 0)
    features = _features(list(sizes))
    for record in ArrayRecordDataSource([str(file) for file in files]) if files else ():
        for name, values in features.deserialize_example_np(record).items():
            columns[name][filled[name] : filled[name] + len(values)] = values
            filled[name] += len(values)
    for name, size in sizes.items():
        if filled[name] != size:
            raise ValueError(f"{filled[name]} {name} instead of {size}")
    return columns
