"""Tables of methods by seeds: every run is trained, evaluated and kept, and an interrupted table goes on.

A table's folder has

  search/<method>.json      the trials of the random search and their validation metric
  runs/<method>/seed-<n>/   the workdir of each run, as `launch.train` and `launch.evaluate` write it
  counting/                 the simple scorers on the same users and candidates
  <suite>.md .csv .png      the table, and a plot of it
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sine_jax import config as configs
from sine_jax import files, run, training, workdir
from sine_jax.config import Config
from sine_jax.data import datasets
from sine_jax.evaluation import protocols, report
from sine_jax.experiments.suites import SEARCH, Method
from sine_jax.plain import in_markdown

METRICS = ("auc", "gauc", "ndcg", "ndcg@2", "mrr")
_TEST = f"test_{protocols.EXPOSED.name}.json"
_REMEDY = "choose another --out, or remove that folder"

Say = Callable[[str], None]


class Row(NamedTuple):
    """The test results of one method: a line of the table."""

    name: str
    values: dict[str, list[float]]  # per metric, a value per seed; one value for a simple scorer


def run_suite(
    methods: Sequence[Method],
    data: str,
    folder: Path,
    *,
    seeds: Sequence[int],
    trials: int,
    say: Say,
    after_run: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Runs what has not been run yet, and collects the table.

    Args:
      methods: the lines of the table.
      data: folder of a prepared data set.
      folder: of the table.
      seeds: the seeds of each method's runs.
      trials: configurations that the search tries for each method; 0 means no search.
      say: is called with a line when a run begins.
      after_run: is called after each run, to drop what it compiled.
    """
    fingerprint = datasets.load(data).info.fingerprint
    rows = counting_rows(data, folder, config=methods[0].config, fingerprint=fingerprint)
    taken: dict[str, Config] = {}
    for seed in seeds:  # seed by seed, so that an interrupted table has every method
        for method in methods:
            if method.name not in taken:
                taken[method.name] = (
                    search(
                        method,
                        data,
                        folder,
                        trials=trials,
                        seed=seeds[0],
                        fingerprint=fingerprint,
                        say=say,
                        after_run=after_run,
                    )
                    if trials
                    else method.config
                )
            target = folder / "runs" / slug(method.name) / f"seed-{seed}"
            if not (target / workdir.EVALUATION / _TEST).exists():
                say(f"{method.name}, seed {seed}")
                _train(configs.replace(taken[method.name], {"train.seed": seed}), data, target)
                after_run()
    return rows + [
        gathered(method.name, folder, config=taken[method.name], fingerprint=fingerprint) for method in methods
    ]


def search(
    method: Method,
    data: str,
    folder: Path,
    *,
    trials: int,
    seed: int,
    fingerprint: str,
    say: Say,
    after_run: Callable[[], None] = lambda: None,
) -> Config:
    """Random search by the validation metric, with the same draws of the same options for every method.

    The first trial is the method itself. Options that define a method (`Method.fixed`) are never drawn. A trial that
    diverges counts as tried and is never chosen.

    Raises:
      ValueError: the folder has a search of another configuration, data set or seed.
    """
    file = folder / "search" / f"{slug(method.name)}.json"
    of = {"config": json.loads(configs.to_json(method.config)), "seed": seed, "fingerprint": fingerprint}
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"of": of, "trials": []}
    if kept["of"] != of:
        held, now = _options(kept["of"]), _options(of)
        changed = ", ".join(f"{k} was {held.get(k, 'not kept')}, now {now[k]}" for k in now if held.get(k) != now[k])
        raise ValueError(f"{file}: holds another search: {changed}; {_REMEDY}")
    found: list[dict[str, Any]] = kept["trials"]
    for number in range(len(found), trials):
        options = {name: value for name, value in draw(number, seed=seed).items() if name not in method.fixed}
        say(f"{method.name}, trial {number + 1} of {trials}: {options or 'as it is'}")
        config = configs.replace(method.config, {**options, "train.seed": seed})
        try:
            best = run.train(data, str(folder / "search" / slug(method.name) / f"trial-{number}"), config=config).best
        except training.Diverged:
            if not number:  # the method itself
                raise
            best = None
        after_run()
        found.append({"options": options, "valid": best})
        files.write_whole(file, json.dumps({"of": of, "trials": found}, indent=2) + "\n")
    chosen = max((trial for trial in found[:trials] if trial["valid"] is not None), key=lambda trial: trial["valid"])
    return configs.replace(method.config, chosen["options"])


def draw(number: int, *, seed: int) -> dict[str, Any]:
    """The options of a trial; none for the first."""
    rng = np.random.default_rng((seed, number))
    return {name: values[rng.integers(len(values))] for name, values in SEARCH.items()} if number else {}


def counting_rows(data: str, folder: Path, *, config: Config, fingerprint: str) -> list[Row]:
    """The simple scorers, which are evaluated once.

    Raises:
      ValueError: the folder has their results on another data set, split or candidates.
    """
    target = folder / "counting"
    if not (target / _TEST).exists():
        found = run.rank(datasets.load(data), config=config)
        report.write(found, report.summarise(found), target)
    summary = _summary(target, fingerprint)
    asked = json.loads(json.dumps(dataclasses.asdict(config.data)))
    changed = [f"data.{k} was {v!r}, now {asked[k]!r}" for k, v in summary["data"].items() if asked.get(k, v) != v]
    if changed:
        raise ValueError(f"{target}: holds scorers of other targets: {', '.join(changed)}; {_REMEDY}")
    return [
        Row(name, {metric: [_number(means[metric]["mean"])] for metric in METRICS})
        for name, means in summary["scorers"].items()
    ]


def gathered(name: str, folder: Path, *, config: Config, fingerprint: str) -> Row:
    """A method's line, from the results of every seed that was ever run in the folder.

    Raises:
      ValueError: a run had another configuration or another data set.
    """
    values: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for file in sorted((folder / "runs" / slug(name)).glob(f"seed-*/{workdir.EVALUATION}/{_TEST}")):
        target = file.parent.parent
        held = workdir.read_config(target)
        changed = configs.differences(held, configs.replace(config, {"train.seed": held.train.seed}))
        if changed:
            shown = ", ".join(f"{option} was {old}, now {new}" for option, (old, new) in changed.items())
            raise ValueError(f"{target}: holds another run: {shown}; {_REMEDY}")
        (means,) = _summary(file.parent, fingerprint)["scorers"].values()
        for metric in METRICS:
            values[metric].append(_number(means[metric]["mean"]))
    return Row(name, values)


def _summary(folder: Path, fingerprint: str) -> dict[str, Any]:
    """The summary of an evaluation, which must be of this data set."""
    summary: dict[str, Any] = json.loads((folder / _TEST).read_text())
    if summary["fingerprint"] != fingerprint:
        raise ValueError(
            f"{folder}: holds results on another data set: its fingerprint was {summary['fingerprint']}, "
            f"now {fingerprint}; {_REMEDY}"
        )
    return summary


def _options(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Nested options by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        inside = _options(value) if isinstance(value, Mapping) else {}
        flat.update({f"{name}.{key}": one for key, one in inside.items()} or {name: value})
    return flat


def _number(mean: float | None) -> float:
    """A mean; NaN if no user has a value."""
    return math.nan if mean is None else mean


def slug(name: str) -> str:
    """A name that suits a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def markdown(rows: Sequence[Row]) -> str:
    """The table: means over seeds, with the lowest and the highest if there are several."""
    lines = ["| method | seeds | " + " | ".join(METRICS) + " |", "|---|---|" + "---|" * len(METRICS)]
    for row in rows:
        cells = [_cell(row.values[metric]) for metric in METRICS]
        lines.append(f"| {in_markdown(row.name)} | {len(row.values[METRICS[0]])} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def csv(rows: Sequence[Row]) -> str:
    """A line per method, metric and run."""
    lines = ["method,metric,run,value"]
    for row in rows:
        lines += [f'"{row.name}",{m},{i},{v:.6f}' for m, values in row.values.items() for i, v in enumerate(values)]
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    if np.isnan(values).any():
        return "-"
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ({np.min(values):.4f}-{np.max(values):.4f})"


def _train(config: Config, data: str, target: Path) -> None:
    """Trains a run and evaluates its best checkpoint."""
    run.train(data, str(target), config=config)
    found = run.evaluate(str(target), data=data, simple=False)
    report.write(found, report.summarise(found), target / workdir.EVALUATION)
