from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.null import covers, simulate


def test_where_there_is_no_gender_the_interval_covers_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form of `python -m benchmarks null`."""
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "cache"))
    intervals = simulate(4, tmp_path, processes=1)
    for found in intervals.values():
        assert sum(low <= 0.5 <= high for low, high in found) >= 3


def test_score_level_intervals_cover_chance() -> None:
    assert np.mean([covers(seed) for seed in range(500)]) >= 0.93
