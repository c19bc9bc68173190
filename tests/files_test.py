"""Files and folders are written whole or not at all."""

import os
import subprocess
import sys

import pytest

from sine_jax import files


def test_a_file_is_written_or_replaced_and_its_folder_made(tmp_path):
    file = tmp_path / "new" / "a.json"
    for content in ("one", b"two"):
        files.write_whole(file, content)
    assert file.read_text() == "two"
    assert os.listdir(file.parent) == ["a.json"]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(KeyError), files.whole(file) as partial:
        partial.write_text("half")
        raise KeyError
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


KILLED = """
import os, signal, sys
from sine_jax import files
with files.write_folder_whole(sys.argv[1]) as folder:
    (folder / "part").write_text("half")
    print("ready", flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def writer(path, fate):
    command = [sys.executable, "-c", KILLED, str(path), fate]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    killed, living = writer(tmp_path / "set", "killed"), writer(tmp_path / "set", "lives")
    killed.communicate("", timeout=30)
    with files.scratch(tmp_path / "set") as mine:
        left = [name for name in os.listdir(tmp_path) if name != mine.name]
        assert len(left) == 1 and (tmp_path / left[0]).stat().st_mode & 0o077 == 0
    living.communicate("", timeout=30)
    assert os.listdir(tmp_path) == ["set"] and os.listdir(tmp_path / "set") == ["part"]


def test_no_link_is_written_through(tmp_path):
    (tmp_path / "precious").write_text("kept")
    for name in ("a.json", ".a.json.partial", "a.lock"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    files.write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new" and not (tmp_path / "a.json").is_symlink()
    with pytest.raises(OSError), files.locked(tmp_path / "a.lock", "busy"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_lock_is_held_by_one_and_by_nobody_who_died(tmp_path):
    lock = tmp_path / "lock"
    with files.locked(lock, "busy"):
        with pytest.raises(ValueError, match="^busy$"), files.locked(lock, "busy"):
            pass
    code = (
        "import os, sys; from sine_jax import files; files.locked(files.Path(sys.argv[1]), '').__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(lock)], check=False).returncode == 9
    with files.locked(lock, "busy"):
        assert lock.exists()
    assert not lock.exists()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: None)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    files.put(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path / "old") == ["new"] and os.listdir(tmp_path / "new") == ["old"]


def test_a_folder_that_fails_half_way_is_not_there(tmp_path):
    with pytest.raises(KeyError), files.write_folder_whole(tmp_path / "set") as folder:
        (folder / "part").write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_with_its_remedy(tmp_path):
    told = f"{tmp_path / 'a'}: the disk is full. Nothing was written; free some space and run the same command again"
    with pytest.raises(ValueError) as caught, files.whole(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == told


def test_a_place_that_cannot_be_written_is_named_and_not_the_file_beside_it(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "a", tmp_path / "folder"):
        with pytest.raises(ValueError) as caught:
            files.write_whole(place, "text")
        assert str(caught.value).startswith(f"{place}: cannot be written (")
        assert str(caught.value).endswith("); choose another place")


def test_an_error_about_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), files.whole(tmp_path / "a"):
        (tmp_path / "missing").read_text()
