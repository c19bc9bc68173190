"""Parquet and Arrow files, slice by slice. Arrow reads them, because it reports damage as an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow
import pyarrow.parquet

from sine_jax.data import rawbytes
from sine_jax.data.rawbytes import Content
from sine_jax.data.rawtext import ROW, check_columns

SLICE_ROWS = 1 << 18
PARQUET, FEATHER, STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"  # what such files begin with
OLD_FEATHER = b"FEA1"


def is_table(head: bytes) -> bool:
    """Whether a file that begins so is one of these."""
    return head.startswith((PARQUET, FEATHER, STREAM, OLD_FEATHER))


def read(content: Content, columns: Sequence[str], *, max_bytes: int) -> Iterator[pl.DataFrame]:
    """Slices of a table with their types: the columns asked for, and ROW.

    Args:
      content: the table.
      columns: what to read.
      max_bytes: how much memory all slices may take together.

    Raises:
      ValueError: a column is missing, the file is damaged, or larger than allowed.
    """
    path, head = content.path, content.head
    kind = "Parquet" if head.startswith(PARQUET) else "Arrow"
    if head.startswith(OLD_FEATHER):
        raise ValueError(f"{path}: Feather of version 1, which is not read; write it as Parquet")
    start = total = 0
    with _intact(path, kind):
        memory = rawbytes.whole(content)
        with pyarrow.OSFile(str(path)) if memory is None else memory as source:
            for batch in _batches(path, source, head, columns):
                total += batch.nbytes
                if total > max_bytes:
                    raise ValueError(
                        f"{path}: its values take more than {max_bytes:,} bytes; pass a larger --max_bytes if that "
                        "is right"
                    )
                frame = _frame(path, batch)
                yield frame.with_row_index(ROW, offset=start + 1).cast({ROW: pl.Int64})
                start += len(frame)
    if not start:
        yield pl.DataFrame(schema={**dict.fromkeys(columns, pl.String), ROW: pl.Int64})


def _batches(
    path: Path, source: pyarrow.NativeFile, head: bytes, columns: Sequence[str]
) -> Iterator[pyarrow.RecordBatch]:
    """Record batches of the columns asked for."""
    if head.startswith(PARQUET):
        file = pyarrow.parquet.ParquetFile(source)
        check_columns(path, columns, file.schema_arrow.names)
        yield from file.iter_batches(SLICE_ROWS, columns=list(columns))
        return
    reader = pyarrow.ipc.open_file(source) if head.startswith(FEATHER) else pyarrow.ipc.open_stream(source)
    check_columns(path, columns, reader.schema.names)
    number = getattr(reader, "num_record_batches", None)
    for batch in map(reader.get_batch, range(number)) if number is not None else reader:
        for begin in range(0, len(batch), SLICE_ROWS):
            yield batch.slice(begin, SLICE_ROWS).select(list(columns))


def _frame(path: Path, batch: pyarrow.RecordBatch) -> pl.DataFrame:
    """A batch for polars. Types that polars does not have are refused with the column."""
    series = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
            numbered = pyarrow.types.is_dictionary(column.type) and pyarrow.types.is_primitive(column.type.value_type)
            series.append(pl.Series(name, pl.from_arrow(column.dictionary_decode() if numbered else column)))
        except pyarrow.ArrowException:
            raise
        except Exception as error:  # polars has its own types for it
            raise ValueError(f"{path}: {name} has the type {column.type}, which is not read; write another") from error
    return pl.DataFrame(series)


@contextlib.contextmanager
def _intact(path: Path, kind: str) -> Iterator[None]:
    """Raises a ValueError instead of what Arrow raises for a damaged file."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, MemoryError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable {kind} file ({reason}); copy or write it again") from error
