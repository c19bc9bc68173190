import itertools
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from logs import NUM_ITEMS, configured, prepared, random_log

from sine_jax import config as configs
from sine_jax import presets
from sine_jax.batches import negatives, pipeline
from sine_jax.data import splits
from sine_jax.types import PAD, WATCHED, EventLog


def sizes(stratum, config):
    return {"width": stratum.width, "config": config, "num_items": NUM_ITEMS}


def random_bits(users, ranks, number=2):
    return negatives.random_bits(0, 0, users, ranks, number)


def assemble(source, stratum, users, config):
    """Users [B, P] of a row each, or [B] who have it alone."""
    users = users if users.ndim == 2 else users[:, None]
    number = config.objective.num_negatives
    return pipeline.assemble(
        source,
        users,
        lambda *where: np.asarray(random_bits(*map(jnp.asarray, where), number)),
        **sizes(stratum, config),
    )


def test_every_user_with_a_pair_is_in_exactly_one_batch_of_an_epoch():
    config = configured()
    source, strata = prepared(config)
    batches = pipeline.schedule(strata, seed=0, epoch=0, multiple=4)
    users = np.concatenate([batch[batch >= 0] for batch in batches])
    trained = np.flatnonzero(source.reading.train_ends > source.reading.offsets[:-1])
    np.testing.assert_array_equal(np.sort(users), trained)
    assert strata.num_steps == -(-len(trained) // config.train.batch_size)


@pytest.mark.parametrize("packed", [False, True])
def test_a_window_holds_all_of_its_users(packed):
    config = configured()
    source, strata = prepared(config, packed=packed)
    lengths = np.minimum(np.append(source.reading.train_ends - source.reading.offsets[:-1], 0), config.model.max_len)
    for stratum in strata.strata:
        users = np.where(stratum.layout < 0, -1, stratum.users[stratum.layout])
        assert packed or users.shape[1] == 1
        batch = assemble(source, stratum, users, config)
        np.testing.assert_array_equal((batch.items != PAD).sum(1), lengths[users].sum(1))
        assert lengths[users].sum(1).max() == stratum.width


def test_users_who_share_rows_get_the_pairs_that_they_get_alone():
    config = configured()
    source, strata = prepared(config)
    for stratum in strata.strata:
        shared = assemble(source, stratum, np.where(stratum.layout < 0, -1, stratum.users[stratum.layout]), config)
        alone = assemble(source, stratum, stratum.users, config)

        def pairs(batch):
            there = batch.items != PAD
            own = np.sort(batch.users[:, :1], axis=1) if batch.segments is None else batch.users
            place = np.zeros(there.shape, int) if batch.segments is None else batch.segments
            owners = np.take_along_axis(own, place, axis=1)[there]
            columns = [
                batch.items,
                batch.positives,
                batch.negatives[..., 0],
                batch.negatives[..., 1],
                batch.skips[..., 0],
            ]
            found = np.stack([owners, *(column[there] for column in columns)], axis=1)
            return found[np.argsort(owners, kind="stable")]

        np.testing.assert_array_equal(pairs(shared), pairs(alone))


def test_hardly_anything_is_padding_on_lengths_as_they_are():
    lengths = np.minimum(1 + np.random.default_rng(0).geometric(1 / 14, 4000), 90)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    reading = prepared(configured())[0].reading._replace(offsets=offsets, train_ends=offsets[1:])
    config = configs.replace(configs.Config(), {"model.max_len": 200})
    shared, alone = (pipeline.stratify(reading, config=config, packed=packed) for packed in (True, False))
    assert shared.tokens == alone.tokens == lengths.sum()
    computed, apart = (sum(len(part.layout) * part.width for part in strata.strata) for strata in (shared, alone))
    assert computed < 1.1 * shared.tokens < 1.2 * shared.tokens < apart


def test_batches_are_the_same_for_any_number_of_devices_but_for_fillers():
    _, strata = prepared(configured())
    alone, eight = (pipeline.schedule(strata, seed=1, epoch=2, multiple=m) for m in (1, 8))
    for a, b in zip(alone, eight, strict=True):
        assert b.shape[1] % 8 == 0
        np.testing.assert_array_equal(a, b[:, : a.shape[1]])
        assert (b[:, a.shape[1] :] == -1).all()


def test_order_follows_from_seed_and_epoch():
    _, strata = prepared(configured())

    def flat(seed, epoch):
        return np.concatenate([b.ravel() for b in pipeline.schedule(strata, seed=seed, epoch=epoch, multiple=1)])

    np.testing.assert_array_equal(flat(0, 1), flat(0, 1))
    assert (flat(0, 1) != flat(0, 2)).any() and (flat(0, 1) != flat(1, 1)).any()


def test_host_and_device_assemble_the_same_batch():
    config = configured()
    source, strata = prepared(config)
    users = np.where(strata.strata[0].layout < 0, -1, strata.strata[0].users[strata.strata[0].layout])
    host = assemble(source, strata.strata[0], users, config)
    device = jax.jit(lambda s, u: pipeline.assemble(s, u, random_bits, **sizes(strata.strata[0], config)))(
        jax.tree.map(jnp.asarray, source), users
    )
    jax.tree.map(np.testing.assert_array_equal, host, device)


def test_fillers_are_all_padding():
    config = configured()
    source, strata = prepared(config)
    batch = assemble(source, strata.strata[0], np.array([-1], np.int32), config)
    assert not any(array.any() for array in batch[1:] if array is not None)


def test_negatives_are_where_targets_are_and_never_what_the_user_saw_in_training():
    config = configured()
    log = random_log()
    source, strata = prepared(config, log)
    ends = splits.split(log, config=config.data).valid.train_end
    for stratum in strata.strata:
        batch = assemble(source, stratum, stratum.users, config)
        np.testing.assert_array_equal(batch.negatives[..., 0] != PAD, batch.positives != PAD)
        for user, drawn in zip(stratum.users, batch.negatives, strict=True):
            assert not np.isin(drawn[drawn != PAD], log.items[log.offsets[user] : ends[user]]).any()


def test_nothing_after_the_end_of_training_reaches_a_batch():
    config = configured()
    log = random_log()
    ends = splits.split(log, config=config.data).valid.train_end
    users = np.repeat(np.arange(log.num_users), np.diff(log.offsets))
    later = np.arange(len(users)) >= ends[users]
    changed = log._replace(items=np.where(later, NUM_ITEMS + 1 - log.items, log.items))
    assert (changed.items != log.items).any()
    (one, strata), (other, _) = prepared(config, log), prepared(config, changed)
    for stratum in strata.strata:
        a, b = (assemble(source, stratum, stratum.users, config) for source in (one, other))
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_negatives_are_drawn_once_where_they_are_not_resampled():
    assert pipeline.negatives_epoch(5, config=configured(objective__resample_negatives=False)) == 0
    assert pipeline.negatives_epoch(5, config=configured()) == 5


def test_a_log_without_training_pairs_is_refused():
    log = random_log()
    with pytest.raises(ValueError, match="^data.split_by=last_positive: none of .* users has a training pair; prepare"):
        prepared(configured(), log._replace(feedback=np.zeros_like(log.feedback)))


def test_prefetching_keeps_order_passes_errors_on_and_ends_with_its_reader():
    def failing():
        yield from range(3)
        raise ValueError("told by the thread")

    seen = []
    with pytest.raises(ValueError, match="told by the thread"):
        for item in pipeline.prefetch(failing(), size=1):
            seen.append(item)
    assert seen == [0, 1, 2]
    threads = threading.active_count()
    endless = pipeline.prefetch(itertools.count(), size=2)
    assert next(endless) == 0
    endless.close()
    assert threading.active_count() == threads


def test_official_batches_are_the_sequences_of_the_released_code(golden_dir):
    """Inputs, targets and the skip of each target, for every user of the golden log."""
    expected = json.loads((golden_dir / "splits.json").read_text())
    lines = [line.split("\t") for line in (golden_dir / "log.tsv").read_text().splitlines()]
    items, feedback = ([np.array(row[i].split(), int) for row in lines] for i in (1, 2))
    unknown = np.full(sum(map(len, items)), -1, np.int32)
    log = EventLog(
        np.concatenate(items).astype(np.int32),
        np.concatenate(feedback).astype(np.int8),
        unknown.astype(np.int64),
        unknown,
        unknown,
        np.concatenate([[0], np.cumsum([len(i) for i in items])]),
    )
    config = configs.replace(presets.official(), {"model.max_len": expected["max_len"]})
    num_items = expected["max_item_id"]
    source = pipeline.lay_out(log, splits.split(log, config=config.data).valid, config=config, num_items=num_items)
    trained = 0
    for stratum in pipeline.stratify(source.reading, config=config, packed=True).strata:
        size = {"width": stratum.width, "config": config, "num_items": num_items}
        bits = np.zeros((len(stratum.users), stratum.width, 1), np.uint32)
        batch = pipeline.assemble(source, stratum.users[:, None], lambda *_: bits, **size)  # noqa: B023
        for row, user in enumerate(stratum.users):
            train_items, train_feedback = map(np.array, expected["users"][lines[user][0]]["train"])
            positives = np.flatnonzero(train_feedback)
            pairs = [
                (train_items[a], train_items[b], train_items[b - 1] if b - 1 > a else PAD)
                for a, b in itertools.pairwise(positives)
            ]
            used = batch.items[row] != PAD
            found = zip(batch.items[row], batch.positives[row], batch.skips[row, :, 0], strict=True)
            assert [pair for pair, there in zip(found, used, strict=True) if there] == pairs
            trained += 1
    assert trained == sum(sum(user["train"][1]) >= 2 for user in expected["users"].values())


@pytest.mark.parametrize("kind", ["popularity", "in_batch", "skips"])
def test_other_negatives_are_never_the_users_own_watched_items(kind):
    config = configured(objective__negatives=kind, objective__num_negatives=20, objective__num_skips=4)
    log = random_log()
    source, strata = prepared(config, log)
    found = set()
    for stratum in strata.strata:
        batch = assemble(source, stratum, stratum.users, config)
        for row, user in enumerate(batch.users[:, 0]):
            own = slice(log.offsets[user], source_end(log, config, user))
            watched = set(log.items[own][log.feedback[own] == WATCHED].tolist())
            drawn = set(batch.negatives[row].ravel().tolist()) - {PAD}
            skips = set(batch.skips[row].ravel().tolist())
            assert not drawn & watched
            assert kind != "skips" or drawn <= skips
            found |= drawn
    assert len(found) > 3


def source_end(log, config, user):
    return splits.split(log, config=config.data).valid.train_end[user]


@pytest.mark.parametrize("kind", ["uniform", "popularity", "in_batch"])
def test_chances_of_negatives_come_with_a_softmax_alone(kind):
    log = random_log()
    config = configured(objective__sampled_form="softmax", objective__negatives=kind)
    source, strata = prepared(config, log)
    stratum = strata.strata[-1]
    batch = assemble(source, stratum, stratum.users, config)
    learned = log.before(splits.split(log, config=config.data).valid.train_end)
    watched = log.items[learned & (log.feedback == WATCHED)]
    counts = np.bincount(watched, minlength=NUM_ITEMS + 1) + 1
    for row, column, draw in zip(*np.nonzero(batch.negatives), strict=True):
        seen = log.items[learned & (log.users == batch.users[row, 0])]
        by_count = counts[batch.negatives[row, column, draw]] / counts[1:].sum()
        chance = 1 / (NUM_ITEMS - len(set(seen.tolist()))) if kind == "uniform" else by_count
        np.testing.assert_allclose(batch.log_chances[row, column, draw], np.log(chance), rtol=1e-5)
    pairwise = configured(objective__negatives=kind)
    assert assemble(source, stratum, stratum.users, pairwise).log_chances is None
    assert (prepared(pairwise, log)[0].popularity is None) == (kind != "popularity")
    assert (source.popularity is None) == (kind == "uniform")
