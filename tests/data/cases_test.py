"""Logs that people really had, each by the command that they would type, and what should become of it."""

from pathlib import Path

import pytest

from sine_jax.data import cells, ingest, labels, preparation, sources

CASES = Path(__file__).parents[3] / "shared" / "cases"
COLUMNS = "user=user,item=item,time=time,watched=watched"
LENGTHS = "user=user,item=item,time=time,play=play,duration=duration"
SECONDS = {"play": 1000.0, "duration": 1000.0}

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there")


def prepared(name, folder, columns=COLUMNS, label="column", drop_duplicates=False, **units):
    if name == "mind_behaviors.tsv":
        raw = sources.mind(CASES / name)
    else:
        raw = sources.log(CASES / name, ingest.parse_roles(columns), ingest.Units(**units))
    rule = labels.parse(label)
    return preparation.prepare(raw, folder / "out", rule=rule, min_positives=1, drop_duplicates=drop_duplicates)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return prepared("good.csv", tmp_path_factory.mktemp("good"))


SAME = [
    "folder_upper",
    "folder_int_float",
    "item_space.csv",
    "ids_decimal.parquet",
    "watched_categorical.parquet",
    "time_iso.csv",
    "gzip_named_csv.csv",
    "folder_mac",
    "folder_spark_csv",
    "pipe.csv",
    "watched_yes_no.csv",
    "known_old_mac_cr.csv",
    "known_list_ids.parquet",
    "known_session_lists.parquet",
    "hive",
    "lines.jsonl",
]
SAID = [
    ("time_ns.csv", {"time": cells.MILLISECONDS["ns"]}),
    ("duplicates.csv", {"drop_duplicates": True}),
    ("recbole", {"columns": "user=user_id,item=item_id,time=timestamp,watched=label"}),
    (
        "watch_ratio.csv",
        {"columns": "user=user,item=item,time=time,watched=watch_ratio", "label": "at_least:0.5"},
    ),
]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in SAME), *SAID])
def test_the_same_log_in_another_dress_is_the_same_data_set(good, tmp_path, name, options):
    assert prepared(name, tmp_path, **options).fingerprint == good.fingerprint


@pytest.mark.parametrize(
    ("name", "options", "counts"),
    [
        ("null_words.csv", {}, (3, 7, 9, 5)),
        ("duplicates.csv", {}, (3, 9, 36, 24)),
        ("ids_uuid16.parquet", {}, (3, 9, 18, 12)),
        ("hive", {"columns": f"{COLUMNS},context=dt"}, (3, 9, 18, 12)),
        ("euro.csv", {"columns": LENGTHS, "label": "ratio:0.5", "decimal": ",", **SECONDS}, (3, 9, 18, 12)),
        (
            "known_ebnerd_behaviors.parquet",
            {"columns": "user=user_id,item=article_ids_inview,time=impression_time,watched=article_ids_clicked"},
            (2, 6, 7, 3),
        ),
        (
            "vk_lsvd",
            {
                "columns": "user=user,item=item,play=timespent,dislike=dislike,order=#row",
                "label": "seconds:5",
                **SECONDS,
            },
            None,
        ),
        ("mind_behaviors.tsv", {}, (2, 15, 24, 8)),
        ("positives_only.csv", {"columns": "user=user,item=item,time=timestamp", "label": "all"}, (3, 8, 12, 12)),
    ],
)
def test_another_log_has_the_counts_that_it_should(tmp_path, name, options, counts):
    info = prepared(name, tmp_path, **options)
    if counts is not None:
        assert (info.num_users, info.num_items, info.num_events, info.num_watched) == counts
    expected = {"null_words.csv": {"item is missing": 9}}
    assert info.dropped == expected.get(name, {})
    assert info.equal_rows == (18 if name == "duplicates.csv" else 0)
    assert info.contexts == ({"dt": ["2022-04-01", "2022-04-02"]} if "dt" in str(options) else {})


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("ids_float64.parquet", {}, "item has the type Float64, which cannot hold these ids"),
        ("time_float32.parquet", {}, "time has the type Float32, which cannot hold these times"),
        ("time_ns.csv", {}, "row 2: time='1650086400000000000' is too large .*; pass --time_unit=ns$"),
        (
            "euro.csv",
            {"columns": LENGTHS, "label": "ratio:0.5"},
            "row 2: play='10,000' has a comma .*; pass --decimal=,",
        ),
        ("watched_struct.parquet", {}, r"watched has the type Struct.*; write yes or no as integers"),
        (
            "watch_ratio.csv",
            {"columns": "user=user,item=item,time=time,watched=watch_ratio"},
            "watch_ratio='1.7' is not 0 or 1 .*; label by a threshold, such as --label=at_least:1",
        ),
        ("vk_lsvd", {"columns": "user=user,item=item,play=timespent"}, "map time=NAME, or .* or order=#row"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_remedy_that_works(tmp_path, name, options, told):
    with pytest.raises(ValueError, match=told) as error:
        prepared(name, tmp_path, **options)
    assert "\n" not in str(error.value) and str(error.value).isprintable()
    assert not list(tmp_path.iterdir())
