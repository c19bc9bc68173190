import dataclasses
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from logs import made

from sine_jax import config as configs
from sine_jax import factors, files, parallel, presets, run, training, workdir
from sine_jax.checkpoints import About, Position
from sine_jax.data import datasets, ingest, preparation, sources, splits
from sine_jax.layers import fused_attention
from sine_jax.types import Histories

SMALL = {
    "model.max_len": 6,
    "model.dim": 4,
    "model.num_blocks": 1,
    "model.num_interests": 2,
    "train.batch_size": 32,
    "train.num_widths": 1,
    "train.epochs": 4,
    "train.eval_every": 2,
}


def configured(**overrides):
    return configs.replace(presets.default(), SMALL | {k.replace("__", "."): v for k, v in overrides.items()})


def prepared(folder, seed=0):
    return made(folder, seed=seed, num_users=80, num_items=60)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run.train(data, str(folder), config=configured())


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


_KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import run_test
from sine_jax import checkpoints, run
save, saves = checkpoints.save, []
def save_and_die(*args):
    save(*args)
    saves.append(args)
    if len(saves) == 3:
        if sys.argv[4] == "after":
            args[0].manager.wait_until_finished()
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save = save_and_die
run.train(sys.argv[2], sys.argv[3], config=run_test.configured())
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_run_goes_on_to_the_very_state_and_records_of_one_that_was_not(data, whole, tmp_path, moment):
    """Killed before, or right after, the third checkpoint is there whole."""
    folder, at = whole
    command = [sys.executable, "-c", _KILLED, os.path.dirname(__file__), data, str(tmp_path), moment]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, env=env, capture_output=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with (tmp_path / "metrics.jsonl").open("a") as stream:  # what a crash may leave: later steps, half a line
        stream.write('{"step": 1000}\n{"step": 3, "lo')
    assert run.train(data, str(tmp_path), config=configured()) == at
    assert records(tmp_path) == records(folder)
    one, other = (run.restore(str(f), checkpoint="latest").params for f in (folder, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_every_step_and_validation_is_recorded_once(whole):
    folder, at = whole
    steps = [line["step"] for line in records(folder) if "loss" in line]
    validations = [(line["step"], line.get("epoch")) for line in records(folder) if "valid/gauc" in line]
    assert steps == list(range(1, at.step + 1))
    assert validations == [(0, None), (at.step // 2, 1), (at.step, 3)]


def test_a_workdir_holds_what_a_run_was(whole, data):
    folder, _ = whole
    assert configs.from_json((folder / "config.json").read_text()) == configured()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["data"]["path"] == data and len(environment["runs"][0]["devices"]) == jax.device_count()
    assert list(folder.glob("events.out.tfevents.*"))


def test_a_finished_run_is_not_trained_further(data, whole):
    folder, at = whole
    before = records(folder)
    assert run.train(data, str(folder), config=configured()) == at
    assert records(folder) == before


@pytest.mark.parametrize(("which", "after"), [("resident", 2), ("streamed", 5)])
def test_a_run_that_is_stopped_within_an_epoch_goes_on_to_the_very_state(data, whole, tmp_path, which, after):
    """An epoch has three steps here; a stop is asked before each dispatch of one step."""
    folder, at = whole
    asked = iter(range(100))
    config = configured(train__pipeline=which, train__steps_per_call=1)
    stopped = run.train(data, str(tmp_path), config=config, stop=lambda: next(asked) >= after)
    assert stopped.step == after < at.step
    assert run.restore(str(tmp_path), checkpoint="latest").about.progress == stopped
    assert run.train(data, str(tmp_path), config=config) == at
    assert records(tmp_path) == records(folder)
    one, other = (run.restore(str(f), checkpoint="latest").params for f in (folder, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_more_epochs_on_a_finished_run_go_on(data, whole, tmp_path):
    folder, at = whole
    first = run.train(data, str(tmp_path), config=configured(train__epochs=2))
    assert first.epoch == 2
    assert run.train(data, str(tmp_path), config=configured(train__patience=1)) == at
    assert records(tmp_path) == records(folder)
    assert workdir.read_config(tmp_path).train.patience == 1
    cosine = {"optimizer__schedule": "cosine"}
    run.train(data, str(tmp_path / "cosine"), config=configured(train__epochs=1, **cosine))
    with pytest.raises(ValueError, match="holds another run: train.epochs was 1, now 2"):
        run.train(data, str(tmp_path / "cosine"), config=configured(train__epochs=2, **cosine))


def test_many_short_epochs_leave_files_and_memory_level(data, tmp_path):
    """Open files and resident memory are looked at after each epoch, once everything is compiled."""
    files_open, memory = [], []

    def looked() -> bool:
        files_open.append(len(os.listdir("/proc/self/fd")))
        memory.append(int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"))
        return False

    config = configured(train__epochs=60, train__eval_every=1, train__patience=0, train__steps_per_call=100)
    run.train(data, str(tmp_path), config=config, stop=looked)
    assert len(files_open) >= 60
    assert max(files_open[-20:]) <= max(files_open[10:30]) + 5
    assert max(memory[-20:]) <= max(memory[10:30]) + 100e6


def test_where_training_only_harms_the_best_checkpoint_is_what_it_began_from(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run.ranking, "means", lambda users: {"gauc": 0.9 - float(next(worse))})
    worse = iter(range(100))
    config = configured(model__item_bias_init="zeros", train__patience=2, train__eval_every=1)
    at = run.train(data, str(tmp_path), config=config)
    assert (at.best, at.best_step, at.epoch) == (0.9, 0, 2)
    monkeypatch.undo()
    restored = run.restore(str(tmp_path))
    untrained = run.set_up(datasets.load(data), config=config).initial().params
    jax.tree.map(np.testing.assert_array_equal, restored.params, untrained)


def test_a_network_beside_counted_biases_begins_by_ranking_as_they_do(data):
    """The first scores are those of the biases, but for a small part."""
    config = configured()
    params = run.set_up(datasets.load(data), config=config).initial().params
    model = run.build_model(config.model, num_items=60)
    histories = Histories(np.arange(1, 7)[None], watched=np.array([[True, False] * 3]))
    scores = model.score_items(params, model.encode(params, histories), np.arange(1, 61))[0]
    rest = np.asarray(scores - params["item_bias"][1:])
    assert np.std(rest) < 0.1 * np.std(params["item_bias"][1:])


def test_another_configuration_in_a_workdir_is_refused_with_the_difference(data, whole):
    with pytest.raises(ValueError, match="optimizer.learning_rate was 0.001, now 0.1"):
        run.train(data, str(whole[0]), config=configured(optimizer__learning_rate=0.1))


def test_another_data_set_is_refused_for_training_and_for_evaluation(whole, tmp_path):
    other = prepared(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="holds another run: data fingerprint was"):
        run.train(other, str(whole[0]), config=configured())
    text = "/other: its fingerprint is .* but the model was trained on .*; pass the data set"
    with pytest.raises(ValueError, match=text):
        run.dataset(run.restore(str(whole[0]), checkpoint="latest"), data=other)


@pytest.mark.parametrize("asked", [{"split": "tets"}, {"protocol": "exposd"}])
def test_a_split_or_protocol_that_there_is_not_is_refused(data, asked):
    (option, value), *_ = asked.items()
    with pytest.raises(ValueError, match=f"{option}={value}: no such choice; choose one of "):
        run.rank(datasets.load(data), config=configured(), **asked)


def test_the_signed_kernel_starts_from_co_exposure_and_learns_its_signs(tmp_path):
    planted = {"num_users": 600, "num_items": 60, "num_interests": 4, "skip_effect": 1.5, "skip_decay": 0.9}
    data = made(tmp_path / "data", **planted)
    options = {"model__name": "sasrec", "model__max_len": 20, "model__read_skips": True, "model__kernel_dim": 8}
    config = configured(**options, objective__sampled=0.0, optimizer__learning_rate=0.003, train__epochs=6)
    run.train(data, str(tmp_path / "run"), config=config)
    params = run.restore(str(tmp_path / "run"), checkpoint="latest").params
    log = datasets.load(data).log
    learned = log.before(splits.split(log, config=config.data).valid.train_end)
    expected = factors.co_exposure(log, learned, num_items=60, dim=8)
    np.testing.assert_array_equal(params["item_factors"], expected)
    skipped, watched = np.asarray(params["signed_kernel"]["weights"])
    assert skipped.max() < 0 < watched.min()


def test_a_metric_that_no_validation_user_has_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run.ranking, "means", lambda _: {"gauc": math.nan})
    text = "train.metric=gauc: it is not defined for any validation user; choose another"
    with pytest.raises(ValueError, match=f"^{text}$"):
        run.train(data, str(tmp_path), config=configured(train__metric="gauc"))


def of_rows(folder, rows):
    """A data set of rows of user, item, time and feedback."""
    (folder / "log.csv").write_text("u,v,t,w\n" + "".join(f"{u},{v},{t},{w}\n" for u, v, t, w in rows))
    roles = ingest.parse_roles("user=u,item=v,order=t,watched=w")
    preparation.prepare(sources.log(folder / "log.csv", roles, ingest.Units()), folder / "data", min_positives=0)
    return str(folder / "data")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([(1, t % 7, t, t % 2) for t in range(20)], "it has one user alone, .*; prepare a log of several"),
        ([(u, 1, t, t % 2) for u in range(5) for t in range(20)], "it has one item alone"),
        ([(u, t % 7, t, 0) for u in range(5) for t in range(20)], "none of 5 users has a training pair"),
        ([(u, t % 7, t, 1) for u in range(5) for t in range(20)], "none of 5 validation targets has a skip beside it"),
        ([(u, t, t, 1) for u in range(5) for t in range(2)], "none of 5 users has a training pair"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_anything_compiles(tmp_path, monkeypatch, rows, told):
    def compiled(*_, **__):
        raise AssertionError("something is compiled")

    monkeypatch.setattr(run.simple_scorers, "within_users", compiled)
    monkeypatch.setattr(training, "train_step", compiled)
    with pytest.raises(ValueError, match=told):
        run.train(of_rows(tmp_path, rows), str(tmp_path / "run"), config=configured())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_log_without_skips_is_validated_among_the_whole_catalogue(tmp_path, caplog):
    rows = [(f"user {u}", (u + t) % 9, t, 1) for u in range(30) for t in range(20 if u == 0 else 5)]
    config = configured(train__protocol="full", train__epochs=1)
    at = run.train(of_rows(tmp_path, rows), str(tmp_path / "run"), config=config)
    assert 0 < at.best < 1
    assert "users who were shown every item draw negatives from all items: user 0" in caplog.text
    with pytest.raises(ValueError, match="train.metric=auc does not fit train.protocol=full, .*; use user_auc"):
        configured(train__protocol="full", train__metric="auc")


def test_divergence_stops_with_step_and_terms(data, tmp_path):
    config = configured(optimizer__learning_rate=1e38)
    with pytest.raises(
        training.Diverged, match=r"^step=\d+: training diverged \(.*loss=.*\), .*up to epoch 0 are kept; lower .*rate"
    ):
        run.train(data, str(tmp_path), config=config)
    assert all(math.isfinite(line["loss"]) for line in records(tmp_path) if "loss" in line)


def test_a_workdir_that_cannot_be_written_is_one_clear_line(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/run: cannot be written .*; choose another --workdir"):
        run.train(data, str(tmp_path / "file" / "run"), config=configured())


def test_a_workdir_that_another_process_writes_to_or_that_has_links_is_refused(data, tmp_path):
    with workdir.opened(tmp_path / "run"):
        with pytest.raises(ValueError, match="run: another process trains here; choose another --workdir"):
            run.train(data, str(tmp_path / "run"), config=configured())
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="metrics.jsonl: a link, which is not written through; choose another"):
        run.train(data, str(tmp_path / "run"), config=configured())
    assert os.listdir(tmp_path / "run") == ["metrics.jsonl"] and not (tmp_path / "elsewhere").exists()


def test_a_folder_without_a_run_says_to_train_first(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        run.restore(str(tmp_path), checkpoint="best")


def test_until_a_state_is_surely_better_the_untrained_one_is_the_best():
    at, seen = Position(0, 0), []
    for step, (value, sure) in enumerate([(0.5, True), (0.52, False), (0.51, True), (0.53, False), (0.4, True)]):
        at = run.validated(dataclasses.replace(at, step=step), value, sure=sure)
        seen.append((at.best, at.best_step, at.highest, at.since_gain))
    assert seen == [(0.5, 0, 0.5, 0), (0.5, 0, 0.52, 0), (0.51, 2, 0.52, 1), (0.53, 3, 0.53, 0), (0.53, 3, 0.53, 1)]


def test_a_lead_is_sure_beyond_its_interval_over_users():
    rng = np.random.default_rng(0)
    base = np.append(rng.random(400), np.nan)
    noise = np.append(rng.normal(0, 0.1, 400), 0.3)
    noise -= np.mean(noise[:-1])
    error = noise[:-1].std(ddof=1) / 20
    assert run.surely_ahead(base + noise + 2.0 * error, base)
    assert not run.surely_ahead(base + noise + 1.9 * error, base)
    assert not run.surely_ahead(np.array([1.0, np.nan]), np.array([0.0, 0.0]))


def test_patience_counts_validations_since_the_last_gain():
    config, at, seen = configured(train__patience=2), Position(0, 0), []
    for value in (0.5, 0.4, 0.6, 0.6, 0.5):
        at = run.validated(at, value)
        seen.append((at.best, at.since_gain, run.stopped(at, config=config)))
    assert seen == [(0.5, 0, False), (0.5, 1, False), (0.6, 0, False), (0.6, 1, False), (0.6, 2, True)]
    assert not run.stopped(at, config=configured(train__patience=0))


@pytest.mark.parametrize("told", ["RESOURCE_EXHAUSTED: No space left on device", "[Errno 28] No space left on device"])
def test_a_full_disk_is_told_with_its_remedy(tmp_path, told):
    with pytest.raises(
        ValueError, match="the disk is full. Complete .*; free some space and run the same command again"
    ):
        with files.full_disk_told(tmp_path):
            raise OSError(told)
    with pytest.raises(OSError, match="something else"):
        with files.full_disk_told(tmp_path):
            raise OSError("something else")


def test_the_configuration_comes_from_the_checkpoint(whole, data, tmp_path):
    folder, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "config.json").unlink()
    assert run.restore(str(copy), checkpoint="best").config == configured()


STRANGER = """
import pathlib
pathlib.Path(__file__).with_suffix(".ran").touch()
from sine_jax.networks import sasrec
class Stranger(sasrec.SASRec):
    pass
"""


def test_a_run_of_a_stranger_runs_no_code_without_the_users_word(data, tmp_path, monkeypatch):
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "network.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    run.train(data, str(tmp_path / "run"), config=configured(model__name="stranger.network", train__epochs=1))
    monkeypatch.delitem(sys.modules, "stranger.network")
    (tmp_path / "stranger" / "network.ran").unlink()
    with pytest.raises(
        ValueError, match="its network is the module stranger.network, .*; pass --trust_network=stranger.network if"
    ):
        run.restore(str(tmp_path / "run"))
    assert not (tmp_path / "stranger" / "network.ran").exists()
    found = run.evaluate(str(tmp_path / "run"), simple=False, trust_network="stranger.network")
    assert (tmp_path / "stranger" / "network.ran").exists() and found.means["stranger.network"]
    assert run.restore(str(tmp_path / "run")).config.model.name == "stranger.network"  # imported by now


def test_a_workdir_without_a_checkpoint_protects_nothing(data, tmp_path):
    """An option that was mistyped at first can be mended in place."""
    identity = run.identify(datasets.load(data))
    for seed in (1, 2):
        workdir.claim(tmp_path, identity, config=configured(train__seed=seed), command=["train"])
        assert workdir.read_config(tmp_path).train.seed == seed


HALF = {"model__dtype": "bfloat16", "model__max_len": 65, "model__dim": 32, "model__num_heads": 2}


@pytest.mark.parametrize(
    ("platform", "options", "faults", "attention"),
    [
        ("cuda", HALF, {64: None, 62: None}, "auto"),
        ("cuda", HALF, {64: None, 62: "it disagrees"}, "blocks"),
        ("cuda", HALF | {"model__attention": "fused"}, {64: None, 62: None}, "fused"),
        ("cuda", HALF | {"model__attention": "blocks"}, {}, "blocks"),
        ("cuda", HALF | {"model__dtype": "float32"}, {}, "auto"),
        ("cuda", HALF | {"model__dim": 18}, {}, "auto"),
        ("cpu", HALF, {}, "auto"),
    ],
)
def test_attention_is_by_the_fused_kernel_where_that_works(monkeypatch, platform, options, faults, attention):
    asked = {}

    def fault(length, heads, width):
        assert (heads, width) == (2, 16)
        asked[length] = faults[length]
        return asked[length]

    monkeypatch.setattr(parallel, "platform", lambda: platform)
    monkeypatch.setattr(fused_attention, "fault", fault)
    config = configured(**options)
    assert run.settle_attention(config) == configs.replace(config, {"model.attention": attention})
    assert asked == faults


def test_a_kernel_that_is_asked_for_and_does_not_work_is_refused(data):
    config = configured(**HALF, model__attention="fused")
    with pytest.raises(
        ValueError, match="model.attention=fused: the kernel does not work here .*; use auto, or blocks"
    ):
        run.set_up(datasets.load(data), config=config)
    trained = run.Restored({}, config, About(Position(0, 0), {}, {"num_items": 60}, {}))
    assert trained.model.config.attention == "blocks", "what was trained with it can be used anywhere"
