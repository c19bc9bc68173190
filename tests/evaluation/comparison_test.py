"""Tests and intervals agree with closed forms, with scipy and with simulations; what cannot be compared is refused."""

import itertools

import numpy as np
import pytest
from scipy import stats

from sine_jax import config as configs
from sine_jax.evaluation import comparison, metrics
from sine_jax.evaluation.comparison import Measured

NAN = float("nan")
SUMMARY = {
    "fingerprint": "f0",
    "split": "test",
    "protocol": "exposed",
    "data": {"split_by": "by_time", "train_until": 5, "valid_until": 9, "candidates": "released", "window_margin": 0},
}


def run(name, values, *, scorer="SINE", seed=1, checkpoint="best", summary=SUMMARY, users=None, **options):
    """A run with these values per user; options of its configuration as `section__option`."""
    values = np.array(values, np.float64)
    config = configs.replace(
        configs.Config(), {"train.seed": seed, **{name.replace("__", "."): v for name, v in options.items()}}
    )
    trained = scorer == "SINE"
    return Measured(
        name=name,
        scorer=scorer,
        config=config if trained else None,
        checkpoint=checkpoint if trained else None,
        summary=summary,
        users=[f"u{i}" for i in range(len(values))] if users is None else users,
        values=values,
    )


def simple(name, values, **others):
    """A scorer that is not trained."""
    return run(name, values, scorer="item rate", **others)


def compared(a, b, *, metric="gauc", **settings):
    """The one comparison of two runs."""
    (found,) = comparison.compare([a, b], metric=metric, **settings)["comparisons"]
    return found


def with_all_signs(values):
    """The values with every choice of signs."""
    return np.array(list(itertools.product([-1, 1], repeat=len(values)))) * values


def test_wilcoxon_of_few_is_the_share_of_signs_that_are_as_extreme():
    for differences in ([1.0, -2, 3, 4, 5, 6], [0, 1, 1, -1, 2, 2, 2.5], [0.5, 0, 0, 0, 0.25]):
        some = np.array([d for d in differences if d])
        ranks = stats.rankdata(np.abs(some))
        expected = np.mean(np.abs(with_all_signs(ranks).sum(axis=1)) >= abs(np.sum(ranks * np.sign(some))))
        np.testing.assert_allclose(comparison.wilcoxon(np.array([*differences, NAN])), expected)


def test_wilcoxon_of_many_is_that_of_the_normal_theory_with_shared_ranks():
    differences = np.random.default_rng(0).integers(-4, 6, 300).astype(float)
    some = differences[differences != 0]
    ranks = stats.rankdata(np.abs(some))
    # Under the null each rank has a fair sign, so that the variance of their sum is the sum of their squares.
    z = np.sum(ranks * np.sign(some)) / np.sqrt(np.sum(ranks**2))
    np.testing.assert_allclose(comparison.wilcoxon(differences), 2 * stats.norm.sf(abs(z)))


def test_sign_flips_of_few_try_all_signs():
    rng = np.random.default_rng(1)
    differences = np.stack([rng.normal(0.5, 1, 11), rng.integers(-2, 4, 11), np.arange(1.0, 12)], axis=1)
    expected = [
        stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        for d in differences.T
    ]
    np.testing.assert_allclose(comparison.sign_flips(differences), expected)
    assert expected[2] == 2 / 2**11  # all signs equal: that choice and its opposite


def test_sign_flips_of_many_are_drawn_and_agree_with_the_normal_theory():
    rng = np.random.default_rng(2)
    differences = rng.normal(0, 1, (400, 3)) + [0, 0.1, 1]
    p = comparison.sign_flips(differences)
    z = differences.sum(axis=0) / np.sqrt(np.sum(differences**2, axis=0))
    expected = 2 * stats.norm.sf(np.abs(z))
    np.testing.assert_allclose(p[:2], expected[:2], atol=4 * np.sqrt(0.25 / comparison.DRAWS))
    assert p[2] == 1 / (comparison.DRAWS + 1) > expected[2]
    np.testing.assert_array_equal(p, comparison.sign_flips(differences))
    np.testing.assert_array_equal(p[1:2], comparison.sign_flips(differences[:, 1:2]))  # shared draws


def test_users_without_a_value_change_no_test():
    differences = np.random.default_rng(3).normal(0.3, 1, (20, 1))
    holes = np.insert(differences, [0, 7, 20], NAN, axis=0)
    few = differences[:9]
    np.testing.assert_array_equal(
        comparison.sign_flips(np.insert(few, [2, 9], NAN, axis=0)), comparison.sign_flips(few)
    )
    assert comparison.wilcoxon(holes[:, 0]) == comparison.wilcoxon(differences[:, 0])


@pytest.mark.parametrize(
    ("differences", "p"), [([], NAN), ([NAN, NAN], NAN), ([0.0, 0, NAN], 1), ([0.3], 1), ([0.3, 0, 0.2], 0.5)]
)
def test_tiny_populations(differences, p):
    differences = np.array(differences, np.float64)
    np.testing.assert_equal(comparison.wilcoxon(differences), p)
    np.testing.assert_equal(comparison.sign_flips(differences[:, None]), [p])


def test_holm_by_hand():
    # In order .005 .01 .03 .04, times 4 3 2 1, none below the one before: .02 .03 .06 .06.
    np.testing.assert_allclose(comparison.holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(comparison.holm(np.array([0.9, NAN, 0.6])), [1, NAN, 1])
    np.testing.assert_allclose(comparison.holm(np.array([0.2])), [0.2])
    assert comparison.holm(np.array([])).shape == (0,)


def test_the_interval_covers_and_the_tests_claim_as_often_as_they_say():
    """Runs of 150 users who differ much from each other, and little from one run to the other, by .05 on average."""
    rng, covered, false_claims, widths, trials = np.random.default_rng(4), 0, np.zeros(2), [], 200
    for trial in range(trials):
        users = rng.normal(0.6, 1, 150)
        a, b = users + rng.exponential(0.2, 150), users + rng.exponential(0.2, 150)
        found = compared(run("a", a), simple("b", b + 0.05), resamples=300, draws=199, seed=trial)
        covered += found["low"] <= 0.05 <= found["high"]
        widths.append(found["high"] - found["low"])
        same = compared(run("a", a), simple("b", b), resamples=2, draws=199, seed=trial)
        false_claims += [same["permutation"] <= 0.05, same["wilcoxon"] <= 0.05]
    spread = 3 * np.sqrt(0.95 * 0.05 / trials)  # three standard errors of a share
    assert abs(covered / trials - 0.95) < spread
    assert (np.abs(false_claims / trials - 0.05) < spread).all()
    # Paired: the users' own spread, seven times larger, does not count.
    np.testing.assert_allclose(np.mean(widths), 2 * 1.96 * 0.2 * np.sqrt(2 / 150), rtol=0.1)


@pytest.mark.parametrize("metric", ["gauc", "auc"])
@pytest.mark.parametrize("number", [1, 3, 40])
def test_equal_runs_do_not_differ(metric, number):
    values = np.random.default_rng(5).random(number)
    found = compared(run("a", values), run("again", values), metric=metric)
    tests = [name for name in found if name.startswith(("wilcoxon", "permutation"))]
    assert len(tests) == (2 if metric == "auc" else 4)
    assert [found[name] for name in tests] == [1] * len(tests)
    assert (found["difference"], found["low"], found["high"], found["users"]) == (0, 0, 0, number)


def test_noise_of_adding_up_is_no_difference():
    values = np.full(30, 0.3)
    found = compared(run("a", values), simple("b", values + 1e-16 * np.arange(30)))
    assert (found["difference"], found["wilcoxon"], found["permutation"]) == (0, 1, 1)


def test_users_are_paired_and_those_without_both_values_are_left_out_and_counted():
    found = compared(run("a", [0.1, NAN, 0.3, 0.4, NAN]), simple("b", [0.2, 0.9, NAN, 0.9, NAN]))
    assert (found["users"], found["users_without_both"]) == (2, 3)
    np.testing.assert_allclose(found["difference"], ((0.2 - 0.1) + (0.9 - 0.4)) / 2)


def test_no_user_with_both_values_is_said_by_nothing():
    a, b, c = run("a", [0.1, NAN, 0.5]), simple("b", [NAN, 0.2, NAN]), run("c", [0.2, 0.3, 0.6], model__dim=32)
    nothing, found = comparison.compare([a, b, c], metric="gauc")["comparisons"]
    assert nothing.pop("users_without_both") == 3 and nothing.pop("users") == 0 and nothing.pop("method") == "b"
    assert set(nothing.values()) == {None}
    assert found["wilcoxon_holm"] == found["wilcoxon"]  # what could not be tested is none of the tests


def test_the_other_way_round_changes_signs_alone():
    rng = np.random.default_rng(6)
    a, b = rng.random((2, 60))
    one, other = compared(run("a", a), simple("b", b)), compared(simple("b", b), run("a", a))
    assert one["difference"] == -other["difference"]
    np.testing.assert_allclose((one["low"], one["high"]), (-other["high"], -other["low"]))
    assert [one[p] for p in ("wilcoxon", "permutation")] == [other[p] for p in ("wilcoxon", "permutation")]


def test_seeds_of_one_method_are_averaged_by_user_and_their_spread_told_apart():
    rng = np.random.default_rng(7)
    a1, a2, b1, b2, b3 = values = rng.random((5, 25))
    a1[3], b3[4] = NAN, NAN  # not defined for a user in one run: not for the method
    runs = [run("a1", a1), run("b1", b1, model__dim=32), run("a2", a2, seed=2)]
    runs += [run("b2", b2, seed=2, model__dim=32), run("b3", b3, seed=3, model__dim=32)]
    found = comparison.compare(runs, metric="gauc")
    assert [method["runs"] for method in found["methods"]] == [["a1", "a2"], ["b1", "b2", "b3"]]
    assert [method["seeds"] for method in found["methods"]] == [[1, 2], [1, 2, 3]]
    means = [np.nanmean(v) for v in values]
    for method, of_runs in zip(found["methods"], (means[:2], means[2:]), strict=True):
        np.testing.assert_allclose(method["mean"], np.mean(of_runs))
        np.testing.assert_allclose(method["run_means"], of_runs)
        np.testing.assert_allclose(method["seeds_std"], np.std(of_runs, ddof=1))
        np.testing.assert_allclose(method["seeds_range"], max(of_runs) - min(of_runs))
    (against,) = found["comparisons"]
    difference = np.mean([b1, b2, b3], axis=0) - np.mean([a1, a2], axis=0)
    np.testing.assert_allclose(against["difference"], np.nanmean(difference))
    assert (against["users"], against["users_without_both"]) == (23, 2)
    error = np.sqrt(np.var(means[:2], ddof=1) / 2 + np.var(means[2:], ddof=1) / 3)
    np.testing.assert_allclose(against["seeds_error"], error)


def test_what_differs_in_more_than_its_seed_stays_apart():
    values = [0.1, 0.2]
    runs = [run("a", values), run("same seed", values), run("another checkpoint", values, seed=2, checkpoint="latest")]
    runs += [simple("simple", values), simple("simple again", values), run("second seed", values, seed=3)]
    groups = comparison.grouped(runs)
    assert [group.runs for group in groups] == [
        ("a", "second seed"),
        ("same seed",),
        ("another checkpoint",),
        ("simple",),
        ("simple again",),
    ]
    assert groups[3].seeds == ()


def test_holm_counts_all_runs_that_are_compared():
    rng = np.random.default_rng(8)
    base = rng.random(50)
    others = [run(f"b{i}", base + rng.normal(0.05 * i, 0.3, 50), model__dim=8 * (i + 1)) for i in range(4)]
    found = comparison.compare([run("a", base), *others], metric="gauc")["comparisons"]
    for name in ("wilcoxon", "permutation"):
        np.testing.assert_allclose(
            [row[f"{name}_holm"] for row in found], comparison.holm(np.array([row[name] for row in found]))
        )


def test_the_pooled_auc_differs_by_what_the_aucs_do_and_has_no_wilcoxon():
    rng = np.random.default_rng(9)
    labels, users = rng.random(600) < 0.4, rng.integers(0, 60, 600)
    aucs, values = [], []
    for strength in (0.5, 1.0):
        scores = rng.normal(0, 1, 600) + strength * labels
        values.append(metrics.pooled_auc(scores, labels, users, num_users=60))
        aucs.append(stats.mannwhitneyu(scores[labels], scores[~labels]).statistic / labels.sum() / (~labels).sum())
    found = compared(run("a", values[0]), simple("b", values[1]), metric="auc")
    np.testing.assert_allclose(found["difference"], aucs[1] - aucs[0])
    assert found["low"] < aucs[1] - aucs[0] < found["high"]
    assert "wilcoxon" not in found and found["permutation"] < 0.05


@pytest.mark.parametrize("field", [*comparison.IDENTITY])
def test_runs_of_another_evaluation_are_refused_with_the_field_and_both_values(field):
    *path, last = comparison.IDENTITY[field]
    other = {**SUMMARY, "data": dict(SUMMARY["data"])}
    at = other["data"] if path else other
    before, at[last] = at[last], "another"
    with pytest.raises(
        ValueError, match=f"^b cannot be compared with a: its {field} is another, but {before} there; evaluate both"
    ):
        compared(run("a", [0.1]), simple("b", [0.2], summary=other))


def test_runs_of_other_users_are_refused():
    with pytest.raises(ValueError, match="b cannot be compared with a: its 2 users are not the 2 there"):
        compared(run("a", [0.1, 0.2]), simple("b", [0.2, 0.3], users=["u1", "u0"]))


def test_windows_of_another_margin_may_be_compared():
    """What a model reads is the method's own; what it ranks is not."""
    other = {**SUMMARY, "data": {**SUMMARY["data"], "window_margin": 2}}
    assert compared(run("a", [0.1]), simple("b", [0.2], summary=other))["users"] == 1


def test_nothing_to_compare_is_said():
    with pytest.raises(ValueError, match="nothing to compare: a, b differ only in their seed"):
        comparison.compare([run("a", [0.1]), run("b", [0.2], seed=2)], metric="gauc")
    with pytest.raises(ValueError, match="nothing to compare: a is alone"):
        comparison.compare([run("a", [0.1])], metric="gauc")
