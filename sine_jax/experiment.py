"""Tables of methods by seeds: every run is trained, evaluated and kept, and may be taken up again.

A table's folder holds

  search/<method>.json      the trials of the random search, by validation, and what they chose
  runs/<method>/seed-<n>/   a workdir each, as `launch.train` and `launch.evaluate` would leave it
  counting/                 the simple scorers on the same population
  <suite>.md .csv .png      the table, and a plot of it
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sine_jax import config as configs
from sine_jax import datasets, evaluation, report, run, scorers, workdir
from sine_jax.config import Config
from sine_jax.datasets import Dataset
from sine_jax.evaluation import Evaluation
from sine_jax.suites import SEARCH, Method

METRICS = ("auc", "gauc", "ndcg", "ndcg@2", "mrr")
_TEST = f"test_{evaluation.EXPOSED.name}.json"

Say = Callable[[str], None]


class Row(NamedTuple):
    """What the runs of one method found on the test."""

    name: str
    values: dict[str, list[float]]  # per metric, a value per seed; one value for what has no seed


def run_suite(
    methods: Sequence[Method], data: str, folder: Path, *, seeds: Sequence[int], trials: int, say: Say
) -> list[Row]:
    """Runs what has not been run yet, and gathers the table.

    Args:
      methods: rows.
      data: folder of a prepared data set.
      folder: of the table.
      seeds: of the runs of each method.
      trials: configurations that the search tries for each method; 0 takes each as it is.
      say: told of every run that begins.
    """
    rows = counting_rows(data, folder, methods[0].config)
    for seed in seeds:  # seed by seed, so that a table cut short has every method
        for method in methods:
            config = search(method, data, folder, trials=trials, seed=seeds[0], say=say) if trials else method.config
            target = folder / "runs" / slug(method.name) / f"seed-{seed}"
            if not (target / workdir.EVALUATION / _TEST).exists():
                say(f"{method.name}, seed {seed}")
            _trained(configs.replace(config, {"train.seed": seed}), data, target)
    return rows + [gathered(method.name, folder) for method in methods]


def search(method: Method, data: str, folder: Path, *, trials: int, seed: int, say: Say) -> Config:
    """Random search by the validation metric: every method gets the same draws of the same options.

    The first trial is the method as it is. Options that a method's own definition sets are searched all the same.
    """
    file = folder / "search" / f"{slug(method.name)}.json"
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    for number in range(len(found), trials):
        options = draw(number, seed=seed)
        say(f"{method.name}, trial {number + 1} of {trials}: {options or 'as it is'}")
        config = configs.replace(method.config, {**options, "train.seed": seed})
        best = run.train(config, data, str(folder / "search" / slug(method.name) / f"trial-{number}")).best
        jax.clear_caches()
        found.append({"options": options, "valid": best})
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n")
    chosen = max(found[:trials], key=lambda trial: trial["valid"])
    return configs.replace(method.config, chosen["options"])


def draw(number: int, *, seed: int) -> dict[str, Any]:
    """The options of a trial; none for the first."""
    rng = np.random.default_rng((seed, number))
    return {name: values[rng.integers(len(values))] for name, values in SEARCH.items()} if number else {}


def counting_rows(data: str, folder: Path, config: Config) -> list[Row]:
    """The simple scorers, evaluated once."""
    target = folder / "counting"
    if not (target / _TEST).exists():
        dataset = datasets.load(data)
        _write(
            evaluation.evaluate(
                dataset.log,
                config,
                num_items=dataset.info.num_items,
                split="test",
                protocol=evaluation.EXPOSED,
            ),
            dataset,
            target,
            {},
        )
    found = json.loads((target / _TEST).read_text())["scorers"]
    return [Row(name, {metric: [means[metric]["mean"]] for metric in METRICS}) for name, means in found.items()]


def gathered(name: str, folder: Path) -> Row:
    """A method's row, from what its runs wrote: every seed that was ever run here."""
    values: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for file in sorted((folder / "runs" / slug(name)).glob(f"seed-*/{workdir.EVALUATION}/{_TEST}")):
        (means,) = json.loads(file.read_text())["scorers"].values()
        for metric in METRICS:
            values[metric].append(means[metric]["mean"])
    return Row(name, values)


def slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def markdown(rows: Sequence[Row]) -> str:
    """The table: means over seeds, and the distance from lowest to highest where there are several."""
    lines = ["| method | seeds | " + " | ".join(METRICS) + " |", "|---|---|" + "---|" * len(METRICS)]
    for row in rows:
        cells = [_cell(row.values[metric]) for metric in METRICS]
        lines.append(f"| {row.name} | {len(row.values[METRICS[0]])} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def csv(rows: Sequence[Row]) -> str:
    """A line per method, metric and seed's place."""
    lines = ["method,metric,run,value"]
    for row in rows:
        lines += [f'"{row.name}",{m},{i},{v:.6f}' for m, values in row.values.items() for i, v in enumerate(values)]
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ({np.min(values):.4f}-{np.max(values):.4f})"


def _trained(config: Config, data: str, target: Path) -> None:
    """Trains a run and evaluates its best checkpoint, unless that was done."""
    if (target / workdir.EVALUATION / _TEST).exists():
        changed = configs.differences(workdir.read_config(target), config)
        if changed:
            shown = "; ".join(f"{name} was {old}, now {new}" for name, (old, new) in changed.items())
            raise ValueError(f"{target} holds another run: {shown}. Choose another --out, or remove that folder")
        return
    run.train(config, data, str(target))
    restored = run.restore(str(target), checkpoint="best", data=data)
    dataset = restored.dataset
    task = evaluation.prepare(
        dataset.log, config, num_items=dataset.info.num_items, split="test", protocol=evaluation.EXPOSED
    )
    values = evaluation.measure(scorers.of_model(config), task)(restored.params)
    about = {"checkpoint": "best", "step": restored.about.progress.step}
    _write(Evaluation("test", config, task, {config.model.name: values}), dataset, target / workdir.EVALUATION, about)
    jax.clear_caches()  # what was compiled for one run is of no use to the next, and some tens of them fill the memory


def _write(found: Evaluation, dataset: Dataset, folder: Path, about: Mapping[str, Any]) -> None:
    summary = {**about, "fingerprint": dataset.info.fingerprint, **report.summarise(found)}
    report.write(found, summary, folder, user_ids=datasets.user_ids(dataset.path))
