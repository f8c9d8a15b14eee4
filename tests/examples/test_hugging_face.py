"""The example that wraps a Hugging Face folder: with a stand-in of the same signature, and with transformers where it is."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fl_privacy.errors import UserError
from fl_privacy.models.frames import load_frame_encoder

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "hugging-face"


class StandIn(nn.Module):
    """Called and answering as transformers' speech models."""

    config = SimpleNamespace(hidden_size=6, num_hidden_layers=2, conv_kernel=(10, 3), conv_stride=(5, 4))

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 6, 18, 20)
        self.linear = nn.Linear(6, 6)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_values: torch.Tensor, output_hidden_states: bool = False) -> Any:
        assert input_values.ndim == 2 and output_hidden_states
        zeroth = self.dropout(self.convolution(input_values[:, None]).transpose(1, 2))
        first = self.linear(zeroth)
        second = torch.tanh(first)
        return SimpleNamespace(last_hidden_state=second, hidden_states=(zeroth, first, second))


def wave(samples: int = 3000) -> np.ndarray:
    return np.random.default_rng(0).normal(0.1, 0.2, samples).astype(np.float32)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("hugging_face")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    torch.manual_seed(0)
    model = StandIn()

    def from_pretrained(folder: str, *, local_files_only: bool) -> StandIn:
        assert local_files_only
        if not (Path(folder) / "model.safetensors").exists():
            raise OSError(f"no file named model.safetensors in {folder}.\nMore.")
        return model

    transformers = ModuleType("transformers")
    transformers.AutoModel = SimpleNamespace(from_pretrained=from_pretrained)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    return model


def folder(path: Path, normalise: bool | None) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")
    if normalise is not None:
        (path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": normalise}))
    return path


@pytest.mark.parametrize("normalise", [None, False, True])
def test_layers_are_the_transformers_in_evaluation_mode(
    tmp_path: Path, module: Any, stand_in: StandIn, normalise: bool | None
) -> None:
    encoder = load_frame_encoder(folder(tmp_path / "tiny", normalise), "hugging_face:frame_encoder")
    assert (encoder.name, encoder.dim, encoder.hop, encoder.layers, encoder.shortest, encoder.queries) == (
        "tiny", 6, 20, 2, 20, 0,
    )  # fmt: skip
    heard = wave()
    if normalise:
        heard = ((heard - heard.mean()) / heard.std()).astype(np.float32)
    with torch.no_grad():
        expected = stand_in.eval()(torch.from_numpy(heard)[None], output_hidden_states=True)
    np.testing.assert_allclose(encoder(wave()), expected.last_hidden_state[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encoder.at(0)(wave()), expected.hidden_states[1][0], rtol=1e-4, atol=1e-5)
    assert len(encoder.all_layers(wave())) == 2
    with pytest.raises(UserError, match="19 samples has no frame: one needs 20"):
        encoder(wave(19))


def test_folders_that_are_none_are_refused(tmp_path: Path, module: Any, stand_in: StandIn) -> None:
    with pytest.raises(UserError, match=r"there is no .*config\.json; save_pretrained writes one"):
        module.frame_encoder(tmp_path)
    empty = folder(tmp_path / "empty", None)
    (empty / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"folder .*empty: no file named model\.safetensors in .*empty\.$"):
        module.frame_encoder(empty)


def test_without_transformers_it_says_what_to_install(
    tmp_path: Path, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install transformers"):
        module.frame_encoder(folder(tmp_path / "tiny", None))


def test_with_transformers_itself(tmp_path: Path, module: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16),
        conv_kernel=(10, 3), conv_stride=(5, 4), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    model = transformers.HubertModel(config).eval()
    model.save_pretrained(tmp_path / "tiny")
    encoder = module.frame_encoder(tmp_path / "tiny")
    with torch.no_grad():
        expected = model(torch.from_numpy(wave())[None]).last_hidden_state[0]
    np.testing.assert_allclose(encoder(wave()), expected, rtol=1e-4, atol=1e-5)
