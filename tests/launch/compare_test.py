"""The launch reads what evaluations wrote, and says what is missing and how to make it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from logs import make_log

from sine_jax import config as configs
from sine_jax.evaluation import comparison, protocols, ranking, report
from sine_jax.types import SKIPPED, WATCHED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found():
    """The simple scorers on a small log; some users without a skip."""
    rng = np.random.default_rng(0)
    users = [
        [
            (int(i), WATCHED if y else SKIPPED)
            for i, y in zip(rng.integers(1, 30, 20), rng.random(20) < 0.5, strict=True)
        ]
        for _ in range(40)
    ]
    return ranking.evaluate(
        make_log(*users), config=configs.Config(), num_items=30, part="test", protocol=protocols.EXPOSED
    )


@pytest.fixture(scope="module")
def runs(found, tmp_path_factory):
    """Two seeds of one method, one of another, a run on other candidates, and the simple scorers alone."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(1)
    options = {
        "a-1": {"train.seed": 1},
        "a-2": {"train.seed": 2},
        "b:1": {"train.seed": 1, "model.dim": 32},
        "other": {"data.candidates": "before_target"},
    }
    names = pl.Series([f"u{user}" for user in range(40)])
    for name, changed in options.items():
        values = {metric: column + rng.normal(0, 0.1, len(column)) for metric, column in found.values["random"].items()}
        config = configs.replace(found.config, changed)
        run = found._replace(config=config, values={"SINE": values, **found.values})
        summary = {"checkpoint": "best", "step": 9, "fingerprint": "f0", **report.summarise(run, replicates=20)}
        report.write(run._replace(user_ids=names), summary, folder / name / "evaluation")
    summary = {"fingerprint": "f0", **report.summarise(found, replicates=20)}
    report.write(found._replace(user_ids=names), summary, folder / "counting")
    return folder


def compared(folder, *arguments, fails=False):
    """`python -m launch.compare` with these arguments, in a folder of runs."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from launch.compare import run; run()"
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def test_a_table_and_a_file_tell_the_comparison(runs, tmp_path):
    file = tmp_path / "found.json"
    arguments = ["a-1", "b:1", "--metric=gauc", "a-2", "a-1/:item bias", "counting:item rate", f"--json={file}"]
    table = compared(runs, *arguments)
    found = json.loads(file.read_text())
    assert [method["runs"] for method in found["methods"]] == [
        ["a-1", "a-2"],
        ["b:1"],
        ["a-1:item bias"],
        ["counting:item rate"],
    ]
    frames = {
        name: pl.read_parquet(runs / name / "evaluation" / "test_exposed.parquet") for name in ("a-1", "a-2", "b:1")
    }
    a1, a2, b = (frame["SINE/gauc"] for frame in frames.values())
    expected = (b - (a1 + a2) / 2).drop_nulls()
    first = found["comparisons"][0]
    assert first["difference"] == pytest.approx(expected.mean())
    assert (first["users"], first["users_without_both"]) == (len(expected), len(b) - len(expected))
    assert first["users_without_both"] > 0
    for text in (
        "a-{1,2}",
        f"{first['difference']:+.4f}",
        "wilcoxon p",
        f"left out: {first['users_without_both']} users",
    ):
        assert text in table


def test_a_mistake_is_one_line_with_its_remedy(runs):
    assert (
        compared(runs, "a-1", fails=True)
        == "-c: error: a-1: two runs or more are needed; name RUN RUN ..., each a run's folder or RUN:SCORER\n"
    )
    begun, line = compared(runs, "a-1", "other", fails=True).splitlines()
    assert begun == "-c: loading JAX and the library"
    assert line.endswith(
        "other cannot be compared with a-1: its data.candidates is before_target, but released there; "
        "evaluate both on the same data set with the same options"
    )


@pytest.mark.parametrize(
    ("argument", "chosen", "message"),
    [
        ("nowhere", {}, "nowhere: no such folder"),
        ("nowhere:item bias", {}, "nowhere:item bias: no such folder"),
        ("a-1:bias", {}, "a-1: there is no scorer 'bias'; write .*a-1:SCORER with one of SINE, random, item count"),
        (
            "counting",
            {},
            "counting: there is no model, only simple scorers; write .*counting:SCORER with one of random",
        ),
        ("a-1", {"metric": "f1"}, "a-1: there is no metric 'f1' in test, exposed; choose one of auc, user_auc"),
        (
            "a-1",
            {"protocol": "full"},
            "a-1: not evaluated on test, full; "
            "run python -m launch.evaluate --workdir=.*a-1 --split=test --protocol=full",
        ),
    ],
)
def test_what_is_not_there_is_said(runs, argument, chosen, message):
    with pytest.raises(ValueError, match=message):
        report.read_run(str(runs / argument), **{"metric": "gauc", "split": "test", "protocol": "exposed", **chosen})


def test_a_run_is_its_model_and_a_scorer_is_nobodys(runs, found):
    wanted = {"metric": "auc", "split": "test", "protocol": "exposed"}
    model, bias = (report.read_run(str(runs / name), **wanted) for name in ("b:1", "b:1:item bias"))
    assert (model.scorer, model.config.model.dim, model.checkpoint) == ("SINE", 32, "best")
    assert (bias.scorer, bias.config, bias.checkpoint) == ("item bias", None, None)
    np.testing.assert_array_equal(bias.values, found.values["item bias"]["auc"])
    assert list(model.users) == [f"u{user}" for user in found.task.population.users]


def test_an_evaluation_records_what_comparisons_go_by(runs, found):
    summary = report.read(runs / "counting", split="test", protocol="exposed")[0]
    assert summary["config"] == dataclasses.asdict(found.config)
    assert summary["data"]["candidates"] == "released" and summary["config"]["train"]["seed"] == 42


def test_a_summary_with_an_older_name_of_an_option_compares_with_one_of_today(runs, tmp_path):
    written = runs / "a-1" / "evaluation"
    summary = json.loads((written / "test_exposed.json").read_text())
    for section in (summary["data"], summary["config"]["data"]):
        section["split"] = section.pop("split_by")
    (tmp_path / "test_exposed.parquet").write_bytes((written / "test_exposed.parquet").read_bytes())
    (tmp_path / "test_exposed.json").write_text(json.dumps(summary))
    wanted = {"metric": "gauc", "split": "test", "protocol": "exposed"}
    old, new = (report.read_run(str(folder), **wanted) for folder in (tmp_path, runs / "a-1"))
    assert old.config == new.config
    assert old.summary["data"] == new.summary["data"]
    comparison.refuse_unlike([old, new])
    assert report.header(old.summary) == report.header(new.summary)


def test_evaluations_without_their_configuration_or_damaged_are_refused(runs, tmp_path):
    written = runs / "a-1" / "evaluation"
    summary = json.loads((written / "test_exposed.json").read_text())
    (tmp_path / "test_exposed.parquet").write_bytes((written / "test_exposed.parquet").read_bytes())
    old = {name: value for name, value in summary.items() if name != "config"}
    for text, message in ((json.dumps(old), "which kept no configuration; run python -m"), ("{", "damaged")):
        (tmp_path / "test_exposed.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            report.read_run(str(tmp_path), metric="gauc", split="test", protocol="exposed")
