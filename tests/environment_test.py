import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax
from launch import environment
environment.keep_compiled_programs()
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
