"""Files and folders that are written whole or not at all, by one process at a time.

What is written first goes into a private folder beside its place, under a name that nobody can guess. No link that
somebody may have left there is followed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NO_ROOM = re.compile("No space left|File too large|Disk quota|RESOURCE_EXHAUSTED", re.IGNORECASE)
_PARTIAL = ".partial"  # how the name of a private folder ends
_EXCHANGE, _HERE = 2, -100  # of renameat2: swap the two; paths are relative to the working directory


@contextlib.contextmanager
def full_disk_told(path: Path, *, kept: str = "Complete checkpoints are kept") -> Iterator[None]:
    """Raises one error with its remedy instead of what any library raises for a full disk.

    Args:
      path: what is written, for the message.
      kept: what remains on the disk, for the message.

    Raises:
      ValueError: the disk is full.
    """
    try:
        yield
    except Exception as error:  # Orbax and TensorStore have their own types for it
        if not is_full(error):
            raise
        remedy = "free some space and run the same command again"
        raise ValueError(f"{path}: the disk is full. {kept}; {remedy}") from error


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return _NO_ROOM.search(str(error)) is not None


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A private folder on the disk of `path`, which is always removed at the end.

    Such folders that killed processes left for the same path are removed first.

    Raises:
      OSError: it cannot be made.
    """
    place = next(parent for parent in path.parents if parent.exists())
    begin = f".{path.name}."
    _sweep(place, begin)
    folder, held = _held_folder(place, begin)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _held_folder(place: Path, begin: str) -> tuple[Path, int]:
    """A new folder, and the open handle that says that its process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=begin, suffix=_PARTIAL, dir=place))
        held = os.open(folder, os.O_RDONLY)
        if _lock(held) and folder.exists():  # another process may have swept it just before
            return folder, held
        os.close(held)


def _sweep(place: Path, begin: str) -> None:
    """Removes private folders whose processes are dead."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(place)):
            ours = entry.name.startswith(begin) and entry.name.endswith(_PARTIAL)
            if not ours or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                held = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
                if _lock(held):
                    shutil.rmtree(entry.path, ignore_errors=True)
                os.close(held)


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path for a file or folder. At the end it is moved to `path`; after an error it is removed.

    Raises:
      ValueError: it cannot be written there, or the disk is full.
    """
    path = Path(os.path.abspath(path))
    partial = None
    try:
        with full_disk_told(path, kept="Nothing was written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with scratch(path) as folder:
                partial = folder / path.name
                yield partial
                os.replace(partial, path)
    except OSError as error:
        if error.filename not in (str(partial), str(path.parent), *map(str, path.parents)) and partial is not None:
            raise  # another file's
        raise ValueError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes or replaces a file in one step: after a crash there is the old file or the new one.

    Raises:
      ValueError: it cannot be written there, or the disk is full.
    """
    with whole(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def write_folder_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to write into. At the end it is moved to `path`, where nothing may be; after an error it is removed.

    Raises:
      ValueError: it cannot be written there, or the disk is full.
    """
    with whole(path) as partial:
        partial.mkdir()
        yield partial


def put(new: Path, path: Path) -> None:
    """Moves a folder to `path`; what was there is then at `new`. On Linux one of them is at `path` at any moment."""
    if not path.exists():
        new.rename(path)
        return
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None and rename(_HERE, os.fsencode(new), _HERE, os.fsencode(path), _EXCHANGE) == 0:
        return
    aside = new.with_name(f"{new.name}.replaced")
    path.rename(aside)
    new.rename(path)
    aside.rename(new)


@contextlib.contextmanager
def locked(file: Path, told: str) -> Iterator[None]:
    """Holds a lock file; a process that has died holds none.

    Args:
      file: the lock file; it is removed at the end.
      told: the message if another process holds it.

    Raises:
      ValueError: another process holds it.
      OSError: it cannot be made, or is a link.
    """
    while True:
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if not _lock(held):
            os.close(held)
            raise ValueError(told)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), os.stat(file, follow_symlinks=False)):
                break
        os.close(held)  # it was removed by the process that held it before
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(file)
        os.close(held)


def _lock(held: int) -> bool:
    """Locks an open file or folder, unless another process has; where there are no locks, it counts as locked."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
