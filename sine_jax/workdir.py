"""The files of a run: its configuration, where it ran, and what it measured.

config.json        every option, defaults included
environment.json   the data set's fingerprint; versions, devices and command of every start
metrics.jsonl      a line per training step, and a line per validation
events.out.*       the same for TensorBoard
checkpoints/       best and latest
evaluation/        the results of launch.evaluate
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from sine_jax import config as configs
from sine_jax import parallel
from sine_jax.config import Config

CHECKPOINTS, EVALUATION = "checkpoints", "evaluation"
_CONFIG, _ENVIRONMENT, _METRICS = "config.json", "environment.json", "metrics.jsonl"
_PACKAGES = ("sine_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_NO_ROOM = re.compile("No space left|File too large|Disk quota|RESOURCE_EXHAUSTED", re.IGNORECASE)


class Metrics(NamedTuple):
    """Writes what a run measures, to a file and to TensorBoard."""

    write: Callable[[int, Mapping[str, Any]], None]  # step, values
    flush: Callable[[], None]
    close: Callable[[], None]


def create(path: str | os.PathLike[str]) -> Path:
    """Makes the folder and checks that it can be written.

    Raises:
      ValueError: it cannot be written.
    """
    folder, probe = Path(path), Path(path) / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror}); choose another --workdir") from error
    return folder


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
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` for a file or folder. At the end it is moved to `path`; after an error it is removed.

    Raises:
      ValueError: it cannot be written there, or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with full_disk_told(path, kept="Nothing was written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(partial)  # of a process that was killed
            yield partial
            os.replace(partial, path)
    except OSError as error:
        if error.filename not in map(str, (partial, path.parent)):  # another file's
            raise
        raise ValueError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)


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


def claim(folder: Path, data: Mapping[str, Any], *, config: Config, command: Sequence[str]) -> None:
    """Records what the run is, or checks that it is the run that was begun here.

    Args:
      folder: of `create`.
      data: what identifies the data set.
      config: every option.
      command: what the user typed.

    Raises:
      ValueError: the folder has a run of another configuration or data set; the message says how they differ.
    """
    runs = []
    if (folder / _CONFIG).exists() and any((folder / CHECKPOINTS).glob("*")):  # otherwise there is nothing to lose
        before = read_environment(folder)
        changes = {
            name: (str(old), str(new)) for name, (old, new) in configs.differences(read_config(folder), config).items()
        }
        for name in ("fingerprint", "vocabulary"):
            if before["data"][name] != data[name]:
                changes[f"data {name}"] = (before["data"][name], data[name])
        if changes:
            shown = "; ".join(f"{name} was {old}, now {new}" for name, (old, new) in changes.items())
            raise ValueError(
                f"{folder}: holds another run: {shown}; choose another --workdir, or use the options that it began with"
            )
        runs = before["runs"]
    runs.append({"command": list(command), "time": time.strftime("%Y-%m-%d %H:%M:%S %z"), **describe_machine()})
    # config.json comes last: if it is there, so is the environment.
    write_whole(folder / _ENVIRONMENT, json.dumps({"data": dict(data), "runs": runs}, indent=2))
    write_whole(folder / _CONFIG, configs.to_json(config))


def read_config(folder: Path) -> Config:
    """The configuration that a run began with.

    Raises:
      ValueError: there is no run, or its configuration cannot be read.
    """
    try:
        return configs.from_json((folder / _CONFIG).read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder}: no run is here ({_CONFIG} is missing); train first") from None
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / _CONFIG}: damaged ({error}); train again in another workdir") from error


def read_environment(folder: Path) -> dict[str, Any]:
    """The data set of a run, and every start of it.

    Raises:
      ValueError: it is missing or damaged.
    """
    file = folder / _ENVIRONMENT
    try:
        values = json.loads(file.read_text())
        return {"data": values["data"], "runs": values["runs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: damaged or missing ({error}); train again in another workdir") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout
            found[name] = "not installed"
    return found


def describe_machine() -> dict[str, Any]:
    """Versions and devices."""
    return {"versions": versions(), "devices": parallel.describe(), "platform": platform.platform()}


def open_metrics(folder: Path, *, step: int) -> Metrics:
    """Opens the records for writing after a step, and drops what an interrupted run wrote after that step."""
    from tensorboardX import SummaryWriter  # here, because few users of this module need it

    file = folder / _METRICS
    if file.exists():
        write_whole(file, "".join(line for line in file.read_text().splitlines(keepends=True) if _is_until(line, step)))
    stream = file.open("a")
    # `purge_step` makes TensorBoard drop what an interrupted run wrote later.
    board = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=30)

    def write(step: int, values: Mapping[str, Any]) -> None:
        stream.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        for name, value in values.items():
            board.add_scalar(name, value, step)

    def flush() -> None:
        stream.flush()
        board.flush()

    def close() -> None:
        stream.close()
        board.close()

    return Metrics(write, flush, close)


def _is_until(line: str, step: int) -> bool:
    """Whether a line is complete and of this step or an earlier one."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (json.JSONDecodeError, KeyError, TypeError):
        return False


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)
