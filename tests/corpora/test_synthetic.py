from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz

from fl_privacy.corpora import Corpus, CorpusError, Utterance
from fl_privacy.corpora import _synthesis as synthesis
from fl_privacy.corpora import _voices as voices


@pytest.fixture(scope="module")
def made() -> Corpus:
    return Corpus.load("synthetic", speakers=20, utterances=8, seed=5)


def pitch_of(wave: np.ndarray) -> float:
    """Median pitch in Hz by plain autocorrelation, one loud frame at a time."""
    frames = [wave[start : start + 800].astype(float) for start in range(0, len(wave) - 800, 400)]
    loudest = max(np.mean(frame**2) for frame in frames)
    found = []
    for frame in frames:
        if np.mean(frame**2) < 0.1 * loudest:
            continue
        full = np.correlate(frame - frame.mean(), frame - frame.mean(), "full")[799:]
        r = full / full[0] * 800 / np.arange(800, 0, -1)
        peaks = [lag for lag in range(40, 267) if r[lag] >= max(r[lag - 1], r[lag + 1]) and r[lag] > 0.5]
        if peaks:
            best = max(r[lag] for lag in peaks)
            found.append(16_000 / next(lag for lag in peaks if r[lag] > 0.9 * best))
    return float(np.median(found))


def formants_of(wave: np.ndarray) -> np.ndarray:
    """Resonances in Hz by linear prediction, sorted."""
    x = np.append(wave[0], wave[1:] - 0.9 * wave[:-1]) * np.hamming(len(wave))
    r = np.correlate(x, x, "full")[len(x) - 1 :][:15]
    r[0] *= 1.0001
    roots = np.roots(np.concatenate([[1.0], -solve_toeplitz(r[:-1], r[1:])]))
    sharp = roots[(roots.imag > 0) & (np.abs(roots) > 0.9)]
    return np.sort(np.angle(sharp)) * 16_000 / (2 * np.pi)


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(made: Corpus) -> None:
    again = Corpus.load("synthetic", speakers=20, utterances=8, seed=5)
    other = Corpus.load("synthetic", speakers=20, utterances=8, seed=6)
    for index in (0, 57, 159):
        utterance = made.utterances[index]
        assert again.wave(utterance).tobytes() == made.wave(utterance).tobytes()
        assert again.fingerprint(utterance) == made.fingerprint(utterance)
        assert other.wave(utterance).tobytes() != made.wave(utterance).tobytes()
        assert other.fingerprint(utterance) != made.fingerprint(utterance)


def test_the_audio_follows_from_the_id_and_not_from_order_or_labels(made: Corpus) -> None:
    expected = made.wave(made.utterances[9]).tobytes()
    part = made.select(lambda u: u.id == made.utterances[9].id, "test")
    assert part.wave(part.utterances[0]).tobytes() == expected
    relabelled = Utterance(made.utterances[9].id, "x", None, {"gender": "male", "emotion": "sad"})
    assert made.wave(relabelled).tobytes() == expected


def test_fingerprints_are_all_different(made: Corpus) -> None:
    assert len({made.fingerprint(utterance) for utterance in made}) == len(made)


def test_sexes_and_emotions_are_balanced(made: Corpus) -> None:
    assert Counter(made.speaker_labels("gender").values()) == {"female": 10, "male": 10}
    counts = Counter((utterance.speaker, utterance.labels["emotion"]) for utterance in made)
    assert set(counts.values()) == {2}
    assert made.speakers[:2] == ("s000", "s001")


def test_the_number_of_a_speaker_says_nothing_of_the_sex() -> None:
    women = np.zeros(12)
    same = np.zeros((12, 12))
    for seed in range(400):
        sexes = Corpus.load("synthetic", speakers=12, utterances=1, seed=seed).speaker_labels("gender").values()
        female = np.array([sex == "female" for sex in sexes])
        women += female
        same += female[:, None] == female[None]
    assert np.abs(women / 400 - 0.5).max() < 0.12
    off = same[~np.eye(12, dtype=bool)] / 400
    assert np.abs(off - 5 / 11).max() < 0.13


def test_waves_are_speech_sized(made: Corpus) -> None:
    for utterance in made.utterances[::7]:
        wave = made.wave(utterance)
        assert wave.dtype == np.float32
        assert wave.ndim == 1
        assert np.isfinite(wave).all()
        assert 0.7 < len(wave) / 16_000 < 2.8
        assert np.mean(np.abs(wave) >= 1) < 1e-3
        assert made.source.seconds(utterance) == len(wave) / 16_000


def test_an_independent_pitch_estimate_finds_men_and_women(made: Corpus) -> None:
    by_sex: dict[str, list[float]] = {"male": [], "female": []}
    for utterance in made:
        if utterance.labels["emotion"] == "neutral":
            by_sex[utterance.labels["gender"]].append(pitch_of(made.wave(utterance)))
    assert 95 < np.median(by_sex["male"]) < 140
    assert 175 < np.median(by_sex["female"]) < 240
    assert min(by_sex["male"]) > 75
    assert max(by_sex["female"]) < 300


def sustained(vowel: str, **changes: Any) -> np.ndarray:
    voice = voices.make_voice(False, 0.0, np.random.default_rng(0))
    settings = {name: getattr(voice, name) for name in voice.__slots__} | {
        "f0": 110.0, "tract": 1.0, "channel": 0.0, "noise": -90.0, "breath": 0.02, **changes,
    }  # fmt: skip
    voice = voices.Voice(**settings)
    rng = np.random.default_rng(1)
    track = synthesis.plan(" ".join([vowel] * 8), voice, voices.Manner(rate=-0.3), rng)
    return synthesis.render(track, voice, voices.Manner(), rng)


@pytest.mark.parametrize(("vowel", "expected"), [("aa", (730, 1090)), ("iy", (270, 2290)), ("eh", (530, 1840))])
@pytest.mark.parametrize("tract", [1.0, 1.165])
def test_linear_prediction_finds_the_formants(vowel: str, expected: tuple[float, float], tract: float) -> None:
    wave = sustained(vowel, tract=tract)
    middles = [wave[start : start + 640] for start in range(4000, len(wave) - 5000, 640)]
    found = np.median([formants_of(frame)[:2] for frame in middles if len(formants_of(frame)) > 1], axis=0)
    np.testing.assert_allclose(found, np.array(expected) * tract, rtol=0.13)


def test_emotions_differ_as_they_are_known_to(made: Corpus) -> None:
    level, length, pitch = ({} for _ in range(3))
    for emotion in ("neutral", "happy", "sad", "angry"):
        waves = [made.wave(utterance) for utterance in made if utterance.labels["emotion"] == emotion]
        level[emotion] = np.mean([10 * np.log10(np.mean(wave**2)) for wave in waves])
        length[emotion] = np.mean([len(wave) for wave in waves])
        pitch[emotion] = np.mean([np.log2(pitch_of(wave)) for wave in waves])
    assert level["sad"] < level["neutral"] - 3 < level["angry"] - 8
    assert length["sad"] > 1.1 * length["neutral"] > 1.15 * length["angry"]
    assert pitch["sad"] < pitch["neutral"] < min(pitch["happy"], pitch["angry"]) - 0.2


def test_without_an_effect_the_sex_changes_nothing() -> None:
    for seed in range(3):
        for change in (0.0, 1.0):
            rngs = [np.random.default_rng(seed) for _ in range(2)]
            man, woman = (
                voices.make_voice(female, change, rng) for female, rng in zip((False, True), rngs, strict=True)
            )
            assert (man == woman) is (change == 0.0)


def test_the_effect_is_used(made: Corpus) -> None:
    null = Corpus.load("synthetic", speakers=20, utterances=8, seed=5, gender_effect=0.0)
    assert null.speaker_labels("gender") == made.speaker_labels("gender")
    pitches = {"male": [], "female": []}
    for utterance in null:
        if utterance.labels["emotion"] == "neutral":
            pitches[utterance.labels["gender"]].append(pitch_of(null.wave(utterance)))
    assert abs(np.log(np.mean(pitches["female"]) / np.mean(pitches["male"]))) < 0.2
    assert null.fingerprint(null.utterances[0]) != made.fingerprint(made.utterances[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speakers": 0}, "speakers must be a whole number of at least 1, not 0"),
        ({"speakers": 2.5}, "speakers must be"),
        ({"utterances": "many"}, "utterances must be"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"gender_effect": -0.1}, "gender_effect must be a number from 0 to 2"),
        ({"gender_effect": float("nan")}, "gender_effect must be"),
        ({"speakers": True}, "speakers must be"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        Corpus.load("synthetic", **options)


def test_a_root_is_refused() -> None:
    with pytest.raises(CorpusError, match="leave out the root"):
        Corpus.load("synthetic", "somewhere")


def test_an_utterance_of_another_corpus_is_refused(made: Corpus) -> None:
    with pytest.raises(CorpusError, match="no utterance 's999_000'"):
        made.wave(Utterance("s999_000", "s999"))


def test_an_utterance_takes_milliseconds(made: Corpus) -> None:
    made.wave(made.utterances[0])
    began = time.process_time()
    for utterance in made.utterances[:30]:
        made.wave(utterance)
    # Five milliseconds on an idle core; the bound leaves room for slow and crowded machines.
    assert (time.process_time() - began) / 30 < 0.045
