"""Records of a log: the columns of many users in each, written and read by tfds (array_record)."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
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
}


class Exposures(tfds.core.GeneratorBasedBuilder):
    """Writes a log as records of many users each, in order.

    Columns are stored as raw bytes: writing a block copies it once, and makes no Python object per number.
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
            yield key, {name: getattr(block, name).astype(dtype, copy=False) for name, dtype in DTYPES.items()}


def write(source: str, blocks: Iterator[EventLog], scratch: Path) -> Path:
    """Writes the blocks of a log with tfds.

    Args:
      source: name of the source, of SOURCES.
      blocks: the log in order, some users at a time.
      scratch: where the folder of records is made.

    Returns:
      The folder.
    """
    tfds.disable_progress_bar()
    builder = Exposures(source, blocks, data_dir=scratch)
    with contextlib.redirect_stdout(io.StringIO()):  # tfds announces a download
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return Path(builder.data_dir)


def read(path: str | os.PathLike[str], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Reads all records of a folder into columns that are allocated once.

    Args:
      path: the folder.
      sizes: how long each column of DTYPES is.

    Raises:
      ValueError: a column has another size.
      Exception: whatever tfds and array_record raise for damaged files.
    """
    columns = {name: np.empty(sizes[name], dtype) for name, dtype in DTYPES.items()}
    filled = dict.fromkeys(DTYPES, 0)
    for record in tfds.builder_from_directory(path).as_data_source(SPLIT):
        for name, values in record.items():
            columns[name][filled[name] : filled[name] + len(values)] = values
            filled[name] += len(values)
    for name, size in sizes.items():
        if filled[name] != size:
            raise ValueError(f"{filled[name]} {name} instead of {size}")
    return columns
