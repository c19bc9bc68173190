"""A prepared synthetic log keeps the law that it was drawn from."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from sine_jax.data import datasets, law, preparation, sources, synthetic
from sine_jax.types import WATCHED


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    settings = synthetic.Settings(
        num_users=1500, num_items=60, num_exposures=15, num_interests=4, skip_effect=0.8, skip_decay=0.9
    )
    out = tmp_path_factory.mktemp("law") / "data"
    preparation.prepare(sources.generated(settings), out, min_positives=0)  # a filter would choose users by feedback
    return str(out)


def test_exposures_are_watched_as_often_as_they_should_be(folder):
    log, found = datasets.load(folder).log, law.load(folder)
    chances = law.chances(found, log)
    for low in np.arange(0.05, 0.85, 0.1):
        where = (chances >= low) & (chances < low + 0.1)
        spread = np.sqrt(chances[where].mean() * (1 - chances[where].mean()) / where.sum())
        assert (log.feedback[where] == WATCHED).mean() == pytest.approx(chances[where].mean(), abs=4 * spread)


def test_it_is_in_the_order_of_the_vocabulary(folder):
    found, items, users = law.load(folder), datasets.item_ids(folder), datasets.user_ids(folder)
    drawn = synthetic.catalogue(found.settings)
    places = items[1:].cast(pl.Int64).to_numpy() - 1
    np.testing.assert_array_equal(found.interest[1:], drawn.interests[places])
    np.testing.assert_array_equal(found.appeal[1:], drawn.appeals[places])
    _, tastes = synthetic.truth(found.settings)
    np.testing.assert_array_equal(found.tastes, tastes["taste"].to_numpy()[users.cast(pl.Int64).to_numpy()])
    groups = np.arange(4)
    np.testing.assert_allclose([found.share_of_interest[found.interest == g].sum() for g in groups], 1, atol=1e-12)
    assert found.share_of_all.sum() == pytest.approx(1)


def test_skips_fade_and_add_up(folder):
    log, found = datasets.load(folder).log, law.load(folder)
    owners, ends = np.array([3, 7, 7]), log.offsets[[4, 8, 7]] - np.array([0, 2, 0])
    faded = law.faded_skips(found, log, owners, ends)
    for row, (owner, end) in enumerate(zip(owners, ends, strict=True)):
        expected = np.zeros(4)
        for at in range(log.offsets[owner], end):
            if log.feedback[at] != WATCHED:
                expected[found.interest[log.items[at]]] += 0.9 ** (end - 1 - at)
        np.testing.assert_allclose(faded[row], expected, rtol=1e-5)


def test_other_logs_have_none(tmp_path):
    preparation.prepare(sources.sample(), tmp_path / "data", min_positives=30)
    assert law.load(tmp_path / "data") is None


def test_a_description_without_the_field_still_loads(folder):
    values = dataclasses.asdict(datasets.read_info(folder))
    del values["law"]
    assert datasets.DataInfo.from_json(json.dumps(values)).law is None


def test_a_law_of_another_version_is_told(folder, monkeypatch):
    info = datasets.read_info(folder)
    other = dataclasses.replace(info, law={**info.law, "skip_colour": 1})
    monkeypatch.setattr(datasets, "read_info", lambda path: other)
    with pytest.raises(
        ValueError, match=r"info\.json: the law is of another version .*skip_colour.*; prepare it again"
    ):
        law.load(folder)
