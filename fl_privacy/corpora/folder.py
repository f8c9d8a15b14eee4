"""A folder of one's own recordings: with a manifest.csv, or one sub-folder a speaker."""

from __future__ import annotations

import os
from pathlib import Path

from fl_privacy.corpora._audio import is_audio
from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora._scan import checked, read_table, relative, require_folder
from fl_privacy.corpora.base import Corpus, Excluded, Utterance

MANIFEST = "manifest.csv"
_SEX = {
    **dict.fromkeys(("f", "female", "w", "woman"), "female"),
    **dict.fromkeys(("m", "male", "man"), "male"),
}


def scan(root: str | Path) -> Corpus:
    """Scan a folder of recordings (wav or flac).

    With ``manifest.csv``: its columns ``path`` (relative to the root) and ``speaker`` are needed, every further column
    is a label, an empty cell means that the utterance has none. ``gender`` may be F, female, w, woman, M, male, man in
    any case and reads "female" or "male". A row whose file is missing is excluded. Without a manifest:
    ``<speaker>/**/<file>.wav``, no labels.

    Parameters
    ----------
    root : str or Path
        The folder.

    Returns
    -------
    Corpus
        Ids are the paths below the root, the name is the folder's.

    Raises
    ------
    CorpusError
        If there are no recordings, a column or a speaker is missing, a path is listed twice, a gender cannot be read,
        or a speaker has two.
    """
    root = require_folder(root, "folder")
    name = root.resolve().name or "folder"
    manifest = root / MANIFEST
    if manifest.is_file():
        candidates, excluded = _from_manifest(root, manifest)
        looked_for = f"the paths in {MANIFEST}"
    else:
        candidates, excluded = _from_tree(root)
        looked_for = f"{MANIFEST}, or <speaker>/<file>.wav or .flac"
    corpus = checked(name, root, candidates, excluded, looked_for)
    _one_gender_a_speaker(corpus)
    return corpus


def _from_manifest(root: Path, manifest: Path) -> tuple[list[Utterance], list[Excluded]]:
    candidates: list[Utterance] = []
    excluded: list[Excluded] = []
    row_of: dict[str, int] = {}
    for number, row in enumerate(read_table(manifest, ("path", "speaker")), start=1):
        where = f"{manifest}: row {number}"
        item, speaker = row.pop("path"), row.pop("speaker")
        if not item or not speaker:
            raise CorpusError(f"{where} has no {'speaker' if item else 'path'}")
        path = Path(os.path.normpath(root / item))
        first = row_of.setdefault(str(path), number)
        if first != number:
            raise CorpusError(f"{where} lists {item} again, after row {first}")
        labels = {key: value for key, value in row.items() if value}
        if "gender" in labels:
            labels["gender"] = _gender(labels["gender"], where)
        if path.is_file():
            candidates.append(Utterance(Path(item).as_posix(), speaker, path, labels))
        else:
            excluded.append(Excluded(item, f"file missing (row {number} of {MANIFEST})"))
    return candidates, excluded


def _from_tree(root: Path) -> tuple[list[Utterance], list[Excluded]]:
    candidates: list[Utterance] = []
    excluded: list[Excluded] = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        item = relative(path, root)
        if not is_audio(path):
            excluded.append(Excluded(item, "not a wav or flac file"))
        elif path.parent == root:
            excluded.append(Excluded(item, "lies in no speaker's folder"))
        else:
            candidates.append(Utterance(item, path.relative_to(root).parts[0], path))
    return candidates, excluded


def _gender(value: str, where: str) -> str:
    gender = _SEX.get(value.lower())
    if gender is None:
        raise CorpusError(f"{where} has the gender {value!r}; write female or male (or F, M), or leave it empty")
    return gender


def _one_gender_a_speaker(corpus: Corpus) -> None:
    labelled = corpus.select(lambda utterance: "gender" in utterance.labels, "no gender")
    labelled.speaker_labels("gender")
