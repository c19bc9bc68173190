"""Pieces of raw tables: the same rows whatever the format, and the row of whatever is wrong with the file."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import numpy as np
import polars as pl
import pyarrow
import pytest

from sine_jax.data import rawbytes, rawfiles, rawtables, rawtext
from sine_jax.data.rawfiles import ROW, Style

PLAIN = b"user,item,note\na,1,x\nb,2,y\n"


def rows(path, columns=("user", "item"), **options):
    """All rows of a file, and what was dropped."""
    pieces = list(rawfiles.read(path, columns, **options))
    dropped = [reason for piece in pieces for reason in piece.dropped.items()]
    return pl.concat([piece.frame for piece in pieces]).select(*columns, ROW).rows(), dropped


def written(folder, content, name="log.csv"):
    """A file with that content."""
    path = folder / name
    path.write_bytes(PACK.get(name.rpartition(".")[2], bytes)(content))
    return path


def zipped(content):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("day.csv", content)
        archive.writestr("__MACOSX/._day.csv", "")
        archive.writestr("readme.md", "nothing")
    return memory.getvalue()


def zstd(content):
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": zipped, "zst": zstd}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (PLAIN, (2, 3)),
        (PLAIN.rstrip(b"\n"), (2, 3)),
        (PLAIN.replace(b"\n", b"\r\n"), (2, 3)),
        (PLAIN.replace(b"\n", b"\r"), (2, 3)),
        (PLAIN.decode().encode("utf-16"), (2, 3)),
        (b"\xfe\xff" + PLAIN.decode().encode("utf-16-be"), (2, 3)),
        (b"\xef\xbb\xbf" + PLAIN, (2, 3)),
        (PLAIN.replace(b",", b";"), (2, 3)),
        (PLAIN.replace(b",", b"\t"), (2, 3)),
        (PLAIN.replace(b",", b"|"), (2, 3)),
        (PLAIN.replace(b",", b"::"), (2, 3)),
        (PLAIN.replace(b",", b"::").replace(b"x", b'"x::z"'), (2, 3)),
        (PLAIN.replace(b",", b";").replace(b"note", b'"a, b, c, d"'), (2, 3)),
        (PLAIN.replace(b",", b"\t").replace(b"user\titem\tnote", b"user:token\titem:token\tnote:token_seq"), (2, 3)),
        (PLAIN.replace(b"\nb", b"\n\n\nb") + b"\n\r\n", (2, 5)),
        (b"\n" + PLAIN, (3, 4)),
        (PLAIN.replace(b"x", b'"x, ""z""\nw"'), (2, 4)),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.csv.bz2", "log.csv.xz", "log.zip", "log.csv.zst"])
def test_a_text_file_gives_its_rows_and_their_lines(tmp_path, content, lines, name):
    assert rows(written(tmp_path, content, name)) == ([("a", "1", lines[0]), ("b", "2", lines[1])], [])


def test_parquet_keeps_types_and_counts_rows_from_1(tmp_path):
    pl.DataFrame({"user": ["a", "b"], "item": [1, 2]}).write_parquet(tmp_path / "log.parquet")
    assert rows(tmp_path / "log.parquet") == ([("a", 1, 1), ("b", 2, 2)], [])


def test_small_blocks_give_what_one_block_gives(tmp_path, monkeypatch):
    content = b"user,item\n" + b"".join(b'u%d,"i\n%d"\n\n' % (n, n) for n in range(50))
    whole = rows(written(tmp_path, content))
    monkeypatch.setattr(rawtext, "BLOCK_BYTES", 37)
    monkeypatch.setattr(rawbytes, "CHUNK_BYTES", 5)
    assert rows(tmp_path / "log.csv") == whole
    assert len(whole[0]) == 50


def test_slices_of_parquet_join_to_the_whole(tmp_path, monkeypatch):
    pl.DataFrame({"user": range(10), "item": range(10)}).write_parquet(tmp_path / "log.parquet")
    whole = rows(tmp_path / "log.parquet")
    monkeypatch.setattr(rawtables, "SLICE_ROWS", 3)
    assert rows(tmp_path / "log.parquet") == whole


def test_an_empty_cell_is_null(tmp_path):
    assert rows(written(tmp_path, b"user,item\na,\n"))[0] == [("a", None, 2)]


def test_every_file_of_a_folder_is_a_table_or_named(tmp_path):
    tables = ["a.parquet", "b.CSV", "c.Tsv.GZ", "d/e.jsonl", "d/part-00000", "d/part-1.snappy.parquet", "z[1].parquet"]
    others = ["notes.md", "._b.csv", "_SUCCESS", "d/.hidden.csv", "_old.csv"]
    for name in tables + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = rawfiles.find(tmp_path)
    assert [str(file.path.relative_to(tmp_path)) for file in found.files] == tables
    assert found.not_read == sorted(others)


def test_folders_with_names_and_values_are_columns(tmp_path):
    for day, kind in (("1", "a%2Fb"), ("2", "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / f"day={day}" / f"kind={kind}"
        folder.mkdir(parents=True)
        written(folder, PLAIN, "part-0.csv")
    found = [rows(file, ("user", "day", "kind"))[0] for file in rawfiles.find(tmp_path).files]
    assert found == [[("a", "1", "a/b", 2), ("b", "1", "a/b", 3)], [("a", "2", None, 2), ("b", "2", None, 3)]]


@pytest.mark.parametrize("name", ["log[1].csv", "log*.csv", "a?b.parquet", "log.csv.txt.whatever"])
def test_a_name_is_no_pattern_and_no_format(tmp_path, name):
    pl.DataFrame({"user": ["a"], "item": ["1"]}).write_parquet(tmp_path / "log1.csv")
    pl.DataFrame({"user": ["b"], "item": ["2"]}).write_parquet(tmp_path / name)
    (file,) = rawfiles.find(tmp_path / name).files
    assert rows(file)[0] == [("b", "2", 1)]


def test_an_empty_part_of_a_folder_has_no_rows(tmp_path):
    assert list(rawfiles.read(written(tmp_path, b""), ("user",), part=True)) == []


@pytest.mark.parametrize("kind", ["file", "stream", "packed", "categories"])
def test_arrow_files_are_read(tmp_path, kind):
    frame = pl.DataFrame({"item": [1, 2], "user": ["a", "b"]})
    if kind == "categories":
        frame = frame.cast({"user": pl.Categorical})
    path = tmp_path / "log.feather"
    if kind == "stream":
        frame.write_ipc_stream(path)
    else:
        frame.write_ipc(path, compression="lz4" if kind == "packed" else "uncompressed")
    if kind == "packed":
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert rows(path) == ([("a", 1, 1), ("b", 2, 2)], [])


LINES = [
    {"user": 1, "item": "x"},
    {"item": 12345678901234567890, "user": True, "more": {}},
    {"user": None, "item": 2.50},
]


def test_lines_of_json_keep_the_digits_of_numbers(tmp_path, monkeypatch):
    content = "\n\n".join(map(json.dumps, LINES)).encode()
    expected = [("1", "x", 1), ("true", "12345678901234567890", 3), (None, "2.5", 5)]
    assert rows(written(tmp_path, content, "log.jsonl"))[0] == expected
    monkeypatch.setattr(rawtext, "BLOCK_BYTES", 40)
    assert rows(tmp_path / "log.jsonl")[0] == expected
    lists = json.dumps({"user": 1, "item": [1, None, "x"]}).encode()
    assert rows(written(tmp_path, lists, "log.jsonl"))[0] == [("1", ["1", None, "x"], 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "row 2: not a line of JSON .it is not an object.; .*--on_bad_row=drop"),
        ('{"user": 1, ', "row 2: not a line of JSON"),
        ('{"user": {"x": 1}, "item": 2}', "row 2: user holds an object"),
        ('{"user": 1, "item": [2]}', "row 2: item is a list in some rows only"),
    ],
)
def test_what_is_wrong_with_a_line_of_json_is_told(tmp_path, line, message):
    path = written(tmp_path, b'{"user": 1, "item": 2}\n' + line.encode(), "log.jsonl")
    with pytest.raises(ValueError, match=message):
        rows(path)


def test_one_json_array_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"log\.json: one JSON array, .*; write an object per line"):
        rows(written(tmp_path, b' [\n {"user": 1, "item": 2}]', "log.json"))


def test_a_separator_and_a_header_can_be_said(tmp_path):
    path = written(tmp_path, b"a|1,5|x\nb|2,6|y\n")
    assert rows(path, style=Style("|", ("user", "item", "note")))[0] == [("a", "1,5", 1), ("b", "2,6", 2)]
    assert rows(path, style=Style(header=("user", "item", "note")))[0] == [("a", "1,5", 1), ("b", "2,6", 2)]


def test_more_bytes_than_allowed_are_refused_before_they_are_unpacked(tmp_path):
    bomb = written(tmp_path, PLAIN + b"a,1,x\n" * 3_000_000, "log.csv.gz")
    assert bomb.stat().st_size < 100_000
    with pytest.raises(
        ValueError, match=r"log\.csv\.gz: it has more than 1,000,000 bytes when unpacked; pass a larger"
    ):
        rows(bomb, max_bytes=1_000_000)
    pl.DataFrame({"user": pl.repeat("a", 10**6, eager=True), "item": "b"}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"log\.parquet: its values take more than 1,000,000 bytes; pass a larger"):
        rows(tmp_path / "log.parquet", max_bytes=1_000_000)


@pytest.mark.parametrize("name", ["log.parquet", "log.feather", "log.csv.gz", "log.csv.zst", "log.zip"])
def test_any_damage_is_told_in_one_line_or_changes_nothing_else(tmp_path, name):
    """A flipped bit: the library's own refusal, or rows (a format without checksums cannot tell other values)."""
    frame = pl.DataFrame({"user": [f"u{n}" for n in range(300)], "item": range(300)})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.write_parquet(path)
    elif name.endswith("feather"):
        frame.write_ipc(path)
    else:
        written(tmp_path, frame.write_csv().encode(), name)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, 8 * len(whole), 150):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            rows(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"log\.csv: the file is empty; write column names"),
        (b"\n\n", r"log\.csv: the file is empty"),
        (b"usr,item\n", r"log\.csv: no column 'user' among usr, item; use 'usr'$"),
        (b"user,item,user\n", r"log\.csv: two columns are called 'user'; rename one"),
        (b"user,item\na,1\nb\n", r"log\.csv, row 3: 1 fields where the header has 2; .*--on_bad_row=drop"),
        (b"user,item\n\na,1,2\n", r"log\.csv, row 3: 3 fields where the header has 2"),
        (b'user,item\na,1\nb,"2\nc,3\n', r"log\.csv, row 3: a quote is opened and never closed"),
        (b"user,item\na,1\nb,\xff\n", r"log\.csv, row 3: the text is not UTF-8; save the file as UTF-8"),
        (b"\xff\xfe\x00\xd8", r"log\.csv: the text is not UTF-16"),
        (b"user\0item\n", r"log\.csv: a binary file of a kind that is not read"),
        (b"1,2,3\n", "no column 'user' among 1, 2, 3; if the first row has no names, pass them in order by --header="),
        (b"user item\n", "no column 'user' among user item; if the separator is none of .*, pass --separator"),
        (b"user,item\na\nb\n", "1 fields where the header has 2; mend the row, or pass --separator or --header"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_row_and_remedy(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        rows(written(tmp_path, content))


def test_ragged_rows_are_dropped_and_counted_when_asked(tmp_path):
    path = written(tmp_path, b"user,item\na,1\nb\nc,3,4\nd,5\n")
    assert rows(path, drop=("ragged",)) == ([("a", "1", 2), ("d", "5", 5)], [("ragged row", 2)])


def test_a_truncated_gzip_file_is_told(tmp_path):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n" + b"a,1\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"log\.csv\.gz: the gzip file is truncated or damaged .*copy or download"):
        rows(path)


@pytest.mark.parametrize(("name", "content"), [("log.csv.gz", PLAIN), ("log.csv", gzip.compress(PLAIN))])
def test_the_bytes_tell_whether_a_file_is_compressed(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert rows(tmp_path / name)[0] == [("a", "1", 2), ("b", "2", 3)]


def test_a_damaged_parquet_file_is_told(tmp_path):
    (tmp_path / "log.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"log\.parquet: not a readable Parquet file .*copy or write it again"):
        rows(tmp_path / "log.parquet")


def test_a_missing_column_of_parquet_is_told_with_the_nearest(tmp_path):
    pl.DataFrame({"User_ID": [1], "item": [1]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="no column 'user_id' among User_ID, item; use 'User_ID'"):
        rows(tmp_path / "log.parquet", ("user_id", "item"))


def test_paths_that_hold_no_table_are_told(tmp_path):
    with pytest.raises(ValueError, match="no table in this folder"):
        rawfiles.find(tmp_path)
    written(tmp_path, PLAIN)
    with pytest.raises(ValueError, match=r"lgo\.csv: no such file or folder; pass .*log\.csv instead"):
        rawfiles.find(tmp_path / "lgo.csv")
    with zipfile.ZipFile(tmp_path / "log.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    with pytest.raises(ValueError, match=r"log\.xlsx: no table in this zip file; pass CSV"):
        rows(tmp_path / "log.xlsx")
