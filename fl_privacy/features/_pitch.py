"""Pitch and periodicity of all frames of an utterance at once."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
WINDOW = 640  # 40 ms: two and a half periods at the lowest pitch
BLOCK = 4096  # frames at a time: bounds the memory for long recordings
_FFT = 1024  # holds a frame and the longest lag without wrapping
_LOWEST, _HIGHEST = 60.0, 400.0
_SHORTEST_LAG, _LONGEST_LAG = int(SAMPLE_RATE / _HIGHEST), int(SAMPLE_RATE / _LOWEST) + 1
_VOICED = 0.5  # least normalised autocorrelation of a voiced frame
_QUIET = 1e-3  # a voiced frame's energy is at least this share (-30 dB) of the 95th percentile's
_SILENT = 2e-5  # least energy of a voiced frame, -70 dB re full scale
_OCTAVE_COST = 0.02  # what a halving of the pitch must gain
_MEDIAN = 5


def track(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate pitch by the autocorrelation of the windowed frame over that of the window (Boersma 1993).

    Parameters
    ----------
    frames : Tensor of float32, shape (t, WINDOW)
        Frames of a wave at 16 kHz.

    Returns
    -------
    pitch : Tensor of float32, shape (t,)
        In Hz, 60 to 400; over voiced frames smoothed by a median of five, elsewhere meaningless but finite.
    periodicity : Tensor of float32, shape (t,)
        Normalised autocorrelation at the pitch period, in [0, 1].
    voiced : Tensor of bool, shape (t,)
        Which frames have a pitch.
    """
    blocks = [_measure(block) for block in torch.split(frames, BLOCK)]
    pitch, periodicity, energy = (torch.cat([block[part] for block in blocks]) for part in range(3))
    loud = energy > max(_QUIET * float(torch.quantile(energy, 0.95)), _SILENT)
    voiced = loud & (periodicity > _VOICED)
    pitch[voiced] = _median(pitch[voiced])
    return pitch, periodicity, voiced


def _measure(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return pitch in Hz, periodicity and windowed energy of each frame by itself."""
    window = torch.hann_window(WINDOW)
    correlation = _autocorrelation((frames - frames.mean(dim=1, keepdim=True)) * window)
    energy = correlation[:, 0].clone()
    normalised = correlation / (energy[:, None] + 1e-12) / (_autocorrelation(window[None]) / window.square().sum())
    lags = torch.arange(_SHORTEST_LAG, _LONGEST_LAG + 1)
    scores = normalised[:, lags] - _OCTAVE_COST * torch.log2(lags / _SHORTEST_LAG)
    best = lags[scores.argmax(dim=1)]
    rows = torch.arange(len(frames))
    before, at, after = (normalised[rows, best + step] for step in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = torch.where(bend < -1e-9, 0.5 * (before - after) / bend.clamp(max=-1e-9), 0.0).clamp(-0.5, 0.5)
    periodicity = (at - 0.25 * (before - after) * shift).clamp(0.0, 1.0)
    return (SAMPLE_RATE / (best + shift)).clamp(_LOWEST, _HIGHEST), periodicity, energy


def _autocorrelation(frames: Tensor) -> Tensor:
    power = torch.fft.rfft(frames, _FFT).abs().square()
    correlation: Tensor = torch.fft.irfft(power, _FFT)[:, : _LONGEST_LAG + 2]
    return correlation


def _median(values: Tensor) -> Tensor:
    if len(values) == 0:
        return values
    half = _MEDIAN // 2
    padded = torch.cat([values[:1].expand(half), values, values[-1:].expand(half)])
    return padded.unfold(0, _MEDIAN, 1).median(dim=1).values
