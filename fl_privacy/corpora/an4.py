"""AN4: 84 people who spell and count, recorded at Carnegie Mellon in 1991 (Acero 1993); small and free."""

from __future__ import annotations

import re
from pathlib import Path

from fl_privacy.corpora._audio import is_audio
from fl_privacy.corpora._scan import checked, named_by_file, places, read_lines, require_folder
from fl_privacy.corpora.base import Corpus, Utterance

_NAME = re.compile(r"[a-z]+\d+-([fm][a-z]+\d*)-b")
_SAID = re.compile(r"(?:<s>)?(.*?)(?:</s>)?\s*\(([^()\s]+)\)\s*")
_PARTS = {"an4_clstk": "train", "an4test_clstk": "test"}


def scan(root: str | Path) -> Corpus:
    """Scan AN4 in its own folders, its audio as wav or flac (the raw and sph files of older copies need converting).

    Labels: ``gender``, ``subset`` (train, test) and, where ``etc/*.transcription`` is there, ``transcript``. Everything
    else found is excluded with a reason.

    Parameters
    ----------
    root : str or Path
        Holds ``wav/an4_clstk/fash/an251-fash-b.wav`` and so on (or a folder ``an4`` that does).

    Returns
    -------
    Corpus
        84 speakers, such as "fash"; 1,078 utterances where the copy is complete.

    Raises
    ------
    CorpusError
        If the folder is missing or holds no such recordings.
    """
    root = require_folder(root, "an4")
    top = next((place for place in places(root) if (place / "wav").is_dir()), root)
    said = _transcripts(top / "etc")
    files = sorted(path for path in (top / "wav").rglob("*") if path.is_file())
    found = named_by_file(files, lambda path: _utterance(path, said), root)
    return checked("an4", root, *found, "wav/an4_clstk/fash/an251-fash-b.wav and the like")


def _utterance(path: Path, said: dict[str, str]) -> Utterance | str:
    if not is_audio(path):
        return "not a wav or flac file"
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return "name is not of the form an251-fash-b"
    speaker = match.group(1)
    if path.parent.name != speaker:
        return f"lies in the folder of {path.parent.name}"
    labels = {"gender": "female" if speaker[0] == "f" else "male"}
    if path.parent.parent.name in _PARTS:
        labels["subset"] = _PARTS[path.parent.parent.name]
    if path.stem in said:
        labels["transcript"] = said[path.stem]
    return Utterance(path.stem, speaker, path, labels)


def _transcripts(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("*.transcription")):
        for line in read_lines(path):
            if match := _SAID.fullmatch(line):
                found[match.group(2)] = match.group(1).strip()
    return found
