"""Inversion in a space of voices: a few numbers of a source and a filter, which can be read off as pitch and formants.

A free wave of 3,200 samples can be accepted without sounding like anybody. A voice made of a pulse-like source, four
resonances and breath (Fant 1960; parameters as in Klatt 1980, J. Acoust. Soc. Am. 67:971-995) cannot be much else than
a voice, and what the classifier thinks of a speaker can be held against the speaker's own pitch and formants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fl_privacy.attacks.inversion.checkpoint import Checkpoint
from fl_privacy.attacks.inversion.gradients import Gradients, Slopes
from fl_privacy.attacks.inversion.jobs import Inversion, Job, Reconstruction, Window
from fl_privacy.attacks.inversion.queue import Told, serve
from fl_privacy.errors import UserError

KNOTS = 3
"""Places, from the first sample to the last, at which pitch, formants and level are told; between them they glide."""

PITCH = (60.0, 400.0)
FORMANTS = ((200.0, 1000.0), (700.0, 2600.0), (1700.0, 3500.0), (2800.0, 4800.0))
_BANDWIDTHS = (40.0, 400.0)
_TILT = (-15.0, 3.0)  # decibels an octave
_BREATH = (-50.0, -5.0)  # decibels beside the voice
_LEVEL = (-12.0, 0.0)  # decibels

_HIGHEST = 5000.0  # Hz, of the harmonics
_HOP = 80  # samples between the frames whose spectra are computed

PARAMETERS = KNOTS * (2 + len(FORMANTS)) + len(FORMANTS) + 2
"""Numbers of a voice."""


@dataclass(frozen=True, slots=True)
class VoiceParameters:
    """What a voice is made of, as it can be read off.

    Attributes
    ----------
    pitch : tuple of float
        In Hz, at the knots.
    formants : tuple of tuple of float
        In Hz, of each formant, at the knots.
    bandwidths : tuple of float
        In Hz, of each formant.
    tilt : float
        Of the source, in decibels an octave.
    breath : float
        Noise, in decibels beside the voice.
    """

    pitch: tuple[float, ...]
    formants: tuple[tuple[float, ...], ...]
    bandwidths: tuple[float, ...]
    tilt: float
    breath: float


class Synthesiser:
    """Turns points, `PARAMETERS` numbers each, into waves; differentiable.

    A point's numbers are logits: 0 is the middle of each range (of the logarithms, where it is in Hz).

    Parameters
    ----------
    length : int
        Samples of a wave.
    sample_rate : int
        In Hz.
    seed : int
        Of the breath's noise, which is one for all voices.
    """

    def __init__(self, length: int, sample_rate: int = 16_000, seed: int = 0) -> None:
        if length < 2 * _HOP:
            raise UserError(f"a voice of {length} samples is too short: {2 * _HOP} at least")
        self.length, self.sample_rate = length, sample_rate
        self._frames = -(-length // _HOP) + 1
        noise = np.random.default_rng([7, seed]).standard_normal(length)
        self._noise = torch.fft.rfft(torch.from_numpy(noise).float())
        self._bins = torch.linspace(0, sample_rate / 2, length // 2 + 1)

    def __call__(self, points: Tensor) -> Tensor:
        """Return waves (n, length) of unit power."""
        parts = _ranges(points)
        # Tracks over frames, (n, frames), (n, formants, frames): lines from knot to knot.
        pitch, formants = self._glide(parts["pitch"]), self._glide(parts["formants"])
        time_pitch = _stretch(pitch, self.length)
        phase = 2 * math.pi * torch.cumsum(time_pitch / self.sample_rate, dim=1)
        count = max(1, int(_HIGHEST / float(pitch.detach().min())))
        numbers = torch.arange(1, count + 1, dtype=points.dtype, device=points.device)[:, None]
        hertz = numbers * pitch[:, None]  # (n, harmonics, frames)
        decibels = parts["tilt"][:, None, None] * torch.log2(numbers)
        gain = _resonances(hertz, formants, parts["bandwidths"]) * 10 ** (decibels / 20)
        # Harmonics fade out before the highest frequency, so that their number may change without a jump.
        gain = gain * torch.sigmoid((_HIGHEST - 200.0 - hertz) / 50.0)
        voiced = (_stretch(gain, self.length) * torch.cos(numbers * phase[:, None])).sum(dim=1)
        voiced = voiced / _rms(voiced)

        mean = formants.mean(dim=2, keepdim=True)
        shape = _resonances(self._bins.to(points.device)[None, :, None], mean, parts["bandwidths"])[:, :, 0]
        breath = torch.fft.irfft(self._noise.to(points.device) * shape, self.length)
        wave = voiced + 10 ** (parts["breath"][:, None] / 20) * breath / _rms(breath)
        level = _stretch(self._glide(parts["level"]), self.length)
        wave = wave * 10 ** (level / 20)
        unit: Tensor = wave / _rms(wave)
        return unit

    def _glide(self, knots: Tensor) -> Tensor:
        return _stretch(knots, self._frames)


def _ranges(points: Tensor) -> dict[str, Tensor]:
    """Bring the numbers of points into their ranges."""
    if points.ndim != 2 or points.shape[1] != PARAMETERS:
        raise UserError(f"voices have {PARAMETERS} numbers each; got shape {tuple(points.shape)}")
    many = len(FORMANTS)
    pitch, formants, level, widths, tilt, breath = torch.split(
        torch.sigmoid(points), [KNOTS, many * KNOTS, KNOTS, many, 1, 1], dim=1
    )
    lows, highs = torch.tensor(FORMANTS, dtype=points.dtype, device=points.device).log().unbind(dim=1)
    by_formant = formants.view(-1, many, KNOTS)
    return {
        "pitch": _log_range(pitch, *PITCH),
        "formants": torch.exp(lows[:, None] + by_formant * (highs - lows)[:, None]),
        "level": _LEVEL[0] + level * (_LEVEL[1] - _LEVEL[0]),
        "bandwidths": _log_range(widths, *_BANDWIDTHS),
        "tilt": (_TILT[0] + tilt * (_TILT[1] - _TILT[0]))[:, 0],
        "breath": (_BREATH[0] + breath * (_BREATH[1] - _BREATH[0]))[:, 0],
    }


def _log_range(share: Tensor, low: float, high: float) -> Tensor:
    return low * (high / low) ** share


def _stretch(track: Tensor, length: int) -> Tensor:
    """Interpolate the last axis linearly to a length."""
    flat = track.reshape(1, -1, track.shape[-1])
    return functional.interpolate(flat, length, mode="linear", align_corners=True).view(*track.shape[:-1], length)


def _resonances(hertz: Tensor, formants: Tensor, bandwidths: Tensor) -> Tensor:
    """Return the gain (n, k, frames) of a cascade of resonances at frequencies (n, k, frames)."""
    gain = torch.ones_like(hertz)
    for number in range(formants.shape[1]):
        centre, half = formants[:, number, None], 0.5 * bandwidths[:, number, None, None]
        own = centre.square() + half.square()
        below, above = (hertz - centre).square() + half.square(), (hertz + centre).square() + half.square()
        gain = gain * own / (below * above).sqrt()
    return gain


def _rms(waves: Tensor) -> Tensor:
    return waves.square().mean(dim=1, keepdim=True).sqrt() + 1e-9


class SourceFilter:
    """Gradients by the numbers of voices, through gradients by their waves.

    Parameters
    ----------
    inner : Gradients
        Of waves: one window, or `fl_privacy.attacks.inversion.robust.ShiftRobust`.
    sample_rate : int
        In Hz.
    prior : float
        Weight of ``|point|^2 / 2``, which holds voices near the middle of their ranges.
    """

    def __init__(self, inner: Gradients, *, sample_rate: int = 16_000, prior: float = 0.01) -> None:
        self._inner, self._prior = inner, prior
        self.synthesise = Synthesiser(inner.length, sample_rate)
        self.length, self.classes, self.device = PARAMETERS, inner.classes, inner.device

    def __call__(self, points: Tensor, identities: Tensor, rngs: Sequence[np.random.Generator]) -> Slopes:
        """Return costs and gradients by the points."""
        # One by one: the number of harmonics follows the lowest pitch, which must not be that of another voice.
        free = points.detach().requires_grad_()
        waves = torch.cat([self.synthesise(one[None]) for one in free])
        found = self._inner(waves.detach(), identities, rngs)
        (gradient,) = torch.autograd.grad(waves, free, found.gradient)
        cost = found.cost + 0.5 * self._prior * points.square().sum(dim=1)
        return Slopes(cost, gradient + self._prior * points, found.miss)


def parameters_of(point: NDArray[np.float32]) -> VoiceParameters:
    """Read a point's pitch, formants and the rest off."""
    parts = {
        name: part[0].double().numpy() for name, part in _ranges(torch.from_numpy(np.asarray(point)[None])).items()
    }
    return VoiceParameters(
        tuple(parts["pitch"].tolist()),
        tuple(tuple(track) for track in parts["formants"].tolist()),
        tuple(parts["bandwidths"].tolist()),
        float(parts["tilt"]),
        float(parts["breath"]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class InvertedVoice:
    """A reconstruction, and the voice that it is.

    Attributes
    ----------
    found : Reconstruction
        With the wave: of the attempt of lowest cost.
    voice : VoiceParameters
    attempts : tuple of Window
        What came of every attempt, that one's included.
    """

    found: Reconstruction
    voice: VoiceParameters
    attempts: tuple[Window, ...]


def invert_source_filter(
    gradients: Gradients,
    identities: Sequence[int],
    settings: Inversion | None = None,
    *,
    sample_rate: int = 16_000,
    step_size: float = 0.1,
    attempts: int = 4,
    seed: int = 0,
    prior: float = 0.01,
    micro_batch: int = 16,
    told: Told | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[InvertedVoice]:
    """Find the voices that a classifier takes for identities.

    Parameters
    ----------
    gradients : Gradients
        Of waves, such as ``ShiftRobust(WhiteBox(classifier), 6400)``.
    identities : sequence of int
    settings : Inversion, optional
        By default Adam for 150 steps, with no threshold.
    sample_rate : int
        In Hz.
    step_size : float
    attempts : int
        Random voices to start from, of which the result of lowest cost is kept: the space is small, but has valleys.
    seed : int
    prior : float
        See `SourceFilter`.
    micro_batch : int
    told : callable, optional
    checkpoint : Checkpoint, optional
        See `fl_privacy.attacks.inversion.standard.invert`.

    Returns
    -------
    list of InvertedVoice
        One for each identity.
    """
    if attempts < 1:
        raise UserError(f"attempts must be positive, not {attempts}")
    settings = settings or Inversion(step="adam", scale="absolute", iterations=150, patience=150, threshold=0.0)
    voices = SourceFilter(gradients, sample_rate=sample_rate, prior=prior)
    jobs = []
    for identity in identities:
        for attempt in range(attempts):
            rng = np.random.default_rng([seed, identity, attempt])
            start = rng.standard_normal(PARAMETERS).astype(np.float32)
            jobs.append(Job(identity, start, step_size, int(rng.integers(2**31))))
    done = serve(voices, jobs, settings, micro_batch=micro_batch, told=told, checkpoint=checkpoint)
    found = []
    for first in range(0, len(done), attempts):
        tried = done[first : first + attempts]
        best = min(tried, key=lambda one: one.cost)
        with torch.no_grad():
            wave = voices.synthesise(torch.from_numpy(best.wave)[None])[0].numpy()
        windows = tuple(window for one in tried for window in one.windows)
        found.append(
            InvertedVoice(Reconstruction(best.identity, wave, best.windows), parameters_of(best.wave), windows)
        )
    return found
