"""RAVDESS: 24 actors, two statements (Livingstone & Russo 2018, PLoS ONE 13(5):e0196391)."""

from __future__ import annotations

import re
from pathlib import Path

from fl_privacy.corpora._audio import is_audio
from fl_privacy.corpora._scan import checked, named_by_file, require_folder
from fl_privacy.corpora.base import Corpus, Utterance

_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
_KEPT = {"01": "neutral", "03": "happy", "04": "sad", "05": "angry"}
_LEFT_OUT = {"02": "calm", "06": "fearful", "07": "disgusted", "08": "surprised"}
_INTENSITY = {"01": "normal", "02": "strong"}
_STATEMENT = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}
_ACTORS = frozenset(f"{actor:02d}" for actor in range(1, 25))


def scan(root: str | Path) -> Corpus:
    """Scan RAVDESS's spoken, audio-only recordings of four emotions.

    Labels: ``gender`` (odd actors are men), ``emotion`` (neutral, happy, sad, angry), ``statement``, ``intensity``,
    ``repetition``. Everything else found is excluded with a reason, also second copies of an utterance.

    Parameters
    ----------
    root : str or Path
        Holds the folders ``Actor_NN``, or one folder more that does (``Audio_Speech_Actors_01-24/Actor_NN``).

    Returns
    -------
    Corpus
        Speakers "01" to "24"; 672 utterances where the copy is complete.

    Raises
    ------
    CorpusError
        If the folder is missing or holds no such recordings.
    """
    root = require_folder(root, "ravdess")
    return checked("ravdess", root, *named_by_file(_files(root), _utterance, root), "Actor_NN/03-01-*.wav or .flac")


def _files(root: Path) -> list[Path]:
    folders = [*sorted(root.glob("Actor_*")), *sorted(root.glob("*/Actor_*"))]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_file()]


def _utterance(path: Path) -> Utterance | str:
    if not is_audio(path):
        return "not a wav or flac file"
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return "name is not of the form 03-01-05-01-02-01-16"
    modality, channel, emotion, intensity, statement, repetition, actor = match.groups()
    if modality != "03":
        return "not audio-only"
    if channel != "01":
        return "song" if channel == "02" else f"unknown vocal channel {channel}"
    if emotion in _LEFT_OUT:
        return f"emotion {_LEFT_OUT[emotion]}"
    fields = [(emotion, _KEPT), (intensity, _INTENSITY), (statement, _STATEMENT), (actor, _ACTORS)]
    for code, known in fields:
        if code not in known:
            return f"name holds the unknown code {code}"
    if path.parent.name != f"Actor_{actor}":
        return f"named for actor {actor} but lies in {path.parent.name}"
    labels = {
        "gender": "male" if int(actor) % 2 else "female",
        "emotion": _KEPT[emotion],
        "statement": _STATEMENT[statement],
        "intensity": _INTENSITY[intensity],
        "repetition": str(int(repetition)),
    }
    return Utterance(path.stem, actor, path, labels)
