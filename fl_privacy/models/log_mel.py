"""Log-mel frames in plain torch, as self-supervised models read them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

SAMPLE_RATE, WINDOW, HOP, MELS = 16_000, 400, 160, 80
"""Rate in Hz; window (25 ms) and hop (10 ms) in samples; number of bands."""

FLOOR = 1e-10
"""Is added to energies before the logarithm."""

LEVEL_DB = -25.0
"""Root mean square that TERA brings waves to, in dB of full scale."""


def log_mel(waves: Tensor, mels: int = MELS) -> Tensor:
    """Return logarithms of mel energies.

    Windows of 25 ms (periodic Hann) every 10 ms, centred, the wave mirrored at its ends; bands that are triangles on
    the mel scale (2595 log10(1 + f / 700)) from 0 to 8 kHz.

    Parameters
    ----------
    waves : Tensor, (n, samples)
        16 kHz; more than half a window.
    mels : int

    Returns
    -------
    Tensor, (n, 1 + samples // 160, mels)
    """
    padded = functional.pad(waves[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")[:, 0]
    windows = padded.unfold(1, WINDOW, HOP)
    power = torch.fft.rfft(windows * torch.hann_window(WINDOW, device=waves.device)).abs().square()
    return torch.log(power @ _bands(mels).to(power) + FLOOR)


def normalised_log_mel(waves: Tensor, mels: int = MELS) -> Tensor:
    """Return the frames that TERA reads: of waves of one loudness, every band of mean 0 and variance 1 over each wave.

    Parameters and result are as for `log_mel`.
    """
    loudness = waves.square().mean(dim=1, keepdim=True).sqrt()
    frames = log_mel(waves * (10 ** (LEVEL_DB / 20) / (loudness + FLOOR)), mels)
    centred = frames - frames.mean(dim=1, keepdim=True)
    # In silence a band does not vary at all: it is left at 0, not blown up.
    unbiased = centred.square().sum(dim=1, keepdim=True) / max(frames.shape[1] - 1, 1)
    return centred / unbiased.sqrt().clamp_min(1e-4)


@functools.cache
def _bands(mels: int) -> Tensor:
    """Return the weight of each frequency in each band, (201, mels)."""
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    highest = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700, dtype=torch.float64))
    corners = 700 * (10 ** (torch.linspace(0, float(highest), mels + 2, dtype=torch.float64) / 2595) - 1)
    rising = (frequencies[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies[:, None]) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()
