"""A model's functions with its configuration as an argument, for tests that vary it; each is compiled once."""

import functools

import jax

from sine_jax import build_model, objectives, training

compiled = functools.partial(jax.jit, static_argnames="config")


def of(params, config):
    """The model that parameters belong to."""
    return build_model(config.model, num_items=params["item_embedding"].shape[0] - 1)


@functools.partial(jax.jit, static_argnames=("config", "num_items"))
def init(key, config, num_items):
    return objectives.init(build_model(config.model, num_items=num_items).init(key), config=config)


def init_state(config, optimizer, *, num_items):
    """The first state of a run, from its seed."""
    return training.init_state(init(jax.random.key(config.train.seed), config, num_items), optimizer)


@compiled
def apply(params, batch, config, *, key=None):
    return of(params, config).apply(params, batch, key=key)


@compiled
def encode(params, histories, config):
    return of(params, config).encode(params, histories)


@compiled
def score_candidates(params, read, candidates, config):
    return of(params, config).score(params, read, candidates)


@compiled
def score_items(params, read, items, config):
    return of(params, config).score_items(params, read, items)


@compiled
def score(params, histories, candidates, config):
    """Scores each user's candidates [B, C]."""
    model = of(params, config)
    return model.score(params, model.encode(params, histories), candidates)


@compiled
def user_vectors(params, histories, config):
    model = of(params, config)
    return model.user_vectors(model.encode(params, histories))


@compiled
def objective(params, batches, key, config, *, step=0):
    return objectives.objective(params, batches, key, config=config, model=of(params, config), step=step)


@jax.jit
def moved(params, key):
    """Parameters away from any small or symmetric start, so that what depends on something shows it."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )
