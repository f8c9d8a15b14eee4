"""VoxCeleb2: 6,112 celebrities on YouTube (Chung et al. 2018, Interspeech, arXiv 1806.05622)."""

from __future__ import annotations

import re
from pathlib import Path

from fl_privacy.corpora._audio import is_audio
from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora._scan import checked, places, read_lines, relative, require_folder
from fl_privacy.corpora.base import Corpus, Excluded, Utterance

_SPEAKER = re.compile(r"id\d{5}")
_TABLE = "vox2_meta.csv"
_CONVERT = "convert them: ffmpeg -i 00001.m4a -ar 16000 -ac 1 00001.flac, each beside its own"


def scan(root: str | Path) -> Corpus:
    """Scan VoxCeleb2, whose m4a audio has to be converted to wav or flac first (beside it or in the same folders).

    Labels: ``session`` (the video), ``subset`` (dev, test) where the folders say so and, where ``vox2_meta.csv`` is
    there, ``gender``. Utterances that are there as m4a alone are excluded, and so is whatever else is found.

    Parameters
    ----------
    root : str or Path
        Holds ``dev/aac/id00012/21Uxsk56VDQ/00001.flac`` and so on; the folders above the speaker's may be missing or
        have other names.

    Returns
    -------
    Corpus
        6,112 speakers where all is there.

    Raises
    ------
    CorpusError
        If the folder is missing, or holds no such recordings, or all are m4a.
    """
    root = require_folder(root, "voxceleb2")
    gender = _genders(root)
    taken: dict[str, Utterance] = {}
    raw: dict[str, str] = {}
    excluded: list[Excluded] = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != _TABLE):
        item = relative(path, root)
        speaker, video = path.parent.parent.name, path.parent.name
        name = f"{speaker}/{video}/{path.stem}"
        if _SPEAKER.fullmatch(speaker) is None or not path.stem.isdigit():
            excluded.append(Excluded(item, "not of the form id00012/21Uxsk56VDQ/00001.flac"))
        elif path.suffix.lower() == ".m4a":
            raw[name] = item
        elif not is_audio(path):
            excluded.append(Excluded(item, "not a wav or flac file"))
        elif name in taken:
            excluded.append(Excluded(item, "second copy of the same utterance"))
        else:
            taken[name] = Utterance(name, speaker, path, _labels(path.relative_to(root).parts, speaker, video, gender))
    left = [Excluded(item, "m4a, not converted to wav or flac") for name, item in raw.items() if name not in taken]
    if left and not taken:
        raise CorpusError(f"corpus 'voxceleb2': all {len(left)} recordings in {root} are m4a; {_CONVERT}")
    looked_for = "dev/aac/id00012/21Uxsk56VDQ/00001.flac and the like"
    return checked("voxceleb2", root, taken.values(), [*excluded, *left], looked_for)


def _labels(parts: tuple[str, ...], speaker: str, video: str, gender: dict[str, str]) -> dict[str, str]:
    labels = {"session": video}
    subset = next((part for part in parts if part in ("dev", "test")), None)
    if subset is not None:
        labels["subset"] = subset
    if speaker in gender:
        labels["gender"] = gender[speaker]
    return labels


def _genders(root: Path) -> dict[str, str]:
    """Read rows such as ``id00012 ,n000012 ,m ,dev``; older copies have tabs for commas."""
    table = next((place / _TABLE for place in places(root) if (place / _TABLE).is_file()), None)
    if table is None:
        return {}
    known = {"f": "female", "m": "male"}
    rows = ([cell.strip().lower() for cell in re.split(r"[,\t]", line)] for line in read_lines(table))
    return {row[0]: known[cell] for row in rows for cell in row[1:] if cell in known}
