"""The simple scorers count what they say they count."""

import jax.numpy as jnp
import numpy as np
from logs import make_log

from sine_jax.data import splits
from sine_jax.evaluation import counting, scorers
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog

W, S, D = WATCHED, SKIPPED, DISLIKED
LOG = make_log([(1, S), (2, S), (1, W), (3, D), (2, W), (3, S), (3, W), (1, W)], [], [(1, W), (2, S)])
TEST = splits.last_positive(LOG, after_target=True).test  # user 0: training stops after exposure 2, history after 6


def test_masks_by_hand():
    for mask, expected in (
        (counting.training(LOG, TEST), [0, 1, 2, 3, 4]),
        (counting.training_pairs(LOG, TEST), [1, 2, 4]),
        (counting.history(LOG, TEST), [0, 1, 2, 3, 4, 5, 6]),
    ):
        assert np.flatnonzero(mask).tolist() == expected


def test_a_skip_is_not_paired_with_another_users_positive():
    log = make_log([(1, W), (2, S)], [(3, W), (1, W), (2, W), (3, W)])
    split = splits.last_positive(log, after_target=True).test
    assert np.flatnonzero(counting.training_pairs(log, split)).tolist() == [2, 3]


def test_count_and_smoothed_rate_by_hand():
    where = np.ones(len(LOG.items), bool)
    assert counting.item_count(LOG, where, num_items=4).items.tolist() == [0, 3, 1, 1, 0]
    mean = (5 + 1) / (10 + 2)
    rate = np.array([(3 + 10 * mean) / 14, (1 + 10 * mean) / 13, (1 + 10 * mean) / 13, mean])
    log_odds = counting.item_rate(LOG, where, num_items=4).items[1:]
    np.testing.assert_allclose(log_odds, np.log(rate / (1 - rate)), atol=1e-6)


def test_logistic_biases_recover_what_was_planted():
    rng = np.random.default_rng(0)
    user, item = rng.normal(0, 1, 40), rng.normal(0, 1, 11)
    items = rng.integers(1, 11, (40, 400))
    watched = rng.random((40, 400)) < 1 / (1 + np.exp(-user[:, None] - item[items]))
    log = make_log(*[list(zip(i, w, strict=True)) for i, w in zip(items, watched, strict=True)])
    found = counting.logistic_biases(log, np.ones(len(log.items), bool), num_items=10)
    assert np.corrcoef(found.users, user)[0, 1] > 0.97
    assert np.corrcoef(found.items[1:], item[1:])[0, 1] > 0.97
    assert not counting.item_part(found).users.any()


def test_nothing_counted_gives_a_constant():
    nothing = np.zeros(len(LOG.items), bool)
    assert not counting.logistic_biases(LOG, nothing, num_items=3).items.any()
    assert not counting.item_rate(LOG, nothing, num_items=3).items.any()


def test_random_scores_depend_on_user_and_item_alone():
    scorer, seed = scorers.at_random(), jnp.uint32(0)
    state = scorer.encode(seed, jnp.arange(200, dtype=jnp.int32), None)
    everything = scorer.score_items(seed, state, jnp.arange(1, 301))
    some = scorer.score_candidates(seed, state, jnp.full((200, 1), 7))
    np.testing.assert_array_equal(everything[:, 6:7], some)
    assert abs(float(everything.mean())) < 0.01 and len(np.unique(everything)) > 59_000
    assert abs(np.corrcoef(everything[:, 0], everything[:, 1])[0, 1]) < 0.25


def test_biases_within_users_do_not_see_who_watches_much():
    # Item 1 is watched more than 2 by each user; users who are shown 2 more often watch nearly everything.
    def exposures(user, watched):
        return [(user, 1, 1), (user, 2, int(watched))]

    rows = [row for user in range(40) for row in exposures(user, watched=False)]
    rows += [(100 + user, 2, 1) for user in range(200) for _ in range(5)]
    rows += [(400 + user, 1, 0) for user in range(200) for _ in range(5)]
    rows.sort(key=lambda row: row[0])
    users, items, feedback = map(np.array, zip(*rows, strict=True))
    unknown = np.full(len(rows), -1)
    log = EventLog(
        items.astype(np.int32),
        feedback.astype(np.int8),
        unknown,
        unknown,
        unknown,
        np.append(np.flatnonzero(np.diff(users, prepend=-1)), len(users)),
    )
    everything = np.ones(len(rows), bool)
    by_rate = counting.item_rate(log, everything, num_items=2).items
    within = counting.within_users(log, everything, num_items=2, shrinkage=1e-3).items
    assert by_rate[2] > by_rate[1]
    assert within[1] > within[2]


def test_biases_within_users_are_the_log_odds_of_the_pairs():
    # 30 pairs say 1 over 2, 10 pairs 2 over 1.
    feedback = [[1, 0]] * 30 + [[0, 1]] * 10
    unknown = np.full(80, -1)
    log = EventLog(
        np.tile([1, 2], 40).astype(np.int32),
        np.array(feedback, np.int8).ravel(),
        unknown,
        unknown,
        unknown,
        np.arange(0, 81, 2),
    )
    found = counting.within_users(log, np.ones(80, bool), num_items=2, shrinkage=1e-4).items
    np.testing.assert_allclose(found[1] - found[2], np.log(3.0), rtol=1e-2)
