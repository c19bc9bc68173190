r"""Analyses the feedback in a prepared log; writes an HTML report with plots, and every figure as JSON.

For example:

  python -m launch.analyze --data=data/mine --out=report/
  python -m launch.analyze --data=data/mine --out=report/ --session_gap=10 --split_by=by_time \
    --train_until=1650000000000 --valid_until=1650500000000

Says first whether order can be learned from the log: what recent feedback on similar items tells about the next one, on
users that it was not fitted to, beside the same with each user's rows shuffled, and with feedback redrawn from biases.
Where it cannot, no sequence model will rank better than biases and taste.

Writes report/report.html (one file, no scripts, no network) and report/analysis.json. If the log lacks a column, the
figures that need it are left out (null in the JSON), and the report names them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from absl import flags

from launch import split_flags
from launch.app import UsageError, launch_app, loading, read_from_flags
from sine_jax import config as configs

DATA = flags.DEFINE_string("data", None, "Folder of a prepared data set (launch.prepare).", required=True)
OUT = flags.DEFINE_string("out", None, "Folder of the report; made if it does not exist.", required=True)
SESSION_GAP = flags.DEFINE_float(
    "session_gap", 30.0, "Minutes without an exposure after which a session ends.", lower_bound=0.0
)


def main() -> None:
    """Analyses what the flags say."""
    if not math.isfinite(SESSION_GAP.value):
        raise UsageError(f"--session_gap={SESSION_GAP.value}: must be a number")
    with read_from_flags():
        config = configs.replace(configs.Config(), split_flags.given())
    with loading():
        from sine_jax import files
        from sine_jax.analysis import figures, report
        from sine_jax.data import datasets, splits

    dataset = datasets.load(DATA.value)
    found = figures.analyse(
        dataset.log,
        splits.split(dataset.log, config=config.data).test,
        num_items=dataset.info.num_items,
        session_gap=SESSION_GAP.value,
    )
    folder = Path(OUT.value)
    about = {"data": dataset.path, "fingerprint": dataset.info.fingerprint, "label": dataset.info.label_rule}
    files.write_whole(
        folder / "analysis.json", json.dumps({**about, **figures.plain(found)}, indent=2, allow_nan=False) + "\n"
    )
    title = f"Passive feedback in {Path(dataset.path).name} (label: {dataset.info.label_rule})"
    files.write_whole(folder / "report.html", report.page(found, title=title))
    print(found.ordered.verdict)
    print(f"{len(dataset.log.items):,} exposures, skip rate {found.counts.skip_rate:.1%}")
    print(f"wrote {folder / 'report.html'} and analysis.json")


def run() -> None:
    """The console script."""
    launch_app(main, interrupted="nothing half-written is left; run the same command again")


if __name__ == "__main__":
    run()
