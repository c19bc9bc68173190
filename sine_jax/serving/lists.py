"""Answers for many users, on the disk: one file, or a folder of files that a stopped launch goes on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet

from sine_jax import files
from sine_jax.data import datasets
from sine_jax.serving import recommend
from sine_jax.serving.recommend import Recommender, Request, Users

FILES = (".parquet", ".jsonl")
_REQUEST = "request.json"


def read_ids(path: str) -> list[str]:
    """The ids of a file, one a line; blanks around them and empty lines do not count.

    Raises:
      ValueError: it cannot be read as text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as lines of text ({error}); pass a file with an id a line") from error
    return [line.strip() for line in lines if line.strip()]


def write(
    recommender: Recommender,
    users: Users,
    request: Request,
    out: str,
    *,
    shard: int = 100_000,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Writes the first items of users: user, item, rank, score, known.

    Args:
      recommender: of `recommend.load`.
      users: with their histories.
      request: what may be recommended.
      out: a file that ends in .parquet or .jsonl, written whole or not at all; or a folder of Parquet files, of which
        those that are there already stay.
      shard: users of each file of a folder.
      say: is told what was done.

    Returns:
      How many rows there are.

    Raises:
      ValueError: the file exists, the folder has the answers to another request, or nothing may be recommended.
    """
    path = Path(out)
    if path.suffix in FILES:
        return _write_file(recommender, users, request, path)
    return _write_folder(recommender, users, request, path, shard=shard, say=say)


def _write_file(recommender: Recommender, users: Users, request: Request, out: Path) -> int:
    if out.exists():
        raise ValueError(f"{out}: exists already; choose another name")
    rows, writer = 0, None
    with files.whole(out) as partial, open(partial, "wb") as stream:
        for answers in recommend.first_items(recommender, users, request):
            frame = recommend.frame_of(recommender, users, answers)
            rows += len(frame)
            if out.suffix == ".jsonl":
                frame.write_ndjson(stream)
                continue
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or pyarrow.parquet.ParquetWriter(stream, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return rows


def _write_folder(
    recommender: Recommender, users: Users, request: Request, out: Path, *, shard: int, say: Callable[[str], None]
) -> int:
    asked, told = _asked(recommender, users, request, shard), out / _REQUEST
    if told.exists() and json.loads(told.read_text()) != asked:
        raise ValueError(f"{out}: holds the answers to another request; choose another folder")
    files.write_whole(told, json.dumps(asked, indent=2))
    rows, number = 0, users.log.num_users
    for place, begin in enumerate(range(0, number, shard)):
        file = out / f"part-{place:05d}.parquet"
        if not file.exists():
            some = recommend.between(users, begin, begin + shard)
            answered = recommend.first_items(recommender, some, request)
            frame = pl.concat([recommend.frame_of(recommender, some, answers) for answers in answered])
            with files.whole(file) as partial:
                frame.write_parquet(partial)
            say(f"{min(begin + shard, number):,} of {number:,} users")
        rows += pyarrow.parquet.read_metadata(file).num_rows
    return rows


def _asked(recommender: Recommender, users: Users, request: Request, shard: int) -> dict[str, Any]:
    """What decides the answers, so that others are not mixed with them."""
    asked = {
        "vocabulary": recommender.info.vocabulary,
        "step": recommender.step,
        "users": datasets.id_digest(users.ids),
        "exposures": len(users.log.items),
        "shard": shard,
        **request._asdict(),
    }
    return json.loads(json.dumps(asked))  # as it will be read
