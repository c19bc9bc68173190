"""The first items of users: those of a plain loop, from a run folder alone."""

import shutil

import jax
import numpy as np
import polars as pl
import pyarrow
import pytest
from logs import made

import sine_jax as sine
from sine_jax import config as configs
from sine_jax import run, workdir
from sine_jax.data import datasets, synthetic
from sine_jax.serving import recommend
from sine_jax.serving.recommend import Request
from sine_jax.types import DISLIKED, PAD, SKIPPED, WATCHED

SMALL = {
    "model.name": "sasrec",
    "model.max_len": 6,
    "model.dim": 4,
    "model.num_blocks": 1,
    "train.batch_size": 32,
    "train.num_widths": 1,
    "train.epochs": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder whose data set is gone, and that data set."""
    folder = tmp_path_factory.mktemp("trained")
    data = made(folder / "data", num_users=70, num_items=40)
    run.train(data, str(folder / "run"), config=configs.replace(sine.presets.default(), SMALL))
    kept = datasets.load(data), datasets.user_ids(data)
    shutil.move(data, folder / "away")
    return str(folder / "run"), recommend.Users(kept[1], kept[0].log), str(folder / "away")


@pytest.fixture(scope="module")
def recommender(trained):
    return recommend.load(trained[0])


def plain(recommender, users, user):
    """The scores [N + 1] of one user, by the model alone."""
    log = users.log
    rows = slice(log.offsets[user], log.offsets[user + 1])
    items, feedback = log.items[rows], log.feedback[rows]
    items, feedback = items[feedback != DISLIKED][-6:], feedback[feedback != DISLIKED][-6:]
    history = np.zeros((1, 6), np.int32)
    watched = np.zeros((1, 6), bool)
    if len(items):
        history[0, -len(items) :], watched[0, -len(items) :] = items, feedback == WATCHED
    model, params = recommender.model, recommender.params
    read = model.encode(params, sine.Histories(history, watched))
    scores = np.asarray(model.score_items(params, read, np.arange(model.num_items + 1)))[0]
    return np.asarray(params["item_bias"]) if not len(items) else scores


@pytest.mark.parametrize(("chunk", "block"), [(7, 128), (1 << 16, 128), (17, 3)])
@pytest.mark.parametrize("filter_seen", [True, False])
def test_lists_are_the_first_of_all_scores(trained, recommender, monkeypatch, chunk, block, filter_seen):
    monkeypatch.setattr(recommend, "CHUNK", chunk)
    monkeypatch.setattr(recommend, "BLOCK", block)
    monkeypatch.setattr(recommend, "BATCH", 32)
    recommend._finder.cache_clear()
    _, users, _ = trained
    denied = [str(recommender.items[3])]
    request = Request(k=5, filter_seen=filter_seen, deny=denied)
    answers = list(recommend.first_items(recommender, users, request))
    items = np.concatenate([each.items for each in answers])
    scores = np.concatenate([each.scores for each in answers])
    assert [each.first for each in answers] == [0, 32, 64] and len(items) == users.log.num_users
    for user in range(users.log.num_users):
        expected = plain(recommender, users, user).copy()
        expected[[PAD, 3]] = -np.inf
        if filter_seen:
            expected[users.log.items[users.log.offsets[user] : users.log.offsets[user + 1]]] = -np.inf
        best = np.sort(expected)[::-1][:5]
        np.testing.assert_allclose(scores[user], best, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(expected[items[user]], best, rtol=1e-5, atol=1e-5)


def test_later_users_can_be_answered_alone_and_in_parts(trained, recommender):
    _, users, _ = trained
    (whole,) = recommend.first_items(recommender, users, Request(k=4))
    (rest,) = recommend.first_items(recommender, recommend.between(users, 10, 30), Request(k=4))
    np.testing.assert_array_equal(rest.items, whole.items[10:30])
    np.testing.assert_allclose(rest.scores, whole.scores[10:30], rtol=1e-5, atol=1e-6)


def test_equal_scores_come_in_the_order_of_the_catalogue_and_k_has_an_end(trained, recommender, monkeypatch):
    monkeypatch.setattr(recommend, "BLOCK", 4)
    recommend._finder.cache_clear()
    flat = recommender._replace(params=jax.tree.map(np.zeros_like, recommender.params))
    users = recommend.chosen(trained[1], ["nobody", "nobody"])
    (answers,) = recommend.first_items(flat, users, Request(k=1000))
    assert answers.items.shape == (2, flat.model.num_items)
    np.testing.assert_array_equal(answers.items[0], np.arange(1, flat.model.num_items + 1))
    (few,) = recommend.first_items(flat, users, Request(k=6))
    assert few.items[0].tolist() == [1, 2, 3, 4, 5, 6]
    frame = recommend.frame_of(flat, users, answers)
    assert frame["user"].to_list() == ["nobody"] * 2 * flat.model.num_items and not frame["known"].any()


def test_a_user_who_has_seen_all_that_is_allowed_gets_nothing(trained, recommender):
    _, users, _ = trained
    seen = [recommender.items[int(item)] for item in users.log.items[: users.log.offsets[1]]]
    some = recommend.between(users, 0, 1)
    (answers,) = recommend.first_items(recommender, some, Request(k=3, allow=seen))
    assert not recommend.frame_of(recommender, some, answers).height
    with pytest.raises(ValueError, match="no item is left that the model knows"):
        next(recommend.first_items(recommender, some, Request(allow=["nothing"])))
    assert recommend.unknown_ids(recommender, ["nothing", seen[0], "nothing"]) == 1


def test_histories_are_read_by_external_ids_and_unknown_items_counted(trained, recommender):
    item = recommender.items
    frame = pl.DataFrame(
        {
            "user": ["x", "y", "x", "x", "z"],
            "item": [item[5], item[7], "strange", item[2], "strange"],
            "time": [5, 1, 2, 1, 1],
            "order": [0] * 5,
            "feedback": pl.Series([WATCHED, SKIPPED, WATCHED, SKIPPED, WATCHED], dtype=pl.Int8),
            "play": [-1] * 5,
            "duration": [-1] * 5,
        }
    )
    users = recommend.from_exposures(recommender, frame)
    assert users.ids.to_list() == ["x", "y", "z"] and users.unknown == 2
    assert users.log.items.tolist() == [2, 5, 7] and users.log.lengths.tolist() == [2, 1, 0]
    assert users.log.feedback.tolist() == [SKIPPED, WATCHED, SKIPPED]


def test_a_run_folder_of_another_vocabulary_is_refused(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    other = made(tmp_path / "other", num_users=30, num_items=20)
    datasets.copy_catalogue(other, tmp_path / "run" / workdir.CATALOGUE)
    with pytest.raises(ValueError, match="catalogue: it is of another data set than the checkpoints"):
        recommend.load(str(tmp_path / "run"))


def test_scores_of_later_exposures_are_those_of_the_model(trained, recommender):
    _, users, _ = trained
    scores = recommend.scores_of(recommender, users, users.log)
    expected = np.concatenate(
        [
            plain(recommender, users, user)[users.log.items[users.log.offsets[user] : users.log.offsets[user + 1]]]
            for user in range(users.log.num_users)
        ]
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def frame():
    settings = synthetic.Settings(num_users=60, num_items=40, num_exposures=15)
    return pl.concat(synthetic.frames(settings))


@pytest.fixture(scope="module")
def fitted(frame):
    columns = {"user": "user_id", "item": "item_id", "time": "time_ms", "watched": "long_view"}
    return sine.SINE(options=SMALL).fit(frame, **columns)


def test_a_model_of_a_frame_recommends_evaluates_and_is_kept(frame, fitted, tmp_path):
    found = fitted.recommend([0, "7", "nobody", 0], k=3)
    assert found.columns == ["user", "item", "rank", "score", "known"]
    assert found["user"].to_list() == ["0"] * 3 + ["7"] * 3 + ["nobody"] * 3 + ["0"] * 3
    assert found.filter(pl.col("user") == "nobody")["known"].any() is False
    assert found["rank"].to_list() == [1, 2, 3] * 4
    seen = frame.filter(pl.col("user_id") == 0)["item_id"].cast(pl.String)
    assert not set(found.filter(pl.col("user") == "0")["item"]) & set(seen)
    values = fitted.evaluate(frame.filter(pl.col("user_id") < 30))
    assert 0 < values["user_auc"] < 1 and values["users"] <= 30 and fitted.unknown == 0
    fitted.save(str(tmp_path / "kept"))
    shutil.move(tmp_path / "kept", tmp_path / "moved")
    again = sine.SINE.load(str(tmp_path / "moved"))
    assert again.recommend(k=4).equals(fitted.recommend(k=4))
    with pytest.raises(ValueError, match="moved: exists already"):
        fitted.save(str(tmp_path / "moved"))


def test_histories_in_any_kind_of_frame_give_the_lists_of_the_log(frame, fitted):
    mine = frame.filter(pl.col("user_id").is_in([3, 4]))
    expected = fitted.recommend([3, 4], k=5)
    order = pl.DataFrame({"user": ["3", "4"]})
    for native in (mine, mine.to_arrow()):
        found = fitted.recommend(["3", "4"], histories=native, k=5)
        assert type(found) is type(native)
        found = pl.DataFrame(found)
        assert found.drop("score").equals(expected.drop("score")) and len(order) == 2
        np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5)
    assert isinstance(mine.to_arrow(), pyarrow.Table)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda frame: sine.SINE("best"), "preset=best: no such preset; choose one of default, official"),
        (lambda frame: sine.SINE(options={"model.gone": 1}), "model.gone=1"),
        (lambda frame: sine.SINE().recommend(), "the model is not fitted; train it by fit, or load one"),
        (lambda frame: sine.SINE().fit([1], user="u", item="v", time="t"), "frame=list: no frame; pass one of polars"),
        (
            lambda frame: sine.SINE().fit(frame, user="usr_id", item="item_id", time="time_ms", watched="long_view"),
            "frame: no column 'usr_id' among .*; use 'user_id'",
        ),
        (
            lambda frame: sine.SINE().fit(frame, user="u", item="v", time="t", time_unit="h"),
            "time_unit=h: no such unit",
        ),
        (lambda frame: sine.SINE.load("nowhere"), "nowhere/run/checkpoints: there is no checkpoint; train first"),
    ],
)
def test_mistakes_are_told_as_by_the_launches(frame, call, told):
    with pytest.raises(ValueError, match=told):
        call(frame)
