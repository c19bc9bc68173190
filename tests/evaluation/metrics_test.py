"""Metrics equal scikit-learn's and fractions written by hand, with ties, constants, one class and NaN."""

from __future__ import annotations

import functools
import json
import math
import pathlib

import numpy as np
import pytest
import sklearn.metrics

from sine_jax.evaluation import metrics

NAN = float("nan")


def rank(scores: list, labels: list, where: list | None = None) -> metrics.Ranking:
    return metrics.ranking(
        np.array(scores, np.float32),
        np.array(labels, bool),
        where=np.ones(np.shape(scores), bool) if where is None else np.array(where, bool),
    )


@pytest.fixture
def random_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, any number of positives, ragged users, some without positives or negatives."""
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 4, (200, 12)).astype(np.float32)
    where = np.arange(12) < rng.integers(0, 13, 200)[:, None]
    return scores, rng.random((200, 12)) < 0.3, where


def users_of(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The candidates of each user alone."""
    return [(s[w], y[w]) for s, y, w in zip(*case, strict=True)]


def test_auc_is_that_of_scikit_learn(random_case):
    scores, labels, where = random_case
    expected = [
        sklearn.metrics.roc_auc_score(y, s) if y.any() and not y.all() else NAN for s, y in users_of(random_case)
    ]
    assert 20 < np.isnan(expected).sum() < 100
    np.testing.assert_allclose(metrics.auc(metrics.ranking(scores, labels, where=where)), expected, atol=1e-12)


def test_auc_counts_every_pair_once_and_ties_half(random_case):
    scores, labels, where = random_case
    for value, (s, y) in zip(
        metrics.auc(metrics.ranking(scores, labels, where=where)), users_of(random_case), strict=True
    ):
        pairs = [(p > n) + (p == n) / 2 for p in s[y] for n in s[~y]]
        np.testing.assert_allclose(value, np.mean(pairs) if pairs else NAN)


def test_ndcg_without_ties_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    scores = rng.permuted(np.tile(np.arange(12.0), (100, 1)), axis=1)
    labels = rng.random((100, 12)) < 0.3
    labels[:, 0], labels[:, 1] = True, False
    ranking = metrics.ranking(scores, labels, where=np.ones(labels.shape, bool))
    for cutoff in (1, 2, 5, None):
        expected = [sklearn.metrics.ndcg_score([y], [s], k=cutoff) for s, y in zip(scores, labels, strict=True)]
        np.testing.assert_allclose(metrics.ndcg(ranking, cutoff=cutoff or np.inf), expected)


def test_log_loss_is_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(0, 3, (50, 8)), rng.random((50, 8)) < 0.4
    labels[:, 0], labels[:, 1] = True, False
    expected = [sklearn.metrics.log_loss(y, 1 / (1 + np.exp(-s))) for s, y in zip(scores, labels, strict=True)]
    np.testing.assert_allclose(metrics.log_loss(scores, labels, where=np.ones(labels.shape, bool)), expected)


def test_one_target_by_hand():
    # Second of four; tied with one of three; last of two; all constant; alone; no target; nobody.
    scores = [[2, 3, 1, 0], [5, 5, 1, 2], [0, 1, 9, 9], [7, 7, 7, 7], [1, 9, 9, 9], [1, 2, 3, 4], [0, 0, 0, 0]]
    labels = [[1, 0, 0, 0]] * 5 + [[0, 0, 0, 0]] * 2
    where = [[1, 1, 1, 1]] * 2 + [[1, 1, 0, 0]] + [[1, 1, 1, 1]] + [[1, 0, 0, 0]] + [[1, 1, 1, 1]] + [[0, 0, 0, 0]]
    ranking = rank(scores, labels, where)
    assert ranking.ranks[:4, 0].tolist() == [2, 1.5, 2, 2.5]
    undefined = [NAN, NAN, NAN]
    gain = [1 / math.log2(3), 1 / math.log2(2.5), 1 / math.log2(3), 1 / math.log2(3.5)]
    for value, expected in (
        (metrics.auc(ranking), [2 / 3, 5 / 6, 0, 1 / 2]),
        (metrics.gauc(ranking), [2 / 3, 5 / 6, NAN, 1 / 2]),
        (metrics.ndcg(ranking), gain),
        (metrics.ndcg(ranking, cutoff=2), [*gain[:3], 0]),
        (metrics.ndcg(ranking, cutoff=1), [0, 0, 0, 0]),
        (metrics.reciprocal_rank(ranking), [1 / 2, 2 / 3, 1 / 2, 2 / 5]),
        (metrics.hit_rate(ranking, cutoff=2), [1, 1, 1, 0]),
    ):
        np.testing.assert_allclose(value, [*expected, *undefined])


def test_several_positives_by_hand():
    # In order: positive, negative, positive, negative; and the same positives on top, tied with each other.
    ranking = rank([[4, 3, 2, 1], [4, 1, 4, 1]], [[1, 0, 1, 0]] * 2)
    ideal = 1 + 1 / math.log2(3)
    np.testing.assert_allclose(metrics.auc(ranking), [3 / 4, 1])
    np.testing.assert_allclose(metrics.ndcg(ranking), [(1 + 1 / math.log2(4)) / ideal, 1])
    np.testing.assert_allclose(metrics.ndcg(ranking, cutoff=2), [1 / ideal, 1])
    np.testing.assert_allclose(metrics.reciprocal_rank(ranking), [1, 1])


def test_chance_within_is_the_share_of_the_orders_of_a_tie():
    # Alone above; two above of two places; one above, tied with one; all of three tied; four tied with two above.
    greater, equal = np.array([0, 2, 1, 0, 2]), np.array([0, 0, 1, 2, 3])
    np.testing.assert_allclose(metrics.chance_within(greater, equal, cutoff=2), [1, 0, 1 / 2, 2 / 3, 0])
    np.testing.assert_allclose(metrics.chance_within(greater, equal, cutoff=3), [1, 1, 1, 1, 1 / 4])


def test_positives_one_at_a_time_by_hand():
    where = np.array([[True, True, False], [True, False, False], [False, False, False], [True, True, True]])
    above = np.array([[0.0, 2, 9], [1.5, 0, 0], [0, 0, 0], [0, 0, 0]])
    ranking = metrics.Ranking(above, where, np.array([5, 5, 5, 0]))
    hits = metrics.each_alone(functools.partial(metrics.hit_rate, cutoff=2), ranking)
    np.testing.assert_allclose(hits, [1 / 2, 0, NAN, NAN])
    gains = metrics.each_alone(metrics.ndcg, ranking)
    np.testing.assert_allclose(gains, [(1 + 1 / 2) / 2, 1 / math.log2(3.5), NAN, NAN])


def test_order_of_candidates_and_monotone_maps_change_nothing(random_case):
    scores, labels, where = random_case
    order = np.random.default_rng(3).permutation(scores.shape[1])
    expected = metrics.ranking(scores, labels, where=where)
    for other in (
        metrics.ranking(scores[:, order], labels[:, order], where=where[:, order]),
        metrics.ranking(np.exp(3 * scores), labels, where=where),
        metrics.ranking(np.where(where, scores, np.inf), labels, where=where),
    ):
        np.testing.assert_array_equal(other.where, expected.where)
        np.testing.assert_array_equal(other.above[other.where], expected.above[expected.where])
        np.testing.assert_array_equal(other.negatives, expected.negatives)


def test_scores_that_saturate_a_sigmoid_still_rank():
    np.testing.assert_array_equal(metrics.auc(rank([[1001, 1000, 999]], [[1, 0, 0]])), [1])
    loss = metrics.log_loss(
        np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([[1, 0], [1, 0]], bool), where=np.ones((2, 2), bool)
    )
    np.testing.assert_array_equal(loss, [0, 1e4])


def test_pooled_auc_is_that_of_scikit_learn(random_case):
    scores, labels, where = random_case
    users = np.nonzero(where)[0]
    values = metrics.pooled_auc(scores[where], labels[where], users, num_users=len(scores))
    np.testing.assert_allclose(values.mean(), sklearn.metrics.roc_auc_score(labels[where], scores[where]))


def test_pooled_auc_values_are_what_leaving_a_user_out_changes(random_case):
    scores, labels, where = random_case
    users = np.nonzero(where)[0]
    s, y = scores[where], labels[where]
    values = metrics.pooled_auc(s, y, users, num_users=len(scores))
    without = np.array([sklearn.metrics.roc_auc_score(y[users != u], s[users != u]) for u in range(len(scores))])
    jackknife = len(scores) * values.mean() - (len(scores) - 1) * without
    np.testing.assert_allclose(values - values.mean(), jackknife - values.mean(), atol=0.2)
    np.testing.assert_allclose(np.std(values), np.std(jackknife), rtol=0.02)


def test_one_class_has_no_pooled_auc():
    assert np.isnan(metrics.pooled_auc(np.arange(3.0), np.ones(3, bool), np.arange(3), num_users=3)).all()
    assert np.isnan(metrics.pooled_auc(np.arange(3.0), np.zeros(3, bool), np.arange(3), num_users=3)).all()


def test_nan_scores_are_refused_unless_masked():
    scores, labels = np.array([[NAN, 1.0]]), np.array([[True, False]])
    everything = np.ones((1, 2), bool)
    for metric in (metrics.ranking, metrics.log_loss):
        with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
            metric(scores, labels, where=everything)
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        metrics.pooled_auc(scores[0], labels[0], np.zeros(2, int), num_users=1)
    assert np.isnan(metrics.auc(metrics.ranking(scores, labels, where=np.array([[False, True]]))))


def test_sums_are_over_what_is_defined():
    found = metrics.sums(np.array([1, NAN, 3, 5.5, NAN]))
    assert found == metrics.Sums(9.5, 3) and found.mean == 9.5 / 3
    assert math.isnan(metrics.sums(np.array([NAN])).mean)


def test_values_are_those_of_the_released_code(golden_dir: pathlib.Path):
    with np.load(golden_dir / "metrics.npz") as golden:
        scores, labels, counts = golden["scores"], golden["labels"] > 0, golden["counts"]
        expected = json.loads(str(golden["result"]))
    del expected["F1"]  # no code of the library uses it
    where = np.arange(scores.shape[1]) < counts[:, None]
    ranking = metrics.ranking(scores, labels, where=where)
    users = np.nonzero(where)[0]
    ours = {
        "AUC": metrics.pooled_auc(scores[where], labels[where], users, num_users=len(scores)).mean(),
        "GAUC": metrics.sums(metrics.gauc(ranking)).mean,
        "NDCG_2": metrics.sums(metrics.ndcg(ranking)).mean,
        "LogLoss": np.average(metrics.log_loss(scores, labels, where=where), weights=counts),
    }
    # The released code ranks float32 sigmoids and averages in float32, some units in the last place of which (6e-8)
    # depend on the data and the order of adding up.
    assert ours == pytest.approx(expected, abs=1e-6)
