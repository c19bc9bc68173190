"""The defining property of each network; what all of them owe the library is in network_test.py."""

import functools

import jax
import jax.numpy as jnp
import models as model
import numpy as np
import pytest

from sine_jax import build_model, losses, network
from sine_jax import config as configs
from sine_jax.layers import scoring
from sine_jax.layers.scoring import UserState
from sine_jax.network import Pairs
from sine_jax.networks.dfar import DFAR, FactorizationHeads
from sine_jax.networks.hstu import PointwiseAttention
from sine_jax.networks.pnfrec import PNFRec
from sine_jax.networks.sasrec_c import SASRecC
from sine_jax.types import Histories, TrainBatch

T, N, D = 5, 9, 8


def configured(name, **options):
    small = {"name": name, "max_len": T, "dim": D, "num_blocks": 1, "num_interests": 3, "dropout": 0.0}
    changed = small | {"read_skips": True} | options
    return configs.replace(configs.Config(), {f"model.{key}": value for key, value in changed.items()})


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


def layers(config, items, watched):
    """What a network says of one history, what each of its layers put out by name, and the parameters; [T, ...]."""
    module = network.find(config.model.name)(config.model, N)
    histories = Histories(jnp.array([items], jnp.int32), jnp.array([watched], bool))
    read = functools.partial(module.apply, deterministic=True, capture_intermediates=True, mutable="intermediates")
    found, kept = jax.jit(read)({"params": drawn(config)}, histories)
    by_name = {name: part["__call__"][0] for name, part in kept["intermediates"].items() if name != "__call__"}
    found, by_name = jax.tree.map(lambda x: np.asarray(x)[0], (found, by_name))
    return found, by_name, jax.tree.map(np.asarray, drawn(config))


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def softplus(x):
    return np.log1p(np.exp(x))


def random_pair():
    """A watched item and two skips at one position, of which the second is not there."""
    first, second, positive, *skips = (jax.random.normal(key, (D,)) for key in jax.random.split(jax.random.key(0), 5))
    pairs = Pairs(positive[None, None], jnp.stack(skips)[None, None], jnp.ones((1, 1), bool), jnp.array([[[1, 0]]]) > 0)
    return first, second, positive, skips[0], pairs


LIKED, SKIPPED = [1, 2, 3, 4, 5], [True] * T
MIXED = [True, False, True, False, False]


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


def test_comirec_pools_by_a_tanh_layer():
    config = configured("comirec", read_skips=False)
    params = drawn(config)
    x = np.sqrt(D) * params["item_embedding"][jnp.array(LIKED)] + params["position_embedding"][:T]
    logits = np.tanh(x @ params["hidden"]["kernel"]) @ params["interests_of"]["kernel"]  # [T, K]
    found = outputs(config, LIKED, SKIPPED).state.vectors[0, -1]
    np.testing.assert_allclose(found, softmax(np.asarray(logits).T) @ x, rtol=1e-4, atol=1e-5)


def test_sparse_interest_chooses_by_a_temperature_of_a_tenth_of_the_width():
    found, by_name, _ = layers(configured("sparse_interest"), LIKED, SKIPPED)
    vectors = by_name["vector_norm"]  # [T, K, D]
    weights = softmax(np.einsum("td,tkd->tk", by_name["next_norm"], vectors) / (0.1 * D))
    expected = np.einsum("tk,tkd->td", weights, vectors)
    np.testing.assert_allclose(found.state.vectors[:, 0], expected, rtol=1e-4, atol=1e-5)


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


def test_dfn_reads_skips_by_a_query_of_the_watches():
    found, by_name, params = layers(configured("dfn"), LIKED, MIXED)
    likes, skips = by_name["watched_norm"], by_name["skipped_norm"]
    strength = likes @ params["watched_strength"]["kernel"][:, 0]
    for t in range(1, T):
        seen, passed = ([i for i in range(t + 1) if MIXED[i] is kind] for kind in (True, False))
        strong = softmax(strength[seen]) @ likes[seen]
        relation = (strong @ params["query"]["kernel"]) @ (skips[passed] @ params["key"]["kernel"]).T / np.sqrt(D)
        expected = (softmax(relation) @ skips[passed]) @ params["disliked"]["kernel"]
        np.testing.assert_allclose(found.state.skipped.vectors[t, 0], expected, rtol=1e-4, atol=1e-5)


def test_dfar_has_a_head_for_each_pair_of_feedbacks():
    layer = FactorizationHeads(dropout=0.0, norm_eps=1e-8, dtype=jnp.dtype(jnp.float32))
    x, watched = jax.random.normal(jax.random.key(0), (1, T, D)), jnp.array([MIXED])
    where = jnp.tril(jnp.ones((1, T, T), bool))
    params = layer.init(jax.random.key(1), x, watched, where, deterministic=True)["params"]
    states, kernels = (
        np.asarray(x[0]),
        {name: np.asarray(part["kernel"]) for name, part in params.items() if name in KEPT},
    )
    normed = (states - states.mean(-1, keepdims=True)) / np.sqrt(states.var(-1, keepdims=True) + 1e-8)
    q, k, v = ((normed @ kernels[name]).reshape(T, 4, D) for name in ("query", "key", "value"))
    expected = []
    for t in range(T):
        heads = [2 * MIXED[t] + MIXED[j] for j in range(t + 1)]
        weights = softmax(np.array([q[t, head] @ k[j, head] for j, head in enumerate(heads)]) / np.sqrt(D))
        mixed = np.zeros((4, D))
        for j, head in enumerate(heads):
            mixed[head] += weights[j] * v[j, head]
        expected.append(states[t] + mixed.ravel() @ kernels["output"])
    after = np.array(expected)
    normed = (after - after.mean(-1, keepdims=True)) / np.sqrt(after.var(-1, keepdims=True) + 1e-8)
    after = after + np.maximum(normed @ kernels["forward_in"], 0) @ kernels["forward_out"]
    found = layer.apply({"params": params}, x, watched, where, deterministic=True)[0]
    np.testing.assert_allclose(found, after, rtol=1e-3, atol=1e-4)


KEPT = ("query", "key", "value", "output", "forward_in", "forward_out")  # layers whose biases start at 0


def test_dfar_likes_the_watched_item_and_dislikes_the_skipped():
    liked, disliked, positive, skip, pairs = random_pair()
    said = scoring.Outputs(
        UserState((liked - disliked)[None, None, None]), extra=(liked[None, None], disliked[None, None])
    )
    terms = DFAR(configured("dfar").model, N).auxiliary(said, pairs)
    np.testing.assert_allclose(losses.mean([terms["liking"]]), softplus(liked @ skip - liked @ positive), rtol=1e-5)
    expected = softplus(disliked @ positive - disliked @ skip)
    np.testing.assert_allclose(losses.mean([terms["disliking"]]), expected, rtol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_pnfrec_s_negative_encoder_prefers_the_skip_and_points_away_from_the_positive_one(sign):
    positive_vector, negative_vector, positive, skip, pairs = random_pair()
    positive_vector = sign * positive_vector
    said = scoring.Outputs(UserState(positive_vector[None, None, None]), extra=negative_vector[None, None])
    terms = PNFRec(configured("pnfrec").model, N).auxiliary(said, pairs)
    expected = softplus(negative_vector @ positive - negative_vector @ skip)
    np.testing.assert_allclose(losses.mean([terms["opposite"]]), expected, rtol=1e-5)
    lengths = np.linalg.norm(positive_vector) * np.linalg.norm(negative_vector)
    cosine = positive_vector @ negative_vector / lengths
    np.testing.assert_allclose(losses.mean([terms["apart"]]), max(cosine, 0.0), rtol=1e-5)


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


def test_feedrec_reads_skips_by_a_query_of_what_was_liked():
    found, by_name, params = layers(configured("feedrec"), LIKED, MIXED)
    likes, skips = by_name["watched_norm"], by_name["skipped_norm"]
    strength = likes @ params["strength"]["kernel"][:, 0]
    for t in range(1, T):
        seen, passed = ([i for i in range(t + 1) if MIXED[i] is kind] for kind in (True, False))
        liked = softmax(strength[seen]) @ likes[seen]
        relation = (liked @ params["strong_to_weak"]["kernel"]) @ skips[passed].T / np.sqrt(D)
        both = np.concatenate([liked, softmax(relation) @ skips[passed]])
        expected = both @ params["user"]["kernel"] + params["user"]["bias"]
        np.testing.assert_allclose(found.state.vectors[t, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"model.active": "filter"}, {"objective.passive_form": "best_interest", "model.fusion": "sum"}],
)
def test_what_is_of_sub_interests_is_refused_for_a_network_without_them(options):
    config = configs.replace(configs.Config(), {"model.name": "sasrec", **options})
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
    config = configs.replace(configs.Config(), options)
    with pytest.raises(ValueError, match=f"^{text}$"):
        build_model(config.model, num_items=9)


def test_learned_weights_are_those_of_the_terms_that_there_are():
    options = {"model.name": "sasrec", "objective.sampled": 0.0, "objective.weighting": "learned"}
    params = model.init(jax.random.key(0), configs.replace(configs.Config(), options), 9)
    assert set(params["log_variances"]) == {"passive"}
