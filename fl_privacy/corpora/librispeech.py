"""LibriSpeech: 1,000 hours of read audio books (Panayotov et al. 2015, ICASSP)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fl_privacy.corpora._audio import is_audio
from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora._scan import checked, places, read_lines, relative, require_folder
from fl_privacy.corpora.base import Corpus, Excluded, Utterance

SUBSETS = (
    "train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other",
)  # fmt: skip
"""The seven parts, each downloaded by itself."""

_NAME = re.compile(r"(\d+)-(\d+)-\d+")
_TABLE = "SPEAKERS.TXT"


def scan(root: str | Path, subsets: Sequence[str] | None = None) -> Corpus:
    """Scan LibriSpeech as it unpacks, flac or converted to wav.

    Labels: ``session`` (the chapter: one recording at a sitting), ``subset`` and, where ``SPEAKERS.TXT`` is there,
    ``gender``. Everything else found is excluded with a reason.

    Parameters
    ----------
    root : str or Path
        Holds ``train-clean-100/19/198/19-198-0000.flac`` and so on (or a folder ``LibriSpeech`` that does).
    subsets : sequence of str, optional
        Of `SUBSETS`; by default all that are there.

    Returns
    -------
    Corpus
        2,484 speakers and 292,367 utterances where all is there.

    Raises
    ------
    CorpusError
        If the folder is missing or holds no such recordings, or a subset is unknown or missing.
    """
    root = require_folder(root, "librispeech")
    top = next((place for place in places(root) if any((place / name).is_dir() for name in SUBSETS)), root)
    wanted = SUBSETS if subsets is None else tuple(dict.fromkeys(subsets))
    for name in wanted:
        if name not in SUBSETS:
            raise CorpusError(f"corpus 'librispeech' has no subset {name!r}; there are {', '.join(SUBSETS)}")
        if subsets is not None and not (top / name).is_dir():
            raise CorpusError(f"corpus 'librispeech': {top} holds no {name}; download that part, or leave it out")
    gender = _genders(top / _TABLE)
    candidates: list[Utterance] = []
    excluded: list[Excluded] = []
    for subset in wanted:
        for path in sorted(path for path in (top / subset).rglob("*") if path.is_file()):
            if path.name.endswith(".trans.txt"):
                continue
            found = _utterance(path, subset, gender)
            if isinstance(found, str):
                excluded.append(Excluded(relative(path, root), found))
            else:
                candidates.append(found)
    return checked("librispeech", root, candidates, excluded, "train-clean-100/19/198/19-198-0000.flac and the like")


def _utterance(path: Path, subset: str, gender: dict[str, str]) -> Utterance | str:
    if not is_audio(path):
        return "not a wav or flac file"
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return "name is not of the form 19-198-0000"
    speaker, chapter = match.groups()
    if (path.parent.parent.name, path.parent.name) != (speaker, chapter):
        return f"lies in {path.parent.parent.name}/{path.parent.name}"
    labels = {"session": chapter, "subset": subset}
    if speaker in gender:
        labels["gender"] = gender[speaker]
    return Utterance(path.stem, speaker, path, labels)


def _genders(table: Path) -> dict[str, str]:
    """Read lines such as ``14   | F | train-clean-360  | 25.03 | Kristin LaCoste``."""
    if not table.is_file():
        return {}
    rows = ([cell.strip() for cell in line.split("|")] for line in read_lines(table) if not line.startswith(";"))
    known = {"F": "female", "M": "male"}
    return {row[0]: known[row[1]] for row in rows if len(row) >= 2 and row[1] in known}
