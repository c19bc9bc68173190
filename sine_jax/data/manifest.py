"""The manifest of a prepared data set: the size and the SHA-256 of every file, written last and verified before use.

A file is hashed before any other library opens it, because some of them trust what they read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

MANIFEST = "manifest.json"


def write(folder: Path) -> None:
    """Lists every file of a folder that is complete."""
    files = {file.name: _of(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({"files": files, "checksum": _checksum(files)}, indent=1))


def read(path: str | os.PathLike[str]) -> dict[str, dict[str, int | str]]:
    """The size and SHA-256 that each file should have.

    Raises:
      ValueError: there is no manifest, or it is damaged.
    """
    file = Path(path) / MANIFEST
    try:
        stored = json.loads(file.read_text())
        files, checksum = stored["files"], stored["checksum"]
    except FileNotFoundError:
        raise ValueError(
            f"{file}: missing, so the data set is incomplete or of an earlier version; prepare it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: damaged; prepare the data set again") from error
    if _checksum(files) != checksum:
        raise ValueError(f"{file}: damaged; prepare the data set again")
    return files


def verify(path: str | os.PathLike[str], names: Iterable[str]) -> list[Path]:
    """Files of a data set, once they are what was written.

    Args:
      path: the data set.
      names: of files.

    Raises:
      ValueError: one is missing or damaged, or is not of this data set.
    """
    files, found = read(path), []
    for name in names:
        file = Path(path) / name
        try:
            whole = not file.is_symlink() and _of(file) == files[name]
        except (OSError, KeyError) as error:
            raise ValueError(f"{file}: damaged or missing; prepare the data set again") from error
        if not whole:
            raise ValueError(f"{file}: damaged (it is not what was written); prepare the data set again")
        found.append(file)
    return found


def _of(file: Path) -> dict[str, int | str]:
    with open(file, "rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _checksum(files: object) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
