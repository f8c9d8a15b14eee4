"""Log-mel spectra of waves, and waves of log-mel spectra by Griffin and Lim's algorithm (1984) on torch.stft."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HOP = 256
"""Samples between frames: 16 ms."""

_SIZE = 1024
_FLOOR = 1e-5


class MelSpectra:
    """Log-mel spectra of waves at 16 kHz and back.

    Parameters
    ----------
    bands : int
    iterations : int
        Of Griffin and Lim.
    momentum : float
        Of its fast variant (Perraudin, Balazs and Sondergaard 2013).
    """

    def __init__(self, bands: int = 64, iterations: int = 32, momentum: float = 0.99) -> None:
        import torchaudio

        self.bands, self.iterations, self.momentum = bands, iterations, momentum
        self._window = torch.hann_window(_SIZE)
        self._filters: Tensor = torchaudio.functional.melscale_fbanks(
            _SIZE // 2 + 1, 0.0, 8000.0, bands, 16_000, norm="slaney", mel_scale="slaney"
        )

    def of(self, wave: NDArray[np.float32]) -> Tensor:
        """Return the logarithms of mel magnitudes (bands, frames) of a wave (samples,)."""
        padded = np.pad(wave, (0, max(0, _SIZE - wave.size)))
        magnitudes = self._stft(torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))).abs()
        found: Tensor = torch.log(self._filters.T @ magnitudes + _FLOOR)
        return found

    def wave(self, frames: Tensor) -> NDArray[np.float32]:
        """Return a wave (samples,) whose log-mel spectrum is near the given one (bands, frames)."""
        mel = torch.exp(frames.clamp(-20.0, 10.0))
        # Non-negative least squares would do a little better; clipping is enough for a few dozen bands.
        magnitudes = (torch.linalg.pinv(self._filters.T) @ mel).clamp_min(0.0)
        phases, before = torch.zeros_like(magnitudes), None
        spectrum = torch.polar(magnitudes, phases)
        for _ in range(self.iterations):
            again = self._stft(self._istft(spectrum))[:, : magnitudes.shape[1]]
            ahead = again if before is None else again + self.momentum * (again - before)
            before = again
            spectrum = magnitudes * ahead / ahead.abs().clamp_min(1e-8)
        found: NDArray[np.float32] = self._istft(spectrum).numpy()
        return found

    def _stft(self, wave: Tensor) -> Tensor:
        found: Tensor = torch.stft(wave, _SIZE, HOP, window=self._window, return_complex=True)
        return found

    def _istft(self, spectrum: Tensor) -> Tensor:
        found: Tensor = torch.istft(spectrum, _SIZE, HOP, window=self._window)
        return found
