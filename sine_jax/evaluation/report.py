"""The results of an evaluation as JSON, as a file of values per user, and as a table."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from sine_jax import config as configs
from sine_jax import files, workdir
from sine_jax.evaluation import bootstrap, metrics, protocols
from sine_jax.evaluation.comparison import Measured
from sine_jax.evaluation.ranking import Evaluation
from sine_jax.plain import printable

# In this order, as many as fit; `@` stands for the first cut-off. The metrics of skips are part of the gap.
SHOWN = (
    "auc",
    "user_auc",
    "gauc",
    "ndcg",
    "mrr",
    "ndcg@",
    "hr@",
    "hr_gap@",
    "coverage@",
    "novelty@",
    "diversity@",
    "skips@",
)
WIDTH = 136  # columns of a table that is not shown on a terminal
GROUPS = 8  # of a segment that are shown
CELL = 15  # columns for a mean and its interval
BASELINE, GAIN = "item bias (within users)", "gauc"  # what a gain is over where logs are redrawn, and by which metric


def summarise(evaluation: Evaluation, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Means, intervals and counts, ready for JSON.

    Args:
      evaluation: what was measured.
      replicates: resamples of the users.
      seed: of the resamples; all scorers and metrics use the same ones.
    """
    names = [(scorer, metric) for scorer, values in evaluation.values.items() for metric in values]
    columns = np.stack([evaluation.values[scorer][metric] for scorer, metric in names], axis=1)
    low, high = bootstrap.intervals(columns, replicates=replicates, seed=seed)
    scorers: dict[str, dict[str, Any]] = {}
    for column, (scorer, metric) in enumerate(names):
        found = metrics.sums(columns[:, column])
        bounds = dict(zip(("mean", "low", "high"), map(float, (found.mean, low[column], high[column])), strict=True))
        scorers.setdefault(scorer, {})[metric] = {
            **{name: None if np.isnan(value) else value for name, value in bounds.items()},
            "users": found.number,
        }
    for scorer, figures in evaluation.together.items():
        alone = {"low": None, "high": None, "users": len(evaluation.task.population.users)}
        scorers[scorer] |= {metric: {"mean": value, **alone} for metric, value in figures.items()}
    population, protocol = evaluation.task.population, evaluation.task.protocol
    rivals = protocol is not protocols.BY_PREFIX and int(np.count_nonzero(np.diff(population.offsets) == 0))
    gains = {"gains": _gains(evaluation, replicates=replicates, seed=seed)} if evaluation.nulls else {}
    return {
        **evaluation.about,
        "protocol": protocol.name,
        "against": protocol.against,
        "split": evaluation.part,
        "data": dataclasses.asdict(evaluation.config.data),
        "config": dataclasses.asdict(evaluation.config),
        "users": len(population.users),
        "left_out": population.left_out,
        "exposures": len(population.places),
        "users_without_rivals": int(rivals),
        "interval": {"level": 0.95, "over": "users", "resamples": replicates, "seed": seed},
        "scorers": scorers,
        **({"segments": _segments(evaluation)} if evaluation.segments else {}),
        **gains,
    }


def _segments(evaluation: Evaluation) -> dict[str, Any]:
    """By segment and group: how many users there are, and the mean of each metric by scorer."""
    found: dict[str, Any] = {}
    for segment in evaluation.segments:
        for group, words in enumerate(segment.words):
            inside = segment.groups == group
            if not inside.any():
                continue
            scorers = {
                scorer: {metric: _finite(metrics.sums(column[inside]).mean) for metric, column in values.items()}
                for scorer, values in evaluation.values.items()
            }
            found.setdefault(segment.name, {})[words] = {"users": int(inside.sum()), "scorers": scorers}
    return found


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else value


def _gains(evaluation: Evaluation, *, replicates: int, seed: int) -> dict[str, Any]:
    """How far each scorer is ahead of the baseline, with an interval, and on each log that was redrawn."""

    def ahead(values: Mapping[str, Mapping[str, np.ndarray]], scorer: str) -> np.ndarray:
        return values[scorer][GAIN] - values[BASELINE][GAIN]

    names = list(evaluation.values)
    columns = np.stack([ahead(evaluation.values, scorer) for scorer in names], axis=1)
    low, high = bootstrap.intervals(columns, replicates=replicates, seed=seed)
    scorers = {}
    for column, scorer in enumerate(names):
        redrawn = [metrics.sums(ahead(values, scorer)).mean for values in evaluation.nulls if scorer in values]
        mean = metrics.sums(columns[:, column]).mean
        scorers[scorer] = {"mean": mean, "low": float(low[column]), "high": float(high[column]), "redrawn": redrawn}
    return {"metric": GAIN, "over": BASELINE, "scorers": scorers}


def write(evaluation: Evaluation, summary: Mapping[str, Any], folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes `<split>_<protocol>.json` and `.parquet`, each completely or not at all.

    The parquet file has a line per user of the population: the external id, then a column per `scorer/metric`. The mean
    of each column is the reported figure; for `auc`, which is pooled, the values are those of `metrics.pooled_auc`.

    Args:
      evaluation: what was measured.
      summary: of `summarise`, and whatever else is kept with it.
      folder: where to write; it is made if it does not exist.

    Returns:
      Both paths.
    """
    stem = Path(folder) / f"{evaluation.part}_{evaluation.task.protocol.name}"
    frame = pl.DataFrame(
        {
            "user": evaluation.user_ids.gather(evaluation.task.population.users),
            **{
                f"{scorer}/{metric}": pl.Series(column).fill_nan(None)
                for scorer, values in evaluation.values.items()
                for metric, column in values.items()
            },
        }
    )
    paths = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".parquet")
    # The summary is put in its place last: if it is there, both are.
    with files.whole(paths[0]) as text, files.whole(paths[1]) as columns:
        text.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
        frame.write_parquet(columns)
    return paths


def read(folder: str | os.PathLike[str], *, split: str, protocol: str) -> tuple[dict[str, Any], pl.DataFrame]:
    """Reads what `write` wrote: the summary, with today's names of options, and the values per user.

    Raises:
      FileNotFoundError: there is nothing for this split and protocol.
      ValueError: a file is damaged.
    """
    stem = Path(folder) / f"{split}_{protocol}"
    file, per_user = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".parquet")
    try:
        summary = json.loads(file.read_text())
        return summary | configs.renamed({"data": summary.get("data", {})}), pl.read_parquet(per_user)
    except (json.JSONDecodeError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{stem}: .json or .parquet is damaged ({why}); evaluate again") from error


def read_run(argument: str, *, metric: str, split: str, protocol: str) -> Measured:
    """Reads the results of a run's evaluation.

    Args:
      argument: a run's folder, or a folder of `launch.evaluate --out`; `FOLDER:SCORER` for another scorer than its
        model.
      metric: the metric to read.
      split: `valid` or `test`.
      protocol: its name.

    Raises:
      ValueError: there is no such evaluation, scorer or metric; the message says which there are.
    """
    folder, scorer = Path(argument), ""
    if not folder.is_dir():
        before, _, scorer = argument.rpartition(":")
        folder = Path(before)
        if not before or not folder.is_dir():
            raise ValueError(f"{argument}: no such folder; name a run's folder, or RUN:SCORER")
    command = f"python -m launch.evaluate --workdir={folder} --split={split} --protocol={protocol}"
    inside = folder / workdir.EVALUATION
    try:
        summary, frame = read(inside if inside.is_dir() else folder, split=split, protocol=protocol)
    except FileNotFoundError:
        raise ValueError(f"{folder}: not evaluated on {split}, {protocol}; run {command}") from None
    scorers = list(summary["scorers"])
    models = scorers[:1] if "checkpoint" in summary else []  # an evaluation begins with the model, if there is one
    named, scorer = scorer, scorer or next(iter(models), "")
    if scorer not in scorers:
        wrong = f"there is no scorer {scorer!r}" if scorer else "there is no model, only simple scorers"
        raise ValueError(f"{folder}: {wrong}; write {folder}:SCORER with one of {', '.join(scorers)}")
    if metric not in summary["scorers"][scorer]:
        measures = ", ".join(summary["scorers"][scorer])
        raise ValueError(
            f"{folder}: there is no metric {metric!r} in {split}, {protocol}; choose one of {measures}, or for newer "
            f"ones run {command}"
        )
    if f"{scorer}/{metric}" not in frame.columns:
        raise ValueError(
            f"{folder}: no user has a {metric} alone, so it cannot be paired by user; choose another metric"
        )
    if scorer in models and "config" not in summary:
        raise ValueError(f"{folder}: it was evaluated by an older version, which kept no configuration; run {command}")
    return Measured(
        name=f"{folder}:{scorer}" if named else str(folder),
        scorer=scorer,
        config=configs.from_dict(summary["config"]) if scorer in models else None,
        checkpoint=summary["checkpoint"] if scorer in models else None,
        summary=summary,
        users=frame["user"].to_list(),
        values=frame[f"{scorer}/{metric}"].cast(float).fill_null(float("nan")).to_numpy(),
    )


def header(summary: Mapping[str, Any]) -> str:
    """What was ranked, and for whom; a line each."""
    data, alone = summary["data"], summary["users_without_rivals"]
    ranked = f"{summary['protocol']}, {summary['split']} of {data['split_by']}: "
    if summary["protocol"] == "by_prefix":
        ranked += f"{summary['exposures']:,} held-out exposures, each against {summary['against']}"
        if data["split_by"] == "last_positive":
            ranked += "\nthis split cuts at watched exposures, so a streak alone is a gain here; use split_by=by_share"
    else:
        skips = "candidates" if summary["protocol"] == "exposed" else "skips"
        ranked += f"each target against {summary['against']} ({skips}: {data['candidates']})"
    left_out = ", ".join(f"{count:,} with {reason}" for reason, count in summary["left_out"].items() if count)
    return f"{ranked}\n{summary['users']:,} users; left out: {left_out or 'none'}" + (
        f"; {alone:,} users have no skips to rank against; they count only in the pooled AUC" if alone else ""
    )


def table(summary: Mapping[str, Any], *, width: int) -> Table:
    """A line per scorer: means with half of their interval, for as many metrics as fit into the width."""
    columns = next(iter(summary["scorers"].values()))
    # If every user has two skips or more, GAUC and the AUC by user are the same; one of them is printed.
    repeated = {"gauc"} if columns["gauc"]["users"] == columns["user_auc"]["users"] else set()
    cutoff = min((int(name.partition("@")[2]) for name in columns if "@" in name), default="")
    names = [name + str(cutoff) if name.endswith("@") else name for name in SHOWN]
    gains = summary.get("gains")
    fitting = max(1, (width - max(map(len, summary["scorers"]))) // CELL - (4 if gains else 0))
    shown = [name for name in names if name in columns and name not in repeated][:fitting]
    result = Table(
        title=header(summary), title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1)
    )
    result.add_column("scorer\nusers", no_wrap=True)
    for name in shown:
        result.add_column(f"{name}\n{columns[name]['users']:,}", justify="right", no_wrap=True)
    if gains:
        result.add_column(f"gain in\n{gains['metric']}", justify="right", no_wrap=True)
        result.add_column("the same\nredrawn", justify="right", no_wrap=True)
    for scorer, values in summary["scorers"].items():
        of_gain = _gain_cells(gains["scorers"][scorer]) if gains else ()
        result.add_row(printable(scorer), *(_cell(values[name]) for name in shown), *of_gain)
    result.caption = f"± half of the {summary['interval']['level']:.0%} interval over users"
    if gains:
        result.caption += (
            f". gain: over {gains['over']}; redrawn: the mean gain, and its range, on logs whose feedback was redrawn "
            "without memory"
        )
    return result


def segment_table(summary: Mapping[str, Any], name: str) -> Table:
    """A line per scorer and a column for each of the largest groups of a segment, by the protocol's main metric."""
    every, metric = summary["segments"][name], "ndcg@10" if summary["protocol"] == "full" else "gauc"
    largest = sorted(every, key=lambda words: -every[words]["users"])[:GROUPS]
    groups = {words: group for words, group in every.items() if words in largest}
    result = Table(
        title=f"{metric} by {name}", title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False
    )
    result.add_column("scorer\nusers", no_wrap=True)
    for words, group in groups.items():
        result.add_column(f"{printable(words)}\n{group['users']:,}", justify="right", no_wrap=True)
    for scorer in summary["scorers"]:
        values = [group["scorers"][scorer][metric] for group in groups.values()]
        result.add_row(printable(scorer), *("-" if value is None else f"{value:.4f}" for value in values))
    if len(groups) < len(every):
        result.caption = f"the largest {GROUPS} of {len(every)} groups"
    return result


def show(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the table, and one for each segment; without a terminal its width is not limited."""
    console = console or Console(markup=False, emoji=False)  # names of others are no markup
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    console.print(table(summary, width=console.width))
    for name in summary.get("segments", {}):
        console.print(segment_table(summary, name))


def _gain_cells(gain: Mapping[str, Any]) -> tuple[str, str]:
    redrawn = gain["redrawn"]
    half = f"{(gain['high'] - gain['low']) / 2:.3f}".removeprefix("0")
    null = f"{np.mean(redrawn):+.4f} ({min(redrawn):+.4f} to {max(redrawn):+.4f})" if redrawn else "-"
    return f"{gain['mean']:+.4f} ±{half}", null


def _cell(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return "-"
    if value["low"] is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} ±" + f"{(value['high'] - value['low']) / 2:.3f}".removeprefix("0")
