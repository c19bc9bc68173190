"""Rows, pairs and windows against a plain reading of the log, user by user."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.batches import windows
from sine_jax.data import splits
from sine_jax.types import DISLIKED, PAD, SKIPPED, WATCHED, EventLog


def random_log(seed=0, users=40):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, users)
    total = int(counts.sum())
    return EventLog(
        items=rng.integers(1, 50, total).astype(np.int32),
        feedback=rng.choice([SKIPPED, WATCHED, DISLIKED], total, p=[0.5, 0.4, 0.1]).astype(np.int8),
        times=np.arange(total, dtype=np.int64),
        plays=np.full(total, -1, np.int32),
        durations=np.full(total, -1, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def plain_rows(log, user, train_end, num_skips, read_skips, after_skips):
    """What `read` should make of one user, by following its exposures one at a time."""
    rows, begin, end = [], log.offsets[user], log.offsets[user + 1]
    for i in range(begin, end):
        if log.feedback[i] == WATCHED or (read_skips and log.feedback[i] == SKIPPED):
            later = [j for j in range(i + 1, train_end) if log.feedback[j] == WATCHED]
            target, skips = PAD, [PAD] * num_skips
            if (after_skips or log.feedback[i] == WATCHED) and later:
                target = log.items[later[0]]
                for s in range(num_skips):
                    j = later[0] - 1 - s
                    skips[s] = log.items[j] if j > i and log.feedback[j] == SKIPPED else PAD
            rows.append((log.items[i], log.feedback[i] == WATCHED, target, tuple(skips)))
    return rows


@pytest.mark.parametrize(("read_skips", "after_skips"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("num_skips", [1, 3])
def test_rows_are_a_plain_reading_of_the_log(num_skips, read_skips, after_skips):
    log = random_log()
    split = splits.last_positive(log, after_target=True).valid
    reading = windows.read(log, split, num_skips=num_skips, read_skips=read_skips, after_skips=after_skips)
    for user in range(log.num_users):
        rows = slice(reading.offsets[user], reading.offsets[user + 1])
        found = list(
            zip(
                reading.items[rows],
                reading.watched[rows],
                reading.targets[rows],
                map(tuple, reading.skips[rows]),
                strict=True,
            )
        )
        assert found == plain_rows(log, user, split.train_end[user], num_skips, read_skips, after_skips)
        with_target = np.flatnonzero(reading.targets[rows])
        expected_end = reading.offsets[user] + (with_target[-1] + 1 if len(with_target) else 0)
        assert reading.train_ends[user] == expected_end


def test_history_ends_before_the_target():
    log = random_log()
    split = splits.last_positive(log, after_target=True).test
    reading = windows.read(log, split, num_skips=1, read_skips=True)
    for user in np.flatnonzero(split.target >= 0):
        feedback = log.feedback[log.offsets[user] : split.history_end[user]]
        assert reading.history_ends[user] - reading.offsets[user] == np.sum(feedback != DISLIKED)
        assert split.history_end[user] <= split.target[user]


def test_windows_are_left_padded_and_end_where_told():
    log = random_log()
    reading = windows.read(log, splits.last_positive(log, after_target=True).valid, num_skips=2, read_skips=True)
    users = np.array([3, -1, 7])
    for width in (1, 4, 64):
        found = windows.window(reading, users[:, None], reading.history_ends, width=width)
        items, watched, targets, skips = found[:4]
        assert found.times is found.segments is None
        assert items.shape == watched.shape == targets.shape == skips.shape[:2] == (3, width)
        for row, user in enumerate(users):
            rows = np.arange(reading.offsets[user], reading.history_ends[user])[-width:] if user >= 0 else []
            assert np.all(items[row, : width - len(rows)] == PAD)
            assert not np.any(watched[row, : width - len(rows)])
            np.testing.assert_array_equal(items[row, width - len(rows) :], reading.items[list(rows)])
            np.testing.assert_array_equal(skips[row, width - len(rows) :], reading.skips[list(rows)])


def test_users_of_a_row_stand_side_by_side_at_its_right():
    log = random_log()
    reading = windows.read(log, splits.last_positive(log, after_target=True).valid, num_skips=2, read_skips=True)
    users = np.array([[3, 8, 5], [7, -1, -1], [-1, -1, -1]])
    found = windows.window(reading, users, reading.history_ends, width=90, limit=11)
    for row, own in enumerate(users):
        parts = [np.arange(reading.offsets[u], reading.history_ends[u])[-11:] for u in own if u >= 0]
        rows = np.concatenate([*parts, np.zeros(0, int)]).astype(int)
        empty, lengths = 90 - len(rows), [len(part) for part in parts]
        assert not found.items[row, :empty].any() and (found.users[row, :empty] == -1).all()
        np.testing.assert_array_equal(found.items[row, empty:], reading.items[rows])
        np.testing.assert_array_equal(found.targets[row, empty:], reading.targets[rows])
        np.testing.assert_array_equal(found.users[row, empty:], np.repeat(own[own >= 0], lengths))
        np.testing.assert_array_equal(found.segments[row, empty:], np.repeat(np.arange(len(parts)), lengths))
        np.testing.assert_array_equal(found.ranks[row, empty:], rows - reading.offsets[found.users[row, empty:]])


def test_numpy_and_jax_agree():
    log = random_log()
    reading = windows.read(
        log, splits.last_positive(log, after_target=True).valid, num_skips=2, read_skips=True, read_times=True
    )
    reading = jax.tree.map(lambda a: a.astype(np.int32) if a.dtype == np.int64 else a, reading)
    users = np.array([[0, 5, -1], [39, 5, 3], [-1, -1, -1], [7, -1, -1]], np.int32)
    on_host = windows.window(reading, users, reading.train_ends, width=60)
    on_device = jax.jit(lambda r, u: windows.window(r, u, r.train_ends, width=60))(
        jax.tree.map(jnp.asarray, reading), jnp.asarray(users)
    )
    for host, device in zip(on_host, on_device, strict=True):
        np.testing.assert_array_equal(host, device)


def test_times_are_seconds_since_the_first_exposure_of_the_log():
    log = random_log()
    log = log._replace(times=1_650_000_000_123 + 1500 * log.times)
    split = splits.last_positive(log, after_target=True).valid
    reading = windows.read(log, split, num_skips=1, read_skips=True, read_times=True)
    expected = (1500 * np.arange(len(log.items)) // 1000)[log.feedback != DISLIKED]
    np.testing.assert_array_equal(reading.times, expected)
    assert reading.times.dtype == np.int32
    user = int(np.argmax(reading.history_ends - reading.offsets[:-1]))
    end = reading.history_ends[user]
    found = windows.window(reading, np.array([[user]]), reading.history_ends, width=4)
    np.testing.assert_array_equal(found.times[0], reading.times[end - 4 : end])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (lambda t: t * 0 - 1, r"model.read_times=True: (\d+) of \1 exposures have no time; prepare .*=False"),
        (
            lambda t: t * 10**11,
            r"model.read_times=True: exposures are \d+ years apart, not within 68; prepare .*=False",
        ),
    ],
)
def test_times_that_are_unknown_or_too_far_apart_are_refused(times, message):
    log = random_log()
    log = log._replace(times=times(log.times))
    with pytest.raises(ValueError, match=message):
        windows.read(
            log, splits.last_positive(log, after_target=True).valid, num_skips=1, read_skips=True, read_times=True
        )
