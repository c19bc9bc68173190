import pytest

from sine_jax import config as configs
from sine_jax import network, presets
from sine_jax.experiments import suites, tables
from sine_jax.experiments.suites import SUITES


@pytest.mark.parametrize("suite", SUITES)
def test_rows_have_names_folders_and_networks_of_their_own(suite):
    methods = SUITES[suite]({"model.max_len": 20, "train.epochs": 3})
    names = [method.name for method in methods]
    assert len({tables.slug(name) for name in names}) == len(names)
    for method in methods:
        found = network.find(method.config.model.name)
        assert method.config.model.read_skips or not found.reads_skips
        assert method.config.train.epochs == 3


def test_the_main_table_has_every_network_with_skips_and_those_that_can_without():
    methods = suites.main({})
    names = set(network.names())
    assert {m.config.model.name for m in methods if m.config.model.read_skips} == names
    without = {m.config.model.name for m in methods if m.name.endswith("skips not read")}
    assert without == {name for name in names if not network.find(name).reads_skips}


def test_each_ablation_differs_from_its_preset_in_what_its_name_says_alone():
    rows = {method.name: method.config for method in suites.ablation({})}
    for name, config in rows.items():
        base = presets.official() if name.startswith("official") else presets.default()
        changed = {option.split(".")[1] for option in configs.differences(base, config)}
        assert changed == set(_EXPECTED.get(name, ()))


def test_what_a_row_is_about_is_not_searched():
    rows = {method.name: method.fixed for method in suites.ablation({}) + suites.interests({})}
    assert rows["nearest skip alone"] == {"objective.num_skips"}
    assert rows["official, sampled 0.3"] == {"objective.sampled"}
    assert rows["T = 30"] == {"model.max_len"}
    assert not rows["default"]


_NOT_READ, _AT_ZERO = ["read_skips", "user_bias"], ["item_bias_init", "user_bias"]
_EXPECTED = {
    "without sub-interests (SASRec)": ["name"],
    "without the signed kernel": ["kernel_dim"],
    "skips not read": _NOT_READ,
    "without the signed kernel, skips not read": ["kernel_dim", *_NOT_READ],
    "biases start at zero": _AT_ZERO,
    "without biases": ["item_bias", *_AT_ZERO],
    "without the passive objective": ["passive"],
    "without the sampled objective": ["sampled"],
    "sampled objective at 0.3": ["sampled"],
    "nearest skip alone": ["num_skips"],
    "skips ahead": ["skips"],
    "states after skips supervised": ["after_skips"],
    "without the penalty on embeddings": ["l2"],
    "without active-interest supervision": ["active"],
    "without the active sub-interest": ["active"],
    "without distance correlation": ["dcor"],
    "without fusion (sum)": ["fusion"],
    "with candidate-aware fusion": ["fusion"],
    "64 wide, two blocks": ["dim", "num_blocks"],
    "official, padding masked": ["mask_padding"],
    "official, positions from the start": ["positions"],
    "official, negatives drawn anew": ["resample_negatives"],
    "official, no seen negatives": ["exclude_seen"],
    "official, active learned": ["active"],
    "official, three skips": ["num_skips"],
    "official, sampled 0.3": ["sampled"],
}
