"""A user's mistake is one line and exit code 1; a bug keeps its traceback."""

import os
import subprocess
import sys

import pytest


def launched(body: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A launch whose main runs `body`."""
    program = f"from launch.app import launch_app\ndef main():\n    {body}\nlaunch_app(main)"
    return subprocess.run([sys.executable, "-c", program, *flags], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("error", ["ValueError('no such column')", "OSError('no such column')"])
def test_a_mistake_is_one_line_and_exit_code_1(error):
    done = launched(f"raise {error}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["-c: error: no such column"]


def test_verbosity_shows_the_traceback_of_a_mistake():
    done = launched("raise ValueError('no such column')", "--verbosity=1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_bug_keeps_its_traceback():
    done = launched("raise KeyError('a bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_word_that_is_no_flag_is_refused():
    done = launched("print('ran')", "data=here")
    assert done.returncode == 1
    assert "not a flag: 'data=here'" in done.stderr + done.stdout
    assert "ran" not in done.stdout


def test_success_is_exit_code_0():
    done = launched("print('ran')")
    assert (done.returncode, done.stdout) == (0, "ran\n")


SCRIPT = """
import jax
from launch.app import keep_compiled_programs
keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x * 2 + 1)(1.0)
"""


@pytest.mark.parametrize("named", [True, False])
def test_compiled_programs_are_kept_where_told(tmp_path, named):
    mine = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "named")} if named else {"XDG_CACHE_HOME": str(tmp_path)}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))} | mine
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, env={**env, "JAX_PLATFORMS": "cpu"}, timeout=100)
    assert os.listdir(tmp_path) == ["named" if named else "sine_jax"]
    assert os.listdir(tmp_path / ("named" if named else "sine_jax"))
