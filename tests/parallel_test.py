import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax import parallel


def test_unshard_undoes_shard():
    rows = {"a": np.arange(24).reshape(8, 3), "b": np.arange(8)}
    back = parallel.unshard(parallel.shard(rows))
    np.testing.assert_array_equal(back["a"], rows["a"])
    np.testing.assert_array_equal(back["b"], rows["b"])


def test_rows_that_do_not_divide_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="pad them"):
        parallel.shard(np.zeros((parallel.local_device_count() + 1, 2)))


def test_map_rows_equals_the_function_on_the_whole():
    rows, weights = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), jnp.arange(3.0)
    mapped = parallel.map_rows(lambda w, x: x @ w)
    np.testing.assert_allclose(
        parallel.unshard(mapped(weights, parallel.shard(rows))), rows @ np.arange(3.0), rtol=1e-6, atol=1e-6
    )


def test_update_averages_over_devices_and_leaves_the_state_unstacked():
    def step(state, shared, rows):
        mean = jax.lax.pmean(jnp.mean(rows), parallel.AXIS)
        return state + shared * mean, {
            "mean": mean,
            "devices": jax.lax.pmax(jax.lax.axis_index(parallel.AXIS), parallel.AXIS),
        }

    rows = np.arange(8, dtype=np.float32)
    state, report = parallel.update(step)(parallel.replicate(jnp.zeros(())), jnp.float32(2), parallel.shard(rows))
    assert state.shape == () and float(state) == 2 * rows.mean()
    assert float(report["mean"]) == rows.mean()
    assert int(report["devices"]) == parallel.device_count() - 1


def test_processes_take_disjoint_rows_that_together_are_all():
    rows = np.arange(12)
    parts = [parallel.process_rows(rows, process_index=i, process_count=3) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), rows)
