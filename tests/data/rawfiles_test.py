"""Pieces of raw tables: the same rows whatever the format, and the row of whatever is wrong with the file."""

import gzip

import polars as pl
import pytest

from sine_jax.data import rawfiles
from sine_jax.data.rawfiles import ROW

PLAIN = b"user,item,note\na,1,x\nb,2,y\n"


def rows(path, columns=("user", "item"), **options):
    """All rows of a file, and what was dropped."""
    pieces = list(rawfiles.read(path, columns, **options))
    dropped = [reason for piece in pieces for reason in piece.dropped.items()]
    return pl.concat([piece.frame for piece in pieces]).select(*columns, ROW).rows(), dropped


def written(folder, content, name="log.csv"):
    """A file with that content."""
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (PLAIN, (2, 3)),
        (PLAIN.rstrip(b"\n"), (2, 3)),
        (PLAIN.replace(b"\n", b"\r\n"), (2, 3)),
        (b"\xef\xbb\xbf" + PLAIN, (2, 3)),
        (PLAIN.replace(b",", b";"), (2, 3)),
        (PLAIN.replace(b",", b"\t"), (2, 3)),
        (PLAIN.replace(b"\nb", b"\n\n\nb") + b"\n\r\n", (2, 5)),
        (b"\n" + PLAIN, (3, 4)),
        (PLAIN.replace(b"x", b'"x, ""z""\nw"'), (2, 4)),
    ],
    ids=["plain", "no last newline", "CRLF", "BOM", "semicolons", "tabs", "blank lines", "blank first line", "quotes"],
)
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_a_text_file_gives_its_rows_and_their_lines(tmp_path, content, lines, name):
    assert rows(written(tmp_path, content, name)) == ([("a", "1", lines[0]), ("b", "2", lines[1])], [])


def test_parquet_keeps_types_and_counts_rows_from_1(tmp_path):
    pl.DataFrame({"user": ["a", "b"], "item": [1, 2]}).write_parquet(tmp_path / "log.parquet")
    assert rows(tmp_path / "log.parquet") == ([("a", 1, 1), ("b", 2, 2)], [])


def test_small_blocks_give_what_one_block_gives(tmp_path, monkeypatch):
    content = b"user,item\n" + b"".join(b'u%d,"i\n%d"\n\n' % (n, n) for n in range(50))
    whole = rows(written(tmp_path, content))
    monkeypatch.setattr(rawfiles, "BLOCK_BYTES", 37)
    assert rows(tmp_path / "log.csv") == whole
    assert len(whole[0]) == 50


def test_slices_of_parquet_join_to_the_whole(tmp_path, monkeypatch):
    pl.DataFrame({"user": range(10), "item": range(10)}).write_parquet(tmp_path / "log.parquet")
    whole = rows(tmp_path / "log.parquet")
    monkeypatch.setattr(rawfiles, "SLICE_ROWS", 3)
    assert rows(tmp_path / "log.parquet") == whole


def test_an_empty_cell_is_null(tmp_path):
    assert rows(written(tmp_path, b"user,item\na,\n"))[0] == [("a", None, 2)]


def test_a_folder_stands_for_its_tables_by_name(tmp_path):
    for name in ("b.csv", "a.parquet", "notes.md"):
        (tmp_path / name).touch()
    assert rawfiles.find(tmp_path) == [tmp_path / "a.parquet", tmp_path / "b.csv"]


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
        ("user,item\n".encode("utf-16"), r"log\.csv, row 1: the text is not UTF-8"),
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


def test_what_is_no_gzip_file_is_told(tmp_path):
    (tmp_path / "log.csv.gz").write_bytes(PLAIN)
    with pytest.raises(ValueError, match="truncated or damaged"):
        rows(tmp_path / "log.csv.gz")


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
    (tmp_path / "log.xlsx").touch()
    with pytest.raises(ValueError, match="not a table by its name"):
        rawfiles.find(tmp_path / "log.xlsx")
