"""Every user is ranked exactly once, the same on any number of rows, and as a plain loop would."""

import json

import numpy as np
import polars as pl
import pytest
from logs import make_log

from sine_jax import config
from sine_jax.evaluation import catalogue, protocols, ranking, report, scorers, simple_scorers
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
    return simple_scorers.Biases(np.zeros(log.num_users, np.float32), values)


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


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize(
    ("protocol", "others"),
    [(protocols.EXPOSED, exposed_others), (protocols.FULL, full_others)],
    ids=["exposed", "full"],
)
def test_ranks_are_those_of_a_plain_loop(log, biases, protocol, others, part, monkeypatch):
    monkeypatch.setattr(catalogue, "CHUNK", 16)  # three chunks, the last one short
    task = ranking.lay_out(log, config=config.Config(), num_items=NUM_ITEMS, part=part, protocol=protocol)
    values = ranking.compile_ranking(scorers.of_biases(), task)(biases)
    expected = ranks(log, task, biases, others(log, task))
    assert len(expected) > 30
    measured = dict(zip(task.population.users.tolist(), values["mrr"], strict=True))
    for user, value in measured.items():
        np.testing.assert_allclose(value, 1 / expected[user] if user in expected else np.nan)


def shown_skips(log, task, user):
    """Items of the skips around a user's target."""
    span = slice(task.split.candidates_begin[user], task.split.candidates_end[user])
    return log.items[span][log.feedback[span] == SKIPPED]


def share_within(greater, equal, cutoff) -> float:
    """How many of the `equal + 1` orders of a tie put one of its members within the cut-off, over all of them."""
    return sum(greater + place <= cutoff for place in range(1, equal + 2)) / (equal + 1)


def test_watched_less_skipped_in_the_catalogue_is_that_of_a_plain_loop(log, biases, monkeypatch):
    monkeypatch.setattr(catalogue, "CHUNK", 16)
    protocol = protocols.FULL._replace(cutoffs=(3, 10))
    task = ranking.lay_out(log, config=config.Config(), num_items=NUM_ITEMS, part="test", protocol=protocol)
    values = ranking.compile_ranking(scorers.of_biases(), task)(biases)
    several = 0
    for row, user in enumerate(task.population.users):
        target = task.split.target[user]
        unseen = biases.items[full_others(log, task)(user, target)]
        skips = biases.items[shown_skips(log, task, user)]
        several += len(skips) > 1

        def rank(score, unseen=unseen):
            return 1 + np.sum(unseen > score) + np.sum(unseen == score) / 2

        ranks = np.array([rank(score) for score in skips])
        together = np.concatenate([unseen, skips, biases.items[log.items[[target]]]])
        for k in protocol.cutoffs:
            hits, gains = ranks <= k, (ranks <= k) / np.log2(1 + ranks)
            place = rank(together[-1])
            within = [share_within(np.sum(together > s), np.sum(together == s) - 1, k) for s in skips]
            expected = {
                f"hr_skipped@{k}": np.mean(hits) if len(skips) else np.nan,
                f"ndcg_skipped@{k}": np.mean(gains) if len(skips) else np.nan,
                f"hr_gap@{k}": (place <= k) - np.mean(hits) if len(skips) else np.nan,
                f"ndcg_gap@{k}": (place <= k) / np.log2(1 + place) - np.mean(gains) if len(skips) else np.nan,
                f"skips@{k}": np.sum(within) if len(skips) else np.nan,
            }
            for name, value in expected.items():
                np.testing.assert_allclose(values[name][row], value, atol=1e-12, err_msg=f"{name} of user {user}")
    assert several > 20


def test_skips_in_the_first_places_among_what_was_shown_are_those_of_a_plain_loop(log, biases):
    task = ranking.lay_out(log, config=config.Config(), num_items=NUM_ITEMS, part="test", protocol=protocols.EXPOSED)
    values = ranking.compile_ranking(scorers.of_biases(), task)(biases)
    for row, user in enumerate(task.population.users):
        skips = biases.items[shown_skips(log, task, user)]
        shown = np.append(skips, biases.items[log.items[task.split.target[user]]])
        for k in (2, 5):
            within = [share_within(np.sum(shown > s), np.sum(shown == s) - 1, k) for s in skips]
            np.testing.assert_allclose(values[f"skips@{k}"][row], np.sum(within) if len(skips) else np.nan, atol=1e-12)


def test_a_scorer_that_ties_everything_gains_nothing_by_it(log, biases):
    """Its first places are random ones: it must not look as if it kept skips away from them."""
    task = ranking.lay_out(log, config=config.Config(), num_items=NUM_ITEMS, part="test", protocol=protocols.EXPOSED)
    values = ranking.compile_ranking(scorers.of_biases(), task)(biases._replace(items=0 * biases.items))
    number = np.diff(task.population.offsets)
    expected = np.minimum(2, number + 1) * number / (number + 1)
    np.testing.assert_allclose(values["skips@2"], np.where(number > 0, expected, np.nan))


def test_skips_around_the_target_come_first_among_what_was_seen(log):
    task = ranking.lay_out(log, config=config.Config(), num_items=NUM_ITEMS, part="test", protocol=protocols.FULL)
    seen = task.population
    for row, user in enumerate(seen.users):
        others = seen.others[seen.offsets[row] : seen.offsets[row + 1]]
        np.testing.assert_array_equal(others[: seen.skips[row]], shown_skips(log, task, user))
        every = np.delete(
            log.items[log.offsets[user] : log.offsets[user + 1]], task.split.target[user] - log.offsets[user]
        )
        np.testing.assert_array_equal(np.sort(others), np.sort(every))


def test_every_user_is_in_exactly_one_batch(log):
    task = ranking.lay_out(log, config=config.Config(), num_items=NUM_ITEMS, part="test", protocol=protocols.EXPOSED)
    users = np.concatenate([batch.places for batch in task.batches])
    np.testing.assert_array_equal(np.sort(users[users >= 0]), np.flatnonzero(task.split.target >= 0))
    assert task.population.left_out["no target"] == np.count_nonzero(task.split.target < 0) > 0
    assert all(len(batch.places) % 4 == 0 for batch in task.batches)
    assert len({batch.candidates.shape[1] for batch in task.batches}) > 1


def test_margin_empties_the_first_columns_one_fewer_in_the_test(log):
    released = config.replace(
        config.Config(), {"model.max_len": 5, "data.window_margin": 2, "model.mask_padding": False}
    )
    for part, empty in (("valid", 2), ("test", 1)):
        task = ranking.lay_out(log, config=released, num_items=NUM_ITEMS, part=part, protocol=protocols.EXPOSED)
        widest = [batch.items for batch in task.batches if batch.items.shape[1] == 5]
        assert not any(items[:, :empty].any() for items in widest)
        assert any(items[:, empty].any() for items in widest)


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS.values(), ids=list(protocols.PROTOCOLS))
def test_nan_scores_are_refused(log, biases, protocol):
    task = ranking.lay_out(log, config=config.Config(), num_items=NUM_ITEMS, part="test", protocol=protocol)
    with pytest.raises(
        ValueError, match=r"^(\d+) of \1 scores are NaN: the parameters are not finite; evaluate an earlier checkpoint$"
    ):
        ranking.compile_ranking(scorers.of_biases(), task)(biases._replace(items=biases.items * np.nan))


def test_nobody_to_rank_is_said(log):
    with pytest.raises(
        ValueError,
        match="^part=test: no user takes part .1 with no target, 0 with nothing watched before the target.; split",
    ):
        ranking.lay_out(
            make_log([(1, WATCHED)]), config=config.Config(), num_items=1, part="test", protocol=protocols.EXPOSED
        )


def test_report_files_agree_with_the_values(log, tmp_path):
    found = ranking.evaluate(log, config=config.Config(), num_items=NUM_ITEMS, part="test", protocol=protocols.EXPOSED)
    summary = report.summarise(found, replicates=50)
    names = pl.Series([f"u{user}" for user in range(log.num_users)])
    written, per_user = report.write(found._replace(user_ids=names), summary, tmp_path / "evaluation")
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
