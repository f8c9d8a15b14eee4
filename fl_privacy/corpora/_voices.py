"""Who speaks in the synthetic corpus, and how an emotion sounds in a voice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EMOTIONS = ("neutral", "happy", "sad", "angry")

# Logarithms of a factor; half the distance between the sexes. Men speak at about 85 to 155 Hz and centre on 118, women
# at 165 to 255 and centre on 205; women's formants lie about 16.5 % higher (Peterson & Barney 1952).
_F0_CENTRE, _F0_HALF, _F0_SPREAD = float(np.log(155.5)), 0.276, 0.13
_TRACT_CENTRE, _TRACT_HALF, _TRACT_SPREAD = 0.0765, 0.0765, 0.045


@dataclass(frozen=True, slots=True)
class Manner:
    """How something is said, as differences from a neutral manner.

    Attributes
    ----------
    pitch : float
        Shift of f0 in semitones.
    range : float
        Logarithm of the factor on the excursions of f0.
    rate : float
        Logarithm of the factor on the syllable rate.
    level : float
        Loudness in dB.
    bright : float
        Shift of the source's cut-off in octaves.
    breath : float
        Logarithm of the factor on aspiration noise.
    """

    pitch: float = 0.0
    range: float = 0.0
    rate: float = 0.0
    level: float = 0.0
    bright: float = 0.0
    breath: float = 0.0

    def __add__(self, other: Manner) -> Manner:
        return Manner(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    def __mul__(self, factor: float) -> Manner:
        return Manner(*(factor * a for a in _values(self)))


def _values(manner: Manner) -> tuple[float, ...]:
    return (manner.pitch, manner.range, manner.rate, manner.level, manner.bright, manner.breath)


_EMOTION = {
    "neutral": Manner(),
    "happy": Manner(pitch=5.5, range=0.70, rate=0.08, level=4.5, bright=0.45, breath=0.15),
    "sad": Manner(pitch=-1.2, range=-0.70, rate=-0.26, level=-6.0, bright=-0.60, breath=0.60),
    "angry": Manner(pitch=4.2, range=0.35, rate=0.16, level=9.0, bright=1.10, breath=-0.45),
}
_SPEAKER_SPREAD = Manner(pitch=1.0, range=0.18, rate=0.05, level=1.5, bright=0.15, breath=0.15)
_UTTERANCE_SPREAD = Manner(pitch=0.8, range=0.17, rate=0.06, level=1.6, bright=0.14, breath=0.15)


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker.

    Attributes
    ----------
    f0 : float
        Median pitch in Hz.
    tract : float
        Factor on the formants of an average man.
    range : float
        Excursions of f0 in semitones.
    rate : float
        Factor on the syllable rate.
    cutoff : float
        Cut-off of the glottal source in Hz: high is bright or pressed.
    open_quotient : float
        Share of a cycle in which the glottis is open.
    breath, jitter, shimmer : float
        Aspiration relative to voicing; relative deviation of period and amplitude from cycle to cycle.
    level : float
        Loudness in dB.
    channel : float
        Tilt of the microphone: coefficient of a first-order filter, positive is dull.
    noise : float
        Background noise in dB re full scale.
    manners : tuple of Manner
        How the speaker carries each of `EMOTIONS`.
    """

    f0: float
    tract: float
    range: float
    rate: float
    cutoff: float
    open_quotient: float
    breath: float
    jitter: float
    shimmer: float
    level: float
    channel: float
    noise: float
    manners: tuple[Manner, ...]


def make_voice(female: bool, gender_effect: float, rng: np.random.Generator) -> Voice:
    """Draw a speaker; the draws do not depend on the sex, so that at ``gender_effect=0`` the voice does not either."""
    side = gender_effect if female else -gender_effect
    z = rng.standard_normal(12)
    manners = []
    for emotion in EMOTIONS:
        strength = float(np.exp(np.clip(0.3 * rng.standard_normal(), -0.6, 0.6)))
        manners.append(_EMOTION[emotion] * strength + scatter(_SPEAKER_SPREAD, rng))
    return Voice(
        f0=float(np.exp(_F0_CENTRE + _F0_HALF * side + _F0_SPREAD * np.clip(z[0], -2, 2))),
        tract=float(np.exp(_TRACT_CENTRE + _TRACT_HALF * side + _TRACT_SPREAD * np.clip(z[1], -2, 2))),
        range=float(np.exp(np.log(2.6) + 0.06 * side + 0.2 * z[2])),
        rate=float(np.exp(0.08 * z[3])),
        cutoff=float(1700 * np.exp(-0.12 * side + 0.25 * z[4])),
        open_quotient=float(np.clip(0.60 + 0.05 * side + 0.04 * z[5], 0.4, 0.8)),
        breath=float(0.05 * np.exp(0.25 * side + 0.35 * z[6])),
        jitter=float(0.008 * np.exp(0.3 * z[7])),
        shimmer=float(0.05 * np.exp(0.3 * z[8])),
        level=float(1.5 * z[9]),
        channel=float(np.clip(0.18 * z[10], -0.45, 0.45)),
        noise=float(-66 + 4 * z[11]),
        manners=tuple(manners),
    )


def utterance_manner(voice: Voice, emotion: str, rng: np.random.Generator) -> Manner:
    """Draw how one utterance is said: the speaker's manner for the emotion with the scatter of the moment."""
    return voice.manners[EMOTIONS.index(emotion)] + scatter(_UTTERANCE_SPREAD, rng)


def scatter(spread: Manner, rng: np.random.Generator) -> Manner:
    """Draw a manner around none, with a standard deviation for each part."""
    return Manner(*(float(value) for value in np.array(_values(spread)) * rng.standard_normal(6)))
