"""From raw rows to canonical, validated exposures.

A canonical frame has the columns of CANONICAL, whatever the source, in which no value is missing or out of range. The
context columns of the log follow as text.
A bad row is refused, with file, row and remedy, or dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from sine_jax.data import labels, rawfiles
from sine_jax.data.rawfiles import ROW, Piece

CANONICAL = {
    "user": pl.String,  # external id
    "item": pl.String,  # external id
    "time": pl.Int64,  # ms since 1970; -1 where the log has no time
    "order": pl.Int64,  # what sorts a user's exposures of equal time
    "feedback": pl.Int8,  # SKIPPED, WATCHED or DISLIKED
    "play": pl.Int32,  # ms; -1 where unknown
    "duration": pl.Int32,  # ms; -1 where unknown
}
CONTEXT = "context "  # what the name of a context column begins with in a canonical frame
MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 0.001}

_EARLIEST, _LATEST = 10**11, 10**14  # ms: the years 1973 and 5138; today in seconds or microseconds is outside
_EXACT = 2**53  # above it a float cannot hold every integer


class Roles(NamedTuple):
    """Which raw column plays which role; empty if the log has no such column."""

    user: str
    item: str
    time: str = ""
    order: str = ""
    watched: str = ""
    play: str = ""
    duration: str = ""
    dislike: str = ""
    context: str = ""  # names joined by +

    @property
    def contexts(self) -> list[str]:
        """The context columns."""
        return self.context.split("+") if self.context else []


_SINGLE = tuple(role for role in Roles._fields if role != "context")  # roles of one column


class Units(NamedTuple):
    """Milliseconds in one unit of each column that measures time."""

    time: float = 1.0
    play: float = 1.0
    duration: float = 1.0


class Check(NamedTuple):
    """A way in which a row can be bad: an expression, the raw column, what is wrong, and what to do."""

    bad: pl.Expr
    column: str
    reason: str
    remedy: str


def parse_roles(text: str) -> Roles:
    """Reads a column map such as `user=user_id,item=video_id,time=time_ms,watched=long_view`.

    Raises:
      ValueError: a part is wrong, is mapped twice or is missing.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        role, equals, column = (word.strip() for word in part.partition("="))
        if role not in Roles._fields:
            near = rawfiles.nearest(role, Roles._fields)
            instead = repr(near[0]) if near else "one of these"
            raise ValueError(f"--columns={text}: no role {role!r} among {', '.join(Roles._fields)}; use {instead}")
        if not equals or not column:
            raise ValueError(f"--columns={text}: {part!r} names no column; write {role}=NAME")
        if role in found:
            raise ValueError(f"--columns={text}: {role!r} is mapped twice; keep one")
        found[role] = column
    contexts = found.get("context", "x").split("+")
    if "" in contexts or len(set(contexts)) < len(contexts):
        raise ValueError(
            f"--columns={text}: context={found['context']}: a name is empty or repeated; write context=A+B"
        )
    for role in ("watched", "play", "dislike"):
        if found.get(role) in contexts:
            raise ValueError(
                f"--columns={text}: {found[role]} is the {role} and a context, but a context must be known before "
                f"the feedback is; leave {found[role]} out of context="
            )
    for role in ("user", "item"):
        if role not in found:
            raise ValueError(f"--columns={text}: no column is the {role}; map {role}=NAME")
    if "time" not in found and "order" not in found:
        raise ValueError(
            f"--columns={text}: nothing orders the exposures; map time=NAME, or order=NAME where there is no time"
        )
    return Roles(**found)


def check_rule(roles: Roles, rule: labels.Rule) -> None:
    """Raises a ValueError if a label rule needs a column that is not mapped."""
    for role in rule.needs:
        if not getattr(roles, role):
            raise ValueError(
                f"--label={rule.text}: no column is the {role}; map {role}=NAME in --columns, or {labels.REMEDY}"
            )


def raw_columns(roles: Roles, rule: labels.Rule) -> list[str]:
    """The raw columns to read, each once."""
    read = [role for role in _SINGLE if role != "watched" or role in rule.needs]
    return list(dict.fromkeys([getattr(roles, role) for role in read if getattr(roles, role)] + roles.contexts))


def canonical(
    pieces: Iterator[Piece],
    roles: Roles,
    units: Units,
    rule: labels.Rule,
    *,
    drop: Sequence[str] = (),
) -> Iterator[Piece]:
    """Makes raw pieces canonical.

    Args:
      pieces: with the raw columns that `raw_columns` names.
      roles: which raw column plays which role.
      units: of time, play and duration.
      rule: what counts as watched.
      drop: with `invalid` among them, bad rows are dropped and counted.

    Raises:
      ValueError: a row is bad; the message has file, row and remedy.
    """
    for piece in pieces:
        raw = piece.frame
        frame = raw.select(_values(raw.schema, roles, units))
        checks = _checks(roles, rule)
        flags = frame.select(check.bad.fill_null(False).alias(str(i)) for i, check in enumerate(checks))
        bad = flags.select(pl.any_horizontal(pl.all())).to_series()
        dropped = dict(piece.dropped)
        if bad.any():
            if "invalid" not in drop:
                raise ValueError(_complaint(piece, flags, bad, checks))
            first = pl.coalesce(pl.when(pl.col(str(i))).then(i) for i in range(len(checks)))
            for i, count in flags.select(first.alias("check")).to_series().drop_nulls().value_counts().iter_rows():
                reason = f"{checks[i].column} {checks[i].reason}"
                dropped[reason] = dropped.get(reason, 0) + count
            frame = frame.filter(~bad)
        yield Piece(piece.path, _finished(frame, rule), dropped)


def _values(schema: pl.Schema, roles: Roles, units: Units) -> list[pl.Expr]:
    """Each role as an id (String) or a number (Float64); null if the cell is neither."""
    values = [_identifier(getattr(roles, role), schema).alias(role) for role in ("user", "item")]
    for role in _SINGLE[2:]:
        name = getattr(roles, role)
        if name not in schema:
            values.append(pl.lit(None, pl.Float64).alias(role))
            continue
        number = _truth(name, schema) if role in ("watched", "dislike") else _number(name, schema)
        if role in Units._fields and not schema[name].is_temporal():
            number = (number * getattr(units, role)).round()
        values += [number.alias(role), pl.col(name).is_null().alias(f"{role} absent")]
    return values + [_category(name, schema).alias(CONTEXT + name) for name in roles.contexts]


def _identifier(name: str, schema: pl.Schema) -> pl.Expr:
    """A column as external ids; 7.0 of a float column is `7`."""
    column = pl.col(name)
    if schema[name].is_float():
        column = pl.when(column == column.round()).then(column).cast(pl.Int64, strict=False)
    return column.cast(pl.String).replace("", None)


def _category(name: str, schema: pl.Schema) -> pl.Expr:
    """A context column as text; 7.0 of a float column is `7`, and null or an empty cell is unknown."""
    column = pl.col(name)
    if schema[name].is_float():
        column = column.fill_nan(None)
        whole = (column == column.round()) & (column.abs() < _EXACT)
        return (
            pl.when(whole).then(column.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(column.cast(pl.String))
        )
    return column.cast(pl.String).str.strip_chars().replace("", None)


def _number(name: str, schema: pl.Schema) -> pl.Expr:
    """A column as Float64; times of a temporal type in ms."""
    if schema[name].is_temporal():
        return pl.col(name).cast(pl.Datetime("ms")).dt.epoch("ms").cast(pl.Float64)
    return pl.col(name).cast(pl.Float64, strict=False)


def _truth(name: str, schema: pl.Schema) -> pl.Expr:
    """A column of 0 and 1, or of true and false, as Float64."""
    if schema[name] != pl.String:
        return pl.col(name).cast(pl.Float64, strict=False)
    words = pl.col(name).str.to_lowercase().replace({"true": "1", "false": "0"})
    return words.cast(pl.Float64, strict=False)


def _checks(roles: Roles, rule: labels.Rule) -> list[Check]:
    """The ways in which a row can be bad; the first that applies is reported."""
    leave = "mend the row, or leave such rows out with --on_bad_row=drop"
    checks = [Check(pl.col(r).is_null(), getattr(roles, r), "is missing or not an id", leave) for r in ("user", "item")]
    for role in ("time", "order", "play", "duration", "watched", "dislike"):
        name, value, absent = getattr(roles, role), pl.col(role), pl.col(f"{role} absent")
        needed = role in rule.needs or role in ("time", "order")
        if not name or (role == "watched" and not needed):
            continue
        if needed:
            checks.append(Check(absent, name, "is missing", leave))
        checks.append(Check((value.is_null() & ~absent) | value.is_nan(), name, "is not a number", leave))
        if role in ("watched", "dislike"):
            checks.append(Check(~value.is_in([0.0, 1.0]), name, "is not 0 or 1", leave))
            continue
        checks.append(Check(value < 0, name, "is negative", leave))
        limit = {"time": _LATEST, "order": _EXACT}.get(role, 2**31)
        checks.append(Check(value >= limit, name, "is too large", _UNITS.get(role, leave)))
    if roles.time:
        seconds = pl.col("time").is_between(_EARLIEST / 1000, _EARLIEST, closed="left")
        checks.append(Check(seconds, roles.time, "looks like seconds, not milliseconds", "pass --time_unit=s"))
        small = "map it as order= if it only orders the exposures"
        checks.append(Check(pl.col("time") < _EARLIEST, roles.time, "is before 1973", small))
    if "duration" in rule.needs:
        remedy = f"label by seconds:S, or {leave}"
        checks.append(Check(pl.col("duration") == 0, roles.duration, "is 0, so it has no ratio", remedy))
    return checks


_UNITS = {
    "time": "pass --time_unit=us if it is in microseconds",
    "play": "pass --play_unit if it is in another unit, or leave such rows out with --on_bad_row=drop",
    "duration": "pass --duration_unit if it is in another unit, or leave such rows out with --on_bad_row=drop",
}


def _complaint(piece: Piece, flags: pl.DataFrame, bad: pl.Series, checks: Sequence[Check]) -> str:
    """What is wrong with the first bad row, in one line."""
    at = bad.to_list().index(True)
    check = checks[flags.row(at).index(True)]
    row, value = piece.frame[ROW][at], piece.frame[check.column][at]
    shown = "" if value is None else f"={value!r}"
    return f"{piece.path}, row {row}: {check.column}{shown} {check.reason}; {check.remedy}"


def _finished(frame: pl.DataFrame, rule: labels.Rule) -> pl.DataFrame:
    """Validated values in their canonical types; a duration of 0 becomes unknown."""
    code = labels.feedback(rule, (pl.col("dislike") == 1).fill_null(False))
    frame = frame.with_columns(code, pl.when(pl.col("duration") > 0).then("duration"))
    return frame.select(
        *(
            pl.col(name).fill_null(0 if name == "order" else -1).cast(dtype) if dtype != pl.String else name
            for name, dtype in CANONICAL.items()
        ),
        pl.col(f"^{CONTEXT}.*$"),
    )
