"""A prepared data set: whole or not at all, the same for the same input, and checked when it is read back."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from sine_jax.data import collation, datasets, ingest, labels, manifest, preparation, rawtext, sources
from sine_jax.types import DISLIKED, SKIPPED, WATCHED

COLUMNS = "user=u,item=v,time=t,watched=w"
NOW = 1_650_000_000_000


def raw(num_users=5, each=8, seed=0):
    """A log in random order, its users `u0`.., items numbers, some times equal."""
    random = np.random.default_rng(seed)
    size = num_users * each
    frame = pl.DataFrame(
        {
            "u": [f"u{n}" for n in np.repeat(np.arange(num_users), each)],
            "v": random.integers(1, 120, size),
            "t": NOW + random.integers(0, each, size),
            "w": np.tile(np.arange(each) % 2, num_users),
        }
    )
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)


def prepared(frame, folder, name="out", columns=COLUMNS, **options):
    """Prepares a frame by way of a CSV file."""
    path = folder / f"{name}.csv"
    frame.write_csv(path)
    return preparation.prepare(sources.log(path, ingest.parse_roles(columns), ingest.Units()), folder / name, **options)


def test_columns_come_back_sorted_by_user_time_and_arrival(tmp_path):
    frame = raw()
    prepared(frame, tmp_path, min_positives=0)
    log = datasets.load(tmp_path / "out").log
    expected = frame.with_row_index().sort("u", "t", "index")
    items = datasets.item_ids(tmp_path / "out")
    assert items.gather(log.items).to_list() == expected["v"].cast(pl.String).to_list()
    np.testing.assert_array_equal(log.times, expected["t"])
    np.testing.assert_array_equal(log.feedback, expected["w"])
    np.testing.assert_array_equal(log.offsets, 8 * np.arange(6))
    assert [column.dtype for column in log[:6]] == [np.int32, np.int8, np.int64, np.int32, np.int32, np.int64]


def test_ids_are_numbered_in_numeric_order_from_1(tmp_path):
    prepared(raw(), tmp_path, min_positives=0)
    items = datasets.item_ids(tmp_path / "out")
    assert items[0] == ""
    assert items[1:].cast(pl.Int64).to_list() == sorted(set(raw()["v"].to_list()))


def test_users_are_numbered_in_the_order_of_their_ids(tmp_path):
    prepared(raw(), tmp_path, min_positives=0)
    assert datasets.user_ids(tmp_path / "out").to_list() == [f"u{n}" for n in range(5)]


def test_blocks_and_sorted_ranges_of_any_size_give_the_same_data_set(tmp_path, monkeypatch):
    whole = prepared(raw(), tmp_path, "whole")
    for sort_events, block_events, slice_bytes in ((1, 1, 64), (17, 9, 100), (1000, 20, 1000)):
        monkeypatch.setattr(collation, "SORT_EVENTS", sort_events)
        monkeypatch.setattr(collation, "BLOCK_EVENTS", block_events)
        monkeypatch.setattr(rawtext, "BLOCK_BYTES", slice_bytes)
        info = prepared(raw(), tmp_path, "cut", overwrite=True)
        assert info.fingerprint == whole.fingerprint
        datasets.load(tmp_path / "cut")


def test_the_fingerprint_does_not_depend_on_format_compression_or_parts(tmp_path):
    frame, columns = raw(), ingest.parse_roles(COLUMNS)
    (tmp_path / "parts").mkdir()
    frame.write_csv(tmp_path / "log.csv")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((tmp_path / "log.csv").read_bytes()))
    frame.write_parquet(tmp_path / "log.parquet")
    frame[:13].write_csv(tmp_path / "parts" / "a.csv")
    frame[13:].write_parquet(tmp_path / "parts" / "b.parquet")
    infos = [
        preparation.prepare(sources.log(tmp_path / name, columns, ingest.Units()), tmp_path / f"out {name}")
        for name in ("log.csv", "log.csv.gz", "log.parquet", "parts")
    ]
    assert len({info.fingerprint for info in infos}) == 1


@pytest.mark.parametrize("column", ["u", "v", "t", "w"])
def test_the_fingerprint_depends_on_every_column(tmp_path, column):
    frame = raw()
    change = {"u": pl.lit("u9"), "v": pl.lit(121), "t": pl.lit(NOW - 1), "w": 1 - pl.col("w")}[column]
    first = pl.int_range(pl.len()) == 0
    changed = frame.with_columns(pl.when(first).then(change).otherwise(column).alias(column))
    one, other = (prepared(f, tmp_path, str(i), min_positives=0) for i, f in enumerate((frame, changed)))
    assert one.fingerprint != other.fingerprint
    assert (one.vocabulary != other.vocabulary) == (column == "v")


def test_filters_drop_rare_items_then_users_with_few_positives_and_say_so(tmp_path):
    watched = {"a": [1, 1, 1, 0], "b": [1, 1, 1, 0], "c": [1, 1, 0, 0]}
    rows = [(u, v, NOW + n, w) for u, ws in watched.items() for n, (v, w) in enumerate(zip("xyzq", ws, strict=True))]
    rows[4] = ("b", "rare", NOW, 1)  # without it b has two positives
    frame = pl.DataFrame(rows, schema=["u", "v", "t", "w"], orient="row")
    info = prepared(frame, tmp_path, min_positives=3, min_exposures=2)
    assert info.dropped == {
        "items shown fewer than 2 times": 1,
        "exposures of these items": 1,
        "users with fewer than 3 positives": 2,
        "exposures of these users": 3 + 4,
    }
    assert (info.num_users, info.num_items, info.num_events) == (1, 4, 4)
    assert info.filters == {"min_positives": 3, "min_exposures": 2}


def test_info_counts_what_the_log_holds(tmp_path):
    frame = raw().with_columns(h=(pl.int_range(pl.len()) == 0).cast(pl.Int8))
    info = prepared(frame, tmp_path, columns=COLUMNS + ",dislike=h", min_positives=0)
    feedback = datasets.load(tmp_path / "out").log.feedback
    counts = {code: int((feedback == code).sum()) for code in (WATCHED, SKIPPED, DISLIKED)}
    assert (info.num_watched, info.num_skipped, info.num_disliked) == tuple(counts.values())
    assert info.skip_rate == counts[SKIPPED] / (counts[SKIPPED] + counts[WATCHED])
    assert info.has_times
    assert info.label_rule == "column (watched=w); disliked where h is 1"
    assert {"format", "polars", "tensorflow-datasets", "array_record"} <= set(info.versions)
    assert datasets.read_info(tmp_path / "out") == info


def test_a_bad_row_leaves_nothing_behind(tmp_path):
    frame = raw().with_columns(w=pl.lit(7))
    with pytest.raises(ValueError, match=r"out\.csv, row 2: w='7' is not 0 or 1"):
        prepared(frame, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_bad_rows_are_dropped_and_counted_when_asked(tmp_path):
    frame = raw().with_columns(w=pl.when(pl.int_range(pl.len()) < 2).then(7).otherwise("w"))
    info = prepared(frame, tmp_path, drop=("ragged", "invalid"))
    assert info.dropped == {"w is not 0 or 1": 2}
    assert info.num_events == len(frame) - 2


def test_a_log_of_which_nothing_is_left_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^exposures=0: the input has none"):
        prepared(raw()[:0], tmp_path)
    with pytest.raises(
        ValueError,
        match="--min_positives=99, .*: no user is left; dropped: 5 users with fewer than 99 positives.*; lower one",
    ):
        prepared(raw(), tmp_path, min_positives=99)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_target_that_holds_something_is_kept(tmp_path):
    first = prepared(raw(), tmp_path)
    with pytest.raises(ValueError, match="a prepared data set is there already; .*--overwrite"):
        prepared(raw(seed=1), tmp_path)
    assert datasets.load(tmp_path / "out").info == first
    assert prepared(raw(seed=1), tmp_path, overwrite=True) == datasets.load(tmp_path / "out").info != first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(ValueError, match="exists and is not a prepared data set"):
        prepared(raw(), tmp_path, "mine", overwrite=True)


KILLED = """
import os, pathlib, signal, sys
from sine_jax import files
from sine_jax.data import ingest, manifest, preparation, sources
put, moment = files.put, sys.argv[2]
def die(*args):
    if moment == "after":
        put(*args)
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "manifest":
    manifest.write = die
else:
    files.put = die
roles = ingest.parse_roles("user=u,item=v,time=t,watched=w")
folder = pathlib.Path(sys.argv[1])
preparation.prepare(sources.log(folder / "new.csv", roles, ingest.Units()), folder / "out", overwrite=True)
"""


@pytest.mark.parametrize("moment", ["manifest", "before", "after"])
def test_a_preparation_killed_at_any_moment_leaves_the_old_or_the_new_and_the_next_sweeps(tmp_path, moment):
    old = prepared(raw(), tmp_path)
    raw(seed=1).write_csv(tmp_path / "new.csv")
    command = [sys.executable, "-c", KILLED, str(tmp_path), moment]
    assert subprocess.run(command, check=False, capture_output=True, timeout=100).returncode == -9
    found = datasets.load(tmp_path / "out").info
    assert (found == old) == (moment != "after")
    assert len(os.listdir(tmp_path)) > 3  # what it left
    new = prepared(raw(seed=1), tmp_path, overwrite=True)
    assert datasets.load(tmp_path / "out").info == new
    assert sorted(os.listdir(tmp_path)) == ["new.csv", "out", "out.csv"]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written .*; choose another --out"):
        preparation.prepare(sources.sample(), tmp_path / "file" / "out")


FULL_DISK = """
import resource, sys
import launch.prepare

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for room in (10_000, 600_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        launch.prepare.run()
    except SystemExit as end:
        print(end.code)
"""


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path):
    """A file-size limit stands in for the full disk: the first write that does not fit fails in the same way."""
    flags = ["--source=sample", f"--out={tmp_path}/out"]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *flags], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1"]
    lines = [line for line in done.stderr.splitlines() if "loading" not in line]
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert "cannot be written" in line
        assert "free some space or choose another --out" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["info.json", "items.parquet", "users.parquet", "records"])
@pytest.mark.parametrize("harm", ["missing", "cut", "changed"])
def test_a_damaged_data_set_is_refused(tmp_path, file, harm):
    prepared(raw(200, 8), tmp_path)
    (path,) = (tmp_path / "out").glob("*.array_record*" if file == "records" else file)
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif file == "info.json":
        path.write_text(json.dumps(json.loads(content) | {"num_events": 3}))
    elif file.endswith(".parquet"):
        pl.read_parquet(path).reverse().write_parquet(path)
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"prepare it again|prepare the data set again|make one with launch.prepare"):
        datasets.load(tmp_path / "out")


def test_tfds_reads_the_folder_too(tmp_path):
    import tensorflow_datasets as tfds

    info = prepared(raw(), tmp_path)
    records = list(tfds.builder_from_directory(tmp_path / "out").as_data_source("log"))
    assert sum(len(record["items"]) for record in records) == info.num_events
    assert "tensorflow" not in sys.modules


def test_a_data_set_of_a_stranger_runs_no_code(tmp_path, monkeypatch):
    """Its description names a class of a module that tells when it is imported; its manifest fits."""
    info = prepared(raw(), tmp_path)
    (tmp_path / "evil_module.py").write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("features.json", "dataset_info.json"):
        file = tmp_path / "out" / name
        told = json.loads(file.read_text())
        named = {"pythonClassName": "evil_module.Evil", "moduleName": "evil_module"}
        file.write_text(json.dumps(told | {key: value for key, value in named.items() if key in told}))
        assert "evil_module" in file.read_text()
    manifest.write(tmp_path / "out")
    assert datasets.load(tmp_path / "out").info == info
    assert not (tmp_path / "evil_module.ran").exists()


def test_any_flipped_bit_or_lost_end_of_any_file_is_told_with_the_file(tmp_path):
    prepared(raw(), tmp_path)
    folder, rng = tmp_path / "out", np.random.default_rng(0)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), 50):
            harmed = bytearray(whole)
            harmed[bit // 8] ^= 1 << (bit % 8)
            file.write_bytes(harmed if bit % 10 else whole[: bit // 8])
            try:
                loaded = datasets.load(folder)
            except ValueError as error:
                assert str(file) in str(error) and "prepare" in str(error) and "\n" not in str(error)
            else:  # a blank or the case of a digit in the text of the manifest
                assert file.name == manifest.MANIFEST and json.loads(file.read_text()) == json.loads(whole), loaded
        file.write_bytes(whole)
    datasets.load(folder)


def test_a_data_set_without_a_manifest_or_with_a_link_in_it_is_refused(tmp_path):
    prepared(raw(), tmp_path)
    users = tmp_path / "out" / "users.parquet"
    users.rename(tmp_path / "elsewhere.parquet")
    users.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(ValueError, match="users.parquet: damaged"):
        datasets.user_ids(tmp_path / "out")
    (tmp_path / "out" / manifest.MANIFEST).unlink()
    with pytest.raises(
        ValueError, match="manifest.json: missing, so the data set is incomplete or of an earlier version"
    ):
        datasets.load(tmp_path / "out")


def test_the_rule_decides_what_is_watched(tmp_path):
    frame = raw().with_columns(p=pl.int_range(pl.len()) * 1000)
    source_columns = "user=u,item=v,time=t,play=p"
    info = prepared(frame, tmp_path, columns=source_columns, rule=labels.parse("seconds:10"), min_positives=0)
    assert info.num_skipped == 10
    assert info.label_rule == "seconds:10 (play=p)"


def test_equal_rows_are_counted_and_left_out_when_asked(tmp_path):
    frame = raw()
    single = prepared(frame, tmp_path, min_positives=0)
    doubled = pl.concat([frame, frame, frame[:3]])
    kept = prepared(doubled, tmp_path, name="kept", min_positives=0)
    assert kept.num_events == 2 * len(frame) + 3 and kept.equal_rows == len(frame) + 3 and single.equal_rows == 0
    found = prepared(doubled, tmp_path, name="unique", min_positives=0, drop_duplicates=True)
    assert found.fingerprint == single.fingerprint
    assert found.dropped["rows equal to an earlier one"] == len(frame) + 3 and found.equal_rows == 0


def test_the_description_tells_how_columns_were_read_and_what_was_not(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "a.csv").write_text("u,v,o,w,p\n1,7,1,1,\n1,,2,0,5\n")
    pl.DataFrame({"u": [1], "v": [9], "o": [3], "w": [True], "p": [6]}).write_parquet(folder / "b.parquet")
    (folder / "notes.md").touch()
    roles = ingest.parse_roles("user=u,item=v,order=o,watched=w,play=p")
    info = preparation.prepare(sources.log(folder, roles, ingest.Units()), tmp_path / "out", min_positives=0)
    assert info.read_as["item"] == "v: text, such as 7; also v: integers, such as 9"
    assert info.read_as["text"] == "separated by ','"
    assert info.missing == {"p": 1} and info.not_read == ["notes.md"] and info.dropped == {"v is missing": 1}
