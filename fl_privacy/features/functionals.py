"""860 functionals of low-level descriptors, in torch alone: the default features."""

from __future__ import annotations

import numpy as np
import torch
import torchaudio.functional as audio
from numpy.typing import NDArray
from torch import Tensor

from fl_privacy.features import _descriptors

_STATISTICS = ("mean", "std", "skewness", "kurtosis", "p5", "p25", "p50", "p75", "p95", "slope")
_QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
_CONSTANT = 1e-5  # a deviation below this is rounding: skewness and kurtosis are 0
_FRAMES_PER_SECOND = _descriptors.SAMPLE_RATE / _descriptors.HOP


class Functionals:
    """Ten functionals of 43 low-level descriptors and of their deltas, after emobase (Eyben et al. 2010, ACM MM).

    The descriptors, every 10 ms: 12 MFCC, 20 log-mel bands, energy, zero crossings, pitch, HNR, spectral shape. Pitch
    is in octaves about 150 Hz and taken over voiced frames alone; an utterance without any has zeros there.
    """

    name = "functionals"
    version = "1"
    dimension = 2 * len(_descriptors.NAMES) * len(_STATISTICS)

    def __init__(self) -> None:
        self._tables = _descriptors.make_tables()

    def names(self) -> tuple[str, ...]:
        """Return the names of the numbers, such as ``mfcc1_mean`` or ``delta_pitch_slope``, in order."""
        descriptors = [*_descriptors.NAMES, *(f"delta_{name}" for name in _descriptors.NAMES)]
        return tuple(f"{descriptor}_{statistic}" for descriptor in descriptors for statistic in _STATISTICS)

    def __call__(self, wave: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Compute the functionals of an utterance.

        Parameters
        ----------
        wave : ndarray of float32, shape (n,)
            Mono 16 kHz, n at least 1.

        Returns
        -------
        ndarray of float32, shape (860,)
            Finite for every finite wave.
        """
        with torch.no_grad():
            descriptors, voiced = _descriptors.describe(torch.tensor(wave, dtype=torch.float32), self._tables)
            rows = torch.cat([descriptors, audio.compute_deltas(descriptors)])
            result = _summary(rows)
            pitched = [_descriptors.PITCH, len(descriptors) + _descriptors.PITCH]
            result[pitched] = _summary(rows[pitched][:, voiced], voiced.nonzero()[:, 0])
        values: NDArray[np.float32] = result.flatten().numpy()
        return values


def _summary(rows: Tensor, frames: Tensor | None = None) -> Tensor:
    """Return the functionals (rows, 10) of rows (rows, t) seen at the given frames; zeros where t is 0."""
    count = rows.shape[1]
    if count == 0:
        return torch.zeros(len(rows), len(_STATISTICS))
    mean = rows.mean(dim=1, keepdim=True)
    centred = rows - mean
    std = centred.square().mean(dim=1).sqrt()
    scaled = torch.where(std[:, None] > _CONSTANT, centred / std[:, None].clamp(min=_CONSTANT), 0.0)
    cubed = scaled**3
    skewness, kurtosis = cubed.mean(dim=1), (cubed * scaled).mean(dim=1)
    time = (torch.arange(count) if frames is None else frames).float() / _FRAMES_PER_SECOND
    time = time - time.mean()
    slope = centred @ time / time.square().sum().clamp(min=1e-9)
    return torch.stack([mean[:, 0], std, skewness, kurtosis, *_quantiles(rows), slope], dim=1)


def _quantiles(rows: Tensor) -> list[Tensor]:
    """Linear interpolation between order statistics; `torch.quantile` refuses half an hour of audio."""
    ordered = rows.sort(dim=1).values
    last = rows.shape[1] - 1
    result = []
    for share in _QUANTILES:
        below = int(share * last)
        weight = share * last - below
        result.append(ordered[:, below] * (1 - weight) + ordered[:, min(below + 1, last)] * weight)
    return result
