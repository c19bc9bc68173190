"""Raw tables, read piece by piece: CSV (also .gz), Parquet, or a folder of them.

A piece has a bounded size, however large the file is. It records where each row stood in the file, so that an error can
name the row. Faults of the file itself (encoding, compression, ragged rows) are found here.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import polars as pl

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")
ROW = "#row"  # where a row stood: its line in a text file (the header is line 1), its number from 1 in Parquet
BLOCK_BYTES = 1 << 26
SLICE_ROWS = 1 << 20

NEWLINE, RETURN, QUOTE = b'\n\r"'


class Piece(NamedTuple):
    """Consecutive rows of one file: the columns asked for, and ROW."""

    path: Path
    frame: pl.DataFrame
    dropped: dict[str, int]  # rows left out, by reason


def find(path: Path) -> list[Path]:
    """The file `path`, or the tables of the folder `path` in the order of their names.

    Raises:
      ValueError: there is no such path, or it is not a table, or a folder without tables.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
        if not files:
            raise ValueError(f"{path}: no table in this folder; name one with files that end in {', '.join(SUFFIXES)}")
        return files
    if not path.exists():
        near = [str(path.parent / n) for n in nearest(path.name, [f.name for f in path.parent.glob("*")])]
        raise ValueError(f"{path}: no such file or folder; pass {near[0] if near else 'one that exists'} instead")
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path}: not a table by its name; rename it so that it ends in one of {', '.join(SUFFIXES)}")
    return [path]


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """The name that was probably meant by `name`, alone in a list; an empty list if none is near."""
    lowered = {other.lower(): other for other in names}
    return [lowered[near] for near in difflib.get_close_matches(name.lower(), lowered, n=1)]


def read(
    path: Path, columns: Sequence[str], *, drop: Sequence[str] = (), header: Sequence[str] = ()
) -> Iterator[Piece]:
    """Reads the named columns of one file, piece by piece.

    Text columns become strings, and empty cells null. Parquet columns keep their types.

    Args:
      path: a file with one of SUFFIXES.
      columns: what to read; the file must have each of them.
      drop: with `ragged` among them, rows with too many or too few fields are dropped and counted.
      header: names of the columns, if the file has none itself.

    Raises:
      ValueError: the file or a row is bad; the message has file, row and remedy.
    """
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path, columns)
    else:
        yield from _read_text(path, columns, drop=drop, header=header)


def check_columns(path: Path, columns: Sequence[str], present: Sequence[str]) -> None:
    """Raises a ValueError for a column that is missing, with the nearest name, or there twice."""
    for column in columns:
        if column not in present:
            near = nearest(column, present)
            instead = repr(near[0]) if near else "one of these"
            raise ValueError(f"{path}: no column {column!r} among {', '.join(present)}; use {instead}")
        if list(present).count(column) > 1:
            raise ValueError(f"{path}: two columns are called {column!r}; rename one")


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Piece]:
    """Slices of a Parquet file."""
    try:
        lazy = pl.scan_parquet(path)
        check_columns(path, columns, lazy.collect_schema().names())
        num_rows = lazy.select(pl.len()).collect().item()
        for start in range(0, num_rows, SLICE_ROWS):
            frame = lazy.select(columns).slice(start, SLICE_ROWS).collect()
            yield Piece(path, frame.with_row_index(ROW, offset=start + 1), {})
    except (pl.exceptions.ComputeError, pl.exceptions.SchemaError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a readable Parquet file ({reason}); copy or write it again") from error


def _read_text(path: Path, columns: Sequence[str], *, drop: Sequence[str], header: Sequence[str]) -> Iterator[Piece]:
    """Blocks of a delimited text file."""
    separator, line = b"\t", 1
    with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as stream:
        with _intact(path, line):
            if stream.peek(3)[:3] == codecs.BOM_UTF8:
                stream.read(3)
            first = b"" if header else stream.readline(BLOCK_BYTES)
            while first and not first.strip():
                first, line = stream.readline(BLOCK_BYTES), line + 1
        if not header:
            if not first:
                raise ValueError(f"{path}: the file is empty; write column names in its first row")
            separator = max((b",", b"\t", b";"), key=first.count)
            header, line = _names(path, first, separator), line + 1
        check_columns(path, columns, header)
        for lines in _blocks(path, stream, line):
            yield _parse(path, lines, columns, header=header, separator=separator, drop=drop)


@contextlib.contextmanager
def _intact(path: Path, line: int) -> Iterator[None]:
    """Raises a ValueError instead of what a damaged gzip file raises."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: the gzip file is truncated or damaged somewhere after row {line}; copy or download it again"
        ) from error


def _names(path: Path, first: bytes, separator: bytes) -> list[str]:
    """The column names of a header line."""
    try:
        text = first.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, row 1: the text is not UTF-8; save the file as UTF-8") from error
    return [name.strip() for name in next(csv.reader([text], delimiter=separator.decode()))]


class _Lines(NamedTuple):
    """Complete rows of text, with CRLF made LF, and the line on which they begin."""

    text: bytes
    first: int
    ends: np.ndarray  # [number of rows] positions of the newlines that end a row
    inside: np.ndarray | None  # [len(text)] True within quotes; None if there are none


def _blocks(path: Path, stream: gzip.GzipFile | IO[bytes], line: int) -> Iterator[_Lines]:
    """Cuts a stream after the last complete row of each block."""
    rest, more = b"", True
    while more:
        with _intact(path, line):
            fresh = stream.read(BLOCK_BYTES)
        more = bool(fresh)
        text = (rest + fresh).replace(b"\r\n", b"\n")
        if not more and text and not text.endswith(b"\n"):
            text += b"\n"
        array = np.frombuffer(text, np.uint8)
        ends, inside = array == NEWLINE, None
        if QUOTE in text:
            inside = np.logical_xor.accumulate(array == QUOTE)
            ends &= ~inside
        ends = np.flatnonzero(ends)
        cut = int(ends[-1]) + 1 if len(ends) else 0
        if cut < len(text) and (not more or (cut == 0 and len(text) > BLOCK_BYTES)):
            begins = line + text[:cut].count(b"\n")
            raise ValueError(f"{path}, row {begins}: a quote is opened and never closed; close or remove it")
        if cut:
            yield _Lines(text[:cut], line, ends, None if inside is None else inside[:cut])
            line += text[:cut].count(b"\n")
        rest = text[cut:]


def _parse(
    path: Path, lines: _Lines, columns: Sequence[str], *, header: Sequence[str], separator: bytes, drop: Sequence[str]
) -> Piece:
    """Turns rows of text into columns of strings; blank lines are skipped, ragged rows refused or dropped."""
    array = np.frombuffer(lines.text, np.uint8)
    starts = np.concatenate([[0], lines.ends[:-1] + 1])
    separators, newlines = array == separator[0], array == NEWLINE
    numbers = lines.first + np.arange(len(starts))
    if lines.inside is not None:
        separators &= ~lines.inside
        numbers = lines.first + np.concatenate([[0], np.cumsum(newlines)[lines.ends[:-1]]])
    fields = np.add.reduceat(separators, starts, dtype=np.int32) + 1
    lengths = lines.ends + 1 - starts
    blank = lengths == 1
    ragged = ~blank & (fields != len(header))
    if ragged.any() and "ragged" not in drop:
        at = int(np.argmax(ragged))
        raise ValueError(
            f"{path}, row {numbers[at]}: {fields[at]} fields where the header has {len(header)}; "
            "mend the row, or leave such rows out with --on_bad_row=drop"
        )
    keep = ~(blank | ragged)
    text = lines.text if keep.all() else array[np.repeat(keep, lengths)].tobytes()
    frame = _strings(path, text, columns, numbers[keep], header=header, separator=separator)
    return Piece(path, frame, {"ragged row": int(ragged.sum())} if ragged.any() else {})


def _strings(
    path: Path, text: bytes, columns: Sequence[str], numbers: np.ndarray, *, header: Sequence[str], separator: bytes
) -> pl.DataFrame:
    """The named columns of well-formed rows, as strings, with their line numbers."""
    names = separator.join(b"%d" % place for place in range(len(header)))  # a raw name may appear twice
    wanted = {str(header.index(name)): name for name in columns}
    if not text:
        return pl.DataFrame(schema={**dict.fromkeys(columns, pl.String), ROW: pl.Int64})
    try:
        frame = pl.read_csv(
            names + b"\n" + text, infer_schema=False, columns=list(wanted), separator=separator.decode()
        ).rename(wanted)
    except pl.exceptions.ComputeError as error:
        try:
            text.decode()
        except UnicodeDecodeError as wrong:
            number = numbers[min(text[: wrong.start].count(b"\n"), len(numbers) - 1)]
            raise ValueError(f"{path}, row {number}: the text is not UTF-8; save the file as UTF-8") from error
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}, from row {numbers[0]}: not readable as CSV ({reason}); write it again") from error
    if len(frame) != len(numbers):
        raise ValueError(f"{path}, from row {numbers[0]}: quotes are not paired; write CSV as RFC 4180 defines it")
    return frame.with_columns(pl.Series(ROW, numbers, dtype=pl.Int64))
