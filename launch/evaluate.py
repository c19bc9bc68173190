r"""Restores a trained model and evaluates it beside the simple scorers, on all devices of the machine.

For example:

  The test of the best checkpoint, each target among the skips around it:
    python -m launch.evaluate --workdir=runs/sample

  ... among the whole catalogue; or on the validation split with the latest checkpoint
    python -m launch.evaluate --workdir=runs/sample --protocol=full
    python -m launch.evaluate --workdir=runs/sample --split=valid --checkpoint=latest

  Each held-out exposure from all that came before it, skips included; for a run with --data.split_by=by_share
    python -m launch.evaluate --workdir=runs/by_share --protocol=by_prefix

  ... and apart for short and long histories, for popular and new items, for each value of a context column
    python -m launch.evaluate --workdir=runs/sample --segments=history,popularity,new_item,context:tab

  The simple scorers alone, on any prepared data set:
    python -m launch.evaluate --data=data/sample
    python -m launch.evaluate --data=data/mine --split_by=by_time \
      --train_until=1650000000000 --valid_until=1650500000000

In the `exposed` protocol, `skips@k` counts the skips that take one of the first k places. In the `full` protocol, the
skips around the target are ranked like the target: `hr_skipped@k` and `ndcg_skipped@k` are their means, `hr_gap@k` and
`ndcg_gap@k` say how far the watched target is ahead of them, and `skips@k` counts them among the first k of one list.
For the first k of each user's list it also has `novelty@k`, `diversity@k` (by the items' co-exposure), `popularity@k`
and `popularity_lift@k` (over the user's own history), and for all lists together `coverage@k` and `gini@k`.

The `by_prefix` protocol scores every held-out exposure of a user (a stretch of at most 32) in its own place, without
the user's offset, and ranks them by these scores. A gain there can be an artefact: with `last_positive` the last
exposure of a part is always watched, so the length of a streak tells the outcome, and the share of watched videos
tells how far it is from their mean. Split by_share or by_time instead, and read each gain beside the same gain on
logs whose feedback was redrawn from user and item biases alone. The simple scorers are fitted to each of these. A
model is not: to compare it in full, train one on a redrawn log (`launch.prepare --source=redrawn`).

Prints a table, and writes evaluation/<split>_<protocol>.json and .parquet (values per user) into the workdir, or into
--out; `launch.compare` reads them. The split of the log comes from the checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from launch import split_flags
from launch.app import UsageError, launch_app, loading, read_from_flags
from sine_jax import config as configs

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a run; without it, only the simple scorers are evaluated, on --data."
)
DATA = flags.DEFINE_string("data", None, "Folder of the prepared data set; by default that of the run.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "`best`, `latest` or a step.")
SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "Which held-out split.")
PROTOCOL = flags.DEFINE_enum("protocol", "exposed", ["exposed", "full", "by_prefix"], "What is ranked against what.")
SEGMENTS = flags.DEFINE_list(
    "segments", [], "Groups of users to show apart: history, popularity, new_item, context:COLUMN."
)
NULLS = flags.DEFINE_integer(
    "nulls", 3, "by_prefix: logs that are redrawn without memory and ranked too.", lower_bound=0
)
TRUST_NETWORK = flags.DEFINE_string(
    "trust_network", "", "The module of the run's network, if it is not one of the library's: its code will run."
)
CANDIDATES = flags.DEFINE_enum(
    "candidates", None, ["released", "before_target"], "Which skips; by default those that the run was validated with."
)
OUT = flags.DEFINE_string(
    "out", None, "Folder to write to; by default evaluation/ of the workdir. Without either, nothing is written."
)


def main() -> None:
    """Evaluates what the flags say."""
    chosen = split_flags.given()
    if WORKDIR.value is None and DATA.value is None:
        raise UsageError("nothing to evaluate: pass --workdir=RUN, or --data=FOLDER for the simple scorers alone")
    if WORKDIR.value is not None and chosen:
        raise UsageError(
            f"{split_flags.shown()}: a run is evaluated on the split that it was trained with; leave this out"
        )
    if CANDIDATES.value is not None:
        chosen["data.candidates"] = CANDIDATES.value
    with read_from_flags():
        config = configs.replace(configs.Config(), chosen)
    with loading():
        from sine_jax import run as runs
        from sine_jax.data import datasets
        from sine_jax.evaluation import report, segments

    with read_from_flags():
        segments.check(SEGMENTS.value, protocol=PROTOCOL.value)
    if WORKDIR.value is not None:
        found = runs.evaluate(
            WORKDIR.value,
            split=SPLIT.value,
            protocol=PROTOCOL.value,
            checkpoint=CHECKPOINT.value,
            data=DATA.value,
            candidates=CANDIDATES.value,
            nulls=NULLS.value,
            segments=SEGMENTS.value,
            trust_network=TRUST_NETWORK.value,
        )
    else:
        assert DATA.value is not None  # as was refused above
        found = runs.rank(
            datasets.load(DATA.value),
            config=config,
            split=SPLIT.value,
            protocol=PROTOCOL.value,
            nulls=NULLS.value,
            segments=SEGMENTS.value,
        )
    summary = report.summarise(found)
    report.show(summary)
    out = OUT.value or (Path(WORKDIR.value) / "evaluation" if WORKDIR.value else None)
    if out is not None:
        written = report.write(found, summary, out)
        print("\n".join(f"wrote {path}" for path in written))


def run() -> None:
    """The console script."""
    launch_app(main, interrupted="nothing half-written is left; run the same command again")


if __name__ == "__main__":
    run()
