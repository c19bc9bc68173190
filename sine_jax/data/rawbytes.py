"""The bytes of raw files: decompressed by what they begin with, and text made UTF-8 with line ends of one kind.

A name is not trusted: a gzip file may be called log.csv. Everything is read in bounded memory, up to a limit of bytes.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

import pyarrow

MAX_BYTES = 10**11  # of one file, decompressed, unless the user says otherwise
CHUNK_BYTES = 1 << 22
HEAD_BYTES = 512  # what a format is told by

_ZIP = b"PK\x03\x04"
_COMPRESSED: dict[bytes, tuple[str, Callable[[IO[bytes]], IO[bytes]]]] = {
    b"\x1f\x8b": ("gzip", lambda stream: cast(IO[bytes], gzip.GzipFile(fileobj=stream))),
    b"BZh": ("bzip2", lambda stream: cast(IO[bytes], bz2.BZ2File(stream))),
    b"\xfd7zXZ\x00": ("xz", lambda stream: cast(IO[bytes], lzma.LZMAFile(stream))),
    b"\x28\xb5\x2f\xfd": ("zstd", lambda stream: cast(IO[bytes], pyarrow.CompressedInputStream(stream, "zstd"))),
}
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pyarrow.ArrowException)
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class Content(NamedTuple):
    """One table of a file: the file itself, or a member of a zip file."""

    path: Path  # for messages
    head: bytes  # its first bytes, decompressed
    chunks: Iterator[bytes]  # all of them, the head included
    compressed: bool


def contents(path: Path, *, max_bytes: int, wanted: Callable[[str], bool]) -> Iterator[Content]:
    """The tables of a file, one after the other; each must be used up, or left, before the next is asked for.

    Args:
      path: the file.
      max_bytes: how many bytes a table may have when decompressed.
      wanted: which members of a zip file are tables, by their names.

    Raises:
      ValueError: it is damaged, or larger than allowed, or a zip file without a table.
    """
    with open(path, "rb") as stream:
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        if head.startswith(_ZIP):
            yield from _members(path, stream, max_bytes=max_bytes, wanted=wanted)
            return
        kind, opened, compressed = "", cast(IO[bytes], stream), False
        for magic, (name, unpack) in _COMPRESSED.items():
            if head.startswith(magic):
                kind, opened, compressed = name, unpack(stream), True
        yield _content(path, opened, kind, max_bytes=max_bytes, compressed=compressed)


def _members(path: Path, stream: IO[bytes], *, max_bytes: int, wanted: Callable[[str], bool]) -> Iterator[Content]:
    """The tables of a zip file in the order of their names."""
    with _intact(path, "zip"):
        archive = zipfile.ZipFile(stream)
    names = sorted(name for name in archive.namelist() if not name.endswith("/") and wanted(name))
    if not names:
        raise ValueError(f"{path}: no table in this zip file; pass CSV, JSON lines or Parquet instead")
    for name in names:
        with _intact(path, "zip"):
            member = archive.open(name)
        yield _content(path / name, member, "zip", max_bytes=max_bytes, compressed=True)


def _content(path: Path, stream: IO[bytes], kind: str, *, max_bytes: int, compressed: bool) -> Content:
    chunks = _limited(path, stream, kind, max_bytes)
    first = next(chunks, b"")
    while first and len(first) < HEAD_BYTES and (more := next(chunks, b"")):
        first += more

    def every() -> Iterator[bytes]:
        yield first
        yield from chunks

    return Content(path, first[:HEAD_BYTES], every(), compressed)


def _limited(path: Path, stream: IO[bytes], kind: str, max_bytes: int) -> Iterator[bytes]:
    total = 0
    while True:
        with _intact(path, kind):
            chunk = stream.read(CHUNK_BYTES)
        if not chunk:
            return
        total += len(chunk)
        if total > max_bytes:
            raise ValueError(
                f"{path}: it has more than {max_bytes:,} bytes{' when unpacked' if kind else ''}; pass a larger "
                "--max_bytes if that is right"
            )
        yield chunk


@contextlib.contextmanager
def _intact(path: Path, kind: str) -> Iterator[None]:
    """Raises a ValueError instead of what a damaged compressed file raises."""
    try:
        yield
    except (*_DAMAGED, RuntimeError, NotImplementedError) as error:  # a password, or a method that is not supported
        if not kind:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: the {kind} file is truncated or damaged ({reason}); copy or download it again"
        ) from error


def text(content: Content) -> Iterator[bytes]:
    """The text of a table as UTF-8 without a byte order mark, with every line end a newline.

    Raises:
      ValueError: it begins with the mark of UTF-16 and is not that, or it is binary.
    """
    chunks = content.chunks
    bom = next((mark for mark in _BOMS if content.head.startswith(mark)), b"")
    if bom and _BOMS[bom] != "utf-8":
        chunks = _decoded(content.path, chunks, _BOMS[bom])
    elif b"\0" in content.head:
        raise ValueError(f"{content.path}: a binary file of a kind that is not read; write it as CSV or Parquet")
    held, begun = b"", not bom
    for chunk in chunks:
        if not begun:
            chunk, begun = chunk[3:] if bom == codecs.BOM_UTF8 else chunk, True
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""  # a newline may follow
        chunk = chunk[: len(chunk) - len(held)]
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if chunk:
            yield chunk
    if held:
        yield b"\n"


def _decoded(path: Path, chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """UTF-16 as UTF-8, without its mark."""
    decoder, begun = codecs.getincrementaldecoder(encoding)(), False
    try:
        for chunk in chunks:
            found = decoder.decode(chunk)
            yield (found if begun else found.removeprefix("\ufeff")).encode()
            begun = begun or bool(found)
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise ValueError(f"{path}: the text is not {encoding[:6].upper()}; save the file as UTF-8") from error


def whole(content: Content) -> pyarrow.BufferReader | None:
    """A compressed table in memory, for formats that are read from their end; None if the file itself can be read."""
    if not content.compressed:
        return None
    memory = io.BytesIO()
    for chunk in content.chunks:
        memory.write(chunk)
    return pyarrow.BufferReader(memory.getbuffer())
