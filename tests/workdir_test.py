"""Files and folders are written whole or not at all."""

import os

import pytest

from sine_jax import workdir


def test_a_file_is_written_or_replaced_and_its_folder_made(tmp_path):
    file = tmp_path / "new" / "a.json"
    for content in ("one", b"two"):
        workdir.write_whole(file, content)
    assert file.read_text() == "two"
    assert os.listdir(file.parent) == ["a.json"]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(KeyError), workdir.whole(file) as partial:
        partial.write_text("half")
        raise KeyError
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_process_left_is_no_hindrance(tmp_path):
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".set.partial" / "part").write_text("half")
    with workdir.write_folder_whole(tmp_path / "set") as folder:
        (folder / "part").write_text("whole")
    assert os.listdir(tmp_path) == ["set"] and os.listdir(tmp_path / "set") == ["part"]


def test_a_folder_that_fails_half_way_is_not_there(tmp_path):
    with pytest.raises(KeyError), workdir.write_folder_whole(tmp_path / "set") as folder:
        (folder / "part").write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_with_its_remedy(tmp_path):
    told = f"{tmp_path / 'a'}: the disk is full. Nothing was written; free some space and run the same command again"
    with pytest.raises(ValueError) as caught, workdir.whole(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == told


def test_a_place_that_cannot_be_written_is_named_and_not_the_file_beside_it(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "a", tmp_path / "folder"):
        with pytest.raises(ValueError) as caught:
            workdir.write_whole(place, "text")
        assert str(caught.value).startswith(f"{place}: cannot be written (")
        assert str(caught.value).endswith("); choose another place")


def test_an_error_about_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), workdir.whole(tmp_path / "a"):
        (tmp_path / "missing").read_text()
