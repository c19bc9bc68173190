import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SMALL = ["--model.max_len=6", "--model.dim=4", "--model.num_blocks=1", "--train.num_widths=1", "--train.epochs=2"]


def environment(devices=1):
    kept = [
        flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag
    ]  # those of quick compilation
    return {
        **os.environ,
        "XLA_FLAGS": " ".join([f"--xla_force_host_platform_device_count={devices}", *kept]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "COLUMNS": "200",
    }


def launch(name, *flags, devices=1, fails=False):
    command = [sys.executable, "-m", f"launch.{name}", *map(str, flags)]
    done = subprocess.run(command, env=environment(devices), capture_output=True, text=True, timeout=200)
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


# SIGINT as a shell's foreground has it, whatever runs the tests.
FOREGROUND = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("launch.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_a_signal_stopped_is_saved_and_goes_on(tmp_path, number):
    data, workdir = tmp_path / "data", tmp_path / "run"
    launch("prepare", "--source=synthetic", "--users=80", "--items=60", "--exposures=15", f"--out={data}")
    flags = [f"--data={data}", f"--workdir={workdir}", *SMALL[:-1], "--train.patience=0"]
    flags += ["--train.checkpoint_every=100000"]  # so that what is saved is saved because of the signal
    command = [sys.executable, "-c", FOREGROUND, *flags, "--train.epochs=100000"]
    steps = []
    for begun in ("epoch 3", "resuming at step"):
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            lines = []
            for line in run.stderr:
                lines.append(line)
                if line.startswith(begun):
                    run.send_signal(number)
            assert run.wait(100) == 128 + number
        assert lines[0].endswith(": loading JAX and the library\n")
        assert lines[-1].endswith(": stopped: run the same command again to go on\n")
        (told,) = [line for line in lines if line.startswith("stopped at step")]
        steps.append(int(told.split()[3].rstrip(",")))
        assert (workdir / "checkpoints" / str(steps[-1])).is_dir()
        assert "Traceback" not in "".join(lines)
    assert 0 < steps[0] <= steps[1] and f"resuming at step {steps[0]}," in "".join(lines)


FULL_DISK = """
import resource, runpy
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
runpy.run_module("launch.train", run_name="__main__", alter_sys=True)
"""


def test_a_training_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path):
    """A file-size limit stands in for the full disk: the first write that does not fit fails in the same way."""
    data, workdir = tmp_path / "data", tmp_path / "run"
    launch("prepare", "--source=synthetic", "--users=80", "--items=60", "--exposures=15", f"--out={data}")
    flags = [f"--data={data}", f"--workdir={workdir}", *SMALL]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *flags], env=environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert "finished after epoch 2" in launch("train", *flags)
