"""The signed kernel alone: it reads every user's history, and finds a law that was planted."""

import numpy as np
import pytest
from logs import planted, random_log

from sine_jax.batches import windows
from sine_jax.data import splits
from sine_jax.evaluation import memory, simple_scorers


def within(log, split, num_items):
    return simple_scorers.within_users(log, simple_scorers.training(log, split), num_items=num_items)


def test_rows_hold_every_exposure_of_the_users_once_and_in_order():
    begins, ends = np.array([0, 7, 7, 20, 900]), np.array([5, 7, 19, 900, 903])
    places, first = memory._in_rows(begins, ends)
    there = places[places >= 0]
    expected = np.concatenate([np.arange(b, e) for b, e in zip(begins, ends, strict=True)])
    np.testing.assert_array_equal(there, expected)
    assert set(places[first]) == {0, 7, 20, 900}


@pytest.mark.parametrize("at_once", [40, 1 << 20])
def test_the_memory_is_that_of_all_that_may_be_read(at_once, monkeypatch):
    monkeypatch.setattr(memory, "AT_ONCE", at_once)
    monkeypatch.setattr(memory, "STEP", 8)
    log = random_log()
    split = splits.last_positive(log, after_target=True).test
    reading = windows.read(log, split, num_skips=1, read_skips=True)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(51, 3)).astype(np.float32)
    kernel = {"weights": rng.normal(size=(2, 3)), "decays": rng.normal(size=(2, 3))}
    found = memory._memory_at(kernel, reading, table, np.arange(log.num_users))
    weights, decays = 10 * kernel["weights"], 1 / (1 + np.exp(-kernel["decays"]))
    for user in range(log.num_users):
        at = np.arange(reading.offsets[user], reading.history_ends[user])
        kinds, ages = reading.watched[at].astype(int), len(at) - 1 - np.arange(len(at))
        factor = (weights[kinds] * decays[kinds] ** ages[:, None]).sum(axis=1)
        np.testing.assert_allclose(found[user], factor @ table[reading.items[at]], rtol=1e-3, atol=1e-3)


def test_a_planted_law_is_found():
    log = planted(num_users=1_500, num_items=100, num_interests=4, skip_effect=1.5, skip_decay=0.9)
    split = splits.last_positive(log, after_target=True).valid
    fitted = memory.fit(log, split, within(log, split, 100), owners=np.arange(log.num_users), ends=split.history_end)
    ranked = np.flatnonzero(split.target >= 0)
    right = {"memory": [], "biases": []}
    for user in ranked:
        shown = np.arange(split.candidates_begin[user], split.candidates_end[user])
        skips = log.items[shown[log.feedback[shown] == 0]]
        if not len(skips):
            continue
        target = log.items[split.target[user]]
        biases = np.asarray(fitted.biases.items)
        scores = biases + np.asarray(fitted.items) @ np.asarray(fitted.users[user])
        for name, values in (("memory", scores), ("biases", biases)):
            right[name].append(np.mean(values[target] > values[skips]))
    gain = np.array(right["memory"]) - np.array(right["biases"])
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain)) > 0


def test_a_log_without_pairs_gives_the_biases_alone():
    log = random_log(num_users=6)
    log = log._replace(feedback=np.ones_like(log.feedback))
    split = splits.last_positive(log, after_target=True).valid
    fitted = memory.fit(log, split, within(log, split, 50), owners=np.arange(log.num_users), ends=split.history_end)
    assert not np.any(fitted.users)
