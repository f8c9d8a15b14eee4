from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from fl_privacy.features import EXTRACTORS, Extractor, FeatureError, load_extractor

MINE = f"{__package__}._extractors" if __package__ else "_extractors"


def test_built_in_and_own_extractors() -> None:
    assert isinstance(load_extractor("functionals"), Extractor)
    assert load_extractor(f"{MINE}:Level").dimension == 2
    assert load_extractor(f"{MINE}:ready").name == "level"
    assert set(EXTRACTORS) == {"functionals", "emobase", "ssl"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("functional", "unknown feature extractor 'functional'. Known: functionals, emobase, ssl"),
        ("nowhere.at:all", "no module 'nowhere'"),
        (f"{MINE}:nothing", "has no 'nothing'"),
        (f"{MINE}:unfinished", "name, version, dimension missing"),
    ],
)
def test_mistakes_are_named(name: str, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        load_extractor(name)


def test_options_go_to_the_class() -> None:
    assert load_extractor(f"{MINE}:Scaled", name=3.0)(np.ones(5, np.float32)).tolist() == [3.0, 15.0]
    with pytest.raises(FeatureError, match="unexpected keyword argument 'factor'. Its options: name"):
        load_extractor(f"{MINE}:Scaled", factor=3.0)
    with pytest.raises(FeatureError, match="unexpected keyword argument 'factor'. It takes no options"):
        load_extractor(f"{MINE}:Level", factor=3.0)
    with pytest.raises(FeatureError, match="ready made: it takes no options"):
        load_extractor(f"{MINE}:ready", factor=3.0)


def test_emobase_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(FeatureError, match=r"pip install 'fl-privacy\[emobase\]'"):
        load_extractor("emobase")


def test_emobase_hands_the_wave_to_opensmile(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    class Frame:
        def to_numpy(self, dtype: type) -> np.ndarray:
            return np.arange(988, dtype=dtype)[None]

    class Smile:
        def __init__(self, feature_set: str, feature_level: str) -> None:
            asked.update(set=feature_set, level=feature_level)

        def process_signal(self, wave: np.ndarray, rate: int) -> Frame:
            asked.update(wave=wave, rate=rate)
            return Frame()

    fake = types.ModuleType("opensmile")
    fake.__version__ = "9.9"
    fake.Smile = Smile
    fake.FeatureSet = types.SimpleNamespace(emobase="emobase")
    fake.FeatureLevel = types.SimpleNamespace(Functionals="func")
    monkeypatch.setitem(sys.modules, "opensmile", fake)
    extractor = load_extractor("emobase")
    wave = np.ones(10, np.float32)
    values = extractor(wave)
    assert (asked["set"], asked["level"], asked["rate"]) == ("emobase", "func", 16_000)
    assert asked["wave"] is wave
    assert values.shape == (extractor.dimension,)
    assert values.dtype == np.float32
    assert "9.9" in extractor.version


def test_emobase_gives_988_finite_numbers() -> None:
    pytest.importorskip("opensmile")
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000).astype(np.float32)
    values = load_extractor("emobase")(wave)
    assert values.shape == (988,)
    assert np.isfinite(values).all()
