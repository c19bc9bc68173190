"""Settings of every test: four simulated CPU devices, quick compilation, and no silent broadcasting between ranks."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# Tests compile far more than they compute.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=4"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

from jaxlib.version import __version_info__ as jaxlib_version

if jaxlib_version < (0, 11):  # Compiles four times as fast; later versions compile quickly by themselves, and abort.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Drops compiled programs between files: each is some memory maps, of which Linux allows a process 65530."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """The folder with what the released code computes."""
    return pathlib.Path(os.environ.get("SINE_GOLDEN_DIR") or pathlib.Path(__file__).parent / "golden")
