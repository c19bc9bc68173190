"""What the cells of raw columns mean: ids, times, numbers, yes or no, categories.

One table, TYPES, says which types are read as what; any other type is refused with file, column and type. Text means
the same in every format: blanks around it do not count, and the words of NOTHING are no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from sine_jax.plain import printable

NOTHING = r"(?i)^(|nan|none|null|<na>|\\n)$"  # what exporters write for a missing value
YES, NO = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")
MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}  # in one unit

_NUMBERS = ("integers", "floats", "decimals", "text", "categories")
TYPES: dict[str, tuple[str, ...]] = {  # what is read as ids, times, ...; a column without any value is read as any
    "ids": (*_NUMBERS, "16 bytes (a UUID)"),
    "times": (*_NUMBERS, "dates", "dates with times", "durations"),
    "places": (*_NUMBERS, "dates", "dates with times"),
    "lengths": (*_NUMBERS, "durations"),
    "values": _NUMBERS,
    "yes or no": (*_NUMBERS, "booleans"),
    "categories": (*_NUMBERS, "booleans", "dates"),
}
_MOMENT = (
    r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?"
    r"\s?(Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?$"
)
_LOST = r"^[+-]?\d(?:\.(\d*))?[eE]\+?(\d+)$"
_MOST_DAYS = 9_999 * 365  # of dates and durations; polars cannot show those far beyond
_EXACT: dict[type[pl.DataType], float] = {
    pl.Float32: 2.0**24,
    pl.Float64: 2.0**53,
}  # above it the neighbours of a float are more than 1 apart


_ROUNDED = ("times", "lengths")  # to milliseconds

# Cells that mean themselves, so that nothing else has to be asked of their column: most columns have no other cells.
_SIMPLE_ID, _SIMPLE_NUMBER = r"^[0-9A-Za-z_-]*[0-9_-]$", r"^-?\d{1,18}(\.\d+)?$"


class Value(NamedTuple):
    """A column in a role, as expressions."""

    value: pl.Expr  # text for ids and categories, Float64 for the rest; null if the cell has none, or a bad one
    absent: pl.Expr  # whether the cell has no value
    plain: pl.Expr  # whether it is a time as text or by type, which has no unit
    text: pl.Expr  # the cell as text without blanks around it, for patterns; null if it is no text, or a plain number
    kind: str  # of the type


def kind(dtype: pl.DataType) -> str:
    """The word for a type."""
    words: tuple[tuple[bool, str], ...] = (
        (dtype.is_integer(), "integers"),
        (dtype.is_float(), "floats"),
        (dtype.is_decimal(), "decimals"),
        (dtype == pl.String, "text"),
        (dtype in (pl.Categorical, pl.Enum), "categories"),
        (dtype == pl.Boolean, "booleans"),
        (dtype == pl.Date, "dates"),
        (dtype == pl.Datetime, "dates with times"),
        (dtype == pl.Duration, "durations"),
        (dtype == pl.Binary, "16 bytes (a UUID)"),
        (dtype == pl.Null, "nothing"),
    )
    return next((word for holds, word in words if holds), str(dtype))


def check_type(path: Path, name: str, column: pl.Series, use: str) -> None:
    """Refuses a column whose type is not read in its role, or cannot hold its values.

    Args:
      path: of the file.
      name: of the column.
      column: its values.
      use: one of TYPES.

    Raises:
      ValueError: it is so; the message has file, column and type.
    """
    found = kind(column.dtype)
    if found not in (*TYPES[use], "nothing"):
        raise ValueError(f"{path}: {name} has the type {column.dtype}; write {use} as {', '.join(TYPES[use])}")
    if found == "floats" and use in ("ids", "times", "places"):
        largest = column.filter(column.is_finite()).abs().max()
        limit = _EXACT.get(type(column.dtype), 2.0**11)
        if isinstance(largest, float) and largest > limit:
            raise ValueError(
                f"{path}: {name} has the type {column.dtype}, which cannot hold these {use}: above {limit:,.0f} its "
                "neighbours are more than 1 apart; write the column as integers or as text"
            )
    if found in ("dates", "dates with times", "durations"):
        unit = (
            1 if found == "dates" else {"ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}[_unit(column)]
        )
        days = column.to_physical().cast(pl.Float64).abs().max() or 0.0
        if isinstance(days, float) and days / unit > _MOST_DAYS:
            raise ValueError(f"{path}: {name} holds times that are more than 9,999 years away; write other {use}")
    if found.startswith("16 bytes"):
        lengths = column.bin.size().unique().drop_nulls().to_list()
        if lengths not in ([], [16]):
            raise ValueError(f"{path}: {name} has bytes that are no UUID (not 16 of them); write the column as text")


def _unit(column: pl.Series) -> str:
    unit: str = column.dtype.time_unit  # type: ignore[attr-defined]
    return unit


def read(column: pl.Series, use: str, *, unit: float = 1.0, decimal: str = ".") -> Value:
    """A column that `check_type` lets through, as values.

    Args:
      column: its values, which are looked at to leave out what they do not need.
      use: one of TYPES.
      unit: milliseconds of one unit, for times and lengths.
      decimal: the decimal point of text.
    """
    found, as_label = kind(column.dtype), use in ("ids", "categories")
    simple = found == "text" and bool(column.str.contains(_SIMPLE_ID if as_label else _SIMPLE_NUMBER).all())
    value, absent, plain, text = _read(pl.col(column.name), found, use, unit=unit, decimal=decimal, simple=simple)
    return Value(value, absent, plain, pl.lit(None, pl.String) if text is None else text, found)


def _read(
    column: pl.Expr, found: str, use: str, *, unit: float, decimal: str, simple: bool
) -> tuple[pl.Expr, pl.Expr, pl.Expr, pl.Expr | None]:
    """The value, whether it is absent, whether it is a time without a unit, and the text."""
    never = pl.lit(False)
    if found == "nothing":
        as_text = use in ("ids", "categories")
        return pl.lit(None, pl.String if as_text else pl.Float64), pl.lit(True), never, None
    if found in ("dates", "dates with times") and use != "categories":
        return _epoch(column), column.is_null(), pl.lit(True), None
    if found == "durations":
        return column.dt.total_milliseconds().cast(pl.Float64), column.is_null(), never, None
    if found.startswith("16 bytes"):
        return _uuid(column), column.is_null(), never, None
    if found == "floats":
        column = column.fill_nan(None)
    if use in ("ids", "categories"):
        if simple:
            return column, column.is_null(), never, None
        text = _text(column, found)
        return _label(column, found, use), text.is_null(), never, text if found in ("text", "categories") else None
    if found == "booleans":
        return column.cast(pl.Float64), column.is_null(), never, None
    if simple or found not in ("text", "categories"):
        number = column.cast(pl.Float64) * unit
        return number.round() if use in _ROUNDED else number, column.is_null(), never, None
    text = _text(column, found)
    number = _number(text, decimal) * unit
    if use == "yes or no":
        low = text.str.to_lowercase()
        number = pl.when(low.is_in(YES)).then(1.0).when(low.is_in(NO)).then(0.0).otherwise(number)
        return number, text.is_null(), never, text
    if use == "times":
        moment = _moment(text)
        return pl.coalesce(moment, number.round()), text.is_null(), moment.is_not_null(), text
    return number.round() if use in _ROUNDED else number, text.is_null(), never, text


def lost_digits(cell: pl.Expr) -> pl.Expr:
    """Whether text is a number in scientific notation with fewer digits than it needs, as spreadsheets write it."""
    decimals, exponent = cell.str.extract(_LOST, 1).fill_null("").str.len_chars(), cell.str.extract(_LOST, 2)
    large = exponent.cast(pl.Int32, strict=False)
    return ((large >= 6) & (decimals.cast(pl.Int32) < large)).fill_null(False)


def written_by_a_spreadsheet(cell: pl.Expr) -> pl.Expr:
    """Whether text is a number as spreadsheets write long ids: 1.23E+15. Ids that were different look the same then."""
    return cell.str.contains(r"^\d(\.\d+)?[eE]\+\d+$").fill_null(False)


def has_comma(cell: pl.Expr) -> pl.Expr:
    """Whether text would be a number if its comma were a decimal point."""
    return cell.str.contains(r"^[+-]?\d+,\d+$").fill_null(False)


def examples(column: pl.Series, number: int = 3) -> str:
    """A few values of a column, for the summary."""
    found = column.drop_nulls().unique(maintain_order=True).head(number).to_list()
    return ", ".join(printable(each) for each in found)


def _text(column: pl.Expr, found: str) -> pl.Expr:
    text = column.cast(pl.String)
    if found not in ("text", "categories"):
        return text
    text = text.str.strip_chars()
    return pl.when(~text.str.contains(NOTHING)).then(text)


def _label(column: pl.Expr, found: str, use: str) -> pl.Expr:
    """Ids and categories in one form: 7, 7.0 and a decimal 7.00 are `7`. Other fractions are categories, but no ids."""
    if found == "floats":
        whole = column.is_finite() & (column == column.round())
        as_whole = pl.when(whole).then(column).cast(pl.Int64, strict=False).cast(pl.String)
        return as_whole if use == "ids" else pl.when(whole).then(as_whole).otherwise(column.cast(pl.String))
    text = _text(column, found)
    return text if found == "integers" else text.str.replace(r"^(-?(?:0|[1-9]\d*))\.0+$", "${1}")


def _number(text: pl.Expr, decimal: str) -> pl.Expr:
    """Text as Float64; null if it is no number."""
    if decimal != ".":
        text = pl.when(~text.str.contains(".", literal=True)).then(text.str.replace(decimal, ".", literal=True))
    return text.str.strip_suffix("%").cast(pl.Float64, strict=False)


def _epoch(column: pl.Expr) -> pl.Expr:
    """Dates, with or without times and zones, as ms since 1970; UTC where there is no zone."""
    return column.cast(pl.Datetime("ms"), strict=False).dt.epoch("ms").cast(pl.Float64)


def _moment(text: pl.Expr) -> pl.Expr:
    """ISO 8601 as ms since 1970, UTC where no offset is given; null if it is another text."""
    day = text.str.extract(_MOMENT, 1).str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")).dt.epoch("ms")
    hour, minute, second = (text.str.extract(_MOMENT, i).fill_null("0").cast(pl.Int64) for i in (2, 3, 4))
    thousandths = text.str.extract(_MOMENT, 5).fill_null("0").str.pad_end(3, "0").str.slice(0, 3).cast(pl.Int64)
    zone = text.str.extract(_MOMENT, 6).fill_null("Z")
    away = 60 * zone.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(0)
    away += zone.str.slice(3).str.strip_prefix(":").cast(pl.Int64, strict=False).fill_null(0)
    away = pl.when(zone.str.starts_with("-")).then(-away).when(zone.str.starts_with("+")).then(away).otherwise(0)
    real = (hour < 24) & (minute < 60) & (second < 61)
    found = day + 1000 * (3600 * hour + 60 * (minute - away) + second) + thousandths
    return pl.when(real).then(found).cast(pl.Float64)


def _uuid(column: pl.Expr) -> pl.Expr:
    digits, cuts = column.bin.encode("hex"), ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))
    return pl.concat_str([digits.str.slice(begin, length) for begin, length in cuts], separator="-")


def exploded(path: Path, frame: pl.DataFrame, lists: Sequence[str], *, row: str) -> pl.DataFrame:
    """One row per element of columns that are lists, which must have the same lengths in each row.

    Raises:
      ValueError: two lists of a row have different lengths.
    """
    if not lists:
        return frame
    frame = frame.with_columns(pl.col(name).cast(pl.List(_inner(frame[name].dtype))) for name in lists)
    lengths = frame.select(pl.col(name).list.len().fill_null(0) for name in lists)
    unequal = lengths.select(pl.any_horizontal(pl.col(name) != pl.col(lists[0]) for name in lists)).to_series()
    if unequal.any():
        at = unequal.to_list().index(True)
        shown = ", ".join(f"{name} has {count}" for name, count in zip(lists, lengths.row(at), strict=True))
        raise ValueError(
            f"{path}, row {frame[row][at]}: lists of different lengths ({shown}); write lists of one length"
        )
    return frame.filter(lengths.to_series(0) > 0).explode(*lists)


def _inner(dtype: pl.DataType) -> pl.DataType:
    inner: pl.DataType = dtype.inner  # type: ignore[attr-defined]
    return inner
