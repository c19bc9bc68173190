"""How fast this machine trains and evaluates: named cases, each compared with what the machine can do.

The first epoch compiles; several epochs after it are timed. Machines are shared and noisy, so every figure is the
median of the repeats, with the least and the greatest beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from sine_jax import config as configs
from sine_jax import parallel, presets, run, training
from sine_jax.batches import pipeline, windows
from sine_jax.benchmark import compilation, cost, hardware
from sine_jax.benchmark.hardware import Hardware
from sine_jax.config import Config
from sine_jax.data import splits
from sine_jax.data.datasets import Dataset
from sine_jax.evaluation import protocols, ranking, scorers
from sine_jax.layers import signed_kernel
from sine_jax.model import build_model
from sine_jax.serving import recommend
from sine_jax.types import Array


class Timing(NamedTuple):
    """A measured number: the median, the least and the greatest of the repeats."""

    median: float
    low: float
    high: float
    origin: str = ""  # of a compile time: whether the programs were compiled or loaded, in the words of `compilation`


class Bench(NamedTuple):
    """What every case is given."""

    data: Dataset  # real exposures
    machine: Hardware
    repeats: int
    trace: Path | None = None  # folder for profiler traces


class Case(NamedTuple):
    """One question to the machine."""

    name: str
    about: str
    timings: Callable[[Case, Bench], dict[str, Timing]]  # by name, unit in the name
    overrides: Mapping[str, Any]  # of the released model's configuration
    data: Callable[[Bench], Dataset]

    def config(self) -> Config:
        """The released model's configuration with the overrides."""
        return configs.replace(presets.official(), self.overrides)


class Result(NamedTuple):
    """What a case found."""

    case: str
    about: str
    figures: dict[str, Timing]  # by name, unit in the name


class Occupancy(NamedTuple):
    """What an epoch's batches hold."""

    work: cost.Work
    positions: int  # computed in an epoch, with padding and fillers


def over(values: Sequence[float]) -> Timing:
    """The median, the least and the greatest of some repeats."""
    return Timing(statistics.median(values), min(values), max(values))


def rate(amount: float, seconds: Sequence[float]) -> Timing:
    """An amount per second, over repeats."""
    return over([amount / each for each in seconds])


def exactly(value: float) -> Timing:
    """A number without a spread."""
    return Timing(value, value, value)


def _compile_time(first: float, later: Sequence[float], programs: compilation.Programs) -> Timing:
    """How much longer the first call took than those after it, and where its programs came from."""
    return exactly(max(first - statistics.median(later), 0.0))._replace(origin=programs.origin)


def time_cases(cases: Sequence[Case], bench: Bench, *, say: Callable[[str], None]) -> Iterator[Result]:
    """Times cases one after the other and gives each result at once."""
    for case in cases:
        say(f"{case.name}: {case.about}")
        timings = case.timings(case, bench)
        for name, timing in timings.items():
            if timing.origin:
                say(f"{case.name}: {name} {timing.median:.1f}, {timing.origin}")
        yield Result(case.name, case.about, timings)


def training_speed(case: Case, bench: Bench) -> dict[str, Timing]:
    """Times steady epochs of training."""
    config, dataset = case.config(), case.data(bench)
    hardware.forget_peak_memory()
    setup = run.set_up(dataset, config=config)
    with compilation.watch() as programs:
        state, first = _timed_epoch(setup, parallel.replicate(setup.initial()), 0)
    seconds, peaks, dtype = [], [], config.model.dtype
    for epoch in range(1, bench.repeats + 1):
        state, taken = _timed_epoch(setup, state, epoch)
        seconds.append(taken)
        if dtype in bench.machine.matmul:  # in turns with the epochs, because the peak of a shared machine changes
            peaks.append(hardware.matmul_rate(dtype=dtype, repeats=2))
    if bench.trace is not None:
        with jax.profiler.trace(str(bench.trace / case.name)):
            _timed_epoch(setup, state, bench.repeats + 1)
    occupancy, steps = _occupancy(config, dataset), setup.steps_per_epoch
    tokens, pairs = occupancy.work.per(steps)
    flops = cost.step_flops(config, tokens=tokens, pairs=pairs)
    moved = cost.step_bytes(config, tokens=tokens, pairs=pairs, num_items=dataset.info.num_items)
    found = {
        "users/s": rate(setup.users, seconds),
        "tokens/s": rate(occupancy.work.tokens, seconds),
        "padding": exactly(1 - occupancy.work.tokens / occupancy.positions),
        "s/epoch": over(seconds),
        "ms/step": over([1e3 * each / steps for each in seconds]),
        "GFLOP/step": exactly(flops / 1e9),
        "MB/step": exactly(moved / 1e6),
        "share of bandwidth": rate(moved * steps / bench.machine.bandwidth, seconds),
        "peak memory GB": exactly(hardware.peak_memory() / 1e9),
        "compile s": _compile_time(first, seconds, programs),
    }
    if peaks:
        reached = [flops * steps / taken / peak for taken, peak in zip(seconds, peaks, strict=True)]
        found["share of matmul"] = over(reached)
    return found


def evaluation_speed(protocol: protocols.Protocol) -> Callable[[Case, Bench], dict[str, Timing]]:
    """Times a whole evaluation, with the layout of its batches, after its scorer is compiled."""

    def measured(case: Case, bench: Bench) -> dict[str, Timing]:
        config, dataset = run.settle_attention(case.config()), case.data(bench)
        num_items = dataset.info.num_items
        hardware.forget_peak_memory()

        def lay_out() -> protocols.Task:
            return ranking.lay_out(dataset.log, config=config, num_items=num_items, part="test", protocol=protocol)

        task = lay_out()
        model = build_model(config.model, num_items=num_items)
        ranked = ranking.compile_ranking(scorers.of_model(model), task)
        params = model.init(jax.random.key(0))
        with compilation.watch() as programs:
            first = _seconds(lambda: ranked(params))
        laid_out = [_seconds(lay_out) for _ in range(bench.repeats)]
        seconds = [_seconds(lambda: ranked(params)) for _ in range(bench.repeats)]
        whole = [a + b for a, b in zip(laid_out, seconds, strict=True)]
        return {
            "users/s": rate(len(task.population.places), whole),
            "users": exactly(len(task.population.places)),
            "seconds": over(whole),
            "of which ranking, s": over(seconds),
            "peak memory GB": exactly(hardware.peak_memory() / 1e9),
            "compile s": _compile_time(first, seconds, programs),
        }

    return measured


def catalogue_growth(small: Callable[[Bench], Dataset]) -> Callable[[Case, Bench], dict[str, Timing]]:
    """Compares the step time with a case's catalogue to that with a small one; the batches are alike."""

    def measured(case: Case, bench: Bench) -> dict[str, Timing]:
        large = training_speed(case, bench)
        base = training_speed(case._replace(data=small, name=f"{case.name}_small"), bench)
        steps, small_steps = large["ms/step"], base["ms/step"]
        return {
            "step time, large over small": Timing(
                steps.median / small_steps.median, steps.low / small_steps.high, steps.high / small_steps.low
            ),
            "ms/step, large": steps,
            "ms/step, small": small_steps,
            "peak memory GB, large": large["peak memory GB"],
        }

    return measured


def recommendation_speed(case: Case, bench: Bench) -> dict[str, Timing]:
    """Times the first 20 items of every user, beside the matrix product alone that scores them."""
    config, dataset = run.settle_attention(case.config()), case.data(bench)
    num_items, log = dataset.info.num_items, dataset.log
    model = build_model(config.model, num_items=num_items)
    items = pl.Series("id", ["", *map(str, range(1, num_items + 1))])
    made = recommend.Recommender(model, model.init(jax.random.key(0)), config, items, dataset.info, 0)
    users = recommend.Users(pl.Series("id", range(log.num_users)).cast(pl.String), log)
    size, dim = recommend.BATCH, config.model.dim
    vectors, table = jnp.ones((size, dim)), jnp.ones((num_items, dim))
    product = jax.jit(lambda a, b: jnp.max(jnp.einsum("bd,nd->bn", a, b, precision="highest"), axis=1))

    def answer() -> float:
        return _seconds(lambda: [each.items for each in recommend.first_items(made, users, recommend.Request())])

    def multiply() -> float:
        return _seconds(lambda: [product(vectors, table) for _ in range(-(-log.num_users // size))])

    hardware.forget_peak_memory()
    answer(), multiply()
    seconds, products = zip(*((answer(), multiply()) for _ in range(bench.repeats)), strict=True)
    return {
        "users/s": rate(log.num_users, seconds),
        "time over that of the matrix product": over([a / b for a, b in zip(seconds, products, strict=True)]),
        "peak memory GB": exactly(hardware.peak_memory() / 1e9),
    }


def kernel_cost(case: Case, bench: Bench) -> dict[str, Timing]:
    """Compares a case's training step with the signed kernel to that without, and times the update by one event.

    Epochs with and without it are trained in turns, so a ratio is of neighbours.
    """
    dataset, with_kernel = case.data(bench), case.config()
    configurations = configs.replace(with_kernel, {"model.kernel_dim": 0}), with_kernel
    setups = [run.set_up(dataset, config=config) for config in configurations]
    states, peaks = [], []
    for setup in setups:
        hardware.forget_peak_memory()
        state, _ = _timed_epoch(setup, parallel.replicate(setup.initial()), 0)
        states.append(state)
        peaks.append(hardware.peak_memory() / 1e9)
    seconds: list[list[float]] = [[], []]
    for epoch in range(1, bench.repeats + 1):
        for which, setup in enumerate(setups):
            states[which], taken = _timed_epoch(setup, states[which], epoch)
            seconds[which].append(taken)
    without, within = ([1e3 * each / setups[0].steps_per_epoch for each in taken] for taken in seconds)
    return {
        "step time, with the kernel over without": over([a / b for a, b in zip(within, without, strict=True)]),
        "ms/step, with": over(within),
        "ms/step, without": over(without),
        "peak memory GB, with": exactly(peaks[1]),
        "peak memory GB, without": exactly(peaks[0]),
        "us/event": over([_event_time(with_kernel.model.kernel_dim) for _ in range(bench.repeats)]),
    }


def _event_time(dim: int, *, events: int = 1000) -> float:
    """Microseconds from one user's state and an event to the next state and the memory that scores items."""
    kernel, factors = signed_kernel.init(), jnp.ones((1, dim))

    @jax.jit
    def read(state: Array, watched: Array) -> tuple[Array, Array]:
        after = signed_kernel.update(kernel, state, factors, watched=watched)
        return after, signed_kernel.memory(kernel, after)

    watched, first = jnp.array([False]), signed_kernel.nothing_read(1, dim)
    jax.block_until_ready(read(first, watched))

    def several() -> Array:
        state = first
        for _ in range(events):
            state, _ = read(state, watched)
        return state

    return 1e6 * _seconds(several) / events


def _occupancy(config: Config, dataset: Dataset) -> Occupancy:
    """The real positions in an epoch's batches, and all positions that are computed."""
    reading = windows.of_config(dataset.log, splits.split(dataset.log, config=config.data).valid, config=config)
    model = build_model(config.model, num_items=dataset.info.num_items)
    strata = pipeline.stratify(reading, config=config, packed=model.packs)
    rows = pipeline.schedule(strata, seed=0, epoch=0, multiple=parallel.device_count())
    positions = sum(
        grid.shape[0] * grid.shape[1] * stratum.width for grid, stratum in zip(rows, strata.strata, strict=True)
    )
    lengths = np.concatenate([stratum.lengths for stratum in strata.strata]).astype(np.int64)
    return Occupancy(cost.Work(tokens=strata.tokens, pairs=int((lengths * (lengths + 1) // 2).sum())), positions)


def _timed_epoch(setup: run.Setup, state: training.TrainState, epoch: int) -> tuple[training.TrainState, float]:
    begin = time.perf_counter()
    state = jax.block_until_ready(setup.run_epoch(state, epoch, lambda report: None))
    return state, time.perf_counter() - begin


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin
