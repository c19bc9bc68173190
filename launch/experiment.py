r"""Runs a named table of experiments: methods by seeds. The same command again goes on where it stopped.

For example:

  The main table: SINE and every baseline, three seeds each
    python -m launch.experiment --suite=main --data=data/kuairand --out=tables/main --seeds=1,2,3 \
      --set=model.max_len=60,train.patience=3

  Some rows of it, with hyper-parameters from eight trials of random search on validation for every method
    python -m launch.experiment --suite=main --data=data/kuairand --out=tables/searched --trials=8 \
      --only='^sasrec$|hstu'

Suites: main (methods), ablation (the default without each part, and each correction alone), interests (K and T), skips
(with skips as input and without). Writes the table as
<suite>.md, .csv and .png into --out, and beside it a workdir per run, which launch.compare reads.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from absl import flags

from launch.app import UsageError, launch_app, loading, read_from_flags, say
from sine_jax.experiments.suites import SUITES

SUITE = flags.DEFINE_enum("suite", None, list(SUITES), "Table to run.", required=True)
DATA = flags.DEFINE_string("data", None, "Folder of a prepared data set.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder of the table; made if it does not exist.", required=True)
SEEDS = flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds of every method.")
TRIALS = flags.DEFINE_integer(
    "trials", 0, "Trials of the random search for each method; 0 means no search.", lower_bound=0
)
SET = flags.DEFINE_list("set", [], "Options for all methods: section.option=value, separated by commas.")
ONLY = flags.DEFINE_string("only", "", "Rows to run: a regular expression that their names contain.")


def main() -> None:
    """Runs what the flags say."""
    with read_from_flags():
        methods = SUITES[SUITE.value](dict(map(option, SET.value)))
    names = [method.name for method in methods]
    try:
        methods = [method for method in methods if re.search(ONLY.value, method.name)]
    except re.error as error:
        raise UsageError(
            f"--only={ONLY.value}: not a regular expression ({error}); escape special characters with a backslash"
        ) from None
    if not methods:
        raise UsageError(
            f"--only={ONLY.value}: matches no row of {SUITE.value}; choose from {', '.join(map(repr, names))}"
        )
    try:
        seeds = [int(seed) for seed in SEEDS.value]
    except ValueError:
        raise UsageError(
            f"--seeds={','.join(SEEDS.value)}: not whole numbers; give whole numbers, separated by commas"
        ) from None
    with loading():
        import jax

        from sine_jax import files, plots
        from sine_jax.experiments import tables

    folder = Path(OUT.value)
    rows = tables.run_suite(
        methods,
        DATA.value,
        folder,
        seeds=seeds,
        trials=TRIALS.value,
        say=say,
        after_run=jax.clear_caches,  # of no use to the next run, and some tens of them fill the memory
    )
    table = tables.markdown(rows)
    files.write_whole(folder / f"{SUITE.value}.md", table)
    files.write_whole(folder / f"{SUITE.value}.csv", tables.csv(rows))
    gauc = {row.name: row.values["gauc"] for row in rows if row.name != "random"}
    with files.whole(folder / f"{SUITE.value}.png") as partial:
        plots.table(gauc, partial, measure="GAUC on the test (each dot a seed)")
    print(table)
    print(f"wrote {folder / SUITE.value}.md, .csv and .png")


def option(text: str) -> tuple[str, Any]:
    """`model.dim=32` as a name and a value."""
    name, given, value = text.partition("=")
    if not given:
        raise UsageError(f"--set={text}: not an option with a value; write section.option=value")
    try:
        return name, json.loads(value.lower() if value in ("True", "False") else value)
    except json.JSONDecodeError:
        return name, value


def run() -> None:
    """The console script."""
    launch_app(main, interrupted="finished runs and complete checkpoints are kept; run the same command again to go on")


if __name__ == "__main__":
    run()
