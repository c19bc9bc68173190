"""What a configuration refuses, and how two of them are compared."""

import dataclasses
import json
import math

import pytest

from sine_jax import config as configs
from sine_jax import presets

NAN, INF = float("nan"), float("inf")
OPTIONS = configs.options()
WRONG = {
    "bool": [-1, 0, 1, NAN, "yes", None],
    "int": [-1, NAN, INF, 1.5, True, "many", None, 2**63, 10**400],
    "float": [-1, -1.0, NAN, INF, -INF, True, "much", None, 1e308, 10**400],
    "str": [-1, 0, NAN, True, None],
    "float | str": [-1, -0.5, NAN, INF, True, None, [1], 1e308, 10**400, "often", "linear:0:1", "linear:0:1:0"]
    + ["linear:0:1:0.5", "linear:a:1:5", "linear:-1:1:5", "linear:0:nan:5", "linear:0:inf:5", "step:0:1:5", "nan"],
}  # by the annotation of an option: what none of that kind may be
ZERO_WORKS = {
    "model.dropout",
    "model.filter_strength",
    "model.kernel_dim",
    "objective.gbce_t",
    "optimizer.b1",
    "optimizer.b2",
    "optimizer.clip_norm",
    "optimizer.warmup_steps",
    "optimizer.weight_decay",
    "train.patience",
    "train.seed",
    "data.train_until",
    "data.valid_until",
    "data.window_margin",
}
ZERO_IS_REFUSED = {n for n, field in OPTIONS.items() if field.type in ("int", "float")} - ZERO_WORKS
BEYOND = {
    "model.max_len": 1,
    "model.num_interests": 1,
    "model.dropout": 1.0,
    "objective.gbce_t": 1.5,
    "optimizer.b1": 1.0,
    "optimizer.b2": 2.0,
    "train.seed": 2**32,
}  # the first numbers outside of other ranges
BAD = [
    *((name, value) for name, field in OPTIONS.items() for value in WRONG[field.type]),
    *((name, 0) for name in sorted(ZERO_IS_REFUSED)),
    *((name, "nonsense") for name, field in OPTIONS.items() if field.metadata["choices"]),
    *BEYOND.items(),
]
TOGETHER = [  # options that are fine one by one, and what the message has of them
    ({"model.num_heads": 3, "model.dim": 64}, ["model.num_heads=3", "model.dim=64"]),
    ({"model.attention": "fused"}, ["model.attention=fused", "model.dtype=float32"]),
    (
        {"model.attention": "fused", "model.dtype": "bfloat16", "model.mask_padding": False},
        ["model.attention=fused", "model.mask_padding=False"],
    ),
    ({"model.item_bias_init": "counted"}, ["model.item_bias_init=counted", "model.item_bias=False"]),
    ({"model.user_bias": True}, ["model.user_bias=True", "model.read_skips=False"]),
    ({"objective.after_skips": True}, ["objective.after_skips=True", "model.read_skips=False"]),
    (
        {"objective.sampled_form": "softmax", "objective.negatives": "skips"},
        ["objective.sampled_form=softmax", "objective.negatives=skips"],
    ),
    ({"optimizer.weight_decay": 0.01}, ["optimizer.weight_decay=0.01", "optimizer.name=adam"]),
    (
        {"optimizer.embedding": "rows", "optimizer.accumulate": 2},
        ["optimizer.embedding=rows", "optimizer.accumulate=2"],
    ),
    ({"data.split_by": "by_time"}, ["data.train_until=0", "data.split_by=by_time"]),
    (
        {"data.split_by": "by_time", "data.train_until": 7, "data.valid_until": 7},
        ["data.valid_until=7", "data.train_until=7", "data.split_by=by_time"],
    ),
    ({"data.window_margin": 60}, ["model.max_len=60", "data.window_margin=60"]),
    ({"objective.passive_form": "best_interest"}, ["objective.passive_form=best_interest", "model.fusion=collapsed"]),
    (
        {"optimizer.embedding": "rows", "objective.sampled_form": "full_softmax"},
        ["optimizer.embedding=rows", "objective.sampled_form=full_softmax"],
    ),
    (
        {"optimizer.embedding": "rows", "objective.l2": "linear:0:1:9"},
        ["optimizer.embedding=rows", "objective.l2=linear:0:1:9"],
    ),
]


def refused(overrides):
    """The message with which these options over the default are refused: one line, no question."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 (what it says is what the tests are about)
        configs.replace(configs.Config(), overrides)
    message = str(error.value)
    assert "\n" not in message and "?" not in message and "want" not in message
    return message


@pytest.mark.parametrize("name", OPTIONS)
def test_a_bad_value_of_any_option_is_refused_with_option_and_value(name):
    values = [value for option, value in BAD if option == name]
    assert values
    for value in values:
        message = refused({name: value})
        assert message.startswith((f"{name}={value}: ", f"{name}={value!r}: "))


@pytest.mark.parametrize("name", sorted(ZERO_WORKS))
def test_zero_is_taken_where_it_means_something(name):
    section, field = name.split(".")
    assert getattr(getattr(configs.replace(configs.Config(), {name: 0}), section), field) == 0


@pytest.mark.parametrize(("options", "shown"), TOGETHER)
def test_options_that_do_not_go_together_are_refused_each_with_its_value(options, shown):
    message = refused(options)
    assert all(text in message for text in shown)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.num_interests": 1}, "model.num_interests=1: must be at least 2"),
        ({"model.num_blocks": 0}, "model.num_blocks=0: must be at least 1"),
        ({"model.dim": "64"}, "model.dim='64': must be a whole number"),
        (
            {"optimizer.weight_decay": 0.01},
            "optimizer.weight_decay=0.01 has no effect with optimizer.name=adam; use adamw, or 0",
        ),
        (
            {"objective.passive": "often"},
            "objective.passive=often: not a weight; give a number from 0, linear:FROM:TO:STEPS or cosine:FROM:TO:STEPS",
        ),
        ({"model.dmi": 3}, "model.dmi=3: no such option; the nearest is model.dim"),
        ({"dim": 3}, "dim=3: no such option; the nearest is model.dim"),
        ({"model.weight_decay": 3}, "model.weight_decay=3: no such option; the nearest is optimizer.weight_decay"),
        (
            {"elsewhere.qqq": 3},
            "elsewhere.qqq=3: no such option; the sections are model, objective, optimizer, train, data",
        ),
        ({"data.split": "by_time"}, "data.split=by_time: no such option; the nearest is data.split_by"),
    ],
)
def test_what_a_refusal_says(overrides, message):
    assert refused(overrides) == message


def test_an_unknown_option_far_from_all_others_is_told_what_its_section_has():
    message = refused({"data.qqqqq": 1})
    assert message.startswith("data.qqqqq=1: no such option; data has split_by, ")


def test_a_section_alone_refuses_its_own_and_a_configuration_what_is_no_section():
    with pytest.raises(ValueError, match="model.dim=0: must be at least 1"):
        configs.ModelConfig(dim=0)
    with pytest.raises(ValueError, match="model.max_len=4: too short for data.window_margin=4"):
        configs.Config(model=configs.ModelConfig(max_len=4), data=configs.DataConfig(window_margin=4))
    with pytest.raises(ValueError, match="model=.*: must be of type ModelConfig"):
        configs.Config(model=configs.DataConfig())
    with pytest.raises(ValueError, match="model=3: must be a section"):
        configs.from_dict({"model": 3})


def test_options_of_several_sections_are_checked_only_together():
    """Each of these alone would be refused, in whatever order they come."""
    wide = {"model.max_len": 200, "data.window_margin": 100}
    sums = {"objective.passive_form": "best_interest", "model.fusion": "sum"}
    for overrides in (wide, sums, wide | sums):
        forth = configs.replace(configs.Config(), overrides)
        assert forth == configs.replace(configs.Config(), dict(reversed(overrides.items())))
        back = {name: OPTIONS[name].default for name in overrides}
        assert configs.replace(forth, back) == configs.Config()


def test_names_of_older_checkpoints_are_read():
    config = configs.replace(
        configs.Config(), {"data.split_by": "by_time", "data.train_until": 5, "data.valid_until": 9, "model.dim": 32}
    )
    old = dataclasses.asdict(config)
    old["data"] = {"split" if name == "split_by" else name: value for name, value in old["data"].items()}
    assert configs.from_dict(old) == configs.from_json(json.dumps(old)) == config
    assert configs.renamed(old) == dataclasses.asdict(config)


def test_what_was_written_before_an_option_was_there_has_its_default():
    old = dataclasses.asdict(configs.Config())
    del old["model"]["attention"]
    assert configs.from_dict(old) == configs.from_json(json.dumps(old)) == configs.Config()


@pytest.mark.parametrize("preset", presets.PRESETS.values())
def test_what_is_written_is_read_again(preset):
    assert configs.from_json(configs.to_json(preset())) == preset()


def test_every_term_has_a_weight_and_every_weight_a_term():
    weights = {f.name for f in dataclasses.fields(configs.ObjectiveConfig) if f.type == "float | str"}
    assert weights == {*configs.TERMS, "auxiliary"}
    assert "auxiliary" not in configs.TERMS


def test_differences_show_both_values():
    changed = configs.replace(configs.Config(), {"model.dim": 32, "train.seed": 1})
    assert configs.differences(configs.Config(), changed) == {"model.dim": (64, 32), "train.seed": (42, 1)}


def test_weights_are_numbers_or_schedules():
    assert configs.parse_weight("0.25") == ("constant", 0.25, 0.25, 1)
    assert configs.parse_weight("cosine:1:0:500") == ("cosine", 1.0, 0.0, 500)


NUMERIC = [
    f"{section.name}.{field.name}"
    for section in dataclasses.fields(configs.Config)
    for field in dataclasses.fields(section.default_factory)
    if field.type in ("int", "float", "int | float", "float | str")
]


@pytest.mark.parametrize("option", NUMERIC)
@pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf, 1e9, 10**9, "word"])
def test_a_number_is_refused_with_option_and_value_or_it_is_one_that_works(option, value):
    section, name = option.split(".")
    try:
        found = getattr(getattr(configs.replace(presets.default(), {option: value}), section), name)
    except ValueError as error:
        assert f"{name}={value}" in str(error) or f"{name}={value!r}" in str(error)
        assert "\n" not in str(error)
    else:
        assert found == value and found != "word" and math.isfinite(float(found)) and float(found) >= 0
