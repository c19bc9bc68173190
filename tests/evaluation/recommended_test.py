"""The lists of protocol `full` and what follows from them, on cases computed by hand or by a plain loop."""

import numpy as np
import pytest
from logs import make_log, random_log

from sine_jax import config
from sine_jax.data import splits
from sine_jax.evaluation import catalogue, protocols, ranking, recommended, report, scorers, simple_scorers
from sine_jax.types import SKIPPED, WATCHED

VECTORS = np.array([[0, 0], [1, 0], [0, 1], [0.6, 0.8], [0, 0]], np.float32)
FACTS = recommended.Facts(np.array([0, 7, 3, 0, 1]), 7, VECTORS, np.array([0.5, np.nan, 0.0]))


def test_values_of_users_are_those_by_hand():
    lists = np.array([[1, 3, 2], [2, 0, 0], [4, 3, 0]])
    found = recommended.of_users(FACTS, lists, np.arange(3), cutoff=2)
    np.testing.assert_allclose(found["novelty@2"], [(0 + 3) / 2, 1.0, (2 + 3) / 2])  # counts 7, 0; 3; 1, 0 of 7 users
    np.testing.assert_allclose(found["diversity@2"], [1 - 0.6, np.nan, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found["popularity@2"], [0.5, 3 / 7, 1 / 14])
    np.testing.assert_allclose(found["popularity_lift@2"], [0.0, np.nan, np.nan])
    three = recommended.of_users(FACTS, lists, np.arange(3), cutoff=3)
    np.testing.assert_allclose(three["diversity@3"][0], 1 - (0.6 + 0.0 + 0.8) / 3, rtol=1e-6)


def test_values_of_all_are_those_by_hand():
    lists = np.array([[1, 3], [1, 0], [1, 2]])
    found = recommended.of_all(FACTS, lists, cutoff=2)
    assert found["coverage@2"] == 3 / 4
    counts = np.array([3, 1, 1, 0])
    expected = np.abs(counts[:, None] - counts).sum() / (2 * 4**2 * counts.mean())
    assert found["gini@2"] == pytest.approx(expected)
    assert recommended.of_all(FACTS, np.array([[1], [2], [3], [4]]), cutoff=1)["gini@1"] == pytest.approx(0)
    assert recommended.of_all(FACTS, np.zeros((2, 3), int), cutoff=3) == {"coverage@3": 0.0, "gini@3": 0.0}


def test_facts_count_users_of_the_training_part():
    log = make_log(
        [(1, WATCHED), (1, SKIPPED), (2, WATCHED), (3, WATCHED), (4, WATCHED)], [(2, SKIPPED)], [(3, WATCHED)]
    )
    split = splits.last_positive(log, after_target=True).test
    found = recommended.facts(log, split, num_items=5)
    assert found.popularity.tolist() == [0, 1, 1, 0, 0, 0]  # training ends with the first user's third last positive
    np.testing.assert_allclose(found.own, [3 * (1 / 3) / 4, np.nan, np.nan])  # 1, 1, 2, 3 before the target 4


@pytest.mark.parametrize("chunk", [7, 64])
def test_lists_are_the_first_of_all_scores(chunk, monkeypatch):
    monkeypatch.setattr(catalogue, "CHUNK", chunk)
    log = random_log()
    biases = simple_scorers.Biases(
        np.zeros(log.num_users, np.float32), np.random.default_rng(0).integers(0, 6, 51).astype(np.float32)
    )
    protocol = protocols.FULL._replace(
        cutoffs=(3, 40), rank=lambda scorer, num_items: catalogue.rank(scorer, num_items, length=40)
    )
    task = ranking.lay_out(log, config=config.Config(), num_items=50, part="test", protocol=protocol)
    outputs = ranking._outputs(ranking._compiled(scorers.of_biases(), task), task, biases)
    first = protocols.lists(task, outputs)
    assert first.shape == (len(task.population.places), 40)
    for row, user in enumerate(task.population.users):
        target = log.items[task.split.target[user]]
        shown = log.items[log.offsets[user] : log.offsets[user + 1]]
        left = np.setdiff1d(np.arange(1, 51), shown[shown != target])
        order = left[np.lexsort((left, -biases.items[left]))][:40]
        np.testing.assert_array_equal(first[row], np.pad(order, (0, 40 - len(order))))


def test_they_are_in_the_report_and_compare_says_which_have_no_users(tmp_path):
    log = random_log()
    found = ranking.evaluate(log, config=config.Config(), num_items=50, part="test", protocol=protocols.FULL)
    summary = report.summarise(found._replace(user_ids=None))
    values = summary["scorers"]["item count"]
    assert 0 < values["coverage@10"]["mean"] <= 1 and values["coverage@10"]["low"] is None
    assert values["novelty@10"]["low"] <= values["novelty@10"]["mean"] <= values["novelty@10"]["high"]
    assert summary["scorers"]["random"]["coverage@10"]["mean"] >= values["coverage@10"]["mean"]
    import polars as pl

    report.write(found._replace(user_ids=pl.Series(map(str, range(log.num_users)))), summary, tmp_path)
    with pytest.raises(ValueError, match="no user has a coverage@10 alone"):
        report.read_run(f"{tmp_path}:item count", metric="coverage@10", split="test", protocol="full")
