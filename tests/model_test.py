"""Properties of the corrected model, each for the option that brings it, and of both in common."""

import jax
import jax.export
import jax.numpy as jnp
import models as model
import numpy as np
import pytest

from sine_jax import build_model, presets
from sine_jax import config as configs
from sine_jax.layers import scoring
from sine_jax.types import PAD, Histories, TrainBatch

N, T = 30, 8


def total(params, batches, key, config):
    return model.objective(params, batches, key, config)[0]


def small(preset="", **overrides):
    names = {"model.max_len": T, "model.dim": 8, "model.num_heads": 2, "model.num_blocks": 1, "model.dropout": 0.0}
    base = presets.PRESETS[preset]() if preset else configs.Config()
    return configs.replace(base, names | {k.replace("__", "."): v for k, v in overrides.items()})


def batch_of(lengths, *, width=T, seed=0, config=None):
    config = config or small()
    rng = np.random.default_rng(seed)
    valid = np.arange(width)[None, :] >= width - np.array(lengths)[:, None]

    def draw(*shape):
        return jnp.array(
            np.where(
                valid.reshape(valid.shape + (1,) * len(shape)), rng.integers(1, N + 1, (*valid.shape, *shape)), PAD
            ),
            jnp.int32,
        )

    return TrainBatch(
        users=jnp.arange(len(lengths)),
        items=draw(),
        watched=jnp.array(valid & (rng.random(valid.shape) < 0.6)),
        positives=draw(),
        negatives=draw(config.objective.num_negatives),
        skips=draw(config.objective.num_skips),
    )


def rows(batch, index):
    return jax.tree.map(lambda x: x[index], batch)


def widened(batch, extra):
    return TrainBatch(batch.users, *(jnp.pad(x, ((0, 0), (extra, 0)) + ((0, 0),) * (x.ndim - 2)) for x in batch[1:6]))


OPTIONS = [
    {},
    {"model__fusion": "candidate_aware"},
    {"model__fusion": "sum"},
    {"model__read_skips": True},
    {"model__num_interests": 3, "model__active": "none"},
    {"model__kernel_dim": 4, "model__read_skips": True},
]


@pytest.fixture(params=OPTIONS, ids=lambda o: ",".join(map(str, o.values())) or "default")
def config(request):
    return small(**request.param)


@pytest.fixture
def params(config):
    return model.init(jax.random.key(0), config, N)


def loud(params):
    return model.moved(params, jax.random.key(9))


@pytest.mark.parametrize("what", ["scores", "active"])
def test_no_exposure_at_or_after_its_target_has_influence(config, params, what):
    """Gradients of what is said after exposure t, with respect to what is read at each position."""
    if what == "active" and config.model.active != "learned":
        config = configs.replace(config, {"model.active": "learned"})
        params = model.init(jax.random.key(0), config, N)
    params, batch = loud(params), batch_of([T, 5], config=config)
    # One embedding row per position of the window, so that a gradient by row is one by position.
    unique = jnp.arange(1, 2 * T + 1).reshape(2, T)
    batch = batch._replace(items=jnp.where(batch.items == PAD, PAD, unique))

    def said(table, t):
        outputs = model.apply({**params, "item_embedding": table}, batch, config)
        if what == "active":
            return jnp.sum(outputs.log_active[:, t, 0])
        candidate = params["item_embedding"][jnp.full((2, T, 1), N)]
        return jnp.sum(scoring.score(outputs.state, candidate)[:, t])

    gradients = jax.jit(jax.vmap(jax.grad(said), in_axes=(None, 0)))(params["item_embedding"], jnp.arange(T))
    for t in range(T):
        by_position = np.abs(gradients[t][unique]).sum(-1)  # [2, T]
        assert np.all(by_position[:, t + 1 :] == 0)
        assert by_position[0, t] > 0


def test_targets_do_not_change_what_is_said(config, params):
    """Neither the watched item to come nor its skip nor the sampled items are looked at by the corrected model."""
    batch = batch_of([T, 5], config=config)
    other = batch_of([T, 5], seed=1, config=config)
    changed = batch._replace(positives=other.positives, negatives=other.negatives, skips=other.skips)
    jax.tree.map(
        np.testing.assert_array_equal, model.apply(params, batch, config), model.apply(params, changed, config)
    )


def test_the_released_filter_does_look_at_its_target():
    config = small("official", model__active="filter", model__filter_strength=0.1)
    params = loud(model.init(jax.random.key(0), config, N))
    batch = batch_of([T, T], config=config)
    changed = batch._replace(positives=jnp.flip(batch.positives, axis=0))
    one, other = (model.apply(params, b, config).state.vectors for b in (batch, changed))
    assert np.max(np.abs(one - other)) > 1e-3


def test_scores_depend_neither_on_padding_nor_on_t_nor_on_the_batch(config, params):
    params, batch = loud(params), batch_of([5, 3, 1], config=config)
    candidates = jnp.arange(1, 13).reshape(3, 4)
    scores = model.score(params, batch.histories, candidates, config)

    def close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)

    for row in range(3):  # alone
        one = slice(row, row + 1)
        close(model.score(params, rows(batch.histories, one), candidates[one], config), scores[one])
    trimmed = jax.tree.map(lambda x: x[:, -5:], batch.histories)
    close(model.score(params, trimmed, candidates, config), scores)
    longer = configs.replace(config, {"model.max_len": T + 6})
    rows_more = jnp.zeros((6, config.model.dim))
    wider = {**params, "position_embedding": jnp.concatenate([params["position_embedding"], rows_more])}
    close(model.score(wider, widened(batch, 6).histories, candidates, longer), scores)


def test_official_depends_on_t_as_released():
    config = small("official")
    params = loud(model.init(jax.random.key(0), config, N))
    batch, longer = batch_of([5]), configs.replace(config, {"model.max_len": T + 6})
    more = {**params, "position_embedding": jnp.pad(params["position_embedding"], ((6, 0), (0, 0)))}
    candidates = jnp.arange(1, 5)[None]
    short = model.score(params, batch.histories, candidates, config)
    wide = model.score(more, widened(batch, 6).histories, candidates, longer)
    assert np.max(np.abs(short - wide)) > 1e-4


def test_loss_and_gradient_are_those_of_the_padded_batch(config, params):
    params, batch = loud(params), batch_of([5, 3, T, 1], config=config)
    value_and_grad = jax.jit(jax.value_and_grad(lambda p, b: total(p, b, None, config)))
    grouped = (
        rows(batch, jnp.array([2])),
        jax.tree.map(lambda x: x[:, -5:] if x.ndim > 1 else x, rows(batch, jnp.array([0, 1, 3]))),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        value_and_grad(params, grouped),
        value_and_grad(params, batch),
    )


def test_permuting_candidates_permutes_scores(config, params):
    batch, candidates = batch_of([5, 3]), jnp.arange(1, 13).reshape(2, 6)
    order = jnp.array([3, 1, 5, 0, 2, 4])
    scores = model.score(params, batch.histories, candidates, config)
    permuted = model.score(params, batch.histories, candidates[:, order], config)
    np.testing.assert_allclose(permuted, scores[:, order], rtol=1e-5, atol=1e-6)


def test_polarity_is_read_only_when_asked_for():
    batch = batch_of([T, T])
    flipped = batch.histories._replace(watched=~batch.watched)
    candidates = jnp.arange(1, 9).reshape(2, 4)
    for read_skips in (False, True):
        config = small(model__read_skips=read_skips)
        params = loud(model.init(jax.random.key(0), config, N))
        same = np.allclose(
            model.score(params, batch.histories, candidates, config), model.score(params, flipped, candidates, config)
        )
        assert same != read_skips


def test_the_active_interest_takes_part_at_inference():
    config = small()
    params = loud(model.init(jax.random.key(0), config, N))
    other = {**params, "active": jax.tree.map(lambda x: x + 1.0, params["active"])}
    histories, candidates = batch_of([T, 4]).histories, jnp.arange(1, 9).reshape(2, 4)
    difference = model.score(params, histories, candidates, config) - model.score(other, histories, candidates, config)
    assert np.max(np.abs(difference)) > 1e-4


@pytest.mark.parametrize("kernel", [0, 4])
@pytest.mark.parametrize("fusion", ["sum", "collapsed"])
def test_user_vectors_retrieve_what_is_scored(fusion, kernel):
    config = small(model__fusion=fusion, model__kernel_dim=kernel)
    params = loud(model.init(jax.random.key(0), config, N))
    histories = batch_of([5, 3]).histories
    vectors = model.user_vectors(params, histories, config)
    candidates = jnp.broadcast_to(jnp.arange(1, N + 1), (2, N))
    expected = vectors @ model.of(params, config).item_vectors(params)[1:].T
    np.testing.assert_allclose(model.score(params, histories, candidates, config), expected, rtol=1e-4, atol=1e-5)


def test_the_signed_kernel_adds_a_signed_sum_of_similarities():
    """With weights of one for a watch and minus two for a skip that both never fade."""
    config = small(model__kernel_dim=4, model__read_skips=True)
    params = model.init(jax.random.key(0), config, N)
    histories, candidates = batch_of([T, 5]).histories, jnp.broadcast_to(jnp.arange(1, N + 1), (2, N))
    without = model.score(params, histories, candidates, config)
    factors = np.random.default_rng(0).normal(size=(N + 1, 4)).astype(np.float32)
    weights = jnp.array([[-0.2, 0.0, 0.0], [0.1, 0.0, 0.0]])
    kernel = {"weights": weights, "decays": jnp.full((2, 3), 30.0)}
    found = model.score({**params, "item_factors": factors, "signed_kernel": kernel}, histories, candidates, config)
    signs = np.where(histories.items == PAD, 0.0, np.where(histories.watched, 1.0, -2.0))
    expected = np.einsum("bt,btd,vd->bv", signs, factors[histories.items], factors[1:])
    np.testing.assert_allclose(found - without, expected, rtol=1e-3, atol=1e-4)


def test_the_factors_of_the_signed_kernel_are_not_trained():
    config = small(model__kernel_dim=4, model__read_skips=True)
    params, batch = loud(model.init(jax.random.key(0), config, N)), batch_of([T, 5], config=config)
    gradients = jax.jit(jax.grad(lambda p: total(p, batch, None, config)))(params)
    assert not np.any(gradients["item_factors"])
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(gradients["signed_kernel"]))


def test_a_candidate_aware_fusion_has_no_user_vector_and_says_so():
    config = small(model__fusion="candidate_aware")
    params = model.init(jax.random.key(0), config, N)
    with pytest.raises(
        ValueError, match="^model.name=sine, model.fusion=candidate_aware: .*; .* model.fusion=collapsed"
    ):
        model.user_vectors(params, batch_of([5]).histories, config)


def test_candidate_aware_fusion_does_look_at_the_candidate():
    """No single vector explains its scores: as a map from items they are not linear."""
    config = small(model__fusion="candidate_aware")
    params = loud(model.init(jax.random.key(0), config, N))
    params["item_embedding"] = (
        params["item_embedding"].at[3].set(params["item_embedding"][1] + params["item_embedding"][2])
    )
    scores = model.score(params, batch_of([T]).histories, jnp.array([[1, 2, 3]]), config)[0]
    assert abs(scores[0] + scores[1] - scores[2]) > 1e-3


def test_dropout_acts_in_training_alone():
    config = small(model__dropout=0.5)
    params = loud(model.init(jax.random.key(0), config, N))
    batch = batch_of([T, 4])
    keys = [None, None, jax.random.key(0), jax.random.key(0), jax.random.key(1)]
    runs = [np.asarray(model.apply(params, batch, config, key=key).state.vectors) for key in keys]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[2], runs[3])
    assert not np.allclose(runs[0], runs[2])
    assert not np.allclose(runs[2], runs[4])


@pytest.mark.parametrize("preset", ["default", "official"])
@pytest.mark.parametrize("shape", [(2, 1, 1), (5, 4, 3)], ids=str)
def test_any_number_of_interests_heads_and_blocks_in_either_type(preset, shape):
    interests, heads, blocks = shape
    config = small(preset, model__num_interests=interests, model__num_heads=heads, model__num_blocks=blocks)
    half = configs.replace(config, {"model.dtype": "bfloat16"})
    params = model.init(jax.random.key(0), config, N)
    assert {x.dtype for x in jax.tree.leaves(model.init(jax.random.key(0), half, N))} == {jnp.dtype("float32")}
    batch = batch_of([T, 4], config=config)
    losses = [total(params, batch, jax.random.key(0), c) for c in (config, half)]
    assert all(loss.dtype == jnp.float32 for loss in losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=3e-2)
    assert model.apply(params, batch, half).state.vectors.dtype == jnp.bfloat16


def test_training_and_inference_agree_on_the_last_position(config, params):
    batch = batch_of([5, T], config=config)
    at_each = model.apply(params, batch, config).state
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:, -1], b, rtol=1e-5, atol=1e-6),
        at_each,
        model.encode(params, batch.histories, config).state,
    )


def test_scores_map_over_users():
    config = small()
    params = model.init(jax.random.key(0), config, N)
    histories, candidates = batch_of([5, 3]).histories, jnp.arange(1, 9).reshape(2, 4)
    one = jax.vmap(lambda h, c: model.score(params, jax.tree.map(lambda x: x[None], h), c[None], config)[0])
    np.testing.assert_allclose(
        one(histories, candidates), model.score(params, histories, candidates, config), rtol=1e-5, atol=1e-6
    )


def test_a_filler_row_changes_nothing(config, params):
    batch = batch_of([5, 3], config=config)
    filled = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x[:1])]), batch)
    np.testing.assert_allclose(total(params, filled, None, config), total(params, batch, None, config), rtol=1e-5)


def test_the_same_arguments_give_the_same_functions():
    config = small().model
    built = build_model(config, num_items=N)
    assert build_model(config, num_items=N) is built
    assert build_model(small().model, num_items=N, platform="cpu") is built, "the devices of the tests"
    assert build_model(config, num_items=N, platform="cuda") is not built
    assert build_model(config, num_items=N + 1) is not built
    with pytest.raises(ValueError, match="platform=gpu: no such platform; choose one of cpu, cuda, tpu"):
        build_model(config, num_items=N, platform="gpu")


@pytest.mark.parametrize(("platform", "products"), [("cpu", 29), ("cuda", 21), ("tpu", 21)])
def test_a_ranking_is_exported_in_the_form_of_a_platform_that_is_not_here(platform, products):
    """Three blocks of queries on a CPU: in each layer four products more than for all queries at once."""
    config = small(model__max_len=100, model__num_blocks=2).model
    built = build_model(config, num_items=N, platform=platform)

    @jax.jit
    def ranked(params, histories):
        scores = built.score_items(params, built.encode(params, histories), jnp.arange(1, N + 1))
        return jax.lax.top_k(scores, 10)

    histories = Histories(jnp.ones((4, 100), jnp.int32), jnp.ones((4, 100), bool))
    params = jax.eval_shape(built.init, jax.random.key(0))
    exported = jax.export.export(ranked, platforms=[platform])(params, histories)
    assert [x.shape for x in exported.out_avals] == [(4, 10), (4, 10)]
    assert exported.mlir_module().count("stablehlo.dot_general") == products
