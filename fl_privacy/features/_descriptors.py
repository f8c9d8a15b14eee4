"""Low-level descriptors: 43 numbers a frame of 10 ms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torchaudio.functional as audio
from torch import Tensor

from fl_privacy.features import _pitch

SAMPLE_RATE = _pitch.SAMPLE_RATE
HOP = 160
_WINDOW = 400
_FFT = 512
_MFCC, _MFCC_BANDS, _BANDS = 12, 26, 20
_FLOOR = 1e-7  # power, -70 dB re full scale: below it lies the noise of the recording rather than the voice
_REFERENCE_PITCH = 150.0
_HNR_LIMIT = 40.0

NAMES = (
    *(f"mfcc{number}" for number in range(1, _MFCC + 1)),
    *(f"logmel{number}" for number in range(1, _BANDS + 1)),
    "log_energy",
    "zero_crossing_rate",
    "pitch",
    "hnr",
    "centroid",
    "spread",
    "rolloff25",
    "rolloff85",
    "flux",
    "flatness",
    "alpha_ratio",
)
PITCH = NAMES.index("pitch")


@dataclass(frozen=True, slots=True)
class Tables:
    """Filterbanks and other constants, made once."""

    window: Tensor
    mel: Tensor
    mel_for_mfcc: Tensor
    dct: Tensor
    frequencies: Tensor


def make_tables() -> Tables:
    """Make the constants of `describe`."""
    bins = _FFT // 2 + 1

    def mel(bands: int) -> Tensor:
        bank: Tensor = audio.melscale_fbanks(bins, 50.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE)
        return bank

    return Tables(
        window=torch.hann_window(_WINDOW),
        mel=mel(_BANDS),
        mel_for_mfcc=mel(_MFCC_BANDS),
        dct=audio.create_dct(_MFCC + 1, _MFCC_BANDS, "ortho")[:, 1:],
        frequencies=torch.linspace(0, SAMPLE_RATE / 2, bins) / 1000,
    )


def describe(wave: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
    """Compute the descriptors of a wave.

    Parameters
    ----------
    wave : Tensor of float32, shape (n,)
        Mono 16 kHz, n at least 1; padded with zeros to one frame.
    tables : Tables
        From `make_tables`.

    Returns
    -------
    descriptors : Tensor of float32, shape (43, t)
        Rows as in `NAMES`; pitch in octaves about 150 Hz, unvoiced frames filled by linear interpolation (0 where no
        frame is voiced); HNR in dB; frequencies in kHz.
    voiced : Tensor of bool, shape (t,)
        Which frames have a pitch.
    """
    pitch, periodicity, voiced = _pitch.track(_frames(wave, _pitch.WINDOW))
    spectral = [_spectral(block, tables) for block in torch.split(_frames(wave, _WINDOW), _pitch.BLOCK)]
    power = torch.cat([part for part, _ in spectral])
    rates = torch.cat([part for _, part in spectral])
    rows = [*_cepstra(power, tables), rates[:, 0], rates[:, 1], _fill(pitch, voiced), _hnr(periodicity)]
    return torch.stack([*rows, *_shape(power, tables.frequencies)]), voiced


def _frames(wave: Tensor, window: int) -> Tensor:
    """Cut into frames centred on multiples of the hop, so that windows of two lengths line up."""
    count = 1 + max(0, len(wave) - _WINDOW) // HOP
    left = (window - _WINDOW) // 2
    needed = (count - 1) * HOP + window
    padded = torch.nn.functional.pad(wave, (left, max(0, needed - left - len(wave))))
    return padded[:needed].unfold(0, window, HOP)


def _spectral(frames: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
    centred = frames - frames.mean(dim=1, keepdim=True)
    power = torch.fft.rfft(centred * tables.window, _FFT).abs().square() / tables.window.square().sum()
    energy = torch.log(centred.square().mean(dim=1) + _FLOOR)
    crossings = (centred[:, 1:] * centred[:, :-1] < 0).float().mean(dim=1)
    return power, torch.stack([energy, crossings], dim=1)


def _cepstra(power: Tensor, tables: Tables) -> list[Tensor]:
    mfcc = torch.log(power @ tables.mel_for_mfcc + _FLOOR) @ tables.dct
    bands = torch.log(power @ tables.mel + _FLOOR)
    return [*mfcc.T, *bands.T]


def _fill(pitch: Tensor, voiced: Tensor) -> Tensor:
    if not voiced.any():
        return torch.zeros_like(pitch)
    octaves = torch.log2(pitch / _REFERENCE_PITCH)
    known = voiced.nonzero()[:, 0]
    time = torch.arange(len(pitch))
    right = torch.searchsorted(known, time).clamp(max=len(known) - 1)
    left = (right - 1).clamp(min=0)
    a, b = known[left], known[right]
    share = ((time - a) / (b - a).clamp(min=1)).clamp(0.0, 1.0)
    return octaves[a] + share * (octaves[b] - octaves[a])


def _hnr(periodicity: Tensor) -> Tensor:
    limit = 10 ** (-_HNR_LIMIT / 10)
    share = periodicity.clamp(limit, 1 - limit)
    return 10 * torch.log10(share / (1 - share))


def _shape(power: Tensor, frequencies: Tensor) -> list[Tensor]:
    floored = power + _FLOOR
    total = floored.sum(dim=1, keepdim=True)
    weights = floored / total
    centroid = weights @ frequencies
    spread = (weights @ frequencies.square() - centroid.square()).clamp(min=0).sqrt()
    cumulative = weights.cumsum(dim=1)
    roll = [frequencies[(cumulative < share).sum(dim=1).clamp(max=len(frequencies) - 1)] for share in (0.25, 0.85)]
    flux = torch.zeros(len(power))
    flux[1:] = (weights.sqrt().diff(dim=0)).square().sum(dim=1).sqrt()
    flatness = floored.log().mean(dim=1) - floored.mean(dim=1).log()
    low = floored[:, (frequencies >= 0.05) & (frequencies < 1.0)].sum(dim=1)
    high = floored[:, (frequencies >= 1.0) & (frequencies < 5.0)].sum(dim=1)
    return [centroid, spread, *roll, flux, flatness, torch.log(low / high)]
