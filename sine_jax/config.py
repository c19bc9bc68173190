"""Every option of the library, once, with a value that adds nothing; `presets` has the values to start from.

The launches derive their flags from these dataclasses (`--model.num_interests=4`), and a workdir keeps them as JSON.
Every difference between the released model and the corrected one is a named option here.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

# The terms of the objective. Each name is also the option of `ObjectiveConfig` with the term's weight. A network's own
# terms are named `<network>/<term>`, so no name can be both; `auxiliary` is their weight.
TERMS = ("sampled", "passive", "pointwise", "dcor", "l2", "active")

# Today's name of options that had another name in older checkpoints.
_RENAMED = {"data.split": "data.split_by"}

# By the annotation of an option: the types of its value, and the same in words.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a word"),
    "float | str": ((int, float, str), "a number or a schedule"),
}
_LARGEST: dict[str, float] = {"int": 2**31 - 1, "float": 3e38}  # what int32 and float32 hold
_INT64 = 2**63 - 1
_WIDEST = 2**16  # of an axis that is allocated whole


def _option(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    *,
    at_least: float = 0,
    at_most: float | None = None,
    above: float | None = None,
) -> Any:
    """A field of a section.

    Args:
      default: its value unless another is given.
      text: for `--help`.
      choices: the allowed words; empty for any word, and for numbers.
      at_least: the smallest allowed number.
      at_most: the largest allowed number; by default what int32 or float32 holds.
      above: the number must be above this.
    """
    limits: dict[str, float | None] = {"at_least": at_least, "at_most": at_most, "above": above}
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices, **limits})


def _check(section: str, values: Any) -> None:
    """Refuses an option of a section that has the wrong type, is not one of its choices, or is out of range."""
    for field in dataclasses.fields(values):
        value, rule = getattr(values, field.name), field.metadata
        option, (kinds, kind) = f"{section}.{field.name}", _KINDS[str(field.type)]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{option}={value!r}: must be {kind}")
        if rule["choices"] and value not in rule["choices"]:
            raise ValueError(f"{option}={value}: no such choice; choose one of {', '.join(rule['choices'])}")
        if str(field.type) in _LARGEST:
            _check_range(option, getattr(values, field.name), field)


def _check_range(option: str, value: float, field: dataclasses.Field) -> None:
    """Refuses a number that is out of the range of its field, or is NaN."""
    at_least, at_most, above = (field.metadata[name] for name in ("at_least", "at_most", "above"))
    at_most = _LARGEST[str(field.type)] if at_most is None else at_most
    _refuse(
        (above is not None and value <= above, f"{option}={value}: must be above {above}"),
        (value < at_least, f"{option}={value}: must be at least {at_least}"),
        (value > at_most, f"{option}={value}: must be at most {at_most}"),
        (not at_least <= value <= at_most, f"{option}={value}: must be a number"),
    )


def _refuse(*rules: tuple[bool, str]) -> None:
    """Raises the message of the first rule that is broken."""
    for broken, message in rules:
        if broken:
            raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = _option(
        "sine", "The network: a file of sine_jax/networks/, or the dotted name of a module that defines one."
    )
    max_len: int = _option(60, "T, the maximum length of a history.", at_least=2, at_most=_WIDEST)
    dim: int = _option(64, "D, the width of embeddings and states.", at_least=1, at_most=_WIDEST)
    num_blocks: int = _option(2, "Number of self-attention blocks.", at_least=1, at_most=1000)
    num_heads: int = _option(1, "Number of attention heads; must divide model.dim.", at_least=1)
    num_interests: int = _option(4, "K, the number of sub-interests; at least 2.", at_least=2, at_most=_WIDEST)
    dropout: float = _option(0.5, "Dropout rate, wherever the paper has dropout.", at_most=0.99)
    mask_padding: bool = _option(True, "Attention ignores padding (in the released model it does not).")
    positions: str = _option(
        "start",
        "Where position 0 is: at the first column of the window (column), or at the user's first item in it (start).",
        ("column", "start"),
    )
    fusion: str = _option(
        "collapsed",
        "How sub-interests become one score: summed (sum); weighed by the state alone, which gives one vector per user "
        "for retrieval (collapsed); or weighed by state and candidate, for ranking (candidate_aware).",
        ("sum", "collapsed", "candidate_aware"),
    )
    active: str = _option(
        "learned",
        "The active sub-interest: not used (none); read off the target in training as released, which leaks (filter); "
        "or predicted from the past and supervised by the pair of a watched and a skipped item (learned).",
        ("none", "filter", "learned"),
    )
    filter_strength: float = _option(
        0.5, "Factor on attention to keys of the active sub-interest (with model.active=filter)."
    )
    read_skips: bool = _option(False, "Read skipped exposures too, marked by a polarity embedding.")
    read_times: bool = _option(False, "Read the time of each exposure too (hstu).")
    item_bias: bool = _option(False, "Add a learned number per item to the score.")
    item_bias_init: str = _option(
        "zeros",
        "First value of the item biases: zeros, or fitted to the training part (counted), within users or over all "
        "exposures, whichever ranks the validation part better.",
        ("zeros", "counted"),
    )
    user_bias: bool = _option(
        False,
        "Add the log-odds of the watched share of the history to the score, times a learned weight (with "
        "model.read_skips). It starts at 1, or fitted to the training part (with model.item_bias_init=counted).",
    )
    kernel_dim: int = _option(
        0,
        "Width of the item factors of the signed kernel, a term of the score: watched videos raise items like them, "
        "skipped videos lower them (with model.read_skips), and both fade. 0 leaves it out.",
        at_most=_WIDEST,
    )
    context: bool = _option(
        False,
        "Add a learned number per value of the log's context columns, if it has any, to the score of an exposure; "
        "scores for choosing items leave it out.",
    )
    bias_init: str = _option(
        "zeros",
        "First value of the feed-forward biases (uniform in the released model).",
        ("zeros", "uniform"),
    )
    norm_eps: float = _option(1e-8, "Epsilon of every layer norm.", above=0)
    dtype: str = _option("float32", "Type of the computation; parameters stay float32.", ("float32", "bfloat16"))
    attention: str = _option(
        "auto",
        "How attention without dropout is computed in bfloat16: by the fused kernel of an NVIDIA GPU, if it runs and "
        "agrees with plain attention (auto); always by matrix products (blocks); or always by that kernel (fused), "
        "which is refused if it does not work.",
        ("auto", "blocks", "fused"),
    )

    def __post_init__(self) -> None:
        """Refuses what cannot work, as ValueError."""
        _check("model", self)
        _refuse(
            (
                self.dim % self.num_heads != 0,
                f"model.num_heads={self.num_heads} does not divide model.dim={self.dim}; choose a divisor",
            ),
            (
                self.attention == "fused" and self.dtype != "bfloat16",
                f"model.attention=fused does not fit model.dtype={self.dtype}; use bfloat16, or auto",
            ),
            (
                self.attention == "fused" and not self.mask_padding,
                "model.attention=fused does not fit model.mask_padding=False; set it to true, or use auto",
            ),
            (
                self.item_bias_init != "zeros" and not self.item_bias,
                f"model.item_bias_init={self.item_bias_init} has no effect with model.item_bias=False; "
                "set model.item_bias to true, or use zeros",
            ),
            (
                self.user_bias and not self.read_skips,
                "model.user_bias=True needs skipped exposures, but model.read_skips=False; set it to true",
            ),
        )


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The joint objective: the weight of each term, and which pairs are compared.

    A weight is a number, or a schedule over steps: `linear:0:1:500` or `cosine:1:0:500` (from, to, steps).
    """

    sampled: float | str = _option(0.3, "Weight of the term that ranks watched over sampled items.")
    passive: float | str = _option(1.0, "Weight of the term that ranks watched over skipped items.")
    pointwise: float | str = _option(
        0.0, "Weight of the logistic loss of watching, for the watched item and the skips paired with it."
    )
    auxiliary: float | str = _option(1.0, "Weight of each of a network's own terms.")
    dcor: float | str = _option(1.0, "Weight of the distance correlation between sub-interests.")
    l2: float | str = _option(0.0, "Weight of the penalty on the item embeddings.")
    active: float | str = _option(
        0.1, "Weight of the cross-entropy of the active sub-interest (with model.active=learned)."
    )
    weighting: str = _option(
        "fixed",
        "The weights stay as given (fixed), or homoscedastic uncertainty learns a factor for each (learned).",
        ("fixed", "learned"),
    )
    l2_form: str = _option(
        "squared", "The penalty is the Frobenius norm of the item embeddings, or its square.", ("norm", "squared")
    )
    passive_form: str = _option(
        "score",
        "Watched and skipped items are compared by their fused scores (score), or by the sub-interest that separates "
        "them best (best_interest).",
        ("score", "best_interest"),
    )
    active_target: str = _option(
        "hard",
        "The pair names one active sub-interest (hard), or a distribution over all of them (soft).",
        ("hard", "soft"),
    )
    sampled_form: str = _option(
        "bpr",
        "How watched items are ranked over sampled ones: by pairs (bpr); by a softmax over all M, corrected for the "
        "chance of drawing each (softmax); by gBCE, which corrects the overconfidence of few negatives (gbce; with "
        "model.name=sasrec this is gSASRec); or by a softmax over the whole catalogue (full_softmax).",
        ("bpr", "softmax", "gbce", "full_softmax"),
    )
    gbce_t: float = _option(
        0.75, "Calibration of gBCE: 0 is plain cross-entropy, 1 corrects all overconfidence.", at_most=1
    )
    negatives: str = _option(
        "uniform",
        "Where sampled negatives come from: uniform over the catalogue (uniform); by how often items are watched "
        "(popularity); targets of other positions in the batch of the same width on the same device (in_batch); or "
        "the skips that the positive is paired with (skips).",
        ("uniform", "popularity", "in_batch", "skips"),
    )
    num_negatives: int = _option(1, "M, the number of sampled negatives per position.", at_least=1, at_most=_WIDEST)
    skips: str = _option(
        "before",
        "Which skips a positive is paired with: those right before it, back to the previous positive (before); or the "
        "next ones after that previous positive, before and after the target, like the candidates of the `exposed` "
        "protocol (ahead).",
        ("before", "ahead"),
    )
    num_skips: int = _option(
        3, "S, the number of skips paired with a positive, nearest first.", at_least=1, at_most=_WIDEST
    )
    after_skips: bool = _option(
        False, "Supervise the states after skips too, not only those after watched items (with model.read_skips)."
    )
    resample_negatives: bool = _option(True, "Draw new negatives each epoch (the released code draws once).")
    exclude_seen: bool = _option(
        True,
        "Never draw an item that the user saw in the training part (the check in the released code has no effect).",
    )

    def __post_init__(self) -> None:
        """Refuses what cannot work, as ValueError."""
        _check("objective", self)
        for name in (*TERMS, "auxiliary"):
            parse_weight(getattr(self, name), f"objective.{name}")
        _refuse(
            (
                self.needs_chances and self.negatives == "skips",
                "objective.sampled_form=softmax needs the chance that each negative was drawn, which "
                "objective.negatives=skips does not give; use other negatives, or another form",
            ),
        )

    @property
    def needs_chances(self) -> bool:
        """Whether a loss corrects for the chance that each negative was drawn."""
        return self.sampled_form == "softmax"

    @property
    def reads_catalogue(self) -> bool:
        """Whether a loss scores every item."""
        return self.sampled_form == "full_softmax"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, by Optax."""

    name: str = _option("adam", "The optimiser.", ("adam", "adamw", "adagrad"))
    embedding: str = _option(
        "dense",
        "Each step updates all entries of the item tables (dense), or only those of the batch's items, for large "
        "catalogues (rows).",
        ("dense", "rows"),
    )
    learning_rate: float = _option(1e-3, "Peak learning rate.", above=0)
    b1: float = _option(0.9, "Decay of Adam's first moment.", at_most=0.999999)
    b2: float = _option(0.98, "Decay of Adam's second moment.", at_most=0.999999)
    eps: float = _option(1e-8, "Epsilon of the denominator.", above=0)
    weight_decay: float = _option(
        0.0, "Decoupled weight decay (with adamw); embeddings, norms and biases do not decay."
    )
    schedule: str = _option("constant", "Learning rate after the warm-up.", ("constant", "cosine"))
    warmup_steps: int = _option(0, "Steps of linear warm-up from 0.")
    clip_norm: float = _option(0.0, "Clip gradients to this global norm; 0 does not clip.")
    accumulate: int = _option(1, "Batches whose gradients are averaged into one update.", at_least=1)

    def __post_init__(self) -> None:
        """Refuses what cannot work, as ValueError."""
        _check("optimizer", self)
        _refuse(
            (
                self.weight_decay > 0 and self.name != "adamw",
                f"optimizer.weight_decay={self.weight_decay} has no effect with optimizer.name={self.name}; "
                "use adamw, or 0",
            ),
            (
                self.embedding == "rows" and self.accumulate > 1,
                "optimizer.embedding=rows updates only the items of one batch, but "
                f"optimizer.accumulate={self.accumulate}; use dense, or 1",
            ),
        )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The run."""

    batch_size: int = _option(128, "Users per batch, over all devices (on average, if users share rows).", at_least=1)
    epochs: int = _option(100, "Maximum number of passes over the users.", at_least=1)
    patience: int = _option(10, "Stop after this many validations without improvement; 0 never stops.")
    metric: str = _option(
        "gauc",
        "Validation metric that decides on early stopping and the best checkpoint.",
        ("auc", "user_auc", "gauc", "ndcg", "mrr"),
    )
    protocol: str = _option(
        "exposed",
        "What a validation ranks each target against: the skips around it (exposed), or the whole catalogue (full), "
        "for logs without skips.",
        ("exposed", "full"),
    )
    eval_every: int = _option(1, "Epochs between validations.", at_least=1)
    checkpoint_every: int = _option(1, "Epochs between checkpoints of the latest state.", at_least=1)
    seed: int = _option(42, "Seed of parameters, batches, negatives and dropout.", at_most=2**32 - 1)
    pipeline: str = _option(
        "auto",
        "The log is kept on the device (resident) or streamed from the host (streamed); `auto` decides by its size.",
        ("auto", "resident", "streamed"),
    )
    generator: str = _option(
        "hash",
        "What draws dropout masks: a hashed counter, fast and the same on every device (hash); JAX's own threefry; or "
        "the generator of the device, for accelerators (rbg).",
        ("hash", "threefry", "rbg"),
    )
    num_widths: int = _option(2, "At most this many row widths, each compiled once.", at_least=1)
    steps_per_call: int = _option(
        32, "Steps per call to the device (with train.pipeline=resident).", at_least=1, at_most=_WIDEST
    )

    def __post_init__(self) -> None:
        """Refuses what cannot work, as ValueError."""
        _check("train", self)
        _refuse(
            (
                self.protocol == "full" and self.metric == "auc",
                "train.metric=auc does not fit train.protocol=full, which compares scores of one user; use user_auc",
            )
        )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The split of the log, and what a target is ranked against."""

    split_by: str = _option(
        "last_positive",
        "Hold out each user's last two positives (last_positive), everything after a given time (by_time), or the last "
        "exposures of each user (by_share).",
        ("last_positive", "by_time", "by_share"),
    )
    train_until: int = _option(0, "Start of validation, in ms since 1970 (with data.split_by=by_time).", at_most=_INT64)
    valid_until: int = _option(0, "Start of the test, in ms since 1970 (with data.split_by=by_time).", at_most=_INT64)
    train_share: float = _option(
        0.8, "Share of each user's exposures that is trained on (with data.split_by=by_share).", above=0, at_most=0.99
    )
    valid_share: float = _option(
        0.1, "Share of each user's exposures that validation adds (with data.split_by=by_share).", above=0, at_most=0.99
    )
    candidates: str = _option(
        "released",
        "Which skips a target is ranked against in the `exposed` protocol: those around it, as in the released code "
        "(released), or only those shown before it (before_target).",
        ("released", "before_target"),
    )
    window_margin: int = _option(
        0, "Columns of the window left empty in validation; the test leaves one less (the released code has 2)."
    )

    def __post_init__(self) -> None:
        """Refuses what cannot work, as ValueError."""
        _check("data", self)
        _refuse(
            (
                self.split_by == "by_time" and self.train_until == 0,
                f"data.train_until=0 with data.split_by={self.split_by}: must be above 0; name the start of validation",
            ),
            (
                self.split_by == "by_time" and self.valid_until <= self.train_until,
                f"data.valid_until={self.valid_until} with data.split_by={self.split_by}: "
                f"must be above data.train_until={self.train_until}; give a later time",
            ),
            (
                self.split_by == "by_share" and self.train_share + self.valid_share >= 1,
                f"data.valid_share={self.valid_share} with data.train_share={self.train_share}: "
                "nothing is left for the test; give shares that sum to less than 1",
            ),
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """All options."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        """Refuses sections that cannot work together, as ValueError."""
        for name, section in _SECTIONS.items():
            value = getattr(self, name)
            _refuse((not isinstance(value, section), f"{name}={value!r}: must be of type {section.__name__}"))
        model, objective, optimizer, data = self.model, self.objective, self.optimizer, self.data
        sparse = optimizer.embedding == "rows"
        _refuse(
            (
                model.max_len < data.window_margin + 2,
                f"model.max_len={model.max_len}: too short for data.window_margin={data.window_margin}; "
                f"give at least {data.window_margin + 2}",
            ),
            (
                objective.passive_form == "best_interest" and model.fusion != "sum",
                f"objective.passive_form=best_interest does not fit model.fusion={model.fusion}; "
                "set model.fusion to sum, or use score",
            ),
            (
                objective.after_skips and not model.read_skips,
                "objective.after_skips=True needs skipped exposures as input, but model.read_skips=False; "
                "set it to true",
            ),
            (
                sparse and objective.reads_catalogue,
                "optimizer.embedding=rows updates only the items of the batch, but "
                "objective.sampled_form=full_softmax reads every item; use dense, or another form",
            ),
            (
                sparse and is_used(objective.l2),
                "optimizer.embedding=rows updates only the items of the batch, but "
                f"objective.l2={objective.l2} is about every item; use dense, or 0",
            ),
        )


_SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "objective": ObjectiveConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
    "data": DataConfig,
}


def options() -> dict[str, dataclasses.Field]:
    """Every option by its dotted name."""
    return {
        f"{name}.{field.name}": field for name, section in _SECTIONS.items() for field in dataclasses.fields(section)
    }


def replace(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`config` with dotted fields replaced: `{"model.dim": 32}`.

    All sections are made before they are checked against each other, so the order of the overrides does not matter.

    Raises:
      ValueError: an option does not exist, or values are refused by a section or do not fit together.
    """
    known = options()
    fields: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        if name not in known:
            raise ValueError(f"{name}={value}: no such option; {_instead(name)}")
        section, _, field = name.partition(".")
        fields.setdefault(section, {})[field] = value
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in fields.items()}
    )


def _instead(name: str) -> str:
    """The nearest option to one that does not exist."""
    known = options()
    by_field = {option.partition(".")[2]: option for option in known}
    if close := difflib.get_close_matches(name, known, n=1):
        return f"the nearest is {close[0]}"
    section, _, field = name.rpartition(".")
    if close := difflib.get_close_matches(field, by_field, n=1):
        return f"the nearest is {by_field[close[0]]}"
    if section in _SECTIONS:
        return f"{section} has {', '.join(f.name for f in dataclasses.fields(_SECTIONS[section]))}"
    return f"the sections are {', '.join(_SECTIONS)}"


def to_json(config: Config) -> str:
    """The configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
    """The inverse of `to_json`."""
    return from_dict(json.loads(text))


def from_dict(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """The configuration with these options by section, as from `dataclasses.asdict`; older names still work."""
    for section, fields in values.items():
        _refuse((not isinstance(fields, Mapping), f"{section}={fields!r}: must be a section with options"))
    return replace(
        Config(),
        {f"{section}.{name}": v for section, fields in renamed(values).items() for name, v in fields.items()},
    )


def renamed(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same options by section, under today's names."""

    def today(section: str, name: str) -> str:
        return _RENAMED.get(f"{section}.{name}", f"{section}.{name}").partition(".")[2]

    return {section: {today(section, name): v for name, v in fields.items()} for section, fields in values.items()}


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted fields in which two configurations differ, with both values."""
    a, b = dataclasses.asdict(old), dataclasses.asdict(new)
    return {f"{s}.{f}": (a[s][f], b[s][f]) for s in a for f in a[s] if a[s][f] != b[s][f]}


def parse_weight(spec: float | str, option: str = "weight") -> tuple[str, float, float, int]:
    """Reads the specification of a weight.

    Args:
      spec: a number, or `linear:FROM:TO:STEPS`, or `cosine:FROM:TO:STEPS`.
      option: its name, for the message.

    Returns:
      Its kind (`constant`, `linear` or `cosine`), its first and last value, and the steps between them.

    Raises:
      ValueError: it is not a weight, or below 0.
    """
    try:
        kind, *values = str(spec).split(":") if ":" in str(spec) else ("constant", spec, spec, 1)
        start, end, steps = float(values[0]), float(values[1]), int(values[2])
        known = kind in ("constant", "linear", "cosine") and len(values) == 3
        largest = _LARGEST["float"]
        if known and 0 <= start <= largest and 0 <= end <= largest and 0 < steps <= _LARGEST["int"]:
            return kind, start, end, steps
    except (ValueError, IndexError, OverflowError):
        pass
    raise ValueError(
        f"{option}={spec}: not a weight; give a number from 0, linear:FROM:TO:STEPS or cosine:FROM:TO:STEPS"
    )


def is_used(spec: float | str) -> bool:
    """Whether a weight is ever other than 0."""
    _, start, end, _ = parse_weight(spec)
    return max(start, end) > 0
