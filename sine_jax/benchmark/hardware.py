"""The machine at hand and its measured peaks; a benchmark reports shares of these peaks."""

from __future__ import annotations

import functools
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sine_jax import parallel, workdir
from sine_jax.types import Array

SETTINGS = ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # that change speed
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Sizes(NamedTuple):
    """How large the measured problems are."""

    matrix: int  # height and width of a square matrix
    chain: int  # products one after the other in a program, so that the start of the program costs little
    vector: int  # entries


CPU = Sizes(matrix=2048, chain=1, vector=1 << 25)
ACCELERATOR = Sizes(matrix=8192, chain=8, vector=1 << 28)


class Hardware(NamedTuple):
    """A machine, with its measured peaks."""

    devices: tuple[str, ...]
    processor: str
    cores: int  # that this process may use
    matmul: dict[str, float]  # FLOP/s of all devices together, by type; float32 as JAX multiplies it by default
    bandwidth: float  # bytes/s of all devices together
    versions: dict[str, str]
    system: str
    settings: dict[str, str]  # environment variables that change speed, where they are set


def measure(*, sizes: Sizes | None = None, repeats: int = 5) -> Hardware:
    """Describes the machine and measures its peaks; takes some seconds.

    Args:
      sizes: how large the measured problems are; by default as the backend needs.
      repeats: of each measurement. The best one counts, because a peak is what nothing else disturbed.
    """
    sizes, together = sizes or _sizes(), _together()
    kinds = ("float32",) if parallel.backend() == "cpu" else ("float32", "bfloat16")
    machine = workdir.describe_machine()
    return Hardware(
        devices=tuple(machine["devices"]),
        processor=processor(),
        cores=cores(),
        matmul={kind: matmul_rate(dtype=kind, repeats=repeats, sizes=sizes) for kind in kinds},
        bandwidth=together * memory_bandwidth(sizes, repeats=repeats),
        versions=machine["versions"],
        system=machine["platform"],
        settings={name: os.environ[name] for name in SETTINGS if os.environ.get(name)},
    )


def matmul_rate(*, dtype: str, repeats: int, sizes: Sizes | None = None) -> float:
    """The best rate of multiplying square matrices: FLOP/s of all devices together."""
    sizes = sizes or _sizes()
    taken = best(functools.partial(_product, *_matrices(sizes.matrix, dtype), sizes.chain), repeats=repeats)
    return 2 * sizes.matrix**3 * sizes.chain * _together() / taken


@functools.partial(jax.jit, static_argnums=2)
def _product(x: Array, w: Array, chain: int) -> Array:
    return jax.lax.fori_loop(0, chain, lambda _, x: x @ w, x)


@functools.cache
def _matrices(size: int, dtype: str) -> tuple[Array, Array]:
    """Two square matrices, with entries so small that a long chain of products neither grows nor vanishes."""
    x, w = (jax.random.normal(k, (size, size)) / size**0.5 for k in jax.random.split(jax.random.key(0)))
    return x.astype(dtype), w.astype(dtype)


def _sizes() -> Sizes:
    return CPU if parallel.backend() == "cpu" else ACCELERATOR


def _together() -> int:
    """How many devices add their peaks; simulated devices share the cores, so they count as one."""
    return 1 if parallel.backend() == "cpu" else parallel.device_count()


def memory_bandwidth(sizes: Sizes, *, repeats: int) -> float:
    """The best rate of `y + a x` over vectors too long for a cache (two reads, one write): bytes/s of one device."""
    x = jnp.ones(sizes.vector, jnp.float32)
    held = [jnp.zeros(sizes.vector, jnp.float32)]
    # The result takes the memory of y. New memory would have to be mapped first, and that would be measured too.
    add = jax.jit(lambda x, y: y + 0.5 * x, donate_argnums=1)

    def update() -> Array:
        held[0] = add(x, held[0])
        return held[0]

    return 3 * x.nbytes / best(update, repeats=repeats)


def best(call: Callable[[], Any], *, repeats: int) -> float:
    """The least seconds that a call took, after a first one that compiles."""
    return min(seconds(call, repeats=repeats))


def seconds(call: Callable[[], Any], *, repeats: int) -> Sequence[float]:
    """Seconds of each of some calls, waited for, after a first one that compiles."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - begin)
    return taken


def processor() -> str:
    """The name of the processor, where the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forget_peak_memory() -> None:
    """Resets the peak memory of this process, which only Linux can do; the peak of an accelerator stays."""
    try:
        _RESET.write_text("5")
    except OSError:
        pass  # `process_peak_memory` is then the peak since the process began


def peak_memory() -> int:
    """Peak memory in bytes: of an accelerator, else of this process."""
    of_devices = parallel.peak_memory()
    return process_peak_memory() if of_devices is None else of_devices


def process_peak_memory() -> int:
    """Peak memory of this process in bytes, since `forget_peak_memory` where that works, else since it began."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
