"""Protocol `by_prefix`: held-out exposures ranked from all that came before them, and its null."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from logs import make_log, planted

from sine_jax import build_model, config, presets
from sine_jax.batches import windows
from sine_jax.data import datasets, ingest, preparation, sources, splits, synthetic
from sine_jax.evaluation import candidates, memory, memoryless, protocols, ranking, report, simple_scorers
from sine_jax.types import DISLIKED, SKIPPED, WATCHED

BY_SHARE = config.replace(presets.default(), {"data.split_by": "by_share", "data.train_share": 0.5})


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(0, 40, 60), 200]
    return make_log(*([(int(rng.integers(1, 41)), int(rng.integers(0, 3))) for _ in range(n)] for n in lengths))


@pytest.fixture(scope="module")
def task(log):
    return ranking.lay_out(log, config=BY_SHARE, num_items=40, part="test", protocol=protocols.BY_PREFIX)


def test_every_held_out_exposure_is_ranked_from_what_came_before_it(log, task):
    reading = windows.of_config(log, task.split, config=BY_SHARE)
    seen = 0
    for batch in task.batches:
        for row, place in enumerate(batch.places):
            if place < 0:
                continue
            user, end = task.population.owners[place], task.population.ends[place]
            at = np.arange(log.offsets[user], end)
            read = log.items[at[log.feedback[at] != DISLIKED]][-BY_SHARE.model.max_len :]
            width = batch.items.shape[1]
            np.testing.assert_array_equal(batch.items[row][batch.items[row] > 0], read[-width:])
            assert batch.candidates[row, 0] == log.items[end]
            assert batch.labels[row].tolist() == [log.feedback[end] == WATCHED] + [False] * (len(batch.labels[row]) - 1)
            seen += 1
    assert seen == len(task.population.places) > 100
    assert reading.offsets[-1] == np.count_nonzero(log.feedback != DISLIKED)


def test_who_takes_part(log, task):
    kept = np.isin(log.feedback, (WATCHED, SKIPPED))
    for user in range(log.num_users):
        span = np.arange(task.split.begin[user], task.split.end[user])
        mine = task.population.ends[task.population.owners == user]
        if len(span) <= candidates.STRETCH:
            outcomes = set(log.feedback[span[kept[span]]])
            assert mine.tolist() == (span[kept[span]].tolist() if len(outcomes) == 2 else [])
        else:
            assert 0 < len(mine) <= candidates.STRETCH and np.ptp(mine) < candidates.STRETCH
    assert sum(task.population.left_out.values()) + len(task.population.users) == log.num_users


def test_metrics_are_those_of_a_plain_loop(log, task):
    biases = simple_scorers.Biases(
        np.random.default_rng(1).normal(size=len(task.population.owners)).astype(np.float32),
        np.random.default_rng(2).integers(0, 4, 41).astype(np.float32),
    )
    values = ranking.compile_ranking(ranking.scorers.of_biases(), task)(biases)
    assert len(values["gauc"]) == len(task.population.users)
    for row, user in enumerate(task.population.users):
        mine = task.population.owners == user
        scores = biases.users[mine] + biases.items[log.items[task.population.ends[mine]]]
        watched = log.feedback[task.population.ends[mine]] == WATCHED
        pairs = np.sign(scores[watched][:, None] - scores[~watched])
        np.testing.assert_allclose(values["user_auc"][row], 0.5 + pairs.mean() / 2, rtol=1e-6)
        assert np.isnan(values["gauc"][row]) == (np.count_nonzero(~watched) < 2)


def test_shares_cut_every_user_by_position(log):
    valid, test = splits.split(log, config=BY_SHARE.data)
    lengths = log.lengths
    np.testing.assert_array_equal(valid.train_end - log.offsets[:-1], lengths // 2)
    np.testing.assert_array_equal(test.begin, log.offsets[:-1] + np.floor(0.6 * lengths + 1e-9).astype(int))
    np.testing.assert_array_equal(test.end, log.offsets[1:])
    np.testing.assert_array_equal(valid.end, test.begin)
    redrawn = log._replace(feedback=np.where(log.feedback == WATCHED, SKIPPED, WATCHED))
    np.testing.assert_array_equal(splits.split(redrawn, config=BY_SHARE.data).test.begin, test.begin)


def test_shares_that_are_no_binary_fractions_lose_nobody():
    log = make_log([(1, WATCHED)] * 30, [(1, WATCHED)] * 10)
    chosen = config.replace(BY_SHARE, {"data.train_share": 0.7, "data.valid_share": 0.2})
    found = splits.split(log, config=chosen.data)
    assert (found.test.begin - log.offsets[:-1]).tolist() == [27, 9]
    assert config.replace(presets.default(), {"data.train_share": 0.95}).data.split_by == "last_positive"


def test_shares_that_leave_no_test_are_refused():
    with pytest.raises(ValueError, match=r"^data.valid_share=0.5 with data.train_share=0.5: nothing is left"):
        config.replace(BY_SHARE, {"data.valid_share": 0.5})


def test_redrawn_feedback_follows_the_biases_and_dislikes_stay(log):
    biases = simple_scorers.Biases(np.full(log.num_users, -1.0), np.linspace(-2, 2, 41))
    drawn = np.mean([memoryless.redrawn(log, biases, seed=s).feedback == WATCHED for s in range(300)], axis=0)
    expected = 1 / (1 + np.exp(1 - biases.items[log.items]))
    disliked = log.feedback == DISLIKED
    assert not drawn[disliked].any()
    np.testing.assert_allclose(drawn[~disliked], expected[~disliked], atol=0.13)
    one, same = (memoryless.redrawn(log, biases, seed=3).feedback for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_a_planted_memory_is_a_gain_and_none_is_left_when_redrawn():
    log = planted(num_users=1200, num_items=100, skip_effect=1.0, skip_decay=0.9, num_interests=4)
    found = ranking.evaluate(log, config=BY_SHARE, num_items=100, part="test", protocol=protocols.BY_PREFIX, nulls=2)
    gain = report.summarise(found)["gains"]["scorers"]["signed kernel"]
    assert gain["low"] > 0.02
    assert len(gain["redrawn"]) == 2 and max(gain["redrawn"]) < 0.01
    assert found.nulls[0]["item count"]["gauc"].shape != found.nulls[1]["item count"][
        "gauc"
    ].shape or not np.array_equal(found.nulls[0]["item count"]["gauc"], found.nulls[1]["item count"]["gauc"])


def test_memories_at_several_places_of_a_user_are_those_of_each_alone(log):
    split = splits.split(log, config=BY_SHARE.data).test
    owners, ends = np.array([3, 3, 3, 60, 60]), log.offsets[[3, 3, 3, 60, 60]] + np.array([0, 2, 9, 150, 30])
    within = simple_scorers.within_users(log, simple_scorers.training(log, split), num_items=40)
    together = memory.fit(log, split, within, owners=owners, ends=ends)
    for row in range(5):
        alone = memory.fit(log, split, within, owners=owners[[row]], ends=ends[[row]])
        np.testing.assert_allclose(together.users[row], alone.users[0], rtol=1e-3, atol=1e-4)
    assert not np.any(together.users[0]) and np.any(together.users[2])


def test_the_trap_of_streaks_is_named(log):
    for split, warned in (("last_positive", True), ("by_share", False)):
        chosen = config.replace(BY_SHARE, {"data.split_by": split})
        found = ranking.evaluate(
            log, config=chosen, num_items=40, part="test", protocol=protocols.BY_PREFIX, simple=False
        )
        found.values["random"] = {"gauc": np.zeros(3), "user_auc": np.zeros(3)}
        assert ("streak" in report.header(report.summarise(found))) == warned


def test_a_redrawn_data_set_has_the_same_exposures(tmp_path):
    made, out = str(tmp_path / "made"), str(tmp_path / "redrawn")
    settings = synthetic.Settings(num_users=80, num_items=40, skip_effect=2.0)
    preparation.prepare(sources.generated(settings), made, min_positives=0)
    preparation.prepare(memoryless.source(made, seed=1), out, min_positives=0)
    before, after = datasets.load(made), datasets.load(out)
    assert datasets.user_ids(made).equals(datasets.user_ids(out)) and datasets.item_ids(made).equals(
        datasets.item_ids(out)
    )
    for column in ("items", "times", "durations", "offsets"):
        np.testing.assert_array_equal(getattr(before.log, column), getattr(after.log, column))
    assert 0.2 < np.mean(before.log.feedback != after.log.feedback) < 0.6
    assert after.info.law is None


def test_a_redrawn_data_set_keeps_its_contexts(tmp_path):
    made, out = str(tmp_path / "made"), str(tmp_path / "redrawn")
    rows = [f"{u},{i},{i},{(u + i) % 2},{'xyz'[i % 3] if u % 2 else ''}\n" for u in range(9) for i in range(6)]
    (tmp_path / "log.csv").write_text("user,item,step,watched,tab\n" + "".join(rows))
    roles = ingest.parse_roles("user=user,item=item,order=step,watched=watched,context=tab")
    preparation.prepare(sources.log(tmp_path / "log.csv", roles, ingest.Units()), made, min_positives=0)
    preparation.prepare(memoryless.source(made, seed=1), out, min_positives=0)
    before, after = datasets.load(made), datasets.load(out)
    assert after.info.contexts == before.info.contexts == {"tab": ["x", "y", "z"]}
    np.testing.assert_array_equal(before.log.contexts, after.log.contexts)


def test_a_users_offset_is_left_out(log):
    model = build_model(BY_SHARE.model, num_items=40)
    params = model.init(jax.random.key(0))
    values = [
        ranking.evaluate(
            log,
            config=BY_SHARE,
            num_items=40,
            part="test",
            protocol=protocols.BY_PREFIX,
            models={"model": {**params, "user_bias": jnp.array([weight, 0.0])}},
            simple=False,
        ).values["model"]
        for weight in (0.0, 5.0)
    ]
    for name, column in values[0].items():
        np.testing.assert_array_equal(column, values[1][name])
