"""Features kept by the content of the audio, so that nothing is computed twice and nothing goes stale."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.features.registry import Extractor

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return where caches live: ``$FL_PRIVACY_CACHE``, by default ``~/.cache/fl-privacy``."""
    return Path(os.environ.get("FL_PRIVACY_CACHE") or "~/.cache/fl-privacy").expanduser()


class FeatureCache:
    """One small file an utterance, under a key of extractor, options, versions and audio.

    A damaged file reads as absent. A folder that cannot be written costs one warning and no more.

    Parameters
    ----------
    spec : str
        The name by which the extractor was asked for.
    extractor : Extractor
        Its name, version and dimension.
    options : mapping, optional
        The arguments that it was made with.
    """

    def __init__(self, spec: str, extractor: Extractor, options: Mapping[str, Any] | None = None) -> None:
        self._dimension = extractor.dimension
        parts = [spec, extractor.name, extractor.version, version("torch")]
        if options:
            parts.append(json.dumps(options, sort_keys=True, default=repr))
        self._prefix = "\n".join(parts)
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{extractor.name}-{extractor.version}")
        self._folder = cache_folder() / "features" / plain
        self._writable = True

    def path(self, fingerprint: str) -> Path:
        """Return the file for audio with this fingerprint."""
        key = hashlib.sha256(f"{self._prefix}\n{fingerprint}".encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.npy"

    def get(self, fingerprint: str) -> NDArray[np.float32] | None:
        """Return the features float32 (d,), or None where they are absent or damaged."""
        try:
            with self.path(fingerprint).open("rb") as file:
                values: NDArray[np.float32] = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        usable = values.shape == (self._dimension,) and values.dtype == np.float32 and np.isfinite(values).all()
        return values if usable else None

    def put(self, fingerprint: str, values: NDArray[np.float32]) -> None:
        """Store features; readers see all of the file or nothing."""
        if not self._writable:
            return
        path = self.path(fingerprint)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    np.save(file, values, allow_pickle=False)
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            self._writable = False
            _log.warning("features are not cached: %s cannot be written (%s)", self._folder, error.strerror)
