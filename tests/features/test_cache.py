from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_privacy.features.cache import FeatureCache, cache_folder

VALUES = np.array([1.5, -2.0, 0.0], np.float32)


def made(spec: str = "mine:It", **changes: Any) -> FeatureCache:
    extractor: Any = SimpleNamespace(**{"name": "it", "version": "1", "dimension": 3, **changes})
    return FeatureCache(spec, extractor)


def test_what_was_put_is_got() -> None:
    assert made().get("ab") is None
    made().put("ab", VALUES)
    found = made().get("ab")
    assert found is not None
    assert found.tobytes() == VALUES.tobytes()


def test_another_extractor_version_or_audio_is_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    made().put("ab", VALUES)
    assert made().get("cd") is None
    assert made(version="2").get("ab") is None
    assert made(name="other").get("ab") is None
    assert made(spec="yours:It").get("ab") is None
    monkeypatch.setattr("fl_privacy.features.cache.version", lambda _: "0.0")
    assert made().get("ab") is None


def test_other_options_are_another_entry(tmp_path: Path) -> None:
    extractor: Any = SimpleNamespace(name="it", version="1", dimension=3)
    FeatureCache("mine:It", extractor, {"a": 1, "b": [2, "x"]}).put("ab", VALUES)
    assert FeatureCache("mine:It", extractor, {"b": [2, "x"], "a": 1}).get("ab") is not None
    for options in ({}, None, {"a": 1}, {"a": 2, "b": [2, "x"]}, {"a": "1", "b": [2, "x"]}, {"a": tmp_path, "b": 2}):
        assert FeatureCache("mine:It", extractor, options).get("ab") is None
    made().put("cd", VALUES)
    assert FeatureCache("mine:It", extractor, {}).get("cd") is not None


def test_files_lie_where_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(name="odd name/x").path("ab")
    assert path.parts[-4:-2] == ("features", "odd_name_x-1")
    assert path.parent.name == path.name[:2]
    assert path.is_relative_to(cache_folder())
    monkeypatch.delenv("FL_PRIVACY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fl-privacy"


def test_no_temporary_file_stays(cache: Path) -> None:
    made().put("ab", VALUES)
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".npy"]


@pytest.mark.parametrize("keep", [0, 10, 100, -1])
def test_a_damaged_file_reads_as_absent(keep: int) -> None:
    path = made().path("ab")
    made().put("ab", VALUES)
    path.write_bytes(path.read_bytes()[:keep])
    assert made().get("ab") is None
    made().put("ab", VALUES)
    assert made().get("ab") is not None


@pytest.mark.parametrize(
    "wrong",
    [VALUES[:2], VALUES.astype(np.float64), np.array([1, np.nan, 2], np.float32), np.array([{}, 1, 2], object)],
)
def test_a_file_that_holds_something_else_reads_as_absent(wrong: np.ndarray) -> None:
    path = made().path("ab")
    path.parent.mkdir(parents=True)
    np.save(path, wrong, allow_pickle=True)
    assert made().get("ab") is None


def test_a_folder_that_cannot_be_made_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "file"))
    mine = made()
    with caplog.at_level(logging.WARNING):
        mine.put("ab", VALUES)
        mine.put("cd", VALUES)
    assert mine.get("ab") is None
    assert len(caplog.records) == 1
    assert "features are not cached" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_costs_one_warning(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    made().put("ab", VALUES)
    assert "features are not cached" in caplog.text
