"""Lists on the disk: whole files, and a folder that goes on where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from logs import made

import sine_jax as sine
from sine_jax import config as configs
from sine_jax import run
from sine_jax.serving import lists, recommend
from sine_jax.serving.recommend import Request

ROOT = Path(__file__).parents[2]
SMALL = {"model.name": "sasrec", "model.max_len": 6, "model.dim": 4, "model.num_blocks": 1, "train.epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = made(folder / "data", num_users=50, num_items=30)
    run.train(data, str(folder / "run"), config=configs.replace(sine.presets.default(), SMALL))
    return folder, recommend.load(str(folder / "run")), recommend.users_of(data)


def whole(recommender, users, request):
    parts = [recommend.frame_of(recommender, users, a) for a in recommend.first_items(recommender, users, request)]
    return pl.concat(parts)


@pytest.mark.parametrize("name", ["lists.parquet", "lists.jsonl"])
def test_a_file_holds_all_answers(trained, tmp_path, name, monkeypatch):
    monkeypatch.setattr(recommend, "BATCH", 16)
    _, recommender, users = trained
    out = tmp_path / name
    rows = lists.write(recommender, users, Request(k=3), str(out))
    found = pl.read_parquet(out) if name.endswith("parquet") else pl.read_ndjson(out)
    expected = whole(recommender, users, Request(k=3))
    assert rows == len(found) == 3 * users.log.num_users
    assert found.select("user", "item", "known").equals(expected.select("user", "item", "known"))
    with pytest.raises(ValueError, match="exists already; choose another name"):
        lists.write(recommender, users, Request(k=3), str(out))


def test_a_folder_goes_on_and_is_of_one_request(trained, tmp_path):
    _, recommender, users = trained
    out, told = tmp_path / "lists", []
    lists.write(recommender, users, Request(k=3), str(out), shard=20)
    expected = whole(recommender, users, Request(k=3))
    parts = sorted(out.glob("part-*.parquet"))
    assert pl.concat(map(pl.read_parquet, parts)).drop("score").equals(expected.drop("score"))
    before = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    rows = lists.write(recommender, users, Request(k=3), str(out), shard=20, say=told.append)
    assert rows == len(expected) and told == [f"40 of {users.log.num_users} users"]
    assert parts[0].stat().st_mtime_ns == before and parts[1].exists()
    with pytest.raises(ValueError, match="holds the answers to another request; choose another folder"):
        lists.write(recommender, users, Request(k=4), str(out), shard=20)


def test_ids_are_read_a_line_each(tmp_path):
    (tmp_path / "ids.txt").write_bytes("\ufeffa\n\n b \r\nc".encode())
    assert lists.read_ids(str(tmp_path / "ids.txt")) == ["a", "b", "c"]
    (tmp_path / "ids.bin").write_bytes(b"\xff\xfe\x00")
    for name in ("ids.bin", "missing.txt"):
        with pytest.raises(
            ValueError, match=f"{name}: cannot be read as lines of text .*; pass a file with an id a line"
        ):
            lists.read_ids(str(tmp_path / name))


def test_the_launch_recommends_from_the_run_folder_alone(trained, tmp_path):
    folder, recommender, _ = trained
    item = recommender.items
    (tmp_path / "log.csv").write_text(f"u,v,t,w\nx,{item[3]},2022-01-01,yes\nx,strange,2022-01-02,no\n")
    (tmp_path / "users.txt").write_text("x\nnobody\n")
    (tmp_path / "deny.txt").write_text(f"{item[5]}\nunknown\n")
    out = tmp_path / "lists.jsonl"
    command = [sys.executable, "-m", "launch.recommend", f"--workdir={folder / 'run'}", f"--out={out}", "--k=4"]
    command += [f"--histories={tmp_path / 'log.csv'}", "--columns=user=u,item=v,time=t,watched=w"]
    command += [f"--users={tmp_path / 'users.txt'}", f"--deny={tmp_path / 'deny.txt'}"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 exposures of items that the model does not know were left out" in done.stderr
    assert "--deny: 1 ids are of no item that the model knows" in done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["user"] for row in rows] == ["x"] * 4 + ["nobody"] * 4
    assert {row["item"] for row in rows}.isdisjoint({item[5]}) and rows[0]["known"] and not rows[-1]["known"]
    assert item[3] not in [row["item"] for row in rows[:4]]
