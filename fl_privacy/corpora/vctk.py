"""VCTK: 110 people of many accents who read newspaper sentences (Yamagishi et al. 2019, doi 10.7488/ds/2645)."""

from __future__ import annotations

import re
from pathlib import Path

from fl_privacy.corpora._audio import is_audio
from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora._scan import checked, places, read_lines, relative, require_folder
from fl_privacy.corpora.base import Corpus, Excluded, Utterance

MICROPHONES = ("mic1", "mic2")
"""An omnidirectional one and one of small diaphragm, both recorded at once."""

_FOLDERS = ("wav48_silence_trimmed", "wav48")
_NAME = re.compile(r"([ps]\d+)_(\d{3})(?:_(mic\d))?")
_TABLE = "speaker-info.txt"
_LOOKED_FOR = "wav48_silence_trimmed/p225/p225_001_mic1.flac (0.92), wav48/p225/p225_001.wav (0.80) and the like"


def scan(root: str | Path, mic: str = "mic1") -> Corpus:
    """Scan VCTK as it unpacks, version 0.92 or 0.80, flac or wav.

    Labels: ``sentence`` (its number; 001 to 024 are the same text for everybody) and, where ``speaker-info.txt`` is
    there, ``gender``, ``age`` and ``accent``. Recordings of the other microphone are passed over; utterances that only
    it recorded, and everything else found, are excluded with a reason.

    Parameters
    ----------
    root : str or Path
        Holds ``wav48_silence_trimmed/p225/p225_001_mic1.flac`` or ``wav48/p225/p225_001.wav`` and so on (or a folder
        that does). Where both are there, the first is taken.
    mic : str
        Of `MICROPHONES`; version 0.80 has but one, which is taken whatever this says.

    Returns
    -------
    Corpus
        110 speakers, such as "p225", where version 0.92 is complete; 109 in version 0.80.

    Raises
    ------
    CorpusError
        If the folder is missing or holds no such recordings, or there is no such microphone.
    """
    if mic not in MICROPHONES:
        raise CorpusError(f"corpus 'vctk' has no microphone {mic!r}; there are {', '.join(MICROPHONES)}")
    root = require_folder(root, "vctk")
    held = [place / name for name in _FOLDERS for place in places(root) if (place / name).is_dir()]
    audio = held[0] if held else root / _FOLDERS[0]
    people = _people(audio.parent / _TABLE)
    taken: dict[str, Utterance] = {}
    elsewhere: dict[str, Excluded] = {}
    excluded: list[Excluded] = []
    for path in sorted(path for path in audio.rglob("*") if path.is_file() and path.name != "log.txt"):
        item = relative(path, root)
        match = _NAME.fullmatch(path.stem)
        if not is_audio(path):
            excluded.append(Excluded(item, "not a wav or flac file"))
        elif match is None:
            excluded.append(Excluded(item, "name is not of the form p225_001 or p225_001_mic1"))
        elif path.parent.name != match[1]:
            excluded.append(Excluded(item, f"lies in the folder of {path.parent.name}"))
        elif match[3] not in (None, mic):
            elsewhere[f"{match[1]}_{match[2]}"] = Excluded(item, f"not recorded by {mic}")
        elif (name := f"{match[1]}_{match[2]}") in taken:
            excluded.append(Excluded(item, "second copy of the same utterance"))
        else:
            labels = {"sentence": match[2], **people.get(match[1], {})}
            taken[name] = Utterance(name, match[1], path, labels)
    excluded += [other for name, other in elsewhere.items() if name not in taken]
    return checked("vctk", root, taken.values(), excluded, _LOOKED_FOR)


def _people(table: Path) -> dict[str, dict[str, str]]:
    """Read lines such as ``p225  23  F    English    Southern England``; version 0.80 leaves out the p."""
    found: dict[str, dict[str, str]] = {}
    sexes = {"F": "female", "M": "male"}
    for line in read_lines(table) if table.is_file() else ():
        match line.split():
            case [speaker, age, sex, *rest] if sex in sexes and age.isdigit():
                accent = {"accent": rest[0]} if rest and rest[0][0].isalpha() else {}
                name = f"p{speaker}" if speaker.isdigit() else speaker
                found[name] = {"gender": sexes[sex], "age": age, **accent}
    return found
