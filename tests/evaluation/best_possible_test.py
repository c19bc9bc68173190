"""What a scorer can know that knows the law of a synthetic log."""

import numpy as np
import pytest

from sine_jax import presets
from sine_jax.data import datasets, law, preparation, sources, synthetic
from sine_jax.data.synthetic import Settings
from sine_jax.evaluation import best_possible, protocols, ranking
from sine_jax.types import WATCHED

SETTINGS = Settings(num_users=1500, num_items=60, num_exposures=20, num_interests=3, skip_effect=1.0, skip_decay=0.8)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("law") / "data"
    preparation.prepare(sources.generated(SETTINGS), folder, min_positives=0)  # a filter would choose by feedback
    return datasets.load(folder), law.load(folder)


def test_nothing_known_is_the_prior(drawn):
    dataset, found = drawn
    owners = np.arange(5)
    posterior = best_possible.posteriors(found, dataset.log, owners, dataset.log.offsets[:5])
    values, _ = best_possible._lattice()
    np.testing.assert_allclose(posterior.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(posterior @ values, 1 / 3, atol=0.01)
    # Of Dirichlet(0.3, 0.3, 0.3) each part has the variance a (A - a) / (A^2 (A + 1)), A = 0.9.
    variance = posterior @ values**2 - (posterior @ values) ** 2
    np.testing.assert_allclose(variance, 0.3 * 0.6 / (0.81 * 1.9), rtol=0.05)


def test_the_posterior_is_that_of_weighted_draws(drawn):
    dataset, found = drawn
    log, owners = dataset.log, np.array([0, 11, 12, 500])
    ends = log.offsets[owners + 1] - np.array([0, 3, 12, 1])
    posterior = best_possible.posteriors(found, log, owners, ends)
    tastes = np.random.default_rng(0).dirichlet(np.full(3, 0.3), 200_000)
    for row, (owner, end) in enumerate(zip(owners, ends, strict=True)):
        at = np.arange(log.offsets[owner], end)
        items, interest = log.items[at], found.interest[log.items[at]]
        faded = law.faded_skips(found, log, np.full(len(at), owner), at)[np.arange(len(at)), interest]
        odds = law.log_odds(found, tastes[:, interest], items, faded)
        shown = 0.6 * tastes[:, interest] * found.share_of_interest[items] + 0.4 * found.share_of_all[items]
        sign = np.where(log.feedback[at] == WATCHED, -1, 1)
        weights = np.exp((np.log(shown) - np.logaddexp(0, sign * odds)).sum(axis=1))
        expected = weights @ tastes / weights.sum()
        np.testing.assert_allclose(posterior[row] @ best_possible._lattice()[0], expected, atol=0.02)


def test_large_logs_are_read_in_parts(drawn, monkeypatch):
    dataset, found = drawn
    owners, ends = np.arange(200)[::-1], dataset.log.offsets[1:201][::-1]
    whole = best_possible.posteriors(found, dataset.log, owners, ends)
    monkeypatch.setattr(best_possible, "EXPOSURES_AT_ONCE", 300)
    np.testing.assert_allclose(best_possible.posteriors(found, dataset.log, owners, ends), whole, rtol=1e-4, atol=1e-6)


def test_mean_skips_are_those_of_the_log(drawn):
    """Users have been shown enough to be near the long run; the fixed point leaves out how skips vary."""
    dataset, found = drawn
    ends = dataset.log.offsets[1:]
    faded = law.faded_skips(found, dataset.log, np.arange(len(ends)), ends)
    for low in (0.0, 0.3, 0.6, 0.9):
        where = (found.tastes >= low) & (found.tastes < low + 0.1)
        mean = best_possible.mean_faded_skips(found, np.array([low + 0.05]))[:, 0]
        for interest in range(3):
            assert faded[where[:, interest], interest].mean() == pytest.approx(mean[interest], rel=0.2)


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS.values())
def test_who_knows_more_ranks_better(drawn, protocol):
    dataset, found = drawn
    evaluation = ranking.evaluate(
        dataset.log,
        config=presets.default(),
        num_items=dataset.info.num_items,
        part="test",
        protocol=protocol,
        law=found,
    )
    gauc = {scorer: means["gauc"] for scorer, means in evaluation.means.items()}
    best = gauc["best possible"]
    assert gauc["generating probability"] > best - 0.01
    assert best > max(gauc[name] for name in ("item bias (within users)", "matrix factorisation", "item count"))
    assert best > gauc["best possible, blind to skips"]


def test_scores_are_the_log_odds_of_the_chance(drawn):
    dataset, found = drawn
    log, owners = dataset.log, np.arange(30)
    ends = log.offsets[1:31] - 1
    known = best_possible.known(found, log, owners, ends)["generating probability"]
    scorer = best_possible.scorer(found.settings, shown_too=False)
    scores = scorer.score_candidates(known, scorer.encode(known, owners, None), log.items[ends][:, None])[:, 0]
    expected = law.chances(found, log)[ends]
    np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(scores))), expected, rtol=1e-4)
    assert synthetic.BY_TASTE == 0.6


def test_long_histories_have_a_posterior(drawn):
    """However sure the likelihood of each taste is: tastes whose sum is 1 are chosen among, even far from its peaks."""
    sharp = -3000.0 * (np.linspace(0, 1, best_possible.GRID + 1) - np.array([[0.9], [0.8], [0.4]])) ** 2
    found = best_possible._marginals(sharp[None])
    values, _ = best_possible._lattice()
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-6)
    # The peaks sum to 2.1, so the nearest tastes that sum to 1 are each a third of 1.1 below.
    np.testing.assert_allclose((found @ values)[0], np.array([0.9, 0.8, 0.4]) - 1.1 / 3, atol=0.03)
