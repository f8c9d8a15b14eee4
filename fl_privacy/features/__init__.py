"""Utterances as vectors: extractors, extraction with a cache, normalisation."""

from __future__ import annotations

from fl_privacy.features.extract import FeatureError, FeatureTable, extract
from fl_privacy.features.normalise import normalise
from fl_privacy.features.registry import EXTRACTORS, Extractor, load_extractor

__all__ = ["EXTRACTORS", "Extractor", "FeatureError", "FeatureTable", "extract", "load_extractor", "normalise"]
