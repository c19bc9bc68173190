"""The signed kernel alone, as a simple scorer: item biases, and the similarity to what was watched and skipped.

It has a dozen numbers, fitted to rank watched exposures over the skips before them. See `layers.signed_kernel`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

from sine_jax import factors
from sine_jax.batches import windows
from sine_jax.batches.windows import Reading
from sine_jax.evaluation import simple_scorers
from sine_jax.evaluation.simple_scorers import Biases, Factors
from sine_jax.layers import signed_kernel
from sine_jax.types import PAD, Array, EventLog, Split

# Choices.
FITTED = 200_000  # exposures that a dozen numbers are fitted to, at most
AT_ONCE = 1 << 20  # exposures that are read at once, to bound memory
ROWS = 64  # rows of users that are read side by side
PENALTY = 1e-4  # on the squares of these numbers
STEP = 128  # rows are as long as a multiple of this, so that few shapes are compiled


class Sequences(NamedTuple):
    """Some users' readable exposures in rows, many users in each, one after the other."""

    places: np.ndarray  # [B, T] int64, where each is in a `Reading`; -1 at padding
    first: np.ndarray  # [B, T] bool, True at each user's first exposure


def fit(
    log: EventLog,
    split: Split,
    biases: Biases,
    *,
    owners: np.ndarray,
    ends: np.ndarray,
    dim: int = 16,
    num_skips: int = 8,
    seed: int = 0,
) -> Factors:
    """Fits the signed kernel to the training part, and reads histories up to some places of the log.

    Args:
      log: the exposures.
      split: what may be learned from.
      biases: of items, fitted within users on the training part.
      owners: [L] the user of each place, ascending.
      ends: [L] absolute positions; what was shown before may be read.
      dim: D, the width of the item factors.
      num_skips: S, how many skips before a watched exposure it is compared with.
      seed: of the users that are fitted, if the log is large.

    Returns:
      The memory at each place [L, D], the item factors [N + 1, D], and the item biases.
    """
    learned = simple_scorers.training(log, split)
    table = jnp.asarray(factors.co_exposure(log, learned, num_items=len(biases.items) - 1, dim=dim))
    reading = windows.read(log, split._replace(history_end=ends), num_skips=num_skips, read_skips=True)
    order = np.random.default_rng(seed).permutation(log.num_users)
    begins, ends = np.asarray(reading.offsets[:-1]), np.asarray(reading.train_ends)
    lengths = ends - begins
    some = order[np.cumsum(lengths[order]) <= FITTED]
    kernel = _fitted(reading, _in_rows(begins[some], ends[some]), table, biases)
    found = _memory_at(kernel, reading, table, owners)
    places = Biases(jnp.zeros(len(owners)), biases.items)
    return Factors(jnp.asarray(found), table, places)


def _memory_at(kernel: signed_kernel.Kernel, reading: Reading, table: Array, owners: np.ndarray) -> np.ndarray:
    """[L, D] the memory at the end of what may be read at each place; 0 where that is nothing."""
    begins, ends = np.asarray(reading.offsets[:-1]), np.asarray(reading.history_ends)
    found = np.zeros((len(ends), table.shape[1]), np.float32)
    last = begins.copy()
    np.maximum.at(last, owners, ends)
    lengths = last - begins
    part = (np.cumsum(lengths) - lengths) // AT_ONCE
    for number in np.unique(part):
        users = np.flatnonzero(part == number)
        asked = np.flatnonzero((part[owners] == number) & (ends > begins[owners]))
        if not len(asked):
            continue
        sequences = _in_rows(begins[users], last[users])
        memories = np.asarray(_memories(kernel, table, *_read(reading, sequences)))
        there = sequences.places >= 0  # ascending, because rows hold users in their order
        found[asked] = memories[there][np.searchsorted(sequences.places[there], ends[asked] - 1)]
    return found


def _in_rows(begins: np.ndarray, ends: np.ndarray) -> Sequences:
    """Puts the exposures begins[i]..ends[i] of users into at most `ROWS` rows of about the same length."""
    kept = np.flatnonzero(ends > begins)
    lengths = (ends - begins)[kept]
    row = np.minimum((np.cumsum(lengths) - lengths) * ROWS // max(int(lengths.sum()), 1), ROWS - 1)
    sizes = np.bincount(row, lengths, minlength=ROWS).astype(np.int64)
    starts = np.cumsum(lengths) - lengths - (np.cumsum(sizes) - sizes)[row]  # of each user, in its row
    places = np.full((ROWS, max(-(-int(sizes.max()) // STEP), 1) * STEP), -1)
    first = np.zeros(places.shape, bool)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places[np.repeat(row, lengths), np.repeat(starts, lengths) + within] = np.repeat(begins[kept], lengths) + within
    first[row, starts] = True
    return Sequences(places, first)


def _read(reading: Reading, sequences: Sequences) -> tuple[Array, Array, Array, Array]:
    """Items, polarities, where there is an exposure, and where users begin, each [B, T]."""
    valid = sequences.places >= 0
    items, watched = np.full(valid.shape, PAD, np.int32), np.zeros(valid.shape, bool)
    items[valid], watched[valid] = (x[sequences.places[valid]] for x in (reading.items, reading.watched))
    return jnp.asarray(items), jnp.asarray(watched), jnp.asarray(valid), jnp.asarray(sequences.first)


@jax.jit
def _memories(
    kernel: signed_kernel.Kernel, table: Array, items: Array, watched: Array, valid: Array, first: Array
) -> Array:
    return signed_kernel.read(kernel, table[items], watched=watched, valid=valid, first=first)


def _fitted(reading: Reading, sequences: Sequences, table: Array, biases: Biases) -> signed_kernel.Kernel:
    """Minimises the loss of all pairs of a watched exposure and a skip before it."""
    inputs = _read(reading, sequences)
    rows, columns = np.nonzero(sequences.places >= 0)
    at = sequences.places[rows, columns]
    pairs = np.nonzero((reading.targets[at] != PAD)[:, None] & (reading.skips[at] != PAD))
    start = signed_kernel.init()
    if not len(pairs[0]):
        return start
    targets, skips = (jnp.asarray(x) for x in (reading.targets[at][pairs[0]], reading.skips[at][pairs]))
    states = jnp.asarray(rows[pairs[0]]), jnp.asarray(columns[pairs[0]])
    flat, unflatten = ravel_pytree(start)
    known = biases.items[targets] - biases.items[skips]
    fixed = table, inputs, states, table[targets] - table[skips], known

    def on_host(flat: np.ndarray) -> list[np.ndarray]:
        value, gradient = _loss_and_gradient(unflatten(jnp.asarray(flat, jnp.float32)), *fixed)
        return [np.asarray(part, np.float64) for part in (value, ravel_pytree(gradient)[0])]

    found = scipy.optimize.minimize(on_host, np.asarray(flat), jac=True, method="L-BFGS-B", options={"maxiter": 30})
    return unflatten(jnp.asarray(found.x, jnp.float32))


@jax.jit
@jax.value_and_grad
def _loss_and_gradient(
    kernel: signed_kernel.Kernel,
    table: Array,
    inputs: tuple[Array, ...],
    states: tuple[Array, Array],
    apart: Array,
    known: Array,
) -> Array:
    """The loss [] over pairs: their states, how far their factors are apart [P, D], and their biases [P]."""
    margins = known + jnp.sum(_memories(kernel, table, *inputs)[states] * apart, axis=-1)
    squares = sum(jnp.sum(jnp.square(numbers)) for numbers in kernel.values())
    return -jnp.mean(jax.nn.log_sigmoid(margins)) + PENALTY * squares
