"""Names of corpora: a short name, or ``package.module:function`` for a scan of one's own."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fl_privacy._registry import find_object
from fl_privacy.corpora.base import Corpus, CorpusError

CORPORA: Mapping[str, str] = MappingProxyType(
    {
        "synthetic": "fl_privacy.corpora.synthetic:scan",
        "ravdess": "fl_privacy.corpora.ravdess:scan",
        "emodb": "fl_privacy.corpora.emodb:scan",
        "crema_d": "fl_privacy.corpora.crema_d:scan",
        "iemocap": "fl_privacy.corpora.iemocap:scan",
        "msp_improv": "fl_privacy.corpora.msp_improv:scan",
        "an4": "fl_privacy.corpora.an4:scan",
        "librispeech": "fl_privacy.corpora.librispeech:scan",
        "timit": "fl_privacy.corpora.timit:scan",
        "vctk": "fl_privacy.corpora.vctk:scan",
        "voxceleb2": "fl_privacy.corpora.voxceleb2:scan",
        "folder": "fl_privacy.corpora.folder:scan",
    }
)
"""The built-in corpora: name -> where its scan is."""

_UNDER_DATA = frozenset(
    {"ravdess", "emodb", "crema_d", "iemocap", "msp_improv", "an4", "librispeech", "timit", "vctk", "voxceleb2"}
)


def load(name: str, root: str | Path | None = None, **options: Any) -> Corpus:
    """Scan a corpus by name.

    Parameters
    ----------
    name : str
        One of `CORPORA`, or ``package.module:function`` for a scan of one's own: a function that takes a root (and
        options, if it likes) and returns a `Corpus`.
    root : str or Path, optional
        The corpus's folder. By default ``$FL_PRIVACY_DATA/<name>``; the synthetic corpus has none.
    **options
        Handed to the scan.

    Returns
    -------
    Corpus
        What the scan found.

    Raises
    ------
    CorpusError
        For an unknown name or option, a missing root, or whatever is wrong with the corpus.
    """
    scan: Callable[..., Any] = find_object(name, CORPORA, "corpus", CorpusError)
    if not callable(scan):
        raise CorpusError(f"corpus {name!r}: it is no function; give a function that takes a root and returns a Corpus")
    parameters = inspect.signature(scan).parameters
    _check_options(name, options, parameters)
    if root is None and _root_needed(parameters):
        root = _default_root(name)
    corpus = scan(**options) if root is None else scan(Path(root).expanduser(), **options)
    if not isinstance(corpus, Corpus):
        raise CorpusError(f"corpus {name!r}: its scan returned {type(corpus).__name__}, not a Corpus")
    return corpus


def _check_options(name: str, options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [option for option in parameters if option != "root"]
    for option in options:
        if option not in known:
            raise CorpusError(
                f"corpus {name!r} has no option {option!r}. "
                f"{'Its options: ' + ', '.join(known) if known else 'It takes no options'}"
            )


def _root_needed(parameters: Mapping[str, inspect.Parameter]) -> bool:
    first = next(iter(parameters.values()), None)
    return first is not None and first.default is inspect.Parameter.empty


def _default_root(name: str) -> Path:
    if name not in _UNDER_DATA:
        raise CorpusError(f"corpus {name!r} needs a root: the folder to scan")
    data = os.environ.get("FL_PRIVACY_DATA")
    if not data:
        raise CorpusError(
            f"corpus {name!r}: no root given. Pass its folder, or set FL_PRIVACY_DATA to the folder that holds {name}/"
        )
    return Path(data).expanduser() / name
