"""The launch: what it prints, where it stops, and the known counts of the shared log."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from sine_jax.data import datasets

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


def launched(*flags):
    """`python -m launch.prepare` with these flags."""
    command = [sys.executable, "-m", "launch.prepare", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_summary_tells_what_was_prepared(tmp_path):
    done = launched("--source=sample", f"--out={tmp_path / 'new' / 'sample'}")
    assert (done.returncode, done.stderr) == (0, "prepare.py: loading JAX and the library\n")
    info = datasets.load(tmp_path / "new" / "sample").info
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert told["users"] == f"{info.num_users:,}" == "2,000"
    assert told["fingerprint"] == info.fingerprint
    assert told["dropped"] == "nothing"


def test_an_exported_log_prepares_to_what_it_was_drawn_as(tmp_path):
    drawn = ["--source=synthetic", "--users=60", "--items=80", "--seed=3"]
    for name in ("log.csv", "parts"):
        done = launched(*drawn, f"--export={tmp_path / name}", f"--out={tmp_path / ('drawn ' + name)}")
        assert done.returncode == 0, done.stderr
        columns = "user=user_id,item=item_id,time=time_ms,watched=long_view,play=play_time_ms,duration=duration_ms"
        done = launched(
            "--source=log", f"--input={tmp_path / name}", f"--columns={columns}", f"--out={tmp_path / ('read ' + name)}"
        )
        assert done.returncode == 0, done.stderr
    folders = [f"{how} {name}" for how in ("drawn", "read") for name in ("log.csv", "parts")]
    assert len({datasets.read_info(tmp_path / folder).fingerprint for folder in folders}) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source=log", "--columns=user=u,item=v,order=o"], "--input is missing: --source=log reads a file"),
        (["--source=log", "--input=log.csv"], "--columns is missing: pass --columns=user=NAME"),
        (["--source=sample", "--label=half"], "--label=half: no such rule; write column"),
        (["--source=sample", "--export=x.csv"], "--export=x.csv: --source=sample is not drawn from a seed"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, flags, message):
    done = launched(*flags, f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    *begun, line = done.stderr.splitlines()
    assert len(begun) <= 1
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_examples_and_every_flag():
    done = launched("--help")
    for text in (
        "--source=kuairand --input=",
        "--columns=user=user_id",
        "--on_bad_row",
        "--min_positives",
        "--skip_effect",
    ):
        assert text in done.stdout


def test_the_shared_log_has_its_known_users(tmp_path):
    path = SHARED / "kuairand_pure_seq_dev80.parquet"
    if not path.exists():
        pytest.skip("../shared/data is not here")
    columns = "--columns=user=user_id,item=item_id,order=step,watched=long_view"
    done = launched("--source=log", f"--input={path}", columns, "--min_positives=5", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    info = datasets.read_info(tmp_path / "out")
    raw = pl.read_parquet(path)
    assert info.num_users == 16_682
    assert info.num_events + info.dropped["exposures of these users"] == len(raw)
