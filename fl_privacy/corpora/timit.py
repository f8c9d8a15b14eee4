"""TIMIT: 630 people, ten read sentences each, from eight dialect regions (Garofolo et al. 1993, LDC93S1)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora._audio import SAMPLE_RATE, FileAudio, is_audio
from fl_privacy.corpora._errors import AudioError, CorpusError
from fl_privacy.corpora._scan import checked, inside, named_by_file, places, read_lines, require_folder
from fl_privacy.corpora.base import Corpus, Utterance

_SUBSETS = ("train", "test")
_REGION = re.compile(r"dr([1-8])")
_SPEAKER = re.compile(r"([fm])([a-z]{3}[0-9])")
_SENTENCE = re.compile(r"(sa|si|sx)[0-9]+")
_BORN = re.compile(r"([0-9]{2})/([0-9]{2})/([0-9]{2})")
_GENDER = {"f": "female", "m": "male"}


def scan(root: str | Path, *, cut: bool = False) -> Corpus:
    """Scan TIMIT as it unpacks; names may be in capitals or not, audio NIST SPHERE or converted to wav.

    Labels: ``gender``, ``subset`` (train, test), ``dialect`` (1 to 8), ``kind`` (sa: the two sentences that all read,
    sx: phonetically compact, si: diverse), ``statement`` (such as sx217) and, where ``SPKRINFO.TXT`` is there and says
    so, ``age`` in years. Everything else found is excluded with a reason.

    Parameters
    ----------
    root : str or Path
        Holds ``TRAIN/DR1/FCJF0/SX37.WAV`` and so on (or a folder that does).
    cut : bool
        Whether recordings are cut to what lies between the first word and the last (by ``.WRD``), as in SincNet's
        experiments.

    Returns
    -------
    Corpus
        630 speakers, such as "FCJF0"; 6,300 utterances, such as "FCJF0_SX37", where the copy is complete.

    Raises
    ------
    CorpusError
        If the folder is missing or holds no such recordings.
    """
    root = require_folder(root, "timit")
    top = next((place for place in places(root) if any(inside(place, subset) for subset in _SUBSETS)), root)
    ages = _ages(top)
    subsets = {
        path: subset
        for subset in _SUBSETS
        if (folder := inside(top, subset)) is not None
        for path in sorted(path for path in folder.rglob("*") if path.is_file())
        if path.suffix.lower() not in (".txt", ".wrd", ".phn")
    }
    found = named_by_file(subsets, lambda path: _utterance(path, subsets[path], ages, cut), root)
    corpus = checked("timit", root, *found, "TRAIN/DR1/FCJF0/SX37.WAV and the like")
    return replace(corpus, source=_Words()) if cut else corpus


class _Words(FileAudio):
    """Recordings without what is before the first word and after the last."""

    def wave(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return the samples from the beginning of the first word to the end of the last."""
        assert utterance.path is not None
        first, last = _span(_words(utterance.path))
        samples = super().wave(utterance)[first:last]
        if not len(samples):
            raise AudioError(f"{utterance.path}: its words lie behind its end")
        return samples

    def fingerprint(self, utterance: Utterance) -> str:
        """Return a SHA-256 of the recording and of where its words are."""
        assert utterance.path is not None
        span = _span(_words(utterance.path))
        return hashlib.sha256(f"{super().fingerprint(utterance)} {span}".encode()).hexdigest()

    def seconds(self, utterance: Utterance) -> float:
        """Return the duration from the first word to the last."""
        assert utterance.path is not None
        first, last = _span(_words(utterance.path))
        return (last - first) / SAMPLE_RATE


def _utterance(path: Path, subset: str, ages: dict[str, str], cut: bool) -> Utterance | str:
    if not is_audio(path):
        return "not a wav or flac file"
    name, folder, region = path.name.split(".")[0].lower(), path.parent.name.lower(), path.parent.parent.name.lower()
    sentence, speaker, dialect = _SENTENCE.fullmatch(name), _SPEAKER.fullmatch(folder), _REGION.fullmatch(region)
    if not (sentence and speaker and dialect):
        return "not of the form DR1/FCJF0/SX37.WAV"
    if cut and not _has_words(path):
        return "no .WRD beside it that says where its words are"
    labels = {
        "gender": _GENDER[speaker.group(1)], "subset": subset, "dialect": dialect.group(1),
        "kind": sentence.group(1), "statement": name,
    }  # fmt: skip
    if speaker.group(2) in ages:
        labels["age"] = ages[speaker.group(2)]
    return Utterance(f"{folder}_{name}".upper(), folder.upper(), path, labels)


def _words(path: Path) -> Path:
    return inside(path.parent, f"{path.name.split('.')[0]}.wrd") or path.with_name(f"{path.name.split('.')[0]}.WRD")


def _has_words(path: Path) -> bool:
    try:
        _span(_words(path))
    except CorpusError:
        return False
    return True


def _span(path: Path) -> tuple[int, int]:
    """Return the first sample of the first word and the last of the last, of lines such as ``3050 5723 she``."""
    rows = [line.split() for line in read_lines(path) if line.strip()]
    try:
        first, last = int(rows[0][0]), int(rows[-1][1])
    except (IndexError, ValueError):
        raise CorpusError(f"{path}: expected lines such as '3050 5723 she'") from None
    if not 0 <= first < last:
        raise CorpusError(f"{path}: words from sample {first} to {last}")
    return first, last


def _ages(top: Path) -> dict[str, str]:
    """Read ages at the recording of lines such as ``CJF0  F  1  TRN  02/06/86  03/13/60  5'5"  WHT  BS``."""
    table = inside(top, "doc", "spkrinfo.txt") or inside(top, "spkrinfo.txt")
    found = {}
    for line in read_lines(table) if table is not None else []:
        cells = line.split()
        if line.startswith(";") or len(cells) < 6:
            continue
        recorded, born = _date(cells[4]), _date(cells[5])
        if recorded and born and born < recorded:
            years = recorded.year - born.year - ((recorded.month, recorded.day) < (born.month, born.day))
            found[cells[0].lower()] = str(years)
    return found


def _date(text: str) -> date | None:
    match = _BORN.fullmatch(text)
    if match is None:
        return None
    month, day, year = (int(part) for part in match.groups())
    try:
        return date(1900 + year, month, day)
    except ValueError:
        return None
