"""The example that wraps a multi-speaker synthesiser from a local folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fl_privacy.errors import UserError

PATH = Path(__file__).parents[2] / "examples" / "speaker_synthesiser.py"


class Mean(nn.Module):
    def forward(self, waves: Tensor) -> Tensor:
        return waves.reshape(1, 4, -1).mean(dim=2)


class Steps(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return vectors.repeat_interleave(100, dim=1)


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("speaker_synthesiser", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "speaker_synthesiser", module)
    spec.loader.exec_module(module)
    return module


def test_a_local_folder_is_wrapped(example, tmp_path: Path, monkeypatch):
    torch.jit.script(Mean()).save(str(tmp_path / "encoder.pt"))
    torch.jit.script(Steps()).save(str(tmp_path / "synthesiser.pt"))
    monkeypatch.setenv("SYNTHESISER", str(tmp_path))
    wave = np.arange(400, dtype=np.float32) / 400
    vector = example.encoder.embed([wave])[0]
    assert np.allclose(vector, wave.reshape(4, 100).mean(axis=1))
    assert np.allclose(example.say(vector), np.repeat(vector, 100))


def test_a_folder_that_is_not_there_is_said(example, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("SYNTHESISER", raising=False)
    with pytest.raises(UserError, match=r"set SYNTHESISER to a folder that holds synthesiser\.pt"):
        example.say(np.zeros(4, np.float32))
