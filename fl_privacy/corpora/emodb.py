"""Berlin EmoDB: ten actors, ten German sentences (Burkhardt et al. 2005, Interspeech)."""

from __future__ import annotations

import re
from pathlib import Path

from fl_privacy.corpora._audio import is_audio
from fl_privacy.corpora._scan import checked, named_by_file, require_folder
from fl_privacy.corpora.base import Corpus, Utterance

_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z]?)")
_KEPT = {"N": "neutral", "F": "happy", "T": "sad", "W": "angry"}
_LEFT_OUT = {"L": "bored", "E": "disgusted", "A": "fearful"}
_AGES = {"03": 31, "08": 34, "09": 21, "10": 32, "11": 26, "12": 30, "13": 32, "14": 35, "15": 25, "16": 31}
_MEN = frozenset({"03", "10", "11", "12", "15"})


def scan(root: str | Path) -> Corpus:
    """Scan EmoDB's recordings of four emotions.

    Labels: ``gender``, ``emotion`` (neutral, happy, sad, angry), ``age`` in years, ``statement`` (the code of the
    sentence, such as ``a01``). Everything else found is excluded with a reason.

    Parameters
    ----------
    root : str or Path
        Holds ``wav/03a01Fa.wav`` and so on, or the files themselves.

    Returns
    -------
    Corpus
        Ten speakers, "03" to "16"; 339 utterances where the copy is complete.

    Raises
    ------
    CorpusError
        If the folder is missing or holds no such recordings.
    """
    root = require_folder(root, "emodb")
    folder = root / "wav" if (root / "wav").is_dir() else root
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_audio(path))
    return checked("emodb", root, *named_by_file(files, _utterance, root), "wav/03a01Fa.wav and the like")


def _utterance(path: Path) -> Utterance | str:
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return "name is not of the form 03a01Fa"
    speaker, text, emotion, _ = match.groups()
    if emotion in _LEFT_OUT:
        return f"emotion {_LEFT_OUT[emotion]}"
    if emotion not in _KEPT:
        return f"unknown emotion letter {emotion}"
    if speaker not in _AGES:
        return f"unknown speaker {speaker}"
    labels = {
        "gender": "male" if speaker in _MEN else "female",
        "emotion": _KEPT[emotion],
        "age": str(_AGES[speaker]),
        "statement": text,
    }
    return Utterance(path.stem, speaker, path, labels)
