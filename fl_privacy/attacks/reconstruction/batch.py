"""The single inputs of a batch, recovered from the gradient of a ReLU network's first layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.reconstruction._sparse import SURE, join, sparse_directions
from fl_privacy.attacks.reconstruction.span import FLOAT32, Span, find_span

_CAUTION = 3.0  # how far errors lie above what is expected, in a few inputs of a hundred
_ALONE = 0.5  # leverage of a unit on what it alone tells of


@dataclass(frozen=True)
class Batch:
    """Inputs recovered from one gradient, largest signal first.

    Attributes
    ----------
    inputs : ndarray, (k, inputs)
        The x_i that were recovered.
    signals : ndarray, (k, units)
        The d_i of each: its part of the bias's gradient. Not known where `zeros` is 0.
    zeros : ndarray of int, (k,)
        Units that the example does not reach: how sparse d_i is. 0 for an input that is known only because all others
        are.
    error : ndarray, (k,)
        Relative error that each input should stay below, from the rounding of the gradient and from what examples that
        were not recovered add.
    rank : int
        Number of examples that the gradient tells apart.
    """

    inputs: NDArray[np.float64] = field(repr=False)
    signals: NDArray[np.float64] = field(repr=False)
    zeros: NDArray[np.int64]
    error: NDArray[np.float64]
    rank: int


def batch_inputs(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    *,
    examples: int | None = None,
    tolerance: float = 0.1,
    effort: int = 50,
    precision: float = FLOAT32,
) -> Batch:
    """Recover the single inputs of a batch from the gradient of a dense layer that a ReLU follows.

    The columns of G are combinations of the signals d_i, and a d_i is zero for each unit that its example does not
    switch on (or that dropout switches off): in that column space, the d_i are the vectors with most zeros. Once they
    are found, ``[G b] = sum_i d_i [x_i 1]`` gives the inputs, and the bias their scale. It needs neither the model nor
    the labels.

    Parameters
    ----------
    weight, bias, examples, precision
        See `find_span`; the update must be a true gradient, or a multiple of one.
    tolerance : float
        Inputs whose `error` is above this are left out.
    effort : int
        Rounds of the search at most; a batch of 20 takes two or three.

    Returns
    -------
    Batch
        Of no inputs where nothing can be told apart: a batch as large as the layer, or signals without zeros.

    Notes
    -----
    The idea is SPEAR's (Dimitrov et al., NeurIPS 2024, arXiv 2403.03945): low rank and ReLU's zeros. There, sets of
    rows are drawn until a signal is zero in all of them; here, a few dozen starts at a time descend on a measure of
    sparsity. What makes that work: rows in isotropic position, where weak examples are found like strong ones;
    tolerances that follow the rounding; sums of examples recognised, and taken apart. With 256 units it recovers
    batches of 20 almost always, of 32 mostly, of 48 hardly ever.
    """
    span = find_span(weight, bias, examples=examples, precision=precision)
    batch = _attempt(weight, bias, span, np.arange(len(bias)), tolerance, effort)
    if len(batch.inputs) < batch.rank:
        less, kept = _shared(weight, bias, span, examples, precision)
        if len(kept) < len(bias):
            again = _attempt(weight, bias, less, kept, tolerance, effort)
            batch = again if len(again.inputs) > len(batch.inputs) else batch
    return batch


def _attempt(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    span: Span,
    kept: NDArray[np.intp],
    tolerance: float,
    effort: int,
) -> Batch:
    """Recover what the units that are kept tell; `span` is theirs."""
    if 0 < span.rank < min(span.left.shape[0], span.right.shape[1]):
        directions = sparse_directions(span, effort)
        if len(directions):
            return _read(weight, bias, span, kept, directions, tolerance)
    units, inputs = weight.shape
    return Batch(np.zeros((0, inputs)), np.zeros((0, units)), np.zeros(0, np.int64), np.zeros(0), span.rank)


def _shared(
    weight: NDArray[np.floating], bias: NDArray[np.floating], span: Span, examples: int | None, precision: float
) -> tuple[Span, NDArray[np.intp]]:
    """Leave out units that tell of an example that hardly any other unit tells of.

    Where signals differ by many powers of ten, a weak one is above rounding only in units that no stronger example
    reaches. If these are one or two, nothing shows where it is zero, and it stands in the way of the others.
    """
    kept = np.arange(len(bias))
    while True:
        shared = np.sum(span.left**2, axis=1) < _ALONE
        if shared.all() or not shared.any():
            return span, kept
        kept = kept[np.flatnonzero(span.scale)[shared]]
        span = find_span(weight[kept], bias[kept], examples=examples, precision=precision)


def _read(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    span: Span,
    kept: NDArray[np.intp],
    directions: NDArray[np.float64],
    tolerance: float,
) -> Batch:
    """Read inputs and signals off the directions of the signals."""
    known, rank = len(directions), span.rank
    # Where not all were found, the weakest directions stand for the others.
    whole = join(directions, np.eye(rank)[::-1]).T
    signals: NDArray[np.float64] = span.left * span.values @ whole
    rows: NDArray[np.float64] = np.asarray(np.linalg.solve(whole, span.right), dtype=np.float64)
    signals[np.abs(signals) < SURE * span.noise] = 0.0
    error: NDArray[np.float64] = _CAUTION * np.hypot(_rounding(span, signals, rows), _mixing(signals, rows))
    # If exactly one is missing, its input is what the others leave.
    last = known + 1 if known == rank - 1 else known
    error[last:] = np.inf
    error[rows[:, -1] == 0] = np.inf
    across = span.right.T @ whole
    full = np.asarray((weight @ across[:-1] + np.outer(bias, across[-1])) * rows[:, -1], dtype=np.float64)
    live = kept[span.scale > 0]
    full[live] *= signals != 0
    order = np.argsort(-np.linalg.norm(full, axis=0), kind="stable")
    sure = order[error[order] < tolerance]
    zeros = np.where(np.arange(rank) < known, (full == 0).sum(axis=0), 0)
    return Batch(rows[sure, :-1] / rows[sure, -1:], full[:, sure].T, zeros[sure], error[sure], rank)


def _rounding(span: Span, signals: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the relative error of each input that rounding makes."""
    amplified = np.linalg.norm(np.linalg.pinv(signals), axis=1)
    error: NDArray[np.float64] = span.noise * amplified * np.sqrt(rows.shape[1]) / np.linalg.norm(rows, axis=1)
    return error


def _mixing(signals: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of other inputs each may hold.

    What was taken for another's signal, or stands for one that was not found, may hold this one's, times a; then this
    input holds the other, times -a. Units that this one reaches and the other does not show it: there the ratio of the
    two is a, and 0 where all is well.
    """
    error, size = np.zeros(len(rows)), np.linalg.norm(rows, axis=1)
    for mine, signal in enumerate(signals.T):
        reached = signal != 0
        if reached.any():
            ratio = np.abs(signals[reached]) / np.abs(signal[reached, None])
            share = np.quantile(ratio, 0.1, axis=0)
            error[mine] = float(share @ size) / size[mine] - share[mine]
    return error
