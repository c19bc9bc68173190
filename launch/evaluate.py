r"""Restores a trained model and evaluates it beside the simple scorers, on whatever devices there are.

For example:

  The test of the best checkpoint, each target among the skips around it:
    python -m launch.evaluate --workdir=runs/sample

  ... among the whole catalogue; or on the validation split with the latest checkpoint
    python -m launch.evaluate --workdir=runs/sample --protocol=full
    python -m launch.evaluate --workdir=runs/sample --split=valid --checkpoint=latest

  The simple scorers alone, on any prepared data set:
    python -m launch.evaluate --data=data/sample
    python -m launch.evaluate --data=data/mine --split_by=by_time \
      --train_until=1650000000000 --valid_until=1650500000000

Among what was shown, `skips@k` counts the skips that take one of the first k places. In the whole catalogue, the skips
around the target are ranked just as the target is: `hr_skipped@k` and `ndcg_skipped@k` are their means, `hr_gap@k` and
`ndcg_gap@k` how far the watched target is ahead of them, and `skips@k` counts them among the first k of one list.

Prints a table, and writes evaluation/<split>_<protocol>.json and .parquet (values per user) into the workdir, or into
--out, which `launch.compare` reads. How the log was split comes from the checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from launch.app import launch_app
from sine_jax import config as configs
from sine_jax import run as runs
from sine_jax.data import datasets
from sine_jax.evaluation import protocols, report

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run; without it, the simple scorers of --data alone.")
DATA = flags.DEFINE_string("data", None, "Folder of the prepared data set; the run's own by default.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "`best`, `latest` or a step.")
SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "Which held-out split.")
PROTOCOL = flags.DEFINE_enum("protocol", "exposed", list(protocols.PROTOCOLS), "What a target is ranked against.")
CANDIDATES = flags.DEFINE_enum(
    "candidates", None, ["released", "before_target"], "Which skips; as the run was validated by default."
)
OUT = flags.DEFINE_string("out", None, "Folder to write to; evaluation/ of the workdir by default, else nothing.")
SPLIT_BY = flags.DEFINE_enum(
    "split_by", None, ["last_positive", "by_time"], "How the log is split; only without --workdir."
)
TRAIN_UNTIL = flags.DEFINE_integer("train_until", None, "by_time: first instant of validation; only without --workdir.")
VALID_UNTIL = flags.DEFINE_integer("valid_until", None, "by_time: first instant of the test; only without --workdir.")


def main() -> None:
    """Evaluates what the flags say."""
    by_hand = {"split_by": SPLIT_BY.value, "train_until": TRAIN_UNTIL.value, "valid_until": VALID_UNTIL.value}
    chosen = {f"data.{name}": value for name, value in by_hand.items() if value is not None}
    if WORKDIR.value is not None:
        if chosen:
            raise ValueError("--split_by, --train_until and --valid_until are the run's own: leave them out")
        found = runs.evaluate(
            WORKDIR.value,
            split=SPLIT.value,
            protocol=PROTOCOL.value,
            checkpoint=CHECKPOINT.value,
            data=DATA.value,
            candidates=CANDIDATES.value,
        )
    elif DATA.value is not None:
        if CANDIDATES.value is not None:
            chosen["data.candidates"] = CANDIDATES.value
        config = configs.replace(configs.Config(), chosen)
        found = runs.rank(datasets.load(DATA.value), config=config, split=SPLIT.value, protocol=PROTOCOL.value)
    else:
        raise ValueError("nothing to evaluate: pass --workdir=RUN, or --data=FOLDER for the simple scorers alone")
    summary = report.summarise(found)
    report.show(summary)
    out = OUT.value or (Path(WORKDIR.value) / "evaluation" if WORKDIR.value else None)
    if out is not None:
        written = report.write(found, summary, out)
        print("\n".join(f"wrote {path}" for path in written))


def run() -> None:
    """The console script."""
    launch_app(main)


if __name__ == "__main__":
    run()
