import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from sine_jax import config as configs
from sine_jax import parallel, presets
from sine_jax.benchmark import cases, compilation, devices, hardware, preparation, report, speed, workloads
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
    split = splits.split(DATA.log, config=presets.official().data).valid
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
    assert 0 <= figures["padding"].median < 1
    assert np.isclose(figures["tokens/s"].median / figures["users/s"].median, 8)


def test_the_figures_of_training_are_of_three_known_times(bench, monkeypatch):
    """A first epoch of 10 s, then 2 s, 1 s and 4 s; 40 users of 8 positions."""
    times = iter([10.0, 2.0, 1.0, 4.0])
    monkeypatch.setattr(speed, "_timed_epoch", lambda setup, state, epoch: (state, next(times)))
    rates = iter([1e9, 2e9, 4e9])
    monkeypatch.setattr(hardware, "matmul_rate", lambda *, dtype, repeats: next(rates))
    found = speed.training_speed(case(), bench._replace(repeats=3))
    assert found["s/epoch"] == Timing(2.0, 1.0, 4.0)
    assert found["users/s"] == Timing(20.0, 10.0, 40.0)
    assert found["tokens/s"] == Timing(160.0, 80.0, 320.0)
    assert found["compile s"] == Timing(8.0, 8.0, 8.0, compilation.COMPILED)  # 10 s less the median
    steps = 2e3 / found["ms/step"].median
    assert found["ms/step"] == Timing(2e3 / steps, 1e3 / steps, 4e3 / steps)
    gflop = found["GFLOP/step"].median * steps
    np.testing.assert_allclose(found["share of matmul"][:3], [gflop / 2, gflop / 16, gflop / 2])
    bytes_a_second = found["MB/step"].median * 1e6 * steps / np.array([2.0, 4.0, 1.0])
    np.testing.assert_allclose(found["share of bandwidth"][:3], bytes_a_second / bench.machine.bandwidth)


def test_a_case_that_evaluates_counts_users_over_the_whole_time(results):
    figures = results[1].figures
    assert figures["users"].median == 40
    assert figures["compile s"].origin == compilation.COMPILED


def test_an_evaluation_adds_laying_out_and_ranking_of_each_repeat(bench, monkeypatch):
    """Ranking compiles in 9 s; three lay-outs of 1 s, 2 s and 3 s, three rankings of 4 s, 1 s and 2 s; 40 users."""
    times = iter([9.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0])
    monkeypatch.setattr(speed, "_seconds", lambda call: next(times))
    found = evaluation_speed()(case(), bench._replace(repeats=3))
    assert found["seconds"] == Timing(5.0, 3.0, 5.0)
    assert found["users/s"] == Timing(8.0, 8.0, 40 / 3)
    assert found["of which ranking, s"] == Timing(2.0, 1.0, 4.0)
    assert found["compile s"] == Timing(7.0, 7.0, 7.0, compilation.COMPILED)


def test_the_catalogue_case_compares_steps(bench, monkeypatch):
    def timed(case, bench):
        median = 6.0 if case.data(bench) is DATA else 3.0
        return {"ms/step": Timing(median, median - 1, median + 1), "peak memory GB": speed.exactly(1.0)}

    monkeypatch.setattr(speed, "training_speed", timed)
    found = speed.catalogue_growth(lambda bench: None)(case("catalogue"), bench)
    assert found["step time, large over small"] == Timing(6 / 3, 5 / 4, 7 / 2)


def test_the_kernel_case_compares_neighbouring_epochs_with_and_without_it(bench, monkeypatch):
    """Without and with the kernel: 9 s and 9 s that compile, then 2 s and 3 s, 1 s and 4 s, 4 s and 4 s."""
    times = iter([9.0, 9.0, 2.0, 3.0, 1.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr(speed, "_timed_epoch", lambda setup, state, epoch: (state, next(times)))
    found = speed.kernel_cost(case(overrides={**TINY, "model.kernel_dim": 4}), bench._replace(repeats=3))
    assert found["step time, with the kernel over without"] == Timing(1.5, 1.0, 4.0)
    assert found["ms/step, with"].median / found["ms/step, without"].median == 4.0 / 2.0
    assert 0 < found["us/event"].low <= found["us/event"].high


def test_recommending_is_timed_beside_the_product(bench):
    found = speed.recommendation_speed(case(), bench)
    assert found["users/s"].low > 0 and found["time over that of the matrix product"].median > 0


def test_preparation_is_timed_on_a_part_and_the_whole_of_a_log(bench, monkeypatch):
    monkeypatch.setattr(synthetic, "USERS_A_PIECE", 40)
    settings = synthetic.Settings(num_users=120, num_exposures=10)
    found = preparation.preparation_speed(settings)(case(), bench._replace(repeats=3))
    shown = [len(frame) for frame in synthetic.frames(settings)]
    assert found["exposures, small"].median == shown[0] and found["exposures, large"].median == sum(shown)
    assert found["users loaded"].median == 120
    small, large = found["s to prepare, small"], found["s to prepare, large"].median
    slope = large / np.array([small.median, small.high, small.low]) * shown[0] / sum(shown)
    np.testing.assert_allclose(found["s an exposure, large over small"][:3], slope)
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
    assert set(found["cases"]["tiny"]["figures"]["compile s"]) == {"median", "low", "high", "origin"}
    assert "what tiny is" in text and "| ranked | users | 40 |" in text


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
    with pytest.raises(
        ValueError, match="^devices=2: the process with simulated devices failed .*model.gone=.*no such option"
    ):
        devices._in_child("losses", {"model.gone": 1}, devices=2)


_LAUNCHED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import speed_test
from sine_jax.benchmark import cases, hardware
hardware.CPU = hardware.Sizes(matrix=8, chain=1, vector=64)
cases.CASES = {c.name: c for c in (speed_test.case()._replace(data=lambda bench: speed_test.DATA), speed_test.FAILS)}
from launch.benchmark import run
run()
"""


def fails(case, bench):
    raise ValueError("the second case fails")


FAILS = case("fails", fails)


def launched(cache, *arguments):
    """`python -m launch.benchmark` with these arguments, two small cases to choose from, and a compilation cache."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", _LAUNCHED, os.path.dirname(__file__), "--repeats=1", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


def written(out):
    return json.loads((out / "benchmark.json").read_text())


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """The folder of two launches, one after the other with one cache, and what they printed."""
    folder = tmp_path_factory.mktemp("launches")
    first = launched(folder / "cache", f"--out={folder / 'first'}", "--cases=tiny,fails")
    second = launched(folder / "cache", f"--out={folder / 'second'}", "--cases=tiny", f"--trace={folder / 'trace'}")
    return folder, first, second


def test_a_case_that_fails_leaves_the_result_of_the_one_before(launches):
    folder, first, _ = launches
    assert first.returncode == 1 and "error: the second case fails" in first.stderr
    assert set(written(folder / "first")["cases"]) == {"tiny"}


def test_the_launch_measures_on_the_shipped_sample_and_writes_report_and_trace(launches):
    folder, _, second = launches
    assert second.returncode == 0, second.stderr
    found = written(folder / "second")
    assert found["repeats"] == 1 and found["data"]["source"] == "sample"
    assert "| tiny |" in second.stdout and (folder / "second" / "benchmark.md").read_text() in second.stdout
    assert list((folder / "trace").glob("tiny/**/*.xplane.pb"))


def test_the_launch_says_what_it_is_doing_in_order(launches):
    _, first, _ = launches
    said = first.stderr.splitlines()
    steps = ["preparing the shipped sample", "measuring the machine", "tiny: what tiny is", "fails: what fails is"]
    assert [line for line in said if line in steps] == steps


@pytest.mark.parametrize("launch, origin", [(0, compilation.COMPILED), (1, compilation.LOADED)])
def test_a_compile_time_says_whether_programs_were_compiled_or_loaded(launches, launch, origin):
    folder, done = launches[0], launches[1 + launch]
    out = folder / ("first", "second")[launch]
    assert written(out)["cases"]["tiny"]["figures"]["compile s"]["origin"] == origin
    (line,) = [line for line in (out / "benchmark.md").read_text().splitlines() if line.startswith("| tiny |")]
    assert f", {origin} |" in line
    assert any(line.startswith("tiny: compile s ") and line.endswith(origin) for line in done.stderr.splitlines())


def test_programs_of_which_some_were_stored_are_partly_loaded():
    with compilation.watch() as programs:
        jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
        assert programs.origin == compilation.LOADED
        jax.monitoring.record_event("/jax/compilation_cache/cache_misses")
    jax.monitoring.record_event("/jax/compilation_cache/cache_hits")  # no longer watched
    assert programs.origin == compilation.PARTLY_LOADED
    with compilation.watch() as programs:
        pass
    assert programs.origin == compilation.COMPILED
