"""Rows of few widths for sequences of many lengths."""

import itertools

import numpy as np
import pytest

from sine_jax.batches import packing


def cost(counts, widths, num_steps, packed):
    """What `choose_widths` has to keep low, length by length."""
    total, begin = 0, 0
    for width in widths:
        lengths = np.repeat(np.arange(begin + 1, width + 1), counts[begin + 1 : width + 1])
        alone = sum(2 * length > width for length in lengths)
        rows = max(-(-lengths.sum() // width), alone) if packed else len(lengths)
        total += -(-rows // num_steps) * width * (width + 128)
        begin = width
    return total


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_widths", [1, 2, 3, 4])
def test_widths_are_the_cheapest_there_are(num_widths, packed):
    for seed in range(5):
        counts = np.random.default_rng(seed).integers(0, 40, 12) * (np.arange(12) > 0)
        counts[-1] += 1
        needed = np.flatnonzero(counts)
        every = [
            sorted([*chosen, needed[-1]])
            for size in range(num_widths)
            for chosen in itertools.combinations(needed[:-1].tolist(), size)
        ]
        widths = packing.choose_widths(counts, num_widths=num_widths, num_steps=2, packed=packed)
        assert len(widths) <= num_widths and widths[-1] == needed[-1]
        assert cost(counts, widths, 2, packed) == min(cost(counts, some, 2, packed) for some in every)


@pytest.mark.parametrize("seed", range(20))
def test_every_sequence_is_in_one_row_that_holds_it(seed):
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 60))
    lengths = np.sort(rng.integers(1, width + 1, int(rng.integers(1, 300))))
    layout = packing.pack(lengths, width)
    there = layout >= 0
    assert sorted(layout[there].tolist()) == list(range(len(lengths)))
    filled = np.where(there, lengths[layout], 0).sum(axis=1)
    assert filled.max() <= width
    assert (np.diff(there.astype(int), axis=1) <= 0).all(), "room is left behind the last sequence alone"
    best = max(-(-lengths.sum() // width), (2 * lengths > width).sum())
    assert best <= len(layout) <= 1.25 * best + 1  # the bound of first fit by falling length is 11/9


def test_sequences_of_one_length_fill_rows_without_a_gap():
    assert packing.pack(np.full(12, 3), 9).shape == (4, 3)
