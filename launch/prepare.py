r"""Prepares a log: reads raw files once and writes a data set that training and evaluation load in seconds.

For example:

  The shipped sample, 2,000 users of KuaiRand-Pure:
    python -m launch.prepare --source=sample --out=data/sample

  Your own log: text, JSON lines, Parquet or Arrow, packed or not, or a folder of such files:
    python -m launch.prepare --source=log --input=log.csv --out=data/mine \
      --columns=user=user_id,item=video_id,time=time_ms,watched=long_view

  ... without a watched column: watched if at least half of the video was played
    python -m launch.prepare --source=log --input=logs/ --out=data/mine --label=ratio:0.5 \
      --columns=user=uid,item=vid,time=ts,play=play_ms,duration=video_ms,dislike=not_interested --time_unit=s

  ... with the tab and the hour of each exposure as context
    python -m launch.prepare --source=log --input=log.csv --out=data/mine \
      --columns=user=user_id,item=video_id,time=time_ms,watched=long_view,context=tab+hour

  ... without times: `order` is any whole number that grows with time, or #row for the place in the input
    python -m launch.prepare --source=log --input=log.parquet --out=data/mine \
      --columns=user=user_id,item=item_id,order=step,watched=long_view

  KuaiRand as published (Pure, 1K or 27K), watched by `long_view` or by 5 seconds of play:
    python -m launch.prepare --source=kuairand --input=KuaiRand-Pure --out=data/pure
    python -m launch.prepare --source=kuairand --input=KuaiRand-Pure --out=data/pure5 --label=seconds:5

  MIND, whose impressions say what was shown and clicked:
    python -m launch.prepare --source=mind --input=MINDsmall_train --out=data/mind

  WeChat Big Data Challenge 2021 (user_action.csv, feed_info.csv):
    python -m launch.prepare --source=wechat2021 --input=wechat --out=data/wechat --label=ratio:0.5

  The text format of the authors' code, and a log drawn from a seed:
    python -m launch.prepare --source=released --input=data.txt --out=data/released
    python -m launch.prepare --source=synthetic --out=data/synthetic --users=5000 --skip_effect=0.8 --skip_decay=0.9

  A prepared data set whose feedback is drawn anew from user and item biases, to see what a model "gains" without memory
    python -m launch.prepare --source=redrawn --input=data/mine --out=data/redrawn --seed=1

  A synthetic log as CSV; and how long it takes to prepare 10 and 30 million rows:
    python -m launch.prepare --source=synthetic --users=201000 --items=50000 --export=/tmp/log.csv
    python -m launch.benchmark --out=speed --cases=prepare

Roles of --columns: user, item; time and/or order; watched, or play (and duration) with --label; dislike; context.

Context columns (context=tab+hour) are small categories of the exposure, known when a video is shown: the tab, the hour,
the device. They tell how likely any video is to be watched there. They do not tell which video to choose, because all
candidates of a request share them; scores for choosing leave them out. An empty cell is unknown and adds 0.

Exposures are sorted by user, time, order, then their place in the input. Files of a folder are
read in the order of their paths. A column of lists is one exposure per element; where `watched` lists ids, the items
among them were watched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.app import UsageError, launch_app, loading, read_from_flags
from sine_jax.plain import printable

if TYPE_CHECKING:
    from sine_jax.data import sources, synthetic
    from sine_jax.data.datasets import DataInfo

SOURCES = [
    "sample",
    "log",
    "mind",
    "kuairand",
    "wechat2021",
    "released",
    "synthetic",
    "redrawn",
]  # as in sources.SOURCES
UNITS = ["s", "ms", "us", "ns"]  # as in cells.MILLISECONDS

SEPARATORS = {",": ",", ";": ";", "|": "|", "::": "::", "tab": "\t"}  # as in rawtext.SEPARATORS, by how they are typed
SHOWN = 10  # files that are not read, in the summary

SOURCE = flags.DEFINE_enum("source", None, SOURCES, "Source of the log.", required=True)
INPUT = flags.DEFINE_string("input", None, "The raw file or folder (not for sample and synthetic).")
OUT = flags.DEFINE_string("out", None, "Folder of the prepared data set; must not exist yet.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the prepared data set that is at --out.")
COLUMNS = flags.DEFINE_string("columns", None, "Column map role=name,... (log; kuairand: replaces its own map).")
LABEL = flags.DEFINE_string(
    "label",
    None,
    "What counts as watched: `column` (1, yes, true), `at_least:X` (the column is at least X), `ratio:R` (play / "
    "duration >= R), `seconds:S` (play >= S s) or `all`. The default is `column`; for wechat2021 it is `ratio:0.5`, or "
    "`seconds:5` without feed_info.csv.",
)
MIN_POSITIVES = flags.DEFINE_integer(
    "min_positives", 3, "Leave out users with fewer watched exposures (a split needs 3).", lower_bound=0
)
MIN_EXPOSURES = flags.DEFINE_integer(
    "min_exposures", 1, "Leave out items shown less often, before users are counted.", lower_bound=1
)
ON_BAD_ROW = flags.DEFINE_enum("on_bad_row", "error", ["error", "drop"], "Stop at a bad row, or drop and count it.")
DROP_DUPLICATES = flags.DEFINE_bool(
    "drop_duplicates", False, "Of rows that are equal in all that is read, keep the first; otherwise they are counted."
)
SEPARATOR = flags.DEFINE_enum(
    "separator",
    None,
    list(SEPARATORS),
    "Between the fields of text; found out from the first row by default (log).",
)
DECIMAL = flags.DEFINE_enum("decimal", ".", [".", ","], "The decimal point of numbers in text (log).")
HEADER = flags.DEFINE_list("header", [], "Names of the columns, if the text has none in its first row (log).")
ITEM_TABLE = flags.DEFINE_string(
    "items_table", None, "A table with an item column as in the log and the column of durations (log)."
)
RELATIVE_TIMES = flags.DEFINE_bool("relative_times", False, "Times do not count from 1970 but from any instant (log).")
MAX_BYTES = flags.DEFINE_integer(
    "max_bytes", 10**11, "How large a file may be when it is decompressed, in bytes (log).", lower_bound=1
)
TIME_UNIT = flags.DEFINE_enum("time_unit", "ms", UNITS, "Unit of the time column (log).")
PLAY_UNIT = flags.DEFINE_enum("play_unit", "ms", UNITS, "Unit of the play column (log).")
DURATION_UNIT = flags.DEFINE_enum("duration_unit", "ms", UNITS, "Unit of the duration (log).")
RANDOM_LOGS = flags.DEFINE_bool("random_logs", True, "Read the log of randomly exposed videos too (kuairand).")

# Defaults as in synthetic.Settings.
SEED = flags.DEFINE_integer("seed", 0, "Seed (synthetic, redrawn).", lower_bound=0)
NUM_USERS = flags.DEFINE_integer("users", 2_000, "Users (synthetic).")
NUM_ITEMS = flags.DEFINE_integer("items", 1_000, "Items (synthetic).")
NUM_EXPOSURES = flags.DEFINE_integer("exposures", 50, "Mean exposures per user (synthetic).")
NUM_INTERESTS = flags.DEFINE_integer("interests", 8, "Planted interests (synthetic).")
AFFINITY = flags.DEFINE_float("affinity", 1.5, "Strength of the interests (synthetic).")
SKIP_EFFECT = flags.DEFINE_float(
    "skip_effect", 1.0, "Log-odds of watching lost right after a skip of that interest (synthetic)."
)
SKIP_DECAY = flags.DEFINE_float(
    "skip_decay", 0.0, "Share of that effect that each further exposure leaves, from 0 to below 1 (synthetic)."
)
EXPORT = flags.DEFINE_string(
    "export", None, "Write the raw log here, as FILE.csv or as a folder of Parquet files (synthetic)."
)


def main() -> None:
    """Prepares what the flags say, and prints a summary."""
    if OUT.value is None and EXPORT.value is None:
        raise UsageError("--out is missing: name a folder that does not exist yet")
    if EXPORT.value is not None and SOURCE.value != "synthetic":
        raise UsageError(
            f"--export={EXPORT.value}: --source={SOURCE.value} is not drawn from a seed; leave --export out"
        )
    if EXPORT.value is not None and Path(EXPORT.value).exists():
        raise UsageError(f"--export={EXPORT.value}: exists already; choose another name")
    check_source()
    with loading():
        from sine_jax.data import labels, preparation

    if EXPORT.value is not None:
        rows = export(synthetic_settings(), Path(EXPORT.value))
        print(f"wrote {rows:,} rows to {EXPORT.value}")
    if OUT.value is not None:
        with read_from_flags():
            rule = labels.parse(LABEL.value) if LABEL.value else None
        info = preparation.prepare(
            source(),
            OUT.value,
            rule=rule,
            min_positives=MIN_POSITIVES.value,
            min_exposures=MIN_EXPOSURES.value,
            drop=("ragged", "invalid") if ON_BAD_ROW.value == "drop" else (),
            drop_duplicates=DROP_DUPLICATES.value,
            overwrite=OVERWRITE.value,
        )
        print(summary(info, OUT.value))


def check_source() -> None:
    """Refuses flags that do not go with the source.

    Raises:
      UsageError: one is missing, or has no meaning for this source.
    """
    name = SOURCE.value
    if COLUMNS.value and name not in ("log", "kuairand"):
        raise UsageError(f"--columns={COLUMNS.value}: --source={name} has columns of its own; leave --columns out")
    if INPUT.value and name in ("sample", "synthetic"):
        raise UsageError(f"--input={INPUT.value}: --source={name} reads no file; leave --input out")
    if INPUT.value is None and name not in ("sample", "synthetic"):
        raise UsageError(f"--input is missing: --source={name} reads a file or a folder; name it")
    if not COLUMNS.value and name == "log":
        raise UsageError("--columns is missing: pass --columns=user=NAME,item=NAME,time=NAME,watched=NAME (see --help)")


def source() -> sources.RawLog:
    """The source that the flags describe."""
    from sine_jax.data import cells, ingest, rawfiles, sources

    name = SOURCE.value
    if name == "sample":
        return sources.sample()
    if name == "synthetic":
        with read_from_flags():
            return sources.generated(synthetic_settings())
    assert INPUT.value is not None  # says check_source
    path = Path(INPUT.value)
    with read_from_flags():
        roles = ingest.parse_roles(COLUMNS.value) if COLUMNS.value else None
    if name == "kuairand":
        return sources.kuairand(path, roles, random_logs=RANDOM_LOGS.value)
    if name == "redrawn":
        from sine_jax.evaluation import memoryless

        return memoryless.source(path, seed=SEED.value)
    if name == "wechat2021":
        return sources.wechat2021(path)
    if name == "mind":
        return sources.mind(path)
    if name == "released":
        return sources.released(path)
    assert roles is not None  # says check_source
    time, play, duration = (cells.MILLISECONDS[flag.value] for flag in (TIME_UNIT, PLAY_UNIT, DURATION_UNIT))
    return sources.log(
        path,
        roles,
        ingest.Units(time, play, duration, DECIMAL.value, RELATIVE_TIMES.value),
        items=Path(ITEM_TABLE.value) if ITEM_TABLE.value else None,
        style=rawfiles.Style(SEPARATORS[SEPARATOR.value] if SEPARATOR.value else "", tuple(HEADER.value)),
        max_bytes=MAX_BYTES.value,
    )


def synthetic_settings() -> synthetic.Settings:
    """What the flags say of the synthetic log."""
    from sine_jax.data import synthetic

    return synthetic.Settings(
        seed=SEED.value,
        num_users=NUM_USERS.value,
        num_items=NUM_ITEMS.value,
        num_exposures=NUM_EXPOSURES.value,
        num_interests=NUM_INTERESTS.value,
        affinity=AFFINITY.value,
        skip_effect=SKIP_EFFECT.value,
        skip_decay=SKIP_DECAY.value,
    )


def export(settings: synthetic.Settings, path: Path) -> int:
    """Writes a synthetic log as raw files; returns how many rows it has."""
    from sine_jax import files
    from sine_jax.data import synthetic

    with read_from_flags():
        synthetic.check(settings)
    rows = 0
    if path.suffix == ".csv":
        with files.whole(path) as partial, open(partial, "wb") as stream:
            for number, frame in enumerate(synthetic.frames(settings)):
                frame.write_csv(stream, include_header=number == 0)
                rows += len(frame)
    else:
        with files.write_folder_whole(path) as folder:
            for number, frame in enumerate(synthetic.frames(settings)):
                frame.write_parquet(folder / f"part-{number:05d}.parquet")
                rows += len(frame)
    return rows


def summary(info: DataInfo, out: str) -> str:
    """A short table of what was prepared."""
    rows = [
        ("source", info.source),
        ("label", info.label_rule),
        ("users", f"{info.num_users:,}"),
        ("items", f"{info.num_items:,}"),
        ("exposures", f"{info.num_events:,}"),
        ("watched", f"{info.num_watched:,}"),
        ("skipped", f"{info.num_skipped:,}"),
        ("disliked", f"{info.num_disliked:,}"),
        ("skip rate", f"{info.skip_rate:.4f}"),
        ("times", "ms" if info.has_times else "none"),
        ("fingerprint", info.fingerprint),
    ]
    rows += [("context", f"{name}, {len(values):,} values") for name, values in info.contexts.items()]
    rows += [("read as", told if name == "text" else f"{name} = {told}") for name, told in info.read_as.items()]
    rows += [("not read", name) for name in info.not_read[:SHOWN]]
    if len(info.not_read) > SHOWN:
        rows.append(("not read", f"and {len(info.not_read) - SHOWN:,} more files"))
    rows += [("missing", f"{count:,} {name}") for name, count in info.missing.items()]
    if info.equal_rows:
        rows.append(("equal rows", f"{info.equal_rows:,} that are kept; --drop_duplicates leaves them out"))
    rows += [("dropped", f"{count:,} {reason}") for reason, count in info.dropped.items()] or [("dropped", "nothing")]
    rows.append(("written to", out))
    return "\n".join(f"{name:<12} {printable(value, 1000)}" for name, value in rows)


def run() -> None:
    """The console script."""
    launch_app(main, interrupted="nothing half-written is left; run the same command again")


if __name__ == "__main__":
    run()
