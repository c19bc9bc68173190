import dataclasses

import pytest
from absl import flags

from launch import config_flags
from sine_jax import config as configs
from sine_jax import presets


def parsed(*arguments):
    own = flags.FlagValues()  # another test of this process may have loaded a launch, whose flags are required
    for name in ("preset", *config_flags.options()):
        own[name] = flags.FLAGS[name]
        own[name].unparse()
    own(["test", *arguments])
    flags.FLAGS.mark_as_parsed()
    return config_flags.config()


def test_every_option_has_a_flag_with_its_help_and_choices():
    sections = [getattr(configs.Config(), f.name) for f in dataclasses.fields(configs.Config)]
    options = config_flags.options()
    assert len(options) == sum(len(dataclasses.fields(section)) for section in sections)
    for name, field in options.items():
        flag = flags.FLAGS[name]
        assert field.metadata["help"].split()[0] in flag.help
        assert tuple(getattr(flag.parser, "enum_values", ())) == field.metadata["choices"]


@pytest.mark.parametrize("preset", sorted(presets.PRESETS))
def test_without_flags_the_preset_stands(preset):
    assert parsed(f"--preset={preset}") == presets.PRESETS[preset]()


def test_only_what_is_given_overrides_and_types_are_kept():
    config = parsed("--preset=official", "--model.max_len=60", "--objective.passive=linear:0:1:9", "--objective.dcor=2")
    changes = {"model.max_len": 60, "objective.passive": "linear:0:1:9", "objective.dcor": 2.0}
    assert config == configs.replace(presets.official(), changes)
    assert parsed("--nomodel.mask_padding").model.mask_padding is False


def test_values_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="num_interests"):
        parsed("--model.num_interests=1")
    with pytest.raises(flags.IllegalFlagValueError):
        parsed("--model.fusion=nonsense")
