"""A model's functions with its configuration as an argument, for tests that vary it."""

import jax

from sine_jax import build_model, objectives, training


def of(params, config):
    """The model that parameters belong to."""
    return build_model(config.model, num_items=params["item_embedding"].shape[0] - 1)


def init(key, config, num_items):
    return objectives.init(build_model(config.model, num_items=num_items).init(key), config=config)


def init_state(config, optimizer, *, num_items):
    """The first state of a run, from its seed."""
    return training.init_state(init(jax.random.key(config.train.seed), config, num_items), optimizer)


def apply(params, batch, config, *, key=None):
    return of(params, config).apply(params, batch, key=key)


def encode(params, histories, config):
    return of(params, config).encode(params, histories)


def score_candidates(params, read, candidates, config):
    return of(params, config).score(params, read, candidates)


def score_items(params, read, items, config):
    return of(params, config).score_items(params, read, items)


def score(params, histories, candidates, config):
    """Scores each user's candidates [B, C]."""
    return score_candidates(params, encode(params, histories, config), candidates, config)


def user_vectors(params, histories, config):
    return of(params, config).user_vectors(encode(params, histories, config))


def objective(params, batches, key, config, **more):
    return objectives.objective(params, batches, key, config=config, model=of(params, config), **more)
