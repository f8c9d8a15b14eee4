"""IEMOCAP: five dyadic sessions of ten actors (Busso et al. 2008, Language Resources and Evaluation 42(4):335-359)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora._scan import (
    checked,
    first_of_each,
    inside,
    matched,
    places,
    read_lines,
    recordings,
    relative,
    require_folder,
)
from fl_privacy.corpora.base import Corpus, Excluded, Utterance

_NAME = re.compile(r"Ses0([1-5])[FM]_((?:impro|script)\w+)_([FM])\w{3}")
_ROW = re.compile(r"\[[^\]]*\]\s+(\S+)\s+(\S+)\s+\[[^\]]*\]")
_FORM = "[start - end] utterance label [v, a, d]"
_SESSION = re.compile(r"session[1-5]", re.IGNORECASE)
_KEPT = {"neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry"}
_LEFT_OUT = {"fru": "frustrated", "fea": "fearful", "sur": "surprised", "dis": "disgusted", "oth": "other"}
_NO_AGREEMENT = "xxx"
_SEX = {"F": "female", "M": "male"}


def scan(root: str | Path) -> Corpus:
    """Scan IEMOCAP's improvised turns that the raters agreed to be one of four emotions.

    As Feng et al. 2021 (arXiv 2112.13416) take them: the consensus label, excited counted as happy; scripted turns are
    excluded. The gender is that of the utterance's own speaker, not the letter of the session's name (which says who
    wore the markers). Labels: ``gender``, ``emotion``, ``consensus`` (the label as it stands: neu, hap, exc, sad,
    ang), ``session`` (1 to 5), ``scenario`` (such as ``impro01``), ``recording`` (improvised).

    Parameters
    ----------
    root : str or Path
        Holds ``Session1`` to ``Session5``, or one folder more that does (``IEMOCAP_full_release``); each holds
        ``sentences/wav`` and ``dialog/EmoEvaluation``.

    Returns
    -------
    Corpus
        Speakers "Ses01F", "Ses01M", "Ses02F" and so on; 2,943 utterances where the copy is complete.

    Raises
    ------
    CorpusError
        If the folder, a session's labels or its recordings are missing, or two rows give an utterance different labels.
    """
    root = require_folder(root, "iemocap")
    sessions = _sessions(root)
    labels, unused = first_of_each(
        "iemocap", _rows([_part(session, "dialog", "EmoEvaluation") for session in sessions], root)
    )
    audio, no_audio = recordings([_part(session, "sentences", "wav") for session in sessions], root)
    candidates, left = matched(labels, audio, _utterance, root, "EmoEvaluation")
    looked_for = "Session1/sentences/wav/**/Ses01F_impro01_F000.wav"
    return checked("iemocap", root, candidates, [*unused, *no_audio, *left], looked_for)


def _sessions(root: Path) -> list[Path]:
    for folder in places(root):
        found = [entry for entry in sorted(folder.iterdir()) if _SESSION.fullmatch(entry.name) and entry.is_dir()]
        if found:
            return found
    raise CorpusError(f"corpus 'iemocap': {root} holds none of the folders Session1 to Session5")


def _part(session: Path, *names: str) -> Path:
    found = inside(session, *names)
    if found is None or not found.is_dir():
        raise CorpusError(f"corpus 'iemocap': {session} holds no folder {'/'.join(names)}")
    return found


def _rows(folders: list[Path], root: Path) -> Iterator[tuple[str, str, str] | Excluded]:
    """Read the consensus labels; the raters' own files lie in sub-folders and are not needed."""
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        if path.suffix.lower() != ".txt" or path.name.startswith(".") or not path.is_file():
            continue
        for number, line in enumerate(read_lines(path), start=1):
            if line.startswith("["):
                where = f"{relative(path, root)}: line {number}"
                row = _ROW.fullmatch(line.strip())
                yield (where, row[1], row[2]) if row else Excluded(where, f"not of the form {_FORM}")


def _utterance(name: str, label: str, path: Path | None) -> Utterance | str:
    match = _NAME.fullmatch(name)
    if match is None:
        return "name is not of the form Ses01F_impro01_F000"
    session, scenario, sex = match.groups()
    if scenario.startswith("script"):
        return "scripted"
    if label == _NO_AGREEMENT:
        return "the raters did not agree"
    if label in _LEFT_OUT:
        return f"emotion {_LEFT_OUT[label]}"
    if label not in _KEPT:
        return f"unknown label {label!r}"
    if path is None:
        return "no audio file in sentences/wav"
    labels = {
        "gender": _SEX[sex],
        "emotion": _KEPT[label],
        "consensus": label,
        "session": session,
        "scenario": scenario,
        "recording": "improvised",
    }
    return Utterance(name, f"Ses0{session}{sex}", path, labels)
