"""Measures how fast this machine trains and evaluates, and compares that with what the machine can do.

For example:

  All cases that fit the machine, on the shipped sample and on made data:
    python -m launch.benchmark --out=speed

  Some cases on a prepared data set, with a profiler trace of a steady epoch of each that trains:
    python -m launch.benchmark --data=data/kuairand --out=speed --cases=dev,exposed --trace=speed/traces

  This library's SASRec and RecBole's on the same data; RecBole gets an environment of its own (some GB):
    python -m launch.benchmark --data=data/kuairand --out=speed --cases= --against=recbole

Writes benchmark.json and benchmark.md into --out, with the machine, its measured rates and the versions.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.app import launch_app, loading, read_from_flags, say

if TYPE_CHECKING:
    from sine_jax.data.datasets import Dataset

DATA = flags.DEFINE_string("data", None, "Folder of a prepared data set; the shipped sample by default.")
OUT = flags.DEFINE_string("out", None, "Folder of the report; made if it does not exist.", required=True)
CASES = flags.DEFINE_list(
    "cases", None, "Cases, separated by commas; by default those that fit the machine. A wrong name lists them."
)
REPEATS = flags.DEFINE_integer("repeats", 5, "Repeats of what is timed.", lower_bound=1)
TRACE = flags.DEFINE_string("trace", None, "Folder for a profiler trace of each case that trains.")
AGAINST = flags.DEFINE_enum("against", None, ["recbole"], "Also compare with another library, in turns.")
AGAINST_ENV = flags.DEFINE_string(
    "against_env", None, "RecBole's environment, made if it does not exist; <out>/recbole by default."
)
AGAINST_BATCHES = flags.DEFINE_integer(
    "against_batches", 20, "How many of RecBole's batches a repeat times.", lower_bound=1
)


def main() -> None:
    """Measures what the flags say."""
    with loading():
        import jax

        from sine_jax import parallel
        from sine_jax.benchmark import cases, hardware, report, rival, speed
        from sine_jax.benchmark.speed import Bench

    with read_from_flags():
        chosen = cases.select(CASES.value, backend=parallel.backend())
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    python = None
    if AGAINST.value:
        folder = Path(AGAINST_ENV.value or out / "recbole").absolute()
        say(f"recbole: looking for its environment in {folder}, or installing it there (some minutes)")
        python = rival.environment(folder)
    with _given() as data:
        say("measuring the machine")
        trace = Path(TRACE.value) if TRACE.value else None
        bench = Bench(data, hardware.measure(), REPEATS.value, trace)
        results = []
        for result in speed.time_cases(chosen, bench, say=say):
            results.append(result)
            report.write(bench, results, out)  # after each case, so that an interruption keeps what was measured
            jax.clear_caches()  # the next case does not need what this one compiled
        if python is not None:
            say("recbole: timing it and this library in turns")
            with tempfile.TemporaryDirectory() as scratch:
                config = rival.configuration()
                results.append(
                    rival.compare(bench, python, Path(scratch), config=config, batches=AGAINST_BATCHES.value)
                )
    print(report.write(bench, results, out))
    print(f"wrote {out / 'benchmark.json'} and benchmark.md")


@contextlib.contextmanager
def _given() -> Iterator[Dataset]:
    """The data set of --data, or the shipped sample, prepared for as long as this lasts."""
    from sine_jax.data import datasets, preparation, sources

    if DATA.value:
        say(f"loading {DATA.value}")
        yield datasets.load(DATA.value)
        return
    say("preparing the shipped sample")
    with tempfile.TemporaryDirectory() as scratch:
        preparation.prepare(sources.sample(), Path(scratch) / "sample")
        yield datasets.load(Path(scratch) / "sample")


def run() -> None:
    """The console script."""
    launch_app(main, interrupted="--out has the cases measured so far; choose the rest with --cases, and another --out")


if __name__ == "__main__":
    run()
