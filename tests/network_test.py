"""What every network owes the library, and how networks are found."""

import functools

import jax
import jax.numpy as jnp
import models as model
import numpy as np
import pytest

from sine_jax import config as configs
from sine_jax import network
from sine_jax.types import Histories, TrainBatch

B, T, N = 3, 6, 12


def configured(name: str, **model_options: object) -> configs.Config:
    options = {"name": name, "max_len": 2 * T, "dim": 8, "num_blocks": 1, "num_interests": 3, "dropout": 0.0}
    read_skips = network.find(name).reads_skips
    changed = {f"model.{k}": v for k, v in (options | {"read_skips": read_skips} | model_options).items()}
    return configs.replace(configs.Config(), changed | {"objective.num_skips": 2})


@functools.cache
def parameters(name: str) -> dict:
    """Parameters away from any symmetric start."""
    return model.moved(model.init(jax.random.key(1), configured(name), N), jax.random.key(2))


def histories(padding: int = 0) -> Histories:
    rng = np.random.default_rng(0)
    items, watched = rng.integers(1, N + 1, (B, T)), rng.random((B, T)) < 0.5
    left = ((0, 0), (padding, 0))
    return Histories(jnp.asarray(np.pad(items, left), jnp.int32), jnp.asarray(np.pad(watched, left)))


def batch() -> TrainBatch:
    rng = np.random.default_rng(3)
    draw = functools.partial(rng.integers, 1, N + 1)
    read = histories()
    targets = map(jnp.asarray, (draw((B, T)), draw((B, T, 1)), draw((B, T, 2))))
    return TrainBatch(jnp.arange(B)[:, None], read.items, read.watched, *targets)


def scores_everywhere(name: str, read: Histories) -> np.ndarray:
    """[B, T, N] after each exposure."""
    rows, width = read.items.shape
    nothing = jnp.zeros((rows, width), jnp.int32)
    users = jnp.arange(rows)[:, None]
    windows = TrainBatch(users, read.items, read.watched, nothing, nothing[..., None], nothing[..., None])
    windows = windows._replace(segments=read.segments)
    config, params = configured(name), parameters(name)
    state = model.apply(params, windows, config)
    items = jnp.broadcast_to(jnp.arange(1, N + 1), (rows, width, N))
    return np.asarray(model.score_candidates(params, state, items, config))


EVERY = pytest.mark.parametrize("name", network.names())


@EVERY
def test_nothing_later_is_read(name):
    read, t = histories(), 3
    before = scores_everywhere(name, read)
    items = read.items.at[:, t].set(1 + read.items[:, t] % N)
    after = scores_everywhere(name, Histories(items, read.watched.at[:, t].set(~read.watched[:, t])))
    np.testing.assert_allclose(before[:, :t], after[:, :t], rtol=1e-5, atol=1e-5)
    assert np.abs(before[:, t] - after[:, t]).max() > 1e-4, "what was just seen does count"


@EVERY
def test_neither_padding_nor_width_counts(name):
    narrow, wide = scores_everywhere(name, histories()), scores_everywhere(name, histories(padding=T))
    np.testing.assert_allclose(narrow, wide[:, T:], rtol=1e-4, atol=1e-5)


@EVERY
def test_users_of_one_row_are_read_as_if_each_had_its_own(name):
    read = histories()
    lengths = [T, T - 2, 1]
    shared = jax.tree.map(lambda x: jnp.concatenate([x[i, :n] for i, n in enumerate(lengths)])[None], read)
    parts = jnp.repeat(jnp.arange(B), jnp.array(lengths), total_repeat_length=sum(lengths))[None]
    padding = ((0, 0), (2 * T - sum(lengths), 0))
    shared = shared._replace(segments=parts)
    packed = scores_everywhere(name, jax.tree.map(lambda x: jnp.pad(x, padding), shared))[0, padding[1][0] :]
    assert network.find(name).packs
    for part, scores in enumerate(np.split(packed, np.cumsum(lengths)[:-1])):
        np.testing.assert_allclose(scores, scores_everywhere(name, read)[part, : lengths[part]], rtol=1e-4, atol=1e-5)


@EVERY
def test_users_do_not_see_each_other(name):
    read = histories()
    alone = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), read)
    np.testing.assert_allclose(
        scores_everywhere(name, read)[0], scores_everywhere(name, alone)[0], rtol=1e-4, atol=1e-5
    )


@EVERY
def test_the_last_state_scores_candidates_as_it_scores_the_catalogue(name):
    config, params, items = configured(name), parameters(name), jnp.arange(1, N + 1)
    state = model.encode(params, histories(), config)
    shared = model.score_items(params, state, items, config)
    np.testing.assert_allclose(shared, scores_everywhere(name, histories())[:, -1], rtol=1e-4, atol=1e-5)


@EVERY
def test_every_parameter_learns_and_the_loss_falls(name):
    config, params = configured(name), parameters(name)
    value = jax.jit(jax.value_and_grad(lambda p: model.objective(p, batch(), None, config)[0]))

    @jax.jit
    def step(params, gradients):
        return jax.tree.map(lambda p, g: p - 0.01 * g / (1e-9 + jnp.abs(g).max()), params, gradients)

    first, gradients = value(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path
    for _ in range(5):
        params = step(params, value(params)[1])
    assert value(params)[0] < first


@EVERY
def test_dropout_is_drawn_by_key(name):
    config = configured(name, dropout=0.5)
    first, same, other = (
        model.objective(parameters(name), batch(), k, config)[0] for k in map(jax.random.key, (1, 1, 2))
    )
    assert first == same != other


def test_a_network_is_one_file_anywhere(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from sine_jax.layers import scoring\nfrom sine_jax.network import Network\nimport flax.linen as nn\n"
        "class Last(Network):\n    @nn.compact\n    def __call__(self, histories, *, deterministic):\n"
        "        return scoring.Outputs(scoring.of_vector(self.table()[histories.items]))\n"
    )
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine.py").write_text((tmp_path / "mine.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    config = configs.replace(configs.Config(), {"model.name": "pack.mine", "model.dim": 4})
    params = model.init(jax.random.key(0), config, N)
    assert set(params) == {"item_embedding"}
    assert not model.of(params, config).packs, "it does not say that it keeps the users of a row apart"
    expected = params["item_embedding"][histories().items[:, -1]] @ params["item_embedding"][jnp.arange(1, 4)].T
    np.testing.assert_allclose(
        model.score_items(params, model.encode(params, histories(), config), jnp.arange(1, 4), config),
        expected,
        rtol=1e-5,
    )


def test_an_unknown_network_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="^model.name=sasrek: no such network; choose one of .*sasrec.*sine"):
        network.find("sasrek")
    with pytest.raises(
        ValueError, match="^model.name=sine_jax.config: .* defines 0 subclasses of Network; make it define one"
    ):
        network.find("sine_jax.config")
