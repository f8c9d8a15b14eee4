"""A synthetic corpus: acted speech of invented people, made when it is asked for; it needs no files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora import _synthesis, _voices
from fl_privacy.corpora._audio import SAMPLE_RATE
from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora._phones import SENTENCES
from fl_privacy.corpora.base import Corpus, Utterance

_RECIPE = 1  # raise whenever the audio changes: features are cached under it
_SEX_STREAM, _VOICE_STREAM, _ORDER_STREAM, _UTTERANCE_STREAM = range(4)


def scan(
    root: None = None, *, speakers: int = 40, utterances: int = 20, seed: int = 0, gender_effect: float = 1.0
) -> Corpus:
    """Make a corpus of source-filter speech: four emotions carried by prosody, two sexes by pitch and formants.

    Each speaker has an own pitch, vocal tract, source, microphone and way with each emotion; each utterance is one of
    twelve sentences of one to two seconds. An utterance's audio follows from its recipe (seed, speaker, sex, number,
    emotion, sentence, effect), so that any part of a corpus, in any order, is the same bytes. Labels: ``gender``,
    ``emotion`` (neutral, happy, sad, angry, in equal numbers a speaker), ``statement``. Which speakers are women is a
    seeded permutation: the number says nothing of the sex.

    Parameters
    ----------
    root : None
        There is none; accepted because every scan has one.
    speakers : int
        Number of speakers, half of each sex; "s000" and so on.
    utterances : int
        Number of utterances a speaker.
    seed : int
        Another seed is another set of people.
    gender_effect : float
        How far the sexes are apart: 1 as in people, 0 not at all (the labels then carry nothing).

    Returns
    -------
    Corpus
        Without paths; `fl_privacy.corpora.write` makes files of it.

    Raises
    ------
    CorpusError
        If a root is given, a count is not a positive integer, the seed is negative or the effect is not in [0, 2].
    """
    if root is not None:
        raise CorpusError(f"corpus 'synthetic' has no files: leave out the root ({root})")
    for name, value, least in [("speakers", speakers, 1), ("utterances", utterances, 1), ("seed", seed, 0)]:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise CorpusError(f"corpus 'synthetic': {name} must be a whole number of at least {least}, not {value!r}")
    if isinstance(gender_effect, bool) or not isinstance(gender_effect, int | float) or not 0 <= gender_effect <= 2:
        raise CorpusError(f"corpus 'synthetic': gender_effect must be a number from 0 to 2, not {gender_effect!r}")
    recipes = _recipes(speakers, utterances, seed, float(gender_effect))
    items = [
        Utterance(
            id=name,
            speaker=f"s{recipe.speaker:03d}",
            labels={
                "gender": "female" if recipe.female else "male",
                "emotion": recipe.emotion,
                "statement": f"{recipe.sentence:02d}",
            },
        )
        for name, recipe in recipes.items()
    ]
    return Corpus("synthetic", None, tuple(items), source=_Synthesiser(recipes))


@dataclass(frozen=True, slots=True)
class _Recipe:
    """All that the audio of one utterance follows from."""

    seed: int
    speaker: int
    female: bool
    gender_effect: float
    utterance: int
    emotion: str
    sentence: int

    def prepare(self) -> tuple[_synthesis.Plan, _voices.Voice, _voices.Manner, np.random.Generator]:
        voice = _voices.make_voice(self.female, self.gender_effect, _rng(self.seed, _VOICE_STREAM, self.speaker))
        rng = _rng(self.seed, _UTTERANCE_STREAM, self.speaker, self.utterance)
        manner = _voices.utterance_manner(voice, self.emotion, rng)
        return _synthesis.plan(SENTENCES[self.sentence], voice, manner, rng), voice, manner, rng


class _Synthesiser:
    """The `AudioSource` of the synthetic corpus; looks utterances up by id, so that labels do not matter to it."""

    def __init__(self, recipes: dict[str, _Recipe]) -> None:
        self._recipes = recipes

    def wave(self, utterance: Utterance) -> NDArray[np.float32]:
        return _synthesis.render(*self._recipe(utterance).prepare())

    def fingerprint(self, utterance: Utterance) -> str:
        recipe = self._recipe(utterance)
        facts = [_RECIPE, *(getattr(recipe, name) for name in recipe.__slots__)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def seconds(self, utterance: Utterance) -> float:
        return self._recipe(utterance).prepare()[0].samples / SAMPLE_RATE

    def _recipe(self, utterance: Utterance) -> _Recipe:
        try:
            return self._recipes[utterance.id]
        except KeyError:
            raise CorpusError(f"corpus 'synthetic' has no utterance {utterance.id!r}") from None


def _recipes(speakers: int, utterances: int, seed: int, gender_effect: float) -> dict[str, _Recipe]:
    women = _rng(seed, _SEX_STREAM).permutation(speakers) < speakers // 2
    recipes = {}
    for speaker in range(speakers):
        order = _rng(seed, _ORDER_STREAM, speaker)
        kinds = (order.permutation(utterances) + order.integers(len(_voices.EMOTIONS))) % len(_voices.EMOTIONS)
        sentences = order.permutation(utterances) % len(SENTENCES)
        for number, (kind, sentence) in enumerate(zip(kinds, sentences, strict=True)):
            recipes[f"s{speaker:03d}_{number:03d}"] = _Recipe(
                seed, speaker, bool(women[speaker]), gender_effect, number, _voices.EMOTIONS[kind], int(sentence)
            )
    return recipes


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *key])))
