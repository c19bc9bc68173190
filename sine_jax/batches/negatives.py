"""Sampled negatives: uniform draws from the items that a user has not seen, without rejection, and other draws.

With the user's items `s_0 < s_1 < ...` the r-th item of the complement is `1 + r + #{i: s_i - 1 - i <= r}`. The gaps
`s_i - 1 - i` never fall, so a binary search over them turns any r into an item that the user has not seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from sine_jax.types import PAD, WATCHED, AnyArray, Array, EventLog


class Seen(NamedTuple):
    """The distinct items of each user, as the gaps that a draw searches."""

    gaps: AnyArray  # int32, user by user, s_i - 1 - i of the user's sorted distinct items s
    offsets: AnyArray  # [U + 1] gaps of user u are offsets[u]:offsets[u + 1]


def seen_until(log: EventLog, ends: np.ndarray, num_items: int, *, where: np.ndarray | None = None) -> Seen:
    """Collects what each user was shown before a bound, with any feedback or with that of chosen exposures.

    A user who has seen the whole catalogue has no unseen item; the draws of this user are from all items.

    Args:
      log: the exposures.
      ends: [U] absolute position before which exposures count, such as `split.train_end`.
      num_items: N.
      where: [E] which exposures count; all by default.
    """
    users, counts = log.users, log.before(ends)
    if where is not None:
        counts &= where
    # 10 million pairs take 0.8 s on a CPU core; `np.unique` of numpy 2.4, which hashes them, takes 13 s.
    pairs = np.sort(users[counts] * np.int64(num_items + 1) + log.items[counts])
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    owners, items = np.divmod(pairs, num_items + 1)
    left = np.bincount(owners, minlength=log.num_users)[owners] < num_items
    owners, items = owners[left], items[left]
    offsets = np.searchsorted(owners, np.arange(log.num_users + 1))
    ranks = np.arange(len(items)) - offsets[owners]
    if not len(items):
        return none_seen(log.num_users)
    return Seen((items - 1 - ranks).astype(np.int32), offsets)


def exhausted(log: EventLog, ends: np.ndarray, num_items: int) -> np.ndarray:
    """The users who were shown every item before a bound."""
    counts = log.before(ends)
    shown = np.bincount(log.users[counts], minlength=log.num_users)
    return np.array(
        [
            user
            for user in np.flatnonzero(shown >= num_items)
            if len(np.unique(log.items[log.offsets[user] : ends[user]])) >= num_items
        ],
        int,
    )


def none_seen(num_users: int) -> Seen:
    """Nobody has seen anything: draws are uniform over the whole catalogue."""
    return Seen(np.zeros(1, np.int32), np.zeros(num_users + 1, np.int64))


class Popularity(NamedTuple):
    """How often items are watched, laid out for drawing."""

    cumulative: AnyArray  # [N + 1] int32, sum of the counts of items 0..i; PAD counts nothing


def popularity(log: EventLog, ends: np.ndarray, num_items: int) -> Popularity:
    """Counts the watched exposures of each item before each user's bound, plus one so that every item can be drawn.

    Raises:
      ValueError: the sum is too large for a random word of 32 bits to choose evenly.
    """
    counts = np.bincount(log.items[log.before(ends) & (log.feedback == WATCHED)], minlength=num_items + 1) + 1
    counts[PAD] = 0
    if counts.sum() >= _MOST_COUNTED:
        raise ValueError(
            f"objective.negatives=popularity: {counts.sum() - num_items} watched exposures and {num_items} items are "
            f"too many to count, {_MOST_COUNTED} or more together; use objective.negatives=uniform"
        )
    return Popularity(np.cumsum(counts).astype(np.int32))


_MOST_COUNTED = 2**28  # the remainder of a 32-bit word then favours no exposure by more than 1/16


def draw_popular(popularity: Popularity, bits: AnyArray) -> AnyArray:
    """Turns random words [...] uint32 into items [...] int32, drawn in proportion to their counts; numpy or jax."""
    xp: Any = bits.__array_namespace__()
    total = popularity.cumulative[-1]
    ranks = (bits % total.astype(xp.uint32)).astype(xp.int32)
    return xp.searchsorted(popularity.cumulative, ranks, side="right").astype(xp.int32)


def draw_in_batch(positives: AnyArray, bits: AnyArray, *, devices: int = 1) -> AnyArray:
    """Turns random words into targets of the batch; every position with a target is equally likely.

    Args:
      positives: [B, T] targets; PAD where none.
      bits: [B, T, M] uint32 words.
      devices: how many devices the rows are meant for, in equal parts. A draw stays within its part. A batch that is
        split over devices later therefore has the same negatives as one that is made on each device.

    Returns:
      [B, T, M] items; PAD where no position has a target.
    """
    xp: Any = bits.__array_namespace__()
    pools = positives.reshape(devices, -1)
    order = xp.argsort(pools == PAD, axis=1, stable=True)  # those with a target first
    number = xp.maximum(xp.sum(pools != PAD, axis=1, keepdims=True), 1).astype(xp.uint32)
    ranks = (bits.reshape(devices, -1) % number).astype(xp.int32)
    return xp.take_along_axis(pools, xp.take_along_axis(order, ranks, axis=1), axis=1).reshape(bits.shape)


def draw_skips(skips: AnyArray, bits: AnyArray) -> AnyArray:
    """Turns random words [B, T, M] uint32 into skips of each position, from [B, T, S]; PAD where there are none."""
    xp: Any = bits.__array_namespace__()
    passed = xp.cumsum(skips != PAD, axis=-1)  # skips up to and with each
    ranks = bits % xp.maximum(passed[..., -1:], 1).astype(xp.uint32)
    places = xp.sum(passed[..., None, :] <= ranks[..., None], axis=-1)  # S where there is no skip
    return xp.take_along_axis(skips, xp.minimum(places, skips.shape[-1] - 1), axis=-1)


def log_chance(popularity: Popularity, items: AnyArray) -> AnyArray:
    """The log-probability [...] float32 with which `draw_popular` draws items [...]; PAD counts as 1."""
    xp: Any = items.__array_namespace__()
    counts = popularity.cumulative[items] - popularity.cumulative[xp.maximum(items - 1, 0)]
    return xp.log(xp.maximum(counts, 1).astype(xp.float32) / popularity.cumulative[-1].astype(xp.float32))


def log_chance_unseen(seen: Seen, users: AnyArray, num_items: int) -> AnyArray:
    """The log-probability [...] float32 with which `draw` draws each item for users [...]."""
    xp: Any = seen.gaps.__array_namespace__()
    unseen = num_items - (seen.offsets[users + 1] - seen.offsets[users])
    return -xp.log(unseen.astype(xp.float32))


def is_seen(seen: Seen, users: AnyArray, items: AnyArray, num_items: int) -> AnyArray:
    """Whether users [...] have seen items [..., M], as [..., M] bool; numpy or jax."""
    xp: Any = seen.gaps.__array_namespace__()
    begins, ends = (seen.offsets[users + i][..., None] for i in (0, 1))
    low, high = (xp.zeros_like(items, dtype=begins.dtype) + bound for bound in (begins, ends))
    last = len(seen.gaps) - 1

    def item_at(place: AnyArray) -> AnyArray:
        return seen.gaps[xp.minimum(place, last)] + 1 + (place - begins)

    for _ in range(num_items.bit_length()):  # the first seen item that is not smaller is in between
        middle = (low + high) // 2
        smaller = (low < high) & (item_at(middle) < items)
        low, high = xp.where(smaller, middle + 1, low), xp.where(smaller, high, middle)
    return (low < ends) & (item_at(low) == items)


_STREAM = 0x6E6567  # these draws are independent of those for parameters and dropout


def random_bits(seed: AnyArray | int, epoch: AnyArray | int, users: AnyArray, ranks: AnyArray, number: int) -> Array:
    """Random words that depend on seed, epoch, user and exposure alone, and not on who else is in the batch.

    Args:
      seed: [] of the run.
      epoch: [] int.
      users: [...] int32.
      ranks: [...] int32, which of the user's exposures it is.
      number: M, words of each exposure.

    Returns:
      [..., M] uint32 of the Threefry generator. Seed and epoch make its key; user, exposure and word its counter.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _STREAM), epoch)
    word = jax.lax.broadcasted_iota(np.uint32, (*users.shape, number), users.ndim)
    words = ranks.astype(np.uint32)[..., None] * np.uint32(number) + word
    owners = jnp.broadcast_to(users.astype(np.uint32)[..., None], words.shape)
    counters = jnp.concatenate([owners.ravel(), words.ravel()])
    return threefry_2x32(jax.random.key_data(key), counters)[: words.size].reshape(words.shape)


def draw(seen: Seen, users: AnyArray, bits: AnyArray, num_items: int) -> AnyArray:
    """Turns random words into items that the users have not seen, each equally likely.

    Works on numpy arrays and, inside or outside jit, on jax arrays.

    Args:
      seen: items that are not drawn.
      users: [...] whom to draw for.
      bits: [..., M] uint32 words; taking the remainder favours some items by less than N / 2**32.
      num_items: N.

    Returns:
      [..., M] int32 items in 1..N.
    """
    xp: Any = seen.gaps.__array_namespace__()
    begins, ends = (seen.offsets[users + i][..., None] for i in (0, 1))
    choices = (num_items - (ends - begins)).astype(xp.uint32)
    ranks = (bits % choices).astype(xp.int32)
    low, high = (
        xp.zeros_like(ranks, dtype=begins.dtype) + bound for bound in (begins, ends)
    )  # the first gap above the rank is in between
    for _ in range(num_items.bit_length()):
        middle = (low + high) // 2
        passed = (low < high) & (seen.gaps[xp.minimum(middle, len(seen.gaps) - 1)] <= ranks)
        low, high = xp.where(passed, middle + 1, low), xp.where(passed, high, middle)
    return 1 + ranks + (low - begins).astype(xp.int32)
