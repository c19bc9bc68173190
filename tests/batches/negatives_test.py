import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sine_jax.batches import negatives
from sine_jax.types import PAD, EventLog


def log_of(items_of_users):
    lengths = [len(items) for items in items_of_users]
    items = np.array([item for items in items_of_users for item in items], np.int32)
    column = np.zeros(len(items), np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return EventLog(items, column.astype(np.int8), column.astype(np.int64), column, column, offsets)


def seen_of(items_of_users, num_items):
    log = log_of(items_of_users)
    return negatives.seen_until(log, log.offsets[1:], num_items)


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("own", [[], [1], [9], [1, 2, 3], [7, 8, 9], [2, 5, 5, 2, 8], [1, 2, 3, 4, 6, 7, 8, 9]])
def test_every_rank_gives_the_item_of_that_rank_in_the_complement(xp, own):
    num_items = 9
    seen = jax.tree.map(xp.asarray, seen_of([[4], own, [3, 1]], num_items))
    complement = sorted(set(range(1, num_items + 1)) - set(own))
    bits = xp.arange(len(complement), dtype=xp.uint32)[None, :]
    drawn = negatives.draw(seen, xp.asarray([1]), bits, num_items)
    assert np.asarray(drawn).ravel().tolist() == complement


def test_draws_from_a_large_catalogue_equal_brute_force():
    rng, num_items = np.random.default_rng(0), 1000
    own = [rng.integers(1, num_items + 1, size=size) for size in (0, 1, 50, 400, 3000)]
    seen = seen_of(own, num_items)
    bits = rng.integers(0, 2**32, size=(5, 40, 2), dtype=np.uint32)
    drawn = negatives.draw(seen, np.arange(5)[:, None].repeat(40, axis=1), bits, num_items)
    for user, items in enumerate(own):
        complement = np.setdiff1d(np.arange(1, num_items + 1), items)
        np.testing.assert_array_equal(drawn[user], complement[bits[user] % len(complement)])


def test_draws_are_uniform_over_unseen_items_and_never_seen():
    num_items, draws = 8, 20_000
    seen = jax.tree.map(jnp.asarray, seen_of([[2, 3, 7]], num_items))
    users = jnp.zeros(draws, jnp.int32)
    drawn = negatives.draw(seen, users, negatives.random_bits(0, 0, users, jnp.arange(draws), 1), num_items)
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=num_items + 1)
    unseen, deviation = [1, 4, 5, 6, 8], np.sqrt(draws * 1 / 5 * 4 / 5)
    assert counts[unseen].sum() == draws
    np.testing.assert_allclose(counts[unseen], draws / 5, atol=4 * deviation)


def test_without_exclusion_every_item_is_drawn_by_its_rank():
    bits = np.arange(6, dtype=np.uint32).reshape(2, 3)
    drawn = negatives.draw(negatives.none_seen(2), np.arange(2), bits, 4)
    np.testing.assert_array_equal(drawn, 1 + bits % 4)


def test_bits_of_a_user_depend_on_seed_and_epoch_but_not_on_the_batch():
    alone = negatives.random_bits(3, 1, jnp.array([7]), jnp.array([5]), 3)
    among = negatives.random_bits(3, 1, jnp.array([[2, 7], [7, 4]]), jnp.array([[5, 4], [5, 5]]), 3)
    np.testing.assert_array_equal(alone[0], among[1, 0])
    for seed, epoch, user, rank in ((4, 1, 7, 5), (3, 2, 7, 5), (3, 1, 8, 5), (3, 1, 7, 6)):
        other = negatives.random_bits(seed, epoch, jnp.array([user]), jnp.array([rank]), 3)
        assert not np.intersect1d(other, alone).size


def test_bits_of_users_and_rows_are_independent():
    """Each bit of each word, over users, over rows and over words, against chance."""
    users, ranks = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    words = np.asarray(negatives.random_bits(0, 0, jnp.asarray(users), jnp.asarray(ranks), 2))
    bits = ((words[..., None] >> np.arange(32, dtype=np.uint32)) & 1).astype(float) - 0.5
    assert len(np.unique(words)) == words.size
    for first, second in ((bits[1:], bits[:-1]), (bits[:, 1:], bits[:, :-1]), (bits[..., :1, :], bits[..., 1:, :])):
        agreement = 4 * (first * second).mean(axis=(0, 1))
        np.testing.assert_allclose(agreement, 0, atol=5 / np.sqrt(first[..., 0, 0].size))
    np.testing.assert_allclose(bits.mean(axis=(0, 1)), 0, atol=2.5 / 64)


def test_exposures_after_the_bound_are_not_excluded():
    log = log_of([[1, 2, 3], [4, 1]])
    seen = negatives.seen_until(log, np.array([1, 5]), 4)
    bits = np.arange(3, dtype=np.uint32)[None, :]
    assert negatives.draw(seen, np.array([0]), bits, 4).ravel().tolist() == [2, 3, 4]


def test_a_user_who_has_seen_everything_draws_from_all_and_does_not_stop_the_others():
    log = log_of([[1], [3, 1, 2], [2, 2, 2]])
    seen = negatives.seen_until(log, log.offsets[1:], 3)
    bits = np.arange(6, dtype=np.uint32)[None, :]
    drawn = [negatives.draw(seen, np.array([user]), bits, 3).ravel().tolist() for user in range(3)]
    assert set(drawn[0]) == {2, 3} and set(drawn[1]) == {1, 2, 3} and set(drawn[2]) == {1, 3}
    assert negatives.exhausted(log, log.offsets[1:], 3).tolist() == [1]
    assert negatives.exhausted(log, log.offsets[1:] - 1, 3).tolist() == []


@pytest.mark.parametrize("xp", [np, jnp])
def test_popular_items_are_drawn_as_often_as_they_were_watched(xp):
    log = log_of([[1, 2, 2, 4], [2]])._replace(feedback=np.array([1, 1, 1, 0, 1], np.int8))
    popular = negatives.Popularity(xp.asarray(negatives.popularity(log, log.offsets[1:], 4).cumulative))
    drawn = negatives.draw_popular(popular, xp.arange(8, dtype=xp.uint32))
    assert np.bincount(drawn, minlength=5).tolist() == [0, 2, 4, 1, 1]  # each item once more than it was watched
    chances = negatives.log_chance(popular, xp.arange(1, 5))
    np.testing.assert_allclose(chances, np.log(np.array([2, 4, 1, 1]) / 8), rtol=1e-6)


@pytest.mark.parametrize("xp", [np, jnp])
def test_what_was_seen_is_found_and_nothing_else(xp):
    seen = jax.tree.map(xp.asarray, seen_of([[4], [7, 1, 7, 3], [], [9]], 9))
    items = xp.broadcast_to(xp.arange(1, 10), (4, 9))
    found = negatives.is_seen(seen, xp.arange(4), items, 9)
    expected = [[i in own for i in range(1, 10)] for own in ({4}, {1, 3, 7}, set(), {9})]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("xp", [np, jnp])
def test_a_batch_made_for_several_devices_has_the_in_batch_negatives_of_each(xp):
    rng = np.random.default_rng(0)
    positives = xp.asarray(rng.integers(0, 30, (4, 5)).astype(np.int32) * (np.arange(5) > 0))
    bits = xp.asarray(rng.integers(0, 2**32, (4, 5, 3), dtype=np.uint32))
    whole = negatives.draw_in_batch(positives, bits, devices=2)
    parts = [negatives.draw_in_batch(positives[i : i + 2], bits[i : i + 2]) for i in (0, 2)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    there = np.asarray(positives[:2])[positives[:2] != PAD]
    assert len(there) < 10  # positions without a target are never drawn
    np.testing.assert_array_equal(parts[0], there[np.asarray(bits[:2]) % len(there)])


def test_a_batch_without_targets_has_no_in_batch_negatives():
    drawn = negatives.draw_in_batch(np.zeros((2, 3), np.int32), np.arange(12, dtype=np.uint32).reshape(2, 3, 2))
    assert not drawn.any()


@pytest.mark.parametrize("xp", [np, jnp])
def test_the_chance_of_a_uniform_draw_is_one_over_what_the_user_has_not_seen(xp):
    seen = jax.tree.map(xp.asarray, seen_of([[4], [7, 1, 7, 3], [], [9]], 9))
    chances = negatives.log_chance_unseen(seen, xp.arange(4), 9)
    np.testing.assert_allclose(chances, -np.log([8.0, 6.0, 9.0, 8.0]), rtol=1e-6)


def test_more_exposures_than_a_word_can_choose_among_are_refused(monkeypatch):
    monkeypatch.setattr(negatives, "_MOST_COUNTED", 6)
    log = log_of([[1, 2, 2]])._replace(feedback=np.ones(3, np.int8))
    with pytest.raises(
        ValueError, match="objective.negatives=popularity: .* too many to count.*; use objective.negatives=uniform"
    ):
        negatives.popularity(log, log.offsets[1:], 4)


@pytest.mark.parametrize("xp", [np, jnp])
def test_each_skip_that_there_is_is_drawn_by_its_rank_and_none_where_there_is_none(xp):
    skips = xp.asarray(np.array([[[PAD, 7, PAD, 9], [PAD, PAD, PAD, PAD], [3, 4, 5, 6]]], np.int32))
    bits = xp.asarray(np.tile(np.arange(4, dtype=np.uint32), (1, 3, 1)))
    expected = [[[7, 9, 7, 9], [PAD] * 4, [3, 4, 5, 6]]]
    assert np.asarray(negatives.draw_skips(skips, bits)).tolist() == expected


def test_only_exposures_that_count_are_collected():
    log = log_of([[1, 2, 3]])
    seen = negatives.seen_until(log, log.offsets[1:], 3, where=np.array([True, False, True]))
    assert negatives.is_seen(seen, np.array([0]), np.array([[1, 2, 3]]), 3).tolist() == [[True, False, True]]
