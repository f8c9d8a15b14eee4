"""What the scans of corpora on disk have in common."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fl_privacy.corpora._audio import fault, is_audio
from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora.base import Corpus, Excluded, Utterance


def require_folder(root: str | Path, name: str) -> Path:
    """Return `root` as a path, or raise a CorpusError if it is no folder."""
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(
            f"corpus {name!r}: {root} is {'not a folder' if root.exists() else 'not there'}; name the folder of your "
            f"copy (root = ...), or put it into $FL_PRIVACY_DATA as {name}/"
        )
    return root


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header as UTF-8, with or without byte-order mark.

    Parameters
    ----------
    path : Path
        The file.
    columns : iterable of str
        Columns that must be there.

    Returns
    -------
    list of dict
        One a row, every value a stripped string; surplus cells are an error.

    Raises
    ------
    CorpusError
        If the file is not UTF-8 or CSV, or a column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise CorpusError(f"{path} has the column {', '.join(twice)} twice; keep one of each")
            missing = [name for name in columns if name not in header]
            if missing:
                raise CorpusError(f"{path}: no column {', '.join(map(repr, missing))}; it has {', '.join(header)}")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise CorpusError(f"{path}: row {number} has more cells than the header; quote values that hold a comma")
    return [{key: (value or "").strip() for key, value in row.items()} for row in rows]


def inside(folder: Path, *names: str) -> Path | None:
    """Return ``folder/names[0]/names[1]...``, whatever the case of the names on disk, or None where there is none."""
    for name in names:
        if not (folder / name).exists():
            if not folder.is_dir():
                return None
            name = next((e.name for e in sorted(folder.iterdir()) if e.name.lower() == name.lower()), name)
        folder = folder / name
    return folder if folder.exists() else None


def places(root: Path) -> list[Path]:
    """Return where a copy may lie: the folder itself, or one in it (archives unpack into a folder of their own)."""
    inner = (entry for entry in sorted(root.iterdir()) if not entry.name.startswith((".", "__MACOSX")))
    return [root, *(entry for entry in inner if entry.is_dir() and os.access(entry, os.R_OK | os.X_OK))]


def recordings(
    folders: Iterable[Path], root: Path, name: Callable[[str], str] = str.upper
) -> tuple[dict[str, Path], list[Excluded]]:
    """Find the recordings below some folders.

    Parameters
    ----------
    folders : iterable of Path
        Where to look.
    root : Path
        Of the corpus.
    name : callable
        Makes an utterance's name, in capitals, of a file's name without suffix.

    Returns
    -------
    dict of str to Path
        The wav or flac file of each name.
    list of Excluded
        What is no audio, or a second file of the same name.
    """
    found: dict[str, Path] = {}
    excluded = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if not is_audio(path):
            excluded.append(Excluded(relative(path, root), "not a wav or flac file"))
        elif found.setdefault(name(path.stem), path) != path:
            excluded.append(Excluded(relative(path, root), "second copy of the same utterance"))
    return found, excluded


def named_by_file(
    files: Iterable[Path], read: Callable[[Path], Utterance | str], root: Path
) -> tuple[list[Utterance], list[Excluded]]:
    """Gather the utterances of a corpus whose files' own names say what they are.

    Parameters
    ----------
    files : iterable of Path
    read : callable
        Makes an utterance of a file's path, or says why it is left out.
    root : Path
        Of the corpus.

    Returns
    -------
    list of Utterance
        The first of each identifier.
    list of Excluded
        What `read` left out, and further copies.
    """
    taken: dict[str, Utterance] = {}
    excluded = []
    for path in files:
        found = read(path)
        if isinstance(found, str):
            excluded.append(Excluded(relative(path, root), found))
        elif found.id in taken:
            excluded.append(Excluded(relative(path, root), "second copy of the same utterance"))
        else:
            taken[found.id] = found
    return list(taken.values()), excluded


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, whatever ends them; bytes that are not UTF-8 (names in comments) are replaced.

    Raises
    ------
    CorpusError
        If the file cannot be opened.
    """
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be opened ({error.strerror})") from error


def first_of_each(
    corpus: str, rows: Iterable[tuple[str, str, str] | Excluded]
) -> tuple[dict[str, str], list[Excluded]]:
    """Gather rows of (where, utterance, label); rows that could not be read are already `Excluded`.

    Returns
    -------
    dict of str to str
        The label of each utterance.
    list of Excluded
        What was excluded already, and rows that say the same again.

    Raises
    ------
    CorpusError
        If two rows give an utterance different labels.
    """
    labels: dict[str, str] = {}
    excluded = []
    for row in rows:
        if isinstance(row, Excluded):
            excluded.append(row)
            continue
        where, utterance, label = row
        first = labels.get(utterance)
        if first is None:
            labels[utterance] = label
        elif first == label:
            excluded.append(Excluded(where, f"second row of {utterance}"))
        else:
            raise CorpusError(
                f"corpus {corpus!r}: {where} labels {utterance} {label!r}, an earlier row {first!r}; remove one of them"
            )
    return labels, excluded


def matched(
    labels: Mapping[str, str],
    audio: Mapping[str, Path],
    make: Callable[[str, str, Path | None], Utterance | str],
    root: Path,
    table: str,
) -> tuple[list[Utterance], list[Excluded]]:
    """Bring labels and recordings together.

    Parameters
    ----------
    labels : mapping of str to str
        Of each utterance that the tables name.
    audio : mapping of str to Path
        From `recordings`.
    make : callable
        Makes an utterance of its name, label and file, or says why it is left out.
    root : Path
        Of the corpus.
    table : str
        What to name where a recording is in no table.
    """
    candidates, excluded = [], []
    left = dict(audio)
    for name, label in labels.items():
        found = make(name, label, left.pop(name.upper(), None))
        if isinstance(found, str):
            excluded.append(Excluded(name, found))
        else:
            candidates.append(found)
    excluded += [Excluded(relative(path, root), f"no row in {table}") for path in left.values()]
    return candidates, excluded


def checked(
    name: str,
    root: Path,
    candidates: Iterable[Utterance],
    excluded: Iterable[Excluded],
    looked_for: str,
    speaker_order: tuple[str, ...] = (),
) -> Corpus:
    """Make a corpus of the candidates whose file has a good header; the others join `excluded`.

    Raises
    ------
    CorpusError
        If there were no candidates and nothing was excluded: the folder is another one.
    """
    left = list(excluded)
    kept = []
    for utterance in candidates:
        if utterance.path is None:
            raise ValueError(f"utterance {utterance.id!r} of a corpus on disk has no path")
        reason = fault(utterance.path)
        if reason is None:
            kept.append(utterance)
        else:
            left.append(Excluded(relative(utterance.path, root), reason))
    if not kept:
        found = f"; left out: {left[0].item} ({left[0].reason})" if left else ""
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise CorpusError(f"corpus {name!r}: no usable recordings in {root}. Looked for {looked_for}{found}{more}")
    return Corpus(name, root, tuple(kept), tuple(left), speaker_order=speaker_order)


def relative(path: Path, root: Path) -> str:
    """Return the path below `root` with forward slashes, or the whole path where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
