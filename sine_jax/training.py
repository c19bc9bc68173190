"""The train step, and an epoch of them on any number of devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sine_jax import model, parallel, sparse
from sine_jax.batches import negatives, pipeline
from sine_jax.config import Config
from sine_jax.layers import dropout
from sine_jax.objectives import objective
from sine_jax.types import Array, Params, TrainBatch

Report = dict[str, Any]  # [] per step, or [steps]: the loss, its terms, and norms
Receive = Callable[[Report], None]
RunEpoch = Callable[["TrainState", int, Receive], "TrainState"]


class Diverged(ValueError):
    """A loss, a term of it or a norm is not a finite number: training cannot go on from there."""


class TrainState(NamedTuple):
    """All that training changes."""

    step: Array  # [] int32, batches done
    params: Params
    opt_state: Any


def init_state(
    config: Config, optimizer: optax.GradientTransformation, *, num_items: int, item_bias: Array | None = None
) -> TrainState:
    """The state before the first step, drawn from `train.seed`, with item biases [N + 1] where they are given."""
    params = model.init(jax.random.key(config.train.seed), config, num_items)
    if item_bias is not None:
        params = {**params, "item_bias": item_bias}
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def train_step(
    state: TrainState,
    batches: TrainBatch | Sequence[TrainBatch],
    seed: Array | int,
    *,
    config: Config,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[TrainState, Report]:
    """One update: pure, to be jitted alone or mapped over devices.

    Args:
      state: before.
      batches: a batch of B windows, or batches of several widths that count as one.
      seed: of the run, `train.seed`: the randomness of a step follows from it and `state.step`. An argument, so that
        what is compiled serves every seed.
      config: the choices.
      optimizer: of `optimizer.build`.
      axis_name: device axis, if any.

    Returns:
      The state after, and its report: `loss`, each term by name, and the norms `gradient_norm`, `update_norm` and
      `parameter_norm` (with `optimizer.embedding=rows` over the rows of the batch alone), each [].
    """
    key = jax.random.fold_in(dropout.key(seed, config.train.generator), state.step)
    key = jax.random.fold_in(key, 0 if axis_name is None else jax.lax.axis_index(axis_name))
    parts = (batches,) if isinstance(batches, TrainBatch) else tuple(batches)
    lazy = config.optimizer.embedding == "rows"
    seen = sparse.touch(state.params, parts, axis_name=axis_name) if lazy else sparse.Touched(state.params, parts, None)
    num_items = state.params["item_embedding"].shape[0] - 1
    (loss, terms), gradients = jax.value_and_grad(objective, has_aux=True)(
        seen.params, seen.batches, key, config, step=state.step, axis_name=axis_name, num_items=num_items
    )
    if axis_name is not None:
        loss, terms, gradients = jax.lax.pmean((loss, terms, gradients), axis_name)
    told = {} if seen.rows is None else {"rows": seen.rows}
    updates, opt_state = optimizer.update(gradients, state.opt_state, seen.params, **told)
    moved = optax.apply_updates(seen.params, updates)
    params = moved if seen.rows is None else sparse.apply_updates(state.params, updates, seen.rows)
    report = {
        "loss": loss,
        **terms,
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        "parameter_norm": optax.tree.norm(moved),
    }
    return TrainState(state.step + 1, params, opt_state), report


def resident_epoch(
    config: Config,
    source: pipeline.Columns,
    strata: pipeline.Strata,
    optimizer: optax.GradientTransformation,
    *,
    num_items: int,
) -> RunEpoch:
    """Trains with the log on the device: batches are gathered there, many steps to a dispatch.

    An epoch's order is sent there once, and reports come back once a dispatch; nothing else passes between the host and
    the device.

    Returns:
      A function of the state, the epoch, and a receiver of reports (each value [steps]), that returns the new state.
    """
    step = functools.partial(train_step, config=config, optimizer=optimizer, axis_name=parallel.AXIS)
    dispatches = -(-strata.num_steps // config.train.steps_per_call)
    length = -(-strata.num_steps // dispatches)

    def run(state: TrainState, shared: Any, users: Sequence[Array]) -> tuple[TrainState, Report]:
        """Runs `count` of up to `length` steps: an epoch's last dispatch may do fewer, in the same shape."""
        resident, epoch, seed, begin, count = shared

        def gather(i: Array | int) -> tuple[TrainBatch, ...]:
            return tuple(
                _gather(
                    resident, order[:, begin + i], epoch, seed, width=stratum.width, num_items=num_items, config=config
                )
                for order, stratum in zip(users, strata.strata, strict=True)
            )

        def body(i: Array, carry: tuple[TrainState, Report]) -> tuple[TrainState, Report]:
            state, report = step(carry[0], gather(i), seed)
            return state, jax.tree.map(lambda all_steps, one: all_steps.at[i].set(one), carry[1], report)

        shapes = jax.eval_shape(lambda: step(state, gather(0), seed)[1])
        report = jax.tree.map(lambda one: jnp.zeros((length, *one.shape), one.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, report))

    dispatch = parallel.update(run)
    resident = parallel.replicate(source)

    def calls(epoch: int) -> Iterator[tuple[int, Any, Any]]:
        batches = _epoch_batches(strata, config, epoch)
        by_row = tuple(np.ascontiguousarray(batch.swapaxes(0, 1)) for batch in batches)
        placed = parallel.place_rows(parallel.process_rows(by_row))
        drawn, seed = np.int32(pipeline.negatives_epoch(epoch, config)), np.uint32(config.train.seed)
        for begin in range(0, strata.num_steps, length):
            count = min(length, strata.num_steps - begin)
            yield count, (resident, *parallel.replicate((drawn, seed, np.int32(begin), np.int32(count)))), placed

    def run_epoch(state: TrainState, epoch: int, receive: Receive) -> TrainState:
        return _run_calls(dispatch, state, calls(epoch), receive)

    return run_epoch


def streamed_epoch(
    config: Config,
    source: pipeline.Columns,
    strata: pipeline.Strata,
    optimizer: optax.GradientTransformation,
    *,
    num_items: int,
) -> RunEpoch:
    """Trains with the log on the host: batches are assembled there by a thread, one step to a dispatch.

    Batches, and so what is learned, are those of `resident_epoch`.

    Returns:
      A function of the state, the epoch, and a receiver of reports (each value [1]), that returns the new state.
    """

    def run(state: TrainState, seed: Array, batches: tuple[TrainBatch, ...]) -> tuple[TrainState, Report]:
        state, report = train_step(state, batches, seed, config=config, optimizer=optimizer, axis_name=parallel.AXIS)
        return state, jax.tree.map(lambda value: value[None], report)

    dispatch = parallel.update(run)

    def calls(epoch: int) -> Iterator[tuple[int, Any, Any]]:
        for users in zip(*_epoch_batches(strata, config, epoch), strict=True):
            rows = parallel.process_rows(users)
            devices = parallel.local_device_count()
            batches = host_batches(source, strata, rows, config, epoch=epoch, num_items=num_items, devices=devices)
            yield 1, np.uint32(config.train.seed), parallel.shard(batches)

    def run_epoch(state: TrainState, epoch: int, receive: Receive) -> TrainState:
        return _run_calls(dispatch, state, pipeline.prefetch(calls(epoch), size=2), receive)

    return run_epoch


def host_batches(
    source: pipeline.Columns,
    strata: pipeline.Strata,
    users: Sequence[np.ndarray],
    config: Config,
    *,
    epoch: int,
    num_items: int,
    devices: int = 1,
) -> tuple[TrainBatch, ...]:
    """The batches of one step as numpy arrays, one per stratum, for its users [rows, P] of `pipeline.schedule`.

    They are made to be split over `devices`: each then has the batches that it would gather itself.
    """
    drawn = pipeline.negatives_epoch(epoch, config)
    seed, number = np.uint32(config.train.seed), config.objective.num_negatives

    def random_bits(owners: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        return np.asarray(parallel.on_host(_random_bits)(seed, drawn, owners, ranks, number))

    batches = []
    for rows, stratum in zip(users, strata.strata, strict=True):
        assembled = pipeline.assemble(
            source, rows, random_bits, width=stratum.width, config=config, num_items=num_items, devices=devices
        )
        batches.append(assembled)
    return tuple(batches)


_random_bits = jax.jit(negatives.random_bits, static_argnums=4)


def _gather(
    source: pipeline.Columns, users: Array, epoch: Array, seed: Array, *, width: int, num_items: int, config: Config
) -> TrainBatch:
    """The same batch, inside jit."""

    def random_bits(owners: Array, ranks: Array) -> Array:
        return negatives.random_bits(seed, epoch, owners, ranks, config.objective.num_negatives)

    return pipeline.assemble(source, users, random_bits, width=width, config=config, num_items=num_items)


def _epoch_batches(strata: pipeline.Strata, config: Config, epoch: int) -> tuple[np.ndarray, ...]:
    return pipeline.schedule(strata, seed=config.train.seed, epoch=epoch, multiple=parallel.device_count())


def _run_calls(dispatch: Callable, state: TrainState, calls: Iterator, receive: Receive) -> TrainState:
    """Runs dispatches, reading the report of each while the next one is under way: the device never waits."""
    pending = None
    for count, shared, rows in calls:
        state, report = dispatch(state, shared, rows)
        if pending is not None:
            receive(_on_host(*pending))
        pending = count, report
    if pending is not None:
        receive(_on_host(*pending))
    return state


def _on_host(count: int, report: Report) -> Report:
    return {name: np.asarray(values)[:count] for name, values in jax.device_get(report).items()}
