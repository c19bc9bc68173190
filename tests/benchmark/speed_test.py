import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import launch.benchmark as launch_benchmark
from sine_jax import config as configs
from sine_jax import parallel, presets
from sine_jax.benchmark import cases, devices, hardware, preparation, report, speed, workloads
from sine_jax.benchmark.speed import Bench, Case, Timing
from sine_jax.data import splits, synthetic
from sine_jax.evaluation import protocols

TINY = {
    "model.name": "sasrec",  # compiles quickly
    "model.mask_padding": True,
    "objective.dcor": 0.0,
    "model.max_len": 8,
    "model.dim": 4,
    "model.num_blocks": 1,
    "model.dropout": 0.0,
    "train.batch_size": 16,
    "data.window_margin": 0,
}
DATA = workloads.alternating(num_users=40, num_watched=11, num_items=50)


@pytest.fixture(scope="module")
def bench():
    sizes = hardware.Sizes(matrix=8, chain=1, vector=64)
    return Bench(DATA, hardware.measure(sizes=sizes, repeats=1), repeats=2)


@pytest.fixture(autouse=True)
def small_peaks(monkeypatch):
    monkeypatch.setattr(hardware, "CPU", hardware.Sizes(matrix=8, chain=1, vector=64))


def case(name="tiny", timings=speed.training_speed, overrides=TINY):
    return Case(name, f"what {name} is", timings, overrides, lambda bench: bench.data)


@pytest.fixture(scope="module")
def results(bench):
    chosen = [case(), case("ranked", evaluation_speed())]
    return list(speed.time_cases(chosen, bench, say=lambda line: None))


def evaluation_speed():
    return speed.evaluation_speed(protocols.EXPOSED)


def test_a_made_log_has_training_windows_of_one_length():
    split = splits.split(DATA.log, presets.official().data).valid
    watched = [np.sum(DATA.log.feedback[a:b]) for a, b in zip(DATA.log.offsets[:-1], split.train_end, strict=True)]
    assert set(watched) == {11 - 3 + 1}  # the last of them is no position, only a target
    assert DATA.info.num_events == len(DATA.log.items) == 40 * 22
    assert DATA.log.items.min() >= 1 and DATA.log.items.max() <= 50


def test_occupancy_counts_real_positions_and_the_pairs_that_causality_leaves():
    config = configs.replace(presets.official(), TINY)
    found = speed._occupancy(config, DATA)
    assert found.work.tokens == 40 * 8
    assert found.work.pairs == 40 * (8 * 9 // 2)
    assert found.positions >= found.work.tokens


def test_a_case_that_trains_has_every_figure(results):
    figures = results[0].figures
    assert {name for _, name, *_ in report._TRAINING} <= set(figures)
    assert all(low <= median <= high for median, low, high in figures.values())
    assert 0 <= figures["padding"].median < 1
    assert np.isclose(figures["tokens/s"].median / figures["users/s"].median, 8)


def test_a_case_that_evaluates_counts_users_over_the_whole_time(results):
    figures = results[1].figures
    assert figures["users"].median == 40
    assert figures["of which ranking, s"].median <= figures["seconds"].high


def test_the_catalogue_case_compares_steps(bench, monkeypatch):
    def timed(case, bench):
        median = 6.0 if case.data(bench) is DATA else 3.0
        return {"ms/step": Timing(median, median - 1, median + 1), "peak memory GB": speed.exactly(1.0)}

    monkeypatch.setattr(speed, "training_speed", timed)
    found = speed.catalogue_growth(lambda bench: None)(case("catalogue"), bench)
    assert found["step time, large over small"] == Timing(6 / 3, 5 / 4, 7 / 2)


def test_preparation_is_timed_on_a_part_and_the_whole_of_a_log(bench, monkeypatch):
    monkeypatch.setattr(synthetic, "USERS_A_PIECE", 40)
    settings = synthetic.Settings(num_users=120, num_exposures=10)
    found = preparation.preparation_speed(settings)(case(), bench._replace(repeats=3))
    shown = [len(frame) for frame in synthetic.frames(settings)]
    assert found["rows, small"].median == shown[0] and found["rows, large"].median == sum(shown)
    assert found["users loaded"].median == 120
    small, large = found["s to prepare, small"], found["s to prepare, large"].median
    slope = large / np.array([small.median, small.high, small.low]) * shown[0] / sum(shown)
    np.testing.assert_allclose(found["s a row, large over small"], slope)
    assert found["peak memory GB, small"].median > 0 and found["s to load"].low > 0


def test_figures_are_medians_with_their_spread():
    assert speed.over([3.0, 1.0, 2.0]) == Timing(2.0, 1.0, 3.0)
    assert speed.rate(6, [3.0, 1.0, 2.0]) == Timing(3.0, 2.0, 6.0)
    assert speed.exactly(5.0) == Timing(5.0, 5.0, 5.0)


def test_the_report_is_written_with_machine_versions_and_all_figures(bench, results, tmp_path):
    text = report.write(bench, results, tmp_path / "new")
    assert (tmp_path / "new" / "benchmark.md").read_text() == text
    found = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert found["machine"]["versions"]["jax"] in text
    assert set(found["cases"]) == {"tiny", "ranked"}
    assert set(found["cases"]["tiny"]["figures"]["users/s"]) == {"median", "low", "high"}
    assert "what tiny is" in text and "| ranked | users | 40 |" in text


def test_a_case_that_fails_leaves_the_result_of_the_one_before(bench, monkeypatch, tmp_path):
    def fails(case, bench):
        raise ValueError("the second case fails")

    chosen = [case(timings=lambda case, bench: {"s": speed.exactly(1.0)}), case("second", fails)]
    monkeypatch.setattr(cases, "select", lambda names, *, backend: chosen)
    monkeypatch.setattr(launch_benchmark, "loading", contextlib.nullcontext)  # all is loaded here
    monkeypatch.setattr(launch_benchmark, "_given", lambda: contextlib.nullcontext(DATA))
    monkeypatch.setattr(hardware, "measure", lambda: bench.machine)
    with flagsaver.flagsaver(), pytest.raises(ValueError, match="the second case fails"):
        flags.FLAGS(["benchmark", f"--out={tmp_path}"])
        launch_benchmark.main()
    assert set(json.loads((tmp_path / "benchmark.json").read_text())["cases"]) == {"tiny"}


def test_an_unknown_case_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no 'fast'; choose from dev, full"):
        cases.select(["dev", "fast"], backend="cpu")


def test_the_cases_fit_the_back_end_and_are_valid_configurations():
    on_cpu, on_gpu = ({c.name for c in cases.select(None, backend=b)} for b in ("cpu", "gpu"))
    assert on_cpu - on_gpu == {"prepare"} and {"large", "large_bfloat16", "dev_bfloat16"} <= on_gpu - on_cpu
    order = [c.name for c in cases.select(None, backend="cpu")]
    assert order[0] == "dev" and order[-1] == "prepare"
    for chosen in cases.select(None, backend="gpu"):
        chosen.config()


def test_one_device_and_several_have_the_same_losses():
    config = configs.replace(presets.official(), TINY)
    here = devices.losses(config, epochs=2)
    there = devices._in_child("losses", dict(TINY), devices=1)
    assert parallel.device_count() > 1
    np.testing.assert_allclose(here, there, rtol=1e-5)


def test_a_child_that_fails_says_why():
    with pytest.raises(ValueError, match="with 2 simulated devices failed .*model.gone=.*no such option"):
        devices._in_child("losses", {"model.gone": 1}, devices=2)


_LAUNCHED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import speed_test
from sine_jax.benchmark import cases, hardware
hardware.CPU = hardware.Sizes(matrix=8, chain=1, vector=64)
cases.CASES = {"tiny": speed_test.case()._replace(data=lambda bench: speed_test.DATA)}
from launch.benchmark import run
run()
"""


def launched(*arguments):
    """`python -m launch.benchmark` with these arguments and one small case."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", _LAUNCHED, os.path.dirname(__file__), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


def test_the_launch_measures_on_the_shipped_sample_and_writes_report_and_trace(tmp_path):
    out, trace = tmp_path / "out", tmp_path / "trace"
    done = launched(f"--out={out}", "--cases=tiny", "--repeats=1", f"--trace={trace}")
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "benchmark.json").read_text())
    assert found["repeats"] == 1 and found["data"]["source"] == "sample"
    assert "| tiny |" in done.stdout and (out / "benchmark.md").read_text() in done.stdout
    assert list(trace.glob("tiny/**/*.xplane.pb"))
