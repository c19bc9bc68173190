"""The analysis of a log as one HTML file: plots whose titles say what they show, and tables of the figures.

The words for readers are only here. `_WORDS` has them for fields whose name is not clear enough.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sine_jax import plots
from sine_jax.analysis.figures import Analysis, Bins, Histogram, Missing, Popularity, Rule, Spread
from sine_jax.analysis.order import Order
from sine_jax.analysis.signals import Information, Pattern, Runs, SimilarItems
from sine_jax.plots import BLUE, GREY, ORANGE, Axes, Figure

Line = Mapping[str, Any]  # of a table, by the words at the head of each column

_WORDS = {
    "median_user_exposures": "exposures of the median user",
    "low": "from",
    "high": "to",
    "half_interval": "half of the 95 % interval",
    "gini_of_exposures": "Gini of exposures",
    "gini_of_watches": "Gini of watches",
    "top_1_percent": "share of the top 1 % in exposures",
    "top_20_percent": "share of the top 20 % in exposures",
    "gap_minutes": "gap in minutes",
    "agreement": "agrees with the log's label",
    "median_seconds_watched": "median seconds of the watched",
    "median_seconds_skipped": "median seconds of the skipped",
    "order_bits": "bits of the order",
    "streak_bits": "bits of how much was watched lately",
    "redrawn_order_bits": "bits of the order where feedback is redrawn",
    "error_over_users": "standard error over users",
    "learnable": "order can be learned",
    "median_minutes": "median minutes between a user's neighbouring exposures",
    "median_minutes_if_spread": "the same if each user's exposures were spread evenly",
    "over_an_hour": "share of gaps over an hour",
    "over_ten_hours": "share of gaps over ten hours",
    "positives_after_skip": "positives right after a skip",
    "skips_before_positive": "skips right before a positive",
    "training_positives_after_skip": "training positives right after a skip",
    "targets_after_skip": "targets right after a skip",
    "candidates_before_target": "candidates right before their target",
    "targets_in_training": "targets in their own user's training part",
    "targets_read_early": "targets read before they are ranked",
    "unseen_target_items": "target items that training never shows",
    "targets_before_training_of_others": "targets with later training exposures of other users",
    "training_after_target": "share of training exposures after the mean target",
    "training_items_after_target": "share of training items first shown after the mean target",
}
_BEFORE = {
    "skipped": "similar items skipped before, none watched",
    "watched": "similar items watched before, none skipped",
    "both": "both",
    "neither": "neither",
}

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a202c}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}img{max-width:100%}
table{border-collapse:collapse;font-size:13px;margin:.6rem 0}td,th{padding:.15rem .7rem;border-bottom:1px solid #e2e8f0;
text-align:right}td:first-child,th:first-child{text-align:left}.note{color:#718096}"""


class Section(NamedTuple):
    """A part of the report."""

    title: str
    figure: Figure | None
    lines: Sequence[Line]  # of its table


def page(analysis: Analysis, *, title: str) -> str:
    """The report: no scripts, no network."""
    verdict = f"<p><b>{html.escape(analysis.ordered.verdict)}</b></p>"
    parts = [f"<h1>{html.escape(title)}</h1>", verdict, _table([_line(analysis.counts)])]
    for what, why in _left_out(analysis.missing):
        parts.append(f'<p class="note">Left out: {html.escape(what)}, because {html.escape(why)}.</p>')
    for section in sections(analysis):
        name = html.escape(section.title)
        parts.append(f"<h2>{name}</h2>")
        if section.figure is not None:
            image = base64.b64encode(plots.png(section.figure)).decode()
            parts.append(f'<img alt="{name}" src="data:image/png;base64,{image}">')
        if section.lines:
            parts.append(_table(section.lines))
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def sections(analysis: Analysis) -> Iterator[Section]:
    """The sections for which there are figures."""
    for of, spread in (("user", analysis.users), ("item", analysis.items)):
        if spread is not None:
            yield Section(f"skip rate by {of}", _spread(spread, of), [_line(spread)])
    yield from _binned_sections(analysis)
    if analysis.watch_time is not None:
        seconds, rules, ratio = analysis.watch_time
        yield Section("watch seconds", _watched(seconds, "watch time (s)"), [])
        if ratio is not None:
            yield Section("watch ratio", _watched(ratio, "watch time / duration"), [])
        yield Section("label rules", _rules(rules), [{"rule": name, **_line(rule)} for name, rule in rules.items()])
    yield Section("runs of skips", _runs(analysis.runs), [_line(analysis.runs)])
    if analysis.patterns:
        yield Section("next given last", _patterns(analysis.patterns), list(map(_line, analysis.patterns)))
    yield Section("information", _information(analysis.information), list(map(_line, analysis.information)))
    similar = analysis.similar_items
    lifts = [{"before": _BEFORE[name], **_line(lift)} for name, lift in similar._asdict().items()]
    yield Section("similar items", _similar(similar), lifts)
    ordered = analysis.ordered
    yield Section("order", _order(ordered), [_bits(ordered)])
    yield Section("autocorrelation", _autocorrelation(ordered), list(map(_line, ordered.autocorrelation)))
    if ordered.gaps is not None:
        yield Section("gaps between exposures", None, _down(ordered.gaps))
    yield Section("popularity", _popularity(analysis.popularity), [_line(analysis.popularity)])
    yield Section("passive pairs", None, _down(analysis.passive_pairs))
    yield Section("leakage", None, _down(analysis.leakage))
    if analysis.by_time is not None:
        yield Section("sessions", None, _down(analysis.by_time.sessions))


def _left_out(missing: Missing) -> Iterator[tuple[str, str]]:
    """What the report leaves out, and why."""
    if missing.times:
        yield (
            "hours, sessions, gaps and time since the last exposure",
            f"{missing.times:.0%} of the exposures have no time",
        )
    if missing.durations:
        yield "skip rate by duration", "no exposure has a duration"
    if missing.plays:
        yield "watch time and label rules", "no exposure has a watch time"
    elif missing.durations:
        yield "watch ratio", "no exposure has a duration"


def _binned_sections(analysis: Analysis) -> Iterator[Section]:
    by_time = analysis.by_time
    for name, bins, unit, words in (
        ("hour", by_time and by_time.hour, "hour of the day (UTC)", "at hour {}"),
        (
            "position in the session",
            by_time and by_time.position,
            "position in the session",
            "at place {} of the session",
        ),
        ("duration", analysis.duration, "duration of the video (s)", "for videos of {} s"),
        (
            "minutes since the last exposure",
            by_time and by_time.minutes_since_last,
            "time since the user's last exposure (min)",
            "{} min after the last",
        ),
    ):
        if bins is not None and len(bins.skip_rate) > 1:
            yield Section(f"skip rate by {name}", _binned(bins, unit, words), _across(bins))


def _plot(title: str, x: str, y: str, **size: float) -> tuple[Figure, Axes]:
    figure, axes = plots.canvas(**size)
    axes.set_title(title, fontsize=10, loc="left", wrap=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _spread(values: Spread, of: str) -> Figure:
    low, high = values.quantiles["0.05"], values.quantiles["0.95"]
    deviation = values.true_deviation
    title = f"9 of 10 {of}s have a skip rate between {low:.0%} and {high:.0%}; true deviation {deviation:.2f}"
    figure, axes = _plot(title, f"skip rate of a{'n' if of == 'item' else ''} {of}", f"{of}s")
    edges = np.array(values.edges)
    axes.bar(edges[:-1], values.histogram, width=np.diff(edges), align="edge", color=BLUE, edgecolor="white")
    axes.axvline(values.mean, color=ORANGE)
    axes.set_ylim(top=1.15 * axes.get_ylim()[1])
    axes.annotate(f" mean {values.mean:.2f}", (values.mean, axes.get_ylim()[1] * 0.92), color=ORANGE)
    return figure


def _binned(values: Bins, unit: str, words: str) -> Figure:
    rates, number = np.array(values.skip_rate), np.array(values.exposures)
    solid = np.flatnonzero(number >= max(30, number.sum() / 1000))  # the title names no bin with few exposures
    solid = solid if len(solid) else np.arange(len(rates))
    low, high = solid[rates[solid].argmin()], solid[rates[solid].argmax()]
    names = _names(values)
    least, most = words.format(names[low]), words.format(names[high])
    title = f"Skip rate {rates[low]:.0%} {least}, {rates[high]:.0%} {most}"
    figure, axes = _plot(title, unit, "share skipped")
    places = np.arange(len(rates))
    axes.errorbar(places, rates, yerr=values.half_interval, fmt="o-", color=BLUE, capsize=2, markersize=4)
    axes.set_xticks(places, names, rotation=45 if len(names) > 8 else 0, fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    behind = axes.twinx()
    behind.bar(places, number, color=GREY, alpha=0.18)
    behind.set_ylabel("exposures (bars)")
    behind.spines["top"].set_visible(False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    return figure


def _names(values: Bins) -> list[str]:
    """Bins in words: `5`, `5-7`, `7+`."""
    names = []
    for begin, end in zip(values.low, values.high, strict=True):
        whole = end is not None and float(begin).is_integer() and end - begin == 1
        names.append(f"{begin:g}" if whole else f"{begin:g}+" if end is None else f"{begin:g}-{end:g}")
    return names


def _watched(values: Histogram, unit: str) -> Figure:
    edges = np.array(values.edges)
    watched, skipped = np.array(values.watched), np.array(values.skipped)
    below = np.searchsorted(edges, values.median, side="right")
    share = skipped.sum() / max((watched + skipped).sum(), 1)
    title = f"Median {unit.split(' (')[0]} {values.median:.2g}; {share:.0%} of the exposures count as skipped"
    figure, axes = _plot(title, unit, "exposures")
    places = np.arange(len(edges) - 1)
    axes.bar(places, skipped, color=ORANGE, label="skipped")
    axes.bar(places, watched, bottom=skipped, color=BLUE, label="watched")
    shown = places if len(places) <= 16 else places[::4]
    axes.set_xticks(shown - 0.5, [f"{edges[place]:g}" for place in shown], fontsize=8)
    axes.axvline(float(below - 1), color=GREY, linestyle=":")
    axes.legend(frameon=False)
    return figure


def _rules(rules: dict[str, Rule]) -> Figure:
    names = list(rules)
    rates, agree = [rule.skip_rate for rule in rules.values()], [rule.agreement for rule in rules.values()]
    best = int(np.argmax(agree))
    title = (
        f"The skip rate depends on the rule, from {min(rates):.0%} to {max(rates):.0%}; "
        f"{names[best]} agrees best with the log's label ({agree[best]:.0%})"
    )
    figure, axes = _plot(title, "label rule", "share", width=7.5)
    places = np.arange(len(names))
    axes.bar(places - 0.2, rates, width=0.4, color=ORANGE, label="skipped under the rule")
    axes.bar(places + 0.2, agree, width=0.4, color=BLUE, label="agrees with the log's label")
    axes.set_xticks(places, names)
    axes.set_ylim(0, 1.25)
    axes.legend(frameon=False, ncols=2, loc="upper left")
    return figure


def _runs(values: Runs) -> Figure:
    number, expected = np.array(values.number[:-1]), np.array(values.expected)
    long = slice(4, None)
    ratio = number[long].sum() / max(expected[long].sum(), 1e-9)
    title = f"{values.mean:.1f} skips in a row on average; runs of 5-19 are {ratio:.2f} times as many as by chance"
    figure, axes = _plot(title, "skips in a row", "runs", width=7.5)
    axes.semilogy(values.lengths[:-1], np.maximum(number, 0.5), "o-", color=BLUE, label="observed")
    axes.semilogy(
        values.lengths[:-1], np.maximum(expected, 0.5), "--", color=GREY, label="the same feedback in random order"
    )
    axes.set_xticks(values.lengths[:-1])
    axes.legend(frameon=False)
    return figure


def _patterns(patterns: list[Pattern]) -> Figure:
    patterns = [each for each in patterns if len(each.pattern) <= 3]
    top, low = (pick(patterns, key=lambda each: each.watch_rate) for pick in (max, min))
    title = (
        f"Watch rate {top.watch_rate:.0%} after {top.pattern}, {low.watch_rate:.0%} after {low.pattern}; "
        f"shuffled within users {top.shuffled:.0%} and {low.shuffled:.0%}"
    )
    figure, axes = _plot(title, "last feedbacks, oldest first (W watched, S skipped)", "share watched next", width=8.0)
    places = np.arange(len(patterns))
    rates, half = [each.watch_rate for each in patterns], [each.half_interval for each in patterns]
    axes.bar(places, rates, yerr=half, color=BLUE, label="in order", capsize=2)
    axes.plot(
        places, [each.shuffled for each in patterns], "_", color=ORANGE, markersize=16, label="shuffled within users"
    )
    axes.set_xticks(places, [each.pattern for each in patterns])
    axes.set_ylim(top=1.25 * max(rates))
    axes.legend(frameon=False, ncols=2, loc="upper left")
    return figure


def _information(backs: list[Information]) -> Figure:
    last = backs[-1]
    title = (
        f"The last {last.feedbacks} feedbacks give {last.bits:.3f} bits about the next; "
        f"{last.order_bits:.4f} of them come from the order, the rest from who the user is"
    )
    figure, axes = _plot(title, "last feedbacks", "mutual information (bits)")
    places = [each.feedbacks for each in backs]
    axes.plot(places, [each.bits for each in backs], "o-", color=BLUE, label="in order")
    axes.errorbar(
        places,
        [each.shuffled_bits for each in backs],
        yerr=[2 * each.deviation_of_shuffles for each in backs],
        fmt="o--",
        color=GREY,
        label="shuffled within users",
    )
    axes.set_xticks(places)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def _similar(lifts: SimilarItems) -> Figure:
    skipped, watched = lifts.skipped, lifts.watched
    title = (
        f"Skip rate {skipped.skip_rate:.0%} after similar skips ({skipped.lift_over_chance:.3f} of chance), "
        f"{watched.skip_rate:.0%} after similar watches ({watched.lift_over_chance:.3f})"
    )
    figure, axes = _plot(title, "what the user did with similar items before", "share skipped", width=7.5)
    places = np.arange(len(lifts))
    rates, half = [lift.skip_rate for lift in lifts], [lift.half_interval for lift in lifts]
    axes.bar(places, rates, yerr=half, color=BLUE, capsize=3, label="observed")
    axes.plot(
        places,
        [lift.expected * lift.lift_by_chance for lift in lifts],
        "_",
        color=ORANGE,
        markersize=30,
        markeredgewidth=2,
        label="expected from user and item alone",
    )
    axes.set_xticks(places, SimilarItems._fields)
    axes.set_ylim(top=1.25 * max(rates))
    axes.legend(frameon=False, ncols=2, loc="upper left")
    return figure


def _order(values: Order) -> Figure:
    title = (
        f"Recent feedback on similar items tells {values.bits:.4f} bits in order and {values.shuffled_bits:.4f} "
        f"shuffled; redrawn without memory, the difference is {values.redrawn_order_bits:+.4f}\n"
        "Order can be learned if it is ahead of all shuffles, by three deviations and by its interval over users"
    )
    figure, axes = _plot(title, "bits per exposure about the next feedback", "", width=7.5, height=2.4)
    names = ("in order", "shuffled within users")
    axes.barh(names, [values.bits, values.shuffled_bits], color=[BLUE, GREY], height=0.6)
    axes.errorbar(values.shuffled_bits, 1, xerr=2 * values.deviation_of_shuffles, color=ORANGE, capsize=3)
    axes.invert_yaxis()
    return figure


def _autocorrelation(values: Order) -> Figure:
    found = values.autocorrelation
    title = (
        f"Beyond user and item, feedback correlates {found[0].correlation:+.3f} with the one before, "
        f"and {found[0].redrawn:+.3f} where it is redrawn\n"
        "A correlation of all feedback is a streak or a mood: it does not tell which video is next"
    )
    figure, axes = _plot(title, "exposures apart", "correlation")
    lags = [each.lag for each in found]
    axes.plot(lags, [each.correlation for each in found], "o-", color=BLUE, label="the log")
    redrawn, deviation = [each.redrawn for each in found], [2 * each.deviation_of_redraws for each in found]
    axes.errorbar(lags, redrawn, yerr=deviation, fmt="o--", color=GREY, label="redrawn from user and item")
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.legend(frameon=False)
    return figure


def _popularity(values: Popularity) -> Figure:
    top = values.top_1_percent
    title = f"The most shown 1 % of the items have {top:.0%} of the exposures; Gini {values.gini_of_exposures:.2f}"
    figure, axes = _plot(title, "share of items, most shown first", "cumulative share")
    axes.plot(values.items, values.exposures, color=BLUE, label="exposures")
    axes.plot(values.items, values.watches, color=ORANGE, label="watches")
    axes.plot([0, 1], [0, 1], ":", color=GREY)
    axes.legend(frameon=False)
    return figure


def _words(field: str) -> str:
    return _WORDS.get(field, field.replace("_", " "))


def _line(figures: Any) -> dict[str, Any]:
    """The numbers of a NamedTuple as one line of a table, without its curves, which the plot shows."""
    fields = figures._asdict().items()
    return {_words(name): value for name, value in fields if not isinstance(value, (list, dict))}


def _bits(values: Order) -> Line:
    return {name: value for name, value in _line(values).items() if type(value) in (int, float)}


def _down(figures: Any) -> list[Line]:
    """The numbers of a NamedTuple, a line each, without those that the log does not have."""
    return [{"": _words(name), "value": value} for name, value in figures._asdict().items() if value is not None]


def _across(bins: Bins) -> list[Line]:
    """A line for each bin."""
    heads = list(map(_words, bins._fields))
    return [dict(zip(heads, values, strict=True)) for values in zip(*bins, strict=True)]


def _table(lines: Sequence[Line]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in lines[0])
    body = "".join("<tr>" + "".join(f"<td>{_shown(value)}</td>" for value in line.values()) + "</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "and more" if value is None else f"{value:,}" if isinstance(value, int) else html.escape(str(value))
