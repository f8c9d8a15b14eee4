"""The recordings of a run on encoders: which can be used, and what is sent of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora import AudioError, Corpus, CorpusError, Utterance
from fl_privacy.sims.speaker_recognisers import Source

Wave = NDArray[np.float32]

RATE = 16_000

HEARD = " (pre-training hears it, no attack is sent it)"
"""Follows the reason why a recording is left out of the attacks alone."""


ALONE = "fewer than 2 usable utterances of the speaker"
"""Why a speaker's last recording is left out: a speaker's score is over pairs."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an encoder is sent of an utterance.

    Attributes
    ----------
    seconds : float
        The middle so many seconds, the same for every encoder; 0: all of it.
    peak : bool
        Bring the largest sample to full scale, as the public code of Tseng et al. (2022) does.
    backwards : bool
        Turn the wave around in time.
    """

    seconds: float = 2.0
    peak: bool = False
    backwards: bool = False

    @property
    def samples(self) -> int:
        """Length in samples; 0 for all."""
        return round(self.seconds * RATE)

    @property
    def too_short(self) -> str:
        """Why a recording is left out that is shorter than what is sent."""
        return f"shorter than {self.seconds:g} s"

    def of(self, wave: Wave) -> Wave:
        """Make what is sent of a wave.

        Raises
        ------
        AudioError
            For a wave that is silent or shorter than what is sent.
        """
        if len(wave) < self.samples:
            raise AudioError(self.too_short)
        if not np.any(wave):
            raise AudioError("silence")
        if self.samples:
            start = (len(wave) - self.samples) // 2
            wave = wave[start : start + self.samples]
            if not np.any(wave):
                raise AudioError("silence")
        if self.peak:
            wave = wave / np.abs(wave).max()
        if self.backwards:
            wave = wave[::-1]
        return np.ascontiguousarray(wave, dtype=np.float32)


def trains(wave: Wave) -> bool:
    """Whether an encoder can be pre-trained on a wave, however short: it has a frame, and is not silent."""
    from fl_privacy.models.log_mel import WINDOW

    return len(wave) >= WINDOW and bool(np.any(wave))


def _loaded(source: Source) -> Corpus:
    """Scan a corpus; where that fails, say which part of the file names it, and which options go along."""
    try:
        return source.load()
    except CorpusError as error:
        part = source.side.rstrip("/") or "private"
        given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in json.loads(source.options).items())
        hint = f". The file sets {part}.options = {{{given}}}; for none, set {part}.options={{}}" if given else ""
        raise CorpusError(f"{part}: {error}{hint}") from error


_KEPT = 2**26
"""Samples that are kept decoded: an hour and ten minutes, 256 MiB."""


class Recordings:
    """The utterances of some corpora, decoded when they are asked for; the first ones stay in memory.

    Parameters
    ----------
    sources : tuple of Source
    """

    def __init__(self, sources: tuple[Source, ...]) -> None:
        self._held: dict[str, tuple[Corpus, Utterance]] = {}
        self._waves: dict[str, Wave] = {}
        self._room = _KEPT
        self.speakers: dict[str, str] = {}
        for source in sources:
            speech = _loaded(source)
            for utterance in speech:
                id = source.side + utterance.id
                self._held[id] = speech, utterance
                self.speakers[id] = source.side + utterance.speaker

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def wave(self, id: str) -> Wave:
        """Return an utterance's samples, mono 16 kHz; an `AudioError` where it cannot be read."""
        found = self._waves.get(id)
        if found is None:
            speech, utterance = self._held[id]
            found = speech.wave(utterance)
            if len(found) <= self._room:
                self._waves[id] = found
                self._room -= len(found)
        return found

    def label(self, id: str, name: str) -> str | None:
        """Return a label of an utterance, None where it has none."""
        return self._held[id][1].labels.get(name)

    def seconds(self, id: str) -> float:
        """Return an utterance's duration without decoding it."""
        speech, utterance = self._held[id]
        return speech.source.seconds(utterance)


@lru_cache(maxsize=1)
def recordings(sources: tuple[Source, ...]) -> Recordings:
    """Scan some corpora, once a process."""
    return Recordings(sources)


def usable_utterances(
    held: Recordings, inputs: Inputs, *, decode: bool = True, side: str = ""
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the ids of each speaker's usable utterances, two at least, and of the others why they are left out.

    Parameters
    ----------
    held : Recordings
    inputs : Inputs
    decode : bool
        Look at the samples; else at the durations that files tell.
    side : str
        Only of ids that begin so.
    """
    found: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    for id in [id for id in held if id.startswith(side)]:
        try:
            if decode:
                inputs.of(held.wave(id))
            elif held.seconds(id) < inputs.seconds:
                raise AudioError(inputs.too_short)
        except AudioError as error:
            # Without the file's path, so that recordings with one fault are counted together.
            left_out[id] = str(error).partition(": ")[2] or str(error)
        else:
            found.setdefault(held.speakers[id], []).append(id)
    for name in [name for name, ids in found.items() if len(ids) < 2]:
        left_out |= dict.fromkeys(found.pop(name), ALONE)
    return found, left_out


def too_short(left_out: Mapping[str, str], inputs: Inputs) -> str:
    """Say how many recordings are shorter than what is sent, as a clause in brackets; nothing where none is."""
    lost = sum(reason.startswith(inputs.too_short) for reason in left_out.values())
    return f" ({lost} recordings are shorter than protocol.seconds = {inputs.seconds:g}; 0 sends all)" if lost else ""


def heard_alone(
    held: Recordings, usable: Mapping[str, Sequence[str]], left_out: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return, of usable speakers, the recordings that can pre-train an encoder but are too short to be sent.

    Parameters
    ----------
    held : Recordings
    usable : mapping of str to sequence of str
        By speaker, what can be sent.
    left_out : mapping of str to str
        What cannot.
    """
    found: dict[str, list[str]] = {}
    for id in left_out:
        if held.speakers[id] not in usable:
            continue
        try:
            wave = held.wave(id)
        except AudioError:
            continue
        if trains(wave):
            found.setdefault(held.speakers[id], []).append(id)
    return found


def source_of(corpus: str, root: str | None, options: Mapping[str, Any], side: str = "") -> Source:
    """Return where a corpus is."""
    return Source(corpus, root, json.dumps(dict(options), sort_keys=True), side)
