"""The weighted mean of a client's inputs, in closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def weighted_mean(weight: NDArray[np.floating], bias: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the signal-weighted mean of the inputs of a dense layer, read off its update.

    With ``G = sum_i d_i x_i^T`` and ``b = sum_i d_i``, the weights of ``G^T b / |b|^2`` are ``d_i . b / |b|^2``, which
    sum to one. It is the input itself for one example, a weighted mean for a batch, and still close to one for the
    weight difference that local training leaves. It needs neither the model nor its initialisation.

    Parameters
    ----------
    weight : ndarray, (units, inputs)
        G, or any multiple of both.
    bias : ndarray, (units,)
        b.

    Returns
    -------
    ndarray, (inputs,)
        Zeros where the bias did not move: a client that learned nothing, or an update pruned to nothing.

    Notes
    -----
    Source: folklore of gradient leakage (e.g. R-GAP, arXiv 2010.07733; Boenisch et al., arXiv 2112.02918).
    """
    scale = float(np.abs(bias).max())
    if scale == 0.0:
        return np.zeros(weight.shape[1])
    # Scaled first: the squares of late, small gradients would underflow.
    signal = bias / np.float32(scale)
    return (weight.T @ signal).astype(np.float64) / (scale * float(np.dot(signal, signal)))
