import jax.numpy as jnp
import numpy as np

from sine_jax.evaluation import counting, factorisation, scorers
from sine_jax.types import EventLog, Histories


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
    factors = factorisation.factorise(log, learned, num_items=12, epochs=40, learning_rate=0.05, penalty=0.01)
    scores = np.asarray(scored(factors, users[~learned], log.items[~learned][:, None]))[:, 0]
    watched = log.feedback[~learned] == 1
    assert scores[watched].min() > scores[~watched].max()


def test_a_heavy_penalty_leaves_the_biases():
    users, log = taste_log()
    everything = np.ones(len(users), bool)
    factors = factorisation.factorise(log, everything, num_items=12, penalty=100.0, epochs=20)
    biases = counting.logistic_biases(log, everything, num_items=12)
    expected = biases.users[:5, None] + biases.items[None, 1:4]
    np.testing.assert_allclose(scored(factors, np.arange(5), np.tile([1, 2, 3], (5, 1))), expected, atol=1e-3)


def test_the_catalogue_is_scored_as_candidates_are():
    users, log = taste_log()
    factors = factorisation.factorise(log, np.ones(len(users), bool), num_items=12, penalty=0.01)
    scorer, some = scorers.of_factors(), jnp.arange(3)
    state = scorer.encode(factors, some, Histories(jnp.zeros((3, 1)), jnp.zeros((3, 1))))
    items = jnp.arange(1, 13)
    every = scorer.score_candidates(factors, state, jnp.tile(items, (3, 1)))
    np.testing.assert_allclose(scorer.score_items(factors, state, items), every, rtol=1e-5, atol=1e-6)


def test_nothing_to_learn_from_leaves_zeros():
    users, log = taste_log()
    factors = factorisation.factorise(log, np.zeros(len(users), bool), num_items=12)
    assert not np.any(factors.users) and not np.any(factors.items)
