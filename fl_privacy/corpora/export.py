"""A corpus as files that `fl_privacy.corpora.folder` reads, for listening or for other tools."""

from __future__ import annotations

import csv
from pathlib import Path

from fl_privacy.corpora._audio import SAMPLE_RATE
from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora.base import Corpus
from fl_privacy.corpora.folder import MANIFEST


def write(corpus: Corpus, folder: str | Path) -> Path:
    """Write a corpus as 16-bit wav files, one sub-folder a speaker, with a ``manifest.csv``.

    Parameters
    ----------
    corpus : Corpus
        What to write.
    folder : str or Path
        Made where it does not exist; must hold no manifest yet.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    CorpusError
        If there is a manifest already, or two utterances would get the same file name.
    """
    import soundfile

    folder = Path(folder)
    manifest = folder / MANIFEST
    if manifest.exists():
        raise CorpusError(f"{manifest} exists already; write to an empty folder")
    rows: dict[str, dict[str, str]] = {}
    for utterance in corpus:
        item = f"{_file_name(utterance.speaker)}/{_file_name(utterance.id)}.wav"
        if item in rows:
            raise CorpusError(f"two utterances of {corpus.name!r} would both be written as {item}")
        rows[item] = {"path": item, "speaker": utterance.speaker, **utterance.labels}
        path = folder / item
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(path), corpus.wave(utterance), SAMPLE_RATE, subtype="PCM_16")
    columns = ["path", "speaker", *(name for name in corpus.attributes if name not in ("path", "speaker"))]
    folder.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
    return manifest


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text).strip(".") or "_"
