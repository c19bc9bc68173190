"""What past feedback says about the next: runs, patterns, information, and similar items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.special

from sine_jax.types import DISLIKED, SKIPPED, WATCHED, EventLog, Split

LAST = 4  # the most past feedbacks that a pattern has
SIMILAR = 20  # how many items count as similar to an item
SHUFFLES = 5  # of each user's feedback, to measure what chance gives
REDRAWS = 3  # of all feedback, from the rates of users and items alone
CATALOGUE = 20_000  # similar items are looked for among this many most watched ones


class Runs(NamedTuple):
    """How many skips follow each other; the last length also counts all longer runs."""

    lengths: list[int]
    number: list[int]
    expected: list[float]  # if each user's feedback were in random order; for every length but the last
    mean: float


class Pattern(NamedTuple):
    """What follows a pattern of last feedbacks."""

    pattern: str  # oldest first, W watched, S skipped
    exposures: int
    watch_rate: float
    half_interval: float  # of 95 %
    shuffled: float  # the watch rate where each user's feedback is shuffled


class Information(NamedTuple):
    """What the last feedbacks tell about the next, in bits."""

    feedbacks: int
    bits: float
    shuffled_bits: float
    deviation_of_shuffles: float
    order_bits: float  # bits minus shuffled bits


class Lift(NamedTuple):
    """The skip rate of some exposures, relative to the rate expected from user and item alone."""

    exposures: int
    skip_rate: float
    half_interval: float  # of 95 %
    expected: float
    lift: float
    lift_by_chance: float = 1.0
    lift_over_chance: float = 1.0


class SimilarItems(NamedTuple):
    """Lifts by what the user did with similar items before."""

    skipped: Lift  # and watched none
    watched: Lift  # and skipped none
    both: Lift
    neither: Lift


class PassivePairs(NamedTuple):
    """How much the passive pair covers, as shares."""

    positives_after_skip: float  # right after it, and so below
    skips_before_positive: float
    training_positives_after_skip: float
    targets_after_skip: float
    candidates_before_target: float
    candidates: int


class Leakage(NamedTuple):
    """What training saw of what comes after a target; the last three only if every exposure has a time."""

    targets: int
    targets_in_training: int  # of the target's own user
    targets_read_early: int  # before they are ranked
    unseen_target_items: float  # share of the targets whose item training never shows
    targets_before_training_of_others: float | None = None  # share of the targets with later training exposures
    training_after_target: float | None = None  # share of training exposures after the mean target
    training_items_after_target: float | None = None  # share of training items first shown after the mean target


def runs(log: EventLog, users: np.ndarray, *, longest: int = 20) -> Runs:
    """Counts runs of skips, and the runs expected if each user's feedback were in random order."""
    skipped = log.feedback == SKIPPED
    edge = np.append(users[1:] != users[:-1], True)[: len(users)]
    ends = np.flatnonzero(skipped & (edge | ~np.append(skipped[1:], False)))
    breaks = np.flatnonzero(~skipped | np.append(True, edge[:-1])[: len(users)])
    # A run begins after the last exposure that was not skipped, or with its user.
    before = breaks[np.searchsorted(breaks, ends, side="right") - 1] if len(ends) else ends
    lengths = ends - before + skipped[before]
    number = np.bincount(np.minimum(lengths, longest), minlength=longest + 1)[1:]
    shown = np.bincount(users, minlength=log.num_users)
    skips = np.bincount(users[skipped], minlength=log.num_users)
    expected = _expected_runs(shown, skips, np.arange(1, longest))
    return Runs(
        lengths=list(range(1, longest + 1)),
        number=number.tolist(),
        expected=expected.tolist(),
        mean=float(lengths.mean()) if len(lengths) else 0.0,
    )


def _expected_runs(shown: np.ndarray, skips: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[n] runs of each length, over all orders of each user's feedback: (w + 1) C(n - k - 1, w - 1) / C(n, w).

    Args:
      shown: [U] exposures n of each user.
      skips: [U] how many of them were skipped; w = n - skips were not.
      lengths: [n] lengths k of runs.
    """
    (shown, skips), users = np.unique(np.stack([shown, skips]), axis=1, return_counts=True)
    n, m, k = shown[:, None], skips[:, None], lengths
    w, log_factorial = n - m, lambda x: scipy.special.gammaln(np.maximum(x, 0) + 1.0)
    ways = log_factorial(n - k - 1) - log_factorial(w - 1) - log_factorial(m - k)
    ways -= log_factorial(n) - log_factorial(w) - log_factorial(m)
    number = np.where(w > 0, np.where(k <= m, (w + 1) * np.exp(np.minimum(ways, 0)), 0), k == m)
    return users @ number


def order(log: EventLog, users: np.ndarray, *, seed: int) -> tuple[list[Pattern], list[Information]]:
    """What the last feedbacks say about the next, in the log and with each user's feedback shuffled.

    A shuffle keeps how much each user watches and destroys the order. What the log says beyond the shuffle comes from
    the order.

    Returns:
      P(watched | last feedbacks) for each pattern of up to `LAST` (oldest first, W watched, S skipped), and the mutual
      information in bits between the last 1 to `LAST` feedbacks and the next.
    """
    rng = np.random.default_rng(seed)
    shuffled = []
    for _ in range(SHUFFLES):
        places = np.lexsort((rng.random(len(users)), users))
        shuffled.append(log._replace(feedback=log.feedback[places]))
    patterns, bits = [], []
    for back in range(1, LAST + 1):
        joint = _joint(log, users, back)
        by_chance = [_joint(one, users, back) for one in shuffled]
        patterns += _patterns(joint, np.sum(by_chance, axis=0), back)
        informed, floor = mutual_information(joint), [mutual_information(one) for one in by_chance]
        bits.append(
            Information(
                feedbacks=back,
                bits=informed,
                shuffled_bits=float(np.mean(floor)),
                deviation_of_shuffles=float(np.std(floor)),
                order_bits=informed - float(np.mean(floor)),
            )
        )
    return patterns, bits


def mutual_information(joint: np.ndarray) -> float:
    """The mutual information, in bits, of the two sides of a table of counts [n, m]."""
    shares = joint / max(joint.sum(), 1)
    expected = shares.sum(axis=1, keepdims=True) * shares.sum(axis=0, keepdims=True)
    there = shares > 0
    return float(np.sum(shares[there] * np.log2(shares[there] / expected[there])))


def _joint(log: EventLog, users: np.ndarray, back: int) -> np.ndarray:
    """[2**back, 2] how often each pattern of last feedbacks was followed by a skip and by a watch.

    Bit b of a pattern is whether the exposure b + 1 places before was watched.
    """
    places = np.arange(len(users))
    codes, whole = np.zeros(len(users), np.int64), log.feedback != DISLIKED
    for b in range(back):
        before = np.maximum(places - 1 - b, 0)
        whole &= (places > b) & (users[before] == users) & (log.feedback[before] != DISLIKED)
        codes += (log.feedback[before] == WATCHED).astype(np.int64) << b
    outcome = (log.feedback == WATCHED).astype(np.int64)
    return np.bincount((codes * 2 + outcome)[whole], minlength=2 << back).reshape(-1, 2)


def _patterns(joint: np.ndarray, by_chance: np.ndarray, back: int) -> list[Pattern]:
    found = []
    for code in np.flatnonzero(joint.sum(axis=1)):
        number = int(joint[code].sum())
        share = float(joint[code, 1] / number)
        found.append(
            Pattern(
                pattern="".join("W" if code >> place & 1 else "S" for place in reversed(range(back))),
                exposures=number,
                watch_rate=share,
                half_interval=float(1.96 * np.sqrt(share * (1 - share) / number)),
                shuffled=float(by_chance[code, 1] / max(by_chance[code].sum(), 1)),
            )
        )
    return found


def similar_items(log: EventLog, users: np.ndarray, *, num_items: int, seed: int) -> SimilarItems:
    """How often users skip an item after they skipped, or watched, items similar to it.

    Similarity is the cosine of who watched two items; each item has `SIMILAR` most similar ones. Half of the users
    defines what is similar for the other half, so no exposure defines its own similarity.

    A lift is the skip rate divided by the rate expected from the user and the item alone. The expected rate is an
    estimate that includes the exposure itself, so even by chance a lift is not 1. The lift by chance is measured on
    feedback drawn anew from the expected rates.
    """
    rng = np.random.default_rng(seed)
    watched = log.feedback == WATCHED
    similar = []
    for half in (0, 1):
        others = watched & (users % 2 != half)
        similar.append(_most_similar(users[others], log.items[others], log.num_users, num_items))
    expected, redrawn = redraws(log, users, num_items=num_items, rng=rng)
    observed = _lifts(log, users, similar, expected)
    by_chance = [_lifts(one, users, similar, again) for one, again in redrawn]
    return SimilarItems(*map(_over_chance, observed, *by_chance))


def redraws(
    log: EventLog, users: np.ndarray, *, num_items: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[EventLog, np.ndarray]]]:
    """The chance of a skip [E] by user and item alone, and `REDRAWS` logs drawn from it, each with its own chances."""
    known = log.feedback != DISLIKED
    expected = _expected_skips(log, users, log.feedback == SKIPPED, known, num_items)
    redrawn, margins = [], log_odds(expected)
    centre, spread = margins.mean() if len(margins) else 0.0, 1.0
    for number in range(1 + REDRAWS):
        probability = 1 / (1 + np.exp(-(centre + spread * (margins - centre))))
        drawn = np.where(rng.random(len(users)) < probability, SKIPPED, WATCHED).astype(log.feedback.dtype)
        one = log._replace(feedback=np.where(known, drawn, log.feedback))
        again = _expected_skips(one, users, one.feedback == SKIPPED, known, num_items)
        if number:
            redrawn.append((one, again))
        elif len(margins):
            # Estimates spread more than the true rates. Drawn with less spread, they spread as the log's do.
            spread = float(min(margins.std() / max(log_odds(again).std(), 1e-9), 1.0))
    return expected, redrawn


def _over_chance(observed: Lift, *redrawn: Lift) -> Lift:
    """A lift beside those of the redrawn feedback."""
    by_chance = float(np.mean([drawn.lift for drawn in redrawn]))
    return observed._replace(lift_by_chance=by_chance, lift_over_chance=observed.lift / by_chance if by_chance else 1.0)


def _lifts(
    log: EventLog, users: np.ndarray, similar: list[scipy.sparse.csr_matrix], expected: np.ndarray
) -> SimilarItems:
    """Skip rates after each kind of feedback on similar items; `similar` is for the users of each half."""
    skipped, known = log.feedback == SKIPPED, log.feedback != DISLIKED
    seen = {kind: np.zeros(len(users), bool) for kind in (SKIPPED, WATCHED)}
    for half, neighbours in enumerate(similar):
        mine = users % 2 == half
        for kind, found in seen.items():
            found |= mine & _before(log, users, neighbours, mine & (log.feedback == kind))

    def lift(chosen: np.ndarray) -> Lift:
        number = int(chosen.sum())
        share, own = (float(values[chosen].mean()) if number else 0.0 for values in (skipped, expected))
        return Lift(
            exposures=number,
            skip_rate=share,
            half_interval=float(1.96 * np.sqrt(share * (1 - share) / max(number, 1))),
            expected=own,
            lift=share / own if own else 1.0,
        )

    return SimilarItems(
        skipped=lift(known & seen[SKIPPED] & ~seen[WATCHED]),
        watched=lift(known & seen[WATCHED] & ~seen[SKIPPED]),
        both=lift(known & seen[SKIPPED] & seen[WATCHED]),
        neither=lift(known & ~seen[SKIPPED] & ~seen[WATCHED]),
    )


def _most_similar(users: np.ndarray, items: np.ndarray, num_users: int, num_items: int) -> scipy.sparse.csr_matrix:
    """[N + 1, N + 1] 1 where the second item is one of the most similar to the first; computed in chunks.

    Only the `CATALOGUE` most watched items have similar items, and are similar to others.
    """
    kept = np.sort(np.argsort(-np.bincount(items, minlength=num_items + 1), kind="stable")[:CATALOGUE])
    place = np.full(num_items + 1, -1)
    place[kept] = np.arange(len(kept))
    there = place[items] >= 0
    users, items = users[there], place[items[there]]
    matrix = scipy.sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)), (num_users, len(kept)))
    matrix.data[:] = 1.0  # a user counts once
    lengths = np.sqrt(np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), 1))
    matrix = (matrix @ scipy.sparse.diags(1 / lengths)).tocsr()
    firsts, seconds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    transposed = matrix.T.tocsr()
    for begin in range(0, len(kept), 512):
        block = (transposed[begin : begin + 512] @ matrix).toarray()
        block[np.arange(len(block)), begin + np.arange(len(block))] = 0
        size = min(SIMILAR, block.shape[1] - 1)
        best = np.argpartition(-block, size, axis=1)[:, :size]
        there = np.take_along_axis(block, best, axis=1) > 0
        firsts.append((begin + np.nonzero(there)[0]).astype(np.int64))
        seconds.append(best[there])
    pairs = kept[np.concatenate(firsts)], kept[np.concatenate(seconds)]
    return scipy.sparse.csr_matrix((np.ones(len(pairs[0]), np.int8), pairs), (num_items + 1, num_items + 1))


def _before(log: EventLog, users: np.ndarray, similar: scipy.sparse.csr_matrix, chosen: np.ndarray) -> np.ndarray:
    """[E] whether the user had a chosen exposure of a similar item before this one."""
    found = np.zeros(len(users), bool)
    # The first such exposure of each user to each item; later ones add nothing.
    keys = users[chosen].astype(np.int64) * similar.shape[0] + log.items[chosen]
    firsts, place = np.unique(keys, return_index=True)
    times = np.flatnonzero(chosen)[place] + 1
    neighbours = np.diff(similar.indptr)
    for begin in range(0, len(users), 1 << 18):
        chunk = slice(begin, begin + (1 << 18))
        number = neighbours[log.items[chunk]]
        owner = np.repeat(np.arange(len(number)), number)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
        candidates = similar.indices[similar.indptr[log.items[chunk]][owner] + offset]
        wanted = users[chunk][owner].astype(np.int64) * similar.shape[0] + candidates
        where = np.minimum(np.searchsorted(firsts, wanted), max(len(firsts) - 1, 0))
        if len(firsts):
            earlier = (firsts[where] == wanted) & (times[where] <= begin + owner)
            found[chunk] = np.bincount(owner, earlier, minlength=len(number)) > 0
    return found


def _expected_skips(
    log: EventLog, users: np.ndarray, skipped: np.ndarray, known: np.ndarray, num_items: int
) -> np.ndarray:
    """[E] the skip probability expected from user and item: the sum of their log-odds, less those of the mean."""

    def odds_of(groups: np.ndarray, number: int) -> np.ndarray:
        shown = np.bincount(groups[known], minlength=number)
        rate = (np.bincount(groups[known], skipped[known], minlength=number) + 5 * mean) / (shown + 5)
        return log_odds(rate)

    mean = (np.count_nonzero(skipped & known) + 1) / (np.count_nonzero(known) + 2)
    centre = np.log(mean) - np.log1p(-mean)
    added = odds_of(users, log.num_users)[users] + odds_of(log.items, num_items + 1)[log.items] - centre
    probability = 1 / (1 + np.exp(-added))
    # The sum of log-odds of shrunken rates is biased; this makes the expected total equal the observed one.
    total = probability[known].sum()
    return np.clip(probability * skipped[known].sum() / total, 0, 1) if total else probability


def log_odds(rate: np.ndarray) -> np.ndarray:
    """Log-odds of rates, which are kept away from 0 and 1."""
    rate = np.clip(rate, 1e-6, 1 - 1e-6)
    return np.log(rate) - np.log1p(-rate)


def passive_pairs(log: EventLog, users: np.ndarray, split: Split) -> PassivePairs:
    """How much of a log is in passive pairs: a watched exposure and the skip right before it."""
    watched, skipped = log.feedback == WATCHED, log.feedback == SKIPPED
    same = np.append(False, users[1:] == users[:-1])[: len(users)]
    paired = watched & same & np.append(False, skipped[:-1])[: len(users)]
    followed = np.append(paired[1:], False)[: len(users)]
    learned = log.before(split.train_end)
    ranked = split.target >= 0
    candidates = skipped & ~log.before(split.candidates_begin) & log.before(split.candidates_end)
    right_before = candidates & (np.arange(len(users)) == split.target[users] - 1)
    return PassivePairs(
        positives_after_skip=_share(paired, watched),
        skips_before_positive=_share(followed, skipped),
        training_positives_after_skip=_share(paired & learned, watched & learned),
        targets_after_skip=float(paired[split.target[ranked]].mean()) if ranked.any() else 0.0,
        candidates_before_target=_share(right_before, candidates),
        candidates=int(candidates.sum()),
    )


def leakage(log: EventLog, split: Split) -> Leakage:
    """Whether training saw what comes after a target: in the user's own log, and in the time of all users."""
    learned = log.before(split.train_end)
    ranked = np.flatnonzero(split.target >= 0)
    found = Leakage(
        targets=len(ranked),
        targets_in_training=int(np.count_nonzero(split.target[ranked] < split.train_end[ranked])),
        targets_read_early=int(np.count_nonzero(split.target[ranked] < split.history_end[ranked])),
        unseen_target_items=_share(
            ~np.isin(log.items[split.target[ranked]], np.unique(log.items[learned])), np.ones(len(ranked), bool)
        ),
    )
    if (log.times >= 0).all() and len(ranked) and learned.any():
        training, times = np.sort(log.times[learned]), log.times[split.target[ranked]]
        later = len(training) - np.searchsorted(training, times, side="right")
        first_shown = np.full(int(log.items.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first_shown, log.items, log.times)
        learned_items = np.unique(log.items[learned])
        released = np.sort(first_shown[learned_items])
        unborn = len(released) - np.searchsorted(released, times, side="right")
        found = found._replace(
            targets_before_training_of_others=float(np.mean(later > 0)),
            training_after_target=float(later.mean() / len(training)),
            training_items_after_target=float(unborn.mean() / len(released)),
        )
    return found


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return int(np.count_nonzero(part & whole)) / max(int(np.count_nonzero(whole)), 1)
