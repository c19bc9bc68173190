"""The splits agree with the released code, user by user, and nothing that follows a target is read or learned."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest

from sine_jax import config
from sine_jax.data import splits
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog, Split


def make_log(*users: str, times: list[list[int]] | None = None) -> EventLog:
    """A log of one string per user: `w` watched, `s` skipped, `d` disliked; items are numbered through."""
    feedback = np.array([{"w": WATCHED, "s": SKIPPED, "d": DISLIKED}[c] for user in users for c in user], np.int8)
    count = len(feedback)
    return EventLog(
        items=np.arange(1, count + 1, dtype=np.int32),
        feedback=feedback,
        times=np.array([t for user in times for t in user] if times else [-1] * count, np.int64),
        plays=np.full(count, -1, np.int32),
        durations=np.full(count, -1, np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(user) for user in users])]).astype(np.int64),
    )


def random_log(num_users: int, seed: int = 0) -> EventLog:
    """A log with times (a few equal), users of any length, empty ones included."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 40, num_users))])
    count = int(offsets[-1])
    users = np.repeat(np.arange(num_users), np.diff(offsets))
    times = rng.integers(1, 1000, count)
    return EventLog(
        items=rng.integers(1, 50, count).astype(np.int32),
        feedback=rng.choice([SKIPPED, WATCHED, DISLIKED], count, p=[0.6, 0.35, 0.05]).astype(np.int8),
        times=times[np.lexsort((times, users))],
        plays=np.full(count, -1, np.int32),
        durations=np.full(count, -1, np.int32),
        offsets=offsets,
    )


def skips(log: EventLog, split: Split, user: int) -> list[int]:
    """The items that the user's target is ranked against."""
    span = slice(split.candidates_begin[user], split.candidates_end[user])
    return log.items[span][log.feedback[span] == SKIPPED].tolist()


def watched_before(log: EventLog, user: int, end: int) -> list[int]:
    """The items that the user watched before a position."""
    span = slice(log.offsets[user], end)
    return log.items[span][log.feedback[span] == WATCHED].tolist()


@pytest.fixture(scope="module")
def golden(golden_dir: pathlib.Path) -> tuple[EventLog, dict, list[str]]:
    """The real log, what the released code makes of it, and the users' names."""
    lines = [line.split("\t") for line in (golden_dir / "log.tsv").read_text().splitlines()]
    log = make_log(*("".join("sw"[int(y)] for y in feedback.split()) for _, _, feedback in lines))
    items = np.array([int(item) for _, items, _ in lines for item in items.split()], np.int32)
    return log._replace(items=items), json.loads((golden_dir / "splits.json").read_text()), [name for name, *_ in lines]


def test_training_sequences_are_those_of_the_released_code(golden):
    log, expected, names = golden
    train_end = splits.last_positive(log, after_target=True).valid.train_end
    for user, name in enumerate(names):
        span = slice(log.offsets[user], train_end[user])
        items, feedback = log.items[span], log.feedback[span]
        # A skip counts where the very next exposure was watched; a long list begins with its (T-2)-th last positive.
        kept = (feedback == WATCHED) | np.append((feedback[:-1] == SKIPPED) & (feedback[1:] == WATCHED), False)
        positives = np.flatnonzero(feedback == WATCHED)
        if len(positives) > expected["max_len"] - 2:
            kept[: positives[-(expected["max_len"] - 2)]] = False
        assert [items[kept].tolist(), feedback[kept].tolist()] == expected["users"][name]["train"]


def test_inputs_and_candidates_are_those_of_the_released_code(golden):
    log, expected, names = golden
    result = splits.last_positive(log, after_target=True)
    assert len(names) == len(expected["users"]) == 120
    for user, name in enumerate(names):
        for split, key, margin in ((result.valid, "valid_eval", 2), (result.test, "test_eval", 1)):
            case = expected["users"][name][key]
            read = watched_before(log, user, split.history_end[user])[-(expected["max_len"] - margin) :]
            assert read == case["input"]
            assert log.items[split.target[user]] == case["candidates"][0]
            assert sorted(skips(log, split, user)) == sorted(case["candidates"][1:])


def test_last_positive_positions():
    #        0123456789
    log = make_log("swswssdwsw", "sww", "wsw", "")
    valid, test = splits.last_positive(log, after_target=False)
    np.testing.assert_array_equal(valid.train_end, [4, 10, 13, 16])
    np.testing.assert_array_equal(valid.train_end, test.train_end)
    assert valid.target.tolist() == [7, -1, -1, -1] and test.target.tolist() == [9, -1, -1, -1]
    assert skips(log, valid, 0) == [5, 6] and skips(log, test, 0) == [9]
    released = splits.last_positive(log, after_target=True)
    assert skips(log, released.valid, 0) == [5, 6, 9] and skips(log, released.test, 0) == [9]


def test_users_without_three_positives_have_nothing_to_learn_read_or_rank():
    log = make_log("swsws", "ssdss", "")
    for split in splits.last_positive(log, after_target=True):
        for positions in (split.train_end, split.history_end, split.candidates_begin, split.candidates_end):
            np.testing.assert_array_equal(positions, log.offsets[:-1])
        assert (split.target == -1).all()


def by_time(log: EventLog, after_target: bool = True) -> splits.Splits:
    return splits.by_time(log, train_until=300, valid_until=600, after_target=after_target)


def test_periods_are_closed_at_their_begin_and_open_at_their_end():
    log = make_log("swwsw", times=[[100, 299, 300, 599, 600]])
    valid, test = by_time(log)
    assert valid.train_end[0] == 2
    assert (valid.target[0], valid.history_end[0]) == (2, 2)
    assert (test.target[0], test.history_end[0]) == (4, 3)
    assert skips(log, valid, 0) == [4]  # 599 still is validation
    assert skips(log, test, 0) == []  # and no candidate of the test


def test_equal_times_stay_on_one_side():
    log = make_log("wwww", times=[[300, 300, 300, 600]])
    valid, test = by_time(log)
    assert valid.train_end[0] == 0 and valid.target[0] == 0 and test.target[0] == 3


def test_candidates_of_a_period_lie_between_the_neighbouring_positives():
    log = make_log("wsswsswsd", times=[[100, 200, 310, 320, 330, 340, 350, 360, 370]])
    assert skips(log, by_time(log).valid, 0) == [3, 5, 6]  # item 2 was shown before the period
    assert skips(log, by_time(log, after_target=False).valid, 0) == [3]


@pytest.mark.parametrize("after_target", [True, False])
@pytest.mark.parametrize("method", ["last_positive", "by_time"])
def test_nothing_at_or_after_a_target_is_read_or_learned(method: str, after_target: bool):
    log = random_log(500)
    result = by_time(log, after_target) if method == "by_time" else splits.last_positive(log, after_target=after_target)
    for split in result:
        users = np.flatnonzero(split.target >= 0)
        assert len(users) > 100
        target = split.target[users]
        assert (log.feedback[target] == WATCHED).all()
        assert (split.train_end[users] <= result.valid.candidates_begin[users]).all()
        assert (split.train_end[users] <= target).all() and (split.history_end[users] <= target).all()
        # Nothing that is ranked was read, and the last thing read was watched.
        assert (split.history_end[users] <= split.candidates_begin[users]).all()
        read = split.history_end[users] > log.offsets[users]
        assert (log.feedback[split.history_end[users][read] - 1] == WATCHED).all()
        assert after_target or (split.candidates_end[users] <= target).all()
        assert (split.candidates_end[users] <= log.offsets[users + 1]).all()
        # No other positive lies between, so that the target is the only one among its candidates.
        watched = np.concatenate([[0], np.cumsum(log.feedback == WATCHED)])
        between = watched[split.candidates_end[users]] - watched[split.history_end[users]]
        assert (between == (1 if after_target else 0)).all()


def test_by_time_learns_from_before_validation_only():
    log = random_log(200)
    valid, test = by_time(log)
    positions = np.arange(len(log.items))
    learned = positions < np.repeat(valid.train_end, np.diff(log.offsets))
    assert (log.times[learned] < 300).all() and (log.times[~learned] >= 300).all()
    ranked = valid.target[valid.target >= 0], test.target[test.target >= 0]
    assert ((log.times[ranked[0]] >= 300) & (log.times[ranked[0]] < 600)).all() and (log.times[ranked[1]] >= 600).all()


def test_by_time_needs_times_in_order():
    with pytest.raises(
        ValueError, match="data.split_by=by_time: 3 of 3 exposures have no time; use data.split_by=last_positive"
    ):
        by_time(make_log("www"))
    with pytest.raises(
        ValueError, match="data.train_until=600, data.valid_until=600: must be 0 < train_until < valid_until; give"
    ):
        splits.by_time(random_log(3), train_until=600, valid_until=600, after_target=True)


def test_configuration_names_the_split():
    log = random_log(50)
    for ours, theirs in (
        (config.DataConfig(), splits.last_positive(log, after_target=True)),
        (config.DataConfig(candidates="before_target"), splits.last_positive(log, after_target=False)),
        (config.DataConfig(split_by="by_time", train_until=300, valid_until=600), by_time(log)),
    ):
        for a, b in zip(splits.split(log, config=ours), theirs, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)


def test_work_does_not_go_by_user_in_python():
    """Lines of Python that run are counted, not seconds: as many for a thousand users as for ten."""

    def lines(users):
        log, count = random_log(users), 0

        def trace(frame, event, _):
            nonlocal count
            count += event == "line"
            return trace if "sine_jax" in frame.f_code.co_filename else None

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            splits.last_positive(log, after_target=True)
            by_time(log)
        finally:
            sys.settrace(before)
        return count

    assert 0 < lines(1_000) <= lines(10) + 5
