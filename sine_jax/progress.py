"""The display of training: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

RECENT = 20  # the speed is measured over so many reports
LINE_EVERY = 10.0  # seconds between plain lines


class Display(NamedTuple):
    """What a run can show."""

    advance: Callable[[int, int, Mapping[str, float]], None]  # new steps, sequences in them, terms
    say: Callable[[str], None]  # a line that stays


@contextlib.contextmanager
def display(*, done: int, total: int, console: Console | None = None) -> Iterator[Display]:
    """Shows steps, terms, sequences per second and the time left while the block runs.

    Args:
      done: steps done before, in an earlier run.
      total: steps of the whole run, if nothing stops it early.
      console: where to show it; the standard error by default.
    """
    console = console or Console(file=sys.stderr)
    if console.is_terminal and not console.is_dumb_terminal:
        with _bar(console, done, total) as shown:
            yield shown
    else:
        yield _lines(console, done, total)


@contextlib.contextmanager
def _bar(console: Console, done: int, total: int) -> Iterator[Display]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("train", total=total, completed=done, status="compiling")
        status = _status(total - done)

        def advance(steps: int, sequences: int, terms: Mapping[str, float]) -> None:
            bar.update(task, advance=steps, status=status(steps, sequences, terms))

        yield Display(advance, lambda line: console.print(line, soft_wrap=True, highlight=False))


def _lines(console: Console, done: int, total: int) -> Display:
    status, last, step = _status(total - done), time.monotonic(), done

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)

    say("compiling the training step; this happens once and delays the first epoch")

    def advance(steps: int, sequences: int, terms: Mapping[str, float]) -> None:
        nonlocal last, step
        step += steps
        text = status(steps, sequences, terms)
        if time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            say(f"step {step}/{total}  {text}")

    return Display(advance, say)


def _status(steps_left: int) -> Callable[[int, int, Mapping[str, float]], str]:
    """Counts steps, and writes terms, speed and time left as text."""
    marks: collections.deque[tuple[float, int, int]] = collections.deque(maxlen=RECENT)
    steps_done, sequences_done, left = 0, 0, steps_left

    def status(steps: int, sequences: int, terms: Mapping[str, float]) -> str:
        nonlocal steps_done, sequences_done, left
        left -= steps
        shown = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
        steps_done, sequences_done = steps_done + steps, sequences_done + sequences
        marks.append((time.monotonic(), steps_done, sequences_done))
        if len(marks) == 1:  # the first report includes compilation, so it gives no speed
            return shown
        begin, first_step, first_sequence = marks[0]
        elapsed = max(marks[-1][0] - begin, 1e-9)
        speed, pace = (sequences_done - first_sequence) / elapsed, elapsed / (steps_done - first_step)
        return f"{shown}  {speed:,.0f} sequences/s  at most {duration(pace * left)} left"

    return status


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
