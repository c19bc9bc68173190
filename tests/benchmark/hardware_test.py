import jax
import pytest

from sine_jax import parallel
from sine_jax.benchmark import hardware

TINY = hardware.Sizes(matrix=16, chain=2, vector=64)


def test_the_machine_is_described_with_rates_above_zero():
    machine = hardware.measure(sizes=TINY, repeats=2)
    assert set(machine.matmul) == {"float32"} and machine.matmul["float32"] > 0  # the tests run on CPUs
    assert machine.bandwidth > 0 and machine.cores >= 1 and machine.processor
    assert len(machine.devices) == parallel.device_count()
    assert machine.versions["jax"] == jax.__version__
    assert "XLA_FLAGS" in machine.settings  # by conftest


def test_rates_are_operations_and_bytes_over_the_least_time(monkeypatch):
    monkeypatch.setattr(hardware, "best", lambda call, *, repeats: 0.5)
    assert hardware.matmul_rate(dtype="float32", repeats=1, sizes=TINY) == 2 * 16**3 * 2 / 0.5
    assert hardware.memory_bandwidth(TINY, repeats=1) == 3 * 64 * 4 / 0.5


def test_a_call_is_made_once_more_than_it_is_timed():
    calls = []
    assert len(hardware.seconds(lambda: calls.append(0), repeats=3)) == 3 and len(calls) == 4


def test_peak_memory_is_at_least_what_is_held():
    hardware.forget_peak_memory()
    held = bytearray(50_000_000)
    assert hardware.peak_memory() > len(held)


def test_peak_memory_is_of_the_devices_where_they_say(monkeypatch):
    monkeypatch.setattr(parallel, "peak_memory", lambda: 7)
    assert hardware.peak_memory() == 7


@pytest.mark.parametrize("missing", [True, False])
def test_peak_memory_is_known_without_a_proc_file_system(monkeypatch, tmp_path, missing):
    if missing:
        monkeypatch.setattr(hardware, "_STATUS", tmp_path / "none")
        monkeypatch.setattr(hardware, "_RESET", tmp_path / "no" / "none")
    hardware.forget_peak_memory()
    assert hardware.peak_memory() > 1_000_000
