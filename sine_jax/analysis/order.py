"""Whether the order of a user's exposures can be learned from: gaps, autocorrelation, and ordered against shuffled.

What a sequence model can learn beyond a user's and an item's bias is what recent feedback on *similar* items says about
the next exposure. So two logistic regressions predict feedback. Both know the biases, and how much was watched lately.
The second also knows recent watches and recent skips, each weighed by how similar their items are to the one shown now
(by co-exposure) and faded by a few decays. What it gains, on users that it was not fitted to, is what such items tell.
Part of that is taste, which needs no order: it remains if the rows of each user are shuffled. The rest is order. If
there is none, the log is as one of its shuffles, so these are the null.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from sine_jax import factors
from sine_jax.analysis import signals
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog

# Choices.
DECAYS = np.array([0.5, 0.8, 0.95])  # per exposure
DIM = 16  # of the item factors
LAGS = tuple(range(1, 11))
SHUFFLES = 16  # of each user's rows
MEASURED = 300_000  # exposures of the users that are drawn for the regressions, at most
STEPS = 8  # of Newton's method
LITTLE = 0.002  # bits; below it a verdict says so
SURE = 3.0  # standard deviations of the shuffles that order must be ahead of their mean


class Gaps(NamedTuple):
    """The time between a user's neighbouring exposures."""

    median_minutes: float
    over_an_hour: float  # share
    over_ten_hours: float
    median_minutes_if_spread: float  # if each user's exposures were spread evenly over the user's time


class Autocorrelation(NamedTuple):
    """Of feedback beyond user and item, at a distance of some exposures."""

    lag: int
    correlation: float
    redrawn: float  # the mean where feedback is redrawn from user and item
    deviation_of_redraws: float


class Order(NamedTuple):
    """What recent feedback on similar items tells about the next, in bits per exposure, on other users."""

    verdict: str
    learnable: bool
    exposures: int
    bits: float
    shuffled_bits: float  # the mean where each user's rows are shuffled: taste
    deviation_of_shuffles: float
    order_bits: float  # bits less shuffled bits
    streak_bits: float  # of how much was watched lately, which tells nothing about which video is next
    redrawn_order_bits: float  # order bits where feedback is redrawn from user and item
    autocorrelation: list[Autocorrelation]
    gaps: Gaps | None  # None: the log has no times


def measure(log: EventLog, *, num_items: int, seed: int) -> Order:
    """Measures what the order of a log can teach.

    Args:
      log: the exposures.
      num_items: N.
      seed: of shuffles, redraws and, if the log is large, the users that are measured.
    """
    rng = np.random.default_rng(seed)
    similar = factors.co_exposure(log, np.ones(len(log.items), bool), num_items=num_items, dim=DIM)
    log = _some_users(log, rng)
    expected, redrawn = signals.redraws(log, log.users, num_items=num_items, rng=rng)
    streak, bits = gains(log, expected, similar)
    shuffled = np.array([gains(*_shuffled(log, expected, rng), similar)[1] for _ in range(SHUFFLES)])
    first = redrawn[0]
    null = gains(*first, similar)[1] - gains(*_shuffled(*first, rng), similar)[1]
    mean, deviation, gaps = float(shuffled.mean()), float(shuffled.std(ddof=1)), _gaps(log)
    learnable = bool(bits > shuffled.max() and bits - mean > SURE * deviation)
    return Order(
        verdict=_verdict(learnable, bits=bits, mean=mean, deviation=deviation, gaps=gaps),
        learnable=learnable,
        exposures=len(log.items),
        bits=bits,
        shuffled_bits=mean,
        deviation_of_shuffles=deviation,
        order_bits=bits - mean,
        streak_bits=streak,
        redrawn_order_bits=null,
        autocorrelation=[_autocorrelation(log, expected, redrawn, lag) for lag in LAGS],
        gaps=gaps,
    )


def gains(log: EventLog, expected: np.ndarray, similar: np.ndarray) -> tuple[float, float]:
    """Bits per exposure, on users that a regression was not fitted to, of recent feedback and of similar items.

    Args:
      log: the exposures.
      expected: [E] the chance of a skip by user and item.
      similar: [N + 1, D] item factors.

    Returns:
      What is gained by how much was watched lately, and beyond that by recent feedback on similar items.
    """
    recent, alike = features(log, expected, similar)
    known, watched = log.feedback != DISLIKED, log.feedback == WATCHED
    offset = -signals.log_odds(expected)
    columns = np.concatenate([np.ones((len(known), 1)), recent, alike], axis=1)
    halves = [log.users % 2 == half for half in (0, 1)]

    def loss(number: int) -> float:
        """Of a regression on the first columns, in bits per exposure."""
        used = columns[:, :number]
        total = sum(_held_out_loss(used, offset, watched, fit=known & half, held=known & ~half) for half in halves)
        return total / max(int(np.count_nonzero(known)), 1) / float(np.log(2))

    base, with_recent, with_all = loss(1), loss(1 + recent.shape[1]), loss(columns.shape[1])
    return float(base - with_recent), float(with_recent - with_all)


def features(log: EventLog, expected: np.ndarray, similar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is known of the exposures before each one, faded by their age.

    Args:
      log: the exposures.
      expected: [E] the chance of a skip by user and item.
      similar: [N + 1, D] item factors.

    Returns:
      [E, decays] how much more was watched than expected; [E, 2 decays] skips, then watches, each times the similarity
      of its item to the one that is shown.
    """
    kinds, number = (SKIPPED, WATCHED), len(DECAYS)
    recent, alike = np.zeros((len(expected), number)), np.zeros((len(expected), len(kinds), number))
    excess = np.zeros((log.num_users, number))
    memory = np.zeros((log.num_users, len(kinds), number, similar.shape[1]), np.float32)
    order = np.argsort(-log.lengths, kind="stable")  # those who have more come first, so a prefix of them goes on
    beyond = np.where(log.feedback == DISLIKED, 0.0, (log.feedback == WATCHED) - (1 - expected))
    for age in range(int(log.lengths.max(initial=0))):
        active = order[: np.searchsorted(-log.lengths[order], -age, side="left")]
        at = log.offsets[active] + age
        vectors = similar[log.items[at]]
        recent[at] = excess[active]
        alike[at] = np.einsum("ukrd,ud->ukr", memory[active], vectors)
        excess[active] = excess[active] * DECAYS + beyond[at, None]
        memory[active] *= DECAYS[:, None].astype(np.float32)
        for place, kind in enumerate(kinds):
            chosen = log.feedback[at] == kind
            memory[active[chosen], place] += vectors[chosen][:, None]
    return recent, alike.reshape(len(expected), -1)


def _held_out_loss(
    columns: np.ndarray, offset: np.ndarray, watched: np.ndarray, *, fit: np.ndarray, held: np.ndarray
) -> float:
    """The total logistic loss on some exposures of a regression that was fitted to others, by Newton's method."""
    scale = np.maximum(columns[fit].std(axis=0), 1e-6) if fit.any() else np.ones(columns.shape[1])
    scale[0] = 1.0
    inputs = columns / scale
    x, y, base = inputs[fit], watched[fit], offset[fit]
    weights, prior = np.zeros(x.shape[1]), np.eye(x.shape[1])
    for _ in range(STEPS):
        chance = scipy.special.expit(base + x @ weights)
        gradient = x.T @ (chance - y) + weights
        weights -= np.linalg.solve((x * (chance * (1 - chance))[:, None]).T @ x + prior, gradient)
    odds = offset[held] + inputs[held] @ weights
    return float(np.logaddexp(0, np.where(watched[held], -odds, odds)).sum())


def _some_users(log: EventLog, rng: np.random.Generator) -> EventLog:
    """The log of users drawn at random, with at most `MEASURED` exposures; at least one user."""
    order = rng.permutation(log.num_users)
    chosen = np.zeros(log.num_users, bool)
    chosen[order[: max(1, np.searchsorted(np.cumsum(log.lengths[order]), MEASURED, side="right"))]] = True
    kept = np.repeat(chosen, log.lengths)
    columns = {name: getattr(log, name)[kept] for name in ("items", "feedback", "times", "plays", "durations")}
    return EventLog(**columns, offsets=np.concatenate([[0], np.cumsum(log.lengths[chosen])]))


def _shuffled(log: EventLog, expected: np.ndarray, rng: np.random.Generator) -> tuple[EventLog, np.ndarray]:
    """The rows of each user in another order."""
    places = np.lexsort((rng.random(len(expected)), log.users))
    return log._replace(items=log.items[places], feedback=log.feedback[places]), expected[places]


def _autocorrelation(
    log: EventLog, expected: np.ndarray, redrawn: list[tuple[EventLog, np.ndarray]], lag: int
) -> Autocorrelation:
    by_chance = [_correlation(other, chance, lag) for other, chance in redrawn]
    return Autocorrelation(
        lag=lag,
        correlation=_correlation(log, expected, lag),
        redrawn=float(np.mean(by_chance)),
        deviation_of_redraws=float(np.std(by_chance, ddof=1)),
    )


def _correlation(log: EventLog, expected: np.ndarray, lag: int) -> float:
    """Of what is watched beyond the expectation, between exposures of a user at this distance."""
    beyond = (log.feedback == WATCHED) - (1 - expected)
    same = (log.users[lag:] == log.users[:-lag]) & (log.feedback[lag:] != DISLIKED) & (log.feedback[:-lag] != DISLIKED)
    first, second = beyond[:-lag][same], beyond[lag:][same]
    size = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / size) if size else 0.0


def _gaps(log: EventLog) -> Gaps | None:
    """None if an exposure has no time, or no user has two."""
    same = log.users[1:] == log.users[:-1]
    if (log.times < 0).any() or not same.any():
        return None
    minutes = np.diff(log.times)[same] / 60_000
    several = log.lengths > 1
    first, last = log.times[log.offsets[:-1][several]], log.times[log.offsets[1:][several] - 1]
    evenly = np.repeat((last - first) / 60_000 / (log.lengths[several] - 1), log.lengths[several] - 1)
    return Gaps(
        median_minutes=float(np.median(minutes)),
        over_an_hour=float(np.mean(minutes > 60)),
        over_ten_hours=float(np.mean(minutes > 600)),
        median_minutes_if_spread=float(np.median(evenly)),
    )


def _verdict(learnable: bool, *, bits: float, mean: float, deviation: float, gaps: Gaps | None) -> str:
    """One sentence."""
    told = f"recent feedback on similar items tells {bits:.5f} bits about the next one"
    shuffled = f"{mean:.5f} (deviation {deviation:.5f}) if the rows of each user are shuffled"
    if learnable:
        little = ", but little of it" if bits - mean < LITTLE else ""
        return f"Order can be learned from this log{little}, because {told}, and only {shuffled}."
    apart = "" if gaps is None else f"; a user's neighbouring rows are {gaps.median_minutes:.3g} minutes apart (median)"
    return f"Order cannot be learned from this log, because {told}, and not surely less, {shuffled}{apart}."
