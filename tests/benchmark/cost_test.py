import jax
import jax.numpy as jnp
import models as model
import numpy as np
import pytest

from sine_jax import config as configs
from sine_jax import presets
from sine_jax.benchmark import cost, devices

SMALL = {"model.max_len": 6, "model.dim": 8, "model.num_interests": 3, "model.dropout": 0.0, "train.batch_size": 2}


def configured(preset, overrides):
    return configs.replace(preset, SMALL | {"data.window_margin": 0} | overrides)


def products(jaxpr):
    """Operations of all products of matrices in a jaxpr, and in what it calls."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([equation.invars[0].aval.shape[axis] for axis in summed], dtype=int)
            total += 2 * depth * equation.outvars[0].aval.size
        called = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        total += sum(products(inner) for inner in called if hasattr(inner, "eqns"))
    return total


def scored(params, batch, config):
    read = model.apply(params, batch, config)
    items = jnp.concatenate([batch.positives[..., None], batch.negatives, batch.skips], axis=-1)
    return jnp.sum(model.score_candidates(params, read, items, config))


@pytest.mark.parametrize(
    "preset, overrides",
    [
        (presets.official(), {}),
        (presets.official(adaptive=False), {}),
        (configs.Config(), {}),
        (configs.Config(), {"model.fusion": "candidate_aware", "model.num_heads": 2}),
        (configs.Config(), {"model.fusion": "sum", "objective.num_negatives": 4}),
        (configs.Config(), {"model.name": "sasrec", "model.num_blocks": 3}),
    ],
)
def test_operations_are_the_products_that_the_program_holds(preset, overrides):
    """Counted in the traced program; it multiplies every query by every key, B T T pairs in all."""
    config = configured(preset, overrides)
    batch = devices.random_batch(config, num_items=9)
    params = model.init(jax.random.key(0), config, 9)
    size, length = batch.items.shape
    counts = {"tokens": size * length, "pairs": size * length**2}
    forward = jax.make_jaxpr(lambda p: scored(p, batch, config))(params)
    assert products(forward.jaxpr) == cost.forward_flops(config, **counts)


def test_the_signed_kernel_is_counted_but_for_its_masks_and_decays():
    config = configured(configs.Config(), {"model.kernel_dim": 16})
    batch = devices.random_batch(config, num_items=9)
    params = model.init(jax.random.key(0), config, 9)
    size, length = batch.items.shape
    forward = jax.make_jaxpr(lambda p: scored(p, batch, config))(params)
    counted = cost.forward_flops(config, tokens=size * length, pairs=size * length**2)
    assert counted <= products(forward.jaxpr) <= 1.15 * counted


def test_a_step_is_three_forward_passes():
    config = configured(configs.Config(), {"model.name": "sasrec"})
    batch = devices.random_batch(config, num_items=9)
    params = model.init(jax.random.key(0), config, 9)
    size, length = batch.items.shape
    step = jax.make_jaxpr(jax.grad(lambda p: scored(p, batch, config)))(params)
    assert products(step.jaxpr) == cost.step_flops(config, tokens=size * length, pairs=size * length**2)


def test_a_network_whose_operations_nobody_counted_is_refused():
    config = configured(configs.Config(), {"model.name": "gru4rec"})
    with pytest.raises(ValueError, match="model.name=gru4rec: its operations .* choose sine or sasrec"):
        cost.forward_flops(config, tokens=1, pairs=1)


def test_bytes_grow_with_the_catalogue_by_all_that_the_optimiser_keeps_of_a_row():
    config = configured(configs.Config(), {})
    small, large = (cost.step_bytes(config, tokens=10, pairs=10, num_items=n) for n in (100, 150))
    value, gradient, moments = 1, 1, 2
    assert large - small == 50 * config.model.dim * 4 * 2 * (value + gradient + moments)


def test_work_is_divided_over_steps():
    assert cost.Work(tokens=10, pairs=30).per(4) == (2.5, 7.5)
