"""Raw tables, read piece by piece, from a file or a folder of any of the formats that logs come in.

Delimited text, JSON lines, Parquet and Arrow are told by their first bytes, as is their compression. A piece has a
bounded size, however large the file is, and records where each row stood, so that an error can name the row.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from sine_jax.data import rawbytes, rawtables, rawtext
from sine_jax.data.rawbytes import MAX_BYTES, Content
from sine_jax.data.rawtext import ROW, Style
from sine_jax.plain import nearest

__all__ = ["MAX_BYTES", "ROW", "File", "Found", "Piece", "Style", "find", "read"]

_TEXT = (".csv", ".tsv", ".psv", ".txt", ".dat", ".inter", ".jsonl", ".ndjson", ".json")
SUFFIXES = (*_TEXT, ".parquet", ".pq", ".feather", ".arrow", ".ipc")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_PART = re.compile(r"(part-|\d{6}_\d)[\w.-]*")  # what Spark and Hive call files, with or without a suffix
AS_FOUND = Style()
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class File(NamedTuple):
    """A file to read."""

    path: Path
    columns: Mapping[str, str | None] = {}  # of `name=value` folders above it


class Found(NamedTuple):
    """What a path holds."""

    files: list[File]
    not_read: list[str]  # files that are no tables by their names, relative to the folder


class Piece(NamedTuple):
    """Consecutive rows of one file: the columns asked for, and ROW."""

    path: Path
    frame: pl.DataFrame
    dropped: Mapping[str, int] = {}  # rows left out, by reason
    missing: Mapping[str, int] = {}  # cells without a value, by column, in rows that are kept
    read_as: Mapping[str, tuple[str, str]] = {}  # how text and each role was understood, and some values


def find(path: Path) -> Found:
    """The file `path`, or the tables of the folder `path` and of the folders in it, in the order of their paths.

    In a folder, names that begin with `.` or `_` are no tables. A folder called `name=value` gives its files a column.

    Raises:
      ValueError: there is no such path, or it is a folder without tables.
    """
    if not path.exists():
        near = [str(path.parent / n) for n in nearest(path.name, [f.name for f in path.parent.glob("*")])]
        raise ValueError(f"{path}: no such file or folder; pass {near[0] if near else 'one that exists'} instead")
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"{path}: neither a file nor a folder; pass a file or a folder instead")
        return Found([File(path)], [])
    files, not_read = [], []
    for folder, folders, names in os.walk(path, onerror=_cannot_be_read):
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if _counts(name) and name not in linked)
        for name in (*names, *linked):
            file = Path(folder) / name
            if _counts(name) and _is_table(name) and file.is_file():
                files.append(File(file, _of_folders(file.relative_to(path).parts[:-1])))
            else:
                not_read.append(str(file.relative_to(path)))
    if not files:
        raise ValueError(
            f"{path}: no table in this folder; name one with files that end in {', '.join(SUFFIXES)}, or name a file"
        )
    return Found(sorted(files, key=lambda file: file.path.parts), sorted(not_read))


def _cannot_be_read(error: OSError) -> None:
    raise ValueError(f"{error.filename}: the folder cannot be read ({error.strerror}); give yourself leave to read it")


def _counts(name: str) -> bool:
    return not name.startswith((".", "_"))


def _is_table(name: str) -> bool:
    """Whether a name is that of a table, packed or not, in any case."""
    name = name.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix) if name.endswith((*(end + suffix for end in SUFFIXES), ".zip")) else name
    return name.endswith(SUFFIXES) or _PART.fullmatch(name) is not None


def _of_folders(names: Sequence[str]) -> dict[str, str | None]:
    """The columns that folders called `name=value` stand for."""
    pairs = (name.partition("=") for name in names if "=" in name)
    return {name: None if value == _NO_VALUE else urllib.parse.unquote(value) for name, _, value in pairs}


def read(
    file: Path | File,
    columns: Sequence[str],
    *,
    drop: Sequence[str] = (),
    style: Style = AS_FOUND,
    max_bytes: int = MAX_BYTES,
    part: bool = False,
) -> Iterator[Piece]:
    """Reads the named columns of one file, piece by piece.

    Text columns become strings, and empty cells null. Columns of Parquet and Arrow keep their types.

    Args:
      file: what to read.
      columns: the columns; the file, or the folders above it, must have each of them.
      drop: with `ragged` among them, rows with too many or too few fields are dropped and counted.
      style: how text is written.
      max_bytes: how large it may be when decompressed.
      part: whether it is one file of several, which may be empty.

    Raises:
      ValueError: the file or a row is bad; the message has file, row and remedy.
    """
    path, given = (file, {}) if isinstance(file, Path) else file
    read_any = False
    try:
        for content in rawbytes.contents(path, max_bytes=max_bytes, wanted=lambda name: _is_table(Path(name).name)):
            if not content.head:
                continue
            for piece in _pieces(content, columns, given, drop=drop, style=style, max_bytes=max_bytes):
                read_any = True
                yield piece
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}); pass a file that can") from error
    if not read_any and not part:
        raise ValueError(f"{path}: the file is empty; write column names in its first row")


def _pieces(
    content: Content,
    columns: Sequence[str],
    given: Mapping[str, str | None],
    *,
    drop: Sequence[str],
    style: Style,
    max_bytes: int,
) -> Iterator[Piece]:
    """The pieces of one table, with the columns that its folders give it."""
    own = [name for name in columns if name not in given]
    tables: Iterator[rawtext.Table]
    if rawtables.is_table(content.head):
        tables = (rawtext.Table(each, {}, "") for each in rawtables.read(content, own, max_bytes=max_bytes))
    elif re.match(rb"\[\s*\{", content.head.removeprefix(b"\xef\xbb\xbf").lstrip()):
        raise ValueError(f"{content.path}: one JSON array, which is not read piece by piece; write an object per line")
    elif content.head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        tables = rawtext.json_lines(content, own, drop=drop)
    else:
        tables = rawtext.delimited(content, own, drop=drop, style=style)
    for table in tables:
        frame = table.frame.with_columns(
            pl.lit(given[name], pl.String).alias(name) for name in columns if name in given
        )
        told = {"text": (table.told, "")} if table.told else {}
        yield Piece(content.path, frame.select(*columns, ROW), table.dropped, read_as=told)
