import itertools

import numpy as np
import pytest

from sine_jax.analysis import signals
from sine_jax.data import splits
from sine_jax.types import EventLog


def log_of(*users, times=None):
    """A log of users, each a list of (item, feedback)."""
    exposures = [exposure for user in users for exposure in user]
    items, feedback = (
        np.array([exposure[i] for exposure in exposures], dtype) for i, dtype in ((0, np.int32), (1, np.int8))
    )
    unknown = np.full(len(exposures), -1, np.int32)
    stamps = np.full(len(exposures), -1, np.int64) if times is None else np.array(times, np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])])
    return EventLog(items, feedback, stamps, unknown, unknown, offsets)


def owners(log):
    return np.repeat(np.arange(log.num_users), np.diff(log.offsets))


def feedback(text, item=1):
    return [(item, {"S": 0, "W": 1, "D": 2}[letter]) for letter in text]


def test_runs_end_with_a_watch_a_dislike_and_the_user():
    log = log_of(feedback("SSWS"), feedback("SSSDSS"), feedback("W"), feedback("S"))
    found = signals.runs(log, owners(log))
    assert found.number[:4] == [2, 2, 1, 0]  # lengths 2 1 | 3 2 | | 1
    assert found.mean == pytest.approx((2 + 1 + 3 + 2 + 1) / 5)


def test_expected_runs_are_those_of_independent_skips():
    rng = np.random.default_rng(0)
    for exposures, users in ((5, 4000), (30, 800)):
        log = log_of(*[[(1, int(watched)) for watched in rng.random(exposures) < 0.4] for _ in range(users)])
        found = signals.runs(log, owners(log))
        for length in range(1, 6):
            assert found.number[length - 1] == pytest.approx(found.expected[length - 1], rel=0.15)


def test_expected_runs_are_the_mean_over_all_orders():
    log = log_of(feedback("SSSWW"), feedback("SS"))
    orders = ["".join(order) for order in itertools.permutations("SSSWW")]
    for length in (1, 2, 3):
        counted = [[len(run) for run in order.split("W")].count(length) for order in orders]
        expected = np.mean(counted) + (length == 2)
        assert signals.runs(log, owners(log)).expected[length - 1] == pytest.approx(expected)


def test_patterns_count_what_follows_them_within_a_user_and_never_a_dislike():
    log = log_of(feedback("SSW"), feedback("SWDWW"))
    patterns, _ = signals.order(log, owners(log), seed=0)
    found = {each.pattern: (each.exposures, each.watch_rate) for each in patterns}
    assert found["S"] == (3, pytest.approx(2 / 3))  # S-S, S-W | S-W
    assert found["W"] == (1, 1.0)  # | W-W; what stands next to the dislike does not count
    assert found["SS"] == (1, 1.0)
    assert "SW" not in found


def test_mutual_information_of_known_tables():
    assert signals.mutual_information(np.array([[5, 0], [0, 5]])) == pytest.approx(1.0)
    assert signals.mutual_information(np.array([[2, 4], [3, 6]])) == pytest.approx(0.0)
    assert signals.mutual_information(np.zeros((2, 2))) == 0


def test_who_it_is_tells_much_and_order_nothing_where_users_differ_and_order_is_random():
    rng = np.random.default_rng(1)
    users = [[(1, int(watched)) for watched in rng.random(40) < (0.1 if user % 2 else 0.9)] for user in range(400)]
    log = log_of(*users)
    _, bits = signals.order(log, owners(log), seed=0)
    assert bits[0].bits > 0.2
    assert abs(bits[0].order_bits) < 0.01
    assert bits[-1].bits > bits[0].bits


def test_order_tells_where_feedback_comes_in_turns():
    log = log_of(*[feedback("SWSWSWSWSW")] * 20)
    _, bits = signals.order(log, owners(log), seed=0)
    assert bits[0].bits == pytest.approx(1.0, abs=0.02)
    assert bits[0].order_bits > 0.9


def test_skips_of_similar_items_are_found_in_other_users_and_before():
    # Users of both halves watch 1 and 2 together: similar. User 8 skips 1, then 2; user 9 skips 2 alone.
    together = [[(1, 1), (2, 1)]] * 8
    log = log_of(*together, [(1, 0), (2, 0)], [(2, 0), (1, 1)])
    found = signals.similar_items(log, owners(log), num_items=4, seed=0)
    assert found.skipped.exposures == 2
    assert found.skipped.skip_rate == 0.5
    assert found.watched.exposures == 8
    assert found.neither.exposures == len(log.items) - 10


def _tasteful(strength: float) -> EventLog:
    """Users and items of two tastes; feedback by user and item biases, and by whether the tastes agree."""
    rng = np.random.default_rng(2)
    num_users, num_items, shown = 600, 60, 30
    of_users, of_items = rng.normal(0, 1, num_users), rng.normal(0, 0.7, num_items + 1)
    users = []
    for user in range(num_users):
        items = rng.permutation(num_items)[:shown] + 1
        margins = of_users[user] + of_items[items] + strength * np.where(items % 2 == user // 2 % 2, 1, -1)
        users.append([(int(i), int(rng.random() < 1 / (1 + np.exp(-m)))) for i, m in zip(items, margins, strict=True)])
    return log_of(*users)


def test_lifts_over_chance_are_1_without_taste_and_not_with_it():
    for strength in (0.0, 1.5):
        log = _tasteful(strength)
        found = signals.similar_items(log, owners(log), num_items=60, seed=0)
        after_skips, after_watches = found.skipped.lift_over_chance, found.watched.lift_over_chance
        if strength:
            assert after_skips > 1.08 and after_watches < 0.92
        else:
            assert after_skips == pytest.approx(1, abs=0.04) and after_watches == pytest.approx(1, abs=0.06)


def test_passive_pairs_are_shares_of_positives_skips_and_candidates():
    log = log_of([(1, 1), (2, 1), (3, 0), (4, 1), (5, 0), (6, 0), (7, 1), (8, 0)])
    split = splits.last_positive(log, after_target=True).test
    found = signals.passive_pairs(log, owners(log), split)
    assert found.positives_after_skip == 2 / 4
    assert found.skips_before_positive == 2 / 4
    assert found.targets_after_skip == 1
    assert (found.candidates, found.candidates_before_target) == (3, 1 / 3)


def test_leaks_are_counted_by_place_and_by_clock():
    early = [(1, 1), (2, 1), (3, 1), (4, 1)]
    log = log_of(early, early, times=[1, 2, 3, 4, 101, 102, 103, 104])
    split = splits.last_positive(log, after_target=True).test
    found = signals.leakage(log, split)
    assert found.targets_in_training == 0
    assert found.unseen_target_items == 1
    # Item 4 of the first user is ranked at 4, and training goes on at 101 and 102.
    assert found.targets_before_training_of_others == 1 / 2
    assert found.training_after_target == (2 + 0) / 2 / 4
    leaking = split._replace(train_end=log.offsets[1:])
    assert signals.leakage(log, leaking).targets_in_training == 2
