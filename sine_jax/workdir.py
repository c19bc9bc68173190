"""The files of a run: its configuration, where it ran, and what it measured.

config.json        every option, defaults included
environment.json   the data set's fingerprint; versions, devices and command of every start
metrics.jsonl      a line per training step, and a line per validation
events.out.*       the same for TensorBoard
checkpoints/       best and latest
catalogue/         external ids of the items, contexts, label rule and licences: with it the folder needs no data set
evaluation/        the results of launch.evaluate
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from sine_jax import config as configs
from sine_jax import files, parallel
from sine_jax.config import Config

CHECKPOINTS, EVALUATION, CATALOGUE = "checkpoints", "evaluation", "catalogue"
# Options that may change when a run goes on: how long it trains, and what results do not depend on.
MAY_CHANGE = (
    "train.epochs",
    "train.patience",
    "train.checkpoint_every",
    "train.steps_per_call",
    "train.pipeline",
)
_CONFIG, _ENVIRONMENT, _METRICS = "config.json", "environment.json", "metrics.jsonl"
_LOCK = ".lock"
_PACKAGES = ("sine_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Metrics(NamedTuple):
    """Writes what a run measures, to a file and to TensorBoard."""

    write: Callable[[int, Mapping[str, Any]], None]  # step, values
    flush: Callable[[], None]
    close: Callable[[], None]


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes the folder, checks that it can be written, and keeps other processes out of it.

    Raises:
      ValueError: it cannot be written, another process trains there, or something in it is a link to elsewhere.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        links = [entry.name for entry in os.scandir(folder) if entry.is_symlink()]
        if links:
            raise ValueError(f"{folder / links[0]}: a link, which is not written through; choose another --workdir")
        lock = files.locked(folder / _LOCK, f"{folder}: another process trains here; choose another --workdir")
        lock.__enter__()
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror}); choose another --workdir") from error
    try:
        yield folder
    finally:
        lock.__exit__(None, None, None)


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
            name: (str(old), str(new))
            for name, (old, new) in configs.differences(read_config(folder), config).items()
            if name not in MAY_CHANGE or (name == "train.epochs" and config.optimizer.schedule == "cosine")
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
    files.write_whole(folder / _ENVIRONMENT, json.dumps({"data": dict(data), "runs": runs}, indent=2))
    files.write_whole(folder / _CONFIG, configs.to_json(config))


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
        files.write_whole(
            file, "".join(line for line in file.read_text().splitlines(keepends=True) if _is_until(line, step))
        )
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
