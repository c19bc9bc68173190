"""Users in groups: who is in which, and that the groups make up the whole."""

import numpy as np
import pytest
from logs import random_log

from sine_jax import config
from sine_jax.evaluation import protocols, ranking, report, segments

CONTEXTS = {"tab": ["a", "b"], "hour": ["7", "9", "11"]}


@pytest.fixture(scope="module")
def found():
    log = random_log(num_users=120)
    rng = np.random.default_rng(0)
    contexts = np.stack([rng.integers(0, 3, len(log.items)), rng.choice([0, 3, 4, 5], len(log.items))], axis=1)
    log = log._replace(contexts=contexts.astype(np.int16))
    evaluation = ranking.evaluate(log, config=config.Config(), num_items=50, part="test", protocol=protocols.EXPOSED)
    names = [*segments.NAMES, "context:tab", "context:hour"]
    return log, evaluation._replace(segments=segments.of_task(log, evaluation.task, names, contexts=CONTEXTS))


def test_groups_are_those_of_a_plain_loop(found):
    log, evaluation = found
    task = evaluation.task
    by_name = {segment.name: segment for segment in evaluation.segments}
    shown = np.bincount(log.items[log.before(task.split.train_end)], minlength=51)
    for row, user in enumerate(task.population.users):
        target = task.split.target[user]
        words = {name: segment.words[segment.groups[row]] for name, segment in by_name.items()}
        low, high = map(int, words["history"].split("-"))
        assert low <= task.split.history_end[user] - log.offsets[user] <= high
        assert words["new_item"] == ("known" if shown[log.items[target]] else "new")
        above = shown[shown > shown[log.items[target]]].sum() / shown.sum()
        if shown[log.items[target]]:
            ties = shown[shown == shown[log.items[target]]].sum() / shown.sum()
            thirds = {segments.THIRDS[min(int(3 * share), 2)] for share in (above, above + ties - 1e-9)}
            assert words["popularity"] in thirds | {"middle"}
        else:
            assert words["popularity"] == "new"
        tab, hour = log.contexts[target]
        assert words["context:tab"] == ["unknown", "a", "b"][tab]
        assert words["context:hour"] == ("unknown" if hour == 0 else CONTEXTS["hour"][hour - 3])


def test_groups_make_up_the_whole(found):
    _, evaluation = found
    summary = report.summarise(evaluation)
    for groups in summary["segments"].values():
        assert sum(group["users"] for group in groups.values()) == len(evaluation.task.population.users)
        assert all(group["users"] for group in groups.values())
        for scorer, values in summary["scorers"].items():
            total = sum(group["users"] * group["scorers"][scorer]["auc"] for group in groups.values())
            assert total / summary["users"] == pytest.approx(values["auc"]["mean"])


def test_a_table_shows_the_largest_groups(found, monkeypatch):
    _, evaluation = found
    monkeypatch.setattr(report, "GROUPS", 2)
    table = report.segment_table(report.summarise(evaluation), "history")
    assert len(table.columns) == 3 and table.caption == "the largest 2 of 4 groups"


@pytest.mark.parametrize(
    ("name", "protocol", "told"),
    [
        ("age", "exposed", "no such segment; choose from history, popularity, new_item, context:tab"),
        ("context:day", "exposed", "no such segment"),
        ("popularity", "by_prefix", "a user of by_prefix has several targets; choose history"),
    ],
)
def test_others_are_refused(name, protocol, told):
    with pytest.raises(ValueError, match=f"^segments={name}: {told}"):
        segments.check([name], protocol=protocol, contexts=["tab"])


def test_a_context_that_is_called_unknown_is_a_group_of_its_own():
    log = random_log(num_users=50)
    log = log._replace(contexts=(np.arange(len(log.items)) % 3).astype(np.int16)[:, None])
    task = ranking.lay_out(log, config=config.Config(), num_items=50, part="test", protocol=protocols.EXPOSED)
    (segment,) = segments.of_task(log, task, ["context:tab"], contexts={"tab": ["unknown", "home"]})
    assert segment.words == ["(unknown)", "unknown", "home"] and set(segment.groups) == {0, 1, 2}


def test_users_of_by_prefix_are_grouped_by_their_histories():
    log = random_log(num_users=120)
    chosen = config.replace(config.Config(), {"data.split_by": "by_share", "data.train_share": 0.5})
    task = ranking.lay_out(log, config=chosen, num_items=50, part="test", protocol=protocols.BY_PREFIX)
    (segment,) = segments.of_task(log, task, ["history"], contexts={})
    assert len(segment.groups) == len(task.population.users)
