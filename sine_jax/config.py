"""Every choice of the library and its default, once.

The launches derive their flags from these dataclasses (`--model.num_interests=4`), a workdir keeps them as JSON, and
every difference between the released model and the corrected one is one named option here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any


def _option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its help text and, for words, what may be chosen."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = _option(
        "sine", "The network: a file of sine_jax/networks/, or the dotted name of a module that defines one."
    )
    max_len: int = _option(60, "T, the most exposures that are read.")
    dim: int = _option(64, "D, width of embeddings and states.")
    num_blocks: int = _option(2, "Self-attention blocks.")
    num_heads: int = _option(1, "Attention heads; divides dim.")
    num_interests: int = _option(4, "K, sub-interests; at least 2.")
    dropout: float = _option(0.5, "Dropout rate wherever the paper has it.")
    mask_padding: bool = _option(True, "Keep attention off the padding (the released model does not).")
    positions: str = _option(
        "start", "Position 0 is the window's first column, or the user's first item in it.", ("column", "start")
    )
    fusion: str = _option(
        "collapsed",
        "How sub-interests become one score: summed, weighed by the state alone (one vector per user, for retrieval), "
        "or weighed by state and candidate (for ranking).",
        ("sum", "collapsed", "candidate_aware"),
    )
    active: str = _option(
        "learned",
        "The active sub-interest: not used, read off the target in training as released (`filter`; leaks), or "
        "predicted from the past and supervised by the (watched, skipped) pair.",
        ("none", "filter", "learned"),
    )
    filter_strength: float = _option(0.5, "Factor on attention to keys of the active sub-interest (active=filter).")
    read_skips: bool = _option(False, "Read skipped exposures too, marked by a polarity embedding.")
    read_times: bool = _option(False, "Read when each exposure was, too (hstu).")
    item_bias: bool = _option(False, "Add a learned number per item to the score.")
    item_bias_init: str = _option(
        "zeros",
        "First value of the item biases: zeros, or what parts watched from skipped within each user's training part.",
        ("zeros", "counted"),
    )
    user_bias: bool = _option(
        False,
        "Add the log-odds of the watched share of what was read to the score, times a learned weight that starts at 1 "
        "(model.read_skips).",
    )
    bias_init: str = _option(
        "zeros",
        "First value of the feed-forward biases; `uniform` is what the released model has.",
        ("zeros", "uniform"),
    )
    norm_eps: float = _option(1e-8, "Epsilon of every layer norm.")
    dtype: str = _option("float32", "Compute in this type; parameters stay float32.", ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The joint objective: a weight per term, and which pairs are made.

    A weight is a number, or a schedule over steps: `linear:0:1:500` or `cosine:1:0:500` (from, to, steps).
    """

    sampled: float | str = _option(0.3, "Weight of watched over sampled.")
    passive: float | str = _option(1.0, "Weight of watched over skipped.")
    pointwise: float | str = _option(
        0.0, "Weight of the logistic loss of watching, over the watched item and the skips paired with it."
    )
    auxiliary: float | str = _option(1.0, "Weight of each term that a network has of its own.")
    dcor: float | str = _option(1.0, "Weight of the distance correlation between sub-interests.")
    l2: float | str = _option(0.0, "Weight of the penalty on the item embeddings.")
    active: float | str = _option(0.1, "Weight of the active sub-interest's cross-entropy (model.active=learned).")
    weighting: str = _option(
        "fixed", "Weights as given, or learned by homoscedastic uncertainty on top of them.", ("fixed", "learned")
    )
    l2_form: str = _option("squared", "Frobenius norm of the item embeddings, or its square.", ("norm", "squared"))
    passive_form: str = _option(
        "score",
        "Watched and skipped items are compared by their fused scores, or by the sub-interest that parts them best.",
        ("score", "best_interest"),
    )
    active_target: str = _option(
        "hard", "The pair names one active sub-interest, or a distribution over them.", ("hard", "soft")
    )
    sampled_form: str = _option(
        "bpr",
        "Watched over sampled by pairs (bpr); among all M sampled by a softmax, corrected for how likely each was "
        "drawn (softmax); by gBCE, which undoes the overconfidence of few negatives (gbce; with model.name=sasrec this "
        "is gSASRec); or by a softmax over the whole catalogue (full_softmax).",
        ("bpr", "softmax", "gbce", "full_softmax"),
    )
    gbce_t: float = _option(0.75, "Calibration of gBCE: 0 is plain cross-entropy, 1 undoes all overconfidence.")
    negatives: str = _option(
        "uniform",
        "Sampled negatives: uniform over the catalogue, by how often items are watched, targets of other positions "
        "of the same width's batch on the same device, or the skips that the positive is paired with.",
        ("uniform", "popularity", "in_batch", "skips"),
    )
    num_negatives: int = _option(1, "M, sampled negatives of a position.")
    skips: str = _option(
        "before",
        "Which skips a positive is paired with: those right before it, back to the positive before; or the next ones "
        "after that one, before the target or after it, as candidates are in the `exposed` protocol.",
        ("before", "ahead"),
    )
    num_skips: int = _option(3, "S, how many skips a positive is paired with, nearest first.")
    resample_negatives: bool = _option(True, "Draw negatives anew each epoch (the released code draws once).")
    exclude_seen: bool = _option(
        True, "Never draw an item that the user saw in the training part (the released check never fires)."
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, by Optax."""

    name: str = _option("adam", "Which optimiser.", ("adam", "adamw", "adagrad"))
    embedding: str = _option(
        "dense",
        "Item tables are updated whole, or only the rows of the batch (lazily: for large catalogues).",
        ("dense", "rows"),
    )
    learning_rate: float = _option(1e-3, "Peak learning rate.")
    b1: float = _option(0.9, "Decay of Adam's first moment.")
    b2: float = _option(0.98, "Decay of Adam's second moment.")
    eps: float = _option(1e-8, "Epsilon of the denominator.")
    weight_decay: float = _option(0.0, "Decoupled decay (adamw), never on embeddings, norms and biases.")
    schedule: str = _option("constant", "Learning rate after the warm-up.", ("constant", "cosine"))
    warmup_steps: int = _option(0, "Steps of linear warm-up from 0.")
    clip_norm: float = _option(0.0, "Clip gradients to this global norm; 0 does not clip.")
    accumulate: int = _option(1, "Batches whose gradients are averaged into one update.")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The run."""

    batch_size: int = _option(128, "Users in a batch, over all devices; their mean where users share rows.")
    epochs: int = _option(100, "The most passes over the users.")
    patience: int = _option(10, "Evaluations without a gain after which training stops; 0 never stops.")
    metric: str = _option(
        "gauc",
        "Validation metric that early stopping and the best checkpoint go by.",
        ("auc", "user_auc", "gauc", "ndcg", "mrr"),
    )
    eval_every: int = _option(1, "Epochs between validations.")
    checkpoint_every: int = _option(1, "Epochs between checkpoints of the latest state.")
    seed: int = _option(42, "Seed of parameters, batches, negatives and dropout.")
    pipeline: str = _option(
        "auto", "Log on the device, or streamed from the host; auto decides by size.", ("auto", "resident", "streamed")
    )
    generator: str = _option(
        "hash",
        "What draws dropout masks: a hashed counter (cheap, the same on any device), JAX's own threefry, or the "
        "device's own (rbg: for accelerators).",
        ("hash", "threefry", "rbg"),
    )
    num_widths: int = _option(2, "Rows of sequences have at most this many widths (static shapes).")
    steps_per_call: int = _option(32, "Steps a resident dispatch runs before its metrics are read.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The split of the log, and what a target is ranked against."""

    split: str = _option(
        "last_positive",
        "Hold out each user's last positives, or everything after a time.",
        ("last_positive", "by_time"),
    )
    train_until: int = _option(0, "by_time: first instant of validation, ms since 1970.")
    valid_until: int = _option(0, "by_time: first instant of the test, ms since 1970.")
    candidates: str = _option(
        "released",
        "exposed: skips around the target as in the released code, or only those shown before it.",
        ("released", "before_target"),
    )
    window_margin: int = _option(0, "Columns the window leaves empty at validation, one less at test (released: 2).")


@dataclasses.dataclass(frozen=True)
class Config:
    """All of it."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


def replace(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`config` with dotted fields replaced: `{"model.dim": 32}`.

    Raises:
      ValueError: a field that does not exist, or a value that its section refuses.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        section, _, field = name.partition(".")
        sections.setdefault(section, {})[field] = value
    known = {f.name for f in dataclasses.fields(Config)}
    for section, values in sections.items():
        unknown = set(values) - (
            {f.name for f in dataclasses.fields(getattr(config, section))} if section in known else set()
        )
        if unknown:
            raise ValueError(f"no such option: {', '.join(sorted(f'{section}.{field}' for field in unknown))}")
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})
    validate(config)
    return config


def to_json(config: Config) -> str:
    """The configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
    """The inverse of `to_json`."""
    return from_dict(json.loads(text))


def from_dict(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """The configuration with these fields by section, as `dataclasses.asdict` gives them."""
    return replace(
        Config(), {f"{section}.{name}": v for section, fields in values.items() for name, v in fields.items()}
    )


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted fields in which two configurations differ, with both values."""
    a, b = dataclasses.asdict(old), dataclasses.asdict(new)
    return {f"{s}.{f}": (a[s][f], b[s][f]) for s in a for f in a[s] if a[s][f] != b[s][f]}


def parse_weight(spec: float | str) -> tuple[str, float, float, int]:
    """Reads the specification of a weight.

    Args:
      spec: a number, or `linear:FROM:TO:STEPS`, or `cosine:FROM:TO:STEPS`.

    Returns:
      Its kind (`constant`, `linear` or `cosine`), where it starts and ends, and in how many steps.

    Raises:
      ValueError: anything else, or a weight below 0.
    """
    try:
        kind, *values = str(spec).split(":") if ":" in str(spec) else ("constant", spec, spec, 1)
        start, end, steps = float(values[0]), float(values[1]), int(values[2])
        known = kind in ("constant", "linear", "cosine") and len(values) == 3
        if known and 0 <= start < math.inf and 0 <= end < math.inf and steps > 0:
            return kind, start, end, steps
    except (ValueError, IndexError):
        pass
    raise ValueError(f"weight {spec!r}: give a number from 0, linear:FROM:TO:STEPS or cosine:FROM:TO:STEPS")


def is_used(spec: float | str) -> bool:
    """Whether a weight is ever other than 0."""
    _, start, end, _ = parse_weight(spec)
    return max(start, end) > 0


_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "float | str": (int, float, str),
}  # what an option may be, by its annotation


def validate(config: Config) -> None:
    """Refuses what cannot work.

    Raises:
      ValueError: names the option, its value and what it may be.
    """
    for section in dataclasses.fields(Config):
        values = getattr(config, section.name)
        for field in dataclasses.fields(values):
            choices, value = field.metadata["choices"], getattr(values, field.name)
            kinds = _KINDS[str(field.type)]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise ValueError(f"{section.name}.{field.name}={value!r}: give a {field.type}")
            if choices and value not in choices:
                raise ValueError(f"{section.name}.{field.name}={value!r}: choose one of {', '.join(choices)}")
    model, objective, train, optimizer = config.model, config.objective, config.train, config.optimizer
    for term in ("sampled", "passive", "pointwise", "auxiliary", "dcor", "l2", "active"):
        try:
            parse_weight(getattr(objective, term))
        except ValueError as error:
            raise ValueError(f"objective.{term}: {error}") from None
    rules = (
        (model.num_interests >= 2, "model.num_interests must be at least 2"),
        (
            model.num_heads >= 1 and model.dim % model.num_heads == 0,
            "model.num_heads starts at 1 and divides model.dim",
        ),
        (0 <= model.dropout <= 0.99, "model.dropout must be in [0, 0.99]"),
        (min(model.dim, model.num_blocks) >= 1, "model.dim and num_blocks start at 1"),
        (optimizer.name == "adamw" or not optimizer.weight_decay, "optimizer.weight_decay wants optimizer.name=adamw"),
        (
            optimizer.embedding == "dense"
            or (objective.sampled_form != "full_softmax" and not is_used(objective.l2) and optimizer.accumulate == 1),
            "optimizer.embedding=rows looks at the batch's items alone: leave out objective.sampled_form=full_softmax, "
            "objective.l2 and optimizer.accumulate",
        ),
        (model.norm_eps > 0 and optimizer.eps > 0, "model.norm_eps and optimizer.eps must be above 0"),
        (0 < optimizer.learning_rate < math.inf, "optimizer.learning_rate must be above 0"),
        (0 <= optimizer.b1 < 1 and 0 <= optimizer.b2 < 1, "optimizer.b1 and b2 must be in [0, 1)"),
        (
            min(optimizer.warmup_steps, optimizer.clip_norm, optimizer.weight_decay) >= 0,
            "optimizer.warmup_steps, clip_norm and weight_decay start at 0",
        ),
        (0 <= config.data.window_margin, "data.window_margin starts at 0"),
        (train.patience >= 0 and train.seed >= 0, "train.patience and train.seed start at 0"),
        (model.item_bias or model.item_bias_init == "zeros", "model.item_bias_init wants model.item_bias"),
        (model.read_skips or not model.user_bias, "model.user_bias wants model.read_skips"),
        (
            objective.sampled_form != "softmax" or objective.negatives != "skips",
            "objective.sampled_form=softmax wants negatives whose chances are known, not objective.negatives=skips",
        ),
        (0 <= objective.gbce_t <= 1, "objective.gbce_t must be in [0, 1]"),
        (model.filter_strength >= 0, "model.filter_strength starts at 0"),
        (model.max_len > config.data.window_margin + 1, "model.max_len must be above data.window_margin + 1"),
        (min(objective.num_negatives, objective.num_skips) >= 1, "objective.num_negatives and num_skips start at 1"),
        (
            objective.passive_form == "score" or model.fusion == "sum",
            "objective.passive_form=best_interest wants model.fusion=sum",
        ),
        (
            min(train.batch_size, train.epochs, train.num_widths, train.steps_per_call) >= 1,
            "train.batch_size, epochs, num_widths and steps_per_call start at 1",
        ),
        (
            min(train.eval_every, train.checkpoint_every, config.optimizer.accumulate) >= 1,
            "train.eval_every, checkpoint_every and optimizer.accumulate start at 1",
        ),
        (
            config.data.split != "by_time" or 0 < config.data.train_until < config.data.valid_until,
            "data.split=by_time wants 0 < data.train_until < data.valid_until",
        ),
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
