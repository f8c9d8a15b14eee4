"""What runs inside the spawned processes of an extraction; light to import, so that threads are limited first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy._processes import prepare_worker
from fl_privacy.corpora.base import AudioError, AudioSource, Utterance
from fl_privacy.features._errors import FeatureError
from fl_privacy.features.registry import Extractor, load_extractor

_extractor: Extractor | None = None
_source: AudioSource | None = None


def start(name: str, options: Mapping[str, Any], source: AudioSource) -> None:
    """Prepare this process: die with the parent, use one thread, make the extractor once."""
    global _extractor, _source
    prepare_worker()
    _extractor, _source = load_extractor(name, **options), source


def work(utterances: list[Utterance]) -> list[NDArray[np.float32] | str]:
    """Extract a batch in a prepared process."""
    if _extractor is None or _source is None:
        raise RuntimeError("this process was not prepared by `start`")
    extractor, source = _extractor, _source
    return [features_of(utterance, extractor, source) for utterance in utterances]


def features_of(utterance: Utterance, extractor: Extractor, source: AudioSource) -> NDArray[np.float32] | str:
    """Return the features float32 (d,) of an utterance, or the reason why it has none."""
    try:
        values = np.asarray(extractor(source.wave(utterance)), dtype=np.float32)
    except AudioError as error:
        return str(error)
    if values.shape != (extractor.dimension,):
        raise FeatureError(f"extractor {extractor.name!r} gave {values.shape}, promised ({extractor.dimension},)")
    return values if np.isfinite(values).all() else f"{extractor.name} gave values that are not finite"
