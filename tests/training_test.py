import functools
import os
import subprocess
import sys

import jax
import jax.monitoring
import models as model
import numpy as np
import pytest
from logs import NUM_ITEMS, configured, fed

from sine_jax import build_model, optimizer, parallel, presets, training
from sine_jax import config as configs
from sine_jax.batches import negatives, pipeline
from sine_jax.benchmark.devices import random_batch
from sine_jax.layers import dense, fused_attention

SMALL = {"model__dim": 4, "model__num_blocks": 1, "model__num_interests": 2, "train__num_widths": 2}


def model_of(config):
    return build_model(config.model, num_items=NUM_ITEMS)


def epochs(config, run, count=1):
    """Trains for some epochs; gives the state, the losses of each step, and the runner."""
    tx = optimizer.build(config.optimizer, num_steps=100)
    run_epoch = run(fed(config), model=model_of(config), optimizer=tx)
    state = parallel.replicate(model.init_state(config, tx, num_items=NUM_ITEMS))
    reports = []
    for epoch in range(count):
        state = run_epoch(state, epoch, reports.append)
    return state, np.concatenate([report["loss"] for report in reports]), run_epoch


@pytest.fixture(scope="module")
def resident():
    return epochs(configured(**SMALL, train__steps_per_call=2), training.resident_epoch, 2)


def test_resident_and_streamed_learn_the_same(resident):
    state, losses, _ = resident
    other, streamed, _ = epochs(configured(**SMALL), training.streamed_epoch, 2)
    np.testing.assert_allclose(losses, streamed, rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), state.params, other.params)


@pytest.mark.parametrize("form", ["bpr", "softmax"])
@pytest.mark.parametrize("kind", ["uniform", "popularity", "in_batch", "skips"])
def test_the_host_makes_the_batches_that_each_device_would_gather(kind, form):
    if (kind, form) == ("skips", "softmax"):
        pytest.skip("refused: the chances are not known")
    config = configured(objective__negatives=kind, objective__sampled_form=form)
    feed = fed(config)
    users = [batch[0] for batch in pipeline.schedule(feed.strata, seed=0, epoch=0, multiple=4)]
    host = pipeline.host_batches(feed, users, 0, devices=4)
    for batch, rows, stratum in zip(host, users, feed.strata.strata, strict=True):
        parts = zip(*(np.split(x, 4) for x in batch if x is not None), strict=True)
        for mine, part in zip(np.split(rows, 4), parts, strict=True):

            def random_bits(owners, ranks):
                drawn = negatives.random_bits(config.train.seed, 0, owners, ranks, config.objective.num_negatives)
                return np.asarray(drawn)

            size = {"width": stratum.width, "config": config, "num_items": NUM_ITEMS}
            alone = pipeline.assemble(feed.source, mine, random_bits, **size)
            for expected, found in zip([x for x in alone if x is not None], part, strict=True):
                np.testing.assert_array_equal(found, expected)
                assert found.dtype.itemsize <= 4


def test_an_epoch_whose_last_dispatch_is_shorter_does_every_step_once(resident):
    state, losses, _ = resident
    strata = fed(configured(**SMALL)).strata
    assert strata.num_steps % 2 == 1  # two steps to a dispatch leave one over
    assert int(state.step) == len(losses) == 2 * strata.num_steps


def test_nothing_is_compiled_after_the_first_epoch(resident):
    state, _, run_epoch = resident
    compiled = []

    def listen(name, duration, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    for epoch in (2, 3):
        state = run_epoch(jax.tree.map(lambda a: a.copy(), state), epoch, lambda report: None)
        if epoch == 2:
            compiled.clear()  # copies of the state compiled here
    assert not compiled
    jax.jit(lambda x: x + len(compiled))(1.0)
    assert compiled  # the listener does hear


def test_nothing_but_an_epochs_order_and_its_reports_passes_between_host_and_device(resident):
    state, _, run_epoch = resident
    state = jax.tree.map(lambda a: a.copy(), state)
    reports = []
    with jax.transfer_guard("disallow"):  # of what is not told to
        run_epoch(state, 4, reports.append)
        with pytest.raises(Exception, match="[Dd]isallowed"):
            jax.jit(lambda x: x + 1)(np.ones(3))
    assert reports


PACKED = {
    "default": {},
    "best": {},
    "official": {"model.dropout": 0.0, "data.window_margin": 0},
    "filter": {"model.active": "filter", "model.filter_strength": 0.5, "objective.active": 0.0},
    "kernel": {"model.kernel_dim": 3, "model.read_skips": True, "objective.after_skips": True},
    "soft": {"objective.sampled_form": "softmax", "objective.negatives": "popularity"},
}


@pytest.mark.parametrize("name", PACKED)
def test_the_gradient_of_packed_rows_is_that_of_a_row_for_each_user(name):
    small = {"model.dim": 4, "model.num_blocks": 1, "model.max_len": 12, "model.dropout": 0.0}
    small |= {"train.batch_size": 1000, "train.num_widths": 2, "objective.num_negatives": 2}
    config = configs.replace(presets.PRESETS.get(name, presets.default)(), small | PACKED[name])
    found = []
    for packed in (True, False):
        feed = fed(config, packed=packed)
        users = [batch[0] for batch in pipeline.schedule(feed.strata, seed=0, epoch=0, multiple=1)]
        batches = pipeline.host_batches(feed, users, 0)
        assert packed == any(batch.segments is not None for batch in batches)
        params = model.moved(model.init(jax.random.key(0), config, NUM_ITEMS), jax.random.key(1))
        loss = functools.partial(model.objective, key=None, config=config)
        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        found.append(gradient(params, batches))
    packed, alone = found
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), packed, alone)
    assert sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(packed[1])) > 0


def test_one_step_without_devices_reports_every_term_and_norm():
    config = configured(**SMALL)
    feed = fed(config)
    tx = optimizer.build(config.optimizer, num_steps=1)
    users = [batch[0] for batch in pipeline.schedule(feed.strata, seed=0, epoch=0, multiple=1)]
    batches = pipeline.host_batches(feed, users, 0)
    state = model.init_state(config, tx, num_items=NUM_ITEMS)
    after, report = jax.jit(
        functools.partial(training.train_step, config=config, model=model_of(config), optimizer=tx)
    )(state, batches[0], 0)
    assert int(after.step) == 1
    norms = {"gradient_norm", "update_norm", "parameter_norm"}
    assert set(report) == {"loss", "sampled", "passive", "dcor", "active"} | norms
    moved = jax.tree.map(lambda a, b: np.sum(np.square(a - b)), after.params, state.params)
    assert float(report["update_norm"]) == pytest.approx(np.sqrt(sum(jax.tree.leaves(moved))), rel=1e-4)


_LOSSES = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
import training_test as t
config = t.configured(**t.SMALL, model__dropout=0.0)
state, losses, _ = t.epochs(config, t.training.streamed_epoch)
print(jax.device_count(), *losses.tolist(), float(state.params["item_embedding"].sum()))
"""


def test_losses_on_one_and_on_eight_devices_agree():
    here = os.path.dirname(__file__)
    found = {}
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _LOSSES, here]
        words = subprocess.run(command, check=True, env=env, capture_output=True, text=True, timeout=100).stdout.split()
        assert int(words[0]) == devices
        found[devices] = np.array(words[1:], float)
    np.testing.assert_allclose(found[1], found[8], rtol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_each_device_has_dropout_masks_of_its_own(dropout):
    """The same rows on each of several devices: their mean is that of one device only where nothing is dropped."""
    config = configured(**SMALL, model__dropout=dropout)
    feed = fed(config)
    tx = optimizer.build(config.optimizer, num_steps=1)
    users = [batch[0] for batch in pipeline.schedule(feed.strata, seed=0, epoch=0, multiple=1)]
    batches = pipeline.host_batches(feed, users, 0)
    state = model.init_state(config, tx, num_items=NUM_ITEMS)
    step = functools.partial(
        training.train_step, seed=0, config=config, model=model_of(config), optimizer=tx, axis_name=parallel.AXIS
    )
    losses = []
    for devices in (1, 4):
        mapped = jax.pmap(step, axis_name=parallel.AXIS, in_axes=(None, 0), devices=jax.local_devices()[:devices])
        _, report = mapped(state, jax.tree.map(lambda x, n=devices: np.stack([x] * n), batches))
        losses.append(float(report["loss"][0]))
    assert (losses[0] == pytest.approx(losses[1], rel=1e-5)) == (dropout == 0)


def lowered(config, platform):
    """A training step of full windows as a program for a platform, on this machine."""
    built = build_model(config.model, num_items=NUM_ITEMS, platform=platform)
    tx = optimizer.build(config.optimizer, num_steps=1)
    state = jax.eval_shape(lambda: training.init_state(built.init(jax.random.key(0)), tx))
    step = functools.partial(training.train_step, config=config, model=built, optimizer=tx)
    batch = random_batch(config, num_items=NUM_ITEMS)
    return jax.jit(step).trace(state, batch, 1).lower(lowering_platforms=(platform,)).as_text()


# Two blocks of layers, three blocks of queries: 24 more products on a CPU, six to a block of queries.
STEP = {"model__max_len": 100, "model__dim": 8, "train__batch_size": 16, "model__num_interests": 2}


@pytest.mark.parametrize(("platform", "products"), [("cpu", 88), ("cuda", 64), ("tpu", 64)])
def test_a_step_has_the_form_of_the_platform_that_it_is_lowered_for(platform, products):
    text = lowered(configured(**STEP), platform)
    assert text.count("dot_general") == products
    chunks = dense.row_chunks(16 * 100)
    assert chunks > 1
    assert (f"tensor<{chunks}x{16 * 100 // chunks}x8xf32>" in text) == (platform == "cpu")  # of kernels' gradients


@pytest.mark.parametrize(
    ("platform", "attention", "calls"),
    [("cpu", "auto", 0), ("cuda", "auto", 2), ("cuda", "blocks", 0), ("tpu", "fused", 2)],
)
def test_the_fused_kernel_is_in_the_step_of_a_gpu_unless_an_option_says_otherwise(
    monkeypatch, platform, attention, calls
):
    shapes = []

    def stand_in(q, k, v, where):
        shapes.append(q.shape)
        return q

    monkeypatch.setattr(fused_attention, "_kernel", stand_in)
    options = {"model__dtype": "bfloat16", "model__dropout": 0.0, "model__attention": attention}
    lowered(configured(**STEP, **options), platform)
    assert shapes.count((16, 100, 1, 8)) == calls
