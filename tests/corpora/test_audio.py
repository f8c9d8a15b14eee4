from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_privacy.corpora import AudioError, Corpus, Utterance


def one(path: Path) -> tuple[Corpus, Utterance]:
    utterance = Utterance("a", "s", path)
    return Corpus("test", None, (utterance,)), utterance


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.lists(st.integers(-32768, 32767), min_size=1, max_size=300), kind=st.sampled_from(["WAV", "FLAC"]))
def test_16_bit_mono_at_16_khz_comes_back_exactly(tmp_path: Path, samples: list[int], kind: str) -> None:
    path = tmp_path / "a.audio"
    soundfile.write(str(path), np.array(samples, np.int16), 16_000, format=kind)
    corpus, utterance = one(path)
    wave = corpus.wave(utterance)
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave * 32768, samples)


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    left, right = np.linspace(-0.5, 0.5, 800), np.linspace(0.5, 0.1, 800)
    soundfile.write(str(path), np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    corpus, utterance = one(path)
    np.testing.assert_allclose(corpus.wave(utterance), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled_to_the_same_tone(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(str(path), 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate), rate, subtype="FLOAT")
    corpus, utterance = one(path)
    wave = corpus.wave(utterance)
    assert len(wave) == 16_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(wave[500:-500], expected[500:-500], atol=5e-3)
    assert corpus.hours == pytest.approx(1 / 3600)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused_with_the_path(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "broken.wav"
    soundfile.write(str(path), np.array([0.1, bad, 0.2], np.float32), 16_000, subtype="FLOAT")
    corpus, utterance = one(path)
    with pytest.raises(AudioError, match=r"broken\.wav.*not finite"):
        corpus.wave(utterance)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"no audio at all", "not readable as audio"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git-lfs pointer"),
    ],
)
def test_files_that_are_no_audio_are_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    corpus, utterance = one(path)
    with pytest.raises(AudioError, match=rf"broken\.wav: {reason}"):
        corpus.wave(utterance)
    with pytest.raises(AudioError, match=reason):
        _ = corpus.hours


def test_a_recording_without_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(str(path), np.zeros(0), 16_000)
    corpus, utterance = one(path)
    with pytest.raises(AudioError, match="no samples"):
        corpus.wave(utterance)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    corpus, utterance = one(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match=r"gone\.wav"):
        corpus.wave(utterance)
    with pytest.raises(AudioError, match=r"gone\.wav"):
        corpus.fingerprint(utterance)


def test_the_fingerprint_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(str(path), np.zeros(10), 16_000)
    corpus, utterance = one(path)
    assert corpus.fingerprint(utterance) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_utterance_without_a_file_has_no_audio() -> None:
    utterance = Utterance("a", "s")
    with pytest.raises(AudioError, match="'a' has no audio file"):
        Corpus("test", None, (utterance,)).wave(utterance)
