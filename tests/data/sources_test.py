"""Each source is read as it is published."""

from pathlib import Path

import polars as pl
import pytest

from sine_jax.data import ingest, labels, sources, synthetic
from sine_jax.types import DISLIKED, SKIPPED, WATCHED

SHARED = Path(__file__).parents[3] / "shared"
KUAIRAND = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
NOW = 1_650_000_000_000


def exposures(source, label=None, drop=()):
    """The canonical exposures of a source, and what was dropped."""
    rule = labels.parse(label or source.label)
    ingest.check_rule(source.roles, rule)
    pieces = source.read(ingest.raw_columns(source.roles, rule), drop)
    pieces = list(ingest.canonical(pieces, source.roles, source.units, rule, drop=drop))
    return pl.concat([piece.frame for piece in pieces]), [item for piece in pieces for item in piece.dropped.items()]


def kuairand_file(folder, name, *rows):
    """A published log; each row gives video, hate, long_view and duration."""
    lines = [f"5,{v},20220415,900,{NOW},0,0,0,0,0,{h},{w},700,{d},0,0,0,0,1" for v, h, w, d in rows]
    (folder / name).write_text("\n".join([KUAIRAND, *lines, ""]))


@pytest.mark.parametrize("version", ["pure", "1k", "27k"])
def test_kuairand_is_read_standard_logs_first_and_parts_in_order(tmp_path, version):
    folder = tmp_path / "data"
    folder.mkdir()
    parts = ["_part1", "_part2"] if version == "27k" else [""]
    names = [f"log_standard_{days}_{version}{part}.csv" for days in ("4_08_to_4_21", "4_22_to_5_08") for part in parts]
    names.append(f"log_random_4_22_to_5_08_{version}.csv")
    for number, name in enumerate(names):
        kuairand_file(folder, name, (number, 0, 1, 900))
    (folder / f"user_features_{version}.csv").write_text("user_id\n5\n")
    frame, _ = exposures(sources.kuairand(tmp_path, None, random_logs=True))
    assert frame["item"].to_list() == [str(number) for number in range(len(names))]
    frame, _ = exposures(sources.kuairand(folder, None, random_logs=False))
    assert frame["item"].to_list() == [str(number) for number in range(len(names) - 1)]


def test_kuairand_roles(tmp_path):
    kuairand_file(tmp_path, "log_standard_4_08_to_4_21_pure.csv", (1, 0, 1, 900), (2, 0, 0, 0), (3, 1, 1, 800))
    frame, _ = exposures(sources.kuairand(tmp_path, None, random_logs=True))
    assert frame["feedback"].to_list() == [WATCHED, SKIPPED, DISLIKED]
    assert frame.select("user", "time", "play", "duration").row(0) == ("5", NOW, 700, 900)
    assert frame["duration"].to_list() == [900, -1, 800]


def test_kuairand_takes_a_duration_of_0_from_the_video_features(tmp_path):
    kuairand_file(tmp_path, "log_standard_4_08_to_4_21_pure.csv", (1, 0, 1, 900), (2, 0, 0, 0), (3, 0, 0, 0))
    (tmp_path / "video_features_basic_pure.csv").write_text("video_id,author_id,video_duration\n2,9,1400\n1,9,5\n")
    frame, dropped = exposures(sources.kuairand(tmp_path, None, random_logs=True), "ratio:0.5", drop=("invalid",))
    assert frame.select("item", "duration", "feedback").rows() == [("1", 900, WATCHED), ("2", 1400, WATCHED)]
    assert dropped == [("duration_ms is 0, so it has no ratio", 1)]


def test_kuairand_folders_that_are_none_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"no log_standard_.*; unpack KuaiRand"):
        sources.kuairand(tmp_path, None, random_logs=True)
    with pytest.raises(ValueError, match="no such folder"):
        sources.kuairand(tmp_path / "none", None, random_logs=True)
    for version in ("pure", "1k"):
        kuairand_file(tmp_path, f"log_standard_4_08_to_4_21_{version}.csv")
    with pytest.raises(ValueError, match="holds KuaiRand 1k and pure; keep one"):
        sources.kuairand(tmp_path, None, random_logs=True)


def wechat_files(folder):
    """The challenge's two tables: plays of 6 s and 4 s of a video of 10 s, then one of an unknown video."""
    header = "userid,feedid,date_,device,read_comment,comment,like,play,stay,click_avatar,forward,follow,favorite"
    rows = [
        f"8,{feed},{day},1,0,0,0,{play},{play},0,0,0,0" for feed, day, play in ((1, 1, 6000), (1, 2, 4000), (2, 2, 9))
    ]
    (folder / "user_action.csv").write_text("\n".join([header, *rows, ""]))
    (folder / "feed_info.csv").write_text("feedid,authorid,videoplayseconds,description\n1,3,10,1 2 3\n")


def test_wechat_plays_are_ms_and_durations_seconds(tmp_path):
    wechat_files(tmp_path)
    frame, dropped = exposures(sources.wechat2021(tmp_path), drop=("invalid",))
    assert frame.select("user", "item", "order", "feedback", "play", "duration").rows() == [
        ("8", "1", 1, WATCHED, 6000, 10_000),
        ("8", "1", 2, SKIPPED, 4000, 10_000),
    ]
    assert dropped == [("videoplayseconds is missing", 1)]


def test_wechat_without_feed_info_is_labelled_by_seconds(tmp_path):
    wechat_files(tmp_path)
    (tmp_path / "feed_info.csv").unlink()
    frame, _ = exposures(sources.wechat2021(tmp_path))
    assert frame["feedback"].to_list() == [WATCHED, SKIPPED, SKIPPED]
    with pytest.raises(ValueError, match="no column is the duration; map duration=NAME"):
        exposures(sources.wechat2021(tmp_path), "ratio:0.5")


def test_wechat_without_its_log_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no user_action\.csv here"):
        sources.wechat2021(tmp_path)


def test_released_lists_become_exposures_in_order(tmp_path):
    (tmp_path / "data.txt").write_text("1\t10 11 12\t1 0 1\n2\t10\t0\n")
    frame, _ = exposures(sources.released(tmp_path / "data.txt"))
    assert frame.select("user", "item", "feedback").rows() == [
        ("1", "10", 1),
        ("1", "11", 0),
        ("1", "12", 1),
        ("2", "10", 0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t10 11\t1 0\n2\t10 11\t1\n", "row 2: 2 items but 1 feedbacks; mend"),
        ("1\t10 11\t1 0\n2\t10 11\t1 2\n", "row 2: feedback='2' is not 0 or 1"),
        ("1\t10 11\t1 0\n2\t10 11\n", "row 2: 2 fields where the header has 3"),
    ],
)
def test_a_bad_released_line_is_told_or_dropped(tmp_path, text, message):
    (tmp_path / "data.txt").write_text(text)
    source = sources.released(tmp_path / "data.txt")
    with pytest.raises(ValueError, match=message):
        exposures(source)
    frame, dropped = exposures(source, drop=("ragged", "invalid"))
    assert frame["item"].to_list()[:2] == ["10", "11"]
    assert sum(count for _, count in dropped) == 1


def test_the_sample_is_shipped():
    frame, _ = exposures(sources.sample())
    assert len(frame) == 99_533
    assert frame["user"].n_unique() == 2_000


def test_a_generated_log_can_be_labelled_by_every_rule():
    source = sources.generated(synthetic.Settings(num_users=20))
    column, ratio = (exposures(source, label)[0]["feedback"].to_list() for label in ("column", "ratio:0.5"))
    assert column == ratio


def test_the_golden_log_of_the_released_reader_is_read():
    path = Path(__file__).parents[1] / "golden" / "log.tsv"
    if not path.exists():
        path = SHARED / "golden" / "log.tsv"
    if not path.exists():
        pytest.skip("no golden log here")
    frame, _ = exposures(sources.released(path))
    assert frame["user"].n_unique() == 120


IMPRESSIONS = "0\tU1\t11/11/2019 1:05:58 AM\tN1 N2\tN4-1 N11-0\n1\tU2\t11/15/2019 12:00:01 PM\t\tN-7-0\n"


def test_mind_lists_what_was_shown_and_clicked(tmp_path):
    (tmp_path / "behaviors.tsv").write_text(IMPRESSIONS)
    for path in (tmp_path, tmp_path / "behaviors.tsv"):
        frame, _ = exposures(sources.mind(path))
        assert frame.select("user", "item", "feedback").rows() == [
            ("U1", "N4", WATCHED),
            ("U1", "N11", SKIPPED),
            ("U2", "N-7", SKIPPED),
        ]
        assert frame["time"].to_list() == [1573434358000, 1573434358000, 1573819201000]


@pytest.mark.parametrize("bad", ["2\tU3\t11/11/2019 1:05:58 AM\t\tN4-2\n", "2\tU3\tnoon\t\tN4-1\n"])
def test_an_impression_that_cannot_be_read_is_told_or_dropped(tmp_path, bad):
    (tmp_path / "behaviors.tsv").write_text(IMPRESSIONS + bad)
    with pytest.raises(ValueError, match=r"row 3: 'N4-.' at .* is not ITEM-0 or ITEM-1"):
        exposures(sources.mind(tmp_path))
    frame, dropped = exposures(sources.mind(tmp_path), drop=("invalid",))
    assert len(frame) == 3 and dropped == [("impressions that cannot be read", 1)]


def test_durations_can_come_from_a_table_of_items(tmp_path):
    (tmp_path / "log.csv").write_text("u,v,t,p\n1,7,2022-01-01,900\n1,8.0,2022-01-02,900\n1,9,2022-01-03,900\n")
    pl.DataFrame({"v": [7, 8, 8], "length": [1000, 4000, 1]}).write_parquet(tmp_path / "items.parquet")
    roles = ingest.parse_roles("user=u,item=v,time=t,play=p,duration=length")
    log = sources.log(tmp_path / "log.csv", roles, ingest.Units(), items=tmp_path / "items.parquet")
    assert exposures(log, "seconds:0.5")[0]["duration"].to_list() == [1000, 4000, -1]
    with pytest.raises(ValueError, match=r"log\.csv, row 4: length is missing"):
        exposures(log, "ratio:0.5")
