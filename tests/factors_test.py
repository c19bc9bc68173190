"""Item factors from co-exposure."""

import numpy as np
import pytest
from logs import make_log, planted

from sine_jax import factors
from sine_jax.data import synthetic
from sine_jax.types import SKIPPED, WATCHED

PLANTED = {"num_users": 2_000, "num_items": 200}


@pytest.mark.parametrize("dim", [8, 24])
def test_items_of_one_planted_interest_point_the_same_way(dim):
    log, interests = planted(**PLANTED), synthetic.catalogue(synthetic.Settings(**PLANTED)).interests
    found = factors.co_exposure(log, np.ones(len(log.items), bool), num_items=200, dim=dim)[1:]
    products, same = found @ found.T, interests[:, None] == interests[None]
    assert products[same].mean() > 0.85
    assert np.abs(products[~same]).mean() < 0.25
    watched = log._replace(feedback=1 - log.feedback)
    again = factors.co_exposure(watched, np.ones(len(log.items), bool), num_items=200, dim=dim)[1:]
    np.testing.assert_array_equal(found, again, "no feedback is used")


def test_what_does_not_count_is_not_seen_and_unseen_items_have_no_factor():
    log = planted(**PLANTED)
    where = log.items % 5 != 0
    found = factors.co_exposure(log, where, num_items=200, dim=4)
    assert found.shape == (201, 4) and found.dtype == np.float32
    assert not found[0].any() and not found[5::5].any()
    np.testing.assert_allclose(np.linalg.norm(found[1:5], axis=1), 1.0, rtol=1e-5)


def test_a_log_with_fewer_factors_than_asked_for_has_zeros():
    log = make_log([(1, 1), (2, 0)], [(2, 1), (3, 0)], [(3, 1), (1, 0)])
    found = factors.co_exposure(log, np.ones(6, bool), num_items=3, dim=16)
    assert np.isfinite(found).all() and not found[:, 3:].any()
    assert not factors.co_exposure(log, np.zeros(6, bool), num_items=3, dim=2).any()


def test_a_log_of_which_nothing_may_be_learned_has_no_factors():
    log = make_log([(1, WATCHED), (2, SKIPPED)])
    assert not factors.co_exposure(log, np.zeros(2, bool), num_items=5, dim=3).any()
