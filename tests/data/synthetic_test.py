"""The synthetic log holds what was planted in it."""

import math

import numpy as np
import polars as pl
import pytest

from sine_jax.data import synthetic
from sine_jax.data.synthetic import Settings


def drawn(settings):
    """The log with the interest of each item and its appeal."""
    items = synthetic.catalogue(settings)
    vocabulary = pl.DataFrame({"interest": items.interests, "appeal": items.appeals}).with_row_index(
        "item_id", offset=1
    )
    frame = pl.concat(synthetic.frames(settings)).join(vocabulary.cast({"item_id": pl.Int64}), on="item_id")
    return frame.sort("user_id", "time_ms")


def watch_log_odds(frame):
    """Log-odds of watching."""
    rate = frame["long_view"].mean()
    return np.log(rate / (1 - rate))


def test_a_seed_names_one_log():
    one, same, other = (pl.concat(synthetic.frames(Settings(seed=seed, num_users=50))) for seed in (1, 1, 2))
    assert one.equals(same)
    assert not one.equals(other)


@pytest.mark.parametrize("skip_effect", [0.0, 2.0])
def test_a_skip_lowers_the_log_odds_of_its_interest_by_what_was_planted(skip_effect):
    # One interest, no appeal in the way of it: then every exposure after a skip is hit, and the logit is known.
    frame = drawn(Settings(num_users=4_000, num_items=1, num_interests=1, skip_effect=skip_effect))
    frame = frame.with_columns(before=pl.col("long_view").shift(1).over("user_id")).drop_nulls()
    after_skip, after_watch = (watch_log_odds(frame.filter(pl.col("before") == code)) for code in (0, 1))
    assert after_watch - after_skip == pytest.approx(skip_effect, abs=0.08)
    assert after_watch == pytest.approx(-1 + frame["appeal"][0], abs=0.08)


def test_skips_add_up_and_fade_by_what_was_planted():
    settings = Settings(num_users=6_000, num_items=1, num_interests=1, num_exposures=8, skip_effect=0.5, skip_decay=0.8)
    frame = drawn(settings)
    users, watched = frame["user_id"].to_numpy(), frame["long_view"].to_numpy()
    effect = np.zeros(len(frame))
    for t in range(1, len(frame)):
        if users[t] == users[t - 1]:
            effect[t] = 0.8 * effect[t - 1] + (1 - watched[t - 1])
    for low, high in ((0.0, 0.5), (1.0, 1.5), (2.0, 2.5), (3.0, 3.5)):
        where = (effect >= low) & (effect < high)
        rate, mean = watched[where].mean(), effect[where].mean()
        expected = -1 + frame["appeal"][0] - 0.5 * mean
        assert np.log(rate / (1 - rate)) == pytest.approx(expected, abs=0.1), (low, where.sum())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_skips_that_never_fade_are_refused(decay):
    with pytest.raises(ValueError, match=f"^--skip_decay={decay}: .*; pass 0 to below 1"):
        synthetic.check(Settings(skip_decay=decay))


def test_users_are_shown_and_watch_their_own_interests():
    frame = drawn(Settings(num_users=500, num_interests=4))
    shares = frame.group_by("user_id", "interest").agg(pl.len(), pl.col("long_view").mean())
    top = shares.sort("len", descending=True).unique("user_id", keep="first")
    assert top["len"].sum() / len(frame) > 0.5
    assert top["long_view"].mean() > frame["long_view"].mean()


def test_watched_videos_are_played_longer_than_skipped_ones():
    frame = drawn(Settings(num_users=100)).with_columns(ratio=pl.col("play_time_ms") / pl.col("duration_ms"))
    assert frame.filter(pl.col("long_view") == 1)["ratio"].min() > 0.69
    assert frame.filter(pl.col("long_view") == 0)["ratio"].max() <= 0.3


def test_pieces_of_users_join_without_a_gap(monkeypatch):
    monkeypatch.setattr(synthetic, "USERS_A_PIECE", 30)
    frames = list(synthetic.frames(Settings(num_users=70)))
    assert [frame["user_id"].n_unique() for frame in frames] == [30, 30, 10]
    assert sorted(set(pl.concat(frames)["user_id"])) == list(range(70))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(num_users=0), "--users=0: too few for a synthetic log; pass at least 1"),
        (Settings(num_items=3), "--items=3: too few with --interests=8 for a synthetic log; pass at least 8"),
        (Settings(num_exposures=2), "--exposures=2: too few for a synthetic log; pass at least 5"),
        (Settings(num_interests=0), "--interests=0: too few for a synthetic log; pass at least 1"),
    ],
)
def test_settings_without_a_log_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        list(synthetic.frames(settings))


@pytest.mark.parametrize(
    "setting", [{"seed": -1}, {"affinity": math.nan}, {"skip_effect": math.inf}, {"affinity": -1e9}]
)
def test_numbers_that_no_log_can_have_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"^--{name}={value}: "):
        synthetic.check(synthetic.Settings(**setting))
