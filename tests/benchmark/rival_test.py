import subprocess
import sys
import venv

import numpy as np
import pytest

from sine_jax import config as configs
from sine_jax import presets
from sine_jax.benchmark import hardware, rival, speed, workloads
from sine_jax.benchmark.speed import Bench, Timing
from sine_jax.data import splits
from sine_jax.types import WATCHED

DATA = workloads.alternating(num_users=20, num_watched=9, num_items=30)
TINY = {"model.max_len": 4, "model.dim": 4, "model.num_blocks": 1, "train.batch_size": 10}

# Stands for RecBole: a worker of 80 samples, where a batch takes a tenth of a second.
FAKE = """
import json, sys
asked = json.loads(sys.stdin.readline())
assert asked["settings"]["MAX_ITEM_LIST_LENGTH"] == 4
versions = {"recbole": "1", "torch": "2"}
print(json.dumps({"samples": 80, "batches": 8, "versions": versions, "device": "cpu"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": 0.1 * json.loads(line)["batches"]}), flush=True)
"""


def tiny():
    return configs.replace(rival.configuration(), TINY)


@pytest.fixture
def bench():
    return Bench(DATA, hardware.measure(sizes=hardware.Sizes(8, 1, 64), repeats=1), repeats=2)


@pytest.fixture
def worker(tmp_path, monkeypatch):
    file = tmp_path / "worker.py"
    file.write_text(FAKE)
    monkeypatch.setattr(rival.recbole_worker, "__file__", str(file))
    return file


def test_what_is_exported_has_the_targets_that_are_trained_on_here(tmp_path):
    config = tiny()
    targets = rival.export(DATA.log, tmp_path, config=config)
    assert targets == speed._occupancy(config, DATA).work.tokens == 20 * 4
    lines = (tmp_path / "exposures" / "exposures.inter").read_text().splitlines()
    assert lines[0].split("\t") == ["user_id:token", "item_id:token", "timestamp:float"]
    written = np.array([line.split("\t") for line in lines[1:]], int)
    end = splits.split(DATA.log, config=presets.official().data).valid.train_end[3]
    mine = np.flatnonzero(DATA.log.feedback[:end] == WATCHED)
    mine = mine[mine >= DATA.log.offsets[3]][-5:]
    np.testing.assert_array_equal(written[written[:, 0] == 3][:, 1], DATA.log.items[mine])


def test_a_comparison_is_of_targets_a_second(bench, worker, tmp_path):
    result = rival.compare(bench, sys.executable, tmp_path, config=tiny(), batches=4)
    figures = result.figures
    assert np.isclose(figures["targets/s, RecBole"].median, 10 / 0.1)
    assert np.isclose(figures["s/epoch, RecBole"].median, 8 * 0.1)
    ours, theirs = figures["targets/s, sine_jax"], figures["targets/s, RecBole"]
    # Its repeats take 0.4 s each, so that the ratio spreads as our own times do.
    np.testing.assert_allclose(figures["ratio of targets/s"][:3], np.array(ours[:3]) / theirs.median)
    assert figures["targets/epoch, sine_jax"] == figures["targets/epoch, RecBole"] == speed.exactly(80.0)
    assert np.isclose(ours.low * figures["s/epoch, sine_jax"].high, 80)
    assert "RecBole 1 (torch 2, cpu)" in result.about and "8 batches an epoch, of which 4" in result.about


def test_a_comparison_pairs_repeats_by_hand_computed_from_three_known_times():
    """60 targets and 30 users an epoch here; half of 80 samples there."""
    figures = rival._figures(30, 60, 80, 0.5, [2.0, 1.0, 3.0], [4.0, 8.0, 2.0])
    assert figures["targets/s, sine_jax"] == Timing(30.0, 20.0, 60.0)
    assert figures["targets/s, RecBole"] == Timing(10.0, 5.0, 20.0)
    assert figures["ratio of targets/s"] == Timing(3.0, 1.0, 12.0)  # 30 / 10, 60 / 5 and 20 / 20
    assert figures["s/epoch, RecBole"] == Timing(8.0, 4.0, 16.0)
    assert figures["users/s, sine_jax"] == Timing(15.0, 10.0, 30.0)


def test_a_worker_that_dies_says_its_last_words(bench, worker, tmp_path):
    worker.write_text("raise SystemExit('no such model')")
    with pytest.raises(ValueError, match="RecBole failed .no such model.; read its output in"):
        rival.compare(bench, sys.executable, tmp_path, config=tiny(), batches=4)


def test_an_environment_that_pip_cannot_make_is_refused_with_the_remedy(monkeypatch, tmp_path):
    failed = subprocess.CompletedProcess([], 1, "", "some lines\nno matching distribution")
    monkeypatch.setattr(venv, "create", lambda folder, with_pip: None)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(ValueError, match=r"\(no matching distribution\); let pip reach .* --against_env"):
        rival.environment(tmp_path)


def test_an_environment_that_has_it_is_taken_as_it_is(monkeypatch, tmp_path):
    python = tmp_path / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    python.parent.mkdir()
    python.touch()
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess([], 0))
    assert rival.environment(tmp_path) == python
