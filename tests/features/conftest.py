from __future__ import annotations

from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.load("synthetic", speakers=4, utterances=3, seed=11)
