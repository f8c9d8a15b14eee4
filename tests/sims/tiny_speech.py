"""A corpus and an extractor of one's own: a twentieth of a second of sixteen tones, whose levels are the features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora import Corpus, Utterance

TONES, SAMPLES = 16, 800
EMOTIONS = ("neutral", "happy", "sad", "angry")
ACCENTS = ("irish", "scottish", "welsh")


@dataclass(frozen=True)
class _Tones:
    """The samples of every utterance, by id."""

    levels: dict[str, NDArray[np.float64]]

    def wave(self, utterance: Utterance) -> NDArray[np.float32]:
        spectrum = np.zeros(SAMPLES // 2 + 1)
        spectrum[1 : TONES + 1] = self.levels[utterance.id]
        return np.fft.irfft(spectrum).astype(np.float32)

    def fingerprint(self, utterance: Utterance) -> str:
        return hashlib.sha256(self.levels[utterance.id].tobytes()).hexdigest()

    def seconds(self, utterance: Utterance) -> float:
        return SAMPLES / 16_000


def scan(*, people: int = 0, speakers: int = 10, utterances: int = 16, effect: float = 2.0, accents: int = 3) -> Corpus:
    """Speakers with a gender, an age and an accent, who say two statements: each moves levels of its own."""
    rng = np.random.default_rng([people, 5])
    age = rng.permutation(np.linspace(20, 70, speakers).round().astype(int))
    gender, accent = rng.permutation(speakers) % 2, rng.permutation(speakers) % accents
    items, levels = [], {}
    for s in range(speakers):
        voice = 10 + 0.5 * rng.normal(size=TONES)
        voice[0] += effect * gender[s]
        voice[1] += effect * (age[s] - 45) / 15
        voice[2 + accent[s]] += effect
        for u in range(utterances):
            emotion, statement = u % 4, (u // 4) % 2
            level = voice + 0.3 * rng.normal(size=TONES)
            level[6 + emotion] += 2.0
            level[10] += effect * statement
            name = f"{people}-{s:02d}-{u:02d}"
            levels[name] = level
            labels = {
                "gender": ("female", "male")[gender[s]],
                "age": str(age[s]),
                "accent": ACCENTS[accent[s]],
                "emotion": EMOTIONS[emotion],
                "statement": ("dogs", "kids")[statement],
            }
            items.append(Utterance(name, f"s{s:02d}", labels=labels))
    return Corpus("tiny", None, tuple(items), source=_Tones(levels))


class Levels:
    """The levels of the tones."""

    name = "levels"
    version = "1"
    dimension = TONES

    def __call__(self, wave: NDArray[np.float32], /) -> NDArray[np.float32]:
        return np.fft.rfft(wave).real[1 : TONES + 1].astype(np.float32)
