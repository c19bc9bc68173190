"""What a configuration refuses, and how two of them are compared."""

import pytest

from sine_jax import config as configs


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.num_interests", 1),
        ("model.num_heads", 3),
        ("model.num_heads", 0),
        ("model.dim", 0),
        ("model.num_blocks", 0),
        ("model.dropout", 1.0),
        ("model.dropout", -0.1),
        ("model.fusion", "collapsing"),
        ("objective.passive", "often"),
        ("objective.passive", "linear:0:1"),
        ("objective.passive", "linear:0:1:0"),
        ("objective.passive", "step:0:1:5"),
        ("objective.passive", "linear:a:1:5"),
        ("objective.sampled", float("nan")),
        ("objective.dcor", -1.0),
        ("objective.num_skips", 0),
        ("objective.passive_form", "best_interest"),
        ("optimizer.learning_rate", -1.0),
        ("optimizer.warmup_steps", -5),
        ("optimizer.weight_decay", 0.1),
        ("optimizer.b1", 2.0),
        ("optimizer.accumulate", 0),
        ("train.patience", -3),
        ("train.batch_size", 0),
        ("data.window_margin", -4),
        ("data.window_margin", 60),
        ("data.split", "by_time"),
    ],
)
def test_what_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name.split(".")[1]):
        configs.replace(configs.Config(), {name: value})


def test_fields_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"no such option: model\.depth"):
        configs.replace(configs.Config(), {"model.depth": 2})


def test_differences_show_both_values():
    changed = configs.replace(configs.Config(), {"model.dim": 32, "train.seed": 1})
    assert configs.differences(configs.Config(), changed) == {"model.dim": (64, 32), "train.seed": (42, 1)}


def test_weights_are_numbers_or_schedules():
    assert configs.parse_weight("0.25") == ("constant", 0.25, 0.25, 1)
    assert configs.parse_weight("cosine:1:0:500") == ("cosine", 1.0, 0.0, 500)
