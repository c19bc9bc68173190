"""What the encoder reads of a log: exposures with their targets, and windows of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sine_jax.config import Config
from sine_jax.types import PAD, SKIPPED, WATCHED, AnyArray, EventLog, Split


class Window(NamedTuple):
    """The last exposures of each user before an end."""

    items: AnyArray  # [B, T]
    watched: AnyArray  # [B, T]
    targets: AnyArray  # [B, T]
    skips: AnyArray  # [B, T, S]
    times: AnyArray | None  # [B, T]; None where times are not read
    users: AnyArray  # [B, T], whose exposure it is
    ranks: AnyArray  # [B, T], which of the user's readable exposures it is, from 0
    shown_in: AnyArray | None  # [B, T, 1 + S, X]; None where no context is used
    segments: AnyArray | None  # [B, T], which of the window's users it belongs to; None where a window has one user


class Reading(NamedTuple):
    """The R exposures that may be read, user by user, each with the pairs that supervise the state after it.

    Watched exposures may be read, and skipped ones where skips are read. Targets may be learned from. The last watched
    exposure of a user's training part has none, nor has a skip, unless states after skips are supervised.
    """

    items: AnyArray  # [R] int32
    watched: AnyArray  # [R] bool
    targets: AnyArray  # [R] int32, the item watched next; PAD where none
    skips: AnyArray  # [R, S] int32, skipped around that target, nearest first; PAD where none
    offsets: AnyArray  # [U + 1] those of user u are offsets[u]:offsets[u + 1]
    train_ends: AnyArray  # [U] end of a user's training window (exclusive); offsets[u] where nothing can be learned
    history_ends: AnyArray  # [U] end of what may be read when the split's target is ranked (exclusive)
    times: AnyArray | None = None  # [R] int32, s since the log's first exposure, where times are read
    shown_in: AnyArray | None = None  # [R, 1 + S, X] int16, contexts of the target and the skips, where they are used


def read(
    log: EventLog,
    split: Split,
    *,
    num_skips: int,
    read_skips: bool,
    read_times: bool = False,
    ahead: bool = False,
    after_skips: bool = False,
    contexts: bool = False,
) -> Reading:
    """Lays out what a split lets the encoder read.

    Args:
      log: the exposures.
      split: bounds per user.
      num_skips: S, how many skips a target is paired with.
      read_skips: whether skipped exposures are read too.
      read_times: whether the times of exposures are read.
      ahead: pair a target with the next S skips after the exposure that is read, whether they come before the target
        or after it; otherwise with the skips among the S exposures right before the target.
      after_skips: skips that are read have targets too, and pairs with the skips after them.
      contexts: whether the contexts of targets and skips are used, if the log has any.

    Returns:
      A `Reading` of numpy arrays.

    Raises:
      ValueError: times are read, and an exposure has none, or exposures are more than 68 years apart.
    """
    watched = log.feedback == WATCHED
    kept = watched | (log.feedback == SKIPPED) if read_skips else watched
    readable_before = np.concatenate([[0], np.cumsum(kept)])
    readable = np.flatnonzero(kept)
    targets = np.full(len(readable), PAD, np.int32)
    skips = np.full((len(readable), num_skips), PAD, np.int32)
    of_log = log.contexts if contexts else None
    shown_in = None if of_log is None else np.zeros((len(readable), 1 + num_skips, of_log.shape[1]), np.int16)

    # Pairs of an exposure and the next positive of its user (source, target) within the user's training part.
    positives, source = np.flatnonzero(watched), np.flatnonzero(kept if after_skips else watched)
    target = np.append(positives, len(log.items))[np.searchsorted(positives, source, side="right")]
    source, target = source[target < len(log.items)], target[target < len(log.items)]
    owners = log.users[source]
    paired = (owners == log.users[target]) & (target < split.train_end[owners])
    source, target, owners = source[paired], target[paired], owners[paired]
    at = readable_before[source]
    targets[at] = log.items[target]
    if shown_in is not None and of_log is not None:
        shown_in[at, 0] = of_log[target]
    every_skip = np.flatnonzero(log.feedback == SKIPPED)
    following = np.searchsorted(every_skip, source)
    for s in range(num_skips):
        if ahead:
            place = np.append(every_skip, len(log.items))[np.minimum(following + s, len(every_skip))]
            skipped = place < split.train_end[owners]
        else:
            place = target - 1 - s
            skipped = (place > source) & (log.feedback[place] == SKIPPED)
        place = np.minimum(place, len(log.items) - 1)
        skips[at, s] = np.where(skipped, log.items[place], PAD)
        if shown_in is not None and of_log is not None:
            shown_in[at, 1 + s] = np.where(skipped[:, None], of_log[place], 0)

    offsets = readable_before[log.offsets]
    times = _seconds(log.times)[readable] if read_times else None
    train_ends = offsets[:-1].copy()
    np.maximum.at(train_ends, owners, at + 1)
    return Reading(
        items=np.asarray(log.items)[readable].astype(np.int32),
        watched=watched[readable],
        targets=targets,
        skips=skips,
        offsets=offsets,
        train_ends=train_ends,
        history_ends=readable_before[split.history_end],
        times=times,
        shown_in=shown_in,
    )


def of_config(log: EventLog, split: Split, *, config: Config) -> Reading:
    """`read` with the options of a configuration."""
    objective = config.objective
    ahead = objective.skips == "ahead"
    return read(
        log,
        split,
        num_skips=objective.num_skips,
        read_skips=config.model.read_skips,
        read_times=config.model.read_times,
        ahead=ahead,
        after_skips=objective.after_skips,
        contexts=config.model.context,
    )


def _seconds(times: np.ndarray) -> np.ndarray:
    """Milliseconds [E] as whole seconds since the first of them, int32."""
    remedy = "prepare the log with such times, or set model.read_times=False"
    if timeless := int(np.count_nonzero(times < 0)):
        raise ValueError(f"model.read_times=True: {timeless} of {len(times)} exposures have no time; {remedy}")
    if len(times) and (span := int(times.max() - times.min())) >= 2**31 * 1000:
        years = span / (365.25 * 86_400_000)
        raise ValueError(f"model.read_times=True: exposures are {years:.0f} years apart, not within 68; {remedy}")
    return ((times - times.min(initial=np.iinfo(np.int64).max)) // 1000).astype(np.int32)


def window(reading: Reading, users: AnyArray, ends: AnyArray, *, width: int, limit: int | None = None) -> Window:
    """The last exposures of each user before an end; the users of a row stand side by side at its right end.

    Works on numpy arrays (also memory-mapped) and, inside or outside jit, on jax arrays.

    Args:
      reading: what `read` laid out.
      users: [B, P] users of each window; fillers are below 0, take no room and come last.
      ends: [U] end (exclusive) of what is read of each user, such as `reading.train_ends`.
      width: T, columns of the window.
      limit: how many exposures of a user are read at most; the first columns then stay empty. `width` by default.

    Returns:
      The window. Where there is no exposure, items, targets and skips are PAD, users -1 and the rest 0.
    """
    xp: Any = reading.items.__array_namespace__()
    known = xp.maximum(users, 0)
    last, first = ends[known], reading.offsets[known]
    lengths = xp.where(users >= 0, xp.minimum(last - first, min(width, width if limit is None else limit)), 0)
    stops = width - (xp.sum(lengths, axis=1, keepdims=True) - xp.cumsum(lengths, axis=1))  # where each user's part ends
    column = xp.arange(width, dtype=ends.dtype)[None, :]
    place = xp.sum(stops[:, None, :] <= column[..., None], axis=2)  # users whose part ends before this column
    place = xp.minimum(place, users.shape[1] - 1)

    def of_column(values: AnyArray) -> AnyArray:
        return xp.take_along_axis(values, place, axis=1)

    valid = column >= width - xp.sum(lengths, axis=1, keepdims=True)
    exposures = xp.where(valid, of_column(last) - of_column(stops) + column, 0)
    return Window(
        items=xp.where(valid, reading.items[exposures], PAD),
        watched=valid & reading.watched[exposures],
        targets=xp.where(valid, reading.targets[exposures], PAD),
        skips=xp.where(valid[..., None], reading.skips[exposures], PAD),
        times=None if reading.times is None else xp.where(valid, reading.times[exposures], 0),
        shown_in=None if reading.shown_in is None else xp.where(valid[..., None, None], reading.shown_in[exposures], 0),
        users=xp.where(valid, of_column(users), -1),
        ranks=xp.where(valid, exposures - of_column(first), 0),
        segments=place.astype(xp.int32) if users.shape[1] > 1 else None,
    )
