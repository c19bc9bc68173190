"""Canonical exposures: units and types made one, and every bad cell told with its row."""

import datetime
import decimal
import uuid
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


def canonical(rows, roles=ROLES, *, label="column", units=MILLISECONDS, drop=()):
    """Raw rows made canonical, and what was dropped."""
    frame = (rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows)).with_row_index(ROW, offset=2)
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
        ({"t": None}, "column", "t is missing"),
        ({"t": "noon"}, "column", "t='noon' is not a number or an ISO 8601 time; mend"),
        ({"t": "1.65E+12"}, "column", "t='1.65E.12' is in scientific notation and has lost its last digits"),
        ({"t": "2022-13-01"}, "column", "t='2022-13-01' is not a number or an ISO"),
        ({"t": "2022-04-16T25:00"}, "column", "is not a number or an ISO"),
        ({"t": "-5"}, "column", "t='-5' is negative"),
        ({"t": "1650000000"}, "column", "is before 1973 in this unit; mend the row"),
        ({"t": "12"}, "column", "t='12' is before 1973 in this unit; mend the row"),
        ({"t": str(NOW * 1000)}, "column", "is too large; mend the row"),
        ({"w": None}, "column", "w is missing"),
        ({"w": "2"}, "column", "w='2' is not 0 or 1; mend"),
        ({"w": "0.5"}, "column", "w='0.5' is not 0 or 1"),
        ({"w": "nan"}, "column", "w='nan' is missing"),
        ({"w": "maybe"}, "column", "w='maybe' is not a number"),
        ({"p": "1,5"}, "column", "p='1,5' has a comma; pass --decimal=, if"),
        ({"p": "-1"}, "column", "p='-1' is negative"),
        ({"p": str(2**31)}, "column", "p='2147483648' is too large; mend"),
        ({"p": "1e400"}, "column", "p='1e400' is too large"),
        ({"d": str(2**31)}, "column", "is too large; mend"),
        ({"d": "long"}, "column", "d='long' is not a number"),
        ({"p": None}, "seconds:3", "p is missing"),
        ({"d": None}, "ratio:0.5", "d is missing"),
        ({"d": "0"}, "ratio:0.5", "d='0' is 0, so it has no ratio; label by seconds:S, or .*--on_bad_row=drop"),
    ],
)
def test_a_bad_cell_is_told_with_file_row_value_and_remedy(cell, label, message):
    rows = [GOOD, GOOD | cell, GOOD, GOOD | {"w": "9"}]
    with pytest.raises(ValueError, match=rf"^log\.csv, row 3: .*{message}"):
        canonical(rows, label=label)
    frame, dropped = canonical(rows[:2], label=label, drop=("invalid",))
    assert len(frame) == 1
    assert sum(dropped.values()) == 1


def test_a_nan_of_a_float_column_is_no_feedback():
    with pytest.raises(ValueError, match="w=nan is missing"):
        canonical([GOOD | {"w": float("nan")}])


def test_dropped_rows_are_counted_by_reason_once_each():
    rows = [GOOD, GOOD | {"w": "2"}, GOOD | {"w": "3", "p": "-1"}, GOOD | {"p": "-1"}, GOOD | {"u": " "}]
    expected = {"u is missing": 1, "p is negative": 2, "w is not 0 or 1": 1}
    assert canonical(rows, drop=("invalid",))[1] == expected


@pytest.mark.parametrize("word", ["", " ", "nan", "None", "NULL", "\\N", "<NA>", "NaN"])
def test_rows_without_a_user_or_an_item_are_left_out_and_counted(word):
    frame, dropped = canonical([GOOD, GOOD | {"v": word}, GOOD | {"u": word}])
    assert len(frame) == 1 and dropped == {"u is missing": 1, "v is missing": 1}


@pytest.mark.parametrize(
    ("cell", "label", "units", "remedy"),
    [
        ({"t": "1650000000"}, "column", Units(), "pass --time_unit=s$"),
        ({"t": str(NOW * 1000)}, "column", Units(), "pass --time_unit=us$"),
        ({"t": str(NOW * 10**6)}, "column", Units(), "pass --time_unit=ns$"),
        ({"t": str(NOW)}, "column", Units(time=1000.0), "pass --time_unit=ms$"),
        ({"t": "12"}, "column", Units(), "pass --relative_times if .* or map it as order="),
        ({"t": "1.65E+12"}, "column", Units(), "write the column as whole numbers"),
        ({"w": "4.5"}, "column", Units(), "label by a threshold, such as --label=at_least:1"),
        ({"p": str(2**31)}, "column", Units(), "pass --play_unit if"),
        ({"p": "1,5"}, "column", Units(), "pass --decimal=, if"),
        ({"d": "long"}, "column", Units(), "map another column"),
        ({"d": "0"}, "ratio:0.5", Units(), "label by seconds:S$"),
    ],
)
def test_where_most_rows_are_bad_the_remedy_is_another_one(cell, label, units, remedy):
    with pytest.raises(ValueError, match=rf"^log\.csv, row 2: .*\(and so are 100% of the rows\); {remedy}"):
        canonical([GOOD | cell] * 3, label=label, units=units)


@pytest.mark.parametrize("cell", ["1.23E+15", "9e+20", " 1.0E+12"])
def test_ids_that_a_spreadsheet_has_cut_are_refused(cell):
    told = r"row 3: v='.*' is in scientific notation, so different ids may look the same; export the ids as text"
    with pytest.raises(ValueError, match=told):
        canonical([GOOD, GOOD | {"v": cell}, GOOD])
    assert canonical([GOOD | {"v": "5e2"}, GOOD | {"v": "e+1"}])[0]["item"].to_list() == ["5e2", "e+1"]


def test_relative_times_are_kept_as_they_are():
    frame, _ = canonical([GOOD | {"t": "0"}, GOOD | {"t": "90"}], units=Units(time=1000.0, relative=True))
    assert frame["time"].to_list() == [0, 90_000]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2022-04-15", "2022-04-15T00:00:00+00:00"),
        ("2022-04-15 05:20", "2022-04-15T05:20:00+00:00"),
        ("2022-04-15T05:20:07.25", "2022-04-15T05:20:07.250+00:00"),
        ("2022-04-15T05:20:07,123456789Z", "2022-04-15T05:20:07.123+00:00"),
        (" 2022-04-15 05:20:07 UTC", "2022-04-15T05:20:07+00:00"),
        ("2022-04-15T05:20:07+02:00", "2022-04-15T03:20:07+00:00"),
        ("2022-04-15T05:20:07-0530", "2022-04-15T10:50:07+00:00"),
        ("1969-12-31T23:00:00-01", "1970-01-01T00:00:00+00:00"),
    ],
)
def test_times_of_iso_8601_are_read(text, moment):
    frame, _ = canonical([GOOD | {"t": text}, GOOD])
    assert frame["time"].to_list()[0] == datetime.datetime.fromisoformat(moment).timestamp() * 1000


@pytest.mark.parametrize("word", ["yes", "Y", " t ", "TRUE", "1", "1.0"])
@pytest.mark.parametrize("other", ["no", "N", " f ", "False", "0", "0.0"])
def test_words_for_yes_and_no(word, other):
    frame, _ = canonical([GOOD | {"w": word}, GOOD | {"w": other}])
    assert frame["feedback"].to_list() == [WATCHED, SKIPPED]


def test_a_threshold_on_any_number():
    frame, _ = canonical([GOOD | {"w": w} for w in ("49.9", "50", "85%", "-3")], label="at_least:50")
    assert frame["feedback"].to_list() == [SKIPPED, WATCHED, WATCHED, SKIPPED]
    frame, _ = canonical([GOOD | {"w": w} for w in ("0.4", "0.6")], label="at_least:0.5")
    assert frame["feedback"].to_list() == [SKIPPED, WATCHED]
    frame, _ = canonical([GOOD | {"w": w} for w in (0.4, 0.6)], label="at_least:0.5")
    assert frame["feedback"].to_list() == [SKIPPED, WATCHED]
    assert canonical([GOOD | {"w": "x"}], label="all")[0]["feedback"].to_list() == [WATCHED]


def test_a_decimal_comma_is_read_where_it_is_said():
    frame, _ = canonical([GOOD | {"p": "1,5", "d": "10,000"}], units=Units(1.0, 1000.0, 1000.0, decimal=","))
    assert frame.select("play", "duration").rows() == [(1500, 10_000)]


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (["7", "7.0", " 7", "7.00", "007", "7.5", "x.0"], ["7", "7", "7", "7", "007", "7.5", "x.0"]),
        ([7.0, -0.0, 2.0**53], ["7", "0", str(2**53)]),
        (pl.Series([7.0, 9.0], dtype=pl.Float32), ["7", "9"]),
        ([decimal.Decimal("7.00"), decimal.Decimal("8.25")], ["7", "8.25"]),
        (pl.Series([2**64 - 1], dtype=pl.UInt64), [str(2**64 - 1)]),
        (pl.Series(["a", "b "], dtype=pl.Categorical), ["a", "b"]),
        ([uuid.UUID(int=7).bytes], [str(uuid.UUID(int=7))]),
    ],
    ids=["text", "floats", "float32", "decimals", "uint64", "categories", "bytes"],
)
def test_ids_have_one_form(values, ids):
    frame = pl.DataFrame([GOOD] * len(ids)).with_columns(v=pl.Series(values))
    found, _ = canonical(frame)
    assert found["item"].to_list() == ids


NOON = datetime.datetime(2022, 4, 15, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("role", "values", "outcome"),
    [
        ("v", pl.Series([2.0**54]), "v has the type Float64, which cannot hold these ids: above 9,007"),
        ("v", pl.Series([2.0**25], dtype=pl.Float32), "v has the type Float32, which cannot hold these ids"),
        ("t", pl.Series([float(NOW)], dtype=pl.Float32), "t has the type Float32, which cannot hold these times"),
        ("v", pl.Series([7.5]), "v=7.5 is no id"),
        ("v", pl.Series([True]), "v has the type Boolean; write ids as integers"),
        ("v", pl.Series([b"abc"]), "v has bytes that are no UUID"),
        ("v", pl.Series([{"x": 1}]), r"v has the type Struct\(.*; write ids as"),
        ("t", pl.Series([datetime.time(3)]), "t has the type Time; write times as"),
        ("w", pl.Series([datetime.date(2022, 1, 1)]), "w has the type Date; write yes or no as"),
        ("p", pl.Series([NOON]), "p has the type Datetime.*; write lengths as"),
        ("t", pl.Series([2**62]).cast(pl.Datetime("ms")), "t holds times that are more than 9,999 years away; write"),
        ("t", pl.Series([-(2**30)], dtype=pl.Int32).cast(pl.Date), "t holds times that are more than 9,999 years away"),
        ("p", pl.Series([2**62]).cast(pl.Duration("us")), "p holds times that are more than 9,999 years away"),
        ("t", pl.Series([NOON]).dt.convert_time_zone("Asia/Tokyo"), NOON.timestamp() * 1000),
        ("t", pl.Series([NOON]).dt.cast_time_unit("ns"), NOON.timestamp() * 1000),
        ("t", pl.Series([NOON.date()]), (NOON.timestamp() - 12 * 3600) * 1000),
        ("t", pl.Series([decimal.Decimal(NOW)]), NOW),
        ("p", pl.Series([datetime.timedelta(seconds=2)]), 2000),
        ("p", pl.Series([decimal.Decimal("2.4")]), 2),
        ("p", pl.Series([None]), -1),
        ("w", pl.Series([decimal.Decimal(0)]), SKIPPED),
        ("w", pl.Series(["yes"], dtype=pl.Categorical), WATCHED),
    ],
)
def test_each_role_reads_its_types_and_refuses_others(role, values, outcome):
    frame = pl.DataFrame([GOOD]).with_columns(values.alias(role))
    if isinstance(outcome, str):
        with pytest.raises(ValueError, match=outcome):
            canonical(frame)
        return
    found, _ = canonical(frame)
    assert found[{"t": "time", "p": "play", "w": "feedback"}[role]].to_list() == [outcome]


def test_lists_of_one_length_are_rows_in_order():
    row = {"u": "a", "v": ["7", "8"], "t": [NOW, NOW + 1], "w": [True, False], "p": "5", "d": "6"}
    frame, _ = canonical([row, row | {"v": [], "t": [], "w": []}])
    assert frame.select("item", "time", "feedback").rows() == [("7", NOW, WATCHED), ("8", NOW + 1, SKIPPED)]
    with pytest.raises(ValueError, match=r"row 2: lists of different lengths \(v has 2, t has 1, w has 2\)"):
        canonical([row | {"t": [NOW]}])
    with pytest.raises(ValueError, match="t holds lists, but v does not"):
        canonical([row | {"v": "7", "w": "1"}])


def test_a_list_of_what_was_clicked_tells_what_was_watched_of_what_was_shown():
    rows = [GOOD | {"v": [7, 8, 9], "w": [9, 7]}, GOOD | {"v": [1, 0], "w": [0]}, GOOD | {"v": [1], "w": []}]
    frame, _ = canonical(rows)
    assert frame.select("item", "feedback").rows() == [
        ("7", WATCHED),
        ("8", SKIPPED),
        ("9", WATCHED),
        ("1", SKIPPED),
        ("0", WATCHED),
        ("1", SKIPPED),
    ]


def test_the_place_in_the_input_can_be_the_order():
    roles = ingest.parse_roles(f"user=u,item=v,order={ROW},watched=w")
    frame, _ = canonical([GOOD, GOOD], roles)
    assert frame["order"].to_list() == [0, 0] and ROW not in ingest.raw_columns(roles, labels.by_column())


def test_what_was_read_and_what_is_missing_is_told():
    frame = pl.DataFrame([GOOD, GOOD | {"p": None, "v": " 8.0 "}]).with_row_index(ROW, offset=2)
    piece = Piece(Path("log.csv"), frame, {})
    (found,) = ingest.canonical(iter([piece]), ROLES, Units(), labels.by_column())
    assert found.missing == {"p": 1}
    assert found.read_as["item"] == ("v: text", "7, 8")
    assert found.read_as["play"] == ("p: text", "900")


def test_no_control_character_is_printed():
    with pytest.raises(ValueError) as error:
        canonical([GOOD | {"t": "\x1b[31m\x07" + "9" * 200}, GOOD, GOOD])
    assert str(error.value).isprintable() and len(str(error.value)) < 250


def test_an_order_with_a_fraction_is_told():
    roles = Roles("u", "v", order="o", watched="w")
    with pytest.raises(ValueError, match="o='1.5' has a fraction.*; write whole numbers, or map it as time="):
        canonical([{"u": "a", "v": "b", "o": "1.5", "w": "0"}], roles)


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
