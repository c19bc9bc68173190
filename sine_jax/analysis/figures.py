"""What a log says about passive feedback: the figures of the report, as plain numbers.

Rates count watched and skipped exposures, and no explicit dislikes. If a log has no times, plays or durations, the
figures that need them are None; `missing` says what the log does not have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sine_jax.analysis import order, signals
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog, Split

RULES = ("ratio:0.2", "ratio:0.5", "ratio:1.0", "seconds:3", "seconds:7", "seconds:18")


class Missing(NamedTuple):
    """What the log does not have."""

    times: float  # share of the exposures without one; figures by time need all of them
    durations: bool
    plays: bool


class Counts(NamedTuple):
    """The size of the log."""

    exposures: int
    users: int
    items: int
    watched: int
    skipped: int
    disliked: int
    skip_rate: float
    median_user_exposures: float


class Spread(NamedTuple):
    """How the skip rate spreads over groups (users, items)."""

    groups: int
    least: int  # exposures that a group has
    mean: float
    deviation: float
    true_deviation: float  # without the spread that counting noise alone would give
    quantiles: dict[str, float]
    edges: list[float]
    histogram: list[int]


class Bins(NamedTuple):
    """The skip rate within bins of a quantity; each holds its lower edge."""

    low: list[float]
    high: list[float | None]  # None: without end
    exposures: list[int]
    skip_rate: list[float]
    half_interval: list[float]  # of 95 %


class Popularity(NamedTuple):
    """How unequally items are shown and watched, and both cumulative curves, most shown or watched first."""

    gini_of_exposures: float
    gini_of_watches: float
    top_1_percent: float  # their share of the exposures
    top_20_percent: float
    items: list[float]
    exposures: list[float]
    watches: list[float]


class Sessions(NamedTuple):
    """Exposures without a long gap between them."""

    gap_minutes: float
    number: int
    mean_exposures: float
    median_exposures: float


class ByTime(NamedTuple):
    """The figures that need times."""

    hour: Bins  # of the day, UTC
    position: Bins  # in the session
    minutes_since_last: Bins  # exposure of the user
    sessions: Sessions


class Histogram(NamedTuple):
    """How often each bin was watched and skipped."""

    edges: list[float]
    watched: list[int]
    skipped: list[int]
    median: float


class Rule(NamedTuple):
    """The labels that a rule would give."""

    exposures: int
    skip_rate: float
    agreement: float  # share of the exposures with the same label as in the log
    median_seconds_watched: float | None
    median_seconds_skipped: float | None


class WatchTime(NamedTuple):
    """Watch times, ratios of watch time to duration, and label rules by their text."""

    seconds: Histogram
    rules: dict[str, Rule]
    ratio: Histogram | None  # None: no exposure has a duration


class Analysis(NamedTuple):
    """All figures of a log."""

    missing: Missing
    counts: Counts
    users: Spread | None  # None: no user has enough exposures
    items: Spread | None
    popularity: Popularity
    runs: signals.Runs
    patterns: list[signals.Pattern]
    information: list[signals.Information]
    similar_items: signals.SimilarItems
    ordered: order.Order
    passive_pairs: signals.PassivePairs
    leakage: signals.Leakage
    by_time: ByTime | None
    duration: Bins | None
    watch_time: WatchTime | None


def analyse(log: EventLog, split: Split, *, num_items: int, session_gap: float, seed: int = 0) -> Analysis:
    """All figures of a log.

    Args:
      log: exposures.
      split: its training part and targets are checked for leaks.
      num_items: N.
      session_gap: minutes without an exposure after which a new session begins.
      seed: of the shuffles that show what chance gives.
    """
    users = log.users
    known, skipped = log.feedback != DISLIKED, log.feedback == SKIPPED
    there = known & (log.durations > 0)
    edges = np.array([0, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, np.inf])
    absent = missing(log)
    patterns, information = signals.order(log, users, seed=seed)
    return Analysis(
        missing=absent,
        counts=counts(log, num_items=num_items),
        users=rates_of_groups(users[known], skipped[known], log.num_users),
        items=rates_of_groups(log.items[known], skipped[known], num_items + 1),
        popularity=popularity(log, num_items=num_items),
        runs=signals.runs(log, users),
        patterns=patterns,
        information=information,
        similar_items=signals.similar_items(log, users, num_items=num_items, seed=seed),
        ordered=order.measure(log, num_items=num_items, seed=seed),
        passive_pairs=signals.passive_pairs(log, users, split),
        leakage=signals.leakage(log, split),
        by_time=None if absent.times else by_time(log, users, skipped, known, session_gap=session_gap),
        duration=None if absent.durations else rates_by_bin(log.durations[there] / 1000, skipped[there], edges),
        watch_time=None if absent.plays else watch_time(log),
    )


def plain(value: Any) -> Any:
    """Figures as dictionaries, lists and numbers, ready for JSON; None for what the log does not have."""
    if isinstance(value, tuple):
        return plain(value._asdict())  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def missing(log: EventLog) -> Missing:
    """What the log does not have."""
    return Missing(
        times=float(np.mean(log.times < 0)) if len(log.times) else 0.0,
        durations=not (log.durations > 0).any(),
        plays=not ((log.feedback != DISLIKED) & (log.plays >= 0)).any(),
    )


def counts(log: EventLog, *, num_items: int) -> Counts:
    """The size of the log."""
    watched, skipped = (int(np.count_nonzero(log.feedback == kind)) for kind in (WATCHED, SKIPPED))
    lengths = log.lengths
    return Counts(
        exposures=len(log.items),
        users=log.num_users,
        items=num_items,
        watched=watched,
        skipped=skipped,
        disliked=len(log.items) - watched - skipped,
        skip_rate=skipped / max(watched + skipped, 1),
        median_user_exposures=float(np.median(lengths)) if len(lengths) else 0.0,
    )


def rates_of_groups(groups: np.ndarray, skipped: np.ndarray, number: int, *, least: int = 10) -> Spread | None:
    """How the skip rate spreads over groups (users, items) with at least `least` exposures; None if there are none.

    Some of the variance is only the noise of counting. `true_deviation` is without it.
    """
    shown = np.bincount(groups, minlength=number)
    rates = np.bincount(groups, skipped, minlength=number)[shown >= least] / shown[shown >= least]
    if not len(rates):
        return None
    noise = float(np.mean(rates * (1 - rates) / (shown[shown >= least] - 1)))
    histogram, edges = np.histogram(rates, bins=20, range=(0, 1))
    return Spread(
        groups=len(rates),
        least=least,
        mean=float(rates.mean()),
        deviation=float(rates.std()),
        true_deviation=float(np.sqrt(max(rates.var() - noise, 0))),
        quantiles={f"{q:g}": float(np.quantile(rates, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        edges=edges.tolist(),
        histogram=histogram.tolist(),
    )


def rates_by_bin(values: np.ndarray, skipped: np.ndarray, edges: np.ndarray) -> Bins:
    """The skip rate within bins of a quantity, with half of its 95 % interval."""
    place = np.searchsorted(edges, values, side="right") - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    shown = np.bincount(place[inside], minlength=len(edges) - 1)
    share = np.bincount(place[inside], skipped[inside], minlength=len(edges) - 1) / np.maximum(shown, 1)
    kept = np.flatnonzero(shown)
    return Bins(
        low=edges[kept].tolist(),
        high=[None if np.isinf(edge) else float(edge) for edge in edges[kept + 1]],
        exposures=shown[kept].tolist(),
        skip_rate=share[kept].tolist(),
        half_interval=(1.96 * np.sqrt(share * (1 - share) / np.maximum(shown, 1)))[kept].tolist(),
    )


def popularity(log: EventLog, *, num_items: int) -> Popularity:
    """How unequally items are shown and watched."""
    shown = np.sort(np.bincount(log.items, minlength=num_items + 1)[1:])[::-1]
    watched = np.sort(np.bincount(log.items[log.feedback == WATCHED], minlength=num_items + 1)[1:])[::-1]
    shares = np.unique(np.linspace(0, num_items, 101).astype(int))
    return Popularity(
        gini_of_exposures=gini(shown),
        gini_of_watches=gini(watched),
        top_1_percent=float(shown[: max(num_items // 100, 1)].sum() / max(shown.sum(), 1)),
        top_20_percent=float(shown[: max(num_items // 5, 1)].sum() / max(shown.sum(), 1)),
        items=(shares / max(num_items, 1)).tolist(),
        exposures=(np.append(0, np.cumsum(shown))[shares] / max(shown.sum(), 1)).tolist(),
        watches=(np.append(0, np.cumsum(watched))[shares] / max(watched.sum(), 1)).tolist(),
    )


def gini(counts: np.ndarray) -> float:
    """The Gini coefficient of counts [n]: 0 if all are equal, (n - 1) / n if one item has everything."""
    counts = np.sort(counts)
    if not counts.sum():
        return 0.0
    places = np.arange(1, len(counts) + 1)
    return float(np.sum((2 * places - len(counts) - 1) * counts) / (len(counts) * counts.sum()))


def by_time(log: EventLog, users: np.ndarray, skipped: np.ndarray, known: np.ndarray, *, session_gap: float) -> ByTime:
    """Skip rate by hour (UTC), by position in the session, and by the time since the last exposure."""
    same = users[1:] == users[:-1]
    gaps = np.where(same, np.diff(log.times), np.iinfo(np.int64).max)
    begins = np.append(True, gaps > session_gap * 60_000)[: len(log.items)]
    starts = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    position = np.arange(len(begins)) - starts
    hours = (log.times // 3_600_000) % 24
    since = np.append(np.iinfo(np.int64).max, gaps)[: len(log.items)] / 60_000
    again = known & (since < 1e9)
    minutes = np.array([0, 0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 180, 720, 1440, 4320, np.inf])
    lengths = np.diff(np.append(np.flatnonzero(begins), len(begins)))
    places = np.array([1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, np.inf])
    return ByTime(
        hour=rates_by_bin(hours[known], skipped[known], np.arange(25)),
        position=rates_by_bin(position[known] + 1, skipped[known], places),
        minutes_since_last=rates_by_bin(since[again], skipped[again], minutes),
        sessions=Sessions(
            gap_minutes=session_gap,
            number=int(begins.sum()),
            mean_exposures=float(lengths.mean()),
            median_exposures=float(np.median(lengths)),
        ),
    )


def watch_time(log: EventLog) -> WatchTime:
    """Distributions of watch time and watch ratio, and the labels that each rule would give."""
    there = (log.plays >= 0) & (log.feedback != DISLIKED)
    seconds, watched = log.plays[there] / 1000, log.feedback[there] == WATCHED
    edges = np.array([0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300])
    rated = log.durations[there] > 0
    ratio = seconds[rated] * 1000 / log.durations[there][rated]
    ratio_edges = np.linspace(0, 2, 41)

    def histogram(values: np.ndarray, watched: np.ndarray, edges: np.ndarray) -> Histogram:
        inside = np.minimum(values, edges[-1])  # values beyond the last edge count in the last bin
        return Histogram(
            edges=edges.tolist(),
            watched=np.histogram(inside[watched], edges)[0].tolist(),
            skipped=np.histogram(inside[~watched], edges)[0].tolist(),
            median=float(np.median(values)),
        )

    rules = {}
    for text in RULES:
        kind, bound = text.split(":")
        if kind == "ratio" and not rated.any():
            continue
        positive = ratio >= float(bound) if kind == "ratio" else seconds >= float(bound)
        label, spent = (watched[rated], seconds[rated]) if kind == "ratio" else (watched, seconds)
        rules[text] = Rule(
            exposures=len(positive),
            skip_rate=float(np.mean(~positive)),
            agreement=float(np.mean(positive == label)),
            median_seconds_watched=_median(spent[positive]),
            median_seconds_skipped=_median(spent[~positive]),
        )
    return WatchTime(
        seconds=histogram(seconds, watched, edges),
        rules=rules,
        ratio=histogram(ratio, watched[rated], ratio_edges) if rated.any() else None,
    )


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
