"""A source-filter speech synthesiser (after Klatt 1980, J. Acoust. Soc. Am. 67:971-995), fast and deterministic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora._audio import SAMPLE_RATE
from fl_privacy.corpora._phones import PHONES, STOPS, VOWELS, Phone
from fl_privacy.corpora._voices import Manner, Voice

_HOP = 80  # samples a control frame, 5 ms
_STEP = 2  # control frames a setting of the resonators
_FFT = 1024  # holds a piece of 20 ms and 44 ms of ringing, by when it has died away
_SILENCE = 0.08  # seconds before and after
_BANDWIDTHS = np.array([80.0, 95.0, 140.0, 220.0, 300.0])
_UPPER_FORMANTS = (3450.0, 4400.0)
_LEVEL = 0.025  # RMS of a neutral utterance

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be said: one value a control frame of 5 ms unless said otherwise.

    Attributes
    ----------
    formants : ndarray, shape (frames, 5)
        In Hz, for an average man.
    voice : ndarray, shape (frames,)
        Amplitude of voicing.
    pitch : ndarray, shape (frames,)
        In semitones about the speaker's median.
    bursts : tuple of (Phone, int, int)
        Friction: the sound, its first frame, its number of frames.
    """

    formants: Floats
    voice: Floats
    pitch: Floats
    bursts: tuple[tuple[Phone, int, int], ...]

    @property
    def samples(self) -> int:
        """Length of the wave."""
        return len(self.voice) * _HOP


def plan(sentence: str, voice: Voice, manner: Manner, rng: np.random.Generator) -> Plan:
    """Turn a sentence into control tracks.

    Parameters
    ----------
    sentence : str
        Phones separated by spaces, syllables ended by full stops.
    voice, manner : Voice, Manner
        Who speaks, and how.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    Plan
        Tracks with coarticulation (smoothed) and an intonation contour.
    """
    rate = voice.rate * np.exp(manner.rate)
    syllables = [syllable.split() for syllable in sentence.split(".")]
    phones = [PHONES[name] for syllable in syllables for name in syllable]
    names = [name for syllable in syllables for name in syllable]
    seconds = np.array([phone.seconds for phone in phones]) / rate * np.exp(0.08 * rng.standard_normal(len(phones)))
    seconds[-3:] *= 1.25  # phrase-final lengthening
    frames = np.maximum(3, np.rint(seconds * SAMPLE_RATE / _HOP)).astype(int)
    edge = int(_SILENCE * SAMPLE_RATE / _HOP)
    starts = edge + np.concatenate([[0], np.cumsum(frames)[:-1]])

    targets = np.log(np.array([(*phone.formants, *_UPPER_FORMANTS) for phone in phones]))
    targets += np.array([0.04, 0.04, 0.03, 0.02, 0.02]) * rng.standard_normal(targets.shape)
    repeats = frames.copy()
    repeats[0] += edge
    repeats[-1] += edge
    formants = np.exp(_smooth(np.repeat(targets, repeats, axis=0), 11))
    amplitude = np.array([phone.voice for phone in phones]) * np.exp(0.12 * rng.standard_normal(len(phones)))
    voicing = _smooth(np.pad(np.repeat(amplitude, frames), edge)[:, None], 5)[:, 0]
    pitch = _intonation(names, starts, frames, len(voicing), rng) * voice.range * np.exp(manner.range) + manner.pitch
    return Plan(formants, voicing, pitch, tuple(_bursts(names, phones, starts, frames)))


def _intonation(
    names: list[str], starts: NDArray[np.int_], frames: NDArray[np.int_], length: int, rng: np.random.Generator
) -> Floats:
    """Declination, an accent on most vowels and a final fall, in units of the speaker's range."""
    time = np.arange(length)
    contour = np.linspace(0.7, -0.7, length)
    for name, start, count in zip(names, starts, frames, strict=True):
        if name in VOWELS:
            height = 0.8 + 0.6 * rng.standard_normal()
            contour += height * np.exp(-0.5 * ((time - start - count / 2) / 12.0) ** 2)
    contour -= 0.8 * np.clip((time - starts[-1] + 10) / 30.0, 0, 1)
    return contour - 0.4


def _bursts(
    names: list[str], phones: list[Phone], starts: NDArray[np.int_], frames: NDArray[np.int_]
) -> list[tuple[Phone, int, int]]:
    bursts = []
    for name, phone, start, count in zip(names, phones, starts, frames, strict=True):
        if phone.noise:
            # A stop is silent until its release: only its last third makes noise.
            length = max(2, int(count) // 3) if name in STOPS else int(count)
            bursts.append((phone, int(start + count - length), length))
    return bursts


def _smooth(track: Floats, width: int) -> Floats:
    """Smooth along the first axis with a Hann window of an odd number of frames; ends are held."""
    window = np.hanning(width + 2)[1:-1]
    window /= window.sum()
    padded = np.pad(track, ((width // 2, width // 2), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=0) @ window


def render(plan: Plan, voice: Voice, manner: Manner, rng: np.random.Generator) -> NDArray[np.float32]:
    """Synthesise a plan.

    Parameters
    ----------
    plan : Plan
        What to say.
    voice, manner : Voice, Manner
        Who speaks, and how.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    ndarray of float32, shape (plan.samples,)
        Mono 16 kHz within [-1, 1].
    """
    from scipy.signal import lfilter

    source = _glottis(plan, voice, manner, rng)
    speech = _resonate(source, plan.formants * voice.tract)
    speech *= 1.0 / max(float(np.sqrt(np.mean(speech**2))), 1e-9)
    speech += _friction(plan, voice, manner, rng)
    tilt = voice.channel + 0.05 * rng.standard_normal()
    speech = lfilter([1.0, tilt], [1.0], speech)
    speech *= 10 ** ((voice.level + manner.level) / 20) * _LEVEL / float(np.sqrt(np.mean(speech**2)))
    speech += 10 ** ((voice.noise + rng.standard_normal()) / 20) * rng.standard_normal(len(speech))
    wave: NDArray[np.float32] = np.clip(speech, -1.0, 1.0).astype(np.float32)
    return wave


def _glottis(plan: Plan, voice: Voice, manner: Manner, rng: np.random.Generator) -> Floats:
    """Pulses of the KLGLOTT88 shape (Klatt & Klatt 1990) with jitter, shimmer, tilt and aspiration noise."""
    from scipy.signal import lfilter

    time = np.arange(plan.samples)
    knots = (np.arange(len(plan.voice)) + 0.5) * _HOP
    f0 = np.interp(time, knots, voice.f0 * 2 ** (plan.pitch / 12))
    amplitude = np.interp(time, knots, plan.voice)
    cycles = int(f0.sum() / SAMPLE_RATE) + 2
    # Deviations are drawn for the cycles of the regular pulse train, which jitter hardly moves.
    regular = (np.cumsum(f0) / SAMPLE_RATE).astype(int)
    step = f0 / SAMPLE_RATE * (1 + voice.jitter * np.clip(rng.standard_normal(cycles), -3, 3))[regular]
    loudness = (1 + voice.shimmer * np.clip(rng.standard_normal(cycles), -3, 3))[regular]
    phase = np.cumsum(step) % 1.0

    opened = voice.open_quotient
    t = np.minimum(phase / opened, 1.0)
    pulse = np.where(phase < opened, 2 * t - 3 * t * t, 0.0)
    # The flow's derivative jumps from -1 to 0 at closure; two-sample polynomial steps keep the jump from aliasing.
    past = (phase - opened) / step
    pulse -= np.where((past >= 0) & (past < 1), 0.5 * (1 - past) ** 2, 0.0)
    pulse += np.where((past < 0) & (past >= -1), 0.5 * (1 + past) ** 2, 0.0)
    cutoff = voice.cutoff * 2**manner.bright
    pole = float(np.exp(-2 * np.pi * cutoff / SAMPLE_RATE))
    voiced = lfilter([1 - pole], [1.0, -pole], pulse)
    breath = voice.breath * np.exp(manner.breath) * rng.standard_normal(plan.samples) * (0.4 + 0.6 * (phase < opened))
    result: Floats = amplitude * loudness * (voiced + breath * 0.5)
    return result


def _resonate(source: Floats, formants: Floats) -> Floats:
    """Pass the source through a cascade of five resonators whose centres move every 10 ms.

    Windowed pieces go through filters that stand still, and overlap: switching the coefficients of running filters
    would click.
    """
    block = _STEP * _HOP
    count = -(-len(source) // block) + 1
    nearest = np.minimum(np.arange(count) * _STEP, len(formants) - 1)
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(source, (block, count * block - len(source))), 2 * block)[
        ::block
    ]
    window = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * block) / block)
    response = np.fft.rfft(_denominators(formants[nearest]), _FFT)
    response = response[:, :1].real / response
    rung = np.fft.irfft(np.fft.rfft(pieces * window, _FFT) * response, _FFT)
    parts = -(-_FFT // block)
    rung = np.pad(rung, ((0, 0), (0, parts * block - _FFT))).reshape(count, parts, block)
    speech = np.zeros((count + parts, block))
    for part in range(parts):
        speech[part : part + count] += rung[:, part]
    return speech.ravel()[block : block + len(source)]


def _denominators(formants: Floats) -> Floats:
    """Return the polynomials (frames, 11) whose roots are the resonances of rows of formants (frames, 5) in Hz."""
    centres = np.minimum(formants, 0.47 * SAMPLE_RATE)
    radius = np.exp(-np.pi * _BANDWIDTHS * np.maximum(1.0, centres / 3000) / SAMPLE_RATE)
    product = np.zeros((len(formants), 2 * formants.shape[1] + 1))
    product[:, 0] = 1.0
    for near, turn in zip(radius.T[:, :, None], np.cos(2 * np.pi * centres / SAMPLE_RATE).T[:, :, None], strict=True):
        before = product.copy()
        product[:, 1:] -= 2 * near * turn * before[:, :-1]
        product[:, 2:] += near**2 * before[:, :-2]
    return product


def _friction(plan: Plan, voice: Voice, manner: Manner, rng: np.random.Generator) -> Floats:
    from scipy.signal import lfilter

    result = np.zeros(plan.samples)
    for phone, start, count in plan.bursts:
        length = count * _HOP
        centre = min(phone.centre * voice.tract**0.6, 0.45 * SAMPLE_RATE)
        radius = np.exp(-np.pi * phone.width / SAMPLE_RATE)
        poles = [1.0, -2 * radius * np.cos(2 * np.pi * centre / SAMPLE_RATE), radius**2]
        noise = lfilter([1.0, 0.0, -1.0], poles, rng.standard_normal(length))
        noise *= np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 0.7 / np.sqrt(np.mean(noise**2))
        result[start * _HOP : start * _HOP + length] += phone.noise * 2 ** (0.5 * manner.bright) * noise
    return result
