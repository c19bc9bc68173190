"""Checkpoints: all that a run needs to go on, or to be evaluated elsewhere, saved and restored together by Orbax.

Arrays are stored complete, not as parts of devices. A checkpoint therefore restores on any number and kind of devices.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from sine_jax import parallel

Tree = Any

FORMAT = 2
NEWEST_KEPT = 2  # the latest, and the one before in case the latest is damaged

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stands in the data, and what early stopping knows."""

    step: int  # batches done
    epoch: int  # passes over the users done; the next pass begins at its first batch
    best: float | None = None  # validation metric of the best state
    best_step: int | None = None  # its step
    highest: float | None = None  # highest validation metric
    since_gain: int = 0  # validations since that one


@dataclasses.dataclass(frozen=True)
class About:
    """What is stored beside the arrays."""

    progress: Position
    config: dict[str, Any]  # by section, as in config.json
    data: dict[str, Any]  # path, fingerprint, vocabulary and number of items of the data set
    versions: dict[str, str]


@dataclasses.dataclass
class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the step with the best validation."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """See the base class."""
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Store(NamedTuple):
    """A folder of checkpoints that is open for writing."""

    manager: ocp.CheckpointManager
    best: _Best


def open_store(folder: str | os.PathLike[str]) -> Store:
    """Opens a folder for saving; close it by `store.manager.close()`."""
    best = _Best()
    policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(NEWEST_KEPT), best])
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, create=True, cleanup_tmp_directories=True)
    return Store(ocp.CheckpointManager(Path(folder).absolute(), options=options), best)


def save(store: Store, params: Tree, rest: Tree, about: About) -> None:
    """Saves in the background; a step is saved completely or not at all.

    Args:
      store: of `open_store`.
      params: parameters.
      rest: the other arrays that training needs.
      about: what is stored beside the arrays; `about.progress.step` names the checkpoint.
    """
    # Training reuses the memory of its state while the checkpoint is written, so copies are saved.
    arrays = {"params": jax.tree.map(np.array, params), "rest": jax.tree.map(np.array, rest)}
    store.best.step = about.progress.best_step
    trees = {name: {"shapes": _shapes(tree), "checksum": _checksum(tree)} for name, tree in arrays.items()}
    items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
    described = {"format": FORMAT, "trees": trees, **dataclasses.asdict(about)}
    described["checksum"] = _text_checksum(described)
    store.manager.save(about.progress.step, args=ocp.args.Composite(about=ocp.args.JsonSave(described), **items))


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Steps that were saved, oldest first; damaged ones are included."""
    return sorted(int(entry.name) for entry in Path(folder).glob("*") if entry.is_dir() and entry.name.isdigit())


def resume(folder: str | os.PathLike[str], params: Tree, rest: Tree) -> tuple[Tree, Tree, About] | None:
    """Restores the newest intact checkpoint; newer damaged ones are reported and renamed.

    Args:
      folder: of checkpoints.
      params: tree of arrays or shapes to restore into.
      rest: the same for the other arrays that training needs.

    Returns:
      Parameters, the rest, and what is stored beside them; None where there is no checkpoint at all.

    Raises:
      ValueError: shapes or types differ, or no checkpoint is intact.
    """
    found = steps(folder)
    for step in reversed(found):
        try:
            about = _about(folder, step)
            return _arrays(folder, step, "params", params), _arrays(folder, step, "rest", rest), about
        except Damaged as error:
            aside = Path(folder) / f"{step}.damaged"
            _log.warning("%s; renaming it to %s and using the one before", error, aside.name)
            shutil.rmtree(aside, ignore_errors=True)
            (Path(folder) / str(step)).rename(aside)
    if found:
        raise ValueError(f"{folder}: no checkpoint is intact; train again in another workdir")
    return None


def restore_params(folder: str | os.PathLike[str], which: str, template: Callable[[About], Tree]) -> tuple[Tree, About]:
    """Restores the parameters alone, for evaluation; the folder stays as it is.

    Args:
      folder: of checkpoints.
      which: `best`, `latest` or a step.
      template: gives the tree of arrays or shapes to restore into, from what is stored beside the arrays.

    Returns:
      Parameters on the first device, and what is stored beside them.

    Raises:
      ValueError: there is no such checkpoint, or it is damaged, or shapes or types differ.
    """
    found = steps(folder)
    if not found:
        raise ValueError(f"{folder}: there is no checkpoint; train first")
    if which.isdigit():
        candidates = [step for step in found if step == int(which)]
    else:
        best = [_best_step(folder)] if which == "best" else []
        candidates = [step for step in (*best, *found[::-1]) if step in found]
    if not candidates or which not in ("best", "latest", *map(str, candidates)):
        raise ValueError(
            f"{folder}: checkpoint={which} does not exist; use best, latest, or one of {', '.join(map(str, found))}"
        )
    for step in candidates:
        try:
            about = _about(folder, step)
            return _arrays(folder, step, "params", template(about)), about
        except Damaged as error:
            if which.isdigit():
                raise Damaged(f"{error}; use another checkpoint, such as latest") from error
            _log.warning("%s; trying another checkpoint", error)
    raise Damaged(f"{folder}: no checkpoint is intact; train again in another workdir")


class Damaged(ValueError):
    """A checkpoint cannot be read, or holds other values than were saved."""


class OtherVersion(ValueError):
    """A checkpoint was written by another version of the library."""


def _damaged(path: Path, reason: str) -> Damaged:
    return Damaged(f"{path}: the checkpoint is damaged ({reason})")


def _best_step(folder: str | os.PathLike[str]) -> int | None:
    """The best step according to the newest readable checkpoint; that checkpoint's step before any validation."""
    for step in reversed(steps(folder)):
        try:
            best = _about(folder, step).progress.best_step
        except Damaged:
            continue
        return step if best is None else best
    return None


def _read(folder: str | os.PathLike[str], step: int, **items: Any) -> Any:
    """Reads items of one checkpoint."""
    path = (Path(folder) / str(step)).absolute()
    handler = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    try:
        return handler.restore(path, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax and TensorStore raise many types for a damaged file
        line = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise _damaged(path, line) from error
    finally:
        handler.close()


def _described(folder: str | os.PathLike[str], step: int) -> dict[str, Any]:
    """What is stored beside the arrays, once it is what was written and of this version."""
    path = Path(folder) / str(step)
    described = _read(folder, step, about=ocp.args.JsonRestore()).about
    if not isinstance(described, dict) or not isinstance(described.get("format"), int):
        raise _damaged(path, "its description is not one of this library")
    if described["format"] != FORMAT:
        versions = described.get("versions")
        of = versions.get("sine_jax", "unknown") if isinstance(versions, dict) else "unknown"
        raise OtherVersion(
            f"{path}: a checkpoint of format {described['format']}, written by sine_jax {of}, but this version reads "
            f"format {FORMAT}; use that version, or train again in another workdir"
        )
    checksum = described.pop("checksum", None)
    if checksum != _text_checksum(described):
        raise _damaged(path, "its description is not what was saved")
    return described


def _about(folder: str | os.PathLike[str], step: int) -> About:
    values = _described(folder, step)
    try:
        return About(Position(**values["progress"]), values["config"], values["data"], values["versions"])
    except (KeyError, TypeError) as error:
        raise _damaged(Path(folder) / str(step), f"its description lacks a field: {error}") from error


def _arrays(folder: str | os.PathLike[str], step: int, name: str, template: Tree) -> Tree:
    """Reads one tree into a template and checks types and shapes: Orbax itself casts types and takes other shapes."""
    path = (Path(folder) / str(step)).absolute()
    described = _described(folder, step)["trees"][name]
    _check_shapes(path, described["shapes"], template)
    place = parallel.one_device()
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), template)
    tree = _read(folder, step, **{name: ocp.args.StandardRestore(shapes)})[name]
    if _checksum(tree) != described["checksum"]:
        raise _damaged(path, f"the {name} are not what was saved")
    return tree


def _check_shapes(path: Path, stored: dict[str, str], template: Tree) -> None:
    """Refuses a stored tree whose names, types or shapes are not those of the template."""
    needed = _shapes(template)
    for name in sorted(needed.keys() | stored.keys()):
        is_there, should_be = stored.get(name, "nothing"), needed.get(name, "nothing")
        if is_there != should_be:
            raise ValueError(
                f"{path}: {name} is stored as {is_there}, but the model needs {should_be}; build the model from the "
                "configuration of the checkpoint"
            )


def _shapes(tree: Tree) -> dict[str, str]:
    """Type and shape of each leaf by its path, such as `block_0/bias: float32[64]`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _text_checksum(described: dict[str, Any]) -> int:
    """The CRC-32 of a description."""
    return zlib.crc32(json.dumps(described, sort_keys=True).encode())


def _checksum(tree: Tree) -> int:
    """The CRC-32 of the bytes of all leaves, in order."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.asarray(leaf).tobytes(), total)
    return total
