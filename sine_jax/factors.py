"""Item factors from co-exposure: items that are shown to the same users point the same way. No feedback is used."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from sine_jax.types import EventLog


def co_exposure(log: EventLog, where: np.ndarray, *, num_items: int, dim: int) -> np.ndarray:
    """Factors of unit length from a singular value decomposition of which user was shown which item.

    Columns of the user-by-item matrix are divided by the root of the item's number of users. The first factor, which is
    how often items are shown, is left out. Each other factor is weighed by how far its singular value is above the
    first one that is left out at the end, so factors that are noise hardly count.

    Args:
      log: the exposures.
      where: [E] which exposures count, such as those of the training part.
      num_items: N.
      dim: the width of the factors.

    Returns:
      [N + 1, dim] float32; 0 for PAD and for items without a factor, and in the last columns where the matrix has fewer
      factors. The largest entry of each column is positive, so the same log gives the same factors.

    References:
      Gavish and Donoho, "Optimal Shrinkage of Singular Values", IEEE Transactions on Information Theory 63(4), 2017,
      arXiv 1405.7511.
    """
    factors = np.zeros((num_items + 1, dim), np.float32)
    users, items = log.users[where], log.items[where]
    if not len(items):
        return factors
    shape = (log.num_users, num_items + 1)
    shown = scipy.sparse.csr_matrix((np.ones(len(items), np.float32), (users, items)), shape)
    shown.data[:] = 1.0  # a user counts once
    counts = np.asarray(shown.sum(axis=0)).ravel()
    scaled = shown @ scipy.sparse.diags_array(np.sqrt(1 / np.maximum(counts, 1)).astype(np.float32))
    values, vectors = _largest(scaled, dim + 2)
    if len(values) < 3:
        return factors
    kept = vectors[:, 1:-1] * (values[1:-1] - values[-1])
    kept *= np.sign(np.take_along_axis(kept, np.argmax(np.abs(kept), axis=0)[None], axis=0))
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    factors[:, : kept.shape[1]] = np.divide(kept, lengths, out=np.zeros_like(kept), where=lengths > 1e-6)
    return factors


def _largest(matrix: scipy.sparse.csr_matrix, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest singular values [k], descending, and their right vectors [columns, k]; k is `number` or fewer."""
    most = min(matrix.shape)
    if number >= most:  # the iterative method finds fewer than all
        _, values, vectors = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return values[:number], vectors[:number].T
    start = np.ones(most, matrix.dtype)
    _, values, vectors = scipy.sparse.linalg.svds(matrix, k=number, v0=start)
    order = np.argsort(-values)
    return values[order], vectors[order].T
