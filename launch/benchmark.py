"""Measures how fast this machine trains and evaluates, against what it can do.

For example:

  All cases that fit the machine, on the shipped sample and on made data:
    python -m launch.benchmark --out=speed

  Some cases on a prepared data set, with a profiler trace of a steady epoch of each that trains:
    python -m launch.benchmark --data=data/kuairand --out=speed --cases=dev,exposed --trace=speed/traces

  SASRec against RecBole's on the same data, in an environment that is made for it (some GB):
    python -m launch.benchmark --data=data/kuairand --out=speed --cases= --against=recbole

Writes benchmark.json and benchmark.md into --out, with the machine, its measured rates and the versions.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from launch.app import launch_app
from sine_jax import parallel
from sine_jax.benchmark import cases, hardware, report, rival, speed
from sine_jax.benchmark.speed import Bench
from sine_jax.data import datasets, preparation, sources
from sine_jax.data.datasets import Dataset

DATA = flags.DEFINE_string("data", None, "Folder of a prepared data set; the shipped sample by default.")
OUT = flags.DEFINE_string("out", None, "Folder of the report; made where it is missing.", required=True)
CASES = flags.DEFINE_list("cases", None, f"Cases: {', '.join(cases.CASES)}; those that fit by default.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Repeats of what is timed.", lower_bound=1)
TRACE = flags.DEFINE_string("trace", None, "Folder for a profiler trace of each case that trains.")
AGAINST = flags.DEFINE_enum("against", None, ["recbole"], "Also compare with another library, in turns.")
AGAINST_ENV = flags.DEFINE_string("against_env", None, "Its environment, made where missing; <out>/recbole by default.")
AGAINST_BATCHES = flags.DEFINE_integer("against_batches", 20, "Batches of it that a repeat times.", lower_bound=1)


def main() -> None:
    """Measures what the flags say."""
    chosen = cases.select(CASES.value, backend=parallel.backend())
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    python = None
    if AGAINST.value:
        folder = Path(AGAINST_ENV.value or out / "recbole").absolute()
        _say(f"recbole: looking for its environment in {folder}, or installing it there (some minutes)")
        python = rival.environment(folder)
    with _given() as data:
        _say("measuring the machine")
        trace = Path(TRACE.value) if TRACE.value else None
        bench = Bench(data, hardware.measure(), REPEATS.value, trace)
        results = []
        for result in speed.time_cases(chosen, bench, say=_say):
            results.append(result)
            report.write(bench, results, out)  # at once: whoever stops it keeps what was measured
        if python is not None:
            _say("recbole: timing it and this library in turns")
            with tempfile.TemporaryDirectory() as scratch:
                config = rival.configuration()
                results.append(rival.compare(bench, config, python, Path(scratch), batches=AGAINST_BATCHES.value))
    print(report.write(bench, results, out))
    print(f"wrote {out / 'benchmark.json'} and benchmark.md")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _given() -> Iterator[Dataset]:
    """The data set of --data, or the shipped sample, prepared for as long as this lasts."""
    if DATA.value:
        _say(f"loading {DATA.value}")
        yield datasets.load(DATA.value)
        return
    _say("preparing the shipped sample")
    with tempfile.TemporaryDirectory() as scratch:
        preparation.prepare(sources.sample(), Path(scratch) / "sample")
        yield datasets.load(Path(scratch) / "sample")


def run() -> None:
    """The console script."""
    launch_app(main)


if __name__ == "__main__":
    run()
