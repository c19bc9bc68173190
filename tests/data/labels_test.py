"""What counts as watched, at and around each threshold."""

import re

import polars as pl
import pytest

from sine_jax.data import labels
from sine_jax.types import DISLIKED, SKIPPED, WATCHED

NOT_TOLD = pl.lit(False)


def codes(rule, disliked=NOT_TOLD, **columns):
    """The feedback of rows with these columns."""
    return pl.DataFrame(columns).select(labels.feedback(rule, disliked)).to_series().to_list()


def test_a_column_says_it_itself():
    assert codes(labels.parse("column"), watched=[1.0, 0.0]) == [WATCHED, SKIPPED]


def test_ratio_is_reached_at_equality_and_by_loops():
    plays, duration = [4_999, 5_000, 25_000], 10_000
    assert codes(labels.parse("ratio:0.5"), play=plays, duration=[duration] * 3) == [SKIPPED, WATCHED, WATCHED]


def test_seconds_are_reached_at_equality():
    assert codes(labels.parse("seconds:3"), play=[2_999, 3_000]) == [SKIPPED, WATCHED]


def test_a_dislike_wins_over_watching():
    disliked = pl.col("dislike") == 1
    assert codes(labels.parse("column"), disliked, watched=[1, 1, 0], dislike=[1, 0, 1]) == [
        DISLIKED,
        WATCHED,
        DISLIKED,
    ]


def test_codes_are_int8():
    frame = pl.DataFrame({"play": [1]}).select(labels.feedback(labels.by_seconds(1), NOT_TOLD))
    assert frame.schema == {"feedback": pl.Int8}


@pytest.mark.parametrize("text", ["column", "at_least:-1.5", "ratio:0.5", "seconds:3", "all"])
def test_a_rule_carries_the_text_that_names_it(text):
    assert labels.parse(text).text == text


@pytest.mark.parametrize(
    "text", ["ratio", "ratio:", "ratio:0", "ratio:-1", "ratio:nan", "ratio:inf", "seconds:x", "at_least:inf", ""]
)
def test_what_names_no_rule_is_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match=rf"^--label={re.escape(text)}: .*; write column, .*ratio:R .* or all$"):
        labels.parse(text)
