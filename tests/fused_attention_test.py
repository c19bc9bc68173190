"""The GPU's own attention is used where it runs and agrees, and nowhere else; here another kernel stands in for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax import fused_attention, parallel
from sine_jax.attention import SelfAttention

WHERE = jnp.tril(jnp.ones((2, 8, 8), bool)) & (jnp.arange(8)[None] >= jnp.array([0, 3])[:, None])[:, None, :]
STATES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 16)), jnp.bfloat16)


@pytest.fixture
def stand_in(monkeypatch):
    """A GPU whose kernel is XLA's, times a factor that a test may set; counts the calls outside the probe."""
    seen = {"factor": 1.0, "kernels": []}

    def attend(q, k, v, *, where, kernel="cudnn"):
        seen["kernels"].append(kernel)
        found = jax.nn.dot_product_attention(q, k, v, mask=where[:, None], implementation="xla")
        return found * seen["factor"] if kernel == "cudnn" else found

    monkeypatch.setattr(parallel, "backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention, "attend", attend)
    fused_attention.works.cache_clear()
    yield seen
    fused_attention.works.cache_clear()


def read(states, *, dropout=0.0, zero_keys=None):
    module = SelfAttention(2, dropout, states.dtype)
    options = {"where": WHERE, "zero_keys": zero_keys, "emphasis": None, "deterministic": False}
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def total(states, params):
        out = module.apply(params, states, states, rngs=rngs, **options).astype(jnp.float32)
        return jnp.sum(jnp.where(WHERE.any(axis=2)[..., None], out, 0.0) ** 2), out

    params = module.init(rngs, states, states, **options)
    return jax.value_and_grad(total, has_aux=True)(states, params)


def test_on_a_cpu_there_is_none():
    assert not fused_attention.works(8, 2, 8, jnp.bfloat16)


def test_it_reads_what_the_plain_form_reads(stand_in):
    (_, found), gradient = read(STATES)
    assert stand_in["kernels"].count("cudnn") >= 2  # the probe and the attention itself
    stand_in["factor"] = 2.0
    fused_attention.works.cache_clear()
    (_, plain), plain_gradient = read(STATES)
    visible = np.asarray(WHERE.any(axis=2))
    np.testing.assert_allclose(np.asarray(found)[visible], np.asarray(plain)[visible], rtol=0.05, atol=0.05)
    np.testing.assert_allclose(
        np.asarray(gradient, np.float32), np.asarray(plain_gradient, np.float32), rtol=0.1, atol=0.3
    )


def test_a_kernel_that_disagrees_is_not_used(stand_in):
    stand_in["factor"] = 1.5
    assert not fused_attention.works(8, 2, 8, jnp.bfloat16)


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError, ValueError])
def test_a_shape_that_it_refuses_is_attended_plainly(stand_in, monkeypatch, error):
    def refuse(*_, **__):
        raise error("not for this shape")

    monkeypatch.setattr(fused_attention, "attend", refuse)
    assert not fused_attention.works(8, 2, 8, jnp.bfloat16)
    assert np.isfinite(read(STATES)[0][1]).all()


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(jnp.bfloat16, {"dropout": 0.5}), (jnp.bfloat16, {"zero_keys": np.full((2, 8), 3)}), (jnp.float32, {})],
)
def test_what_it_cannot_do_is_done_plainly(stand_in, dtype, options):
    read(STATES.astype(dtype), **options)
    assert not stand_in["kernels"]
