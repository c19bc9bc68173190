import os

import jax
import pytest

from sine_jax import parallel
from sine_jax.benchmark import hardware

TINY = hardware.Sizes(matrix=16, chain=2, vector=64)


def test_the_machine_is_described_with_its_rates():
    machine = hardware.measure(sizes=TINY, repeats=2)
    assert set(machine.matmul) == {"float32"} and machine.matmul["float32"] > 0  # the tests run on CPUs
    assert machine.bandwidth > 0 and machine.cores == hardware.cores() <= os.cpu_count()
    assert machine.processor == hardware.processor() != ""
    assert len(machine.devices) == parallel.device_count()
    assert machine.versions["jax"] == jax.__version__
    assert "XLA_FLAGS" in machine.settings  # by conftest


def test_rates_are_operations_and_bytes_over_the_least_time(monkeypatch):
    monkeypatch.setattr(hardware, "best", lambda call, *, repeats: 0.5)
    assert hardware.matmul_rate(dtype="float32", repeats=1, sizes=TINY) == 2 * 16**3 * 2 / 0.5
    assert hardware.memory_bandwidth(TINY, repeats=1) == 3 * 64 * 4 / 0.5


def test_a_call_is_timed_after_a_first_one_that_compiles(monkeypatch):
    """Four calls of 9 s, 2 s, 1 s and 4 s."""
    clock, lengths = [0.0], iter([9.0, 2.0, 1.0, 4.0] * 2)

    def call():
        clock[0] += next(lengths)

    monkeypatch.setattr(hardware.time, "perf_counter", lambda: clock[0])
    assert hardware.seconds(call, repeats=3) == [2.0, 1.0, 4.0]
    assert hardware.best(call, repeats=3) == 1.0


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
