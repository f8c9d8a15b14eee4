"""Experiment 3: from an inversion to speech that is put before a recogniser, and how often it is taken for the speaker.

Two ways lead to a speaker vector: an inverted d-vector through a mapper that was learned on other people, and an
inverted wave straight through the encoder. A synthesiser says somebody else's sentences in that voice. Beside both
stand the speaker's own vector (the most that the synthesiser could give), other classes' inversions, and the mean
voice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy._registry import find_object
from fl_privacy.attacks.inversion.judges import Verdicts, unit
from fl_privacy.attacks.inversion.mapper import EmbeddingMapper, MapperTraining, MappingQuality, mapping_quality
from fl_privacy.attacks.inversion.synthesiser import ReferenceSynthesiser, Synthesiser, SynthesiserTraining, checked
from fl_privacy.audit.claims import jsonable
from fl_privacy.audit.files import write_atomically
from fl_privacy.audit.metrics import Floats
from fl_privacy.config.speaker_inversion import SpoofSettings
from fl_privacy.models.classifier import SpeakerClassifier
from fl_privacy.models.encoder import SpeakerEncoder, load_encoder
from fl_privacy.sims.inversion_judges import Bench
from fl_privacy.sims.inversion_people import People

OWN, MEAN = "own recordings", "mean voice"
REFERENCE = "reference synthesiser"

_PAIRS = 8
"""Recordings of each auxiliary speaker, at most, that a mapper learns on."""

_HELD_OUT = 0.25
"""Share of the auxiliary speakers on whom a mapper is measured."""


class Mappers:
    """Mappers from the target's d-vectors to an encoder's vectors, learned on auxiliary speakers.

    Parameters
    ----------
    target : SpeakerClassifier
    encoder : SpeakerEncoder
    people : People
    kinds : sequence of str
    seed : int

    Attributes
    ----------
    quality : mapping of str to MappingQuality
        On auxiliary speakers who were held out: each kind, the mean vector, and each kind on shuffled pairs.
    mappers : mapping of str to EmbeddingMapper
        Learned on all auxiliary speakers.
    mean : ndarray, shape (q,)
        The mean voice.
    """

    def __init__(
        self, target: SpeakerClassifier, encoder: SpeakerEncoder, people: People, kinds: tuple[str, ...], seed: int
    ) -> None:
        waves, owners = people.of({name: heard[:_PAIRS] for name, heard in people.auxiliary.items()})
        source = np.stack([target.dvector_of(wave) for wave in waves])
        vectors = unit(encoder.embed(waves))
        names = list(people.auxiliary)
        rng = np.random.default_rng([seed, 30])
        held = set(rng.permutation(names)[: max(2, round(_HELD_OUT * len(names)))].tolist())
        out = np.array([owner in held for owner in owners])
        told = [owner for owner in owners if owner in held]
        self.mean = unit(vectors.mean(axis=0))
        self.quality: dict[str, MappingQuality] = {}
        self.mappers: dict[str, EmbeddingMapper] = {}
        for kind in kinds:
            learned = EmbeddingMapper(kind, MapperTraining()).fit(source[~out], vectors[~out], seed)
            self.quality[kind] = mapping_quality(learned(source[out]), vectors[out], told)
            shuffled = vectors[~out][rng.permutation(int((~out).sum()))]
            blind = EmbeddingMapper(kind, MapperTraining()).fit(source[~out], shuffled, seed)
            self.quality[f"{kind}, shuffled pairs"] = mapping_quality(blind(source[out]), vectors[out], told)
            self.mappers[kind] = EmbeddingMapper(kind, MapperTraining()).fit(source, vectors, seed)
        blank = np.tile(vectors[~out].mean(axis=0), (int(out.sum()), 1))
        self.quality[MEAN] = mapping_quality(blank, vectors[out], told)


def without_itself(vectors: Floats, owners: list[str]) -> Floats:
    """Return for each recording the mean vector (n, q) of its speaker's *other* recordings.

    So that a synthesiser learns the voice from a vector and not what was said.
    """
    codes = np.unique(owners, return_inverse=True)[1]
    sums = np.stack([vectors[codes == code].sum(axis=0) for code in range(codes.max() + 1)])
    counts = np.bincount(codes)[codes][:, None]
    rest = np.where(counts > 1, sums[codes] - vectors, vectors)
    return unit(rest)


def spoof(
    folder: Path,
    target: SpeakerClassifier,
    encoder: SpeakerEncoder,
    people: People,
    bench: Bench,
    routes: Mapping[str, tuple[str, NDArray[np.float32]]],
    settings: SpoofSettings,
    seed: int,
    told: Callable[[int], None] | None = None,
) -> None:
    """Make speech of inversions and put it before every judge.

    Parameters
    ----------
    folder : Path
        Gets ``spoof.npz`` (for each voice and judge, shares of each class's utterances that are accepted) and
        ``facts.json`` (quality of the mappers, the synthesiser).
    target : SpeakerClassifier
    encoder : SpeakerEncoder
        Of the speaker vectors, unless one's own synthesiser comes with another.
    people : People
    bench : Bench
    routes : mapping of str to (kind, ndarray)
        By name what an inversion found of every class: ("wave", (classes, samples)) or ("d-vector", (classes, d)).
    settings : SpoofSettings
    seed : int
    told : callable, optional
        Told of every step of the reference synthesiser's training.
    """
    if settings.encoder is not None:
        encoder = load_encoder(settings.encoder)
    mappers = Mappers(target, encoder, people, settings.mappers, seed)
    says, name = _synthesisers(encoder, people, settings, seed, told)
    own = np.stack([unit(encoder.embed(people.tested[speaker])).mean(axis=0) for speaker in people.classes])
    voices = {OWN: unit(own), MEAN: np.tile(mappers.mean, (len(people.classes), 1))}
    for route, (kind, found) in routes.items():
        if kind == "wave":
            voices[f"{route}, encoded"] = unit(encoder.embed(list(found)))
        else:
            voices |= {f"{route}, {which} mapper": learned(found) for which, learned in mappers.mappers.items()}
    arrays: dict[str, NDArray[Any]] = {}
    for voice, vectors in voices.items():
        waves = [checked(say, vector.astype(np.float32)) for vector in vectors for say in says]
        whose = np.repeat(np.arange(len(vectors)), len(says))
        for judge in bench.judges.values():
            arrays[f"{voice}|{judge.name}"] = judge.scores(waves)
        arrays[f"{voice}|identities"] = whose
        if voice != MEAN:
            arrays[f"{voice}|example"] = waves[0]
    np.savez(folder / "spoof.npz", allow_pickle=False, **arrays)
    facts = {
        "synthesiser": name,
        "voices": list(voices),
        "mapping": {key: asdict(found) for key, found in mappers.quality.items()},
    }
    write_atomically(folder / "facts.json", json.dumps(jsonable(facts), indent=1) + "\n")


def accepted(folder: Path, bench: Bench) -> dict[str, dict[str, dict[str, Floats]]]:
    """Read what was made: by voice and judge, for each class shares of its utterances.

    "eer" and "far_1": accepted at the judge's threshold on whole real recordings; "wrong_eer" and "wrong_far_1": of
    the utterances made for *other* classes, accepted as this one.
    """
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, dict[str, Floats]]] = {}
    with np.load(folder / "spoof.npz", allow_pickle=False) as held:
        for voice in facts["voices"]:
            whose = held[f"{voice}|identities"]
            found[voice] = {}
            for judge in bench.judges:
                table, thresholds = Verdicts(held[f"{voice}|{judge}"], whose), bench.natural(judge, 0).thresholds
                rates = {}
                for name, threshold in (("eer", thresholds.eer), ("far_1", thresholds.far_1)):
                    if threshold is not None:
                        rates[name] = _by_class(table.accepted(threshold), whose)
                        rates[f"wrong_{name}"] = _by_class(table.accepted_of_others(threshold), whose)
                found[voice][judge] = rates
    return found


def _by_class(hits: Floats, whose: NDArray[np.int64]) -> Floats:
    return np.array([hits[whose == k].mean() for k in range(int(whose.max()) + 1)])


def _synthesisers(
    encoder: SpeakerEncoder,
    people: People,
    settings: SpoofSettings,
    seed: int,
    told: Callable[[int], None] | None,
) -> tuple[list[Synthesiser], str]:
    if settings.synthesiser is not None:
        return [find_object(settings.synthesiser, {}, "synthesiser")], settings.synthesiser
    waves, owners = people.of(people.auxiliary)
    vectors = without_itself(unit(encoder.embed(waves)), owners)
    reference = ReferenceSynthesiser(SynthesiserTraining(steps=settings.steps))
    reference.fit(waves, vectors, owners, seed, told)
    speakers = list(people.auxiliary)
    said = [people.auxiliary[speakers[n % len(speakers)]][0] for n in range(settings.contents)]
    return reference.saying(said), REFERENCE
