"""From raw rows to canonical, validated exposures.

A canonical frame has the columns of CANONICAL, whatever the source, in which no value is missing or out of range. The
context columns of the log follow as text. What a cell means is the business of `cells`.
A row without a user or an item is left out and counted. Any other bad row is refused, with file, row and remedy, or
dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from sine_jax.data import cells, labels
from sine_jax.data.cells import MILLISECONDS
from sine_jax.data.rawfiles import ROW, Piece
from sine_jax.plain import nearest, printable

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
    """How numbers are written: milliseconds in one unit, the decimal point, and where times begin."""

    time: float = 1.0
    play: float = 1.0
    duration: float = 1.0
    decimal: str = "."
    relative: bool = False  # times count from an instant that is not known


class Check(NamedTuple):
    """A way in which a row can be bad: an expression, the raw column, what is wrong, and what to do."""

    bad: pl.Expr
    column: str
    reason: str
    remedy: str  # for a row among good ones
    of_most: str = ""  # where most rows are so; empty: another column


def parse_roles(text: str) -> Roles:
    """Reads a column map such as `user=user_id,item=video_id,time=time_ms,watched=long_view`.

    Raises:
      ValueError: a part is wrong, is mapped twice or is missing.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        role, equals, column = (word.strip() for word in part.partition("="))
        if role not in Roles._fields:
            near = nearest(role, Roles._fields)
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
            f"--columns={text}: nothing orders the exposures; map time=NAME, or order=NAME where there is no time, or "
            f"order={ROW} for their place in the input"
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
    names = [getattr(roles, role) for role in read if getattr(roles, role)] + roles.contexts
    return list(dict.fromkeys(name for name in names if name != ROW))


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
      units: how numbers are written.
      rule: what counts as watched.
      drop: with `invalid` among them, bad rows are dropped and counted.

    Raises:
      ValueError: a column has a type that is not read, or a row is bad; the message has file, row and remedy.
    """
    for piece in pieces:
        try:
            yield _canonical(piece, roles, units, rule, drop=drop)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            reason = printable(str(error).splitlines()[0], 200)
            raise ValueError(f"{piece.path}: its columns cannot be read ({reason}); write them as text") from error


def _canonical(piece: Piece, roles: Roles, units: Units, rule: labels.Rule, *, drop: Sequence[str]) -> Piece:
    """One piece made canonical."""
    raw = _unlisted(piece, roles, rule)
    read = _read(piece, raw, roles, units, rule)
    frame = raw.select(*_values(read, roles), ROW)
    dropped = dict(piece.dropped)
    for role in ("user", "item"):
        absent = frame[f"{role} absent"]
        if absent.any():
            reason = f"{getattr(roles, role)} is missing"
            dropped[reason] = dropped.get(reason, 0) + int(absent.sum())
            raw, frame = raw.filter(~absent), frame.filter(~absent)
    checks = _checks(frame, roles, units, rule)
    flags = frame.select(check.bad.fill_null(False).alias(str(i)) for i, check in enumerate(checks))
    bad = flags.select(pl.any_horizontal(pl.all())).to_series()
    if bad.any():
        if "invalid" not in drop:
            raise ValueError(_complaint(piece, raw, flags, bad, checks))
        first = pl.coalesce(pl.when(pl.col(str(i))).then(i) for i in range(len(checks)))
        for i, count in flags.select(first.alias("check")).to_series().drop_nulls().value_counts().iter_rows():
            reason = f"{checks[i].column} {checks[i].reason}"
            dropped[reason] = dropped.get(reason, 0) + count
        frame = frame.filter(~bad)
    missing = {getattr(roles, role): int(frame[f"{role} absent"].sum()) for role in read if role not in roles.contexts}
    missing |= {name: frame[CONTEXT + name].null_count() for name in roles.contexts}
    told = {**piece.read_as, **_told(raw, read, roles, units)}
    return Piece(piece.path, _finished(frame, rule), dropped, {n: k for n, k in missing.items() if k}, told)


def _unlisted(piece: Piece, roles: Roles, rule: labels.Rule) -> pl.DataFrame:
    """One row per exposure, where a row of the input lists several."""
    frame = piece.frame
    lists = [name for name in frame.columns if frame[name].dtype in (pl.List, pl.Array)]
    if not lists:
        return frame
    if roles.item not in lists:
        raise ValueError(f"{piece.path}: {lists[0]} holds lists, but {roles.item} does not; map columns of one kind")
    watched = roles.watched if "watched" in rule.needs else ""
    if watched in lists and not _are_answers(frame, roles.item, watched):
        chosen = pl.col(watched).cast(pl.List(pl.String)).alias("chosen")
        kept = [name for name in lists if name != watched]
        rows = cells.exploded(piece.path, frame.with_columns(chosen), kept, row=ROW)
        found = pl.col(roles.item).cast(pl.String).is_in(pl.col("chosen")).fill_null(False)
        return rows.with_columns(found.alias(watched)).drop("chosen")
    return cells.exploded(piece.path, frame, lists, row=ROW)


def _are_answers(frame: pl.DataFrame, item: str, watched: str) -> bool:
    """Whether lists tell yes or no of each item; otherwise they name the items that were watched."""
    same = frame.select((pl.col(item).list.len() == pl.col(watched).list.len()).fill_null(True).all()).item()
    words = frame[watched].cast(pl.List(pl.String)).explode().drop_nulls().str.strip_chars().str.to_lowercase()
    return bool(same and words.is_in([*cells.YES, *cells.NO, "1.0", "0.0"]).all())


_USES = {"user": "ids", "item": "ids", "time": "times", "order": "places", "watched": "yes or no"}
_USES |= {"dislike": "yes or no", "play": "lengths", "duration": "lengths"}


def _read(
    piece: Piece, raw: pl.DataFrame, roles: Roles, units: Units, rule: labels.Rule
) -> dict[str, tuple[str, cells.Value]]:
    """The raw column and its values, by role and by context column; a role that the log lacks is left out."""
    uses = {role: (getattr(roles, role), use) for role, use in _USES.items()}
    uses |= {name: (name, "categories") for name in roles.contexts}
    found = {}
    for role, (name, use) in uses.items():
        if name not in raw.columns or name == ROW or (role == "watched" and "watched" not in rule.needs):
            continue
        use = "values" if role == "watched" and rule.any_number else use
        cells.check_type(piece.path, name, raw[name], use)
        unit = getattr(units, role) if role in ("time", "play", "duration") else 1.0
        found[role] = name, cells.read(raw[name], use, unit=unit, decimal=units.decimal)
    return found


def _values(read: dict[str, tuple[str, cells.Value]], roles: Roles) -> list[pl.Expr]:
    """For each role its value, whether it is absent, and its text; for each context column its value."""
    values = []
    for role in _SINGLE:
        if role not in read:
            values += [pl.lit(None, pl.Float64).alias(role), pl.lit(True).alias(f"{role} absent")]
            continue
        name, value = read[role]
        values += [value.value.alias(role), value.absent.alias(f"{role} absent")]
        values.append(value.text.alias(f"{role} text"))
        if role == "time":
            values.append(value.plain.alias("time plain"))
    return values + [read[name][1].value.alias(CONTEXT + name) for name in roles.contexts]


def _told(
    raw: pl.DataFrame, read: dict[str, tuple[str, cells.Value]], roles: Roles, units: Units
) -> dict[str, tuple[str, str]]:
    """What each column was read as, with some values."""
    told = {}
    for role, (name, value) in read.items():
        is_context = role in roles.contexts
        more = ""
        if role == "time" and len(raw) and raw.select(value.plain.fill_null(False).any()).item():
            more = (
                ", ISO 8601 (UTC where no offset is given)" if value.kind == "text" else ", UTC where there is no zone"
            )
        shown = raw.head(1000).select(value.value if is_context or role in ("user", "item") else name).to_series()
        told[f"context {name}" if is_context else role] = f"{name}: {value.kind}{more}", cells.examples(shown)
    return told


_LEAVE = "mend the row, or leave such rows out with --on_bad_row=drop"
_ANOTHER = "map another column"


def _checks(frame: pl.DataFrame, roles: Roles, units: Units, rule: labels.Rule) -> list[Check]:
    """The ways in which a row can be bad; the first that applies is reported."""
    checks = [
        Check(pl.col(r).is_null(), getattr(roles, r), "is no id: it has a fraction or is not finite", _LEAVE)
        for r in ("user", "item")
    ]
    for role in ("user", "item"):
        again = "export the ids as text or whole numbers"
        reason = "is in scientific notation, so different ids may look the same"
        text = pl.col(f"{role} text")
        checks.append(Check(cells.written_by_a_spreadsheet(text), getattr(roles, role), reason, again, again))
    for role in ("time", "order", "play", "duration", "watched", "dislike"):
        name, value, absent, text = getattr(roles, role), pl.col(role), pl.col(f"{role} absent"), pl.col(f"{role} text")
        needed = role in rule.needs or role in ("time", "order")
        if f"{role} text" not in frame.columns:
            continue
        if needed:
            checks.append(Check(absent, name, "is missing", _LEAVE, "map another column, or fill it in"))
        comma = "pass --decimal=, if its comma is a decimal point; thousands must not be separated"
        unknown = value.is_null() & ~absent
        checks.append(Check(unknown & cells.has_comma(text), name, "has a comma", comma, comma))
        what = {"time": "a number or an ISO 8601 time"}.get(role, "a number")
        checks.append(Check(unknown | value.is_nan(), name, f"is not {what}", _LEAVE))
        if role in ("time", "order"):
            digits = "write the column as whole numbers"
            reason = "is in scientific notation and has lost its last digits"
            checks.append(Check(cells.lost_digits(text), name, reason, digits, digits))
        if role == "dislike" or (role == "watched" and not rule.any_number):
            threshold = "label by a threshold, such as --label=at_least:1"
            answer = threshold if role == "watched" else _ANOTHER
            checks.append(Check(~value.is_in([0.0, 1.0]), name, "is not 0 or 1", _LEAVE, answer))
            continue
        if role == "watched":
            checks.append(Check(~value.is_finite(), name, "is not a finite number", _LEAVE))
            continue
        limit = {"time": _LATEST, "order": _EXACT}.get(role, 2**31)
        unit, of_most = (_unit_of_times(frame, units), "") if role == "time" else (_LEAVE, _UNITS.get(role, ""))
        if role == "order":
            whole = "write whole numbers, or map it as time= with its unit"
            checks.append(Check(value != value.round(), name, "has a fraction", whole, whole))
        checks.append(Check(value < 0, name, "is negative", _LEAVE))
        checks.append(Check(value >= limit, name, "is too large", unit, unit if role == "time" else of_most))
        if role == "time" and not units.relative:
            early = (value < _EARLIEST) & ~pl.col("time plain").fill_null(False)
            checks.append(Check(early, name, "is before 1973 in this unit", unit, unit))
    if "duration" in rule.needs:
        seconds = "label by seconds:S"
        reason = "is 0, so it has no ratio"
        checks.append(Check(pl.col("duration") == 0, roles.duration, reason, f"{seconds}, or {_LEAVE}", seconds))
    return checks


_UNITS = {
    "play": "pass --play_unit if it is in another unit",
    "duration": "pass --duration_unit if it is in another unit",
}


def _unit_of_times(frame: pl.DataFrame, units: Units) -> str:
    """What to do about times that are out of range: another unit only if it suits the other rows."""
    times = frame.filter(~pl.col("time plain").fill_null(False))["time"].drop_nulls()

    def fits(unit: float) -> float:
        inside = (times * (unit / units.time)).is_between(_EARLIEST, _LATEST, closed="left")
        return float(inside.mean() or 0.0)  # type: ignore[arg-type]

    if fits(units.time) >= 0.5 or not len(times):
        return _LEAVE
    best = max(MILLISECONDS, key=lambda name: fits(MILLISECONDS[name]))
    if fits(MILLISECONDS[best]) >= 0.5:
        return f"pass --time_unit={best}"
    return "pass --relative_times if they count from another instant, or map it as order= if it only orders"


def _complaint(piece: Piece, raw: pl.DataFrame, flags: pl.DataFrame, bad: pl.Series, checks: Sequence[Check]) -> str:
    """What is wrong with the first bad row, in one line."""
    at = bad.to_list().index(True)
    which = flags.row(at).index(True)
    check, share = checks[which], float(flags[str(which)].mean())  # type: ignore[arg-type]
    row, value = raw[ROW][at], raw[check.column][at]
    shown = "" if value is None else f"={printable(repr(value))}"
    most = share > 0.5
    remedy = (check.of_most or _ANOTHER) if most else check.remedy
    rows = f" (and so are {share:.0%} of the rows)" if most and len(flags) > 1 else ""
    return f"{piece.path}, row {row}: {check.column}{shown} {check.reason}{rows}; {remedy}"


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
