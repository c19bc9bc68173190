import json
import re

import numpy as np
import pytest

from sine_jax.analysis import figures, report
from sine_jax.data import splits
from sine_jax.types import EventLog

MINUTE = 60_000


def log_of(feedback, times=None, plays=None, durations=None, users=1):
    number = len(feedback)
    unknown = np.full(number, -1)
    columns = [np.array(unknown if values is None else values) for values in (times, plays, durations)]
    items = np.arange(number) % 3 + 1
    return EventLog(
        items.astype(np.int32),
        np.array(feedback, np.int8),
        columns[0].astype(np.int64),
        *(column.astype(np.int32) for column in columns[1:]),
        np.linspace(0, number, users + 1).astype(np.int64),
    )


def test_dislikes_enter_no_rate():
    found = figures.counts(log_of([0, 1, 2, 0, 2]), num_items=3)
    assert found.skip_rate == 2 / 3
    assert (found.watched, found.skipped, found.disliked) == (1, 2, 2)


def test_the_spread_of_groups_is_less_the_noise_of_counting():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(2000), 20)
    same = figures.rates_of_groups(groups, rng.random(len(groups)) < 0.5, 2000)
    assert same.deviation == pytest.approx(np.sqrt(0.25 / 20), rel=0.05)
    assert same.true_deviation < 0.03
    apart = figures.rates_of_groups(groups, rng.random(len(groups)) < np.where(groups % 2, 0.3, 0.7), 2000)
    assert apart.true_deviation == pytest.approx(0.2, rel=0.05)
    assert figures.rates_of_groups(np.zeros(3, int), np.ones(3, bool), 1) is None


def test_bins_hold_their_lower_edge():
    found = figures.rates_by_bin(np.array([0, 1, 1.5, 2, 9]), np.array([1, 0, 1, 1, 0], bool), np.array([0, 1, 2, 5]))
    assert found.exposures == [1, 2, 1]
    assert found.skip_rate == [1, 0.5, 1]
    assert found.half_interval[1] == pytest.approx(1.96 * np.sqrt(0.25 / 2))


def test_sessions_end_after_a_gap_and_with_the_user():
    times = np.array([0, 1, 40, 41, 42, 43]) * MINUTE
    log = log_of([0, 1, 0, 1, 1, 0], times=times, users=2)  # three exposures each
    users = np.repeat([0, 1], 3)
    known = np.ones(6, bool)
    found = figures.by_time(log, users, log.feedback == 0, known, session_gap=30)
    assert found.sessions.number == 3  # 0 1 | 40 | 41 42 43
    assert found.position.exposures == [3, 2, 1]
    assert found.position.skip_rate == pytest.approx([2 / 3, 0, 1])
    assert sum(found.minutes_since_last.exposures) == 4


def test_rules_are_compared_with_the_label_and_durations_of_zero_have_no_ratio():
    log = log_of([1, 0, 1, 0], plays=[9000, 1000, 8000, 500], durations=[10_000, 10_000, 0, 10_000])
    found = figures.watch_time(log)
    assert found.rules["ratio:0.5"].exposures == 3
    assert found.rules["seconds:7"].agreement == 1
    assert found.rules["seconds:18"].skip_rate == 1
    assert found.rules["seconds:18"].median_seconds_watched is None


def test_gini_of_equal_and_of_one_that_has_all():
    assert figures.gini(np.array([3, 3, 3])) == pytest.approx(0)
    assert figures.gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert figures.gini(np.zeros(4)) == 0


def _names(document):
    """Every name in a JSON document."""
    if isinstance(document, dict):
        yield from document
    for inner in document.values() if isinstance(document, dict) else document if isinstance(document, list) else []:
        yield from _names(inner)


def whole(log):
    split = splits.last_positive(log, after_target=True).test
    return figures.analyse(log, split, num_items=3, session_gap=30)


def test_what_the_log_does_not_have_is_left_out_and_said():
    found = whole(log_of([0, 1, 1, 1] * 30, users=4))
    assert found.missing == figures.Missing(times=1.0, durations=True, plays=True)
    assert found.by_time is found.watch_time is found.duration is None
    page = report.page(found, title="a log")
    assert page.count("Left out: ") == 3 and "because 100% of the exposures have no time." in page
    assert not {"sessions", "label rules", "skip rate by duration"} & {each.title for each in report.sections(found)}


@pytest.mark.parametrize("feedback", [[0] * 40, [1] * 40, [0], [2] * 40, [0, 1] * 20])
def test_any_log_makes_a_report_that_needs_no_network(feedback):
    number = len(feedback)
    log = log_of(feedback, times=np.arange(number) * MINUTE, plays=[1000] * number, durations=[0, 5000] * number)
    log = log._replace(durations=log.durations[:number])
    found = whole(log)
    names = set(_names(json.loads(json.dumps(figures.plain(found), allow_nan=False))))
    assert {"skip_rate", "by_time"} <= names
    assert all(re.fullmatch(r"[a-z0-9_]+|(ratio|seconds):[0-9.]+|0\.[0-9]+", name) for name in names), names
    page = report.page(found, title="<a log>")
    assert "&lt;a log&gt;" in page and page.count("data:image/png;base64,") >= 4
    assert "http" not in page and "<script" not in page


def test_a_title_states_its_finding():
    times = np.arange(240) * 60 * MINUTE
    found = whole(log_of(np.arange(240) % 24 < 6, times=times, plays=[5] * 240, durations=[9] * 240))
    (figure,) = [each.figure for each in report.sections(found) if each.title == "skip rate by hour"]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == "Skip rate 0% at hour 0, 100% at hour 6"
