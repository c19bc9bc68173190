"""The GPU's own attention runs for what it takes, and is compared first; XLA's stands in for the kernel here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.layers import fused_attention
from sine_jax.layers.attention import SelfAttention
from sine_jax.layers.forms import FORMS, Forms

# The second row begins with padding, so that its first queries see nothing.
WHERE = jnp.tril(jnp.ones((2, 8, 8), bool)) & (jnp.arange(8)[None] >= jnp.array([0, 3])[:, None])[:, None, :]
STATES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 16)), jnp.bfloat16)


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that is XLA's, times a factor that a test may set; counts its calls."""
    settings = {"factor": 1.0, "calls": 0}

    def stand_in(q, k, v, where):
        settings["calls"] += 1
        read = jax.nn.dot_product_attention(q, k, v, mask=where[:, None], implementation="xla")
        return read * jnp.asarray(settings["factor"], read.dtype)

    monkeypatch.setattr(fused_attention, "_kernel", stand_in)
    fused_attention.fault.cache_clear()
    yield settings
    fused_attention.fault.cache_clear()


def read(states, *, forms=FORMS["cuda"], dropout=0.0, deterministic=False, **options):
    """What is read, and its gradient, at all positions: also where nothing is seen."""
    module = SelfAttention(num_heads=2, dropout=dropout, dtype=states.dtype, forms=forms)
    options = {"where": WHERE, "zero_keys": None, "emphasis": None, "deterministic": deterministic, **options}
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = module.init(rngs, states, states, **options)

    def total(states):
        out = module.apply(params, states, states, rngs=rngs, **options).astype(jnp.float32)
        return jnp.sum(out**2), out

    (_, out), gradient = jax.value_and_grad(total, has_aux=True)(states)
    return np.asarray(out), np.asarray(gradient, np.float32)


def test_on_a_cpu_there_is_none():
    fused_attention.fault.cache_clear()
    assert fused_attention.fault(8, 2, 8)
    assert not FORMS["cpu"].fused_attention and not FORMS["tpu"].fused_attention


@pytest.mark.parametrize("evaluation", [False, True])
def test_it_reads_what_the_plain_form_reads(kernel, evaluation):
    options = {"dropout": 0.5, "deterministic": True} if evaluation else {}
    found = read(STATES, **options)
    assert kernel["calls"]
    kernel["calls"] = 0
    plain = read(STATES, forms=Forms(), **options)
    assert not kernel["calls"]
    assert not found[0][1, :3].any()  # they see nothing
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05 * np.abs(b).max())


@pytest.mark.parametrize("factor", [0.9, 1.5])
def test_a_kernel_that_disagrees_has_a_fault(kernel, factor):
    kernel["factor"] = factor
    assert "disagrees" in fused_attention.fault(8, 2, 8)


def test_so_has_one_whose_last_queries_read_padding(kernel, monkeypatch):
    right = fused_attention._kernel
    assert fused_attention.fault(64, 2, 8) is None
    fused_attention.fault.cache_clear()
    monkeypatch.setattr(fused_attention, "_kernel", lambda q, k, v, where: right(q, k, v, where.at[:, -1].set(True)))
    assert "disagrees" in fused_attention.fault(64, 2, 8)


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError, ValueError])
def test_so_has_one_that_refuses_a_shape(kernel, monkeypatch, error):
    def refuse(*_):
        raise error("not for this shape")

    monkeypatch.setattr(fused_attention, "_kernel", refuse)
    assert fused_attention.fault(8, 2, 8) == "not for this shape"


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (jnp.bfloat16, {"dropout": 0.5}),
        (jnp.bfloat16, {"zero_keys": jnp.full((2, 8), 3)}),
        (jnp.bfloat16, {"emphasis": jnp.ones((2, 8, 8))}),
        (jnp.float32, {}),
    ],
    ids=["dropout", "zero keys", "emphasis", "float32"],
)
def test_what_it_cannot_do_is_done_plainly(kernel, dtype, options):
    read(STATES.astype(dtype), **options)
    assert not kernel["calls"]


@pytest.mark.parametrize(("columns", "features"), [(7, 16), (8, 12)], ids=["odd width", "width of a head"])
def test_a_shape_that_it_does_not_take_is_attended_plainly(kernel, columns, features):
    where = WHERE[:, :columns, :columns]
    assert np.isfinite(read(STATES[:, :columns, :features], where=where)[0]).all()
    assert not kernel["calls"]
