"""Training that updates the item tables only where a batch touches them.

A step looks at W of the N + 1 entries of an item table. It gathers them, differentiates with respect to them, updates
their moments and puts them back. Its time therefore hardly grows with N.

    touched = sparse.touch(params, batches)
    gradients = jax.grad(objective)(touched.params, touched.batches, ...)
    updates, opt_state = optimizer.update(gradients, opt_state, touched.params, entries=touched.entries)
    params = sparse.apply_updates(params, updates, touched.entries)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sine_jax.types import PAD, AnyArray, Array, Params, TrainBatch

TABLES = ("item_embedding", "item_bias", "item_factors")  # parameters with an entry for each item, [N + 1, ...]


class Touched(NamedTuple):
    """What a step looks at: a small catalogue of its own."""

    params: Params  # tables replaced by W of their entries
    batches: tuple[TrainBatch, ...]  # items replaced by their places among those
    entries: Array | None  # [W] int32 ascending, PAD first, N + 1 for places that are left over; None for all entries


def touch(params: Params, batches: Sequence[TrainBatch], *, axis_name: str | None = None) -> Touched:
    """Gathers the table entries of every item of a step.

    Args:
      params: of `Model.init`.
      batches: of the step, on this device.
      axis_name: device axis, if any. The entries are then those of all devices' batches, the same on each device.

    Returns:
      Parameters and batches that give the same loss. W is at most the number of items in the batches, plus PAD.
    """
    items = [part.ravel() for b in batches for part in (b.items, b.positives, b.negatives, b.skips)]
    every = jnp.concatenate([jnp.full(1, PAD, jnp.int32), *items])
    if axis_name is not None:
        every = jax.lax.all_gather(every, axis_name).ravel()
    size = params["item_embedding"].shape[0]
    entries = jnp.unique(every, size=min(every.size, size), fill_value=size)

    def place(items: AnyArray) -> Array:
        return jnp.searchsorted(entries, items).astype(jnp.int32)

    local = tuple(
        batch._replace(
            items=place(batch.items),
            positives=place(batch.positives),
            negatives=place(batch.negatives),
            skips=place(batch.skips),
        )
        for batch in batches
    )
    gathered = {name: params[name].at[entries].get(mode="clip") for name in TABLES if name in params}
    return Touched({**params, **gathered}, local, entries)


def apply_updates(params: Params, updates: Params, entries: Array) -> Params:
    """Adds updates to parameters; the updates of tables [W, ...] to their entries [W]."""
    added = {name: params[name].at[entries].add(updates[name], mode="drop") for name in TABLES if name in params}
    rest = {name: value for name, value in params.items() if name not in added}
    return {**optax.apply_updates(rest, {name: updates[name] for name in rest}), **added}


def kinds(params: Params) -> Params:
    """Labels for `optax.partition`: `rows` for tables, `dense` for the rest."""
    return {name: jax.tree.map(lambda _: "rows" if name in TABLES else "dense", params[name]) for name in params}  # noqa: B023


class LazyAdamState(NamedTuple):
    """Moments of every entry."""

    step: Array  # [] int32, updates done
    mu: Any  # [N + 1, ...] of each table
    nu: Any  # the same


def lazy_adam(learning_rate: optax.Schedule, b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """Adam over the entries of a step.

    It is Adam while each step touches every entry. An entry that a step leaves out does not move and keeps its moments;
    Adam would go on moving it and let its moments decay. The bias correction counts all steps.

    Args:
      learning_rate: schedule over updates.
      b1: decay of the first moment.
      b2: decay of the second.
      eps: of the denominator.

    Returns:
      A transformation whose `update` takes gradients [W, ...] and `entries` [W], and gives updates [W, ...].

    References:
      Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv 1412.6980.
    """

    def init(tables: Any) -> LazyAdamState:
        return LazyAdamState(
            jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, tables), jax.tree.map(jnp.zeros_like, tables)
        )

    def update(
        gradients: Any, state: LazyAdamState, params: Any = None, *, entries: Array, **_: Any
    ) -> tuple[Any, LazyAdamState]:
        count = state.step + 1
        rate = learning_rate(state.step)
        mu = jax.tree.map(lambda m, g: b1 * _of(m, entries) + (1 - b1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: b2 * _of(v, entries) + (1 - b2) * jnp.square(g), state.nu, gradients)

        def step(m: Array, v: Array) -> Array:
            return -rate * (m / (1 - b1**count)) / (jnp.sqrt(v / (1 - b2**count)) + eps)

        put = jax.tree.map(lambda whole, part: whole.at[entries].set(part, mode="drop"), (state.mu, state.nu), (mu, nu))
        return jax.tree.map(step, mu, nu), LazyAdamState(count, *put)

    return optax.GradientTransformationExtraArgs(init, update)


class RowAdagradState(NamedTuple):
    """The sum of squares of every entry."""

    step: Array  # [] int32, updates done
    squares: Any  # [N + 1] of each table


def row_adagrad(
    learning_rate: optax.Schedule, eps: float, *, initial: float = 0.1
) -> optax.GradientTransformationExtraArgs:
    """Adagrad with one number per entry: the sum over steps of the mean of the entry's squared gradient.

    Args:
      learning_rate: schedule over updates.
      eps: of the denominator.
      initial: first value of the sums, as in `optax.adagrad`.

    Returns:
      A transformation as of `lazy_adam`.

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 12, 2011; one number per entry as in Mudigere et
      al., "Software-Hardware Co-design for Fast and Scalable Training of Deep Learning Recommendation Models", 2021,
      arXiv 2104.05158.
    """

    def init(tables: Any) -> RowAdagradState:
        return RowAdagradState(
            jnp.zeros((), jnp.int32), jax.tree.map(lambda table: jnp.full(len(table), initial), tables)
        )

    def update(
        gradients: Any, state: RowAdagradState, params: Any = None, *, entries: Array, **_: Any
    ) -> tuple[Any, RowAdagradState]:
        def add(sums: Array, g: Array) -> Array:
            return _of(sums, entries) + jnp.mean(jnp.square(g.reshape(len(g), -1)), axis=1)

        def step(sums: Array, g: Array) -> Array:
            scale = jnp.where(sums > 0, jax.lax.rsqrt(sums + eps), 0.0)
            return -learning_rate(state.step) * g * scale.reshape(-1, *[1] * (g.ndim - 1))

        found = jax.tree.map(add, state.squares, gradients)
        squares = jax.tree.map(lambda whole, part: whole.at[entries].set(part, mode="drop"), state.squares, found)
        return jax.tree.map(step, found, gradients), RowAdagradState(state.step + 1, squares)

    return optax.GradientTransformationExtraArgs(init, update)


def _of(table: Array, entries: Array) -> Array:
    return table.at[entries].get(mode="clip")
