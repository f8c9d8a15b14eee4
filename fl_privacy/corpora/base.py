"""A corpus: utterances of known speakers with labels, and the audio behind them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora._audio import FileAudio
from fl_privacy.corpora._errors import AudioError, CorpusError

__all__ = ["AudioError", "AudioSource", "Corpus", "CorpusError", "Excluded", "Utterance"]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording of one speaker.

    Attributes
    ----------
    id : str
        Unique within its corpus.
    speaker : str
        Whose voice it is.
    path : Path or None
        The audio file; None where the audio is synthesised.
    labels : mapping of str to str
        What is known of it, such as ``{"gender": "female", "emotion": "angry"}``.
    """

    id: str
    speaker: str
    path: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Excluded:
    """Something that was found but not taken.

    Attributes
    ----------
    item : str
        The file, row or utterance.
    reason : str
        Why it was left out.
    """

    item: str
    reason: str


class AudioSource(Protocol):
    """Where the samples of a corpus come from."""

    def wave(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return the samples: float32 (n,), mono 16 kHz."""

    def fingerprint(self, utterance: Utterance) -> str:
        """Return a hexadecimal SHA-256 that changes whenever the samples do."""

    def seconds(self, utterance: Utterance) -> float:
        """Return the duration in seconds, without decoding where that is possible."""


@dataclass(frozen=True, repr=False)
class Corpus:
    """Utterances with labels, sorted by speaker and id (numbers by value), and what was left out.

    The order of the speakers matters: federations hold out folds of the ordered list.

    Attributes
    ----------
    name : str
        The name of the corpus.
    root : Path or None
        The folder that was scanned; None for a synthetic corpus.
    utterances : tuple of Utterance
        What was taken; sorted on construction.
    excluded : tuple of Excluded
        What was found but not taken, each with its reason.
    source : AudioSource
        Supplies the audio; by default it reads ``Utterance.path``.
    speaker_order : tuple of str
        The corpus's own order of its speakers, where that is not the sorted one; speakers it does not name come last.

    Raises
    ------
    CorpusError
        If two utterances share an id.
    """

    name: str
    root: Path | None
    utterances: tuple[Utterance, ...]
    excluded: tuple[Excluded, ...] = ()
    source: AudioSource = field(default_factory=FileAudio, compare=False)
    speaker_order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        place = {speaker: number for number, speaker in enumerate(self.speaker_order)}
        last = len(place)
        ordered = tuple(
            sorted(self.utterances, key=lambda u: (place.get(u.speaker, last), _natural(u.speaker), _natural(u.id)))
        )
        seen: set[str] = set()
        for utterance in ordered:
            if utterance.id in seen:
                raise CorpusError(
                    f"corpus {self.name!r}: two utterances have the id {utterance.id!r}; ids must be unique"
                )
            seen.add(utterance.id)
        object.__setattr__(self, "utterances", ordered)

    def __repr__(self) -> str:
        counts = f"{len(self)} utterances, {len(self.speakers)} speakers, {len(self.excluded)} excluded"
        return f"<Corpus {self.name!r}: {counts}>"

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    @classmethod
    def load(cls, name: str, root: str | Path | None = None, **options: Any) -> Corpus:
        """Scan a corpus by name; see `fl_privacy.corpora.registry.load`."""
        from fl_privacy.corpora.registry import load

        return load(name, root, **options)

    @classmethod
    def from_folder(cls, root: str | Path) -> Corpus:
        """Scan a folder of one's own; see `fl_privacy.corpora.folder.scan`."""
        from fl_privacy.corpora.folder import scan

        return scan(root)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers, in the corpus's own order where it has one, else sorted, numbers by value."""
        return tuple(dict.fromkeys(utterance.speaker for utterance in self.utterances))

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the labels that at least one utterance has, sorted."""
        return tuple(sorted({name for utterance in self.utterances for name in utterance.labels}))

    @property
    def hours(self) -> float:
        """The total duration of the utterances in hours."""
        return sum(self.source.seconds(utterance) for utterance in self.utterances) / 3600

    def label(self, name: str) -> list[str]:
        """Return one label of every utterance, in order.

        Raises
        ------
        CorpusError
            If an utterance lacks the label.
        """
        lacking = [utterance.id for utterance in self.utterances if name not in utterance.labels]
        if lacking:
            raise CorpusError(
                f"corpus {self.name!r}: {len(lacking)} of {len(self)} utterances have no label {name!r} "
                f"(first: {lacking[0]}). {self._known()}"
            )
        return [utterance.labels[name] for utterance in self.utterances]

    def speaker_labels(self, name: str) -> dict[str, str]:
        """Return one label of every speaker, for labels that belong to the person (gender, age).

        Raises
        ------
        CorpusError
            If a speaker has no such label, or two different values.
        """
        found: dict[str, str] = {}
        for utterance in self.utterances:
            value = utterance.labels.get(name)
            if value is None:
                continue
            known = found.setdefault(utterance.speaker, value)
            if known != value:
                raise CorpusError(
                    f"corpus {self.name!r}: speaker {utterance.speaker!r} has two values of {name!r}, "
                    f"{known!r} and {value!r} (at {utterance.id})"
                )
        for speaker in self.speakers:
            if speaker not in found:
                raise CorpusError(f"corpus {self.name!r}: speaker {speaker!r} has no label {name!r}. {self._known()}")
        return {speaker: found[speaker] for speaker in self.speakers}

    def select(self, keep: Callable[[Utterance], bool], reason: str | Callable[[Utterance], str]) -> Corpus:
        """Keep some utterances; the rest moves to `excluded`.

        Parameters
        ----------
        keep : callable
            Says of an utterance whether it stays.
        reason : str or callable
            Why the others leave; a callable is asked for each of them.

        Returns
        -------
        Corpus
            A new corpus with the same audio source.
        """
        kept, left = [], []
        for utterance in self.utterances:
            if keep(utterance):
                kept.append(utterance)
            else:
                left.append(Excluded(utterance.id, reason if isinstance(reason, str) else reason(utterance)))
        return replace(self, utterances=tuple(kept), excluded=(*self.excluded, *left))

    def wave(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return the samples of an utterance.

        Returns
        -------
        ndarray of float32, shape (n,)
            Mono, 16 kHz, full scale 1.

        Raises
        ------
        AudioError
            If the audio cannot be decoded, is empty or holds values that are not finite.
        """
        return self.source.wave(utterance)

    def fingerprint(self, utterance: Utterance) -> str:
        """Return a hexadecimal SHA-256 of the audio's bytes, or of the recipe of a synthetic utterance."""
        return self.source.fingerprint(utterance)

    def _known(self) -> str:
        return f"Labels present: {', '.join(self.attributes) or 'none'}"


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which s2 comes before s10."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", text)
    key = tuple((0, int(piece), "") if piece[0] in "0123456789" else (1, 0, piece) for piece in pieces)
    return (*key, (2, 0, text))
