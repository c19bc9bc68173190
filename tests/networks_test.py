"""The defining property of each network; what all of them owe the library is in network_test.py."""

import functools

import jax
import jax.numpy as jnp
import models as model
import numpy as np
import pytest

from sine_jax import build_model, losses, presets
from sine_jax import config as configs
from sine_jax.layers import scoring
from sine_jax.layers.scoring import UserState
from sine_jax.network import Pairs
from sine_jax.networks.hstu import PointwiseAttention
from sine_jax.networks.sasrec_c import SASRecC
from sine_jax.types import Histories, TrainBatch

T, N, D = 5, 9, 8


def configured(name, **options):
    small = {"name": name, "max_len": T, "dim": D, "num_blocks": 1, "num_interests": 3, "dropout": 0.0}
    changed = small | {"read_skips": True} | options
    return configs.replace(presets.default(), {f"model.{key}": value for key, value in changed.items()})


@functools.cache
def drawn(config):
    return model.moved(model.init(jax.random.key(0), config, N), jax.random.key(1))


def outputs(config, items, watched):
    items, watched = jnp.array([items], jnp.int32), jnp.array([watched], bool)
    nothing = jnp.zeros_like(items)
    batch = TrainBatch(jnp.zeros(1, jnp.int32), items, watched, nothing, nothing[..., None], nothing[..., None])
    return model.apply(drawn(config), batch, config)


def last_scores(config, items, watched):
    histories = Histories(jnp.array([items], jnp.int32), jnp.array([watched], bool))
    return np.asarray(model.score(drawn(config), histories, jnp.arange(1, N + 1)[None], config))[0]


LIKED, SKIPPED = [1, 2, 3, 4, 5], [True] * T


def test_gru4rec_is_the_gru_recurrence():
    config = configured("gru4rec", read_skips=False)
    params = drawn(config)
    cell, dense = params["gru_0"]["cell"], params["output"]
    x = np.sqrt(D) * params["item_embedding"][jnp.array(LIKED)] + params["position_embedding"][:T]

    def part(name, value):
        return value @ cell[name]["kernel"] + cell[name].get("bias", 0.0)

    h = jnp.zeros(D)
    for step in x:
        r, z = (jax.nn.sigmoid(part(f"i{gate}", step) + part(f"h{gate}", h)) for gate in "rz")
        h = (1 - z) * jnp.tanh(part("in", step) + r * part("hn", h)) + z * h
    found = outputs(config, LIKED, SKIPPED).state.vectors[0, -1, 0]
    np.testing.assert_allclose(found, h @ dense["kernel"] + dense["bias"], rtol=1e-4, atol=1e-5)


def test_caser_looks_at_the_last_few_alone():
    config = configured("caser", max_len=8)
    recent, feedback = [4, 5, 6, 7, 8], [True] * 8
    one, other = (outputs(config, [*first, *recent], feedback).state.vectors[0, -1] for first in ([1, 2, 3], [9, 9, 9]))
    np.testing.assert_array_equal(one, other)
    changed = outputs(config, [1, 2, 3, 9, *recent[1:]], feedback).state.vectors[0, -1]
    assert np.abs(changed - one).max() > 1e-4


def test_din_weighs_what_was_read_by_the_candidate():
    state = jax.tree.map(lambda x: x[0, -1], outputs(configured("din"), LIKED, SKIPPED).state)
    items = jax.random.normal(jax.random.key(5), (2, D))
    weights = jax.nn.softmax(items @ state.keys.T + state.logits[None], axis=-1)  # [2, T]
    assert np.abs(weights[0] - weights[1]).max() > 0.01
    np.testing.assert_allclose(
        scoring.score(state, items), jnp.sum(weights * (items @ state.vectors.T), axis=-1), rtol=1e-5
    )


def test_comirec_scores_by_the_best_interest():
    config = configured("comirec")
    vectors = outputs(config, LIKED, SKIPPED).state.vectors[0, -1]  # [K, D]
    table = drawn(config)["item_embedding"]
    assert vectors.shape == (3, D)
    np.testing.assert_allclose(last_scores(config, LIKED, SKIPPED), (table[1:] @ vectors.T).max(axis=1), rtol=1e-5)


def test_sparse_interest_has_few_of_the_concepts():
    config = configured("sparse_interest")

    def vector(params):
        histories = Histories(jnp.array([LIKED]), jnp.array([SKIPPED]))
        return jnp.sum(model.encode(params, histories, config).state.vectors ** 2)

    touched = np.abs(jax.grad(vector)(drawn(config))["concepts"]).max(axis=1) > 0
    assert touched.sum() == config.model.num_interests < len(touched)


def test_hstu_adds_up_what_it_attends_to_by_silu_without_a_softmax():
    layer = PointwiseAttention(num_heads=1, length=2 * T, norm_eps=1e-8, dtype=jnp.dtype(jnp.float32))
    x, where = jax.random.normal(jax.random.key(0), (2, 4, D)), jnp.tril(jnp.ones((1, 4, 4), bool))
    params = layer.init(jax.random.key(1), x, where)["params"]
    by_distance = np.asarray(params["distance_bias"])

    def normed(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-8)

    def silu(x):
        return x / (1 + np.exp(-x))

    u, q, k, v = np.split(silu(normed(np.asarray(x)) @ np.asarray(params["project"]["kernel"])), 4, axis=-1)
    distances = np.maximum(np.arange(4)[:, None] - np.arange(4), 0)
    weights = silu(q @ k.swapaxes(1, 2) / np.sqrt(D) + by_distance[distances]) / (2 * T) * np.tril(np.ones((4, 4)))
    expected = normed(weights @ v) * u @ np.asarray(params["output"]["kernel"])
    np.testing.assert_allclose(layer.apply({"params": params}, x, where), expected, rtol=1e-3, atol=1e-4)


def test_hstu_adds_a_bias_by_the_binary_logarithm_of_the_seconds_in_between():
    layer = PointwiseAttention(num_heads=1, length=2 * T, norm_eps=1e-8, dtype=jnp.dtype(jnp.float32))
    x, where = jax.random.normal(jax.random.key(0), (1, 2, D)), jnp.tril(jnp.ones((1, 2, 2), bool))
    params = dict(layer.init(jax.random.key(1), x, where, jnp.zeros((1, 2), jnp.int32))["params"])

    def after(seconds, bucket):
        """The change of the second token when the bias of a bucket grows."""
        raised = {**params, "time_bias": params["time_bias"].at[bucket].add(5.0)}
        times = jnp.array([[7, 7 + seconds]], jnp.int32)
        one, other = (layer.apply({"params": p}, x, where, times) for p in (params, raised))
        return float(jnp.abs(one - other)[0, 1].max())

    # The second token also sees itself, 0 s away: bucket 0.
    for seconds, bucket in ((1, 1), (2, 1), (3, 2), (6, 2), (7, 3), (2**31 - 8, 30)):
        assert after(seconds, bucket) > 1e-3
        assert all(after(seconds, other) == 0.0 for other in {1, 2, 3, 30, 31} - {bucket})


def test_times_are_asked_for_where_they_are_read_and_refused_where_they_are_not():
    config = configured("hstu", read_times=True)
    with pytest.raises(ValueError, match="model.read_times=True: the histories have times=None"):
        last_scores(config, LIKED, SKIPPED)
    histories = Histories(jnp.array([LIKED]), jnp.array([SKIPPED]), jnp.array([[0, 5, 9, 80, 900]]))
    candidates = jnp.arange(1, N + 1)[None]
    later = histories._replace(times=histories.times + 1_000_000)
    scores, shifted = (model.score(drawn(config), h, candidates, config) for h in (histories, later))
    np.testing.assert_array_equal(scores, shifted)  # any origin will do
    apart = histories._replace(times=histories.times * 1000)
    assert np.abs(scores - model.score(drawn(config), apart, candidates, config)).max() > 1e-3
    with pytest.raises(ValueError, match="model.read_times=True has no effect with model.name=sasrec"):
        model.init(jax.random.key(0), configured("sasrec", read_times=True), N)


@pytest.mark.parametrize("name", ["dfn", "feedrec", "dfar", "hstu", "pnfrec"])
def test_what_was_done_with_an_exposure_counts(name):
    config = configured(name)
    skipped = last_scores(config, LIKED, [True, True, False, True, True])
    assert np.abs(last_scores(config, LIKED, SKIPPED) - skipped).max() > 1e-3


def test_pnfrec_scores_by_what_was_watched_alone():
    config = configured("pnfrec")
    feedback = [True, False, True, False, True]
    one = last_scores(config, [1, 2, 3, 4, 5], feedback)
    np.testing.assert_allclose(one, last_scores(config, [1, 8, 3, 9, 5], feedback), rtol=1e-5)
    assert np.abs(one - last_scores(config, [7, 2, 3, 4, 5], feedback)).max() > 1e-3


def test_dfn_before_anything_was_watched_hears_the_skips_alone():
    config = configured("dfn")
    state = outputs(config, LIKED, [False] * T).state
    items = jax.random.normal(jax.random.key(3), (1, T, 2, D))
    assert not np.abs(scoring.score(state.watched, items)).max() > 1e-6
    assert np.abs(scoring.score(state.skipped, items)).max() > 1e-4


def test_dfar_scores_by_liking_less_disliking():
    config = configured("dfar")
    found = outputs(config, LIKED, [True, False, True, False, True])
    liked, disliked = found.extra
    np.testing.assert_allclose(found.state.vectors[..., 0, :], liked - disliked, rtol=1e-6)


def test_the_contrast_of_sasrec_c_is_among_the_watched_item_and_its_skips():
    module = SASRecC(configured("sasrec_c").model, N)
    state, positive, *skips = (jax.random.normal(key, (1, 1, D)) for key in jax.random.split(jax.random.key(0), 4))
    there = jnp.array([[[True, False]]])
    pairs = Pairs(positive, jnp.stack(skips, axis=-2), jnp.ones((1, 1), bool), there)
    terms = module.auxiliary(scoring.Outputs(UserState(state[..., None, :])), pairs)

    def cosine(item):
        return float(jnp.sum(state * item) / jnp.linalg.norm(state) / jnp.linalg.norm(item)) / module.temperature

    expected = np.logaddexp(cosine(positive), cosine(skips[0])) - cosine(positive)
    np.testing.assert_allclose(losses.mean([terms["contrast"]]), expected, rtol=1e-4)


def test_feedrec_asks_skips_what_watches_want():
    config = configured("feedrec")
    feedback = [False, False, True, False, True]

    def weight_of_skips(first):
        return last_scores(config, [first, 2, 3, 4, 5], feedback)

    assert np.abs(weight_of_skips(1) - weight_of_skips(6)).max() > 1e-4


@pytest.mark.parametrize(
    "options",
    [{"model.active": "filter"}, {"objective.passive_form": "best_interest", "model.fusion": "sum"}],
)
def test_what_is_of_sub_interests_is_refused_for_a_network_without_them(options):
    config = configs.replace(presets.default(), {"model.name": "sasrec", **options})
    with pytest.raises(ValueError, match="model.name=sasrec has no sub-interests"):
        model.init(jax.random.key(0), config, 9)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"model.name": "dfar", "model.read_skips": False},
            "model.name=dfar needs skipped exposures as input, but model.read_skips=False; set it to true",
        ),
        (
            {"model.name": "sasrec", "model.mask_padding": False},
            "model.mask_padding=False: model.name=sasrec always masks its padding; set it to true",
        ),
    ],
)
def test_what_a_network_cannot_read_is_refused(options, text):
    config = configs.replace(presets.default(), options)
    with pytest.raises(ValueError, match=f"^{text}$"):
        build_model(config.model, num_items=9)


def test_learned_weights_are_those_of_the_terms_that_there_are():
    options = {"model.name": "sasrec", "objective.sampled": 0.0, "objective.weighting": "learned"}
    params = model.init(jax.random.key(0), configs.replace(presets.default(), options), 9)
    assert set(params["log_variances"]) == {"passive"}
