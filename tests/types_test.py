"""What a log says of its users' exposures, against loops over users."""

import numpy as np
import pytest
from logs import make_log, random_log

from sine_jax.types import WATCHED

LOGS = {
    "drawn": random_log(),
    "empty users": make_log([], [(3, WATCHED)], [], [(1, WATCHED), (2, WATCHED)], []),
    "no exposures": make_log([], []),
}


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
def test_users_lengths_and_what_is_before_an_end(log):
    ends = np.random.default_rng(1).integers(log.offsets[:-1], log.offsets[1:] + 1)
    users, lengths, before = [], [], []
    for user in range(log.num_users):
        begin, end = log.offsets[user : user + 2].tolist()
        users += [user] * (end - begin)
        lengths.append(end - begin)
        before += [position < ends[user] for position in range(begin, end)]
    np.testing.assert_array_equal(log.users, np.array(users, np.int64))
    np.testing.assert_array_equal(log.lengths, np.array(lengths, np.int64))
    np.testing.assert_array_equal(log.before(ends), np.array(before, bool))
    assert (log.users.dtype, log.lengths.dtype, log.before(ends).dtype) == (np.int64, np.int64, bool)
