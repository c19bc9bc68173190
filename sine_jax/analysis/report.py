"""The analysis of a log as one HTML file: plots whose titles say what they found, and tables of every figure."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from typing import Any

import numpy as np

from sine_jax import plots
from sine_jax.plots import BLUE, GREY, ORANGE, Axes, Figure

Figures = dict[str, Any]

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a202c}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}img{max-width:100%}
table{border-collapse:collapse;font-size:13px;margin:.6rem 0}td,th{padding:.15rem .7rem;border-bottom:1px solid #e2e8f0;
text-align:right}td:first-child,th:first-child{text-align:left}.note{color:#718096}"""


def page(figures: Figures, *, title: str) -> str:
    """The report: no scripts, no network."""
    parts = [f"<h1>{html.escape(title)}</h1>", _table([figures["counts"]])]
    for name, why in figures["missing"].items():
        parts.append(f'<p class="note">Left out: {html.escape(name)}, since {html.escape(why)}.</p>')
    for name, figure in drawn(figures):
        image = base64.b64encode(plots.png(figure)).decode()
        parts.append(f'<h2>{html.escape(name)}</h2><img alt="{html.escape(name)}" src="data:image/png;base64,{image}">')
        parts += _tables(figures.get(name))
    for name in ("passive pairs", "leakage", "sessions"):
        if name in figures:
            parts += [f"<h2>{name}</h2>", _table([{"": key, "value": value} for key, value in figures[name].items()])]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def drawn(figures: Figures) -> Iterator[tuple[str, Figure]]:
    """Every plot that the figures allow, by its section."""
    for name in ("skip rate by user", "skip rate by item"):
        if figures[name]["groups"]:
            yield name, _spread(figures[name], name.removeprefix("skip rate by "))
    for name, unit, words in (
        ("skip rate by hour", "hour of the day (UTC)", "at hour {}"),
        ("skip rate by position in the session", "position in the session", "at place {} of the session"),
        ("skip rate by duration", "duration of the video (s)", "for videos of {} s"),
        (
            "skip rate by minutes since the last exposure",
            "time since the user's last exposure (min)",
            "{} min after the last",
        ),
    ):
        if name in figures and len(figures[name]["skip rate"]) > 1:
            yield name, _binned(figures[name], unit, words)
    if "watch time" in figures:
        for kind, unit in (("seconds", "watch time (s)"), ("ratio", "watch time / duration")):
            if kind in figures["watch time"]:
                yield f"watch {kind}", _watched(figures["watch time"][kind], unit)
        yield "label rules", _rules(figures["watch time"]["rules"])
    yield "runs of skips", _runs(figures["runs of skips"])
    if figures["next given last"]:
        yield "next given last", _patterns(figures["next given last"])
    yield "information", _information(figures["information"])
    yield "similar items", _similar(figures["similar items"])
    yield "popularity", _popularity(figures["popularity"])


def _plot(title: str, x: str, y: str, **size: float) -> tuple[Figure, Axes]:
    figure, axes = plots.canvas(**size)
    axes.set_title(title, fontsize=10, loc="left", wrap=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _spread(values: Figures, of: str) -> Figure:
    low, high = values["quantiles"]["0.05"], values["quantiles"]["0.95"]
    deviation = values["true deviation"]
    title = f"Nine {of}s in ten have a skip rate from {low:.0%} to {high:.0%}; true deviation {deviation:.2f}"
    figure, axes = _plot(title, f"skip rate of a{'n' if of == 'item' else ''} {of}", f"{of}s")
    edges = np.array(values["edges"])
    axes.bar(edges[:-1], values["histogram"], width=np.diff(edges), align="edge", color=BLUE, edgecolor="white")
    axes.axvline(values["mean"], color=ORANGE)
    axes.set_ylim(top=1.15 * axes.get_ylim()[1])
    axes.annotate(f" mean {values['mean']:.2f}", (values["mean"], axes.get_ylim()[1] * 0.92), color=ORANGE)
    return figure


def _binned(values: Figures, unit: str, words: str) -> Figure:
    rates, number = np.array(values["skip rate"]), np.array(values["exposures"])
    solid = np.flatnonzero(number >= max(30, number.sum() / 1000))  # titles do not speak of a handful
    solid = solid if len(solid) else np.arange(len(rates))
    low, high = solid[rates[solid].argmin()], solid[rates[solid].argmax()]
    names = _names(values)
    least, most = words.format(names[low]), words.format(names[high])
    title = f"Skip rate {rates[low]:.0%} {least}, {rates[high]:.0%} {most}"
    figure, axes = _plot(title, unit, "share skipped")
    places = np.arange(len(rates))
    axes.errorbar(places, rates, yerr=values["half interval"], fmt="o-", color=BLUE, capsize=2, markersize=4)
    axes.set_xticks(places, names, rotation=45 if len(names) > 8 else 0, fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    behind = axes.twinx()
    behind.bar(places, number, color=GREY, alpha=0.18)
    behind.set_ylabel("exposures (bars)")
    behind.spines["top"].set_visible(False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    return figure


def _names(values: Figures) -> list[str]:
    """Bins in words: `5`, `5-7`, `7+`."""
    names = []
    for begin, end in zip(values["from"], values["to"], strict=True):
        whole = end is not None and float(begin).is_integer() and end - begin == 1
        names.append(f"{begin:g}" if whole else f"{begin:g}+" if end is None else f"{begin:g}-{end:g}")
    return names


def _watched(values: Figures, unit: str) -> Figure:
    edges = np.array(values["edges"])
    watched, skipped = (np.array(values[kind]) for kind in ("watched", "skipped"))
    below = np.searchsorted(edges, values["median"], side="right")
    share = skipped.sum() / max((watched + skipped).sum(), 1)
    title = f"Median {unit.split(' (')[0]} {values['median']:.2g}; {share:.0%} of the exposures count as skipped"
    figure, axes = _plot(title, unit, "exposures")
    places = np.arange(len(edges) - 1)
    axes.bar(places, skipped, color=ORANGE, label="skipped")
    axes.bar(places, watched, bottom=skipped, color=BLUE, label="watched")
    shown = places if len(places) <= 16 else places[::4]
    axes.set_xticks(shown - 0.5, [f"{edges[place]:g}" for place in shown], fontsize=8)
    axes.axvline(float(below - 1), color=GREY, linestyle=":")
    axes.legend(frameon=False)
    return figure


def _rules(rules: Figures) -> Figure:
    names = list(rules)
    rates, agree = ([rules[name][key] for name in names] for key in ("skip rate", "agrees with the log's label"))
    best = int(np.argmax(agree))
    title = (
        f"The rule moves the skip rate from {min(rates):.0%} to {max(rates):.0%}; "
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


def _runs(values: Figures) -> Figure:
    number, expected = np.array(values["number"][:-1]), np.array(values["expected by chance"])
    long = slice(4, None)
    ratio = number[long].sum() / max(expected[long].sum(), 1e-9)
    title = f"{values['mean']:.1f} skips in a row on average; runs of 5-19: {ratio:.2f} times what chance gives"
    figure, axes = _plot(title, "skips in a row", "runs", width=7.5)
    axes.semilogy(values["lengths"][:-1], np.maximum(number, 0.5), "o-", color=BLUE, label="observed")
    axes.semilogy(
        values["lengths"][:-1], np.maximum(expected, 0.5), "--", color=GREY, label="the same feedback in random order"
    )
    axes.set_xticks(values["lengths"][:-1])
    axes.legend(frameon=False)
    return figure


def _patterns(rows: list[Figures]) -> Figure:
    rows = [row for row in rows if len(row["pattern"]) <= 3]
    top, low = (pick(rows, key=lambda row: row["watch rate"]) for pick in (max, min))
    title = (
        f"Watch rate {top['watch rate']:.0%} after {top['pattern']}, {low['watch rate']:.0%} after {low['pattern']}; "
        f"shuffled within users {top['shuffled']:.0%} and {low['shuffled']:.0%}"
    )
    figure, axes = _plot(title, "last feedbacks, oldest first (W watched, S skipped)", "share watched next", width=8.0)
    places = np.arange(len(rows))
    rates, half = ([row[key] for row in rows] for key in ("watch rate", "half interval"))
    axes.bar(places, rates, yerr=half, color=BLUE, label="in order", capsize=2)
    axes.plot(
        places, [row["shuffled"] for row in rows], "_", color=ORANGE, markersize=16, label="shuffled within users"
    )
    axes.set_xticks(places, [row["pattern"] for row in rows])
    axes.set_ylim(top=1.25 * max(rates))
    axes.legend(frameon=False, ncols=2, loc="upper left")
    return figure


def _information(rows: list[Figures]) -> Figure:
    last = rows[-1]
    title = (
        f"The last {last['feedbacks']} feedbacks tell {last['bits']:.3f} bits of the next; "
        f"{last['bits of the order']:.4f} of that is the order, the rest who it is"
    )
    figure, axes = _plot(title, "last feedbacks", "mutual information (bits)")
    places = [row["feedbacks"] for row in rows]
    axes.plot(places, [row["bits"] for row in rows], "o-", color=BLUE, label="in order")
    axes.errorbar(
        places,
        [row["shuffled bits"] for row in rows],
        yerr=[2 * row["deviation of shuffles"] for row in rows],
        fmt="o--",
        color=GREY,
        label="shuffled within users",
    )
    axes.set_xticks(places)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def _similar(rows: list[Figures]) -> Figure:
    skipped, watched = rows[:2]
    title = (
        f"Skip rate {skipped['skip rate']:.0%} after similar skips ({skipped['lift over chance']:.3f} of chance), "
        f"{watched['skip rate']:.0%} after similar watches ({watched['lift over chance']:.3f})"
    )
    figure, axes = _plot(title, "what the user did with similar items before", "share skipped", width=7.5)
    places = np.arange(len(rows))
    rates, half = ([row[key] for row in rows] for key in ("skip rate", "half interval"))
    axes.bar(places, rates, yerr=half, color=BLUE, capsize=3, label="observed")
    axes.plot(
        places,
        [row["expected"] * row["lift by chance"] for row in rows],
        "_",
        color=ORANGE,
        markersize=30,
        markeredgewidth=2,
        label="by user and item alone",
    )
    axes.set_xticks(places, ["skipped", "watched", "both", "neither"])
    axes.set_ylim(top=1.25 * max(rates))
    axes.legend(frameon=False, ncols=2, loc="upper left")
    return figure


def _popularity(values: Figures) -> Figure:
    top = values["share of the top 1 % in exposures"]
    title = f"The top 1 % of items has {top:.0%} of the exposures; Gini {values['gini of exposures']:.2f}"
    figure, axes = _plot(title, "share of items, most shown first", "cumulative share")
    axes.plot(values["items"], values["exposures"], color=BLUE, label="exposures")
    axes.plot(values["items"], values["watches"], color=ORANGE, label="watches")
    axes.plot([0, 1], [0, 1], ":", color=GREY)
    axes.legend(frameon=False)
    return figure


def _tables(section: Any) -> list[str]:
    """A section's figures as tables: lists of rows, or columns of one length."""
    if isinstance(section, list):
        return [_table(section)]
    if isinstance(section, dict) and isinstance(section.get("skip rate"), list):
        columns = {name: values for name, values in section.items() if isinstance(values, list)}
        return [_table([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])]
    if isinstance(section, dict):
        return [_table([{name: value for name, value in section.items() if not isinstance(value, (list, dict))}])]
    return []


def _table(rows: list[Figures]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_shown(value)}</td>" for value in row.values()) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "and more" if value is None else f"{value:,}" if isinstance(value, int) else html.escape(str(value))
