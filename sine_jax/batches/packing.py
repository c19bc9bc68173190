"""Lays out sequences of many lengths in rows of few widths."""

from __future__ import annotations

import collections

import numpy as np

# Keys whose attention costs about what the rest of a network does for one position: by operations 3 D. A fixed number,
# because it hardly matters: for packed rows of the shipped sample any from 32 to 192 chooses the same widths.
_DENSE = 128


def choose_widths(counts: np.ndarray, *, num_widths: int, num_steps: int, packed: bool) -> list[int]:
    """The widths that make an epoch's batches cheapest, by dynamic programming over the histogram of lengths.

    A row of width T costs `T (T + 128)`: attention grows with the square of T, the rest of a network with T.

    Args:
      counts: [longest + 1] how many sequences have each length.
      num_widths: the most widths to use.
      num_steps: batches that the rows of a width are spread over.
      packed: whether several sequences may share a row.

    Returns:
      Increasing widths, the last one the greatest length.
    """
    lengths = np.flatnonzero(counts)
    counts = counts[lengths]
    number, total = (np.concatenate([[0], np.cumsum(values)]) for values in (counts, counts * lengths))
    rows = number[None, 1:] - number[:-1, None]  # [i, j]: of lengths[i..j], one sequence a row
    if packed:  # at least what their positions fill, and one for each sequence longer than half a row
        halves = np.searchsorted(lengths, lengths // 2, side="right")
        alone = number[1:] - number[np.maximum(halves[None, :], np.arange(len(lengths))[:, None])]
        rows = np.maximum(-(-(total[None, 1:] - total[:-1, None]) // lengths), alone)
    rows = -(-rows // num_steps)
    each = (lengths * (lengths + _DENSE))[None, :]
    upper = np.triu(np.ones(rows.shape, bool))
    cost = np.where(upper, rows * each, np.iinfo(np.int64).max // 2)
    best, cuts = cost[0], []
    for _ in range(min(num_widths, len(lengths)) - 1):
        # best[j]: the cheapest cover of lengths[0..j]. Its last group begins after i, or there is one group only.
        options = np.vstack([best[None], best[:-1, None] + cost[1:]])
        cuts.append(options.argmin(axis=0))
        best = options.min(axis=0)
    widths, last = [int(lengths[-1])], len(lengths) - 1
    for cut in reversed(cuts):
        if cut[last]:
            last = int(cut[last]) - 1
            widths.append(int(lengths[last]))
    return sorted(widths)


def pack(lengths: np.ndarray, width: int) -> np.ndarray:
    """Puts sequences into rows: the longest first, each into the row with the least room that still holds it.

    Rows that hold the same lengths are laid out at once. The time therefore grows with the number of different lengths,
    and hardly with the number of sequences.

    Args:
      lengths: [n] ascending, each from 1 to `width`.
      width: columns of a row.

    Returns:
      [rows, P] int32 places in `lengths`, each exactly once; -1 after the last sequence of a row.

    References:
      Krell, Kosec, Perez and Fitzgibbon, "Efficient Sequence Packing without Cross-contamination", 2021, arXiv
      2107.02027: packing by the histogram of lengths.
    """
    counts = np.bincount(lengths, minlength=width + 1)
    open_rows: dict[int, list[tuple[int, tuple[int, ...]]]] = collections.defaultdict(list)  # by the room left in them
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            room = next((r for r in range(length, width) if open_rows[r]), width)
            number, held = open_rows[room].pop() if room < width else (left, ())
            fit = min(room // length, left)
            taken = min(number, left // fit)
            if room < width and taken < number:
                open_rows[room].append((number - taken, held))
            open_rows[room - fit * length].append((taken, held + (length,) * fit))
            left -= taken * fit
    patterns = [pattern for alike in open_rows.values() for pattern in alike]
    layout = np.full((sum(number for number, _ in patterns), max(len(held) for _, held in patterns)), -1, np.int32)
    unused, row = np.cumsum(counts) - counts, 0
    for number, held in patterns:
        for place, length in enumerate(held):
            layout[row : row + number, place] = unused[length] + np.arange(number)
            unused[length] += number
        row += number
    return layout
