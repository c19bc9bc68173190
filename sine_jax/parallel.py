"""Devices: how arrays are spread over them, and how functions run on all of them. No other module knows devices.

Arrays of rows are split over the devices ([B, ...] to [devices, B / devices, ...]). Each device has complete copies of
the parameters, the optimiser state and the resident log. One device runs the same code, so there is one path to test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Tree = Any

AXIS = "devices"


def device_count() -> int:
    """Devices of all processes together."""
    return jax.device_count()


def local_device_count() -> int:
    """Devices of this process."""
    return jax.local_device_count()


def describe() -> list[str]:
    """Kind of each device of all processes."""
    return [f"{device.platform}:{device.device_kind}" for device in jax.devices()]


def backend() -> str:
    """The kind of the devices: cpu, gpu or tpu."""
    return jax.default_backend()


def platform() -> str:
    """The platform that programs are lowered for: cpu, cuda or tpu."""
    return {"gpu": "cuda"}.get(backend(), backend())


def peak_memory() -> int | None:
    """The most bytes that any device of this process had in use so far; None for devices that do not say (CPUs)."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [int(each["peak_bytes_in_use"]) for each in stats if "peak_bytes_in_use" in each]
    return max(peaks) if peaks else None


def one_device() -> jax.sharding.Sharding:
    """The first device of this process, for arrays that are not split."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def process_rows(rows: Tree, *, process_index: int | None = None, process_count: int | None = None) -> Tree:
    """The rows of a global batch that one process feeds to its devices.

    Args:
      rows: pytree of [B, ...] arrays, B a multiple of the process count; the same on every process.
      process_index: which process; this one by default.
      process_count: how many processes there are; by default those that run.

    Returns:
      pytree of [B / processes, ...] arrays.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    return jax.tree.map(lambda a: a[index * (len(a) // count) : (index + 1) * (len(a) // count)], rows)


def shard(tree: Tree) -> Tree:
    """Splits rows over this process's devices: [B, ...] to [devices, B / devices, ...].

    Raises:
      ValueError: B is not a multiple of the number of devices.
    """
    count = local_device_count()

    def split(a: Any) -> Any:
        if a.shape[0] % count:
            raise ValueError(
                f"rows={a.shape[0]}: they do not divide over {count} devices; pad them to a multiple of it"
            )
        return a.reshape((count, a.shape[0] // count, *a.shape[1:]))

    return jax.tree.map(split, tree)


def unshard(tree: Tree) -> Tree:
    """Joins what `shard` split, on the host: [devices, B / devices, ...] to [B, ...]."""
    return jax.tree.map(lambda a: np.asarray(a).reshape((-1, *a.shape[2:])), tree)


def replicate(tree: Tree) -> Tree:
    """Puts a copy of every array on each device of this process, once."""
    return jax.device_put(tree, _sharding())


def place_rows(tree: Tree) -> Tree:
    """Like `shard`, and puts each part on its device."""
    return jax.device_put(shard(tree), _sharding(AXIS))


def _sharding(*axes: str) -> jax.sharding.Sharding:
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def on_host(fn: Callable[..., Tree]) -> Callable[..., Tree]:
    """Runs `fn` on the CPU, if JAX has one beside the accelerator, so that it does not wait for training."""

    @functools.wraps(fn)
    def wrapped(*args: Any) -> Tree:
        with jax.default_device(_host_device()):
            return fn(*args)

    return wrapped


@functools.cache
def _host_device() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to use the accelerator alone
        return None


def map_rows(fn: Callable[[Tree, Tree], Tree]) -> Callable[[Tree, Tree], Tree]:
    """Compiles `fn(replicated, rows) -> rows` to run on every device of this process, each with its part of the rows.

    The result takes rows from `shard` and returns rows for `unshard`. Devices do not communicate.
    """
    return jax.pmap(fn, in_axes=(None, 0), out_axes=0, devices=jax.local_devices())


def update(fn: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]) -> Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]:
    """Compiles `fn(state, shared, rows) -> (state, report)` to run on every device of every process.

    Each device has a complete `state` and `shared`; `rows` come from `shard`. `fn` has to average over `AXIS` what it
    returns. The memory of the given `state` is reused for the new one: do not use the old one afterwards.
    """
    mapped = jax.pmap(fn, axis_name=AXIS, in_axes=(None, None, 0), out_axes=(None, None), donate_argnums=0)
    if not _collectives_deadlock():
        return mapped

    @functools.wraps(fn)
    def blocking(state: Tree, shared: Tree, rows: Tree) -> tuple[Tree, Tree]:
        return jax.block_until_ready(mapped(state, shared, rows))

    return blocking


def _collectives_deadlock() -> bool:
    """Whether queued collectives may deadlock: with several simulated CPU devices before jax 0.12."""
    return jax.default_backend() == "cpu" and device_count() > 1 and jax.__version_info__ < (0, 12)
