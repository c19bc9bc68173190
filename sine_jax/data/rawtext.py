"""Delimited text and JSON lines, block by block, as columns of strings; each row keeps the line that it stood on."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sine_jax.data import rawbytes
from sine_jax.data.rawbytes import Content
from sine_jax.plain import nearest

SEPARATORS = (",", "\t", ";", "|", "::")  # the first of those that are as frequent in the first row
BLOCK_BYTES = 1 << 26
ROW = "#row"  # where a row stood: its line in a text file (the header is line 1), its number from 1 in other files

NEWLINE, QUOTE = b'\n"'
_ONE_BYTE = "\x1f"  # stands for a separator of two characters
_TYPED = re.compile(r":(token|float)(_seq)?$")  # what follows a name in a header of RecBole


class Style(NamedTuple):
    """How the user says that text is written; empty to find it out."""

    separator: str = ""
    header: tuple[str, ...] = ()  # names of the columns, if the file has none itself


class Table(NamedTuple):
    """Some rows, and what was found out on the way."""

    frame: pl.DataFrame  # the columns asked for, and ROW
    dropped: dict[str, int]  # rows left out, by reason
    told: str  # how the text is separated


class _Lines(NamedTuple):
    """Complete rows of text, and the line on which they begin."""

    text: bytes
    first: int
    ends: np.ndarray  # [number of rows] positions of the newlines that end a row
    inside: np.ndarray | None  # [len(text)] True within quotes; None if there are none


def delimited(content: Content, columns: Sequence[str], *, drop: Sequence[str], style: Style) -> Iterator[Table]:
    """Reads delimited text; blank lines are skipped.

    Args:
      content: the table.
      columns: what to read.
      drop: with `ragged` among them, rows with too many or too few fields are dropped and counted.
      style: how it is written.

    Raises:
      ValueError: a column is missing, or a row is bad.
    """
    path, names, separator = content.path, list(style.header), style.separator
    for lines in _blocks(path, rawbytes.text(content)):
        if not separator or not names:
            first, rest = _first_row(lines)
            if not first:
                continue
            separator = separator or _separator(path, first, columns, names)
            if not names:
                names, lines = _names(path, first, separator), rest
                check_columns(path, columns, names, hint=_hint(names))
        yield _parse(path, lines, columns, names=names, separator=separator, drop=drop)


def check_columns(path: Path, columns: Sequence[str], present: Sequence[str], *, hint: str = "") -> None:
    """Raises a ValueError for a column that is missing, with the nearest name, or there twice."""
    for column in columns:
        if column not in present:
            near = nearest(column, present)
            instead = hint or (f"use {near[0]!r}" if near else "use one of these")
            raise ValueError(f"{path}: no column {column!r} among {', '.join(present)}; {instead}")
        if list(present).count(column) > 1:
            raise ValueError(f"{path}: two columns are called {column!r}; rename one")


def _hint(names: Sequence[str]) -> str:
    """What to do about a first row in which no column was found; empty if it looks like a header."""
    if len(names) == 1:
        return f"if the separator is none of {' '.join(map(repr, SEPARATORS))}, pass --separator"
    if all(re.fullmatch(r"-?[\d.,]*", name) for name in names):
        return "if the first row has no names, pass them in order by --header=NAME,NAME"
    return ""


def _first_row(lines: _Lines) -> tuple[bytes, _Lines]:
    """The first row that is not blank, and the rows after it."""
    begin = 0
    for number, end in enumerate(lines.ends):
        row = lines.text[begin:end]
        begin = int(end) + 1
        if row.strip():
            inside = None if lines.inside is None else lines.inside[begin:]
            line = lines.first + lines.text[:begin].count(b"\n")
            return row, _Lines(lines.text[begin:], line, lines.ends[number + 1 :] - begin, inside)
    return b"", lines


def _separator(path: Path, first: bytes, columns: Sequence[str], names: Sequence[str]) -> str:
    """The separator by which the first row has the names asked for, or as many as there should be; or the most."""

    def fits(separator: str) -> tuple[bool, int]:
        found = _names(path, first, separator)
        return (len(found) == len(names) if names else set(columns) <= set(found)), len(found)

    return max(SEPARATORS, key=fits)


def _names(path: Path, first: bytes, separator: str) -> list[str]:
    """The column names of a header line, without the types that RecBole writes after them."""
    try:
        text = first.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, row 1: the text is not UTF-8; save the file as UTF-8") from error
    one = _ONE_BYTE if len(separator) > 1 else separator
    names = [name.strip() for name in next(csv.reader([text.replace(separator, one)], delimiter=one))]
    return [_TYPED.sub("", name) for name in names] if all(map(_TYPED.search, names)) else names


def _blocks(path: Path, chunks: Iterator[bytes], *, quotes: bool = True) -> Iterator[_Lines]:
    """Cuts text after the last complete row of each block; with `quotes`, a row may have newlines between them."""
    rest, line, more = b"", 1, True
    while more:
        fresh, size = [rest], 0
        while size < BLOCK_BYTES:
            chunk = next(chunks, b"")
            if not chunk:
                more = False
                break
            fresh.append(chunk)
            size += len(chunk)
        text = b"".join(fresh)
        if not more and text and not text.endswith(b"\n"):
            text += b"\n"
        array = np.frombuffer(text, np.uint8)
        ends, inside = array == NEWLINE, None
        if quotes and QUOTE in text:
            inside = np.logical_xor.accumulate(array == QUOTE)
            ends &= ~inside
        ends = np.flatnonzero(ends)
        cut = int(ends[-1]) + 1 if len(ends) else 0
        if cut < len(text) and (not more or (cut == 0 and len(text) > BLOCK_BYTES)):
            begins = line + text[:cut].count(b"\n")
            raise ValueError(
                f"{path}, row {begins}: a quote is opened and never closed, or the row is longer than "
                f"{BLOCK_BYTES:,} bytes; close or remove it"
            )
        if cut:
            yield _Lines(text[:cut], line, ends, None if inside is None else inside[:cut])
            line += text[:cut].count(b"\n")
        rest = text[cut:]


def _parse(
    path: Path, lines: _Lines, columns: Sequence[str], *, names: Sequence[str], separator: str, drop: Sequence[str]
) -> Table:
    """Turns rows of text into columns of strings; blank lines are skipped, ragged rows refused or dropped."""
    told = f"separated by {separator!r}"
    if not len(lines.ends):
        return Table(pl.DataFrame(schema={**dict.fromkeys(columns, pl.String), ROW: pl.Int64}), {}, told)
    if len(separator) > 1:
        lines, separator = _with_one_byte(lines, separator), _ONE_BYTE
    array = np.frombuffer(lines.text, np.uint8)
    starts = np.concatenate([[0], lines.ends[:-1] + 1])
    separators, newlines = array == ord(separator), array == NEWLINE
    numbers = lines.first + np.arange(len(starts))
    if lines.inside is not None:
        separators &= ~lines.inside
        numbers = lines.first + np.concatenate([[0], np.cumsum(newlines)[lines.ends[:-1]]])
    fields = np.add.reduceat(separators, starts, dtype=np.int32) + 1
    lengths = lines.ends + 1 - starts
    blank = lengths == 1
    ragged = ~blank & (fields != len(names))
    if ragged.any() and "ragged" not in drop:
        at = int(np.argmax(ragged))
        most = np.count_nonzero(ragged) > len(ragged) / 2
        remedy = "pass --separator or --header" if most else "leave such rows out with --on_bad_row=drop"
        raise ValueError(
            f"{path}, row {numbers[at]}: {fields[at]} fields where the header has {len(names)}; mend the row, or "
            f"{remedy}"
        )
    keep = ~(blank | ragged)
    text = lines.text if keep.all() else array[np.repeat(keep, lengths)].tobytes()
    frame = _strings(path, text, columns, numbers[keep], names=names, separator=separator)
    return Table(frame, {"ragged row": int(ragged.sum())} if ragged.any() else {}, told)


def _with_one_byte(lines: _Lines, separator: str) -> _Lines:
    """The same rows with a separator of one character; between quotes the text stays as it is."""
    parts = lines.text.split(b'"')
    parts[::2] = [part.replace(separator.encode(), _ONE_BYTE.encode()) for part in parts[::2]]
    text = b'"'.join(parts)
    array = np.frombuffer(text, np.uint8)
    inside = None if lines.inside is None else np.logical_xor.accumulate(array == QUOTE)
    ends = np.flatnonzero(array == NEWLINE if inside is None else (array == NEWLINE) & ~inside)
    return _Lines(text, lines.first, ends, inside)


def _strings(
    path: Path, text: bytes, columns: Sequence[str], numbers: np.ndarray, *, names: Sequence[str], separator: str
) -> pl.DataFrame:
    """The named columns of well-formed rows, as strings, with their line numbers."""
    places = separator.encode().join(b"%d" % place for place in range(len(names)))  # a raw name may appear twice
    wanted = {str(list(names).index(name)): name for name in columns}
    if not text:
        return pl.DataFrame(schema={**dict.fromkeys(columns, pl.String), ROW: pl.Int64})
    try:
        frame = pl.read_csv(
            places + b"\n" + text, infer_schema=False, columns=list(wanted), separator=separator
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


def json_lines(content: Content, columns: Sequence[str], *, drop: Sequence[str]) -> Iterator[Table]:
    """Reads an object per line; numbers keep the digits that they are written with.

    Args:
      content: the table.
      columns: what to read; a name that an object lacks is missing in its row, but some row must have it.
      drop: with `ragged` among them, lines that are no objects are dropped and counted.

    Raises:
      ValueError: a column is missing everywhere, or a line is bad.
    """
    path, seen, unseen = content.path, set[str](), True
    for lines in _blocks(path, rawbytes.text(content), quotes=False):  # a line of JSON holds no newline
        rows: dict[str, list[Any]] = {name: [] for name in columns}
        numbers, bad, line, begin = [], 0, lines.first, 0
        for end in lines.ends:
            text, number = lines.text[begin:end], line
            line, begin = line + 1 + text.count(b"\n"), int(end) + 1
            if not text.strip():
                continue
            found = _object(path, number, text, drop)
            if found is None:
                bad += 1
                continue
            seen |= found.keys()
            numbers.append(number)
            for name in columns:
                rows[name].append(_cell(path, number, name, found.get(name)))
        if unseen and numbers:
            check_columns(path, columns, sorted(seen))
            unseen = False
        frame = pl.DataFrame({name: _series(path, name, values, numbers) for name, values in rows.items()})
        frame = frame.with_columns(pl.Series(ROW, numbers, dtype=pl.Int64))
        yield Table(frame, {"ragged row": bad} if bad else {}, "an object per line")


def _object(path: Path, number: int, text: bytes, drop: Sequence[str]) -> Mapping[str, Any] | None:
    """The object of a line, its numbers as text; None if the line is bad and dropped."""
    try:
        found = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        found = error
    if isinstance(found, dict):
        return found
    if "ragged" in drop:
        return None
    reason = str(found).splitlines()[0] if isinstance(found, Exception) else "it is not an object"
    raise ValueError(
        f"{path}, row {number}: not a line of JSON ({reason}); mend the row, or leave such rows out with "
        "--on_bad_row=drop"
    )


def _cell(path: Path, number: int, name: str, value: Any) -> str | list[str | None] | None:
    """A value as text, or a list of texts."""
    if isinstance(value, list):
        if not any(isinstance(each, (list, dict)) for each in value):
            return [_plain(each) for each in value]
    elif not isinstance(value, dict):
        return _plain(value)
    raise ValueError(
        f"{path}, row {number}: {name} holds an object or a list of lists; write a column of plain values, or of lists"
    )


def _plain(value: Any) -> str | None:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value


def _series(path: Path, name: str, values: Sequence[Any], numbers: Sequence[int]) -> pl.Series:
    """A column of texts, or of lists of texts."""
    lists = [isinstance(value, list) for value in values if value is not None]
    if any(lists) and not all(lists):
        odd = next(i for i, value in enumerate(values) if isinstance(value, list) != lists[0] and value is not None)
        raise ValueError(f"{path}, row {numbers[odd]}: {name} is a list in some rows only; write it as one kind")
    return pl.Series(name, values, dtype=pl.List(pl.String) if any(lists) else pl.String)
