import dataclasses
import re
import subprocess
import sys

import pytest
from absl import flags

from launch import config_flags
from sine_jax import config as configs
from sine_jax import presets


def parsed(*arguments):
    own = flags.FlagValues()  # another test of this process may have loaded a launch, whose flags are required
    for name in ("preset", *configs.options()):
        own[name] = flags.FLAGS[name]
        own[name].unparse()
    own(["test", *arguments])
    flags.FLAGS.mark_as_parsed()
    return config_flags.config()


def _default(name):
    """The value of an option in the preset that a launch starts from."""
    section, option = name.split(".")
    return getattr(getattr(presets.default(), section), option)


def test_every_option_has_a_flag_with_its_help_and_choices():
    sections = [getattr(configs.Config(), f.name) for f in dataclasses.fields(configs.Config)]
    options = configs.options()
    assert len(options) == sum(len(dataclasses.fields(section)) for section in sections)
    for name, field in options.items():
        flag = flags.FLAGS[name]
        assert flag.help.endswith(f"{field.metadata['help']} (default: {_default(name)})")
        assert tuple(getattr(flag.parser, "enum_values", ())) == field.metadata["choices"]


def test_help_shows_every_flag_once_in_its_section_with_its_default():
    done = subprocess.run([sys.executable, "-m", "launch.train", "--help"], capture_output=True, text=True, check=False)
    own, *sections = re.split(r"\n(\w+):\n", done.stdout.partition("\nflags:\n")[2])
    assert {"--data:", "--workdir:", "--preset:"} <= set(own.split())
    assert sections[::2] == [field.name for field in dataclasses.fields(configs.Config)]
    options = configs.options()
    found = {}
    for section, text in zip(sections[::2], sections[1::2], strict=True):
        flat = " ".join(text.split())
        for entry in re.split(r" ?--(?:\[no\])?(?=[a-z]+\.\w+: )", flat)[1:]:
            name, _, told = entry.partition(": ")
            assert name.startswith(f"{section}.") and name not in found
            found[name] = told
    assert found.keys() == options.keys()
    for name, field in options.items():
        told = f"{field.metadata['help']} (default: {_default(name)})"
        assert "".join(told.split()) in "".join(found[name].split())  # a line may break after a hyphen


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
