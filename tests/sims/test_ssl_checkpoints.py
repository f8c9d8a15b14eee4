"""Checkpoints of wav2vec 2.0, HuBERT and WavLM with random weights, attacked from their files to the claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from fl_privacy.attacks.membership.ssl.look import look_at
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.errors import UserError
from fl_privacy.models.frames import load_frame_encoder
from fl_privacy.sims.run import run

SIZES: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [[8, 10, 5], [8, 3, 16]],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_ff_interm_features": 24,
    "encoder_layer_norm_first": False,
}
BUCKETS = {"encoder_num_buckets": 32, "encoder_max_distance": 80}
REST = dict.fromkeys(
    ["encoder_projection_dropout", "encoder_attention_dropout", "encoder_ff_interm_dropout", "encoder_dropout",
     "encoder_layer_drop"], 0.1,
) | {"aux_num_out": None}  # fmt: skip


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("librispeech"), np.random.default_rng(1)
    for subset, people in (("train-clean-100", range(20, 26)), ("dev-clean", range(40, 52))):
        for person in people:
            folder = root / subset / str(person) / "7"
            folder.mkdir(parents=True)
            for number in range(3):
                noise = 0.1 * rng.standard_normal(8000 + int(rng.integers(3000)))
                soundfile.write(str(folder / f"{person}-7-{number:04d}.flac"), noise, 16_000)
    return root


@pytest.mark.parametrize("family", ["wav2vec2_model", "wavlm_model"])
def test_a_checkpoint_file_is_attacked_end_to_end(librispeech: Path, tmp_path: Path, family: str) -> None:
    sizes = SIZES | (BUCKETS if family == "wavlm_model" else {})
    torch.manual_seed(0)
    torch.save(getattr(torchaudio.models, family)(**sizes, **REST).state_dict(), tmp_path / "tiny.pt")
    content = {
        "simulation": {"kind": "ssl-membership"},
        "target": {"checkpoint": str(tmp_path / "tiny.pt"), "architecture": family, "parameters": sizes},
        "members": {"corpus": "librispeech", "root": str(librispeech), "options": {"subsets": ["train-clean-100"]}},
        "nonmembers": {"corpus": "librispeech", "root": str(librispeech), "options": {"subsets": ["dev-clean"]}},
        "protocol": {"name": "tseng2022", "seconds": 0.4},
        "improved": {"epochs": 2},
        "controls": {"random_seeds": 2},
        "attack": [{"name": "basic"}, {"name": "improved"}],
        "audit": {"permutations": 19},
    }
    out = run(content, out=tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    claims = [c for c in result["claims"] if c["metric"] == "auc" and c["protocol"] == "one encoder"]
    assert {(c["attack"], c["unit"]) for c in claims} >= {
        (attack, unit) for attack in ("basic", "improved") for unit in ("utterance", "speaker")
    }
    assert all(c["low"] < c["value"] < c["high"] or c["value"] in (0.0, 1.0) for c in claims if c["low"] is not None)
    assert result["queries"] > 0
    assert any(c["control"] == "random-encoder" for c in result["controls"])


def test_hubert_of_full_size_is_attacked_from_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "hubert_fairseq_base_ls960.pth"
    with pytest.raises(UserError, match=f"holds no {place}; nothing is downloaded. Put the file there"):
        load_frame_encoder(None, "HUBERT_BASE")
    place.parent.mkdir(parents=True)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchaudio.models.hubert_base().state_dict().items()}
    # Every array a repeated row: 95 million weights in a small file.
    torch.manual_seed(0)
    weights = {name: 0.02 * torch.randn(shape[-1:]).expand(shape) for name, shape in shapes.items()}
    torch.save(weights, place)
    encoder = load_frame_encoder(None, "HUBERT_BASE")
    assert (encoder.name, encoder.dim, encoder.hop, encoder.layers, encoder.shortest) == (
        "HUBERT_BASE", 768, 320, 12, 400,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    waves = {f"{speaker}{n}": rng.normal(0, 0.1, 4000).astype(np.float32) for speaker in "abcde" for n in range(2)}
    own = {speaker: [f"{speaker}0", f"{speaker}1"] for speaker in "abcd"}
    look = look_at(encoder.all_layers, waves, list(waves), own, learning=Learning(epochs=1))
    assert look.basic.shape == (10, 12) and look.means.shape == (10, 12, 768) and look.left_out == {}
    assert np.isfinite(look.improved).all() and encoder.queries == 10
    assert encoder(waves["a0"]).shape == ((4000 - 400) // 320 + 1, 768)
