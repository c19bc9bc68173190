"""The signed kernel by its definition, in chunks and by events."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.layers import signed_kernel

B, T, D = 3, 77, 4


def drawn(seed=0, length=T):
    rng = np.random.default_rng(seed)
    kernel = {
        "weights": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
        "decays": jnp.asarray(rng.normal(size=(2, 3))),
    }
    factors = jnp.asarray(rng.normal(size=(B, length, D)), jnp.float32)
    valid = np.arange(length)[None] >= np.array([[0], [5], [length - 1]])
    first = np.zeros((B, length), bool)
    first[np.arange(B), valid.argmax(axis=1)] = True
    first[0, [3, 40, 41]] = True  # four users share the first row
    return kernel, factors, rng.random((B, length)) < 0.4, valid, first


def by_definition(kernel, factors, watched, valid, first):
    weights, decays = 10 * np.asarray(kernel["weights"]), 1 / (1 + np.exp(-np.asarray(kernel["decays"])))
    found = np.zeros(factors.shape)
    for b, t in zip(*np.nonzero(valid), strict=True):
        begin = max(s for s in range(t + 1) if first[b, s])
        for s in range(begin, t + 1):
            kind = int(watched[b, s])
            found[b, t] += (weights[kind] * decays[kind] ** (t - s)).sum() * np.asarray(factors[b, s])
    return found


@pytest.mark.parametrize("length", [1, 31, 32, 33, T])
def test_chunks_give_the_sum_of_the_definition(length):
    kernel, factors, watched, valid, first = drawn(length=T)
    watched, valid, first, factors = (x[:, -length:] for x in (watched, valid, first, factors))
    first = first.copy()
    first[np.arange(B), valid.argmax(axis=1)] = True
    found = jax.jit(signed_kernel.read)(kernel, factors, watched=watched, valid=valid, first=first)
    expected = by_definition(kernel, factors, watched, valid, first)
    np.testing.assert_allclose(np.where(valid[..., None], found, 0), expected, rtol=1e-4, atol=1e-4)


def test_one_event_after_the_other_gives_what_the_window_gives():
    kernel, factors, watched, _, _ = drawn()
    whole = np.ones((B, T), bool)
    window = signed_kernel.read(kernel, factors, watched=watched, valid=whole, first=whole & (np.arange(T) == 0))
    update = jax.jit(signed_kernel.update)
    state = signed_kernel.nothing_read(B, D)
    for t in range(T):
        state = update(kernel, state, factors[:, t], watched=jnp.asarray(watched[:, t]))
    np.testing.assert_allclose(signed_kernel.memory(kernel, state), window[:, -1], rtol=1e-5, atol=1e-5)


def test_it_begins_by_changing_nothing_and_its_weights_then_learn():
    _, factors, watched, valid, first = drawn()

    def total(kernel):
        found = signed_kernel.read(kernel, factors, watched=watched, valid=valid, first=first)
        return jnp.sum(jnp.where(valid[..., None], found, 0))

    value, gradient = jax.jit(jax.value_and_grad(total))(signed_kernel.init())
    assert value == 0
    assert np.abs(gradient["weights"]).min() > 0
