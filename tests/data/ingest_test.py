"""Canonical exposures: units and types made one, and every bad cell told with its row."""

import datetime
from pathlib import Path

import polars as pl
import pytest

from sine_jax.data import ingest, labels
from sine_jax.data.ingest import CANONICAL, Roles, Units
from sine_jax.data.rawfiles import ROW, Piece
from sine_jax.types import DISLIKED, SKIPPED, WATCHED

NOW = 1_650_000_000_000
ROLES = Roles("u", "v", time="t", watched="w", play="p", duration="d")
MILLISECONDS = Units()
GOOD = {"u": "a", "v": "7", "t": str(NOW), "w": "1", "p": "900", "d": "1000"}


def canonical(rows, roles=ROLES, *, label="column", units=MILLISECONDS, drop=(), schema=None):
    """Raw rows made canonical, and what was dropped."""
    frame = pl.DataFrame(rows, schema=schema).with_row_index(ROW, offset=2)
    rule = labels.parse(label)
    (piece,) = ingest.canonical(iter([Piece(Path("log.csv"), frame, {})]), roles, units, rule, drop=drop)
    assert piece.frame.schema == CANONICAL
    return piece.frame, piece.dropped


def test_a_good_row_becomes_canonical():
    frame, dropped = canonical([GOOD])
    assert frame.rows() == [("a", "7", NOW, 0, WATCHED, 900, 1000)]
    assert dropped == {}


def test_numbers_and_text_mean_the_same():
    numeric = {"u": "a", "v": 7, "t": NOW, "w": True, "p": 900.0, "d": 1000}
    assert canonical([numeric])[0].equals(canonical([GOOD])[0])


def test_whole_floats_are_ids_without_a_fraction():
    assert canonical([GOOD | {"v": 7.0}])[0]["item"].to_list() == ["7"]


def test_true_and_false_are_feedback():
    frame, _ = canonical([GOOD | {"w": "true"}, GOOD | {"w": "False"}])
    assert frame["feedback"].to_list() == [WATCHED, SKIPPED]


def test_units_scale_to_milliseconds():
    row = GOOD | {"t": str(NOW / 1000 + 0.25), "p": "1.5", "d": "2"}
    frame, _ = canonical([row], units=Units(1000.0, 1000.0, 1000.0))
    assert frame.select("time", "play", "duration").rows() == [(NOW + 250, 1500, 2000)]


def test_datetimes_need_no_unit():
    moment = datetime.datetime(2022, 4, 15, 5, 20)
    frame, _ = canonical([GOOD | {"t": moment}], units=Units(time=1000.0))
    assert frame["time"].to_list() == [int(moment.replace(tzinfo=datetime.UTC).timestamp() * 1000)]


def test_unmapped_columns_are_unknown():
    frame, _ = canonical([{"u": "a", "v": "b", "o": "3", "w": "0"}], Roles("u", "v", order="o", watched="w"))
    assert frame.rows() == [("a", "b", -1, 3, SKIPPED, -1, -1)]


def test_an_empty_play_or_duration_is_unknown_where_the_label_needs_none():
    frame, _ = canonical([GOOD | {"p": None, "d": None}])
    assert frame.select("play", "duration").rows() == [(-1, -1)]


def test_a_duration_of_0_is_unknown_where_the_label_needs_none():
    assert canonical([GOOD | {"d": "0"}])[0]["duration"].to_list() == [-1]


def test_a_dislike_that_was_not_told_is_none():
    columns = ROLES._replace(dislike="h")
    frame, _ = canonical([GOOD | {"h": "1"}, GOOD | {"h": "0"}, GOOD | {"h": None}], columns)
    assert frame["feedback"].to_list() == [DISLIKED, WATCHED, WATCHED]


@pytest.mark.parametrize(
    ("cell", "label", "message"),
    [
        ({"u": None}, "column", "u is missing or not an id; mend"),
        ({"v": ""}, "column", "v='' is missing or not an id"),
        ({"t": None}, "column", "t is missing"),
        ({"t": "noon"}, "column", "t='noon' is not a number"),
        ({"t": "-5"}, "column", "t='-5' is negative"),
        ({"t": "1650000000"}, "column", "looks like seconds, not milliseconds; pass --time_unit=s"),
        ({"t": "12"}, "column", "t='12' is before 1973; map it as order="),
        ({"t": str(NOW * 1000)}, "column", "is too large; pass --time_unit=us if"),
        ({"w": None}, "column", "w is missing"),
        ({"w": "2"}, "column", "w='2' is not 0 or 1; mend"),
        ({"w": "0.5"}, "column", "w='0.5' is not 0 or 1"),
        ({"w": "nan"}, "column", "w='nan' is not a number"),
        ({"w": "yes"}, "column", "w='yes' is not a number"),
        ({"p": "-1"}, "column", "p='-1' is negative"),
        ({"p": str(2**31)}, "column", "p='2147483648' is too large; .*--play_unit"),
        ({"p": "1e400"}, "column", "p='1e400' is too large"),
        ({"d": str(2**31)}, "column", "is too large; .*--duration_unit"),
        ({"d": "long"}, "column", "d='long' is not a number"),
        ({"p": None}, "seconds:3", "p is missing"),
        ({"d": None}, "ratio:0.5", "d is missing"),
        ({"d": "0"}, "ratio:0.5", "d='0' is 0, so it has no ratio; label by seconds:S, or .*--on_bad_row=drop"),
    ],
)
def test_a_bad_cell_is_told_with_file_row_value_and_remedy(cell, label, message):
    rows = [GOOD, GOOD | cell, GOOD | {"w": "9"}]
    with pytest.raises(ValueError, match=rf"^log\.csv, row 3: .*{message}"):
        canonical(rows, label=label)
    frame, dropped = canonical(rows[:2], label=label, drop=("invalid",))
    assert len(frame) == 1
    assert sum(dropped.values()) == 1


def test_a_nan_of_a_float_column_is_no_feedback():
    with pytest.raises(ValueError, match="w=nan is not a number"):
        canonical([GOOD | {"w": float("nan")}])


def test_dropped_rows_are_counted_by_reason_once_each():
    rows = [GOOD, GOOD | {"w": "2"}, GOOD | {"w": "3", "p": "-1"}, GOOD | {"p": "-1"}]
    assert canonical(rows, drop=("invalid",))[1] == {"p is negative": 2, "w is not 0 or 1": 1}


def test_an_order_beyond_exact_floats_is_told():
    with pytest.raises(ValueError, match="o='9007199254740992' is too large"):
        canonical([{"u": "a", "v": "b", "o": str(2**53), "w": "0"}], Roles("u", "v", order="o", watched="w"))


def test_a_column_map_is_read():
    text = "user=u, item=v,time=t,watched=w,play=p,duration=d"
    assert ingest.parse_roles(text) == ROLES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user=u,itm=v,time=t", "--columns=user=u,itm=v,time=t: no role 'itm' among user, .*; use 'item'"),
        ("user=u,item=v", "--columns=user=u,item=v: nothing orders the exposures; map time=NAME, or order=NAME"),
        ("user=u,time=t", "no column is the item; map item=NAME"),
        ("user=u,item,time=t", "'item' names no column; write item=NAME"),
        ("user=u,user=x,item=v,time=t", "'user' is mapped twice"),
        ("user=u,item=v,time=t,watched=w,context=a+w", "w is the watched and a context, .*; leave w out of context="),
    ],
)
def test_what_is_wrong_with_a_column_map_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        ingest.parse_roles(text)


def test_a_rule_without_its_column_is_refused():
    with pytest.raises(
        ValueError, match="--label=ratio:0.5: no column is the duration; map duration=NAME in --columns, or"
    ):
        ingest.check_rule(ROLES._replace(duration=""), labels.parse("ratio:0.5"))


def test_a_watched_column_that_the_rule_does_not_need_is_not_read():
    assert "w" not in ingest.raw_columns(ROLES, labels.parse("seconds:3"))
    assert "w" in ingest.raw_columns(ROLES, labels.parse("column"))
