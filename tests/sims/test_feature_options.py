"""The options of an extractor reach it from the simulation file, in a run and before a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio

from fl_privacy.config import FederatedSerFile, load
from fl_privacy.errors import UserError
from fl_privacy.report import toml
from fl_privacy.sims.ser_recipe import FederatedSerRecipe
from fl_privacy.sims.sweep import _warm
from fl_privacy.training import read_federation
from fl_privacy.training.shards import read_client
from tests.sims.test_run import SMALL

LENGTHS = """
import os, pathlib
import numpy as np
class Lengths:
    name, version = "lengths", "1"
    def __init__(self, dimension, factor=1.0):
        self.dimension, self.factor = dimension, factor
    def __call__(self, wave, /):
        with pathlib.Path(os.environ["CALLS"]).open("a") as file:
            file.write("x")
        return np.full(self.dimension, self.factor * len(wave), np.float32)
"""


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lengths_extractor.py").write_text(LENGTHS)
    (tmp_path / "calls").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "calls"


def made(**options: Any) -> FederatedSerFile:
    return load({**SMALL, "features": {"name": "lengths_extractor:Lengths", "options": options, "normalise": "none"}})


def written(file: FederatedSerFile, folder: Path) -> np.ndarray:
    count = FederatedSerRecipe(file).write_data(folder)
    return np.concatenate([read_client(folder, number)["train_features"].numpy() for number in range(count)])


def test_a_run_hands_them_over(tmp_path: Path) -> None:
    single = written(made(dimension=3), tmp_path / "single")
    double = written(made(dimension=3, factor=2.0), tmp_path / "double")
    assert read_federation(tmp_path / "single").inputs == 3
    assert single.min() > 0
    np.testing.assert_array_equal(double, 2 * single)
    with pytest.raises(UserError, match="missing a required argument: 'dimension'. Its options: dimension, factor"):
        FederatedSerRecipe(made()).write_data(tmp_path / "none")


def test_a_sweep_warms_the_cache_for_each_of_them(calls: Path, tmp_path: Path) -> None:
    warmed: set[str] = set()
    utterances = 15 * 6 + 12 * 6
    for factor, expected in [(1.0, 1), (2.0, 2), (1.0, 2)]:
        _warm(made(dimension=3, factor=factor), lambda *_: None, warmed)
        assert len(calls.read_text()) == expected * utterances
    written(made(dimension=3, factor=2.0), tmp_path / "data")
    assert len(calls.read_text()) == 2 * utterances


def test_speech_model_features_from_a_file(tmp_path: Path) -> None:
    sizes = {
        "extractor_mode": "group_norm", "extractor_conv_layer_config": [[8, 10, 40]], "extractor_conv_bias": False,
        "encoder_embed_dim": 12, "encoder_pos_conv_kernel": 4, "encoder_pos_conv_groups": 2, "encoder_num_layers": 1,
        "encoder_num_heads": 2, "encoder_ff_interm_features": 8, "encoder_layer_norm_first": False,
    }  # fmt: skip
    dropouts = [f"encoder_{part}dropout" for part in ("projection_", "attention_", "ff_interm_", "")]
    unused = {**dict.fromkeys([*dropouts, "encoder_layer_drop"], 0.0), "aux_num_out": None}
    model = torchaudio.models.wav2vec2_model(**sizes, **unused)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    options = {"checkpoint": str(tmp_path / "tiny.pt"), "architecture": "wav2vec2_model", "parameters": sizes}
    (tmp_path / "run.toml").write_text(
        f"""
        [simulation]
        kind = "federated-ser"
        [private]
        corpus = "synthetic"
        options = {{ speakers = 6, utterances = 4, seed = 1 }}
        [[auxiliary]]
        corpus = "synthetic"
        options = {{ speakers = 6, utterances = 4, seed = 2 }}
        [features]
        name = "ssl"
        options = {toml._value(options)}
        [[attack]]
        name = "raw-linear"
        """
    )
    values = written(load(tmp_path / "run.toml"), tmp_path / "data")
    assert values.shape[1] == 12
    assert np.isfinite(values).all()
    assert values.std(axis=0).min() > 0
