"""MSP-IMPROV: six dyadic sessions of twelve actors (Busso et al. 2017, IEEE TAC 8(1):67-80)."""

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

_TABLES = ("Evalution.txt", "Evaluation.txt")  # the first is how the corpus spells it
_ROW = re.compile(r"\s*((?:UTD|MSP)-[^;]*?)(?:\.\w+)?\s*;\s*([^;]*)", re.IGNORECASE)
_NAME = re.compile(r"MSP-IMPROV-S(\d\d)([AHNS])-([FM])0([1-6])-([PRST])-(\w+)")
_KEPT = {"N": "neutral", "H": "happy", "S": "sad", "A": "angry"}
_LEFT_OUT = {"O": "emotion other", "X": "the raters did not agree"}
_IMPROVISED = {"S": "other-improvised", "T": "target-improvised"}
_OTHER_RECORDINGS = {"P": "natural interaction", "R": "read"}
_SEX = {"F": "female", "M": "male"}
_ORDER = tuple(f"{sex}{session:02d}" for session in range(1, 7) for sex in "MF")


def scan(root: str | Path) -> Corpus:
    """Scan MSP-IMPROV's improvised turns that the raters agreed to be one of four emotions.

    As Feng et al. 2021 (arXiv 2112.13416) take them: the consensus letter of ``Evalution.txt``; turns of the natural
    interaction (P) and read sentences (R) are excluded. Labels: ``gender``, ``emotion``, ``recording``
    (target-improvised or other-improvised), ``session`` (1 to 6), ``statement`` (number of the target sentence that the
    scenario leads to), ``intended`` (letter of the emotion that the scenario is made for).

    Parameters
    ----------
    root : str or Path
        Holds ``Evalution.txt`` (or spelled ``Evaluation.txt``) and ``Audio/session1`` to ``session6``, or one folder
        more that does.

    Returns
    -------
    Corpus
        Speakers in the study's order, "M01", "F01", "M02" and so on; 4,580 utterances where the copy is complete.

    Raises
    ------
    CorpusError
        If the folder, the table or the recordings are missing, or two rows give an utterance different labels.
    """
    root = require_folder(root, "msp_improv")
    table, folder = _parts(root)
    labels, unused = first_of_each("msp_improv", _rows(table, relative(table, root)))
    audio, no_audio = recordings([folder], root, _full_name)
    candidates, left = matched(labels, audio, _utterance, root, table.name)
    looked_for = "Audio/session1/**/MSP-IMPROV-S01A-F01-S-FM01.wav"
    return checked("msp_improv", root, candidates, [*unused, *no_audio, *left], looked_for, _ORDER)


def _parts(root: Path) -> tuple[Path, Path]:
    for folder in places(root):
        table = next((found for name in _TABLES if (found := inside(folder, name)) is not None), None)
        if table is not None:
            audio = inside(folder, "Audio") or inside(root, "Audio")
            if audio is None:
                raise CorpusError(f"corpus 'msp_improv': {folder} holds no Audio folder")
            return table, audio
    raise CorpusError(f"corpus 'msp_improv': {root} holds no {' nor '.join(_TABLES)}")


def _rows(table: Path, name: str) -> Iterator[tuple[str, str, str] | Excluded]:
    """Read the row of each turn; the rows of single raters below it begin with the rater's name."""
    for number, line in enumerate(read_lines(table), start=1):
        row = _ROW.match(line)
        if row:
            yield f"{name}: line {number}", _full_name(row[1]), row[2].strip()[:1].upper()
        elif "UTD-" in line.upper():
            yield Excluded(f"{name}: line {number}", "not of the form UTD-IMPROV-S01A-F01-S-FM01.avi; label; ...")


def _full_name(name: str) -> str:
    """Return the utterance's id; the table names the films, UTD-IMPROV-..., the recordings are MSP-IMPROV-..."""
    return f"MSP-{name.upper().removeprefix('UTD-').removeprefix('MSP-')}"


def _utterance(name: str, letter: str, path: Path | None) -> Utterance | str:
    match = _NAME.fullmatch(name)
    if match is None:
        return "name is not of the form MSP-IMPROV-S01A-F01-S-FM01"
    statement, intended, sex, session, recording, _ = match.groups()
    if recording in _OTHER_RECORDINGS:
        return _OTHER_RECORDINGS[recording]
    if letter in _LEFT_OUT:
        return _LEFT_OUT[letter]
    if letter not in _KEPT:
        return f"unknown label {letter!r}"
    if path is None:
        return "no audio file in Audio"
    labels = {
        "gender": _SEX[sex],
        "emotion": _KEPT[letter],
        "recording": _IMPROVISED[recording],
        "session": session,
        "statement": statement,
        "intended": intended,
    }
    return Utterance(name, f"{sex}0{session}", path, labels)
