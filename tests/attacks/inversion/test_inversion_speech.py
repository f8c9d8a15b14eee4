"""From inverted vectors to speech: the mapper, the vocoder, the reference synthesiser, and marked files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.kernel_ridge import KernelRidge

from fl_privacy.attacks.inversion.export import MARK, write_synthetic
from fl_privacy.attacks.inversion.griffin_lim import MelSpectra
from fl_privacy.attacks.inversion.judges import unit
from fl_privacy.attacks.inversion.mapper import EmbeddingMapper, MapperTraining, mapping_quality
from fl_privacy.attacks.inversion.synthesiser import ReferenceSynthesiser, SynthesiserTraining, checked
from fl_privacy.errors import UserError

SMALL = MapperTraining(hidden=(48, 32), epochs=25, learning_rate=5e-3)


def spaces(n: int = 240, d: int = 40, q: int = 6):
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((12, q))
    owners = [f"s{i % 12}" for i in range(n)]
    target = unit(voices[np.arange(n) % 12] + 0.3 * rng.standard_normal((n, q)))
    source = target @ rng.standard_normal((q, d)) + 0.1 * rng.standard_normal((n, d))
    return source, target, owners


@pytest.mark.parametrize("kind", ["mlp", "ridge"])
def test_a_mapper_generalises_and_its_blind_twins_do_not(kind):
    source, target, owners = spaces()
    out = np.array([owner in ("s1", "s5", "s9") for owner in owners])
    told = [owner for owner in owners if owner in ("s1", "s5", "s9")]

    def quality(pairs):
        learned = EmbeddingMapper(kind, SMALL).fit(source[~out], pairs, seed=1)
        return mapping_quality(learned(source[out]), target[out], told)

    mapped = quality(target[~out])
    shuffled = quality(np.random.default_rng(1).permutation(target[~out]))
    blank = mapping_quality(np.tile(target[~out].mean(axis=0), (int(out.sum()), 1)), target[out], told)
    assert mapped.cosine > 0.8 > shuffled.cosine and mapped.cosine > blank.cosine + 0.3
    assert mapped.r_squared > 0.4 and blank.r_squared < 0.05
    assert mapped.retrieval > 0.9 and blank.retrieval == pytest.approx(1 / 3)


def test_the_ridge_is_a_ridge():
    source, target, _ = spaces()
    x = unit(source)
    spread = np.sqrt(x.var(axis=0).mean())
    mine = EmbeddingMapper("ridge", MapperTraining(penalty=3.0)).fit(source[:200], target[:200])
    x, new = (x[:200] - x[:200].mean(axis=0)), x[200:] - x[:200].mean(axis=0)
    spread = np.sqrt(unit(source[:200]).var(axis=0).mean())
    centre = target[:200].mean(axis=0)
    wanted = KernelRidge(alpha=3.0).fit(x / spread, target[:200] - centre).predict(new / spread) + centre
    assert np.allclose(mine(source[200:]), unit(wanted), atol=1e-8)


def test_the_mlp_is_the_same_for_the_same_seed_and_leaves_others_streams_alone():
    source, target, _ = spaces()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (EmbeddingMapper("mlp", SMALL).fit(source, target, seed=3)(source[:9]) for _ in range(2))
    assert np.array_equal(one, two)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.allclose(np.linalg.norm(one, axis=1), 1)


def test_mappers_refuse_what_they_cannot_use():
    with pytest.raises(UserError, match="Known: mlp, ridge"):
        EmbeddingMapper("forest")
    with pytest.raises(UserError, match="two pairs at least"):
        EmbeddingMapper("ridge").fit(np.zeros((1, 3)), np.zeros((1, 2)))
    with pytest.raises(UserError, match="not fitted"):
        EmbeddingMapper("ridge")(np.zeros((1, 3)))
    with pytest.raises(UserError, match="must be positive"):
        MapperTraining(hidden=(0,))


def buzz(pitch: float, colour: float, seconds: float = 0.8, seed: int = 0) -> np.ndarray:
    """Harmonics whose levels fall or rise with frequency, on and off."""
    time = np.arange(int(16_000 * seconds)) / 16_000
    rng = np.random.default_rng([seed, int(pitch)])
    wave = sum(np.exp(colour * k / 10) * np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) for k in range(1, 25))
    loud = 0.55 + 0.45 * np.sign(np.sin(2 * np.pi * rng.uniform(2, 5) * time))
    wave = wave / np.abs(wave).max() * loud + 0.003 * rng.standard_normal(time.size)
    return wave.astype(np.float32)


def test_a_spectrum_made_into_a_wave_has_that_spectrum():
    mels = MelSpectra()
    wave = buzz(140, -1.0)
    frames = mels.of(wave)
    again = mels.of(mels.wave(frames))[:, : frames.shape[1]]
    loud = frames > frames.max() - 5
    error = (again - frames)[loud].abs().mean()
    noise = mels.of(np.random.default_rng(0).standard_normal(wave.size).astype(np.float32))
    assert error < 0.35 < (noise - frames)[loud].abs().mean()
    assert abs(mels.wave(frames).size - wave.size) < 1024


def test_the_reference_synthesiser_takes_the_voice_from_the_vector():
    """Two colours of voice: speech by another's content gets the colour of the vector, whoever's content it is."""
    rng = np.random.default_rng(0)
    waves, vectors, speakers = [], [], []
    for n in range(24):
        colour = (-1.5, 1.0)[n % 2]
        waves.append(buzz(110 + 7 * (n // 2), colour + 0.1 * rng.standard_normal(), seed=n))
        vectors.append([(-1.0, 1.0)[n % 2], 0.1 * rng.standard_normal()])
        speakers.append("ab"[n % 2])
    steps: list[int] = []
    made = ReferenceSynthesiser(SynthesiserTraining(steps=60, crop_frames=16, channels=32))
    made.fit(waves, vectors, speakers, seed=1, told=steps.append)
    assert steps == list(range(1, 61))

    def tilt(wave):
        power = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(wave.size, 1 / 16_000)
        return np.log(power[hertz > 1500].sum() / power[hertz <= 800].sum())

    for content in (buzz(125, -1.5, seed=90), buzz(131, 1.0, seed=91)):
        (say,) = made.saying([content])
        dark, bright = (checked(say, np.float32([v, 0.0])) for v in (-1.0, 1.0))
        assert tilt(bright) > tilt(dark) + 1.5
        assert np.array_equal(dark, checked(say, np.float32([-1.0, 0.0])))
        assert abs(dark.size - content.size) < 1024


def test_what_a_synthesiser_needs_and_gives_is_checked():
    with pytest.raises(UserError, match="not fitted"):
        ReferenceSynthesiser().saying([np.zeros(3000, np.float32)])
    with pytest.raises(UserError, match="two speakers at least"):
        ReferenceSynthesiser().fit([np.zeros(3000, np.float32)] * 2, np.zeros((2, 3)), ["a", "a"], 0)
    for answer in (np.zeros((2, 400)), np.full(400, np.nan), np.zeros(0)):
        with pytest.raises(UserError, match="expected a finite waveform"):
            checked(lambda vector, answer=answer: answer, np.zeros(3, np.float32))
    with pytest.raises(UserError, match="critic"):
        SynthesiserTraining(critic=-1.0)


def test_audio_says_that_it_is_synthetic(tmp_path: Path):
    wave = np.sin(np.arange(1601) / 10)
    path = write_synthetic(tmp_path / "speaker-3.wav", 0.01 * wave)
    assert path.name == "speaker-3.synthetic.wav" and [p.name for p in tmp_path.iterdir()] == [path.name]
    read, rate = soundfile.read(str(path))
    assert rate == 16_000 and np.allclose(read, 0.9 * wave / np.abs(wave).max(), atol=1e-4)
    with soundfile.SoundFile(str(path)) as file:
        assert file.comment == MARK
    held = path.read_bytes()
    assert struct.unpack("<I", held[4:8])[0] == len(held) - 8
    for name, values in (("a.flac", wave), ("a.wav", [np.nan]), ("a.wav", np.zeros((2, 2)))):
        with pytest.raises(UserError):
            write_synthetic(tmp_path / name, values)
