"""Sub-interest states, the active one, and the exact collapse of the fusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.layers import interests, scoring
from sine_jax.layers.interests import Fusion
from sine_jax.layers.scoring import UserState

B, T, K, D, C = 2, 3, 4, 5, 6


@pytest.fixture
def states():
    return jnp.array(np.random.default_rng(0).normal(size=(B, T, D)))


@pytest.fixture
def table():
    return jnp.array(np.random.default_rng(1).normal(size=(K, D)))


@pytest.fixture
def items():
    return jnp.array(np.random.default_rng(2).normal(size=(B, T, C, D)))


def test_gates_lie_between_one_and_two(states, table):
    read = interests.read_interests(states, table)
    for b, t, k in np.ndindex(B, T, K):
        h = np.asarray(states[b, t])
        np.testing.assert_allclose(read[b, t, k], h * (1 + 1 / (1 + np.exp(-h * table[k]))), rtol=1e-5)


def test_linear_fusion_collapses_to_one_vector(states, table, items):
    """The released formula, one candidate and sub-interest at a time, whatever weights the candidate's half has."""
    read = np.asarray(interests.read_interests(states, table))
    fusion = Fusion(candidate_aware=False, dtype=jnp.dtype("float32"))
    params = fusion.init(jax.random.key(0), jnp.asarray(read), None)
    scores = scoring.score(fusion.apply(params, jnp.asarray(read), None), items)
    w_state = np.asarray(params["params"]["weights"])
    w_item, bias = np.random.default_rng(3).normal(size=D), 0.7
    for b, t, c in np.ndindex(B, T, C):
        e = np.asarray(items[b, t, c])
        logits = np.array([w_state @ read[b, t, k] + w_item @ e + bias for k in range(K)])
        attention = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(scores[b, t, c], sum(attention * (read[b, t] @ e)), rtol=1e-4, atol=1e-5)


def test_candidate_aware_fusion_is_its_formula(states, table, items):
    read = interests.read_interests(states, table)
    fusion = Fusion(candidate_aware=True, dtype=jnp.dtype("float32"))
    params = fusion.init(jax.random.key(0), read, None)
    prior = jax.nn.log_softmax(jnp.array(np.random.default_rng(4).normal(size=(B, T, K))))
    scores = scoring.score(fusion.apply(params, read, prior), items)
    w, matrix = params["params"]["weights"], params["params"]["candidate"]["kernel"]
    logits = (read @ w + prior)[..., None] + jnp.einsum("btkd,de,btce->btkc", read, matrix, items)
    expected = jnp.sum(jax.nn.softmax(logits, axis=2) * jnp.einsum("btkd,btcd->btkc", read, items), axis=2)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_shared_items_score_as_each_users_own(states, table, items):
    read = interests.read_interests(states[:, -1], table)
    state = UserState(read, jnp.flip(read, axis=-1), read[..., 0])
    shared = items[0, 0]
    np.testing.assert_allclose(
        scoring.score(state, shared),
        scoring.score(state, jnp.broadcast_to(shared, (B, C, D))),
        rtol=1e-5,
    )


def test_the_skip_counts_against_an_interest_only_where_there_is_one(states, table):
    positives, skips = states, jnp.flip(states, axis=0)
    skipped = jnp.array([[True, False, True], [False, False, True]])
    relation = interests.relation_to_interests(table, positives, skips, skipped=skipped)
    expected = (positives - jnp.where(skipped[..., None], skips, 0)) @ table.T
    np.testing.assert_allclose(relation, expected, rtol=1e-4, atol=1e-5)
