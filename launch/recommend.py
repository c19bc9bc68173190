r"""Recommends: writes the first k items of many users, by a trained run.

For example:

  All users of the data set that the run was trained on, into a folder of Parquet files:
    python -m launch.recommend --workdir=runs/mine --out=lists --k=20

  Some of them, one id a line, as JSON lines:
    python -m launch.recommend --workdir=runs/mine --users=users.txt --out=lists.jsonl

  Any users by their exposures, in a log of any format that launch.prepare reads; the run folder is all that is needed:
    python -m launch.recommend --workdir=runs/mine --histories=today.csv --out=lists.parquet \
      --columns=user=user_id,item=video_id,time=time_ms,watched=long_view

A row has user, item, rank (from 1), score, and known (whether the user has a history). Items that the user was shown
are left out (--nofilter_seen keeps them). --allow and --deny name files with an item id a line. A user without a
history gets the ranking by biases. Fewer than k items are written for a user where fewer are left.

A folder is written file by file, each whole; the same command again goes on after the last one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.app import UsageError, launch_app, loading, read_from_flags, say

if TYPE_CHECKING:
    import polars as pl

    from sine_jax.serving.recommend import Recommender, Users

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
OUT = flags.DEFINE_string(
    "out", None, "Where to write: a file that ends in .parquet or .jsonl, or a folder of Parquet files.", required=True
)
K = flags.DEFINE_integer("k", 20, "Items for each user.", lower_bound=1)
DATA = flags.DEFINE_string("data", None, "Data set whose users are answered, if it has moved.")
USERS = flags.DEFINE_string("users", None, "File with a user id a line; all users by default.")
HISTORIES = flags.DEFINE_string("histories", None, "A log with the exposures of users, instead of a data set.")
COLUMNS = flags.DEFINE_string("columns", None, "Column map of --histories, as in launch.prepare.")
LABEL = flags.DEFINE_string("label", "column", "Label rule of --histories, as in launch.prepare.")
TIME_UNIT = flags.DEFINE_enum("time_unit", "ms", ["s", "ms", "us", "ns"], "Unit of the times of --histories.")
FILTER_SEEN = flags.DEFINE_bool("filter_seen", True, "Leave out items that the user was shown.")
ALLOW = flags.DEFINE_string("allow", None, "File with the item ids that may be recommended, one a line.")
DENY = flags.DEFINE_string("deny", None, "File with the item ids that may not, one a line.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "`best`, `latest` or a step.")
TRUST_NETWORK = flags.DEFINE_string(
    "trust_network", "", "The module of the run's network, if it is not one of the library's: its code will run."
)
SHARD = flags.DEFINE_integer("shard", 100_000, "Users of each file of a folder.", lower_bound=1)


def main() -> None:
    """Recommends what the flags say."""
    if HISTORIES.value is None and COLUMNS.value is not None:
        raise UsageError(f"--columns={COLUMNS.value}: it is for --histories; leave it out")
    if HISTORIES.value is not None and COLUMNS.value is None:
        raise UsageError("--columns is missing: pass --columns=user=NAME,item=NAME,time=NAME,watched=NAME")
    if HISTORIES.value is not None and DATA.value is not None:
        raise UsageError(f"--data={DATA.value}: --histories replaces the data set; leave --data out")
    with loading():
        from sine_jax.serving import lists, recommend

    recommender = recommend.load(WORKDIR.value, checkpoint=CHECKPOINT.value, trust_network=TRUST_NETWORK.value)
    allow = None if ALLOW.value is None else lists.read_ids(ALLOW.value)
    deny = [] if DENY.value is None else lists.read_ids(DENY.value)
    request = recommend.Request(K.value, FILTER_SEEN.value, allow, deny)
    for name, ids in (("allow", request.allow or ()), ("deny", request.deny)):
        unknown = recommend.unknown_ids(recommender, ids)
        if unknown:
            say(f"--{name}: {unknown:,} ids are of no item that the model knows")
    users = asked(recommender)
    if users.unknown:
        say(f"{users.unknown:,} exposures of items that the model does not know were left out")
    rows = lists.write(recommender, users, request, OUT.value, shard=SHARD.value, say=say)
    print(f"wrote {rows:,} rows for {users.log.num_users:,} users to {OUT.value}")


def asked(recommender: Recommender) -> Users:
    """The users that the flags name, with their histories."""
    from sine_jax import run as runs
    from sine_jax.serving import lists, recommend

    if HISTORIES.value is not None:
        users = recommend.from_exposures(recommender, exposures())
    else:
        restored = runs.restore(WORKDIR.value, checkpoint=CHECKPOINT.value, trust_network=TRUST_NETWORK.value)
        users = recommend.users_of(runs.dataset(restored, data=DATA.value).path)
    if USERS.value is None:
        return users
    return recommend.chosen(users, lists.read_ids(USERS.value))._replace(unknown=users.unknown)


def exposures() -> pl.DataFrame:
    """The exposures of --histories, canonical."""
    import polars as pl

    from sine_jax.data import cells, ingest, labels, sources

    assert HISTORIES.value is not None and COLUMNS.value is not None  # as was refused above
    with read_from_flags():
        roles, rule = ingest.parse_roles(COLUMNS.value), labels.parse(LABEL.value)
        ingest.check_rule(roles, rule)
    units = ingest.Units(time=cells.MILLISECONDS[TIME_UNIT.value])
    raw = sources.log(Path(HISTORIES.value), roles, units)
    pieces = ingest.canonical(raw.read(ingest.raw_columns(roles, rule), ()), roles, units, rule)
    return pl.concat([piece.frame for piece in pieces])


def run() -> None:
    """The console script."""
    launch_app(main, interrupted="files that are whole are kept; run the same command again to go on")


if __name__ == "__main__":
    run()
