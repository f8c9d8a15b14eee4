"""Who is a class of the attacked classifier and who is not, and which recordings train, judge and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fl_privacy.config.speaker_inversion import CorpusPart, SpeakerInversionFile
from fl_privacy.corpora import AudioError, Corpus
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SILENCE

Wave = NDArray[np.float32]
Voices = Mapping[str, tuple[Wave, ...]]

_SHORTEST = 3200
"""Samples: the window of SincNet."""

_FEWEST = 3
"""Recordings of a class: one to train on, one to judge by, one to test on."""


@dataclass(frozen=True)
class People:
    """Recordings by speaker, each used for one thing.

    Attributes
    ----------
    classes : tuple of str
        Whom the target knows, in the order of its outputs.
    trained, judged, tested : mapping of str to tuple of ndarray
        Recordings of each class that train the target, that judges know the voice by, and that test both.
    auxiliary : mapping of str to tuple of ndarray
        Everything of people who are no class.
    labels : mapping of str to str
        The attribute of every speaker; empty where there is none.
    left_out : mapping of str to mapping of str to int
        By side ("private", "auxiliary"): reasons, and how often.
    """

    classes: tuple[str, ...]
    trained: Voices
    judged: Voices
    tested: Voices
    auxiliary: Voices
    labels: Mapping[str, str]
    left_out: Mapping[str, Mapping[str, int]]

    def of(self, voices: Voices) -> tuple[list[Wave], list[str]]:
        """Return recordings in order, and the speaker of each."""
        pairs = [(wave, name) for name, waves in voices.items() for wave in waves]
        return [wave for wave, _ in pairs], [name for _, name in pairs]


def people_of(file: SpeakerInversionFile, named: Sequence[str] | None = None) -> People:
    """Scan, decode and part the speakers of a run.

    Parameters
    ----------
    file : SpeakerInversionFile
    named : sequence of str, optional
        The classes of a target that is there already, in its order; by default they are drawn. Where they are numbers,
        they are all speakers of the private corpus, in another order.

    Raises
    ------
    UserError
        Where too few speakers or recordings are left, or a class of the target has none.
    """
    corpus = _chosen(file.private)
    waves, reasons = _usable(corpus)
    counts = {"private": reasons, "auxiliary": Counter[str]()}
    enough = {name: found for name, found in waves.items() if len(found) >= _FEWEST}
    for _ in range(len(waves) - len(enough)):
        reasons[f"a speaker with fewer than {_FEWEST} usable recordings"] += 1
    rng = np.random.default_rng([file.simulation.seed, 20])
    order = [list(enough)[place] for place in rng.permutation(len(enough))]
    own = file.auxiliary is None
    # In random order: names often begin with the sex, and some things are done to the first classes alone.
    classes = tuple(order[: _wanted(file, len(order))]) if named is None else _of_checkpoint(named, order)
    least = len(classes) + (4 if own else 0)
    if len(order) < least:
        raise UserError(
            f"people: {len(order)} speakers with {_FEWEST} usable recordings; the checkpoint has {len(classes)} of "
            "them, and 4 have to be auxiliary: name an [auxiliary] corpus"
        )
    labels = _labels(corpus, file.people.attribute)
    if own:
        others = {name: tuple(found) for name, found in enough.items() if name not in classes}
    else:
        assert file.auxiliary is not None
        beside = _chosen(file.auxiliary)
        found, counts["auxiliary"] = _usable(beside)
        same = (file.auxiliary.corpus, file.auxiliary.root) == (file.private.corpus, file.private.root)
        both = sorted(set(found) & set(classes)) if same else []
        if both:
            raise UserError(f"auxiliary: {both[0]!r} is a class of the target; the attacker owns other people's voices")
        # Two corpora may have an s01 each.
        others = {f"auxiliary/{name}": tuple(mine) for name, mine in found.items()}
        labels |= {f"auxiliary/{name}": value for name, value in _labels(beside, file.people.attribute).items()}
    if len(others) < 4:
        raise UserError(f"auxiliary: {len(others)} speakers with usable recordings; 4 at least")
    parts: tuple[dict[str, tuple[Wave, ...]], ...] = ({}, {}, {})
    for number, name in enumerate(classes):
        mine = enough[name]
        drawn = np.random.default_rng([file.simulation.seed, 21, number]).permutation(len(mine))
        judged = max(1, round(file.people.judged * len(mine)))
        trained = min(max(1, round(file.people.trained * len(mine))), len(mine) - judged - 1)
        ends = (0, trained, trained + judged, len(mine))
        for part, start, end in zip(parts, ends, ends[1:], strict=False):
            part[name] = tuple(mine[place] for place in drawn[start:end])
    trained_on, judged_by, tested_on = parts
    return People(classes, trained_on, judged_by, tested_on, others, labels, counts)


def _wanted(file: SpeakerInversionFile, there: int) -> int:
    """How many of the speakers who are there become classes."""
    own = file.auxiliary is None
    wanted = file.people.classes or (there // 2 if own else there)
    least = wanted + (4 if own else 0)
    if wanted < 3 or there < least:
        fewest = 7 if own else 3
        raise UserError(
            f"people: {there} speakers with {_FEWEST} usable recordings; {wanted} classes"
            f"{' and 4 auxiliary speakers' if own else ''} take {max(least, fewest)}"
            f"{'; lower people.classes' if wanted > 3 and there >= fewest else ''}"
        )
    return wanted


def _of_checkpoint(named: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    """Return a checkpoint's classes, who have to be there."""
    if len(named) < 3:
        raise UserError(f"target: the checkpoint has {len(named)} classes; 3 at least")
    absent = [name for name in named if name not in there]
    if absent and list(named) == [str(number) for number in range(len(named))]:
        if len(there) != len(named):
            raise UserError(
                f"target: the checkpoint has {len(named)} classes, but the corpus has {len(there)} speakers of use; "
                "its classes are numbers: choose the speakers by private.where"
            )
        return tuple(there)
    if len(absent) == len(named):
        raise UserError(
            f"target: the checkpoint is of other speakers: it names {len(named)}, {absent[0]!r} for one, and the "
            f"private corpus has {_FEWEST} usable recordings of none of them"
        )
    if absent:
        raise UserError(
            f"private: no {_FEWEST} usable recordings of {absent[0]!r}, a class of the target, which names "
            f"{len(named)} speakers; {len(named) - len(absent)} of them are there"
        )
    return tuple(named)


def cuts(waves: Sequence[Wave], length: int, count: int, rng: np.random.Generator) -> list[Wave]:
    """Cut pieces with sound in them out of one person's recordings.

    Parameters
    ----------
    waves : sequence of ndarray, each (samples,)
    length : int
        Samples of a piece; shorter recordings are repeated.
    count : int
        At most so many.
    rng : numpy.random.Generator

    Returns
    -------
    list of ndarray, each (length,)
        Of the louder half of all pieces, half overlapping, in random order.
    """
    pieces = []
    for wave in waves:
        whole = wave if wave.size >= length else np.resize(wave, length)
        pieces += [whole[b : b + length] for b in range(0, whole.size - length + 1, max(1, length // 2))]
    energy = np.array([float(np.mean(np.square(piece))) for piece in pieces])
    loud = np.flatnonzero(energy >= np.median(energy))
    return [pieces[place] for place in rng.permutation(loud)[:count]]


def _chosen(speech: CorpusPart) -> Corpus:
    corpus = Corpus.load(speech.corpus, speech.root, **speech.options)
    if not speech.where:
        return corpus
    unknown = sorted(set(speech.where) - set(corpus.attributes))
    if unknown:
        raise UserError(f"{speech.corpus}: where: no label {unknown[0]!r}; there are: {', '.join(corpus.attributes)}")
    kept = tuple(u for u in corpus if all(u.labels.get(key) in values for key, values in speech.where.items()))
    if not kept:
        raise UserError(f"{speech.corpus}: where: no recording has {speech.where}")
    return replace(corpus, utterances=kept)


def _usable(corpus: Corpus) -> tuple[dict[str, list[Wave]], Counter[str]]:
    found: dict[str, list[Wave]] = {}
    reasons = Counter(excluded.reason for excluded in corpus.excluded)
    for utterance in corpus:
        try:
            wave = corpus.wave(utterance)
        except AudioError as error:
            reasons[str(error).replace(utterance.id, "a recording")] += 1
            continue
        if wave.size < _SHORTEST:
            reasons["shorter than a window of 200 ms"] += 1
        elif float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) < SILENCE:
            reasons["silence"] += 1
        else:
            found.setdefault(utterance.speaker, []).append(wave)
    return found, reasons


def _labels(corpus: Corpus, attribute: str | None) -> dict[str, str]:
    if attribute is None or attribute not in corpus.attributes:
        return {}
    return corpus.speaker_labels(attribute)
