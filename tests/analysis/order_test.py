"""Whether order can be learned: small logs whose answer is known."""

import numpy as np
import pytest
from logs import make_log, planted

from sine_jax.analysis import order
from sine_jax.types import DISLIKED, SKIPPED, WATCHED

MADE = {"num_users": 1000, "num_items": 60, "num_interests": 4, "num_exposures": 40}


def measured(log, num_items=60):
    return order.measure(log, num_items=num_items, seed=0)


@pytest.mark.parametrize(
    ("law", "learnable"),
    [
        ({"skip_effect": 1.0, "skip_decay": 0.9}, True),
        ({"skip_effect": 2.0, "skip_decay": 0.0}, True),
        ({"skip_effect": 0.0}, False),
    ],
)
def test_skips_with_an_effect_are_order_and_taste_alone_is_not(law, learnable):
    found = measured(planted(**MADE, **law))
    assert found.learnable == learnable
    assert found.verdict.startswith(f"Order can{'' if learnable else 'not'} be learned from this log")
    assert found.shuffled_bits > 0.01  # taste needs no order
    assert abs(found.redrawn_order_bits) < 0.002
    assert found.order_bits == pytest.approx(found.bits - found.shuffled_bits)
    assert (found.order_bits > 1.96 * found.error_over_users) == learnable


def test_a_small_log_is_not_said_to_have_no_order():
    found = measured(planted(**MADE | {"num_users": 100, "num_exposures": 15}, skip_effect=0.5, skip_decay=0.9))
    assert not found.learnable and found.verdict.startswith("This log is too small to tell")


def test_the_error_over_users_is_that_of_drawing_users_again():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 50, 400)
    rates = rng.normal(0.2, 0.1, 400)
    parts = sizes * rates / sizes.sum()
    again = rng.integers(0, 400, (2000, 400))
    drawn = (sizes * rates)[again].sum(axis=1) / sizes[again].sum(axis=1)
    assert order._error_of_total(parts, sizes) == pytest.approx(drawn.std(), rel=0.1)


def test_features_are_faded_sums_over_what_the_same_user_saw_before():
    log = make_log([(1, WATCHED), (2, SKIPPED), (1, DISLIKED), (3, WATCHED)], [], [(2, SKIPPED), (2, WATCHED)])
    similar = np.array([[0, 0], [1, 0], [0.6, 0.8], [0, 1]], np.float32)
    expected = np.full(6, 0.25)
    recent, alike = order.features(log, expected, similar)
    products = similar @ similar.T
    for user in range(3):
        for t in range(log.offsets[user], log.offsets[user + 1]):
            own = np.zeros((1 + 2, 3))
            for s in range(log.offsets[user], t):
                fade = order.DECAYS ** (t - 1 - s)
                if log.feedback[s] != DISLIKED:
                    own[0] += fade * ((log.feedback[s] == WATCHED) - 0.75)
                    own[1 + (log.feedback[s] == WATCHED)] += fade * products[log.items[s], log.items[t]]
            np.testing.assert_allclose(recent[t], own[0], atol=1e-6)
            np.testing.assert_allclose(alike[t], own[1:].ravel(), atol=1e-6)


def test_shuffles_keep_the_rows_of_each_user():
    log = planted(num_users=30, num_items=20)
    expected = np.random.default_rng(0).random(len(log.items))
    other, chances = order._shuffled(log, expected, np.random.default_rng(1))
    assert not np.array_equal(other.items, log.items)
    for user in range(30):
        span = slice(log.offsets[user], log.offsets[user + 1])
        rows = [
            sorted(zip(x.items[span], x.feedback[span], e[span], strict=True))
            for x, e in ((log, expected), (other, chances))
        ]
        assert rows[0] == rows[1]


def test_a_correlation_is_within_users_and_without_dislikes():
    log = make_log([(1, WATCHED), (1, SKIPPED), (1, DISLIKED), (1, WATCHED)], [(1, WATCHED), (1, WATCHED)])
    expected = np.full(6, 0.5)
    # The pairs are (+, -) of the first user and (+, +) of the second.
    assert order._correlation(log, expected, 1) == 0.0
    assert order._correlation(log, expected, 3) == 1.0
    assert order._correlation(log, expected, 9) == 0.0


def test_gaps_are_within_users():
    log = make_log([(1, WATCHED)] * 3, [(1, WATCHED)] * 2, [(1, WATCHED)])
    minutes = np.array([0, 2, 700, 5, 70, 9])
    found = order._gaps(log._replace(times=minutes * 60_000))
    assert found.median_minutes == 65 and found.over_an_hour == pytest.approx(2 / 3)
    assert found.over_ten_hours == pytest.approx(1 / 3) and found.median_minutes_if_spread == 350
    assert order._gaps(log) is None


def test_a_large_log_is_measured_on_some_of_its_users(monkeypatch):
    log = planted(num_users=50, num_items=20)
    monkeypatch.setattr(order, "MEASURED", 300)
    some = order._some_users(log, np.random.default_rng(0))
    assert 0 < len(some.items) <= 300 and some.offsets[-1] == len(some.items)
    assert all(length in log.lengths for length in some.lengths)


@pytest.mark.parametrize(
    "users",
    [
        [[(1, WATCHED), (2, SKIPPED), (1, WATCHED), (2, WATCHED)]],  # one user
        [[(1, WATCHED)] * 5, [(2, WATCHED)] * 5],  # no skip
        [[(1, SKIPPED)], [(2, WATCHED)], [(3, DISLIKED)]],
    ],
)
def test_a_log_with_nothing_to_learn_gets_a_sentence(users):
    found = measured(make_log(*users), num_items=3)
    assert not found.learnable and found.verdict.startswith("Order cannot be learned")
