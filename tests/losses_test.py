"""Value, mask, emptiness and extremes of each loss; means over parts and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax import losses


def test_preference_loss_is_minus_log_sigmoid_of_the_margin():
    where = jnp.array([[True, True], [True, False]])
    preferred, other = jnp.array([[2.0, 0.0], [1.0, 9.0]]), jnp.array([[1.0, 0.0], [3.0, 9.0]])
    loss = losses.mean([losses.preference_loss(preferred, other, where=where)])
    expected = (np.log(1 + np.exp(-1.0)) + np.log(2.0) + np.log(1 + np.exp(2.0))) / 3
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_masked_entries_give_neither_value_nor_gradient():
    where = jnp.array([True, False])

    def loss(preferred):
        return losses.mean([losses.preference_loss(preferred, jnp.zeros(2), where=where)])

    for masked_out in (5.0, -jnp.inf, jnp.nan):
        np.testing.assert_allclose(loss(jnp.array([0.0, masked_out])), np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(jnp.array([0.0, 5.0])), [-0.5, 0.0], rtol=1e-6)


def test_an_empty_mask_gives_zero():
    assert losses.mean([losses.preference_loss(jnp.ones(3), jnp.zeros(3), where=jnp.zeros(3, bool))]) == 0
    assert losses.mean([]) == 0


@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_extreme_margins_stay_finite(margin):
    def loss(x):
        return losses.mean([losses.preference_loss(x, jnp.zeros(1), where=jnp.ones(1, bool))])

    value, gradient = jax.value_and_grad(loss)(jnp.array([margin]))
    np.testing.assert_allclose(value, max(-margin, 0.0))
    np.testing.assert_allclose(gradient, [-1.0 if margin < 0 else 0.0])


def test_parts_of_unequal_size_weigh_by_their_pairs():
    parts = [
        losses.masked(jnp.array([1.0, 2.0, 3.0]), where=jnp.ones(3, bool)),
        losses.masked(jnp.array([10.0]), where=jnp.ones(1, bool)),
    ]
    np.testing.assert_allclose(losses.mean(parts), 16 / 4)


def test_devices_with_unequal_counts_give_the_global_mean():
    values = jnp.arange(8.0).reshape(4, 2)
    where = jnp.array([[True, True], [True, False], [False, False], [True, True]])

    def on_device(values, where):
        loss = losses.mean([losses.masked(values, where=where)], axis_name="devices")
        return jax.lax.pmean(loss, "devices")

    per_device = jax.pmap(on_device, axis_name="devices")(values, where)
    np.testing.assert_allclose(per_device, np.full(4, (0 + 1 + 2 + 6 + 7) / 5), rtol=1e-6)


def test_cross_entropy_value_and_no_gradient_into_the_target():
    log_probabilities = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    targets, where = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.ones(2, bool)

    def loss(log_probabilities, targets):
        return losses.mean([losses.cross_entropy(log_probabilities, targets, where=where)])

    np.testing.assert_allclose(loss(log_probabilities, targets), (np.log(4) + np.log(2)) / 2, rtol=1e-6)
    assert not np.any(jax.grad(loss, argnums=1)(log_probabilities, targets))


def test_distance_correlation_by_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=7), rng.normal(size=7)

    def centred(v):
        d = np.abs(v[:, None] - v[None, :])
        return d - d.mean(0, keepdims=True) - d.mean(1, keepdims=True) + d.mean()

    a, b = centred(x), centred(y)
    expected = np.sqrt((a * b).mean()) / np.sqrt(np.sqrt((a * a).mean()) * np.sqrt((b * b).mean()))
    np.testing.assert_allclose(losses.distance_correlation(jnp.array(x), jnp.array(y)), expected, rtol=1e-5)


def test_distance_correlation_is_one_for_linear_and_zero_for_constant():
    x = jnp.arange(5.0)
    np.testing.assert_allclose(losses.distance_correlation(x, -3 * x + 1), 1.0, rtol=1e-5)
    value, gradient = jax.value_and_grad(losses.distance_correlation)(jnp.ones(5), x)
    assert value == 0
    assert np.all(np.isfinite(gradient))


def test_total_distance_correlation_sums_over_pairs():
    rows = jnp.array(np.random.default_rng(1).normal(size=(3, 6)))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum(losses.distance_correlation(rows[i], rows[j]) for i, j in pairs)
    np.testing.assert_allclose(losses.total_distance_correlation(rows), expected, rtol=1e-6)


def value(part):
    return float(losses.mean([part]))


def test_the_sampled_softmax_is_the_softmax_when_every_other_item_is_drawn_once():
    scores = jnp.array([[1.0, -2.0, 0.5, 3.0]])
    chances = jnp.full((1, 3), -np.log(3.0))  # M q = 1
    found = losses.sampled_softmax_loss(scores[:, :1], scores[:, 1:], chances, where=jnp.ones((1, 3), bool))
    np.testing.assert_allclose(value(found), float(jax.nn.logsumexp(scores[0]) - scores[0, 0]), rtol=1e-6)


def test_the_sampled_softmax_estimates_the_partition_function_without_bias():
    scores = jnp.array([0.3, -1.0, 2.0, 0.0])
    chances = jnp.array([0.1, 0.2, 0.3, 0.4])
    estimates = [
        np.exp(
            value(
                losses.sampled_softmax_loss(
                    jnp.zeros((1, 1)),
                    scores[None, i : i + 1],
                    jnp.log(chances)[None, i : i + 1],
                    where=jnp.ones((1, 1), bool),
                )
            )
        )
        - 1
        for i in range(4)
    ]
    np.testing.assert_allclose(np.sum(chances * np.array(estimates)), np.sum(np.exp(scores)), rtol=1e-5)


def test_what_was_drawn_and_left_out_stands_for_itself_alone():
    scores = jnp.array([0.3, -1.0, 2.0])
    estimates = [
        np.exp(
            value(
                losses.sampled_softmax_loss(
                    jnp.zeros((1, 1)),
                    scores[None, [i, j]],
                    jnp.full((1, 2), -np.log(3.0)),
                    where=jnp.array([[i > 0, j > 0]]),  # the first item is left out
                )
            )
        )
        - 1
        for i in range(3)
        for j in range(3)
    ]
    np.testing.assert_allclose(np.mean(estimates), np.sum(np.exp(scores[1:])), rtol=1e-5)


def test_gbce_of_no_calibration_is_binary_cross_entropy():
    assert losses.gbce_beta(num_negatives=5, num_items=101, t=0.0) == pytest.approx(1.0)
    assert losses.gbce_beta(num_negatives=5, num_items=101, t=1.0) == pytest.approx(0.05)
    watched, sampled = jnp.array([[2.0]]), jnp.array([[1.0, -1.0]])
    found = losses.gbce_loss(watched, sampled, beta=1.0, where=jnp.ones((1, 2), bool))
    np.testing.assert_allclose(
        value(found), (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0)) + np.log1p(np.exp(-1.0))) / 3, rtol=1e-6
    )
    alone = losses.gbce_loss(watched, sampled, beta=1.0, where=jnp.array([[True, False]]))
    np.testing.assert_allclose(value(alone), (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))) / 2, rtol=1e-6)
    assert losses.gbce_beta(num_negatives=500, num_items=101, t=1.0) == 1.0  # more than all there are count as all


def test_watch_probability_loss_is_logistic():
    logits, watched = jnp.array([2.0, 2.0]), jnp.array([True, False])
    found = losses.watch_probability_loss(logits, watched, where=jnp.ones(2, bool))
    np.testing.assert_allclose(value(found), (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(2.0))) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, s, where: losses.sampled_softmax_loss(p, s, jnp.zeros(s.shape), where=where),
        lambda p, s, where: losses.gbce_loss(p, s, beta=0.5, where=where),
    ],
)
def test_losses_over_samples_mask_stay_finite_and_are_zero_when_empty(loss):
    where = jnp.array([[True, False], [False, False]])

    def total(watched, sampled):
        return losses.mean([loss(watched, sampled, where)])

    extreme = jnp.array([[-500.0], [1.0]]), jnp.array([[500.0, jnp.inf], [3.0, 4.0]])
    assert np.isfinite(total(*extreme))
    gradients = jax.grad(total, argnums=(0, 1))(jnp.zeros((2, 1)), jnp.zeros((2, 2)))
    assert all(np.isfinite(g).all() for g in gradients)
    assert gradients[0][0, 0] < 0 < gradients[1][0, 0] and not gradients[0][1].any() and not gradients[1][:, 1].any()
    assert float(losses.mean([loss(jnp.ones((2, 1)), jnp.ones((2, 2)), jnp.zeros((2, 2), bool))])) == 0
