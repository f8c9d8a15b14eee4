"""Corpora and the feature cache: what is there."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from fl_privacy.corpora import Corpus
from fl_privacy.corpora.registry import CORPORA
from fl_privacy.errors import UserError
from fl_privacy.sims.environment.finding import Finding

_NO_FOLDER = frozenset({"synthetic", "folder"})


def check_corpora(data: str | None, seconds: float = 2.0) -> list[Finding]:
    """Say which known corpora are under a folder, and how many speakers and utterances each has.

    Reads names, tables and file headers; decodes nothing.

    Parameters
    ----------
    data : str or None
        The value of ``FL_PRIVACY_DATA``.
    seconds : float
        Wait so long for all of them together.
    """
    name = "FL_PRIVACY_DATA"
    if not data:
        todo = "the synthetic corpus and folders you name need none; for the others: the folder that holds ravdess/ ..."
        return [Finding(name, "note", "not set", todo)]
    root = Path(data).expanduser()
    if not root.is_dir():
        return [
            Finding(name, "problem", f"{data} is no folder", "set it to the folder that holds ravdess/, emodb/ ...")
        ]
    known = [corpus for corpus in CORPORA if corpus not in _NO_FOLDER]
    there = [corpus for corpus in known if (root / corpus).is_dir()]
    if not there:
        return [Finding(name, "note", f"{data} holds none of {', '.join(known)}", "put corpora there, by these names")]
    found: dict[str, Finding] = {}

    def look() -> None:
        for corpus in there:
            found[corpus] = _check_corpus(corpus, root / corpus)

    # A scan cannot be stopped: on a slow disk it is left behind, as a daemon thread that ends with this process.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    late = f"not counted within {seconds:g} s"
    return [
        Finding(name, "ok", data),
        *(
            found.get(corpus) or Finding(f"corpus {corpus}", "note", late, f"fl-privacy corpus {corpus}")
            for corpus in there
        ),
    ]


def _check_corpus(name: str, root: Path) -> Finding:
    try:
        corpus = Corpus.load(name, root)
    except UserError as error:
        return Finding(f"corpus {name}", "problem", str(error), f"mend or move {root}")
    except Exception as error:  # in a thread of its own it would end without a row
        return Finding(f"corpus {name}", "problem", f"{root} cannot be read ({error})", f"mend or move {root}")
    speakers = len({utterance.speaker for utterance in corpus})
    left = f", {len(corpus.excluded)} files left out" if corpus.excluded else ""
    return Finding(f"corpus {name}", "ok", f"{speakers} speakers, {len(corpus)} utterances{left}")


def check_cache(folder: Path, seconds: float = 1.0) -> Finding:
    """Say how much the feature cache holds, as far as it can be counted in that time."""
    files = size = 0
    end, more = time.monotonic() + seconds, ""
    waiting = [folder]
    while waiting:
        if time.monotonic() > end:
            more = "more than "
            break
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        files, size = files + 1, size + entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    held = f"{more}{files} files, {size / 1e6:.1f} MB" if files else "empty"
    return Finding("feature cache", "ok", held)
