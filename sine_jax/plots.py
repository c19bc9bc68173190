"""Plots, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"


def table(rows: Mapping[str, Sequence[float]], path: Path, *, measure: str) -> None:
    """Draws a line per method: a dot per seed and a bar at their mean. The best method is on top."""
    names = sorted(rows, key=lambda name: float(np.mean(rows[name])))
    figure, axes = canvas(width=8.0, height=1.2 + 0.24 * len(names))
    for place, name in enumerate(names):
        values = np.asarray(rows[name])
        axes.plot(values, np.full(len(values), place), "o", color=BLUE, markersize=4, alpha=0.8)
        axes.plot([values.mean()], [place], "|", color=ORANGE, markersize=11, markeredgewidth=2)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel(measure)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(f"{names[-1]} is ahead, at {np.mean(rows[names[-1]]):.4f} on average", fontsize=10, loc="left")
    save(figure, path)


def canvas(*, width: float = 6.4, height: float = 3.6) -> tuple[Figure, Axes]:
    """An empty plot; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG."""
    figure.savefig(path, format="png", dpi=130)


def png(figure: Figure) -> bytes:
    """The plot as the bytes of a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
