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


def test_the_main_table_has_every_network_with_the_passive_objective_and_without():
    methods = suites.main({})
    for with_passive in (True, False):
        found = {m.config.model.name for m in methods if (m.config.objective.passive > 0) == with_passive}
        assert found == set(network.names())


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


_EXPECTED = {
    "without sub-interests (SASRec)": ["name"],
    "without fusion (sum)": ["fusion"],
    "with candidate-aware fusion": ["fusion"],
    "without the passive objective": ["passive"],
    "without the sampled objective": ["sampled"],
    "without active-interest supervision": ["active"],
    "without the active sub-interest": ["active"],
    "without distance correlation": ["dcor"],
    "nearest skip alone": ["num_skips"],
    "skips ahead": ["skips", "num_skips"],
    "reading skips": ["read_skips"],
    "with item bias": ["item_bias"],
    "official, padding masked": ["mask_padding"],
    "official, positions from the start": ["positions"],
    "official, negatives drawn anew": ["resample_negatives"],
    "official, no seen negatives": ["exclude_seen"],
    "official, active learned": ["active"],
    "official, three skips": ["num_skips"],
    "official, sampled 0.3": ["sampled"],
}
