"""Speech on disk, or synthesised, as utterances with labels."""

from __future__ import annotations

from fl_privacy.corpora.base import AudioError, AudioSource, Corpus, CorpusError, Excluded, Utterance
from fl_privacy.corpora.describe import describe
from fl_privacy.corpora.export import write
from fl_privacy.corpora.registry import CORPORA, load

__all__ = [
    "CORPORA",
    "AudioError",
    "AudioSource",
    "Corpus",
    "CorpusError",
    "Excluded",
    "Utterance",
    "describe",
    "load",
    "write",
]
