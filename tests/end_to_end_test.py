import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SMALL = ["--model.max_len=6", "--model.dim=4", "--model.num_blocks=1", "--train.num_widths=1", "--train.epochs=2"]


def launch(name, *flags, devices=1, fails=False):
    quick = "--xla_backend_optimization_level=0"
    env = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {quick}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", f"launch.{name}", *map(str, flags)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout + done.stderr


def test_a_log_is_prepared_trained_on_restored_and_evaluated(tmp_path):
    data, workdir = tmp_path / "data", tmp_path / "run"
    launch("prepare", "--source=synthetic", "--users=80", "--items=60", "--exposures=15", f"--out={data}")
    flags = [f"--data={data}", f"--workdir={workdir}", *SMALL]
    assert "finished after epoch 2" in launch("train", *flags)
    # Another number of devices restores the optimiser too.
    assert "resuming at step" in launch("train", *flags, devices=8)

    refused = launch("train", *flags, "--optimizer.learning_rate=1", fails=True)
    assert refused.splitlines()[-1].startswith("train.py: error: ") and "learning_rate was 0.001, now 1.0" in refused

    scores = []
    for devices in (1, 8):
        table = launch("evaluate", f"--workdir={workdir}", "--checkpoint=latest", devices=devices)
        assert "sine" in table and "random" in table
        found = json.loads((workdir / "evaluation" / "test_exposed.json").read_text())["scorers"]["sine"]
        scores.append({name: values["mean"] for name, values in found.items()})
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
