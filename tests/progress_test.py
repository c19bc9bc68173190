import io
import re

import pytest
from rich.console import Console

from sine_jax import progress


def shown(*, terminal):
    stream = io.StringIO()
    with progress.display(
        done=5, total=10, console=Console(file=stream, force_terminal=terminal, width=150)
    ) as display:
        display.advance(2, 40, {"loss": 0.5})  # with it, everything compiled
        display.advance(3, 60, {"loss": 0.25})
        display.say("epoch 1")
    return stream.getvalue()


def test_without_a_terminal_there_are_plain_lines(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    compiling, compiled, first, second = shown(terminal=False).splitlines()
    assert compiling.startswith("compiling")
    assert compiled == "step 7/10  loss 0.5000"
    assert first.startswith("step 10/10  loss 0.2500  ") and first.endswith("0:00:00 left")
    assert "sequences/s" in first and second == "epoch 1"


def test_a_terminal_gets_a_bar_with_terms_speed_and_time_left():
    text = shown(terminal=True)
    assert "10/10" in text and "loss 0.2500" in text and "sequences/s" in text and "epoch 1" in text


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_shows_colours_unless_told_otherwise(monkeypatch, no_color):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    colours = re.findall(r"\x1b\[[\d;]*\b(?:3[0-8]|4[0-8]|9\d)[\d;]*m", shown(terminal=True))
    assert bool(colours) != no_color


def test_without_a_terminal_there_is_no_control_character(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    assert re.fullmatch(r"[ -~\n]+", shown(terminal=False))


def test_a_terminal_that_cannot_draw_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert shown(terminal=True).startswith("compiling") and "\x1b" not in shown(terminal=True)


def test_durations_are_hours_minutes_and_seconds():
    assert progress.duration(3600 + 2 * 60 + 3) == "1:02:03"
