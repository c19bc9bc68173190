"""How long it takes to prepare a raw log, how that grows with the log, and how long it takes to load the result."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sine_jax.benchmark import hardware, speed
from sine_jax.benchmark.speed import Bench, Case, Timing
from sine_jax.data import datasets, preparation, sources, synthetic
from sine_jax.data.ingest import Roles, Units

PARTS = 3  # files of the large log, the first of which is the small one
_ROLES = Roles("user_id", "item_id", time="time_ms", watched="long_view", play="play_time_ms", duration="duration_ms")


def preparation_speed(settings: synthetic.Settings) -> Callable[[Case, Bench], dict[str, Timing]]:
    """Draws a log and writes it as CSV; times the preparation of its first part, of all of it, and loading that.

    The first part is prepared once per repeat, the whole log once. Peak memory is that of this process. It includes
    what drawing the log has left behind, so it is an upper bound.
    """

    def measured(case: Case, bench: Bench) -> dict[str, Timing]:
        with tempfile.TemporaryDirectory() as scratch:
            files = write_parts(settings, Path(scratch) / "raw")
            small = [_prepare(files[0], Path(scratch) / "small") for _ in range(bench.repeats)]
            large = _prepare(files[0].parent, Path(scratch) / "large")
            loading = []
            for _ in range(bench.repeats):
                begin = time.perf_counter()
                loaded = datasets.load(Path(scratch) / "large")
                loading.append(time.perf_counter() - begin)
        exposures, seconds = small[0].exposures, [part.seconds for part in small]
        return {
            "exposures, small": speed.exactly(exposures),
            "s to prepare, small": speed.over(seconds),
            "peak memory GB, small": speed.over([part.memory / 1e9 for part in small]),
            "exposures, large": speed.exactly(large.exposures),
            "s to prepare, large": speed.exactly(large.seconds),
            "peak memory GB, large": speed.exactly(large.memory / 1e9),
            "s an exposure, large over small": speed.over(
                [large.seconds / large.exposures / (s / exposures) for s in seconds]
            ),
            "users loaded": speed.exactly(loaded.log.num_users),
            "s to load": speed.over(loading),
        }

    return measured


def write_parts(settings: synthetic.Settings, folder: Path) -> list[Path]:
    """Writes a drawn log as CSV, in parts with about the same number of users each (parts are made of whole pieces)."""
    folder.mkdir()
    pieces = -(-settings.num_users // synthetic.USERS_A_PIECE)
    files = [folder / f"part_{part}.csv" for part in range(min(PARTS, pieces))]
    for piece, frame in enumerate(synthetic.frames(settings)):
        file = files[piece * len(files) // pieces]
        begun = file.exists()
        with open(file, "ab") as stream:
            frame.write_csv(stream, include_header=not begun)
    return files


class Prepared(NamedTuple):
    """One preparation."""

    exposures: int
    seconds: float
    memory: int  # peak, in bytes


def _prepare(raw: Path, out: Path) -> Prepared:
    hardware.forget_peak_memory()
    begin = time.perf_counter()
    info = preparation.prepare(sources.log(raw, _ROLES, Units()), out, min_positives=0, overwrite=True)
    seconds = time.perf_counter() - begin
    return Prepared(info.num_events, seconds, hardware.process_peak_memory())
