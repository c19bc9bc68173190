"""Logs made up at random, some of them harmed: a refusal of the library, or exactly what a slow reader finds.

The slow reader is written here from the promises alone: Python's csv module, and a rule for each kind of cell.
FUZZ_EXAMPLES=N tries more, each time others (`make fuzz`).
"""

import csv
import datetime
import decimal
import gzip
import io
import os
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sine_jax.data import datasets, ingest, labels, preparation, sources
from sine_jax.types import SKIPPED, WATCHED

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
bounded = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
ROLES = ingest.parse_roles("user=u,item=v,time=t,watched=w")
EARLIEST, LATEST = 10**11, 10**14

ids = st.one_of(
    st.integers(0, 10**20).map(str),
    st.integers(0, 50).map(lambda n: f" {n}"),
    st.integers(0, 50).map(lambda n: f"{n}.0"),
    st.sampled_from(
        ["007", "7.00", "7.5", "é", "漢字", "a b", 'x"y', "a;b|c,d", "nan", "None", "\\N", "", "  ", "<NA>"]
    ),
)
times = st.one_of(
    st.integers(EARLIEST, LATEST - 1).map(str),
    st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2100, 1, 1)).map(
        lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000).isoformat(sep=" ")
    ),
)
watched = st.sampled_from(["0", "1", "true", "False", "yes", "N", " 1", "0.0"])
odd = st.sampled_from(
    ["", "-1", "1e12", "1.5E+12", "abc", "12,5", "2022-13-01", "99999999999999999999", "inf", "\x00", "2"]
)
rows = st.lists(st.tuples(ids, ids, times, watched), min_size=1, max_size=12)


@st.composite
def texts(draw, *, harmed):
    """Bytes of a delimited text file."""
    table = [list(row) for row in draw(rows)]
    if harmed:
        for _ in range(draw(st.integers(1, 2))):
            row = draw(st.sampled_from(table))
            draw(
                st.sampled_from(
                    [
                        lambda row: row.append("more"),
                        lambda row: row.pop() if row else None,
                        lambda row: row.__setitem__(draw(st.integers(0, 3)), draw(odd)) if len(row) == 4 else None,
                        lambda row: row.__setitem__(0, "\x00\xff") if row else None,
                    ]
                )
            )(row)
    more = draw(st.booleans())
    header = ["u", "v", "t", "w"] + ["note"] * more
    body = [row + ["a\nb"] * more for row in table]
    stream = io.StringIO()
    writer = csv.writer(
        stream,
        delimiter=draw(st.sampled_from(",;\t|")),
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    writer.writerows([header, *body])
    text = stream.getvalue()
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    if harmed and draw(st.booleans()):
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + draw(st.sampled_from([b"", b'"', b"\n", b"\xff", b","])) + content[place + 1 :]
    return gzip.compress(content) if draw(st.booleans()) else content


def slow(content):
    """The exposures of a text file as the promises say, row by row; None where a cell or the file promises nothing."""
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    boms = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb": "utf-8-sig"}
    text = content.decode(boms.get(content[:2], "utf-8")).replace("\r\n", "\n").replace("\r", "\n")
    first = text.split("\n", 1)[0]
    separator = max(",\t;|", key=first.count)
    lines = [line for line in csv.reader(io.StringIO(text), delimiter=separator, strict=True) if line]
    names = [name.strip() for name in lines[0]]
    found = []
    for line in lines[1:]:
        assert len(line) == len(names)
        cells = [line[names.index(name)].strip() for name in "uvtw"]
        user, item, time, label = (
            None if re.fullmatch(r"(?i)|nan|none|null|<na>|\\n", cell) else cell for cell in cells
        )
        if user is None or item is None:
            continue
        found.append((slow_id(user), slow_id(item), slow_time(time), slow_label(label)))
    return found


def slow_id(cell):
    whole = re.fullmatch(r"(-?(?:0|[1-9][0-9]*))\.0+", cell)
    return whole[1] if whole else cell


def slow_time(cell):
    if re.fullmatch(r"\d{4}-\d\d-\d\d.*", cell):
        moment = datetime.datetime.fromisoformat(cell)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        return round(moment.timestamp() * 1000)
    value = decimal.Decimal(cell)
    assert EARLIEST <= value < LATEST
    return int(value.to_integral_value(decimal.ROUND_HALF_EVEN))


def slow_label(cell):
    words = {"1": WATCHED, "true": WATCHED, "t": WATCHED, "yes": WATCHED, "y": WATCHED}
    words |= {"0": SKIPPED, "false": SKIPPED, "f": SKIPPED, "no": SKIPPED, "n": SKIPPED}
    return words[cell.lower()] if cell.lower() in words else {0: SKIPPED, 1: WATCHED}[decimal.Decimal(cell)]


def read(path):
    """The library's exposures in the order of the input; None and its message where it refuses."""
    source = sources.log(path, ROLES, ingest.Units())
    rule = labels.by_column()
    try:
        pieces = list(ingest.canonical(source.read(ingest.raw_columns(ROLES, rule), ()), ROLES, source.units, rule))
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error) and "; " in str(error), error
        return None
    return [row for piece in pieces for row in piece.frame.select("user", "item", "time", "feedback").rows()]


@bounded
@given(content=texts(harmed=False))
def test_a_text_file_is_read_as_a_slow_reader_reads_it(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "log.csv"
    path.write_bytes(content)
    assert read(path) == slow(content)


@bounded
@given(content=texts(harmed=True))
def test_a_harmed_text_file_is_refused_or_read_as_a_slow_reader_reads_it(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "log.csv"
    path.write_bytes(content)
    found = read(path)
    if found is None:
        return
    try:
        expected = slow(content)
    except csv.Error:  # such as garbage after the wrong half of a UTF-16 character: nothing is promised
        return
    assert found == expected


_ids = st.integers(0, 10**6)
columns = {
    "u": st.sampled_from([pl.Int64, pl.UInt32, pl.Float64, pl.Float32, pl.String, pl.Categorical, pl.Decimal(20, 2)]),
    "t": st.sampled_from([pl.Int64, pl.Float64, pl.String, pl.Datetime("ms"), pl.Datetime("ns", "UTC"), pl.Float32]),
    "w": st.sampled_from([pl.Int8, pl.Boolean, pl.String, pl.Float64]),
}


@bounded
@given(
    data=st.data(),
    table=st.lists(st.tuples(_ids, _ids, st.integers(EARLIEST, 9 * 10**12), st.booleans()), min_size=1, max_size=12),
    harm=st.booleans(),
)
def test_a_parquet_file_of_any_types_is_refused_or_read_to_the_row(tmp_path_factory, data, table, harm):
    path = tmp_path_factory.mktemp("fuzz") / "log.parquet"
    frame = pl.DataFrame(table, schema={"u": pl.Int64, "v": pl.Int64, "t": pl.Int64, "w": pl.Boolean}, orient="row")
    casts = {name: data.draw(columns["u" if name == "v" else name], label=name) for name in "uvtw"}
    plain = frame.with_columns(pl.col("w").cast(pl.Int8)) if casts["w"] == pl.String else frame
    for name, dtype in casts.items():
        as_time = dtype == pl.Datetime
        text = dtype in (pl.String, pl.Categorical)
        column = (
            plain[name].cast(pl.Datetime("ms")) if as_time else plain[name].cast(pl.String) if text else plain[name]
        )
        if as_time and dtype.time_zone:
            column = column.dt.replace_time_zone(dtype.time_zone).dt.cast_time_unit(
                "ns" if table[0][2] < 9e12 else "ms"
            )
        plain = plain.with_columns(column if as_time else column.cast(dtype))
    plain.write_parquet(path)
    expected = [(str(u), str(v), t, WATCHED if w else SKIPPED) for u, v, t, w in table]
    if harm:
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        read(path)  # a format without checksums may hold other values; but nothing else than a refusal comes
        return
    found = read(path)
    if found is None:
        assert casts["t"] == pl.Float32  # too coarse for milliseconds
    else:
        assert found == expected


@settings(bounded, max_examples=max(EXAMPLES // 10, 5))
@given(content=texts(harmed=False))
def test_what_is_prepared_is_sorted_and_whole(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "log.csv").write_bytes(content)
    expected = slow(content)
    raw = sources.log(folder / "log.csv", ROLES, ingest.Units())
    if not expected:
        with pytest.raises(ValueError, match="^exposures=0: "):
            preparation.prepare(raw, folder / "data", min_positives=0)
        return
    preparation.prepare(raw, folder / "data", min_positives=0)
    log, users = datasets.load(folder / "data").log, datasets.user_ids(folder / "data").to_list()
    items = datasets.item_ids(Path(folder / "data")).to_list()
    found = [
        (users[u], items[i], t, f)
        for u, i, t, f in zip(
            log.users.tolist(), log.items.tolist(), log.times.tolist(), log.feedback.tolist(), strict=True
        )
    ]
    assert found == sorted(expected, key=lambda row: (len(row[0].encode()), row[0].encode(), row[2]))
