"""What an inversion starts from: every start of Pizzi et al. 2023 (arXiv 2301.03206, section 4), as functions.

Noises of five colours are made in the frequency domain, brought to unit power and passed through tanh; distributions
have the study's parameters; speech is the attacker's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError

Wave = NDArray[np.float32]
Start = Callable[[int, np.random.Generator, Sequence[Wave] | None], Wave]
"""Of a length, a source of chance and, where it is needed, the attacker's speech: a wave of that length."""

_COLOURS: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = MappingProxyType(
    {
        "pink": lambda k: 1.0 / np.sqrt(k + 1.0),
        "brown": lambda k: 1.0 / (k + 1.0),
        "blue": np.sqrt,
        "violet": lambda k: k,
    }
)
"""Amplitude by the number of the frequency."""

_MIXED = 0.85
"""Share of speech in a mixture with white noise."""


def constant(value: float) -> Start:
    """Make starts of one value: without variance, a singular point of a network that normalises its input."""

    def draw(length: int, rng: np.random.Generator, speech: Sequence[Wave] | None = None) -> Wave:
        return np.full(length, value, dtype=np.float32)

    return draw


def noise(colour: str) -> Start:
    """Make noise of a colour ("white", "pink", "brown", "blue", "violet") of unit power, through tanh."""

    def draw(length: int, rng: np.random.Generator, speech: Sequence[Wave] | None = None) -> Wave:
        if colour == "white":
            samples = rng.standard_normal(length)
        else:
            bins = np.arange((length + 1) // 2 + 1 if length % 2 else length // 2 + 1)
            spectrum = rng.standard_normal(len(bins)) + 1j * rng.standard_normal(len(bins))
            samples = np.fft.irfft(spectrum * _COLOURS[colour](bins.astype(float)))[:length]
            samples /= np.sqrt(np.mean(samples**2)) or 1.0
        return np.tanh(samples).astype(np.float32)

    return draw


def distribution(draw: Callable[[np.random.Generator, int], NDArray[np.float64]]) -> Start:
    """Make starts of independent draws."""

    def start(length: int, rng: np.random.Generator, speech: Sequence[Wave] | None = None) -> Wave:
        return draw(rng, length).astype(np.float32)

    return start


def speech_mean(count: int) -> Start:
    """Make means of so many excerpts of the attacker's recordings; 1: an excerpt as it is."""

    def draw(length: int, rng: np.random.Generator, speech: Sequence[Wave] | None = None) -> Wave:
        if not speech:
            raise UserError("this start is made of speech: give the attacker's own recordings (speech=...)")
        excerpts = [_excerpt(speech[int(rng.integers(len(speech)))], length, rng) for _ in range(count)]
        mean: Wave = np.mean(excerpts, axis=0).astype(np.float32)
        return mean

    return draw


def mixed(start: Start) -> Start:
    """Make mixtures: .85 of a start and .15 of white noise."""
    white = noise("white")

    def draw(length: int, rng: np.random.Generator, speech: Sequence[Wave] | None = None) -> Wave:
        return (_MIXED * start(length, rng, speech) + (1 - _MIXED) * white(length, rng, None)).astype(np.float32)

    return draw


def _excerpt(wave: Wave, length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Cut an excerpt at a random place; a recording that is too short is repeated."""
    if not len(wave):
        raise UserError("a recording of the attacker's is empty")
    samples = np.tile(wave, -(-length // len(wave))) if len(wave) < length else wave
    first = int(rng.integers(len(samples) - length + 1))
    return samples[first : first + length].astype(np.float64)


_SPEECH = {"speech": speech_mean(1)} | {f"speech-mean-{count}": speech_mean(count) for count in (50, 100, 150)}

STARTS: Mapping[str, Start] = MappingProxyType(
    {
        "zeros": constant(0.0),
        "ones": constant(1.0),
        "minus-ones": constant(-1.0),
        **{colour: noise(colour) for colour in ("white", *_COLOURS)},
        "uniform": distribution(lambda rng, n: rng.uniform(0.0, 1.0, n)),
        "uniform-signed": distribution(lambda rng, n: rng.uniform(-1.0, 1.0, n)),
        "gaussian": distribution(lambda rng, n: rng.normal(0.0, 0.2, n)),
        "laplace": distribution(lambda rng, n: rng.laplace(0.0, 0.07, n)),
        "gumbel": distribution(lambda rng, n: rng.gumbel(0.0, 0.1, n)),
        "von-mises": distribution(lambda rng, n: rng.vonmises(0.0, 0.1, n)),
        **_SPEECH,
        **{f"{name}-mixed": mixed(start) for name, start in _SPEECH.items()},
    }
)
"""The starts by name."""

PUBLISHED_STEP: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "ones": (1e-5, 0.2), "zeros": (1e-8, 0.5), "gumbel": (0.01, 0.01), "laplace": (0.005, 0.005),
        "white": (0.2, 0.2), "brown": (0.01, 0.05), "speech": (0.001, 0.2), "speech-mixed": (0.005, 0.01),
        "speech-mean-50": (0.001, 0.01), "speech-mean-50-mixed": (0.005, 0.01),
    }
)  # fmt: skip
"""Step sizes of the study's table 1, for standard and sliding inversion, with ``scale="absolute"``."""


def start_of(name: str, length: int, rng: np.random.Generator, speech: Sequence[Wave] | None = None) -> Wave:
    """Draw a start by name.

    Parameters
    ----------
    name : str
        One of `STARTS`.
    length : int
        Samples.
    rng : Generator
    speech : sequence of ndarray, optional
        For starts that are made of speech.

    Raises
    ------
    UserError
        For a name that there is not, a length that is not positive, and speech that is missing.
    """
    if name not in STARTS:
        raise UserError(f"unknown start {name!r}. Known: {', '.join(STARTS)}")
    if length < 1:
        raise UserError(f"a start of {length} samples: there must be at least one")
    return STARTS[name](length, rng, speech)
