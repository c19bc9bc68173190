"""The results of a benchmark as JSON and as Markdown, with the machine and the versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sine_jax import files
from sine_jax.benchmark.speed import Bench, Result, Timing

# Of cases that train: column, figure, how many digits, factor.
_TRAINING = (
    ("users/s", "users/s", 0, 1),
    ("tokens/s", "tokens/s", 0, 1),
    ("ms/step", "ms/step", 1, 1),
    ("padding %", "padding", 1, 100),
    ("GFLOP/step", "GFLOP/step", 2, 1),
    ("MB/step", "MB/step", 0, 1),
    ("matmul peak %", "share of matmul", 1, 100),
    ("bandwidth %", "share of bandwidth", 1, 100),
    ("memory GB", "peak memory GB", 2, 1),
    ("compile s", "compile s", 1, 1),
)


def as_json(bench: Bench, results: Sequence[Result]) -> str:
    """Everything that was measured, indented."""
    info = bench.data.info
    document: dict[str, Any] = {
        "machine": bench.machine._asdict(),
        "data": {
            "source": info.source,
            "users": info.num_users,
            "items": info.num_items,
            "exposures": info.num_events,
            "fingerprint": info.fingerprint,
        },
        "repeats": bench.repeats,
        "cases": {
            result.case: {
                "about": result.about,
                "figures": {name: _fields(timing) for name, timing in result.figures.items()},
            }
            for result in results
        },
    }
    return json.dumps(document, indent=2) + "\n"


def as_markdown(bench: Bench, results: Sequence[Result]) -> str:
    """The machine, a table of the cases that train, and a table of all other figures."""
    training = [result for result in results if "tokens/s" in result.figures]
    others = [result for result in results if "tokens/s" not in result.figures]
    parts = [_machine(bench)]
    if training:
        names = ["case", *(column for column, *_ in _TRAINING)]
        lines = [[r.case, *(_cell(r.figures.get(name), n, by) for _, name, n, by in _TRAINING)] for r in training]
        parts.append("## Training\n\n" + _table(names, lines))
    if others:
        lines = [[r.case, name, _significant(figure)] for r in others for name, figure in r.figures.items()]
        parts.append("## Evaluation and ratios\n\n" + _table(["case", "figure", "measured"], lines))
    parts.append("\n".join(f"- {result.case}: {result.about}." for result in results))
    return "\n\n".join(parts) + "\n"


def write(bench: Bench, results: Sequence[Result], folder: Path) -> str:
    """Writes benchmark.json and benchmark.md into a folder; returns the Markdown."""
    text = as_markdown(bench, results)
    files.write_whole(folder / "benchmark.json", as_json(bench, results))
    files.write_whole(folder / "benchmark.md", text)
    return text


def _machine(bench: Bench) -> str:
    machine, info = bench.machine, bench.data.info
    rates = ", ".join(f"{rate / 1e9:,.1f} GFLOP/s in {kind}" for kind, rate in machine.matmul.items())
    lines = [
        ["devices", ", ".join(sorted({f"{machine.devices.count(d)} x {d}" for d in machine.devices}))],
        ["processor", f"{machine.processor}, {machine.cores} cores"],
        ["matrix products", rates],
        ["memory", f"{machine.bandwidth / 1e9:,.1f} GB/s"],
        ["versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())],
        ["system", machine.system],
        ["settings", " ".join(f"{name}={value}" for name, value in machine.settings.items()) or "none"],
        [
            "given data",
            f"{info.source}: {info.num_users:,} users, {info.num_items:,} items, {info.num_events:,} exposures",
        ],
    ]
    note = f"Medians of {bench.repeats} repeats; the least and the greatest are in brackets."
    return f"# Speed\n\n{note}\n\n" + _table(["what", "measured"], lines)


def _table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *lines))


def _fields(timing: Timing) -> dict[str, float | str]:
    """Of a timing for JSON: the origin is a compile time's alone."""
    fields = timing._asdict()
    return fields if timing.origin else {name: value for name, value in fields.items() if name != "origin"}


def _cell(timing: Timing | None, digits: int, factor: float) -> str:
    return "" if timing is None else _spread(timing, lambda value: f"{factor * value:,.{digits}f}")


def _significant(timing: Timing) -> str:
    return _spread(timing, lambda value: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def _spread(timing: Timing, shown: Callable[[float], str]) -> str:
    """The median, the least and the greatest in brackets where they differ, and the origin of a compile time."""
    middle, low, high = shown(timing.median), shown(timing.low), shown(timing.high)
    spread = middle if low == high else f"{middle} ({low}-{high})"
    return f"{spread}, {timing.origin}" if timing.origin else spread
