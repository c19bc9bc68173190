"""A network as pure functions of its parameters: initialise, apply, encode, score."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sine_jax import network, parallel
from sine_jax.config import ModelConfig
from sine_jax.layers import signed_kernel
from sine_jax.layers.forms import FORMS, Forms, forms_for
from sine_jax.layers.interests import relation_to_interests
from sine_jax.layers.scoring import Outputs
from sine_jax.losses import Mean
from sine_jax.network import Network, Pairs
from sine_jax.types import PAD, AnyArray, Array, Histories, Params, TrainBatch


class Read(NamedTuple):
    """What was read of histories; it scores any number of items.

    Leading axes are [B] after `encode` (the end of each history) and [B, T] after `apply` (each position). The last
    three fields are for a network's own terms; `encode` leaves them out.
    """

    state: Any  # what the network's `score` reads
    offset: Array | None = None  # [...] added to every score: how much the user watches in general
    memory: Array | None = None  # [..., D of the factors] what the signed kernel keeps
    interests: Array | None = None  # [B, T, K, D] the sub-interest states
    log_active: Array | None = None  # [B, T, K] log-probabilities of the active sub-interest, if they are learned
    extra: Any = None  # what the network's own `auxiliary` reads


class Model(NamedTuple):
    """A network of one configuration and catalogue, as pure functions; of `build_model`.

    `jit`, `vmap` and `grad` work on all of them (in the form for a CPU, in reverse mode only). The same arguments of
    `build_model` give the same model, and it is hashable, so it may be a static argument of `jax.jit`.

    Attributes:
      init: key -> params; a tree of float32 arrays.
      apply: (params, batch [B, T], *, key) -> Read at every position; the key is for dropout, None runs without.
      encode: (params, histories [B, T]) -> Read after the last exposure of each.
      score: (params, read [...], candidates [..., C], contexts [..., C, X] = None) -> [..., C] raw scores of each
        state's own candidates, float32; with the contexts that they were shown in, or without any.
      score_items: (params, read [...], items [C]) -> [..., C] raw scores of the same items for all, float32.
      user_vectors: read [B] -> [B, D], whose inner product with `item_vectors(params)` is the score. An item bias and a
        user's offset are not in it: add `params["item_bias"]` to the products; the offset changes no rank. Raises
        ValueError for a network whose vectors depend on the candidate.
      item_vectors: params -> [N + 1, D], the vectors of the catalogue: the item embeddings, and beside them the factors
        of the signed kernel if there is one.
      auxiliary: (params, read [B, T], batch [B, T]) -> the network's own terms by `<network>/<term>`, undivided means.
      config: the choices.
      num_items: N.
      num_contexts: how many values the context columns of the log have, over all columns.
      packs: whether several users may share a row of a training batch.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Read]
    encode: Callable[[Params, Histories], Read]
    score: Callable[..., Array]
    score_items: Callable[[Params, Read, Array], Array]
    user_vectors: Callable[[Read], Array]
    item_vectors: Callable[[Params], Array]
    auxiliary: Callable[[Params, Read, TrainBatch], dict[str, Mean]]
    config: ModelConfig
    num_items: int
    num_contexts: int
    packs: bool


def build_model(config: ModelConfig, *, num_items: int, num_contexts: int = 0, platform: str | None = None) -> Model:
    """The functions of a network, computed in the form that is best on a platform.

    On `cuda` attention in bfloat16 uses a fused kernel, which can only be traced where cuDNN is installed. Use
    `model.attention=blocks` elsewhere. `run.settle_attention` finds out whether the kernel works on these devices.

    Args:
      config: `config.model`.
      num_items: N, items 1..N of the catalogue.
      num_contexts: values of the log's context columns, numbered from 1 (with `model.context`).
      platform: `cpu`, `cuda` or `tpu`, where the functions will run; None for the devices that are there.

    Raises:
      ValueError: there is no such network or platform, or the network cannot do what the configuration asks.
    """
    if platform is not None and platform not in FORMS:
        raise ValueError(f"platform={platform}: no such platform; choose one of {', '.join(FORMS)}")
    return _build(
        config,
        num_items,
        num_contexts if config.context else 0,
        forms_for(platform or parallel.platform(), config.attention),
    )


@functools.cache
def _build(config: ModelConfig, num_items: int, num_contexts: int, forms: Forms) -> Model:
    kind = network.find(config.name)
    _refuse(config, kind)

    def of(params: Params) -> Network:
        """The module for the given tables, which may have only a part of the catalogue (`sparse`)."""
        return kind(config, num_items=params["item_embedding"].shape[0] - 1, forms=forms)

    def init(key: Array) -> Params:
        nothing = jnp.zeros((1, config.max_len), jnp.int32)
        histories = Histories(nothing, nothing != PAD, nothing if config.read_times else None)
        whole = kind(config, num_items=num_items, forms=forms)
        params: dict[str, Any] = dict(whole.init(key, histories, method="everything")["params"])
        if config.item_bias:
            params["item_bias"] = jnp.zeros(num_items + 1)
        if num_contexts:
            params["context"] = jnp.zeros(num_contexts + 1)
        if config.kernel_dim:
            params["signed_kernel"] = signed_kernel.init()
            params["item_factors"] = jnp.zeros((num_items + 1, config.kernel_dim))
        if config.user_bias:
            params["user_bias"] = jnp.array([1.0, 0.0])
        return params

    def apply(params: Params, batch: TrainBatch, *, key: Array | None = None) -> Read:
        # Only the released filter, which exists in training alone, looks at the targets.
        active = jnp.argmax(active_relation(params, batch), axis=-1) if config.active == "filter" else None
        return read(params, batch.histories, active, key)

    def encode(params: Params, histories: Histories) -> Read:
        found = read(params, histories, None, None)
        return jax.tree.map(lambda x: x[:, -1], Read(found.state, found.offset, found.memory))

    def read(params: Params, histories: Histories, active: Array | None, key: Array | None) -> Read:
        if config.read_times and histories.times is None:
            raise ValueError("model.read_times=True: the histories have times=None; give their times")
        rngs = None if key is None else {"dropout": key}
        target: dict[str, Any] = {"active": active} if kind.takes_active else {}
        outputs: Any = of(params).apply({"params": params}, histories, deterministic=key is None, rngs=rngs, **target)
        offset = None
        if "user_bias" in params:
            weight, bias = params["user_bias"]
            offset = weight * _log_odds_of_watching(histories) + bias
        return Read(
            outputs.state,
            offset=offset,
            memory=_remembered(params, histories) if "signed_kernel" in params else None,
            interests=outputs.interests,
            log_active=outputs.log_active,
            extra=outputs.extra,
        )

    def scored(params: Params, read: Read, items: AnyArray) -> Array:
        """Scores by the network and the user's offset, without the items' biases."""
        embeddings = embed(params, items, dtype=config.dtype)
        scores: Any = of(params).apply({"params": params}, read.state, embeddings, method="score")
        if read.memory is not None:
            product = "...d,cd->...c" if items.ndim == 1 else "...d,...cd->...c"
            scores = scores + jnp.einsum(product, read.memory, _factors(params)[items])
        return scores if read.offset is None else scores + read.offset[..., None]

    def score(params: Params, read: Read, candidates: AnyArray, contexts: AnyArray | None = None) -> Array:
        scores = scored(params, read, candidates)
        if "item_bias" in params:
            scores = scores + params["item_bias"][candidates]
        return scores if contexts is None else scores + of_contexts(params, contexts)

    def score_items(params: Params, read: Read, items: Array) -> Array:
        scores = scored(params, read, items)
        if "item_bias" not in params:
            return scores
        return scores + params["item_bias"][items].reshape((1,) * (scores.ndim - 1) + items.shape)

    def user_vectors(read: Read) -> Array:
        if kind.score is not Network.score or read.state.keys is not None:
            raise ValueError(
                f"model.name={config.name}, model.fusion={config.fusion}: there is no user vector, since the candidate "
                "takes part in the score; use model.name=sine with model.fusion=collapsed, or sasrec, for retrieval"
            )
        vectors = read.state.vectors[:, 0]
        return vectors if read.memory is None else jnp.concatenate([vectors, read.memory], axis=-1)

    def item_vectors(params: Params) -> Array:
        tables = [params["item_embedding"]] + ([_factors(params)] if "signed_kernel" in params else [])
        return jnp.concatenate(tables, axis=-1)

    def auxiliary(params: Params, read: Read, batch: TrainBatch) -> dict[str, Mean]:
        pairs = Pairs(
            positives=embed(params, batch.positives, dtype=config.dtype),
            skips=embed(params, batch.skips, dtype=config.dtype),
            has_target=batch.has_target,
            skipped=batch.skips != PAD,
        )
        outputs = Outputs(read.state, interests=read.interests, log_active=read.log_active, extra=read.extra)
        terms: Any = of(params).apply({"params": params}, outputs, pairs, method="auxiliary")
        return {f"{config.name}/{name}": term for name, term in terms.items()}

    return Model(
        init=init,
        apply=apply,
        encode=encode,
        score=score,
        score_items=score_items,
        user_vectors=user_vectors,
        item_vectors=item_vectors,
        auxiliary=auxiliary,
        config=config,
        num_items=num_items,
        num_contexts=num_contexts,
        packs=kind.packs,
    )


def active_relation(params: Params, batch: TrainBatch) -> Array:
    """[B, T, K] how much more each sub-interest is related to the watched item than to its nearest skip."""
    table, skips = params["item_embedding"], batch.skips[..., 0]
    return relation_to_interests(params["interests"], table[batch.positives], table[skips], skipped=skips != PAD)


def of_contexts(params: Params, contexts: AnyArray) -> Array:
    """What the contexts [..., X] of exposures add to their scores [...]; an unknown value adds 0."""
    if "context" not in params:
        return jnp.zeros(contexts.shape[:-1])
    found = params["context"].at[contexts].get(mode="fill", fill_value=0.0)
    return jnp.sum(jnp.where(contexts > 0, found, 0.0), axis=-1)


def _factors(params: Params) -> Array:
    """The item factors of the signed kernel [N + 1, D], which are not trained."""
    return jax.lax.stop_gradient(params["item_factors"])


def _remembered(params: Params, histories: Histories) -> Array:
    """What the signed kernel keeps after every exposure [B, T, D]."""
    return signed_kernel.read(
        params["signed_kernel"],
        _factors(params)[histories.items],
        watched=histories.watched,
        valid=histories.items != PAD,
        first=network.places(histories).first,
    )


def embed(params: Params, items: AnyArray, *, dtype: str) -> Array:
    """Embeddings of items [...] in the compute type, [..., D]."""
    return params["item_embedding"][items].astype(dtype)


def _refuse(config: ModelConfig, kind: type[Network]) -> None:
    """Refuses what a network cannot do."""
    if kind.reads_skips and not config.read_skips:
        raise ValueError(
            f"model.name={config.name} needs skipped exposures as input, but model.read_skips=False; set it to true"
        )
    if config.read_times and not kind.reads_times:
        raise ValueError(f"model.read_times=True has no effect with model.name={config.name}; set it to false")
    if config.active == "filter" and not kind.takes_active:
        raise ValueError(
            f"model.active=filter: model.name={config.name} has no sub-interests that it could filter by; use "
            "model.active=none, or model.name=sine"
        )
    if not config.mask_padding and not kind.pads_with_zeros:
        raise ValueError(f"model.mask_padding=False: model.name={config.name} always masks its padding; set it to true")


def _log_odds_of_watching(histories: Histories) -> Array:
    """[B, T] log-odds of the watched share of what was read so far, one watched and one skipped added."""
    begin = jnp.arange(histories.items.shape[1])[None, :] - network.places(histories).rank

    def number(where: AnyArray) -> Array:
        before = jnp.pad(jnp.cumsum(where, axis=1), ((0, 0), (1, 0)))
        return before[:, 1:] - jnp.take_along_axis(before, begin, axis=1)

    watched, skipped = number(histories.watched), number((histories.items != PAD) & ~histories.watched)
    return jnp.log(watched + 1.0) - jnp.log(skipped + 1.0)
