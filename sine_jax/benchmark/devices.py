"""What several devices cost: the losses on one and on eight are compared, and so is the time of pmap and jit on one."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sine_jax import config as configs
from sine_jax import objectives, optimizer, parallel, presets, run, training
from sine_jax.benchmark import speed, workloads
from sine_jax.benchmark.speed import Bench, Case, Timing
from sine_jax.config import Config
from sine_jax.model import build_model
from sine_jax.types import TrainBatch

MANY = 8
_COUNT = "--xla_force_host_platform_device_count"
_ITEMS = 1_000


def several_devices(case: Case, bench: Bench) -> dict[str, Timing]:
    """Compares the losses on one simulated device with those on eight, and the time of pmap with that of jit on one."""
    asked = dict(case.overrides)
    one, many = (np.array(_in_child("losses", asked, devices=n)) for n in (1, MANY))
    asked["repeats"] = bench.repeats
    if parallel.device_count() == 1:
        ratios = CHILDREN["pmap"](asked)
    else:  # pmap would take all of them
        ratios = _in_child("pmap", asked, devices=1)
    return {
        "loss of the first step": speed.exactly(float(one[0])),
        f"greatest difference of a loss on {MANY} devices": speed.exactly(float(np.max(np.abs(one - many)))),
        "time of pmap over jit on one device": speed.over(ratios),
    }


def losses(config: Config, *, epochs: int) -> list[float]:
    """The loss at each step of the first epochs on a small made log, on the devices of this process."""
    dataset = workloads.alternating(num_users=500, num_watched=config.model.max_len + 3, num_items=_ITEMS)
    setup = run.set_up(dataset, config=config)
    state, found = parallel.replicate(setup.initial()), list[float]()
    for epoch in range(epochs):
        state = setup.run_epoch(state, epoch, lambda report: found.extend(map(float, report["loss"])))
    return found


def pmap_over_jit(config: Config, *, repeats: int, steps: int = 16) -> list[float]:
    """The time of a loop of steps under pmap on one device, divided by its time under jit; both run in turns."""
    batch = random_batch(config, num_items=_ITEMS)
    tx = optimizer.build(config.optimizer, num_steps=steps)
    model = build_model(config.model, num_items=_ITEMS)
    one_step = functools.partial(training.train_step, config=config, model=model, optimizer=tx)

    def loop(axis_name: str | None) -> Callable[[Any, Any, TrainBatch], tuple[Any, Any]]:
        def steps_of(state: Any, loss: Any, rows: TrainBatch) -> tuple[Any, Any]:
            def body(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
                state, report = one_step(carry[0], rows, 0, axis_name=axis_name)
                return state, report["loss"]

            return jax.lax.fori_loop(0, steps, body, (state, loss))

        return steps_of

    def timed(run_steps: Callable[..., Any], rows: TrainBatch) -> Callable[[], float]:
        params = objectives.init(model.init(jax.random.key(config.train.seed)), config=config)
        held = [parallel.replicate(training.init_state(params, tx))]

        def once() -> float:
            begin = time.perf_counter()
            held[0], loss = run_steps(held[0], np.float32(0), rows)
            jax.block_until_ready((held, loss))
            return time.perf_counter() - begin

        once()  # compiles
        return once

    mapped = timed(parallel.update(loop(parallel.AXIS)), parallel.shard(batch))
    plain = timed(jax.jit(loop(None), donate_argnums=0), parallel.replicate(batch))
    return [mapped() / plain() for _ in range(repeats)]


def random_batch(config: Config, *, num_items: int) -> TrainBatch:
    """A batch of full windows of random items [B, T]."""
    rng, objective = np.random.default_rng(0), config.objective
    shape = (config.train.batch_size, config.model.max_len)

    def draw(*more: int) -> np.ndarray:
        return rng.integers(1, num_items + 1, (*shape, *more), dtype=np.int32)

    users = np.arange(shape[0], dtype=np.int32)[:, None]
    watched = np.ones(shape, bool)
    return TrainBatch(
        users=users,
        items=draw(),
        watched=watched,
        positives=draw(),
        negatives=draw(objective.num_negatives),
        skips=draw(objective.num_skips),
    )


def main() -> None:
    """The program that `_in_child` starts; it prints its answer as JSON."""
    asked = json.loads(sys.stdin.read())
    print(json.dumps(CHILDREN[sys.argv[1]](asked)))


def _in_child(name: str, asked: dict[str, Any], *, devices: int) -> list[float]:
    """Asks a new process with this many simulated CPU devices, because their number is fixed when a process begins."""
    flags = re.sub(rf"{_COUNT}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    paths = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "XLA_FLAGS": f"{flags} {_COUNT}={devices}", "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "sine_jax.benchmark.devices", name]
    done = subprocess.run(command, input=json.dumps(asked), env=env, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            f"devices={devices}: the process with simulated devices failed ({last}); leave devices out of --cases"
        )
    return json.loads(done.stdout.splitlines()[-1])


def _configured(asked: dict[str, Any]) -> Config:
    return configs.replace(presets.official(), {name: v for name, v in asked.items() if "." in name})


CHILDREN: dict[str, Callable[[dict[str, Any]], list[float]]] = {
    "losses": lambda asked: losses(_configured(asked), epochs=2),
    "pmap": lambda asked: pmap_over_jit(_configured(asked), repeats=asked["repeats"]),
}

if __name__ == "__main__":
    main()
