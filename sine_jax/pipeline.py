"""From prepared columns to training batches: which users, in which order, at which width, with which negatives.

Users are sorted by length into a few strata, each with one static width, and every batch takes its share of each
stratum: little padding, one set of shapes, one compiled step. Each user appears exactly once an epoch. The same
functions build a batch from arrays on the device and from (memory-mapped) arrays on the host.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from sine_jax import negatives, windows
from sine_jax.config import Config
from sine_jax.types import PAD, WATCHED, EventLog, Split, TrainBatch

Item = TypeVar("Item")

_RESIDENT_BYTES = 2**30  # columns up to this size are held by every device


class Columns(NamedTuple):
    """All that batches are gathered from."""

    reading: windows.Reading
    seen: negatives.Seen  # what negatives are kept off: all a user saw, or, where they are skips, watched
    popularity: negatives.Popularity | None  # where negatives are drawn by it, or corrected for it


class Stratum(NamedTuple):
    """Users whose training sequences fit one width."""

    users: np.ndarray  # [n] int32
    width: int


class Strata(NamedTuple):
    """All users that have something to train on, by length."""

    strata: tuple[Stratum, ...]
    num_steps: int  # batches of an epoch


def columns(log: EventLog, split: Split, config: Config, *, num_items: int) -> Columns:
    """Lays out the training part of a log.

    What a user sees after the end of training stays unknown here: it is neither read nor kept out of the negatives.

    Raises:
      ValueError: a user has seen the whole catalogue.
    """
    reading, objective = windows.of_config(log, split, config), config.objective
    seen = negatives.none_seen(log.num_users)
    if objective.exclude_seen:
        own = log.feedback == WATCHED if objective.negatives == "skips" else None
        seen = negatives.seen_until(log, split.train_end, num_items, where=own)
    by_popularity = objective.negatives == "popularity" or (
        objective.negatives == "in_batch" and objective.sampled_form == "softmax"
    )
    counts = negatives.popularity(log, split.train_end, num_items) if by_popularity else None
    return Columns(reading, seen, counts)


def fits_device(source: Columns) -> bool:
    """Whether the columns are small enough for every device to hold them."""
    return sum(array.nbytes for array in jax.tree.leaves(source)) <= _RESIDENT_BYTES


def stratify(reading: windows.Reading, config: Config) -> Strata:
    """Sorts the users that have training pairs into at most `train.num_widths` strata.

    Raises:
      ValueError: no user has a training pair.
    """
    lengths = np.asarray(reading.train_ends - reading.offsets[:-1])
    users = np.flatnonzero(lengths > 0).astype(np.int32)
    if not users.size:
        raise ValueError("no user has a training pair: prepare a log with at least two positives before the split")
    num_steps = -(-len(users) // config.train.batch_size)
    # One column of padding stays where there is room: the released filter reads what stands in column 0.
    needed = np.minimum(np.minimum(lengths[users], most_read(config)) + 1, config.model.max_len)
    widths = choose_widths(np.bincount(needed), num_widths=config.train.num_widths, num_steps=num_steps)
    stratum = np.searchsorted(widths, needed)
    return Strata(tuple(Stratum(users[stratum == i], width) for i, width in enumerate(widths)), num_steps)


def most_read(config: Config) -> int:
    """The most exposures of a training window: the released code keeps T - 2 positives, the last of them no input."""
    margin = config.data.window_margin
    return config.model.max_len - (margin + 1 if margin else 0)


def choose_widths(counts: np.ndarray, *, num_widths: int, num_steps: int) -> list[int]:
    """The widths that make an epoch's batches smallest, by dynamic programming over the histogram of lengths.

    Args:
      counts: [T + 1] how many users need each width.
      num_widths: the most widths to use.
      num_steps: batches that the users of a width are spread over.

    Returns:
      Increasing widths, the last one the greatest that is needed.
    """
    needed = np.flatnonzero(counts)
    until = np.concatenate([[0], np.cumsum(counts[needed])])
    # cost[i, j]: positions of a batch if widths needed[i..j] share needed[j]
    rows = -(-(until[None, 1:] - until[:-1, None]) // num_steps)
    cost = np.where(rows > 0, rows * needed[None, :], np.iinfo(np.int64).max // 2)
    best, cuts = cost[0], []
    for _ in range(min(num_widths, len(needed)) - 1):
        # best[j]: cheapest cover of needed[0..j]; the last group begins after i, or there is no further group
        options = np.vstack([best[None], best[:-1, None] + cost[1:]])
        cuts.append(options.argmin(axis=0))
        best = options.min(axis=0)
    widths, last = [int(needed[-1])], len(needed) - 1
    for cut in reversed(cuts):
        if cut[last]:
            last = int(cut[last]) - 1
            widths.append(int(needed[last]))
    return sorted(widths)


def schedule(strata: Strata, *, seed: int, epoch: int, multiple: int) -> tuple[np.ndarray, ...]:
    """Shuffles an epoch: which users are in which batch.

    Args:
      strata: of `stratify`.
      seed: of the run.
      epoch: from 0.
      multiple: rows of a stratum are filled up to a multiple of this, the number of devices.

    Returns:
      Per stratum, [steps, rows] users int32; -1 for fillers. But for those it is the same for any number of devices.
    """
    rng = np.random.default_rng((seed, epoch))
    batches = []
    for users, _ in strata.strata:
        rows = -(-len(users) // strata.num_steps)
        grid = np.full((rows, strata.num_steps), -1, np.int32)
        grid.reshape(-1)[: len(users)] = rng.permutation(users)
        grid = grid[:, rng.permutation(strata.num_steps)]  # else the fillers would always be in the last batches
        batches.append(np.pad(grid.T, ((0, 0), (0, -rows % multiple)), constant_values=-1))
    return tuple(batches)


def negatives_epoch(epoch: int, config: Config) -> int:
    """The epoch whose negatives are drawn: always the first where they are not drawn anew."""
    return epoch if config.objective.resample_negatives else 0


def assemble(
    source: Columns, users: Any, bits: Any, *, width: int, config: Config, num_items: int, devices: int = 1
) -> TrainBatch:
    """Gathers a batch; numpy arrays give numpy arrays, jax arrays (inside jit too) jax arrays.

    Uniform negatives are drawn from what a user has not seen. Others may be among it: they are then left out, PAD, as
    are those of the user's own skips that do not exist.

    Args:
      source: of `columns`.
      users: [B] int32; -1 for fillers.
      bits: [B, width, M] uint32 words that choose the negatives.
      width: T of this batch.
      config: the choices.
      num_items: N.
      devices: how many devices the rows are meant for, of `negatives.draw_in_batch`.
    """
    xp = users.__array_namespace__()
    reading, objective = source.reading, config.objective
    items, watched, positives, skips, times = windows.window(
        reading, users, reading.train_ends, width=width, limit=most_read(config)
    )
    known = xp.maximum(users, 0)
    if objective.negatives == "uniform":
        drawn = negatives.draw(source.seen, known, bits, num_items)
    elif objective.negatives == "skips":
        watched_too = negatives.is_seen(source.seen, known, skips, num_items)
        drawn = negatives.draw_skips(xp.where(watched_too, PAD, skips), bits)
    else:
        if objective.negatives == "popularity":
            drawn = negatives.draw_popular(_counted(source), bits)
        else:
            drawn = negatives.draw_in_batch(positives, bits, devices=devices)
        own = (drawn == positives[..., None]) | negatives.is_seen(source.seen, known, drawn, num_items)
        drawn = xp.where(own, PAD, drawn)
    drawn = xp.where(positives[..., None] != PAD, drawn, PAD)
    chances = None
    if objective.sampled_form == "softmax":
        if objective.negatives == "uniform":
            chances = negatives.log_chance_unseen(source.seen, known, num_items)
            chances = xp.broadcast_to(chances[:, None, None], drawn.shape)
        else:  # of targets of the batch as if they were drawn from the whole training part
            chances = negatives.log_chance(_counted(source), drawn)
    return TrainBatch(users, items, watched, positives, drawn, skips, chances, times)


def _counted(source: Columns) -> negatives.Popularity:
    if source.popularity is None:
        raise ValueError("columns were laid out for a configuration that draws no negatives by popularity")
    return source.popularity


def prefetch(items: Iterable[Item], *, size: int) -> Iterator[Item]:
    """Computes up to `size` items ahead in a thread; an exception there is raised here."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> bool:
        """Hands over one message unless the reader has gone."""
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except Exception as error:  # handed to the reader, whatever it is
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (message := ready.get())[0] == "item":
            yield message[1]
        if message[0] == "error":
            raise message[1]
    finally:
        stopped.set()
        thread.join()
