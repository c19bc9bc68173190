"""Simple scorers, which a model has to beat.

Most have a value per item and one per user; their sum is the score (`Biases`). Logistic matrix factorisation adds a
vector per user and item (`Factors`). None reads a sequence. A mask selects the exposures that are counted:

  training_pairs  what the released code trains on: a user's positives within the training part, and the skip right
                  before each of them
  training        every exposure of the training part: what a model may learn from
  history         every exposure up to the last positive before the split's target; for the test this is more than a
                  model learned from

A dislike counts as shown and not watched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from sine_jax import factors
from sine_jax.types import PAD, SKIPPED, WATCHED, Array, EventLog, Split

WITHIN_USERS = "item bias (within users)"
PRIOR_PAIRS = 600_000  # a convention, not tuned: for more pairs, the prior of `within_users` grows with their number


class Biases(NamedTuple):
    """A scorer `users[u] + items[i]`, plus `contexts[x]` for each context of the exposure."""

    users: Array  # [U] float32
    items: Array  # [N + 1] float32
    contexts: Array | None = None  # [values + 1] float32, 0 at 0; None without contexts


class Factors(NamedTuple):
    """A scorer `users[u] . items[i] + biases.users[u] + biases.items[i]`."""

    users: Array  # [U, D] float32
    items: Array  # [N + 1, D] float32
    biases: Biases


def training(log: EventLog, split: Split) -> np.ndarray:
    """[E] True for the exposures that may be learned from."""
    return log.before(split.train_end)


def training_pairs(log: EventLog, split: Split) -> np.ndarray:
    """[E] True for the positives that may be learned from, and the skip right before each."""
    learned = training(log, split)
    watched = learned & (log.feedback == WATCHED)
    followed = np.append(watched[1:], False)
    followed[log.offsets[1:][log.offsets[1:] > 0] - 1] = False  # by another user's positive
    return watched | (followed & (log.feedback == SKIPPED))


def history(log: EventLog, split: Split) -> np.ndarray:
    """[E] True for the exposures up to the last positive before the target."""
    return log.before(split.history_end)


def item_count(log: EventLog, where: np.ndarray, *, num_items: int) -> Biases:
    """How often each item was watched."""
    return _of_items(log, np.bincount(log.items[where & (log.feedback == WATCHED)], minlength=num_items + 1))


def item_rate(log: EventLog, where: np.ndarray, *, num_items: int, smoothing: float = 10.0) -> Biases:
    """The log-odds of each item's watch rate.

    Args:
      log: exposures.
      where: [E] which of them count.
      num_items: N.
      smoothing: how many exposures at the log's mean rate are added to each item's own.
    """
    watched = np.bincount(log.items[where & (log.feedback == WATCHED)], minlength=num_items + 1)
    shown = np.bincount(log.items[where], minlength=num_items + 1)
    # One more watched and one more skipped exposure keep the mean away from 0 and 1, where log-odds are infinite.
    mean = (watched.sum() + 1) / (shown.sum() + 2)
    rate = (watched + smoothing * mean) / (shown + smoothing)
    return _of_items(log, np.log(rate) - np.log1p(-rate))


def logistic_biases(
    log: EventLog,
    where: np.ndarray,
    *,
    num_items: int,
    epochs: int = 8,
    steps_per_epoch: int = 80,
    learning_rate: float = 0.01,
    seed: int = 0,
    contexts: bool = False,
) -> Biases:
    """A logistic regression of watching on user and item, and on the contexts of the exposure, fitted by Adam.

    Args:
      log: exposures.
      where: [E] which of them count.
      num_items: N.
      epochs: passes over the exposures.
      steps_per_epoch: batches of a pass, for a log of any size.
      learning_rate: of Adam.
      seed: of the order of the exposures.
      contexts: whether the contexts are fitted too, if the log has any.

    Returns:
      Log-odds; the overall mean is part of the users' values.
    """
    users, items, watched = _exposures(log, where)
    shown_in = jnp.asarray(log.contexts[where]) if contexts and log.contexts is not None else None

    def losses(params: tuple[Biases, Array], places: Array) -> Array:
        biases, mean = params
        logits = biases.users[users[places]] + biases.items[items[places]] + mean
        if shown_in is not None and biases.contexts is not None:
            at = shown_in[places]
            logits += jnp.sum(jnp.where(at > 0, biases.contexts[at], 0), axis=-1)
        return optax.sigmoid_binary_cross_entropy(logits, watched[places])

    of_contexts = None if shown_in is None else jnp.zeros(num_contexts(log) + 1)
    biases, mean = _fit(
        losses,
        (Biases(jnp.zeros(log.num_users), jnp.zeros(num_items + 1), of_contexts), jnp.zeros(())),
        jax.random.key(seed),
        number=len(items),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        learning_rate=learning_rate,
    )
    return biases._replace(users=biases.users + mean)


def num_contexts(log: EventLog) -> int:
    """How many context values appear in a log at most; 0 without contexts."""
    return 0 if log.contexts is None else int(log.contexts.max(initial=0))


def within_users(
    log: EventLog,
    where: np.ndarray,
    *,
    num_items: int,
    reach: int = 40,
    shrinkage: float = 3.0,
    contexts: bool = False,
) -> Biases:
    """Item biases that rank what a user watched over what the same user skipped; how much a user watches cancels.

    A Bradley-Terry model of all pairs of a watched and a skipped exposure of one user that are at most `reach`
    exposures apart, with a normal prior.

    Args:
      log: exposures.
      where: [E] which of them count.
      num_items: N.
      reach: the largest distance of the two, in exposures.
      shrinkage: precision of the prior for up to `PRIOR_PAIRS` pairs; beyond, it grows in proportion to the pairs. Its
        default and that of `reach` are conventions: no search over them is recorded.
      contexts: whether the contexts are fitted too, if the log has any.

    References:
      Bradley and Terry, "Rank Analysis of Incomplete Block Designs", Biometrika 39 (1952).
    """
    users = log.users
    watched = log.feedback == WATCHED
    # What is compared is an item in its contexts. The same pair of them for many users is one entry with a weight.
    shown = np.asarray(log.items, np.int64)[:, None]
    if contexts and log.contexts is not None:
        shown = np.concatenate([shown, log.contexts], axis=1)
    compared, shown = np.unique(shown, axis=0, return_inverse=True) if shown.shape[1] > 1 else (None, shown[:, 0])
    size = num_items + 1 if compared is None else len(compared)
    keys = [np.zeros(0, np.int64)]
    for distance in range(1, min(reach, len(log.items) - 1) + 1):
        first, second = slice(None, -distance), slice(distance, None)
        paired = (users[first] == users[second]) & where[first] & where[second] & (watched[first] != watched[second])
        a, b, one = shown[first][paired], shown[second][paired], watched[first][paired]
        keys.append(np.where(one, a, b) * size + np.where(one, b, a))
    pairs, counted = np.unique(np.concatenate(keys), return_counts=True)
    preferred, other = (jnp.asarray(part.astype(np.int32)) for part in np.divmod(pairs, size))
    weights = jnp.asarray(counted, jnp.float32)
    prior = shrinkage * max(float(weights.sum()) / PRIOR_PAIRS, 1.0)

    def worth(biases: Array) -> Array:
        """[size] of what is compared; the values of contexts follow those of items."""
        if compared is None:
            return biases
        at = jnp.asarray(compared[:, 1:])
        return biases[compared[:, 0]] + jnp.sum(jnp.where(at > 0, biases[num_items + at], 0), axis=-1)

    def loss(biases: Array) -> Array:
        values = worth(biases)
        margins = values[preferred] - values[other]
        return -jnp.sum(weights * jax.nn.log_sigmoid(margins)) + prior / 2 * jnp.sum(jnp.square(biases))

    value = jax.jit(jax.value_and_grad(loss))

    def on_host(biases: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(part, np.float64) for part in value(jnp.asarray(biases, jnp.float32))]

    found = scipy.optimize.minimize(
        on_host,
        np.zeros(num_items + 1 + (0 if compared is None else num_contexts(log))),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 200},
    )
    of_items, of_contexts = np.split(found.x, [num_items + 1])
    biases = _of_items(log, of_items)
    if compared is None:
        return biases
    return biases._replace(contexts=jnp.asarray(np.concatenate([[0], of_contexts]), jnp.float32))


PRECISIONS = (1.0, 3.0, 10.0, 30.0, 100.0)  # of the priors that `factorise` tries; a convention


def factorise(
    log: EventLog,
    where: np.ndarray,
    *,
    num_items: int,
    dim: int = 8,
    epochs: int = 6,
    steps_per_epoch: int = 80,
    learning_rate: float = 0.03,
    precisions: Sequence[float] = PRECISIONS,
    held_out: float = 0.1,
    seed: int = 0,
) -> Factors:
    """Fits vectors to what `logistic_biases` do not explain, by Adam on the logistic loss.

    A user's vector has a normal prior around 0, an item's around its factor from co-exposure (`factors.co_exposure`).
    The precision of both is the one with the lowest log-loss on exposures that are held out; all are fitted once more.

    Args:
      log: exposures.
      where: [E] which of them count.
      num_items: N.
      dim: D.
      epochs: passes over the exposures.
      steps_per_epoch: batches of a pass, for a log of any size.
      learning_rate: of Adam.
      precisions: of the prior, to choose from.
      held_out: share of the exposures that choose, drawn at random.
      seed: of the first vectors, of what is held out, and of the order of the exposures.

    References:
      Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 42(8), 2009.
    """
    biases = logistic_biases(log, where, num_items=num_items)
    if not where.any():
        return Factors(jnp.zeros((log.num_users, dim)), jnp.zeros((num_items + 1, dim)), biases)
    users, items, watched = _exposures(log, where)
    known = biases.users[users] + biases.items[items]
    prior = jnp.asarray(factors.co_exposure(log, where, num_items=num_items, dim=dim))
    counts = [jnp.bincount(ids, length=n) for ids, n in ((users, log.num_users), (items, num_items + 1))]
    of_start, order = jax.random.split(jax.random.key(seed))
    start = jnp.zeros((log.num_users, dim)), prior + 0.05 * jax.random.normal(of_start, prior.shape)

    def errors(vectors: tuple[Array, Array], places: Array) -> Array:
        products = jnp.sum(vectors[0][:, users[places]] * vectors[1][:, items[places]], axis=-1)
        return optax.sigmoid_binary_cross_entropy(products + known[places][None], watched[places][None])

    def fitted(kept: Array, tried: Sequence[float]) -> tuple[Array, Array]:
        """Vectors [tried, U, D] and [tried, N + 1, D]; the fits do not touch each other."""

        def losses(vectors: tuple[Array, Array], places: Array) -> Array:
            at = kept[places]
            of_users, of_items = vectors[0][:, users[at]], vectors[1][:, items[at]] - prior[items[at]][None]
            shares = zip((of_users, of_items), (counts[0][users[at]], counts[1][items[at]]), strict=True)
            lengths = sum(jnp.sum(jnp.square(x), axis=-1) / number[None] for x, number in shares)
            return jnp.sum(errors(vectors, at) + jnp.asarray(tried)[:, None] / 2 * lengths, axis=0)

        return _fit(
            losses,
            tuple(jnp.tile(x[None], (len(tried), 1, 1)) for x in start),
            order,
            number=len(kept),
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            learning_rate=learning_rate,
        )

    chosen = precisions[0]
    held = np.random.default_rng(seed).random(len(items)) < held_out
    if len(precisions) > 1 and held.any() and not held.all():
        vectors = fitted(jnp.flatnonzero(~held), precisions)
        chosen = precisions[int(jnp.argmin(jnp.mean(errors(vectors, jnp.flatnonzero(held)), axis=1)))]
    of_users, of_items = fitted(jnp.arange(len(items)), [chosen])
    return Factors(of_users[0], of_items[0], biases)


def watched_share(log: EventLog, where: np.ndarray, biases: Biases) -> np.ndarray:
    """How far the watched share of a user's past tells what the user watches next, beyond the item and its contexts.

    A logistic regression of watching on the log-odds of that share, one watched and one skipped exposure added, by
    Newton's method with a weak prior.

    Args:
      log: exposures.
      where: [E] which of them count; those of each user come first.
      biases: of items and contexts.

    Returns:
      [2] float32: the weight of the log-odds, and a constant.
    """
    watched, known = log.feedback == WATCHED, np.isin(log.feedback, (WATCHED, SKIPPED))

    def before(flags: np.ndarray) -> np.ndarray:
        """[E] how many of a user's earlier exposures are flagged."""
        total = np.cumsum(flags) - flags
        begins = log.offsets[:-1][log.lengths > 0]
        return total - np.repeat(total[begins], log.lengths[log.lengths > 0])

    share = np.log(before(watched) + 1.0) - np.log(before(known & ~watched) + 1.0)
    kept = where & known
    columns = np.stack([share[kept], np.ones(np.count_nonzero(kept))], axis=1)
    odds = np.asarray(biases.items)[log.items[kept]]
    if biases.contexts is not None and log.contexts is not None:
        odds = odds + np.asarray(biases.contexts)[log.contexts[kept]].sum(axis=1)
    found = np.array([1.0, 0.0])
    for _ in range(10):
        chance = 1 / (1 + np.exp(-(odds + columns @ found)))
        gradient = columns.T @ (chance - watched[kept]) + (found - [1.0, 0.0])
        found = found - np.linalg.solve((columns * (chance * (1 - chance))[:, None]).T @ columns + np.eye(2), gradient)
    return found.astype(np.float32)


def item_part(biases: Biases) -> Biases:
    """The same without the users' values, for the pooled AUC of items alone."""
    return biases._replace(users=jnp.zeros_like(biases.users))


def by_counting(log: EventLog, split: Split, *, num_items: int) -> dict[str, Biases]:
    """Scorers that are fitted by counting, named by what they count.

    Those of the training part count what a model may learn from. Those of the history count up to the last positive
    before each user's target, which is later: they show what recent exposures are worth.
    """
    learned, read = training(log, split), history(log, split)
    fitted, later = (logistic_biases(log, where, num_items=num_items) for where in (learned, read))
    pairs = training_pairs(log, split)
    with_contexts = {}
    if log.contexts is not None:
        in_context = logistic_biases(log, learned, num_items=num_items, contexts=True)
        with_contexts = {
            "item bias + context": item_part(in_context),
            "user + item bias + context": in_context,
            "item bias (within users) + context": within_users(log, learned, num_items=num_items, contexts=True),
        }
    return {
        "item count": item_count(log, learned, num_items=num_items),
        "item rate (pairs)": item_rate(log, pairs, num_items=num_items),
        "item rate": item_rate(log, learned, num_items=num_items),
        "item bias": item_part(fitted),
        "user + item bias": fitted,
        WITHIN_USERS: within_users(log, learned, num_items=num_items),
        "item rate (history)": item_rate(log, read, num_items=num_items),
        "item bias (history)": item_part(later),
        "user + item bias (history)": later,
        **with_contexts,
    }


def _of_items(log: EventLog, values: np.ndarray) -> Biases:
    values = np.asarray(values, np.float32)
    values[PAD] = 0
    return Biases(jnp.zeros(log.num_users), jnp.asarray(values))


def _exposures(log: EventLog, where: np.ndarray) -> tuple[Array, Array, Array]:
    """User, item and whether it was watched, [number] each, of the exposures that count."""
    chosen = np.flatnonzero(where)
    users = jnp.asarray(log.users[chosen])
    return users, jnp.asarray(log.items[chosen]), jnp.asarray(log.feedback[chosen] == WATCHED)


def _fit(
    losses: Callable[[Any, Array], Array],
    start: Any,
    key: Array,
    *,
    number: int,
    epochs: int,
    steps_per_epoch: int,
    learning_rate: float,
) -> Any:
    """Minimises a mean over exposures by Adam.

    Args:
      losses: a function of parameters and the places [n] of some exposures that gives their losses [n].
      start: the first parameters.
      key: of the order of the exposures.
      number: how many exposures there are; with none, `start` is returned.
      epochs: passes over the exposures.
      steps_per_epoch: batches of a pass, for any number of exposures; the rest of a division is left out of the pass.
      learning_rate: of Adam.
    """
    steps = min(steps_per_epoch, number)
    if not steps:
        return start
    optimizer = optax.adam(learning_rate)

    def step(carry: tuple, places: Array) -> tuple[tuple, None]:
        params, state = carry
        gradient = jax.grad(lambda params: jnp.mean(losses(params, places)))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry: tuple, key: Array) -> tuple[tuple, None]:
        places = jax.random.permutation(key, number)[: number // steps * steps]
        return jax.lax.scan(step, carry, places.reshape(steps, -1))

    keys = jax.random.split(key, epochs)
    (params, _), _ = jax.jit(lambda: jax.lax.scan(epoch, (start, optimizer.init(start)), keys))()
    return params
