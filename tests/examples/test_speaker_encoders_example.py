"""Encoders of one's own: one that is trained here and audited, and wrappers of others' packages."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from fl_privacy.models.encoder import load_encoder
from fl_privacy.sims.run import run

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "speaker-encoders"


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    yield
    for name in ("train_and_audit", "speechbrain_encoder", "huggingface_encoder"):
        sys.modules.pop(name, None)


def noise(seconds: float, seed: int = 0):
    return np.random.default_rng(seed).standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1


def test_a_recogniser_is_trained_exported_and_audited(tmp_path: Path, monkeypatch, capsys) -> None:
    speech, rng = tmp_path / "speech", np.random.default_rng(0)
    time = np.arange(4800) / 16_000
    for person in range(25):
        (speech / f"p{person:02d}").mkdir(parents=True)
        for voice in range(6):
            wave = 0.2 * np.sin(2 * np.pi * (120 + 30 * person) * time) + 0.1 * rng.standard_normal(time.size)
            soundfile.write(str(speech / f"p{person:02d}" / f"v{voice}.wav"), wave, 16_000)
    soundfile.write(str(speech / "p00" / "v9.wav"), np.full(4800, np.nan), 16_000, subtype="FLOAT")
    out = tmp_path / "runs"
    monkeypatch.setattr(
        sys,
        "argv",
        f"x folder --root {speech} --out {out} --steps 3 --crop-frames 20 --voices 3 --imposters 3".split(),
    )
    importlib.import_module("train_and_audit").main()
    printed = capsys.readouterr().out
    assert "8 members, 8 non-members, 9 speakers" in printed and "left out" in printed
    assert load_encoder(str(out / "recogniser.pt")).embed([noise(0.5), noise(1.0)]).shape == (2, 64)
    quick = ["shadow.steps=3", "shadow.speakers_per_batch=3", "protocol.swaps=2"]
    folder = run(out / "unseen.toml", quick, out=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    blind = {c["control"] for c in result["controls"]}
    assert {"random-initialisation", "mean-log-mel", "log-mel-classifier", "wrong-target"} <= blind
    head = next(c for c in result["claims"] if c["primary"] and c["metric"] == "auc" and c["unit"] == "speaker")
    assert (head["n_positive"], head["n_negative"]) == (8, 8)
    heard, unseen = (
        (out / f"members-{kind}" / "manifest.csv").read_text().splitlines() for kind in ("heard", "unseen")
    )
    assert not set(heard[1:]) & set(unseen[1:]) and len(heard) == len(unseen) == 1 + 8 * 3


class FakeClassifier:
    """Answers as SpeechBrain's EncoderClassifier: (batch, samples) to (batch, 1, d)."""

    @classmethod
    def from_hparams(cls, source: str):
        assert source == "a-folder"
        return cls()

    def encode_batch(self, wavs: torch.Tensor, wav_lens: torch.Tensor | None = None) -> torch.Tensor:
        return torch.stack([wavs.mean(1), wavs.std(1), wavs.abs().amax(1)], dim=1)[:, None, :]


def test_speechbrain(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = types.ModuleType("speechbrain.inference.speaker")
    speaker.EncoderClassifier = FakeClassifier  # type: ignore[attr-defined]
    for name in ("speechbrain", "speechbrain.inference"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "speechbrain.inference.speaker", speaker)
    monkeypatch.setenv("SPEECHBRAIN_SOURCE", "a-folder")
    waves = [noise(0.5), noise(1.0, 1)]
    found = load_encoder("speechbrain_encoder:embed").embed(waves)
    np.testing.assert_allclose(found, [[w.mean(), w.std(ddof=1), np.abs(w).max()] for w in waves], rtol=1e-4, atol=1e-6)


def test_huggingface(monkeypatch: pytest.MonkeyPatch) -> None:
    def extractor(wave, sampling_rate: int, return_tensors: str):
        assert (sampling_rate, return_tensors) == (16_000, "pt")
        return {"input_values": torch.from_numpy(wave)[None]}

    class Model:
        def eval(self):
            return self

        def __call__(self, input_values: torch.Tensor):
            embeddings = torch.stack([input_values.mean(1), input_values.std(1)], dim=1)
            return SimpleNamespace(embeddings=embeddings, logits=None)

    package = types.ModuleType("transformers")
    package.AutoFeatureExtractor = SimpleNamespace(from_pretrained=lambda name: extractor)  # type: ignore[attr-defined]
    package.AutoModelForAudioXVector = SimpleNamespace(from_pretrained=lambda name: Model())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", package)
    waves = [noise(0.5), noise(1.0, 1)]
    found = load_encoder("huggingface_encoder:embed").embed(waves)
    np.testing.assert_allclose(found, [[w.mean(), w.std(ddof=1)] for w in waves], rtol=1e-4, atol=1e-6)


def test_huggingface_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.WavLMForXVector(transformers.WavLMConfig(**sizes))
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    monkeypatch.setenv("XVECTOR_MODEL", str(tmp_path))
    found = load_encoder("huggingface_encoder:embed").embed([noise(1.0), noise(1.5)])
    assert found.shape == (2, model.config.xvector_output_dim)
