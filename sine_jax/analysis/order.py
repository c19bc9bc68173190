"""Whether the order of a user's exposures can be learned from: gaps, autocorrelation, and ordered against shuffled.

What a sequence model can learn beyond a user's and an item's bias is what recent feedback on *similar* items says about
the next exposure. So two logistic regressions predict feedback. Both know the biases, and how much was watched lately.
The second also knows recent watches and recent skips, each weighed by how similar their items are to the one shown now
(by co-exposure) and faded by a few decays. What it gains, on users that it was not fitted to, is what such items tell.
Part of that needs no order, such as taste: it remains if the rows of each user are shuffled. The rest is order.
Shuffles also mix which items follow each other, so the lead is measured on feedback that is redrawn without memory too.
Order counts as learnable if the log is ahead of every shuffle, and if its lead, less that of redrawn feedback, is more
than three deviations of the shuffles and would hold for other users too. Where it is not, but could still be more than
a little for other users, the log is too small to tell.
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
SHUFFLES_OF_REDRAWS = 2
MEASURED = 300_000  # exposures of the users that are drawn for the regressions, at most
STEPS = 8  # of Newton's method
LITTLE = 0.002  # bits; below it a verdict says so
SURE = 3.0  # standard deviations of the shuffles that order must be ahead of their mean
USERS = 1.96  # standard errors over users that order must be ahead of 0


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
    shuffled_bits: float  # the mean where each user's rows are shuffled: what needs no order, such as taste
    deviation_of_shuffles: float
    order_bits: float  # bits less shuffled bits
    error_over_users: float  # the standard error of the order bits, were other users drawn
    streak_bits: float  # of how much was watched lately, which tells nothing about which video is next
    redrawn_order_bits: float  # order bits where feedback is redrawn from user and item; the mean of some redraws
    deviation_of_redraws: float
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
    found = gains(log, expected, similar)
    by_shuffle = np.array([gains(*_shuffled(log, expected, rng), similar).by_user for _ in range(SHUFFLES)])
    nulls = [_order_bits(*one, similar, rng) for one in redrawn]
    bits, shuffled = found.bits, by_shuffle.sum(axis=1)
    mean, deviation, gaps = float(shuffled.mean()), float(shuffled.std(ddof=1)), _gaps(log)
    error = _error_of_total(found.by_user - by_shuffle.mean(axis=0), log.lengths)
    ahead, by_chance = bits - mean, max(float(np.mean(nulls)), 0.0)
    learnable = bool(bits > shuffled.max() and ahead - by_chance > max(SURE * deviation, USERS * error))
    return Order(
        verdict=_verdict(learnable, bits=bits, mean=mean, error=error, gaps=gaps),
        learnable=learnable,
        exposures=len(log.items),
        bits=bits,
        shuffled_bits=mean,
        deviation_of_shuffles=deviation,
        order_bits=ahead,
        error_over_users=error,
        streak_bits=found.streak,
        redrawn_order_bits=float(np.mean(nulls)),
        deviation_of_redraws=float(np.std(nulls, ddof=1)),
        autocorrelation=[_autocorrelation(log, expected, redrawn, lag) for lag in LAGS],
        gaps=gaps,
    )


def _order_bits(log: EventLog, expected: np.ndarray, similar: np.ndarray, rng: np.random.Generator) -> float:
    """How many bits a log has more than its shuffles."""
    shuffled = [gains(*_shuffled(log, expected, rng), similar).bits for _ in range(SHUFFLES_OF_REDRAWS)]
    return gains(log, expected, similar).bits - float(np.mean(shuffled))


class Gains(NamedTuple):
    """What recent feedback tells on users that a regression was not fitted to, in bits per exposure."""

    streak: float  # how much was watched lately
    by_user: np.ndarray  # [U] beyond that, feedback on similar items: the part of each user

    @property
    def bits(self) -> float:
        """What feedback on similar items tells, of all users."""
        return float(self.by_user.sum())


def gains(log: EventLog, expected: np.ndarray, similar: np.ndarray) -> Gains:
    """Measures what recent feedback tells.

    Args:
      log: the exposures.
      expected: [E] the chance of a skip by user and item.
      similar: [N + 1, D] item factors.
    """
    recent, alike = features(log, expected, similar)
    known, watched = log.feedback != DISLIKED, log.feedback == WATCHED
    offset = -signals.log_odds(expected)
    columns = np.concatenate([np.ones((len(known), 1)), recent, alike], axis=1)
    halves = [log.users % 2 == half for half in (0, 1)]
    number = max(int(np.count_nonzero(known)), 1)

    def losses(width: int) -> np.ndarray:
        """Of each user by a regression on the first columns, in bits of the log per exposure."""
        each, used = np.zeros(len(known)), columns[:, :width]
        for half in halves:
            held = known & ~half
            each[held] = _held_out_losses(used, offset, watched, fit=known & half, held=held)
        return np.bincount(log.users, each, minlength=log.num_users) / np.log(2) / number

    base, with_recent, with_all = losses(1), losses(1 + recent.shape[1]), losses(columns.shape[1])
    return Gains(float(np.sum(base - with_recent)), with_recent - with_all)


def _error_of_total(parts: np.ndarray, sizes: np.ndarray) -> float:
    """The standard error of a mean over exposures, of which users [U] have these parts and numbers of exposures."""
    beyond = parts - parts.sum() * sizes / max(int(sizes.sum()), 1)
    return float(np.sqrt(np.sum(beyond**2)))


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


def _held_out_losses(
    columns: np.ndarray, offset: np.ndarray, watched: np.ndarray, *, fit: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """The logistic losses on some exposures of a regression that was fitted to others, by Newton's method."""
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
    return np.logaddexp(0, np.where(watched[held], -odds, odds))


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


def _verdict(learnable: bool, *, bits: float, mean: float, error: float, gaps: Gaps | None) -> str:
    """One sentence."""
    told = f"recent feedback on similar items tells {bits:.5f} bits about the next one"
    shuffled = (
        f"{mean:.5f} if the rows of each user are shuffled (the difference is {bits - mean:.5f} ±{USERS * error:.5f})"
    )
    if learnable:
        little = ", but little of it" if bits - mean < LITTLE else ""
        return f"Order can be learned from this log{little}, because {told}, and only {shuffled}."
    if bits - mean + USERS * error > LITTLE:
        return f"This log is too small to tell whether order can be learned from it: {told}, and {shuffled}."
    apart = "" if gaps is None else f"; a user's neighbouring rows are {gaps.median_minutes:.3g} minutes apart (median)"
    return f"Order cannot be learned from this log, because {told}, and not surely less, {shuffled}{apart}."
