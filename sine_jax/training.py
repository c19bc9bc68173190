"""The train step, and an epoch of steps on any number of devices."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sine_jax import parallel, sparse
from sine_jax.batches import pipeline
from sine_jax.batches.pipeline import Feed
from sine_jax.config import Config
from sine_jax.layers import dropout
from sine_jax.model import Model
from sine_jax.objectives import objective
from sine_jax.types import Array, Params, TrainBatch

Report = dict[str, Any]  # [] per step, or [steps]: the loss, its terms, and norms
Receive = Callable[[Report], None]
Stop = Callable[[], bool]


class RunEpoch(Protocol):
    """Trains an epoch, from one of its steps on, until its end or until it is to stop."""

    def __call__(
        self, state: TrainState, epoch: int, receive: Receive, *, begin: int = 0, stop: Stop = lambda: False
    ) -> TrainState:
        """The state after the epoch's steps from `begin` on.

        Args:
          state: before.
          epoch: its number, from 0.
          receive: is given the reports of the steps that were done, in order.
          begin: how many of the epoch's steps are done already.
          stop: is asked before each dispatch; once it says yes, no further step is done.
        """


class Diverged(ValueError):
    """A loss, a term or a norm is not finite, so training cannot go on."""


class TrainState(NamedTuple):
    """What training changes."""

    step: Array  # [] int32, batches done
    params: Params
    opt_state: Any


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def train_step(
    state: TrainState,
    batches: TrainBatch | Sequence[TrainBatch],
    seed: Array | int,
    *,
    config: Config,
    model: Model,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[TrainState, Report]:
    """One update: a pure function, to be jitted alone or mapped over devices.

    Args:
      state: before.
      batches: a batch of B windows, or batches of several widths that count as one.
      seed: [] `train.seed`; it and `state.step` decide the randomness of a step. It is an argument so that one
        compiled step serves every seed.
      config: the choices.
      model: of `build_model(config.model, ...)`.
      optimizer: of `build_optimizer`.
      axis_name: device axis, if any.

    Returns:
      The state after, and a report: `loss`, each term by name, and the norms `gradient_norm`, `update_norm` and
      `parameter_norm`, each []. With `optimizer.embedding=rows` the norms are over the entries that the batch touches.
    """
    key = jax.random.fold_in(dropout.key(seed, config.train.generator), state.step)
    key = jax.random.fold_in(key, 0 if axis_name is None else jax.lax.axis_index(axis_name))
    parts = (batches,) if isinstance(batches, TrainBatch) else tuple(batches)
    lazy = config.optimizer.embedding == "rows"
    seen = sparse.touch(state.params, parts, axis_name=axis_name) if lazy else sparse.Touched(state.params, parts, None)
    loss_of = functools.partial(objective, config=config, model=model, step=state.step, axis_name=axis_name)
    (loss, terms), gradients = jax.value_and_grad(loss_of, has_aux=True)(seen.params, seen.batches, key)
    if axis_name is not None:
        loss, terms, gradients = jax.lax.pmean((loss, terms, gradients), axis_name)
    told = {} if seen.entries is None else {"entries": seen.entries}
    updates, opt_state = optimizer.update(gradients, state.opt_state, seen.params, **told)
    moved = optax.apply_updates(seen.params, updates)
    params = moved if seen.entries is None else sparse.apply_updates(state.params, updates, seen.entries)
    report = {
        "loss": loss,
        **terms,
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        "parameter_norm": optax.tree.norm(moved),
    }
    return TrainState(state.step + 1, params, opt_state), report


def resident_epoch(feed: Feed, *, model: Model, optimizer: optax.GradientTransformation) -> RunEpoch:
    """Trains with the log on the device: batches are gathered there, and one dispatch does many steps.

    An epoch's order is sent to the device once, and each dispatch sends its reports back. Nothing else passes between
    the host and the device.

    Returns:
      A function that trains an epoch; each value of its reports is [steps].
    """
    config, num_steps = feed.config, feed.strata.num_steps
    dispatches = -(-num_steps // config.train.steps_per_call)
    length = -(-num_steps // dispatches)
    dispatch = parallel.update(_resident_steps(feed._replace(source=None), length, model=model, optimizer=optimizer))
    resident = parallel.replicate(feed.source)

    def calls(epoch: int, begin: int) -> Iterator[tuple[int, Any, Any]]:
        batches = pipeline.order(feed, epoch, multiple=parallel.device_count())
        by_row = tuple(np.ascontiguousarray(batch.swapaxes(0, 1)) for batch in batches)
        placed = parallel.place_rows(parallel.process_rows(by_row))
        drawn, seed = np.int32(pipeline.negatives_epoch(epoch, config=config)), np.uint32(config.train.seed)
        for first in range(begin, num_steps, length):
            count = min(length, num_steps - first)
            yield count, (resident, *parallel.replicate((drawn, seed, np.int32(first), np.int32(count)))), placed

    def run_epoch(
        state: TrainState, epoch: int, receive: Receive, *, begin: int = 0, stop: Stop = lambda: False
    ) -> TrainState:
        return _run_calls(dispatch, state, calls(epoch, begin), receive, stop)

    return run_epoch


def _resident_steps(
    feed: Feed, length: int, *, model: Model, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any, Sequence[Array]], tuple[TrainState, Report]]:
    """Up to `length` steps in one dispatch; an epoch's last dispatch may do fewer, with the same shapes."""
    step = functools.partial(train_step, config=feed.config, model=model, optimizer=optimizer, axis_name=parallel.AXIS)

    def run(state: TrainState, shared: Any, users: Sequence[Array]) -> tuple[TrainState, Report]:
        resident, epoch, seed, begin, count = shared
        there = feed._replace(source=resident)

        def batches(i: Array | int) -> tuple[TrainBatch, ...]:
            return pipeline.gather(there, [order[:, begin + i] for order in users], epoch, seed)

        def body(i: Array, carry: tuple[TrainState, Report]) -> tuple[TrainState, Report]:
            state, report = step(carry[0], batches(i), seed)
            return state, jax.tree.map(lambda all_steps, one: all_steps.at[i].set(one), carry[1], report)

        shapes = jax.eval_shape(lambda: step(state, batches(0), seed)[1])
        report = jax.tree.map(lambda one: jnp.zeros((length, *one.shape), one.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, report))

    return run


def streamed_epoch(feed: Feed, *, model: Model, optimizer: optax.GradientTransformation) -> RunEpoch:
    """Trains with the log on the host: a thread assembles batches there, and one dispatch does one step.

    The batches are those of `resident_epoch`, and so is the result.

    Returns:
      A function that trains an epoch; each value of its reports is [1].
    """
    config = feed.config

    def run(state: TrainState, seed: Array, batches: tuple[TrainBatch, ...]) -> tuple[TrainState, Report]:
        state, report = train_step(
            state, batches, seed, config=config, model=model, optimizer=optimizer, axis_name=parallel.AXIS
        )
        return state, jax.tree.map(lambda value: value[None], report)

    dispatch = parallel.update(run)

    def calls(epoch: int, begin: int) -> Iterator[tuple[int, Any, Any]]:
        steps = zip(*pipeline.order(feed, epoch, multiple=parallel.device_count()), strict=True)
        for users in itertools.islice(steps, begin, None):
            rows = parallel.process_rows(users)
            batches = pipeline.host_batches(feed, rows, epoch, devices=parallel.local_device_count())
            yield 1, np.uint32(config.train.seed), parallel.shard(batches)

    def run_epoch(
        state: TrainState, epoch: int, receive: Receive, *, begin: int = 0, stop: Stop = lambda: False
    ) -> TrainState:
        return _run_calls(dispatch, state, pipeline.prefetch(calls(epoch, begin), size=2), receive, stop)

    return run_epoch


EPOCHS = {"resident": resident_epoch, "streamed": streamed_epoch}  # by `train.pipeline`


def _run_calls(dispatch: Callable, state: TrainState, calls: Iterator, receive: Receive, stop: Stop) -> TrainState:
    """Runs dispatches, and reads the report of each while the next one runs, so the device never waits."""
    pending = None
    for count, shared, rows in calls:
        if stop():
            break
        state, report = dispatch(state, shared, rows)
        if pending is not None:
            receive(_on_host(*pending))
        pending = count, report
    if pending is not None:
        receive(_on_host(*pending))
    return state


def _on_host(count: int, report: Report) -> Report:
    return {name: np.asarray(values)[:count] for name, values in jax.device_get(report).items()}
