"""What the scans of corpora on disk have in common."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from fl_privacy.corpora._audio import fault
from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora.base import Corpus, Excluded, Utterance


def require_folder(root: str | Path, name: str) -> Path:
    """Return `root` as a path, or raise a CorpusError if it is no folder."""
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(f"corpus {name!r}: {root} is {'not a folder' if root.exists() else 'not there'}")
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


def checked(
    name: str, root: Path, candidates: Iterable[Utterance], excluded: Iterable[Excluded], looked_for: str
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
    return Corpus(name, root, tuple(kept), tuple(left))


def relative(path: Path, root: Path) -> str:
    """Return the path below `root` with forward slashes, or the whole path where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
