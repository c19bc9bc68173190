"""The cases that `launch.benchmark` measures, by name.

Options are those of the released model, unless a case says otherwise. A full window of 200 needs 203 watched
exposures: two are held out and one has no successor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sine_jax.benchmark import workloads
from sine_jax.benchmark.devices import several_devices
from sine_jax.benchmark.preparation import preparation_speed
from sine_jax.benchmark.speed import (
    Bench,
    Case,
    catalogue_growth,
    evaluation_speed,
    kernel_cost,
    recommendation_speed,
    training_speed,
)
from sine_jax.data import synthetic
from sine_jax.data.datasets import Dataset
from sine_jax.evaluation import protocols

_HELD_OUT = 3  # watched exposures of a user outside its training window


def given(bench: Bench) -> Dataset:
    """The data set that the benchmark was given."""
    return bench.data


def made(*, users: int, length: int, items: int, shown: int | None = None) -> Callable[[Bench], Dataset]:
    """A log made in memory; all training windows have one length."""
    return lambda bench: workloads.alternating(
        num_users=users, num_watched=length + _HELD_OUT, num_items=items, num_shown=shown
    )


_RELEASED = {
    "model.max_len": 200,
    "model.dim": 50,
    "model.num_interests": 2,
    "model.dropout": 0.5,
    "train.batch_size": 128,
}
_FULL = {"data.window_margin": 0}  # the released window leaves columns empty
_LARGE = {**_FULL, "model.dim": 256, "model.max_len": 512, "train.batch_size": 1024, "model.dropout": 0.0}
_SMALL = {**_FULL, "model.max_len": 20, "model.dim": 32, "model.dropout": 0.0, "train.batch_size": 128}
_CATALOGUE = {
    **_FULL,
    "model.max_len": 60,
    "model.dim": 64,
    "optimizer.embedding": "rows",
    "objective.l2": 0.0,  # a penalty on the whole table would read it whole
}
_LOG = synthetic.Settings(num_users=1_000_000, num_exposures=30, num_items=100_000)
_OF_THE_HOST = (
    Case(
        "prepare",
        "preparation of a CSV log, a third of 30 million exposures and all of them, and loading the 1,000,000 users",
        preparation_speed(_LOG),
        {},
        given,
    ),
)
_ANYWHERE = (
    Case("dev", "training on the given data, T 200, K 2, D 50, dropout 0.5", training_speed, _RELEASED, given),
    Case(
        "full",
        "training, every sequence 200 long, 80,000 items, K 2, D 50, dropout 0.5",
        training_speed,
        _RELEASED | _FULL,
        made(users=2_000, length=200, items=80_000),
    ),
    Case(
        "peak",
        "training, every sequence 200 long, 7,500 items, D 64, no dropout",
        training_speed,
        _RELEASED | _FULL | {"model.dim": 64, "model.dropout": 0.0},
        made(users=2_000, length=200, items=7_500),
    ),
    Case(
        "exposed",
        "evaluation on the given data against the skips around the target, T 200, D 50",
        evaluation_speed(protocols.EXPOSED),
        _RELEASED,
        given,
    ),
    Case(
        "ranking",
        "evaluation of 20,000 users among 7,500 items, T 200, D 50",
        evaluation_speed(protocols.FULL),
        _RELEASED,
        made(users=20_000, length=17, items=7_500),
    ),
    Case(
        "kernel",
        "training with the signed kernel and without, every sequence 200 long, 7,500 items, D 50, dropout 0.5",
        kernel_cost,
        _RELEASED | _FULL | {"model.kernel_dim": 16},
        made(users=2_000, length=200, items=7_500),
    ),
    Case(
        "recommend",
        "the first 20 of 100,000 items for 5,000 users, without those that they saw, T 60, D 64, and the product alone",
        recommendation_speed,
        {**_FULL, "model.max_len": 60, "model.dim": 64, "model.num_interests": 4},
        made(users=5_000, length=17, items=100_000),
    ),
    Case("devices", "training on one and on eight simulated devices, no dropout", several_devices, _SMALL, given),
    Case(
        "catalogue",
        "training on the same exposures of 10,000 items, in a catalogue of 10,000,000 and one of 10,000, T 60, D 64, "
        "batch 128, only the embeddings of the batch updated",
        catalogue_growth(made(users=1_280, length=60, items=10_000)),
        _CATALOGUE,
        made(users=1_280, length=60, items=10_000_000, shown=10_000),
    ),
)


def _in_bfloat16(case: Case) -> Case:
    overrides = {**case.overrides, "model.dtype": "bfloat16"}
    return case._replace(name=f"{case.name}_bfloat16", about=f"{case.about}, bfloat16", overrides=overrides)


_LARGE_CASE = Case(
    "large",
    "training, every sequence 512 long, 1,000,000 items, D 256, batch 1024",
    training_speed,
    _LARGE,
    made(users=8_192, length=512, items=1_000_000),
)
_ON_ACCELERATORS = (
    *map(_in_bfloat16, _ANYWHERE[:3]),
    _LARGE_CASE,
    _in_bfloat16(_LARGE_CASE),
)
CASES: Mapping[str, Case] = {case.name: case for case in (*_ANYWHERE, *_ON_ACCELERATORS, *_OF_THE_HOST)}


def select(names: Sequence[str] | None, *, backend: str) -> list[Case]:
    """The cases of these names; by default all that make sense on a backend.

    Raises:
      ValueError: there is no such case.
    """
    if names is None:
        return [*_ANYWHERE, *_OF_THE_HOST] if backend == "cpu" else [*_ANYWHERE, *_ON_ACCELERATORS]
    for name in names:
        if name not in CASES:
            raise ValueError(f"--cases={','.join(names)}: there is no {name!r}; choose from {', '.join(CASES)}")
    return [CASES[name] for name in names]
