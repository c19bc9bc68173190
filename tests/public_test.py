"""The public names: each resolves, a type checker sees the same ones, and none is loaded before it is asked for."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

import sine_jax as sine

HEAVY = ["flax", "optax", "tensorflow_datasets", "orbax", "polars", "scipy", "tensorboardX", "rich", "matplotlib"]


@pytest.mark.parametrize("name", sine.__all__)
def test_a_name_resolves_to_what_its_table_says(name):
    if name in sine._ROOMS:
        assert getattr(sine, name) is importlib.import_module(f"sine_jax.{sine._ROOMS[name]}")
    else:
        home, _, inner = sine._NAMES[name].partition(":")
        assert getattr(sine, name) is getattr(importlib.import_module(f"sine_jax.{home}"), inner)
    assert name in dir(sine)


def test_a_type_checker_sees_the_names_that_there_are():
    (block,) = [node for node in ast.parse(pathlib.Path(sine.__file__).read_text()).body if isinstance(node, ast.If)]
    seen = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        for alias in line.names:
            seen[alias.asname or alias.name] = f"{line.module}:{alias.name}"
    names = {name: f"sine_jax.{place}" for name, place in sine._NAMES.items()}
    rooms = {name: ":".join(f"sine_jax.{place}".rsplit(".", 1)) for name, place in sine._ROOMS.items()}
    assert seen == names | rooms
    assert sorted(seen) == sine.__all__


def test_no_function_has_the_name_of_a_module():
    folder = pathlib.Path(sine.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(sine._NAMES)
    assert all(place == name or "." in place for name, place in sine._ROOMS.items())


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'modle'"):
        sine.modle  # noqa: B018


@pytest.mark.parametrize("use", ["", "sine_jax.losses.mean, sine_jax.metrics.Ranking, sine_jax.presets.default()"])
def test_little_is_loaded_before_it_is_asked_for(use):
    code = f"import sys, jax; before = set(sys.modules); import sine_jax; {use or 'pass'}\n"
    code += "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "sine_jax" in loaded
    assert not set(loaded) & set(HEAVY)
