r"""Trains a model on a prepared data set; the same command again goes on where it stopped.

For example:

  The corrected model on the shipped sample:
    python -m launch.prepare --source=sample --out=data/sample
    python -m launch.train --data=data/sample --workdir=runs/sample

  The released model, with windows of 60 and four sub-interests:
    python -m launch.train --data=data/sample --workdir=runs/official --preset=official \
      --model.max_len=60 --model.num_interests=4

  A warm-up of the passive term, AdamW with clipping, and another seed:
    python -m launch.train --data=data/sample --workdir=runs/tuned --objective.passive=linear:0:1:500 \
      --optimizer.name=adamw --optimizer.weight_decay=0.01 --optimizer.clip_norm=1 --train.seed=7

All devices of the machine are used; eight simulated ones on a CPU:
  XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m launch.train ...
"""

from __future__ import annotations

import sys

from absl import flags

from launch import config_flags
from launch.app import launch_app, loading, read_from_flags, stopping

DATA = flags.DEFINE_string("data", None, "Folder of a prepared data set (launch.prepare).", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if it does not exist.", required=True)


def main() -> None:
    """Trains what the flags say."""
    with read_from_flags():
        config = config_flags.config()
    with loading():
        from sine_jax import run as runs

    with stopping() as stop:
        runs.train(DATA.value, WORKDIR.value, config=config, command=sys.argv, stop=stop)
    print(f"wrote {WORKDIR.value}")


def run() -> None:
    """The console script."""
    launch_app(main, interrupted="complete checkpoints are kept; run the same command again to go on")


if __name__ == "__main__":
    run()
