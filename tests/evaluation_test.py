"""Every user is ranked exactly once, the same on any number of rows, and as a plain loop would."""

import json

import numpy as np
import polars as pl
import pytest
from counting_test import make_log

from sine_jax import config, counting, evaluation, report, scorers
from sine_jax.types import SKIPPED, WATCHED

NUM_ITEMS = 40


@pytest.fixture(scope="module")
def log():
    """Users of any length, some too short, one with more candidates than most."""
    rng = np.random.default_rng(0)
    users = [
        [(int(i), int(y)) for i, y in zip(rng.integers(1, NUM_ITEMS + 1, n), rng.random(n) < 0.4, strict=True)]
        for n in rng.integers(0, 40, 60)
    ]
    users.append([(1, WATCHED)] * 3 + [(int(i), SKIPPED) for i in rng.integers(2, 40, 70)])
    return make_log(*users)


@pytest.fixture(scope="module")
def biases(log):
    """Item values with ties."""
    values = np.random.default_rng(1).integers(0, 5, NUM_ITEMS + 1).astype(np.float32)
    return counting.Biases(np.zeros(log.num_users, np.float32), values)


def ranks(log, task, biases, others_of) -> dict[int, float]:
    """Rank of each user's target by a loop."""
    result = {}
    for user in np.flatnonzero(task.split.target >= 0):
        target = task.split.target[user]
        others = biases.items[others_of(user, target)]
        score = biases.items[log.items[target]]
        if len(others):
            result[int(user)] = 1 + np.sum(others > score) + np.sum(others == score) / 2
    return result


def exposed_others(log, task):
    def others(user, target):
        span = slice(task.split.candidates_begin[user], task.split.candidates_end[user])
        return log.items[span][log.feedback[span] == SKIPPED]

    return others


def full_others(log, task):
    def others(user, target):
        seen = log.items[log.offsets[user] : log.offsets[user + 1]]
        return np.setdiff1d(np.arange(1, NUM_ITEMS + 1), np.append(seen, log.items[target]))

    return others


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize(
    ("protocol", "others"),
    [(evaluation.EXPOSED, exposed_others), (evaluation.FULL, full_others)],
    ids=["exposed", "full"],
)
def test_ranks_are_those_of_a_plain_loop(log, biases, protocol, others, split, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK", 16)  # three chunks, the last one short
    task = evaluation.prepare(log, config.Config(), num_items=NUM_ITEMS, split=split, protocol=protocol)
    values = evaluation.measure(scorers.of_biases(), task)(biases)
    expected = ranks(log, task, biases, others(log, task))
    assert len(expected) > 30
    measured = dict(zip(task.population.users.tolist(), values["mrr"], strict=True))
    for user, value in measured.items():
        np.testing.assert_allclose(value, 1 / expected[user] if user in expected else np.nan)


def test_every_user_is_in_exactly_one_batch(log):
    task = evaluation.prepare(log, config.Config(), num_items=NUM_ITEMS, split="test", protocol=evaluation.EXPOSED)
    users = np.concatenate([batch.users for batch in task.batches])
    np.testing.assert_array_equal(np.sort(users[users >= 0]), np.flatnonzero(task.split.target >= 0))
    assert task.population.left_out["no target"] == np.count_nonzero(task.split.target < 0) > 0
    assert all(len(batch.users) % 4 == 0 for batch in task.batches)
    assert len({batch.candidates.shape[1] for batch in task.batches}) > 1


def test_margin_empties_the_first_columns_one_fewer_in_the_test(log):
    released = config.replace(
        config.Config(), {"model.max_len": 5, "data.window_margin": 2, "model.mask_padding": False}
    )
    for split, empty in (("valid", 2), ("test", 1)):
        task = evaluation.prepare(log, released, num_items=NUM_ITEMS, split=split, protocol=evaluation.EXPOSED)
        widest = [batch.items for batch in task.batches if batch.items.shape[1] == 5]
        assert not any(items[:, :empty].any() for items in widest)
        assert any(items[:, empty].any() for items in widest)


@pytest.mark.parametrize("protocol", evaluation.PROTOCOLS.values(), ids=list(evaluation.PROTOCOLS))
def test_nan_scores_are_refused(log, biases, protocol):
    task = evaluation.prepare(log, config.Config(), num_items=NUM_ITEMS, split="test", protocol=protocol)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.measure(scorers.of_biases(), task)(biases._replace(items=biases.items * np.nan))


def test_nobody_to_rank_is_said(log):
    with pytest.raises(ValueError, match="no user takes part"):
        evaluation.prepare(
            make_log([(1, WATCHED)]), config.Config(), num_items=1, split="test", protocol=evaluation.EXPOSED
        )


def test_report_files_agree_with_the_values(log, tmp_path):
    found = evaluation.evaluate(log, config.Config(), num_items=NUM_ITEMS, split="test", protocol=evaluation.EXPOSED)
    summary = report.summarise(found, replicates=50)
    names = pl.Series([f"u{user}" for user in range(log.num_users)])
    written, per_user = report.write(found, summary, tmp_path / "evaluation", user_ids=names)
    assert (written.name, per_user.name) == ("test_exposed.json", "test_exposed.parquet")
    assert json.loads(written.read_text()) == summary
    frame = pl.read_parquet(per_user)
    assert frame["user"].to_list() == [f"u{user}" for user in found.task.population.users]
    for scorer, metrics in summary["scorers"].items():
        for metric, value in metrics.items():
            column = frame[f"{scorer}/{metric}"]
            assert column.mean() == pytest.approx(value["mean"]) and column.count() == value["users"]
            assert value["low"] <= value["mean"] <= value["high"]
    assert "random" in summary["scorers"] and "released" in report.header(summary)
    report.show(summary)
