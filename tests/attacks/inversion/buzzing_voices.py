"""Invented speakers, each with a pitch and a vocal tract of its own, who say vowels: little to learn, quick to make."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VOWELS = np.array([[730.0, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])
"""Formants in Hz (Peterson and Barney 1952)."""

RATE = 16_000


def voices(
    speakers: int, each: int, seconds: float = 0.5, seed: int = 0
) -> tuple[list[NDArray[np.float32]], list[str]]:
    """Return waves and who speaks; speakers are the same for any seed, what they say is not."""
    rng = np.random.default_rng([1, seed])
    waves, names = [], []
    for speaker in range(speakers):
        pitch, tract = 90 * 1.14**speaker, 0.85 + 0.35 * ((5 * speaker) % speakers) / speakers
        for _ in range(each):
            parts = [vowel(pitch, tract, seconds / 2, rng) for _ in range(2)]
            waves.append(np.concatenate(parts).astype(np.float32))
            names.append(f"v{speaker:02d}")
    return waves, names


def vowel(pitch: float, tract: float, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Harmonics of a gliding pitch under a spectrum with three peaks, and a little noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    f0 = pitch * np.exp(0.05 * rng.standard_normal() + 0.1 * rng.standard_normal() * time)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    formants = VOWELS[rng.integers(len(VOWELS))] * tract * np.exp(0.03 * rng.standard_normal(3))
    harmonics = np.arange(1, int(5000 / f0.max()))
    gain = sum(1 / (1 + ((harmonics * f0.mean() - centre) / 120) ** 2) for centre in formants) / harmonics**0.3
    wave = gain @ np.cos(harmonics[:, None] * phase + rng.uniform(0, 2 * np.pi, (len(harmonics), 1)))
    return wave / np.sqrt(np.mean(wave**2)) * 0.1 + 0.005 * rng.standard_normal(len(time))
