"""The published table's preset, on a generated tree of TIMIT's layout and a checkpoint in the authors' format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fl_privacy.config import load_any
from fl_privacy.corpora import Corpus
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier
from fl_privacy.models.sincnet import PUBLISHED, SincNet
from fl_privacy.sims.run import run

KNOWN, OTHERS = 4, 6


@pytest.fixture(scope="module")
def timit(tmp_path_factory) -> Path:
    """Buzzing people: 4 in the training folder, 6 in the test folder, 4 sentences each, and their words."""
    root, rng = tmp_path_factory.mktemp("timit"), np.random.default_rng(0)
    time = np.arange(6400) / 16_000
    for person in range(KNOWN + OTHERS):
        sex, subset = "MF"[person % 2], "TRAIN" if person < KNOWN else "TEST"
        folder = root / subset / f"DR{1 + person % 8}" / f"{sex}AB{chr(65 + person)}0"
        folder.mkdir(parents=True)
        for sentence in ("SX1", "SX2", "SX3", "SI4"):
            pitch = 90 + 30 * person + rng.normal(0, 1)
            wave = sum(np.sin(2 * np.pi * k * pitch * time + rng.uniform(0, 6)) / k for k in range(1, 9))
            wave = 0.1 * wave + 0.01 * rng.standard_normal(time.size)
            soundfile.write(str(folder / f"{sentence}.WAV"), wave, 16_000, format="NIST", subtype="PCM_16")
            (folder / f"{sentence}.WRD").write_text("320 3200 she\n3200 6080 had\n")
    return root


def authors_file(path: Path, network: SincNet) -> None:
    """Three state dicts under the public code's names."""
    cnn, hidden, last = {}, {}, {}
    for name, tensor in network.state_dict().items():
        layer, _, what = name.rpartition(".")
        stem, _, number = layer.partition(".")
        match stem:
            case "norm_in":
                cnn[f"ln0.{what}"] = tensor
            case "norms":
                cnn[f"ln.{number}.{what}"] = tensor
            case "sinc":
                cnn[f"conv.0.{what}_hz_"] = tensor
            case "convolutions":
                cnn[f"conv.{int(number) + 1}.{what}"] = tensor
            case "norm_dense":
                hidden[f"ln0.{what}"] = tensor
            case "dense":
                hidden[f"wx.{number}.{what}"] = tensor
            case "dense_norms":
                hidden[f"bn.{number}.{what}"] = tensor
            case "last":
                last[f"wx.0.{what}"] = tensor
    torch.save({"CNN_model_par": cnn, "DNN1_model_par": hidden, "DNN2_model_par": last}, path)


@pytest.fixture(scope="module")
def checkpoint(timit, tmp_path_factory) -> Path:
    """The published network, random but for its last layer, which a ridge regression teaches the four voices."""
    corpus = Corpus.load("timit", timit, cut=True)
    train = [u for u in corpus if u.labels["subset"] == "train"]
    torch.manual_seed(0)
    network = SincNet(PUBLISHED, KNOWN)
    windows = SpeakerClassifier(network, "abcd", shift=800)
    names = sorted({u.speaker for u in train}, reverse=True)  # the classes stand in an order of their own
    rows, codes = [], []
    with torch.no_grad():
        for utterance in train:
            part = torch.from_numpy(corpus.wave(utterance)).unfold(0, 3200, 400)
            rows.append(windows.dvectors(part).double())
            codes += [names.index(utterance.speaker)] * len(part)
        x, y = torch.cat(rows), torch.eye(KNOWN).double()[codes] * 10
        mean, spread = x.mean(0), x.std(0).clamp_min(1e-12)
        z = (x - mean) / spread
        weight = z.T @ torch.linalg.solve(z @ z.T + 10 * torch.eye(len(z)), y - y.mean(0)) / spread[:, None]
        network.last.weight.copy_(weight.T)
        network.last.bias.copy_(y.mean(0) - mean @ weight)
    path = tmp_path_factory.mktemp("model") / "model_raw.pkl"
    authors_file(path, network)
    return path


def content(timit: Path, checkpoint: Path) -> dict:
    held = load_any("pizzi2023").resolved()
    for side in ("private", "auxiliary"):
        held[side]["root"] = str(timit)
    held["target"] = {"checkpoint": str(checkpoint)}
    held["attack"] = [
        held["attack"][0] | {"starts": ["laplace", "zeros"], "iterations": 2},
        held["attack"][1] | {"starts": ["laplace"], "iterations": 1, "length": 4200},
        held["attack"][2],
    ]
    held["judges"] = {"steps": 3, "crop_frames": 15, "other_seed": False}
    return held


def test_the_published_table_stands_beside_a_run_on_the_public_files(timit, checkpoint, tmp_path):
    folder = run(content(timit, checkpoint), out=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    told = result["inversion"]
    assert result["utility"]["sentence_error"] == 0, "each class has got its speaker's name"
    ours = {row["attack"]: row for row in told["published"] if row["attack"]}
    assert set(ours) == {"standard from laplace", "standard from zeros", "sliding from laplace"}
    assert ours["sliding from laplace"]["accuracy"] == pytest.approx(0.9048)
    notes = " ".join(told["published_notes"])
    assert "TIMIT is" not in notes and "SincNet of its own" not in notes
    assert "462 speakers, this run 4" in notes and "up to 1000 steps a window, this run 1, 2" in notes
    assert result["corpora"]["auxiliary"][0]["speakers"] == OTHERS
    page = (folder / "report.html").read_text()
    assert "Beside the published table" in page


def test_a_checkpoint_of_other_people_is_refused(timit, checkpoint, tmp_path):
    held = torch.load(checkpoint, weights_only=True)
    held["DNN2_model_par"]["wx.0.weight"] *= -1
    torch.save(held, tmp_path / "other.pkl")
    with pytest.raises(UserError, match="which class is which speaker cannot be told"):
        run(content(timit, tmp_path / "other.pkl"), out=tmp_path / "run")
    held["DNN2_model_par"] = {f"wx.0.{w}": held["DNN2_model_par"][f"wx.0.{w}"][:3] for w in ("weight", "bias")}
    torch.save(held, tmp_path / "three.pkl")
    with pytest.raises(UserError, match="has 3 classes, but the corpus has 4 speakers"):
        run(content(timit, tmp_path / "three.pkl"), out=tmp_path / "run2")
