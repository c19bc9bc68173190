"""What the README shows does run, and the files it points to are there."""

import pathlib
import re

import jax.numpy as jnp
from logs import made

import sine_jax as sine
from sine_jax import run

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    data = made(tmp_path / "runs/sample", num_users=60, num_items=120)
    small = {"model.max_len": 8, "model.dim": 8, "model.num_blocks": 1, "train.epochs": 1, "train.num_widths": 1}
    config = sine.replace(sine.presets.default(), small)
    run.train(data, str(tmp_path / "runs/sine"), config=config)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["scores"].shape == (2, 3) and names["best"].shape == names["places"].shape == (2, 10)
    assert names["vectors"].shape == (2, names["config"].model.dim + names["config"].model.kernel_dim)
    assert jnp.isfinite(names["report"]["loss"]) and int(names["state"].step) > 0
    assert jnp.isfinite(names["margin"](names["state"].params, names["batch"][0], None))
    assert 0 < float(capsys.readouterr().out.split()[-1]) < 1


def test_what_may_be_relied_on_is_listed_once():
    (table,) = re.findall(r"What you may rely on.*?^## ", README, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sine.__all__


def test_options_and_files_that_are_named_exist():
    from sine_jax import Config

    for section, field in re.findall(r"`-?-?(model|objective|train|data|optimizer)\.(\w+)", README):
        assert hasattr(getattr(Config(), section), field)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists()
