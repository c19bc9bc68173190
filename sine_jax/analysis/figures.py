"""What a log says about passive feedback: every figure of the report, as plain numbers.

Rates count watched and skipped exposures; explicit dislikes are a role of their own and enter no rate. What a log does
not have (times, plays, durations) leaves its figures out; `missing` says which, and why.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sine_jax.analysis import signals
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog, Split

Figures = dict[str, Any]

RULES = ("ratio:0.2", "ratio:0.5", "ratio:1.0", "seconds:3", "seconds:7", "seconds:18")


def analyse(log: EventLog, split: Split, *, num_items: int, session_gap: float, seed: int = 0) -> Figures:
    """All figures of a log.

    Args:
      log: exposures.
      split: whose training part and targets are looked at for leaks.
      num_items: N.
      session_gap: minutes without an exposure after which a new session begins.
      seed: of the shuffles that chance is measured by.

    Returns:
      Sections by name, of numbers, lists and dictionaries: ready for JSON.
    """
    users = log.users
    known = log.feedback != DISLIKED
    figures: Figures = {"missing": missing(log), "counts": counts(log, num_items=num_items)}
    skipped = log.feedback == SKIPPED
    figures["skip rate by user"] = rates_of_groups(users[known], skipped[known], log.num_users)
    figures["skip rate by item"] = rates_of_groups(log.items[known], skipped[known], num_items + 1)
    figures["popularity"] = popularity(log, num_items=num_items)
    figures["runs of skips"] = signals.runs(log, users)
    figures["next given last"], figures["information"] = signals.order(log, users, seed=seed)
    figures["similar items"] = signals.similar_items(log, users, num_items=num_items, seed=seed)
    figures["passive pairs"] = signals.passive_pairs(log, users, split)
    figures["leakage"] = signals.leakage(log, split)
    if (log.times >= 0).all():
        figures |= by_time(log, users, skipped, known, session_gap=session_gap)
    if (log.durations > 0).any():
        there = known & (log.durations > 0)
        edges = np.array([0, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, np.inf])
        figures["skip rate by duration"] = rates_by_bin(log.durations[there] / 1000, skipped[there], edges)
    if (known & (log.plays >= 0)).any():
        figures["watch time"] = watch_time(log)
    return figures


def missing(log: EventLog) -> dict[str, str]:
    """What cannot be said of this log, and why."""
    found = {}
    if (log.times < 0).any():
        share = float(np.mean(log.times < 0))
        found["hours, sessions and time since the last exposure"] = f"{share:.0%} of the exposures have no time"
    if not (log.durations > 0).any():
        found["skip rate by duration"] = "no exposure has a duration"
    if not ((log.feedback != DISLIKED) & (log.plays >= 0)).any():
        found["watch time and label rules"] = "no exposure has a watch time"
    elif not (log.durations > 0).any():
        found["watch ratio"] = "no exposure has a duration"
    return found


def counts(log: EventLog, *, num_items: int) -> Figures:
    """How much there is."""
    watched, skipped = (int(np.count_nonzero(log.feedback == kind)) for kind in (WATCHED, SKIPPED))
    lengths = log.lengths
    return {
        "exposures": len(log.items),
        "users": log.num_users,
        "items": num_items,
        "watched": watched,
        "skipped": skipped,
        "disliked": len(log.items) - watched - skipped,
        "skip rate": skipped / max(watched + skipped, 1),
        "exposures of the median user": float(np.median(lengths)) if len(lengths) else 0.0,
    }


def rates_of_groups(groups: np.ndarray, skipped: np.ndarray, number: int, *, least: int = 10) -> Figures:
    """How the skip rate spreads over groups (users, items) with at least `least` exposures.

    The spread that counting noise alone would give is taken off the variance: `true deviation` is what is left.
    """
    shown = np.bincount(groups, minlength=number)
    rates = np.bincount(groups, skipped, minlength=number)[shown >= least] / shown[shown >= least]
    if not len(rates):
        return {"groups": 0, "least": least}
    noise = float(np.mean(rates * (1 - rates) / (shown[shown >= least] - 1)))
    histogram, edges = np.histogram(rates, bins=20, range=(0, 1))
    return {
        "groups": len(rates),
        "least": least,
        "mean": float(rates.mean()),
        "deviation": float(rates.std()),
        "true deviation": float(np.sqrt(max(rates.var() - noise, 0))),
        "quantiles": {f"{q:g}": float(np.quantile(rates, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        "edges": edges.tolist(),
        "histogram": histogram.tolist(),
    }


def rates_by_bin(values: np.ndarray, skipped: np.ndarray, edges: np.ndarray) -> Figures:
    """Skip rate within bins of a quantity, with the half-width of a 95 % interval."""
    place = np.searchsorted(edges, values, side="right") - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    shown = np.bincount(place[inside], minlength=len(edges) - 1)
    share = np.bincount(place[inside], skipped[inside], minlength=len(edges) - 1) / np.maximum(shown, 1)
    kept = np.flatnonzero(shown)
    return {
        "from": edges[kept].tolist(),
        "to": [None if np.isinf(edge) else float(edge) for edge in edges[kept + 1]],
        "exposures": shown[kept].tolist(),
        "skip rate": share[kept].tolist(),
        "half interval": (1.96 * np.sqrt(share * (1 - share) / np.maximum(shown, 1)))[kept].tolist(),
    }


def popularity(log: EventLog, *, num_items: int) -> Figures:
    """How unequally items are shown and watched."""
    shown = np.sort(np.bincount(log.items, minlength=num_items + 1)[1:])[::-1]
    watched = np.sort(np.bincount(log.items[log.feedback == WATCHED], minlength=num_items + 1)[1:])[::-1]
    shares = np.unique(np.linspace(0, num_items, 101).astype(int))
    return {
        "gini of exposures": gini(shown),
        "gini of watches": gini(watched),
        "share of the top 1 % in exposures": float(shown[: max(num_items // 100, 1)].sum() / max(shown.sum(), 1)),
        "share of the top 20 % in exposures": float(shown[: max(num_items // 5, 1)].sum() / max(shown.sum(), 1)),
        "items": (shares / max(num_items, 1)).tolist(),
        "exposures": (np.append(0, np.cumsum(shown))[shares] / max(shown.sum(), 1)).tolist(),
        "watches": (np.append(0, np.cumsum(watched))[shares] / max(watched.sum(), 1)).tolist(),
    }


def gini(counts: np.ndarray) -> float:
    """The Gini coefficient of counts [n]: 0 where all are equal, (n - 1) / n where one has everything."""
    counts = np.sort(counts)
    if not counts.sum():
        return 0.0
    places = np.arange(1, len(counts) + 1)
    return float(np.sum((2 * places - len(counts) - 1) * counts) / (len(counts) * counts.sum()))


def by_time(log: EventLog, users: np.ndarray, skipped: np.ndarray, known: np.ndarray, *, session_gap: float) -> Figures:
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
    return {
        "skip rate by hour": rates_by_bin(hours[known], skipped[known], np.arange(25)),
        "skip rate by position in the session": rates_by_bin(
            position[known] + 1, skipped[known], np.array([1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, np.inf])
        ),
        "skip rate by minutes since the last exposure": rates_by_bin(since[again], skipped[again], minutes),
        "sessions": {
            "gap in minutes": session_gap,
            "number": int(begins.sum()),
            "mean exposures": float(lengths.mean()),
            "median exposures": float(np.median(lengths)),
        },
    }


def watch_time(log: EventLog) -> Figures:
    """Distributions of watch time and watch ratio, and what each label rule makes of them."""
    there = (log.plays >= 0) & (log.feedback != DISLIKED)
    seconds, watched = log.plays[there] / 1000, log.feedback[there] == WATCHED
    edges = np.array([0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300])
    rated = log.durations[there] > 0
    ratio = seconds[rated] * 1000 / log.durations[there][rated]
    ratio_edges = np.linspace(0, 2, 41)
    # What is beyond the last edge counts in the last bin.
    seconds_shown, ratio_shown = np.minimum(seconds, edges[-1]), np.minimum(ratio, ratio_edges[-1])
    found: Figures = {
        "seconds": {
            "edges": edges.tolist(),
            "watched": np.histogram(seconds_shown[watched], edges)[0].tolist(),
            "skipped": np.histogram(seconds_shown[~watched], edges)[0].tolist(),
            "median": float(np.median(seconds)),
        },
        "rules": {},
    }
    if rated.any():
        found["ratio"] = {
            "edges": ratio_edges.tolist(),
            "watched": np.histogram(ratio_shown[watched[rated]], ratio_edges)[0].tolist(),
            "skipped": np.histogram(ratio_shown[~watched[rated]], ratio_edges)[0].tolist(),
            "median": float(np.median(ratio)),
        }
    for text in RULES:
        kind, bound = text.split(":")
        if kind == "ratio" and not rated.any():
            continue
        positive = ratio >= float(bound) if kind == "ratio" else seconds >= float(bound)
        label = watched[rated] if kind == "ratio" else watched
        found["rules"][text] = {
            "exposures": len(positive),
            "skip rate": float(np.mean(~positive)),
            "agrees with the log's label": float(np.mean(positive == label)),
            "median seconds of the watched": _median(
                seconds[rated][positive] if kind == "ratio" else seconds[positive]
            ),
            "median seconds of the skipped": _median(
                seconds[rated][~positive] if kind == "ratio" else seconds[~positive]
            ),
        }
    return found


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
