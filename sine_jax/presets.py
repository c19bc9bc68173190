"""Named configurations to start from."""

from __future__ import annotations

from sine_jax.config import Config, DataConfig, ModelConfig, ObjectiveConfig, TrainConfig


def default() -> Config:
    """A small network beside item biases, which are counted, and the signed kernel, which reads skips.

    The sizes and weights were chosen by validation GAUC on two logs: KuaiRand-Pure, and a synthetic one in which the
    effect of skips lasts.
    """
    return Config(
        model=ModelConfig(
            dim=16,
            num_blocks=1,
            read_skips=True,
            item_bias=True,
            item_bias_init="counted",
            user_bias=True,
            kernel_dim=16,
            context=True,
        ),
        objective=ObjectiveConfig(sampled=0.1, num_skips=8, dcor=0.1, l2=0.03),
    )


def official(*, adaptive: bool = True, filter_strength: float | None = None) -> Config:
    """The model as its authors released it, with the settings of their documented command.

    Args:
      adaptive: use the adaptive fusion layer. Without it, scores are summed over sub-interests and the passive term
        compares by the best sub-interest.
      filter_strength: phi, the factor on attention within the active sub-interest; None for no filter.
    """
    return Config(
        model=ModelConfig(
            max_len=200,
            dim=50,
            num_interests=2,
            mask_padding=False,
            positions="column",
            fusion="collapsed" if adaptive else "sum",
            active="none" if filter_strength is None else "filter",
            filter_strength=1.0 if filter_strength is None else filter_strength,
            bias_init="uniform",
        ),
        objective=ObjectiveConfig(
            sampled=1.0,
            active=0.0,
            l2_form="norm",
            passive_form="score" if adaptive else "best_interest",
            num_skips=1,
            resample_negatives=False,
            exclude_seen=False,
        ),
        train=TrainConfig(patience=20),
        data=DataConfig(window_margin=2),
    )


PRESETS = {"default": default, "official": official}  # what `--preset` offers
