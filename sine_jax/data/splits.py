"""Splits: which exposure of each user is held out, and what may be learned from, read, and ranked against it.

A split is computed for all users at once from the flat columns of the log. Positions are absolute: they index the
columns directly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sine_jax import config as configs
from sine_jax.types import WATCHED, EventLog, Split


class Splits(NamedTuple):
    """The two held-out splits of a log; both have the same training part."""

    valid: Split
    test: Split


def split(log: EventLog, *, config: configs.DataConfig) -> Splits:
    """The splits that a configuration names."""
    after_target = config.candidates == "released"
    if config.split_by == "by_time":
        return by_time(log, train_until=config.train_until, valid_until=config.valid_until, after_target=after_target)
    if config.split_by == "by_share":
        return by_share(log, train=config.train_share, valid=config.valid_share, after_target=after_target)
    return last_positive(log, after_target=after_target)


def last_positive(log: EventLog, *, after_target: bool) -> Splits:
    """Holds out each user's last watched exposure for the test, and the one before it for validation.

    Let P_1 .. P_n be the user's watched exposures. Training ends with P_{n-2}. Validation ranks P_{n-1} against the
    skips since P_{n-2}, and the test ranks P_n against the skips since P_{n-1}. Users with fewer than three positives
    take no part, neither here nor in training.

    Args:
      log: exposures of U users.
      after_target: also rank against the skips that follow the target (up to the next positive), as the released code
        does; otherwise only against those shown before it.
    """
    positives = np.flatnonzero(log.feedback == WATCHED)
    starts = np.searchsorted(positives, log.offsets)  # [U + 1], the first positive of each user among all
    takes_part = np.diff(starts) >= 3
    begins, ends = log.offsets[:-1], log.offsets[1:]

    def from_last(rank: int) -> np.ndarray:
        """Positions [U] of P_{n - rank}; -1 where the user takes no part."""
        position = np.full(log.num_users, -1, np.int64)
        position[takes_part] = positives[starts[1:][takes_part] - 1 - rank]
        return position

    third, second, last = from_last(2), from_last(1), from_last(0)

    def or_begin(position: np.ndarray) -> np.ndarray:
        return np.where(takes_part, position, begins)

    train_end, after_second = or_begin(third + 1), or_begin(second + 1)
    valid = Split(
        train_end=train_end,
        target=second,
        history_end=train_end,
        candidates_begin=train_end,
        candidates_end=or_begin(last if after_target else second),
        begin=train_end,
        end=after_second,
    )
    test = Split(
        train_end=train_end,
        target=last,
        history_end=after_second,
        candidates_begin=after_second,
        candidates_end=or_begin(ends if after_target else last),
        begin=after_second,
        end=or_begin(ends),
    )
    return Splits(valid, test)


def by_time(log: EventLog, *, train_until: int, valid_until: int, after_target: bool) -> Splits:
    """Trains on what was shown before one instant, validates until a second one, and tests on the rest.

    A user's target in a period is the first exposure watched in it. What may be read ends with the positive before the
    target, and the target is ranked against the skips since then that fall in the period. Users who watched nothing in
    a period take no part in it.

    Args:
      log: exposures of U users, with times.
      train_until: first instant of validation, ms since 1970.
      valid_until: first instant of the test, ms since 1970.
      after_target: also rank against the skips that follow the target, up to the next positive or the end of the
        period; otherwise only against those shown before it.

    Raises:
      ValueError: an exposure has no time, or the instants are out of order.
    """
    if not 0 < train_until < valid_until:
        raise ValueError(
            f"data.train_until={train_until}, data.valid_until={valid_until}: must be 0 < train_until < valid_until; "
            "give both instants in ms since 1970"
        )
    if timeless := int(np.count_nonzero(log.times < 0)):
        raise ValueError(
            f"data.split_by=by_time: {timeless} of {len(log.times)} exposures have no time; "
            "use data.split_by=last_positive"
        )
    train_end, valid_end = _first_since(log, train_until), _first_since(log, valid_until)
    return _periods(log, train_end, valid_end, after_target=after_target)


def by_share(log: EventLog, *, train: float, valid: float, after_target: bool) -> Splits:
    """Trains on the first exposures of each user, validates on the next and tests on the rest.

    Where the parts begin does not depend on feedback. Targets and candidates are those of `by_time`.

    Args:
      log: exposures of U users.
      train: share of each user's exposures, rounded down.
      valid: share of each user's exposures that validation adds.
      after_target: as for `by_time`.
    """
    train_end, valid_end = (
        log.offsets[:-1] + np.floor(log.lengths * share + 1e-9).astype(np.int64) for share in (train, train + valid)
    )
    return _periods(log, train_end, valid_end, after_target=after_target)


def _periods(log: EventLog, train_end: np.ndarray, valid_end: np.ndarray, *, after_target: bool) -> Splits:
    """The splits if validation and test begin at these positions [U]."""
    positives = np.append(np.flatnonzero(log.feedback == WATCHED), len(log.items))

    def held_out(begin: np.ndarray, end: np.ndarray) -> Split:
        first = np.searchsorted(positives, begin)  # [U], among all positives
        takes_part = positives[first] < end
        # A user without a target has an empty period, so nothing of theirs is read or ranked.
        target = np.where(takes_part, positives[first], -1)
        before = np.where(first > 0, positives[first - 1] + 1, 0)
        history_end = np.where(takes_part, np.maximum(before, log.offsets[:-1]), log.offsets[:-1])
        following = np.minimum(positives[np.minimum(first + 1, len(positives) - 1)], end)
        return Split(
            train_end=train_end,
            target=target,
            history_end=history_end,
            candidates_begin=np.where(takes_part, np.maximum(history_end, begin), begin),
            candidates_end=np.where(takes_part, following if after_target else target, begin),
            begin=begin,
            end=end,
        )

    return Splits(held_out(train_end, valid_end), held_out(valid_end, log.offsets[1:]))


def _first_since(log: EventLog, instant: int) -> np.ndarray:
    """Positions [U] of each user's first exposure at or after an instant; the user's end if there is none."""
    earlier = np.concatenate([[0], np.cumsum(log.times < instant)])
    return log.offsets[:-1] + np.diff(earlier[log.offsets])
