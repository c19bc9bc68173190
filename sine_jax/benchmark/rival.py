"""RecBole's SASRec and this library's, timed in turns on the same targets of the same data.

The comparison is of supervised targets per second. RecBole makes a sample of every target: all items watched before
it, padded to T. Only the last position of a sample is supervised. Here a sequence is read once, and every position is
supervised. An epoch has the same (user, target) pairs for both, with one drawn negative each. Loss (BPR), width,
blocks, heads, dropout, optimiser, batch size and cores are the same. A batch of B is B samples there and B users here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sine_jax import config as configs
from sine_jax import parallel, run
from sine_jax.benchmark import hardware, recbole_worker, speed
from sine_jax.benchmark.speed import Bench, Result, Timing
from sine_jax.config import Config
from sine_jax.data import splits
from sine_jax.types import WATCHED, EventLog

# Newer versions of these packages have dropped what the last release of RecBole uses.
REQUIRED = (
    "torch<2.6",
    "numpy<2",
    "scipy<1.12",
    "pandas<2.2",
    "setuptools<81",
    "colorlog==4.7.2",
    "colorama==0.4.4",
    "scikit-learn",
    "tqdm",
    "pyyaml",
    "tensorboard",
    "thop",
    "tabulate",
    "plotly",
    "texttable",
    "psutil",
)
RECBOLE = "recbole==1.2.1"  # without its requirements: ray is large, and only its hyper-parameter search needs it
NAME = "exposures"  # of the exported data
WARM_UP = 2  # batches


class Rival(NamedTuple):
    """A worker that has loaded the data."""

    process: subprocess.Popen
    samples: int  # targets of an epoch
    batches: int  # of an epoch
    versions: dict[str, str]
    device: str


def configuration() -> Config:
    """This library's SASRec, at the released window, width and batch."""
    return configs.replace(
        Config(),
        {
            "model.name": "sasrec",
            "model.max_len": 200,
            "model.dim": 50,
            "model.num_blocks": 2,
            "model.num_heads": 1,
            "model.dropout": 0.5,
            "objective.sampled": 1.0,
            "objective.passive": 0.0,
            "objective.dcor": 0.0,
            "objective.active": 0.0,
            "objective.num_skips": 1,
            "train.batch_size": 128,
            "optimizer.b2": 0.999,  # the default of PyTorch's Adam, which RecBole uses
        },
    )


def environment(folder: Path) -> Path:
    """Makes an environment for RecBole unless there is one already; returns its Python.

    Raises:
      ValueError: what it needs could not be installed.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if python.exists() and subprocess.run([str(python), "-c", "import recbole"], capture_output=True).returncode == 0:
        return python
    venv.create(folder, with_pip=True)
    for wanted in (REQUIRED, ("--no-deps", RECBOLE)):
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(
                f"--against=recbole: pip could not install RecBole into {folder} ({last}); let pip reach a package "
                "index, or pass an environment that has RecBole as --against_env"
            )
    return python


def export(log: EventLog, folder: Path, *, config: Config) -> int:
    """Writes the training data as RecBole's atomic file; returns how many targets it has.

    These are the last T + 1 watched exposures of each user's training part; RecBole would train on earlier targets too.
    """
    ends = splits.split(log, config=config.data).valid.train_end
    watched = np.flatnonzero((log.feedback == WATCHED) & log.before(ends))
    owners = log.users[watched]
    after = np.searchsorted(owners, owners, side="right") - np.arange(len(owners)) - 1  # watched later by the same user
    kept = after <= config.model.max_len
    watched, owners = watched[kept], owners[kept]
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    # Positions in the log serve as times: their order is the same, and not every log has times.
    columns = np.stack([owners, log.items[watched], watched], axis=1)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt(folder / NAME / f"{NAME}.inter", columns, fmt="%d", delimiter="\t", header=header, comments="")
    return len(watched) - len(np.unique(owners))


def settings(config: Config, folder: Path) -> dict[str, Any]:
    """RecBole's names for the same choices."""
    return {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "checkpoints"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO", "group_by": "user", "mode": "full"},
        "MAX_ITEM_LIST_LENGTH": config.model.max_len,
        "hidden_size": config.model.dim,
        "inner_size": config.model.dim,  # as here and in the paper; RecBole's default is four times as wide
        "n_layers": config.model.num_blocks,
        "n_heads": config.model.num_heads,
        "hidden_dropout_prob": config.model.dropout,
        "attn_dropout_prob": config.model.dropout,
        "hidden_act": "relu",
        "loss_type": "BPR",
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False},
        "train_batch_size": config.train.batch_size,
        "learner": "adam",
        "learning_rate": config.optimizer.learning_rate,
        "use_gpu": parallel.backend() != "cpu",
        "seed": config.train.seed,
        "state": "ERROR",
        "show_progress": False,
    }


@contextmanager
def started(python: Path, folder: Path, *, config: Config) -> Iterator[Rival]:
    """Starts a worker that loads an export; ends it after the block."""
    log = folder / "worker.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(python), "-I", recbole_worker.__file__],  # -I: else `import types` would find this library's
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            # Threads that spin while they wait make RecBole much slower on shared cores.
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        )
        try:
            asked = {"settings": settings(config, folder), "threads": hardware.cores()}
            yield Rival(process, **_ask(process, asked, log))
        finally:
            process.kill()
            process.communicate()


def compare(bench: Bench, python: Path, folder: Path, *, config: Config, batches: int) -> Result:
    """Times epochs here and batches of RecBole, in turns, after both have warmed up.

    Args:
      bench: the data and the number of repeats.
      config: of `configuration`.
      python: of `environment`.
      folder: where the export and the worker's log are written.
      batches: how many of RecBole's batches a repeat times; at most an epoch.
    """
    targets = export(bench.data.log, folder, config=config)
    setup = run.set_up(bench.data, config=config)
    state = parallel.replicate(setup.initial())
    with started(python, folder, config=config) as rival:
        batches = min(batches, rival.batches)
        _ask(rival.process, {"batches": min(WARM_UP, batches)}, folder / "worker.log")
        state = jax.block_until_ready(setup.run_epoch(state, 0, lambda report: None))
        ours, theirs = [], []
        for epoch in range(1, bench.repeats + 1):
            begin = time.perf_counter()
            state = jax.block_until_ready(setup.run_epoch(state, epoch, lambda report: None))
            ours.append(time.perf_counter() - begin)
            theirs.append(_ask(rival.process, {"batches": batches}, folder / "worker.log")["seconds"])
        versions, device, samples, in_epoch = rival.versions, rival.device, rival.samples, rival.batches
    share = min(batches * config.train.batch_size / samples, 1.0)
    model, size = config.model, config.train.batch_size
    about = (
        f"SASRec against RecBole {versions['recbole']} (torch {versions['torch']}, {device}), T {model.max_len}, "
        f"D {model.dim}, {model.num_blocks} blocks, dropout {model.dropout}, BPR; a batch is {size} users here "
        f"({setup.steps_per_epoch} batches an epoch) and {size} (user, target) samples there ({in_epoch} batches an "
        f"epoch, of which {batches} are timed)"
    )
    return Result("recbole", about, _figures(setup.users, targets, samples, share, ours, theirs))


def _figures(
    users: int, targets: int, samples: int, share: float, ours: list[float], theirs: list[float]
) -> dict[str, Timing]:
    ratios = [targets / a / (samples * share / b) for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio of targets/s": speed.over(ratios),
        "targets/s, sine_jax": speed.rate(targets, ours),
        "targets/s, RecBole": speed.rate(samples * share, theirs),
        "s/epoch, sine_jax": speed.over(ours),
        "s/epoch, RecBole": speed.over([each / share for each in theirs]),
        "targets/epoch, sine_jax": speed.exactly(targets),
        "targets/epoch, RecBole": speed.exactly(samples),
        "users/s, sine_jax": speed.rate(users, ours),
    }


def _ask(process: subprocess.Popen, asked: dict[str, Any], log: Path) -> dict[str, Any]:
    """Sends a line and waits for the answer.

    Raises:
      ValueError: the worker has died.
    """
    assert process.stdin is not None and process.stdout is not None  # pipes, by `started`
    line = ""
    try:
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        pass
    if not line:
        last = (log.read_text().strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"--against=recbole: RecBole failed ({last}); read its output in {log}")
    return json.loads(line)
