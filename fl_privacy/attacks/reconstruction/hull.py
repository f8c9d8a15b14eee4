"""The affine hull of a batch, which the gradient of a dense layer tells exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.reconstruction.span import FLOAT32, find_span


@dataclass(frozen=True)
class Hull:
    """All affine combinations ``sum_i w_i x_i``, ``sum_i w_i = 1``, of a batch's inputs.

    Attributes
    ----------
    rank : int
        Number of examples that the gradient tells apart; 0 where it holds no evidence (a gradient of zeros).
    origin : ndarray, (inputs,)
        The point of the hull that is nearest to 0.
    basis : ndarray, (rank - 1, inputs)
        Orthonormal directions within the hull.
    """

    rank: int
    origin: NDArray[np.float64] = field(repr=False)
    basis: NDArray[np.float64] = field(repr=False)

    def project(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return, for each point, the point of the hull nearest to it: shape (p, inputs); NaN where `rank` is 0."""
        projected: NDArray[np.float64] = self.origin + (points @ self.basis.T) @ self.basis
        return projected


def affine_hull(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    *,
    examples: int | None = None,
    precision: float = FLOAT32,
) -> Hull:
    """Return the affine hull of the inputs of a batch.

    For any a, ``(a^T G) / (a^T b)`` is an affine combination of the inputs. While the batch is smaller than the layer,
    the signals d_i are independent and these are all affine combinations there are. The hull depends neither on the
    model nor on dropout: examples count the same however well the model knows them, down to rounding.

    Parameters
    ----------
    weight, bias, examples, precision
        See `find_span`. The update must be a true gradient (or a multiple of one): Adam's steps span no such space.

    Returns
    -------
    Hull
    """
    span = find_span(weight, bias, examples=examples, precision=precision)
    inputs, ones = span.right[:, :-1], span.right[:, -1]
    # How far rounding alone turns the bias's column: then no combination is known to sum to one.
    doubt = span.noise * np.sqrt(np.sum(span.values**-2.0))
    if np.linalg.norm(ones) <= 4 * doubt:
        width = weight.shape[1]
        return Hull(0, np.full(width, np.nan), np.zeros((0, width)))
    # Combinations that sum to one: one of them, and all that sum to nothing. The rows of [inputs ones] are orthonormal,
    # so those of the latter, whose last column is 0, are too.
    point = inputs.T @ ones / (ones @ ones)
    basis = np.linalg.qr(ones[:, None], mode="complete")[0][:, 1:].T @ inputs
    return Hull(span.rank, point - (basis @ point) @ basis, basis)
