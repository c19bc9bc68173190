"""The named tables of experiments: which methods, and how each differs from one common configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sine_jax import config as configs
from sine_jax import presets
from sine_jax.config import Config

Options = Mapping[str, Any]


class Method(NamedTuple):
    """A line of a table."""

    name: str
    config: Config
    fixed: frozenset[str] = frozenset()  # options that define the row; a search does not change them


SEARCH: dict[str, tuple[Any, ...]] = {  # what a trial of the random search draws from, the same for every method
    "optimizer.learning_rate": (3e-4, 1e-3, 3e-3),
    "model.dim": (16, 32, 64),
    "model.dropout": (0.2, 0.5),
    "model.num_blocks": (1, 2),
    "objective.sampled": (0.1, 0.3, 1.0),
    "objective.num_skips": (1, 3, 8),
}

_POSITIVES = ("sasrec", "gru4rec", "caser", "din", "comirec", "sparse_interest", "sasrec_c")
_READING_SKIPS = ("dfn", "feedrec", "dfar", "pnfrec", "hstu")  # they cannot do without
_WITHOUT_SKIPS = {"model.read_skips": False, "model.user_bias": False}  # as input; they still supervise
_BIASES_AT_ZERO = {"model.item_bias_init": "zeros", "model.user_bias": False}
_GSASREC = {"objective.sampled_form": "gbce", "objective.num_negatives": 32, "objective.sampled": 1.0}


def main(common: Options) -> list[Method]:
    """SINE as released, and every network at the default options, with skips as input and without."""
    rows: list[tuple[str, Config, Options]] = [("SINE official", presets.official(), {})]
    for name in ("sine", *_POSITIVES, *_READING_SKIPS):
        rows.append((name, presets.default(), {"model.name": name}))
        if name not in _READING_SKIPS:
            rows.append((f"{name}, skips not read", presets.default(), {"model.name": name, **_WITHOUT_SKIPS}))
    rows.append(("gsasrec", presets.default(), {"model.name": "sasrec", **_GSASREC}))
    return _methods(rows, common)


def ablation(common: Options) -> list[Method]:
    """The default without each of its parts, and the released model with each correction alone."""
    default, official = presets.default(), presets.official()
    from_default: dict[str, Options] = {
        "default": {},
        "without sub-interests (SASRec)": {"model.name": "sasrec"},
        "without the signed kernel": {"model.kernel_dim": 0},
        "skips not read": _WITHOUT_SKIPS,
        "without the signed kernel, skips not read": {"model.kernel_dim": 0, **_WITHOUT_SKIPS},
        "biases start at zero": _BIASES_AT_ZERO,
        "without biases": {"model.item_bias": False, **_BIASES_AT_ZERO},
        "without the passive objective": {"objective.passive": 0.0},
        "without the sampled objective": {"objective.sampled": 0.0},
        "sampled objective at 0.3": {"objective.sampled": 0.3},
        "nearest skip alone": {"objective.num_skips": 1},
        "skips ahead": {"objective.skips": "ahead"},
        "states after skips supervised": {"objective.after_skips": True},
        "without the penalty on embeddings": {"objective.l2": 0.0},
        "without active-interest supervision": {"objective.active": 0.0},
        "without the active sub-interest": {"model.active": "none", "objective.active": 0.0},
        "without distance correlation": {"objective.dcor": 0.0},
        "without fusion (sum)": {"model.fusion": "sum"},
        "with candidate-aware fusion": {"model.fusion": "candidate_aware"},
        "64 wide, two blocks": {"model.dim": 64, "model.num_blocks": 2},
    }
    from_official: dict[str, Options] = {
        "official": {},
        "official, padding masked": {"model.mask_padding": True},
        "official, positions from the start": {"model.positions": "start"},
        "official, negatives drawn anew": {"objective.resample_negatives": True},
        "official, no seen negatives": {"objective.exclude_seen": True},
        "official, active learned": {"model.active": "learned", "objective.active": 0.1},
        "official, three skips": {"objective.num_skips": 3},
        "official, sampled 0.3": {"objective.sampled": 0.3},
    }
    rows = [(name, default, options) for name, options in from_default.items()]
    return _methods(rows + [(name, official, options) for name, options in from_official.items()], common)


def skips(common: Options) -> list[Method]:
    """What skips are worth: the default and a plain sequence model, with skips as input and without."""
    default, sasrec = presets.default(), {"model.name": "sasrec"}
    rows: list[tuple[str, Config, Options]] = [
        ("SINE official", presets.official(), {}),
        ("default", default, {}),
        ("default, skips not read", default, _WITHOUT_SKIPS),
        ("default, without the signed kernel", default, {"model.kernel_dim": 0}),
        ("sasrec", default, sasrec),
        ("sasrec, skips not read", default, sasrec | _WITHOUT_SKIPS),
        (
            "sasrec, skips not read, without the signed kernel",
            default,
            sasrec | _WITHOUT_SKIPS | {"model.kernel_dim": 0},
        ),
    ]
    return _methods(rows, common)


def interests(common: Options) -> list[Method]:
    """The number of sub-interests, and the length of the window."""
    default = presets.default()
    rows: list[tuple[str, Config, Options]] = [(f"K = {k}", default, {"model.num_interests": k}) for k in (2, 3, 4, 8)]
    # T comes after the common options, which may set it too.
    lengths = [
        Method(f"T = {t}", _with(default, {**common, "model.max_len": t}), frozenset({"model.max_len"}))
        for t in (10, 30, 60, 100)
    ]
    return _methods(rows, common) + lengths


SUITES: dict[str, Callable[[Options], list[Method]]] = {
    "main": main,
    "ablation": ablation,
    "interests": interests,
    "skips": skips,
}


def _methods(rows: list[tuple[str, Config, Options]], common: Options) -> list[Method]:
    return [Method(name, _with(base, {**common, **options}), frozenset(options)) for name, base, options in rows]


def _with(base: Config, options: Options) -> Config:
    return configs.replace(base, options)
