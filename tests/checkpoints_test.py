import json
import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax import checkpoints
from sine_jax.checkpoints import About, Position


class Rest(NamedTuple):
    step: jax.Array
    moments: tuple


def trees(value):
    params = {"table": jnp.full((5, 3), value), "block": {"bias": jnp.arange(4.0) + value}}
    return params, Rest(jnp.asarray(int(value), jnp.int32), (jax.tree.map(jnp.square, params), ()))


def about(step, **progress):
    return About(Position(step, step // 10, **progress), {"train": {"seed": 1}}, {"fingerprint": "f"}, {"jax": "0"})


def filled(folder, steps=(10, 20), **progress):
    store = checkpoints.open_store(folder)
    for step in steps:
        checkpoints.save(store, *trees(float(step)), about(step, **progress))
    store.manager.close()


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_restored_is_what_was_saved(tmp_path):
    filled(tmp_path, best=0.5, best_step=10, since_gain=1)
    params, rest, said = checkpoints.resume(tmp_path, *trees(0.0))
    assert_equal((params, rest), trees(20.0))
    assert said == about(20, best=0.5, best_step=10, since_gain=1)


def test_an_empty_folder_resumes_from_nothing(tmp_path):
    assert checkpoints.resume(tmp_path, *trees(0.0)) is None


def test_a_save_is_not_touched_by_later_changes_of_its_arrays(tmp_path):
    store, params = checkpoints.open_store(tmp_path), {"x": np.zeros(1000, np.float32)}
    checkpoints.save(store, params, {"y": np.zeros(1)}, about(1))
    params["x"] += 1
    store.manager.close()
    restored, _ = checkpoints.restore_params(tmp_path, "latest", lambda _: params)
    assert not np.asarray(restored["x"]).any()


def test_best_and_the_newest_two_are_kept(tmp_path):
    store = checkpoints.open_store(tmp_path)
    for step, best_step in ((10, 10), (20, 20), (30, 20), (40, 20), (50, 20)):
        checkpoints.save(store, *trees(float(step)), about(step, best_step=best_step))
    store.manager.close()
    assert checkpoints.steps(tmp_path) == [20, 40, 50]
    for which, step in (("best", 20), ("latest", 50), ("40", 40)):
        params, said = checkpoints.restore_params(tmp_path, which, lambda _: trees(0.0)[0])
        assert_equal(params, trees(float(step))[0])
        assert said.progress.step == step


@pytest.mark.parametrize("which", ["30", "newest"])
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(tmp_path, which):
    filled(tmp_path)
    with pytest.raises(ValueError, match=f"checkpoint={which} does not exist; use best, latest, or one of 10, 20"):
        checkpoints.restore_params(tmp_path, which, lambda _: trees(0.0)[0])


def test_nothing_to_restore_says_to_train_first(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        checkpoints.restore_params(tmp_path, "best", lambda _: None)


def test_a_truncated_newest_checkpoint_is_reported_and_the_one_before_used(tmp_path, caplog):
    filled(tmp_path)
    for file in (tmp_path / "20").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    params, _ = checkpoints.restore_params(tmp_path, "latest", lambda _: trees(0.0)[0])
    assert_equal(params, trees(10.0)[0])
    params, rest, said = checkpoints.resume(tmp_path, *trees(0.0))
    assert_equal((params, rest), trees(10.0))
    assert said.progress.step == 10 and "20: the checkpoint is damaged" in caplog.text
    filled(tmp_path, steps=[20])
    assert checkpoints.resume(tmp_path, *trees(0.0))[2].progress.step == 20


def test_damage_to_any_one_file_is_never_taken_for_values(tmp_path):
    filled(tmp_path)
    files = [file for file in (tmp_path / "20").rglob("*") if file.is_file()]
    assert files
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        params, _ = checkpoints.restore_params(tmp_path, "latest", lambda _: trees(0.0)[0])
        assert float(params["table"][0, 0]) in (10.0, 20.0)
        assert_equal(params, trees(float(params["table"][0, 0]))[0])
        file.write_bytes(whole)


def described(folder, step):
    return folder / str(step) / "about" / "metadata"


def test_a_checkpoint_of_another_version_says_which(tmp_path):
    filled(tmp_path, steps=[10])
    file = described(tmp_path, 10)
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"format": 1, "versions": {"sine_jax": "0.0.9"}}))
    text = "10: a checkpoint of format 1, written by sine_jax 0.0.9, but this version reads format 2; use that version"
    for restored in (
        lambda: checkpoints.restore_params(tmp_path, "latest", lambda _: trees(0.0)[0]),
        lambda: checkpoints.resume(tmp_path, *trees(0.0)),
    ):
        with pytest.raises(checkpoints.OtherVersion, match=text):
            restored()
    assert (tmp_path / "10").exists()


@pytest.mark.parametrize("name", ["progress", "config", "data", "versions", "trees", "format", "checksum"])
def test_a_description_without_a_field_is_damaged(tmp_path, name):
    filled(tmp_path, steps=[10])
    file = described(tmp_path, 10)
    told = json.loads(file.read_text())
    del told[name]
    file.write_text(json.dumps(told))
    with pytest.raises(checkpoints.Damaged, match="10: the checkpoint is damaged .*; use another checkpoint"):
        checkpoints.restore_params(tmp_path, "10", lambda _: trees(0.0)[0])


def test_any_flipped_bit_of_any_file_is_refused_or_changes_nothing(tmp_path):
    filled(tmp_path, steps=[10])
    _, expected = checkpoints.restore_params(tmp_path, "10", lambda _: trees(0.0)[0])
    files, rng, refused = [file for file in (tmp_path / "10").rglob("*") if file.is_file()], np.random.default_rng(0), 0
    assert len(files) > 5
    for _ in range(100):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        bit = rng.integers(0, 8 * max(len(whole), 1))
        harmed = bytearray(whole)
        if whole:
            harmed[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(harmed)
        try:
            params, about = checkpoints.restore_params(tmp_path, "10", lambda _: trees(0.0)[0])
        except ValueError as error:
            refused += 1
            assert str(tmp_path / "10") in str(error) and "\n" not in str(error)
        else:
            assert_equal(params, trees(10.0)[0])
            assert about == expected
        file.write_bytes(whole)
    assert refused > 10


def test_when_nothing_is_intact_the_run_is_refused(tmp_path):
    filled(tmp_path, steps=[10])
    for file in (tmp_path / "10").rglob("manifest.ocdbt"):
        os.truncate(file, 3)
    with pytest.raises(ValueError, match="no checkpoint is intact"):
        checkpoints.resume(tmp_path, *trees(0.0))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("10", "10: the checkpoint is damaged .*; use another checkpoint, such as latest"),
        ("latest", "no checkpoint is intact; train again in another workdir"),
        ("best", "no checkpoint is intact; train again in another workdir"),
    ],
)
def test_a_damaged_checkpoint_is_not_restored_for_evaluation(tmp_path, which, message):
    filled(tmp_path, steps=[10])
    for file in (tmp_path / "10").rglob("manifest.ocdbt"):
        os.truncate(file, 3)
    with pytest.raises(checkpoints.Damaged, match=message):
        checkpoints.restore_params(tmp_path, which, lambda _: trees(0.0)[0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"table": jnp.zeros((6, 3)), "block": {"bias": jnp.zeros(4)}},
            r"table is stored as float32\[5, 3\].*\[6, 3\]",
        ),
        ({"table": jnp.zeros((5, 3)), "block": {"bias": jnp.zeros(4, jnp.int32)}}, "block/bias.*needs int32"),
        ({"table": jnp.zeros((5, 3))}, "block/bias is stored as .*needs nothing"),
        ({**trees(0.0)[0], "more": jnp.zeros(1)}, "more is stored as nothing"),
    ],
)
def test_other_shapes_types_or_names_are_refused_not_cast(tmp_path, changed, message):
    filled(tmp_path)
    with pytest.raises(ValueError, match=message):
        checkpoints.restore_params(tmp_path, "latest", lambda _: changed)


@pytest.mark.parametrize("devices", [1, 8])
def test_restores_under_another_number_of_devices(tmp_path, devices):
    filled(tmp_path)
    code = (
        "import sys, jax, jax.numpy as jnp; from sine_jax import checkpoints, parallel\n"
        f"assert jax.device_count() == {devices}\n"
        "shapes = {'table': jnp.zeros((5, 3)), 'block': {'bias': jnp.zeros(4)}}\n"
        "params, _ = checkpoints.restore_params(sys.argv[1], 'latest', lambda _: shapes)\n"
        "params = parallel.replicate(params)\n"
        "assert len(params['table'].devices()) == jax.device_count() and (params['table'] == 20).all()\n"
    )
    flags = f"--xla_force_host_platform_device_count={devices}"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "XLA_FLAGS": flags}, timeout=60
    )
