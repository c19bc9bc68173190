"""What the README shows does run, and the files it points to are there."""

import pathlib
import re

import jax.numpy as jnp

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run_as_they_stand():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["scores"].shape == (2, 3)
    assert names["vectors"].shape == (2, names["config"].model.dim)
    assert jnp.isfinite(names["loss"])
    assert set(names["terms"]) == {"sampled", "passive", "dcor", "active"}


def test_options_and_files_that_are_named_exist():
    from sine_jax import Config

    for section, field in re.findall(r"`-?-?(model|objective|train|data|optimizer)\.(\w+)", README):
        assert hasattr(getattr(Config(), section), field)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists()
