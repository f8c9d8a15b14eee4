"""Features on a common scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.features._errors import FeatureError

_SPEAKER_EPSILON = 1e-5
_MANNERS = ("global", "speaker", "none")


def normalise(
    values: NDArray[np.floating], speakers: Sequence[str], how: str, reference: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Normalise each column.

    Parameters
    ----------
    values : ndarray of float, shape (n, d)
        Features.
    speakers : sequence of str, length n
        Whose each row is.
    how : str
        "global": z-score by the mean and standard deviation of the reference rows. "speaker": ``(x - mean_s) /
        (std_s + 1e-5)`` over all rows of the speaker, as Feng et al. 2021 (arXiv 2112.13416) do; it takes each
        speaker's mean away and with it most of what the mean tells of the person. "none": as they are.
    reference : ndarray of bool, shape (n,), optional
        Rows that "global" learns from; by default all.

    Returns
    -------
    ndarray of float32, shape (n, d)
        A column that is constant over its reference gives 0 for that value (and, for "global", 0 for any other).

    Raises
    ------
    FeatureError
        For another manner, lengths that differ, or a reference that is empty or used with another manner.
    """
    wide = np.asarray(values, dtype=np.float64)
    if how not in _MANNERS:
        raise FeatureError(f"unknown normalisation {how!r}. Known: {', '.join(_MANNERS)}")
    if wide.ndim != 2 or len(wide) != len(speakers):
        raise FeatureError(f"normalise: values of shape {wide.shape} with {len(speakers)} speakers; give (n, d) with n")
    if reference is not None and (how != "global" or reference.shape != (len(wide),) or not reference.any()):
        raise FeatureError("normalise: a reference goes with 'global', has one entry a row and holds at least one row")
    if how == "none":
        return wide.astype(np.float32)
    if how == "global":
        rows = wide if reference is None else wide[reference]
        return _z_score(wide, rows)
    result = np.empty_like(wide)
    names = np.asarray(speakers)
    for speaker in np.unique(names):
        rows = names == speaker
        result[rows] = (wide[rows] - wide[rows].mean(axis=0)) / (wide[rows].std(axis=0) + _SPEAKER_EPSILON)
    return result.astype(np.float32)


def _z_score(values: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float32]:
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    # The mean of equal numbers may be off by a rounding; judged by the range, a constant column stays constant.
    varies = (rows.max(axis=0) > rows.min(axis=0)) & (std > 0)
    scaled = (values - mean) / np.where(varies, std, 1.0)
    return np.where(varies, scaled, 0.0).astype(np.float32)
