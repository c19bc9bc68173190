import json

import numpy as np
import pytest
from logs import made

from sine_jax import config as configs
from sine_jax import plots, presets, training
from sine_jax.experiments import tables
from sine_jax.experiments.suites import SEARCH, Method

SMALL = {
    "model.max_len": 6,
    "model.dim": 4,
    "model.num_blocks": 1,
    "train.batch_size": 32,
    "train.num_widths": 1,
    "train.epochs": 1,
}


def method(name, **options):
    changed = SMALL | {key.replace("__", "."): value for key, value in options.items()}
    return Method(name, configs.replace(presets.default(), changed))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return made(tmp_path_factory.mktemp("data") / "set", num_users=60, num_items=50)


@pytest.fixture(scope="module")
def table(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    methods = [method("SASRec", model__name="sasrec"), method("Caser!", model__name="caser")]
    told = []
    rows = tables.run_suite(methods, data, folder, seeds=[1, 2], trials=0, say=told.append)
    return folder, methods, rows, told


def test_every_method_has_a_value_per_seed_and_every_run_a_workdir(table):
    folder, _, rows, told = table
    assert told == ["SASRec, seed 1", "Caser!, seed 1", "SASRec, seed 2", "Caser!, seed 2"]
    named = {row.name: row.values for row in rows}
    assert {"random", "item bias", "SASRec", "Caser!"} <= set(named)
    assert len(named["item bias"]["gauc"]) == 1
    for name in ("SASRec", "Caser!"):
        for seed, value in zip((1, 2), named[name]["auc"], strict=True):
            run = folder / "runs" / tables.slug(name) / f"seed-{seed}"
            assert json.loads((run / "config.json").read_text())["train"]["seed"] == seed
            (means,) = json.loads((run / "evaluation" / "test_exposed.json").read_text())["scorers"].values()
            assert means["auc"]["mean"] == value


def test_what_was_run_is_not_run_again(table, data):
    folder, methods, rows, _ = table
    told = []
    assert tables.run_suite(methods, data, folder, seeds=[1, 2], trials=0, say=told.append) == rows
    assert told == []


def test_a_folder_of_another_configuration_is_refused(table, data):
    folder, _, _, _ = table
    with pytest.raises(ValueError, match="model.dim was 4, now 8"):
        changed = [method("SASRec", model__name="sasrec", model__dim=8)]
        tables.run_suite(changed, data, folder, seeds=[1], trials=0, say=print)


@pytest.mark.parametrize("option", ["model.dim", "data.candidates"])
def test_a_new_seed_is_not_joined_with_runs_of_another_configuration(table, data, option):
    folder, _, _, _ = table
    other = {"model.dim": 8, "data.candidates": "before_target"}[option]
    changed = Method("SASRec", configs.replace(method("", model__name="sasrec").config, {option: other}))
    with pytest.raises(ValueError, match=f"{option} was .*, now '?{other}"):
        tables.run_suite([changed], data, folder, seeds=[1], trials=0, say=print)


def test_a_folder_of_another_data_set_is_refused(table, tmp_path):
    folder, methods, _, _ = table
    other = made(tmp_path / "b", num_users=40, num_items=50)
    with pytest.raises(ValueError, match="another data set: its fingerprint was .*, now .*; choose another --out"):
        tables.run_suite(methods, other, folder, seeds=[1], trials=0, say=print)


def test_every_method_is_given_the_same_trials_and_the_first_is_the_method_as_it_is():
    assert tables.draw(0, seed=1) == {}
    assert tables.draw(3, seed=1) == tables.draw(3, seed=1) != tables.draw(4, seed=1)
    assert all(value in SEARCH[name] for name, value in tables.draw(3, seed=1).items())


def searched(folder, data, *, trials, valid, fixed=frozenset(), **changed):
    """The choice of a search whose trials were run before, with these values of validation."""
    one = method("SASRec", model__name="sasrec")._replace(fixed=fixed)
    of = {"config": json.loads(configs.to_json(one.config)), "seed": 1, "fingerprint": "f"} | changed
    kept = [{"options": {"model.dim": 4 * 2**number}, "valid": value} for number, value in enumerate(valid)]
    (folder / "search").mkdir()
    (folder / "search" / "sasrec.json").write_text(json.dumps({"of": of, "trials": kept}))
    told = []
    config = tables.search(one, data, folder, trials=trials, seed=1, fingerprint="f", say=told.append)
    return configs.differences(one.config, config), told


def test_the_search_takes_the_best_trial_by_validation_and_goes_on_where_it_was(data, tmp_path):
    assert searched(tmp_path, data, trials=3, valid=[0.5, 0.9, None]) == ({"model.dim": (4, 8)}, [])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 2}, "sasrec.json: holds another search: seed was 2, now 1; choose another --out"),
        ({"fingerprint": "g"}, "another search: fingerprint was g, now f; choose"),
        ({"config": {}}, "another search: .*config.model.dim was not kept, now 4, .*; choose"),
    ],
)
def test_a_search_of_something_else_is_refused(data, tmp_path, changed, told):
    with pytest.raises(ValueError, match=told):
        searched(tmp_path, data, trials=1, valid=[0.5], **changed)


def test_a_trial_that_diverges_is_counted_and_never_chosen(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "SEARCH", {"optimizer.learning_rate": (1e38,), "model.dim": (8,)})
    changed, told = searched(tmp_path, data, trials=2, valid=[0.1], fixed=frozenset({"model.dim"}))
    assert changed == {} and len(told) == 1
    kept = json.loads((tmp_path / "search" / "sasrec.json").read_text())["trials"]
    assert kept[1] == {"options": {"optimizer.learning_rate": 1e38}, "valid": None}


def test_the_method_as_it_is_must_not_diverge(data, tmp_path):
    one = method("SASRec", model__name="sasrec", optimizer__learning_rate=1e38)
    with pytest.raises(training.Diverged):
        tables.search(one, data, tmp_path, trials=2, seed=1, fingerprint="f", say=print)


def test_what_goes_wrong_otherwise_ends_the_search_even_if_it_says_diverged(data, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("roads diverged")

    monkeypatch.setattr(tables.run, "train", fail)
    with pytest.raises(ValueError, match="roads diverged"):
        searched(tmp_path, data, trials=2, valid=[0.1])
    kept = json.loads((tmp_path / "search" / "sasrec.json").read_text())["trials"]
    assert len(kept) == 1


def test_the_table_shows_the_mean_and_the_range_over_seeds():
    values = {metric: [0.5, 0.7] for metric in tables.METRICS}
    text = tables.markdown([tables.Row("a", values)])
    assert "| a | 2 | 0.6000 (0.5000-0.7000) |" in text
    assert tables.csv([tables.Row("a", values)]).splitlines()[1] == '"a",auc,0,0.500000'


def test_a_plot_is_a_picture(tmp_path):
    plots.table({"a": [0.5, 0.6], "b": [0.4]}, tmp_path / "plot.png", measure="GAUC")
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert np.frombuffer(plots.png(plots.canvas()[0]), np.uint8).size > 1000
