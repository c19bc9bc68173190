"""The simple scorers count what they say they count, and fit what they say they fit."""

import jax.numpy as jnp
import numpy as np
import pytest
from logs import make_log, planted
from sklearn.metrics import roc_auc_score

from sine_jax.data import splits
from sine_jax.evaluation import scorers, simple_scorers
from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog, Histories

W, S, D = WATCHED, SKIPPED, DISLIKED
LOG = make_log([(1, S), (2, S), (1, W), (3, D), (2, W), (3, S), (3, W), (1, W)], [], [(1, W), (2, S)])
TEST = splits.last_positive(LOG, after_target=True).test  # user 0: training stops after exposure 2, history after 6


def test_masks_by_hand():
    for mask, expected in (
        (simple_scorers.training(LOG, TEST), [0, 1, 2, 3, 4]),
        (simple_scorers.training_pairs(LOG, TEST), [1, 2, 4]),
        (simple_scorers.history(LOG, TEST), [0, 1, 2, 3, 4, 5, 6]),
    ):
        assert np.flatnonzero(mask).tolist() == expected


def test_a_skip_is_not_paired_with_another_users_positive():
    log = make_log([(1, W), (2, S)], [(3, W), (1, W), (2, W), (3, W)])
    split = splits.last_positive(log, after_target=True).test
    assert np.flatnonzero(simple_scorers.training_pairs(log, split)).tolist() == [2, 3]


def test_count_and_smoothed_rate_by_hand():
    where = np.ones(len(LOG.items), bool)
    assert simple_scorers.item_count(LOG, where, num_items=4).items.tolist() == [0, 3, 1, 1, 0]
    mean = (5 + 1) / (10 + 2)
    rate = np.array([(3 + 10 * mean) / 14, (1 + 10 * mean) / 13, (1 + 10 * mean) / 13, mean])
    log_odds = simple_scorers.item_rate(LOG, where, num_items=4).items[1:]
    np.testing.assert_allclose(log_odds, np.log(rate / (1 - rate)), atol=1e-6)


def test_logistic_biases_recover_what_was_planted():
    rng = np.random.default_rng(0)
    user, item = rng.normal(0, 1, 40), rng.normal(0, 1, 11)
    items = rng.integers(1, 11, (40, 400))
    watched = rng.random((40, 400)) < 1 / (1 + np.exp(-user[:, None] - item[items]))
    log = make_log(*[list(zip(i, w, strict=True)) for i, w in zip(items, watched, strict=True)])
    found = simple_scorers.logistic_biases(log, np.ones(len(log.items), bool), num_items=10)
    assert np.corrcoef(found.users, user)[0, 1] > 0.97
    assert np.corrcoef(found.items[1:], item[1:])[0, 1] > 0.97
    assert not simple_scorers.item_part(found).users.any()


def test_nothing_counted_gives_a_constant():
    nothing = np.zeros(len(LOG.items), bool)
    assert not simple_scorers.logistic_biases(LOG, nothing, num_items=3).items.any()
    assert not simple_scorers.item_rate(LOG, nothing, num_items=3).items.any()


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
    by_rate = simple_scorers.item_rate(log, everything, num_items=2).items
    within = simple_scorers.within_users(log, everything, num_items=2, shrinkage=1e-3).items
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
    found = simple_scorers.within_users(log, np.ones(80, bool), num_items=2, shrinkage=1e-4).items
    np.testing.assert_allclose(found[1] - found[2], np.log(3.0), rtol=1e-2)


def taste_log(num_users=60, num_items=12, seed=0):
    """Half of the users watch the even items, half the odd: no bias of user or item tells anything."""
    items = np.concatenate(
        [np.random.default_rng((seed, user)).permutation(num_items) + 1 for user in range(num_users)]
    )
    users = np.repeat(np.arange(num_users), num_items)
    unknown = np.full(len(items), -1)
    offsets = np.arange(0, len(items) + 1, num_items)
    return users, EventLog(
        items.astype(np.int32), ((items + users) % 2).astype(np.int8), unknown, unknown, unknown, offsets
    )


def scored(factors, users, items):
    scorer = scorers.of_factors()
    state = scorer.encode(factors, jnp.asarray(users), Histories(jnp.zeros((1, 1)), jnp.zeros((1, 1))))
    return scorer.score_candidates(factors, state, jnp.asarray(items))


def test_vectors_learn_what_biases_cannot():
    users, log = taste_log()
    learned = np.arange(len(users)) % 12 < 8
    factors = simple_scorers.factorise(log, learned, num_items=12, epochs=40, learning_rate=0.05, precisions=[0.1])
    scores = np.asarray(scored(factors, users[~learned], log.items[~learned][:, None]))[:, 0]
    watched = log.feedback[~learned] == 1
    assert scores[watched].min() > scores[~watched].max()


def test_a_narrow_prior_leaves_the_biases():
    users, log = taste_log()
    everything = np.ones(len(users), bool)
    factors = simple_scorers.factorise(log, everything, num_items=12, precisions=[1e5], epochs=20)
    biases = simple_scorers.logistic_biases(log, everything, num_items=12)
    expected = biases.users[:5, None] + biases.items[None, 1:4]
    np.testing.assert_allclose(scored(factors, np.arange(5), np.tile([1, 2, 3], (5, 1))), expected, atol=1e-3)


@pytest.mark.parametrize("affinity", [0.0, 2.0])
def test_planted_taste_is_found_and_without_it_little_is_lost(affinity):
    log = planted(num_users=1_500, num_items=150, num_interests=4, affinity=affinity, skip_effect=0.0)
    learned = np.random.default_rng(0).random(len(log.items)) < 0.7
    vectors = simple_scorers.factorise(log, learned, num_items=150)
    users, items, watched = log.users[~learned], log.items[~learned], log.feedback[~learned] == 1
    found = np.asarray(scored(vectors, users, items[:, None]))[:, 0]
    biases = np.asarray(vectors.biases.users)[users] + np.asarray(vectors.biases.items)[items]
    gain = roc_auc_score(watched, found) - roc_auc_score(watched, biases)
    assert gain > 0.05 if affinity else abs(gain) < 0.005


def test_the_catalogue_is_scored_as_candidates_are():
    users, log = taste_log()
    factors = simple_scorers.factorise(log, np.ones(len(users), bool), num_items=12, precisions=[0.1])
    scorer, some = scorers.of_factors(), jnp.arange(3)
    state = scorer.encode(factors, some, Histories(jnp.zeros((3, 1)), jnp.zeros((3, 1))))
    items = jnp.arange(1, 13)
    every = scorer.score_candidates(factors, state, jnp.tile(items, (3, 1)))
    np.testing.assert_allclose(scorer.score_items(factors, state, items), every, rtol=1e-5, atol=1e-6)


def test_nothing_to_learn_from_leaves_zeros():
    users, log = taste_log()
    factors = simple_scorers.factorise(log, np.zeros(len(users), bool), num_items=12)
    assert not np.any(factors.users) and not np.any(factors.items)


def test_the_weight_of_the_watched_share_is_that_of_a_plain_regression():
    rng = np.random.default_rng(0)
    users, lengths = 400, rng.integers(0, 30, 400)
    rates = rng.normal(0, 1.5, users)
    items = rng.integers(1, 6, lengths.sum())
    worth = np.array([0, -1.0, -0.5, 0, 0.5, 1.0])
    odds = np.repeat(rates, lengths) + worth[items]
    feedback = (rng.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(int)
    feedback[rng.random(len(odds)) < 0.05] = DISLIKED
    ends = np.cumsum(lengths)
    log = make_log(
        *(list(zip(items[e - n : e], feedback[e - n : e], strict=True)) for e, n in zip(ends, lengths, strict=True))
    )
    biases = simple_scorers.Biases(np.zeros(users), worth)
    where = log.before(log.offsets[:-1] + log.lengths // 2)
    weight, constant = simple_scorers.watched_share(log, where, biases)

    def loss(weight, constant):
        total = 0.0
        for user in range(users):
            watched = skipped = 1
            for at in range(log.offsets[user], log.offsets[user] + log.lengths[user] // 2):
                if log.feedback[at] != DISLIKED:
                    score = weight * np.log(watched / skipped) + constant + worth[log.items[at]]
                    total += np.logaddexp(0, -score if log.feedback[at] == WATCHED else score)
                watched, skipped = watched + (log.feedback[at] == WATCHED), skipped + (log.feedback[at] == SKIPPED)
        return total + ((weight - 1) ** 2 + constant**2) / 2

    best = loss(weight, constant)
    for change in (0.02, -0.02):
        assert best < loss(weight + change, constant) and best < loss(weight, constant + change)
    assert 0.3 < weight < 1.2
