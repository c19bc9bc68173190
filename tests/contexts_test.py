"""Context columns, from a raw log to scores: what is known of an exposure when it is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from sine_jax import build_model, model, presets, run
from sine_jax import config as configs
from sine_jax.batches import pipeline, windows
from sine_jax.data import collation, datasets, ingest, labels, preparation, sources, splits
from sine_jax.evaluation import protocols, ranking, simple_scorers
from sine_jax.types import WATCHED

EFFECT = {"a": 1.5, "b": -1.5, None: 0.0}


@pytest.fixture(scope="module")
def raw():
    """Exposures whose log-odds of watching are the effect of their tab, and a second column that tells nothing."""
    rng = np.random.default_rng(0)
    size = 6000
    tab = rng.choice(["a", "b", None], size, p=[0.4, 0.4, 0.2])
    odds = np.array([EFFECT[value] for value in tab])
    return pl.DataFrame(
        {
            "user": np.repeat(np.arange(300), 20),
            "item": rng.integers(1, 31, size),
            "step": np.arange(size),
            "watched": (rng.random(size) < 1 / (1 + np.exp(-odds))).astype(int),
            "tab": tab,
            "hour": rng.choice([0.0, 7.0, 23.0, np.nan], size),
        }
    )


def prepared(raw, folder, contexts="tab+hour"):
    roles = ingest.parse_roles(f"user=user,item=item,order=step,watched=watched,context={contexts}")
    raw.write_parquet(folder / "raw.parquet")
    out = str(folder / "data")
    preparation.prepare(sources.log(folder / "raw.parquet", roles, ingest.Units()), out, rule=labels.parse("column"))
    return out


@pytest.fixture(scope="module")
def folder(raw, tmp_path_factory):
    return prepared(raw, tmp_path_factory.mktemp("contexts"))


SMALL = {"model.max_len": 12, "train.batch_size": 64, "train.epochs": 1, "train.num_widths": 1}


def test_values_are_numbered_over_all_columns_and_kept(raw, folder):
    dataset = datasets.load(folder)
    assert dataset.info.contexts == {"tab": ["a", "b"], "hour": ["0", "7", "23"]}
    codes = np.array([[0, 0], [1, 3], [2, 4], [0, 5]])
    assert dataset.log.contexts.shape == (len(dataset.log.items), 2)
    users = datasets.user_ids(folder).cast(pl.Int64).to_numpy()[dataset.log.users]
    kept = raw.with_row_index("row").filter(pl.col("user").is_in(users.tolist())).sort("user", "step")
    tab = kept["tab"].replace_strict({"a": 1, "b": 2}, default=0).to_numpy()
    hour = kept["hour"].replace_strict({0.0: 3, 7.0: 4, 23.0: 5}, default=0).to_numpy()
    np.testing.assert_array_equal(dataset.log.contexts, np.stack([tab, hour], axis=1))
    assert codes.max() == dataset.log.contexts.max()


def test_the_fingerprint_covers_contexts(raw, folder, tmp_path):
    other = prepared(raw.with_columns(tab=pl.col("tab").reverse()), tmp_path)
    assert datasets.read_info(other).fingerprint != datasets.read_info(folder).fingerprint


def test_too_many_values_are_refused(raw, tmp_path, monkeypatch):
    many = raw.with_columns(tab=pl.int_range(pl.len()))
    monkeypatch.setattr(collation, "MOST_CONTEXTS", 100)
    with pytest.raises(
        ValueError, match="--columns=context=tab: it has .* values, and all columns together may have 100; map"
    ):
        prepared(many, tmp_path, contexts="tab")


@pytest.mark.parametrize("text", ["a+", "a+a"])
def test_names_that_are_empty_or_repeated_are_refused(text):
    with pytest.raises(ValueError, match=f"context={text[0]}.*: a name is empty or repeated; write context=A"):
        ingest.parse_roles(f"user=u,item=i,order=o,context={text}")


def test_each_target_and_skip_has_the_context_it_was_shown_in(folder):
    log = datasets.load(folder).log
    split = splits.split(log, config=configs.Config().data).valid
    reading = windows.read(log, split, num_skips=2, read_skips=True, contexts=True)
    at = np.flatnonzero(reading.targets)
    assert len(at) > 500
    watched = np.flatnonzero(log.feedback == WATCHED)
    for row in at[:100]:
        target = watched[np.searchsorted(watched, row, side="right")]  # every exposure is read, so rows are positions
        assert reading.targets[row] == log.items[target]
        np.testing.assert_array_equal(reading.shown_in[row, 0], log.contexts[target])
        for s in range(2):
            expected = log.contexts[target - 1 - s] if reading.skips[row, s] else [0, 0]
            np.testing.assert_array_equal(reading.shown_in[row, 1 + s], expected)


def test_biases_with_context_find_what_was_planted(folder):
    dataset = datasets.load(folder)
    where = np.ones(len(dataset.log.items), bool)
    for fit in (simple_scorers.within_users, simple_scorers.logistic_biases):
        found = fit(dataset.log, where, num_items=dataset.info.num_items, contexts=True)
        assert found.contexts[0] == 0
        assert float(found.contexts[1] - found.contexts[2]) == pytest.approx(3.0, abs=0.5)
        assert np.abs(found.contexts[3:] - np.mean(found.contexts[3:])).max() < 0.25
        assert fit(dataset.log, where, num_items=dataset.info.num_items).contexts is None


def test_a_model_starts_from_the_fitted_contexts_and_is_ahead_by_them(folder, tmp_path):
    config = configs.replace(presets.default(), SMALL)
    run.train(folder, str(tmp_path / "run"), config=config)
    found = run.evaluate(str(tmp_path / "run"))
    means = {name: values["gauc"] for name, values in found.means.items()}
    assert means["sine"] > means["item bias (within users)"] + 0.1
    assert means["item bias (within users) + context"] > means["item bias (within users)"] + 0.1
    restored = run.restore(str(tmp_path / "run"))
    assert restored.about.data["contexts"] == {"tab": ["a", "b"], "hour": ["0", "7", "23"]}
    assert restored.params["context"].shape == (6,)


def test_scores_without_context_are_those_of_unknown_contexts(folder):
    config = configs.replace(presets.default(), SMALL).model
    model = build_model(config, num_items=30, num_contexts=5)
    params = {**model.init(jax.random.key(0)), "context": jnp.arange(6.0)}
    read = model.encode(params, _histories())
    candidates = jnp.array([[3, 4], [5, 6]])
    without = model.score(params, read, candidates)
    np.testing.assert_array_equal(model.score(params, read, candidates, jnp.zeros((2, 2, 2), jnp.int16)), without)
    contexts = jnp.array([[[1, 3], [0, 4]], [[2, 0], [0, 0]]], jnp.int16)
    found = model.score(params, read, candidates, contexts) - without
    np.testing.assert_allclose(found, [[4.0, 4.0], [2.0, 0.0]], atol=1e-5)


def _histories():
    from sine_jax.types import Histories

    items = jnp.array([[0, 1, 2], [3, 4, 5]])
    return Histories(items, items % 2 == 1)


def test_negatives_are_compared_in_the_context_of_their_positive(folder):
    """So a context moves no term over sampled items."""
    dataset = datasets.load(folder)
    config = configs.replace(presets.default(), SMALL)
    split = splits.split(dataset.log, config=config.data).valid
    batch = next(
        pipeline.epoch(dataset.log, split, config=config, num_items=dataset.info.num_items, epoch=0, packed=True)
    )[0]
    contexts = np.asarray(batch.contexts)
    num_negatives = batch.negatives.shape[-1]
    for m in range(num_negatives):
        np.testing.assert_array_equal(contexts[:, :, 1 + m], contexts[:, :, 0])
    assert contexts.shape[2] == 1 + num_negatives + batch.skips.shape[-1]


@pytest.mark.parametrize("form", ["bpr", "full_softmax"])
def test_terms_over_the_catalogue_do_not_depend_on_contexts(folder, form):
    from sine_jax import objectives

    dataset = datasets.load(folder)
    changed = {"objective.sampled_form": form, "objective.passive": 0.0, "objective.sampled": 1.0, "objective.l2": 0.0}
    config = configs.replace(presets.default(), SMALL | changed)
    split = splits.split(dataset.log, config=config.data).valid
    batch = next(pipeline.epoch(dataset.log, split, config=config, num_items=dataset.info.num_items, epoch=0))[0]
    batch = jax.tree.map(lambda x: jnp.asarray(x[:4]), batch)
    model = build_model(config.model, num_items=dataset.info.num_items, num_contexts=5)
    params = model.init(jax.random.key(0))
    values = [
        objectives.objective({**params, "context": table}, batch, None, config=config, model=model)[1]["sampled"]
        for table in (jnp.zeros(6), jnp.arange(6.0))
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


@pytest.mark.parametrize("name", ["exposed", "by_prefix"])
def test_candidates_are_ranked_in_the_context_they_were_shown_in(folder, name):
    log = datasets.load(folder).log
    config = configs.replace(configs.Config(), {"data.split_by": "by_share"})
    task = ranking.lay_out(log, config=config, num_items=30, part="test", protocol=protocols.PROTOCOLS[name])
    only = simple_scorers.Biases(np.zeros(len(task.population.owners)), np.zeros(31), np.arange(6.0) ** 2)
    values = ranking.compile_ranking(ranking.scorers.of_biases(), task)(only)
    for row, user in enumerate(task.population.users[:60]):
        if name == "exposed":
            span = np.arange(task.split.candidates_begin[user], task.split.candidates_end[user])
            skips, targets = span[log.feedback[span] != WATCHED], np.array([task.split.target[user]])
        else:
            span = np.arange(task.split.begin[user], task.split.end[user])
            skips, targets = span[log.feedback[span] != WATCHED], span[log.feedback[span] == WATCHED]
        worth = (log.contexts.astype(float) ** 2).sum(axis=1)
        pairs = np.sign(worth[targets][:, None] - worth[skips])
        expected = 0.5 + pairs.mean() / 2 if pairs.size else np.nan
        np.testing.assert_allclose(values["user_auc"][row], expected, rtol=1e-6)


def test_the_catalogue_is_ranked_without_contexts(folder):
    log = datasets.load(folder).log
    task = ranking.lay_out(log, config=configs.Config(), num_items=30, part="test", protocol=protocols.FULL)
    assert all(batch.contexts is None for batch in task.batches)


def test_a_context_number_that_a_model_does_not_have_adds_nothing():
    params = {"context": jnp.array([9.0, 1.0, 2.0])}
    found = model.of_contexts(params, jnp.array([[1, 0], [2, 7], [0, 0]]))
    np.testing.assert_array_equal(found, [1.0, 2.0, 0.0])
