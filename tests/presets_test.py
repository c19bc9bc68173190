"""What the presets promise, field by field."""

from sine_jax import config as configs
from sine_jax import presets


def test_official_has_the_released_settings():
    """The documented command of the released code, and the choices that it does not name."""
    config = presets.official()
    expected = {
        "model.max_len": 200,
        "model.dim": 50,
        "model.num_blocks": 2,
        "model.num_heads": 1,
        "model.num_interests": 2,
        "model.dropout": 0.5,
        "model.mask_padding": False,
        "model.positions": "column",
        "model.fusion": "collapsed",
        "model.active": "none",
        "model.read_skips": False,
        "model.bias_init": "uniform",
        "model.norm_eps": 1e-8,
        "objective.sampled": 1.0,
        "objective.passive": 1.0,
        "objective.dcor": 1.0,
        "objective.l2": 0.0,
        "objective.l2_form": "norm",
        "objective.active": 0.0,
        "objective.weighting": "fixed",
        "objective.passive_form": "score",
        "objective.num_negatives": 1,
        "objective.num_skips": 1,
        "objective.resample_negatives": False,
        "objective.exclude_seen": False,
        "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-3,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.98,
        "optimizer.eps": 1e-8,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        "optimizer.clip_norm": 0.0,
        "train.batch_size": 128,
        "train.epochs": 100,
        "train.patience": 20,
        "train.seed": 42,
        "data.split_by": "last_positive",
        "data.candidates": "released",
        "data.window_margin": 2,
    }
    assert configs.replace(config, expected) == config


def test_without_the_fusion_layer_the_best_interest_parts_the_pair():
    config = presets.official(adaptive=False, filter_strength=0.5)
    assert (config.model.fusion, config.objective.passive_form) == ("sum", "best_interest")
    assert (config.model.active, config.model.filter_strength) == ("filter", 0.5)


def test_presets_are_valid_and_survive_json():
    for preset in presets.PRESETS.values():
        assert configs.from_json(configs.to_json(preset())) == preset()
