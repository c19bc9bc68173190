"""From prepared columns to training batches: which users, in which order, in which rows, with which negatives.

Users are sorted by length into a few strata. The rows of a stratum have one static width, and several users may share a
row. Every batch takes the same part of each stratum, so there is hardly any padding and only one step to compile. Each
user appears exactly once an epoch. The same functions build a batch from arrays on the device and from (memory-mapped)
arrays on the host.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from sine_jax import parallel
from sine_jax.batches import negatives, packing, windows
from sine_jax.batches.samplers import SAMPLERS, Draw
from sine_jax.config import Config
from sine_jax.types import PAD, WATCHED, AnyArray, Array, EventLog, Split, TrainBatch

Item = TypeVar("Item")

_RESIDENT_BYTES = 2**30  # columns up to this size are held by every device; a choice, small beside 16 GB or more


class Source(NamedTuple):
    """What batches are gathered from."""

    reading: windows.Reading
    seen: negatives.Seen  # items that are not drawn as negatives of a user
    popularity: negatives.Popularity | None  # None where no negative is drawn by it or weighed by it


class Stratum(NamedTuple):
    """Users whose training sequences fit one width, and how they share rows of that width.

    A layout names users by their places in `users`, which are sorted by length. Users of the same length may therefore
    change places.
    """

    users: np.ndarray  # [n] int32, shortest first
    lengths: np.ndarray  # [n] int32, columns that each user takes
    layout: np.ndarray  # [rows, P] int32, places in `users`; -1 after the last user of a row
    width: int


class Strata(NamedTuple):
    """All users that have a training pair, by length."""

    strata: tuple[Stratum, ...]
    num_steps: int  # batches of an epoch

    @property
    def num_users(self) -> int:
        """Sequences of an epoch."""
        return sum(len(stratum.users) for stratum in self.strata)

    @property
    def tokens(self) -> int:
        """Exposures that an epoch reads."""
        return sum(int(stratum.lengths.sum()) for stratum in self.strata)


def lay_out(log: EventLog, split: Split, *, config: Config, num_items: int) -> Source:
    """Lays out the training part of a log.

    What a user sees after the end of training is not used: it is neither read nor left out of the negatives.

    Raises:
      ValueError: a user has seen the whole catalogue.
    """
    objective, sampler = config.objective, SAMPLERS[config.objective.negatives]
    seen, counts = negatives.none_seen(log.num_users), None
    if objective.exclude_seen:
        avoided = log.feedback == WATCHED if sampler.avoids_watched_only else None
        seen = negatives.seen_until(log, split.train_end, num_items, where=avoided)
    if sampler.draws_by_count or (sampler.weighs_by_count and objective.needs_chances):
        counts = negatives.popularity(log, split.train_end, num_items)
    return Source(windows.of_config(log, split, config=config), seen, counts)


def fitting(source: Source) -> str:
    """`resident` if the columns are small enough for every device to hold them, otherwise `streamed`."""
    small = sum(array.nbytes for array in jax.tree.leaves(source)) <= _RESIDENT_BYTES
    return "resident" if small else "streamed"


def stratify(reading: windows.Reading, *, config: Config, packed: bool) -> Strata:
    """Lays out the users that have training pairs in rows of at most `train.num_widths` widths.

    Args:
      reading: what may be read.
      config: the choices.
      packed: whether several users may share a row (`Model.packs`). With the full softmax they never do.

    Raises:
      ValueError: no user has a training pair.
    """
    packed = packed and not config.objective.reads_catalogue
    lengths = np.minimum(reading.train_ends - reading.offsets[:-1], most_read(config)).astype(np.int32)
    order = np.argsort(lengths, kind="stable")
    users = order[np.searchsorted(lengths[order], 1) :].astype(np.int32)
    if not users.size:
        raise ValueError(
            f"data.split_by={config.data.split_by}: none of {len(lengths)} users has a training pair; prepare a log in "
            "which some have two watched exposures before those held out"
        )
    num_steps = -(-len(users) // config.train.batch_size)
    counts = np.bincount(lengths[users])
    strata, begin = [], 0
    for width in packing.choose_widths(counts, num_widths=config.train.num_widths, num_steps=num_steps, packed=packed):
        end = int(np.searchsorted(lengths[users], width, side="right"))
        chosen, begin = users[begin:end], end
        layout = packing.pack(lengths[chosen], width) if packed else np.arange(len(chosen), dtype=np.int32)[:, None]
        strata.append(Stratum(chosen, lengths[chosen], layout, width))
    return Strata(tuple(strata), num_steps)


def most_read(config: Config) -> int:
    """The most exposures of a training window. The released code keeps T - 2 positives and reads all but the last."""
    margin = config.data.window_margin
    return config.model.max_len - (margin + 1 if margin else 0)


def schedule(strata: Strata, *, seed: int, epoch: int, multiple: int) -> tuple[np.ndarray, ...]:
    """Shuffles an epoch: which users share which row, and which rows make which batch.

    Args:
      strata: of `stratify`.
      seed: of the run.
      epoch: from 0.
      multiple: the number of devices; empty rows are added up to a multiple of it.

    Returns:
      Per stratum, [steps, rows, P] users int32; -1 for fillers. Apart from fillers it is the same for any `multiple`.
    """
    rng = np.random.default_rng((seed, epoch))
    batches = []
    for users, lengths, layout, _ in strata.strata:
        shuffled = users[np.lexsort((rng.random(len(users)), lengths))]
        rows = -(-len(layout) // strata.num_steps)
        grid = np.full((rows, strata.num_steps, layout.shape[1]), -1, np.int32)
        there = np.where(layout >= 0, shuffled[layout], -1)
        grid.reshape(-1, layout.shape[1])[: len(layout)] = rng.permutation(there)
        grid = grid[:, rng.permutation(strata.num_steps)]  # otherwise the last batches would have all fillers
        batches.append(np.pad(grid.swapaxes(0, 1), ((0, 0), (0, -rows % multiple), (0, 0)), constant_values=-1))
    return tuple(batches)


class Feed(NamedTuple):
    """What the batches of a run are made from."""

    source: Any  # a `Source`; None where it is passed separately
    strata: Strata
    config: Config
    num_items: int


def feed(log: EventLog, split: Split, *, config: Config, num_items: int, packed: bool) -> Feed:
    """Lays out the training part of a log for batches: `lay_out`, then `stratify`.

    Args:
      log: the exposures.
      split: what may be learned from.
      config: the choices.
      num_items: N.
      packed: whether several users may share a row (`Model.packs`).

    Raises:
      ValueError: no user has a training pair, or a user has seen the whole catalogue.
    """
    source = lay_out(log, split, config=config, num_items=num_items)
    return Feed(source, stratify(source.reading, config=config, packed=packed), config, num_items)


def epoch(
    log: EventLog, split: Split, *, config: Config, num_items: int, epoch: int, packed: bool = False
) -> Iterator[tuple[TrainBatch, ...]]:
    """An epoch's batches as numpy arrays, step by step: those that `sine_jax.train` trains on with one device.

    Args:
      log: the exposures.
      split: what may be learned from, such as `splits.split(log, config=config.data).valid`.
      config: the choices; `train.seed` decides order and negatives.
      num_items: N.
      epoch: from 0.
      packed: whether several users may share a row, which saves padding; pass `Model.packs`.

    Yields:
      A tuple of batches [B, T], one for each width T (at most `train.num_widths`); `train_step` takes the tuple.

    Raises:
      ValueError: no user has a training pair, or a user has seen the whole catalogue.
    """
    made = feed(log, split, config=config, num_items=num_items, packed=packed)
    for users in zip(*order(made, epoch, multiple=1), strict=True):
        yield host_batches(made, users, epoch)


def order(feed: Feed, epoch: int, *, multiple: int) -> tuple[np.ndarray, ...]:
    """The users of each step of an epoch, by `schedule`."""
    return schedule(feed.strata, seed=feed.config.train.seed, epoch=epoch, multiple=multiple)


def host_batches(feed: Feed, users: Sequence[np.ndarray], epoch: int, *, devices: int = 1) -> tuple[TrainBatch, ...]:
    """The batches of one step as numpy arrays, one per stratum, for its users [rows, P] of `order`.

    They are made to be split over `devices`. Each device then gets the batches that `gather` would give it.
    """
    config = feed.config
    drawn, seed = negatives_epoch(epoch, config=config), np.uint32(config.train.seed)

    def random_bits(owners: AnyArray, ranks: AnyArray) -> AnyArray:
        return np.asarray(parallel.on_host(_random_bits)(seed, drawn, owners, ranks, config.objective.num_negatives))

    return _assembled(feed, users, random_bits, devices=devices)


_random_bits = jax.jit(negatives.random_bits, static_argnums=4)


def gather(feed: Feed, users: Sequence[Array], epoch: Array, seed: Array) -> tuple[TrainBatch, ...]:
    """The same batches, inside jit; `epoch` [] comes from `negatives_epoch`."""

    def random_bits(owners: AnyArray, ranks: AnyArray) -> AnyArray:
        return negatives.random_bits(seed, epoch, owners, ranks, feed.config.objective.num_negatives)

    return _assembled(feed, users, random_bits, devices=1)


def _assembled(
    feed: Feed, users: Sequence[AnyArray], random_bits: RandomBits, *, devices: int
) -> tuple[TrainBatch, ...]:
    return tuple(
        assemble(
            feed.source,
            rows,
            random_bits,
            width=stratum.width,
            config=feed.config,
            num_items=feed.num_items,
            devices=devices,
        )
        for rows, stratum in zip(users, feed.strata.strata, strict=True)
    )


def negatives_epoch(epoch: int, *, config: Config) -> int:
    """The epoch whose negatives are drawn: always the first if they are drawn only once."""
    return epoch if config.objective.resample_negatives else 0


# users [B, T], which of their exposures it is [B, T] -> [B, T, M] uint32
RandomBits = Callable[[AnyArray, AnyArray], AnyArray]


def assemble(
    source: Source,
    users: AnyArray,
    random_bits: RandomBits,
    *,
    width: int,
    config: Config,
    num_items: int,
    devices: int = 1,
) -> TrainBatch:
    """Gathers a batch. Numpy arrays give numpy arrays; jax arrays give jax arrays, also inside jit.

    Uniform negatives are drawn from what a user has not seen. Other negatives may be drawn from what the user has seen,
    or may not exist: they are PAD then.

    Args:
      source: of `lay_out`.
      users: [B, P] int32; -1 for fillers.
      random_bits: gives the random words that choose the negatives.
      width: T of this batch.
      config: the choices.
      num_items: N.
      devices: how many devices the rows are meant for, of `negatives.draw_in_batch`.
    """
    xp = users.__array_namespace__()
    reading, objective = source.reading, config.objective
    window = windows.window(reading, users, reading.train_ends, width=width, limit=most_read(config))
    positives, skips, known = window.targets, window.skips, xp.maximum(window.users, 0)
    sampler = SAMPLERS[objective.negatives]
    draw = Draw(
        source.seen,
        source.popularity,
        users=known,
        positives=positives,
        skips=skips,
        bits=random_bits(known, window.ranks),
        num_items=num_items,
        devices=devices,
    )
    drawn = xp.where(positives[..., None] != PAD, sampler.draw(draw), PAD)
    chances = sampler.log_chance(draw, drawn) if objective.needs_chances and sampler.log_chance else None
    return TrainBatch(
        users,
        window.items,
        window.watched,
        positives,
        drawn,
        skips,
        chances,
        window.times,
        segments=window.segments,
        shown_in=window.shown_in,
    )


def prefetch(items: Iterable[Item], *, size: int) -> Iterator[Item]:
    """Computes up to `size` items ahead in a thread, and raises here what the thread raised."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> bool:
        """Hands over one message, unless the reader has stopped."""
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
        except Exception as error:  # whatever it is, the reader raises it
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
