"""Frame encoders: what goes in and comes out, and weights from disk against torchaudio's own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.errors import UserError
from fl_privacy.models.checkpoints import read_checkpoint
from fl_privacy.models.cpc import CPCSize
from fl_privacy.models.frames import (
    FrameEncoder,
    encoder_of,
    load_frame_encoder,
    log_mel_encoder,
    peak_normalised,
    untrained_frame_encoder,
)
from fl_privacy.models.pretrained import load_module, make_module, save_module
from fl_privacy.models.torchaudio_ssl import BUNDLES
from fl_privacy.training.pretraining import Pretraining, pretrain

SIZES: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [[16, 10, 5], [16, 3, 40]],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 32,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 3,
    "encoder_num_heads": 4,
    "encoder_ff_interm_features": 64,
    "encoder_layer_norm_first": False,
}
FAMILIES = {"wav2vec2_model": SIZES, "wavlm_model": {**SIZES, "encoder_num_buckets": 32, "encoder_max_distance": 80}}


def wave(samples: int = 3000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def torchaudio_model(family: str = "wav2vec2_model", **changes: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        dropouts = dict.fromkeys(
            ["encoder_projection_dropout", "encoder_attention_dropout", "encoder_ff_interm_dropout", "encoder_dropout",
             "encoder_layer_drop"], 0.5,
        )  # fmt: skip
        made = getattr(torchaudio.models, family)(**{**FAMILIES[family], **dropouts, "aux_num_out": None, **changes})
        for layer in made.modules():
            if isinstance(layer, torch.nn.LayerNorm):  # such that leaving one out shows
                torch.nn.init.normal_(layer.weight, 1.0, 0.3)
    return made.eval()


# ------------------------------------------------------------------ encoders of one's own


def halves(heard: np.ndarray) -> np.ndarray:
    return heard[: len(heard) // 2 * 2].reshape(-1, 2)


def test_an_own_encoder_is_learnt_about_and_counts_its_queries() -> None:
    encoder = FrameEncoder.of_callable(halves, shortest=2, name="halves")
    assert (encoder.name, encoder.dim, encoder.hop, encoder.layers, encoder.layer, encoder.shortest) == (
        "halves", 2, 2, 1, -1, 2,
    )  # fmt: skip
    assert encoder.queries == 1
    frames = encoder(np.arange(5.0))
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames, [[0, 1], [2, 3]])
    assert FrameEncoder.of_callable(halves, dim=2, hop=2).queries == 0


def test_layers_are_read_one_at_a_time_or_all_at_once_and_views_count_together() -> None:
    calls: list[int] = []

    def three(heard: np.ndarray) -> list[torch.Tensor]:
        calls.append(len(heard))
        return [torch.from_numpy(halves(heard)) * k for k in (1, 2, 3)]

    encoder = FrameEncoder.of_callable(three, layers=3, dim=2, hop=2, shortest=1)
    first = encoder.at(0)
    np.testing.assert_array_equal(first(np.ones(4)), np.ones((2, 2)))
    np.testing.assert_array_equal(encoder(np.ones(4)), np.full((2, 2), 3))
    assert [float(frames[0, 0]) for frames in first.all_layers(np.ones(4))] == [1, 2, 3]
    assert (encoder.queries, first.queries, len(calls)) == (3, 3, 3)
    assert (encoder.layer, first.layer) == (-1, 0)
    for layer in (3, -4, 1.0, True):
        with pytest.raises(UserError, match="layer must be a whole number from -3 to 2"):
            encoder.at(layer)


def test_waves_are_resampled_for_encoders_that_expect_another_rate() -> None:
    heard: list[int] = []
    encoder = FrameEncoder.of_callable(
        lambda x: (heard.append(len(x)), np.ones((len(x) // 80, 3)))[1], sample_rate=8000, hop=160, dim=3
    )
    encoder(wave(16_000))
    assert heard == [8000]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.empty(0, np.float32), "an empty wave has no frame"),
        (np.zeros(399, np.float32), "a wave of 399 samples has no frame: one needs 400 samples"),
        (np.zeros((2, 4000), np.float32), r"not \(2, 4000\); average the channels first"),
        (np.zeros((4000, 2), np.float32), r"not \(4000, 2\); average the channels first"),
        (np.full(4000, np.nan, np.float32), "not finite numbers"),
        (np.zeros(4000, np.int16), "floating-point samples of full scale 1, not int16"),
    ],
)
def test_waves_that_are_none_are_refused_before_the_encoder_is_asked(bad: np.ndarray, message: str) -> None:
    encoder = FrameEncoder.of_callable(lambda x: pytest.fail("asked"), dim=2, hop=2, name="mine")
    with pytest.raises(UserError, match=f"mine: .*{message}"):
        encoder(bad)
    assert encoder.queries == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros(5), r"answer of shape \(5,\) to 500 samples; expected frames \(m, 2\)"),
        (np.zeros((5, 3)), r"answer of shape \(5, 3\)"),
        (np.zeros((0, 2)), r"answer of shape \(0, 2\)"),
        (np.array([[1.0, np.inf]]), "NaN or infinity"),
        ([np.zeros((5, 2))] * 2, "gave 2 layers; expected 1"),
        ("frames", "an answer that is no array of numbers"),
        (KeyError("x"), "mine failed on a wave of 500 samples: KeyError"),
    ],
)
def test_answers_that_are_no_frames_are_refused(answer: Any, message: str) -> None:
    def fn(heard: np.ndarray) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(UserError, match=message):
        FrameEncoder.of_callable(fn, dim=2, hop=2, name="mine")(wave(500))


def test_own_encoders_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="a function of a wave, not a int"):
        FrameEncoder.of_callable(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="hop must be positive, not 0"):
        FrameEncoder.of_callable(halves, dim=2, hop=0)


@given(st.lists(st.floats(-2, 2, width=32), max_size=20))
def test_peak_normalisation(samples: list[float]) -> None:
    given_ = np.array(samples, np.float32)
    found = peak_normalised(given_)
    assert found.dtype == np.float32 and found.shape == given_.shape
    if np.abs(given_).max(initial=0) > 1e-30:
        np.testing.assert_allclose(np.abs(found).max(), 1, rtol=1e-6)
        np.testing.assert_allclose(found * np.abs(given_).max(), given_, rtol=1e-5, atol=1e-7)
    elif not given_.any():
        np.testing.assert_array_equal(found, given_)


# ------------------------------------------------------------------ torchaudio's


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first", [False, True])
def test_every_layer_is_torchaudios_and_the_last_is_the_encoders_output(
    tmp_path: Path, family: str, first: bool
) -> None:
    sizes = {"encoder_layer_norm_first": first, "extractor_mode": "layer_norm" if first else "group_norm"}
    model = torchaudio_model(family, **sizes)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    encoder = load_frame_encoder(tmp_path / "tiny.pt", family, parameters={**FAMILIES[family], **sizes})
    assert (encoder.dim, encoder.hop, encoder.layers, encoder.shortest) == (32, 200, 3, 20)
    with torch.no_grad():
        batch = torch.from_numpy(wave())[None]
        expected = [layer[0] for layer in model.extract_features(batch)[0]]
        expected[-1] = model(batch)[0][0]  # behind the final normalisation, where there is one
    for found, want in zip(encoder.all_layers(wave()), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    for layer in (0, 1, 2, -1):
        np.testing.assert_allclose(encoder.at(layer)(wave()), expected[layer], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="19 samples has no frame: one needs 20"):
        encoder(wave(19))


def test_the_wave_is_normalised_where_the_architecture_asks(tmp_path: Path) -> None:
    sizes = {**SIZES, "extractor_mode": "layer_norm", "extractor_conv_bias": True}
    model = torchaudio_model(**{k: v for k, v in sizes.items() if k.startswith("extractor")})
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    loud = 3 * wave() + 0.2
    scaled = ((loud - loud.mean()) / loud.std()).astype(np.float32)
    plain, normal = (
        load_frame_encoder(tmp_path / "tiny.pt", "wav2vec2_model", -1, sizes, normalise) for normalise in (None, True)
    )
    np.testing.assert_allclose(normal(loud), plain(scaled), atol=1e-4)
    assert np.abs(plain(loud) - plain(scaled)).max() > 1e-2


def test_bundles_are_torchaudios() -> None:
    for name, (architecture, file) in BUNDLES.items():
        bundle = getattr(torchaudio.pipelines, name)
        assert bundle._path == file
        if name not in ("WAV2VEC2_XLSR53", "WAVLM_BASE"):  # tests of the features hold the others against theirs
            continue
        with torch.device("meta"):
            model = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}[
                bundle._model_type
            ](**bundle._params)
            ours = getattr(torchaudio.models, architecture)()
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        assert {key: value.shape for key, value in ours.state_dict().items()} == shapes


def test_what_is_no_such_encoder_is_refused_and_the_first_difference_named(tmp_path: Path) -> None:
    torch.save(torchaudio_model().state_dict(), tmp_path / "tiny.pt")
    path = tmp_path / "tiny.pt"
    with pytest.raises(UserError, match=r"tiny.pt is no state dict of wavlm_model: it lacks .* such as encoder\.tran"):
        load_frame_encoder(path, "wavlm_model", parameters=FAMILIES["wavlm_model"])
    with pytest.raises(UserError, match=r"conv_layers\.0\.layer_norm\.weight: of shape \[16\] in the file, of \[8\]"):
        sizes = {**SIZES, "extractor_conv_layer_config": [[8, 10, 5], [8, 3, 40]]}
        load_frame_encoder(path, "wav2vec2_model", parameters=sizes)
    with pytest.raises(UserError, match=r"of shape \[16\] in the file, of \[512\] in the model"):
        load_frame_encoder(path, "hubert_base")
    with pytest.raises(UserError, match="was not written by .*its first key is 'feature_extractor"):
        load_frame_encoder(path, "tera")
    save_module(make_module("cpc"), tmp_path / "own.pt")
    pretrain([wave(4000)] * 2, ["a", "b"], Pretraining("cpc", CPCSize(4), 1, 2), 1, checkpoint=tmp_path / "half.pt")
    with pytest.raises(UserError, match=r"half.pt is a pre-training under way \(step 1\): give what it ends in"):
        load_frame_encoder(tmp_path / "half.pt", "cpc")
    with pytest.raises(UserError, match="holds a cpc; give architecture = 'cpc'"):
        load_frame_encoder(tmp_path / "own.pt", "tera")
    with pytest.raises(UserError, match="something other than named arrays"):
        load_frame_encoder(tmp_path / "own.pt", "hubert_base")
    for architecture, message in [
        ("hubert", "unknown architecture. Known: tera, cpc, wav2vec2_base"),
        ("no.such:thing", "no module 'no'"),
        ("builtins:str", "returned a str, not a FrameEncoder"),
    ]:
        with pytest.raises(UserError, match=message):
            load_frame_encoder(path, architecture)
    with pytest.raises(UserError, match="name a checkpoint, or one of the bundles WAV2VEC2_BASE"):
        load_frame_encoder(None, "hubert_base")
    with pytest.raises(UserError, match="cannot be read .*nothing is downloaded"):
        load_frame_encoder(tmp_path / "gone.pt", "cpc")


class Spy:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code was run",))


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"format": 1, "state": Spy()}, tmp_path / "trap.pt")
    for architecture in ("tera", "hubert_base"):
        with pytest.raises(UserError, match="is no state dict"):
            load_frame_encoder(tmp_path / "trap.pt", architecture)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "trap.pt", "x")
    assert "code was run" not in capsys.readouterr().out


# ------------------------------------------------------------------ our own, untrained ones, controls


@pytest.mark.parametrize("kind", ["tera", "cpc"])
def test_our_own_are_written_and_read(tmp_path: Path, kind: str) -> None:
    module = make_module(kind)
    module.record = {"crop_seconds": 1.5}
    save_module(module, tmp_path / "own.pt")
    again = load_frame_encoder(tmp_path / "own.pt", kind)
    np.testing.assert_array_equal(again(wave()), encoder_of(module)(wave()))
    assert load_module(tmp_path / "own.pt").record == {"crop_seconds": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["own.pt"]
    with pytest.raises(UserError, match="sizes are in its checkpoint"):
        load_frame_encoder(tmp_path / "own.pt", kind, parameters={"width": 3})


@pytest.mark.parametrize(
    ("architecture", "more"), [("tera", {}), ("cpc", {}), ("wav2vec2_model", {"parameters": SIZES})]
)
def test_untrained_encoders_are_those_of_their_seed(architecture: str, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (untrained_frame_encoder(architecture, seed, **more)(wave()) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_one_wave_is_read_alike_whatever_was_read_before() -> None:
    for encoder in (untrained_frame_encoder("tera", 1), untrained_frame_encoder("cpc", 1), log_mel_encoder()):
        alone = encoder(wave(5000, 7))
        encoder(wave(9000, 8))
        np.testing.assert_array_equal(encoder(wave(5000, 7)), alone)


def test_sizes_that_are_unknown_are_named() -> None:
    with pytest.raises(UserError, match="size is 'huge'. Known: small, published, or a TERASize"):
        make_module("tera", "huge")
    with pytest.raises(UserError, match="unknown self-supervised model 'apc'. Known: tera, cpc"):
        make_module("apc")
