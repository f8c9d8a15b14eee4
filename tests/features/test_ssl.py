from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.corpora import AudioError, Corpus
from fl_privacy.features import FeatureError, extract, load_extractor
from fl_privacy.features.ssl import SSL
from fl_privacy.models.torchaudio_ssl import ARCHITECTURES

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
# Dropout that would show, were it not off.
DROPOUTS = dict.fromkeys(
    ["encoder_projection_dropout", "encoder_attention_dropout", "encoder_ff_interm_dropout", "encoder_dropout",
     "encoder_layer_drop"], 0.5,
)  # fmt: skip
BUCKETS = {"encoder_num_buckets": 32, "encoder_max_distance": 80}
FAMILIES = {"wav2vec2_model": SIZES, "wavlm_model": {**SIZES, **BUCKETS}}
SHORTEST = 20  # a frame is 3 steps of 5 samples and a kernel of 10

Make = Callable[..., Any]


def reference(family: str = "wav2vec2_model", seed: int = 0, **changes: Any) -> torchaudio.models.Wav2Vec2Model:
    """The model as torchaudio makes it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {**FAMILIES[family], **DROPOUTS, "aux_num_out": None, **changes}
        return getattr(torchaudio.models, family)(**sizes).eval()


def expected(model: torchaudio.models.Wav2Vec2Model, wave: np.ndarray, layer: int = -1) -> np.ndarray:
    with torch.no_grad():
        frames = model.extract_features(torch.from_numpy(wave)[None])[0][layer][0]
    return frames.double().mean(dim=0).numpy()


def wave(samples: int = 3000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ssl") / "tiny.pt"
    torch.save(reference().state_dict(), path)
    return path


def tiny(path: Path, **changes: Any) -> SSL:
    return SSL(**{"checkpoint": path, "architecture": "wav2vec2_model", "parameters": {**SIZES, **DROPOUTS}, **changes})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first", [False, True])
def test_it_is_the_mean_of_torchaudios_frames(tmp_path: Path, family: str, first: bool) -> None:
    sizes = {"encoder_layer_norm_first": first, "extractor_mode": "layer_norm" if first else "group_norm"}
    model = reference(family, **sizes)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    for layer in (-1, 0, 1, 2, -3):
        extractor = load_extractor(
            "ssl",
            checkpoint=str(tmp_path / "tiny.pt"),
            architecture=family,
            layer=layer,
            parameters={**FAMILIES[family], **DROPOUTS, **sizes},
        )
        values = extractor(wave())
        assert (values.dtype, values.shape, extractor.dimension) == (np.float32, (32,), 32)
        np.testing.assert_allclose(values, expected(model, wave(), layer), rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(0, 4000), seed=st.integers(0, 9))
def test_waves_of_any_length(checkpoint: Path, samples: int, seed: int) -> None:
    extractor = tiny(checkpoint)
    if samples < SHORTEST:
        with pytest.raises(AudioError, match=f"{samples} samples, fewer than the 20 that a frame .* needs"):
            extractor(wave(samples, seed))
        with pytest.raises((RuntimeError, ValueError)):  # torchaudio cannot do it either
            expected(reference(), wave(samples, seed))
    else:
        found = extractor(wave(samples, seed))
        np.testing.assert_allclose(found, expected(reference(), wave(samples, seed)), rtol=1e-5, atol=1e-5)


def test_silence_has_features(checkpoint: Path) -> None:
    for normalise in (False, True):
        assert np.isfinite(tiny(checkpoint, normalise_waveform=normalise)(np.zeros(900, np.float32))).all()


def test_one_convolution_needs_two_steps_to_normalise_over(tmp_path: Path) -> None:
    sizes = {**SIZES, **DROPOUTS, "extractor_conv_layer_config": [[16, 10, 5]]}
    torch.save(reference(extractor_conv_layer_config=[[16, 10, 5]]).state_dict(), tmp_path / "one.pt")
    extractor = SSL(tmp_path / "one.pt", "wav2vec2_model", parameters=sizes)
    assert np.isfinite(extractor(wave(15))).all()
    with pytest.raises(AudioError, match="14 samples, fewer than the 15"):
        extractor(wave(14))


def test_the_wave_is_normalised_where_asked(tmp_path: Path) -> None:
    sizes = {"extractor_mode": "layer_norm", "extractor_conv_bias": True}  # the other kind does not mind the loudness
    model = reference(**sizes)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    loud = 3 * wave() + 0.2
    scaled = ((loud - loud.mean(dtype=np.float64)) / np.sqrt(loud.var(dtype=np.float64) + 1e-5)).astype(np.float32)
    for normalise, heard in [(True, scaled), (False, loud), (None, loud)]:
        extractor = tiny(tmp_path / "tiny.pt", parameters={**SIZES, **sizes}, normalise_waveform=normalise)
        np.testing.assert_allclose(extractor(loud), expected(model, heard), rtol=1e-4, atol=1e-4)
    assert np.abs(expected(model, scaled) - expected(model, loud)).max() > 1e-2


def test_the_same_bytes_every_time_and_no_touch_on_random_numbers(checkpoint: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = tiny(checkpoint)
    values = first(wave())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert tiny(checkpoint)(wave()).tobytes() == first(wave()).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {f"model.{name}": value for name, value in state.items()},
        lambda state: {**state, "aux.weight": torch.zeros(5, 32), "aux.bias": torch.zeros(5)},
        lambda state: {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): value
            for name, value in state.items()
        },
    ],
    ids=["wrapped", "with a head", "names of older torch"],
)
def test_other_state_dicts_of_the_same_weights(checkpoint: Path, tmp_path: Path, change: Make) -> None:
    state = torch.load(checkpoint, weights_only=True)
    changed = change(dict(state))
    assert set(changed) != set(state)
    torch.save(changed, tmp_path / "other.pt")
    assert tiny(tmp_path / "other.pt")(wave()).tobytes() == tiny(checkpoint)(wave()).tobytes()


def test_half_precision_weights_are_computed_with_as_single(checkpoint: Path, tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in torch.load(checkpoint, weights_only=True).items()}
    torch.save(halves, tmp_path / "half.pt")
    model = reference()
    model.load_state_dict(halves)
    np.testing.assert_allclose(tiny(tmp_path / "half.pt")(wave()), expected(model, wave()), rtol=1e-5, atol=1e-5)


BUNDLES = {
    "wav2vec2_base": "WAV2VEC2_BASE",
    "wav2vec2_large": "WAV2VEC2_LARGE",
    "wav2vec2_large_lv60k": "WAV2VEC2_LARGE_LV60K",
    "wav2vec2_xlsr_300m": "WAV2VEC2_XLSR_300M",
    "wav2vec2_xlsr_1b": "WAV2VEC2_XLSR_1B",
    "wav2vec2_xlsr_2b": "WAV2VEC2_XLSR_2B",
    "hubert_base": "HUBERT_BASE",
    "hubert_large": "HUBERT_LARGE",
    "hubert_xlarge": "HUBERT_XLARGE",
    "wavlm_base": "WAVLM_BASE_PLUS",
    "wavlm_large": "WAVLM_LARGE",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_are_those_of_the_bundles(architecture: str, checkpoint: Path) -> None:
    bundle = getattr(torchaudio.pipelines, BUNDLES[architecture])
    family = {"Wav2Vec2": "wav2vec2_model", "WavLM": "wavlm_model"}[bundle._model_type]
    with torch.device("meta"):
        wanted = getattr(torchaudio.models, family)(**bundle._params).state_dict()
    extractor = SSL(checkpoint, architecture)
    assert {k: v.shape for k, v in extractor._empty.state_dict().items()} == {k: v.shape for k, v in wanted.items()}
    assert extractor._normalise == bundle._normalize_waveform
    assert extractor.dimension == bundle._params["encoder_embed_dim"]
    assert extractor._shortest == 400


def test_a_published_size_is_loaded_and_run(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchaudio.models.hubert_base().state_dict().items()}
    # Every array a repeated number: 95 million weights in a small file.
    weights = {name: torch.full((1,), 0.02 + 1e-4 * n).expand(shape) for n, (name, shape) in enumerate(shapes.items())}
    torch.save(weights, tmp_path / "hubert.pt")
    model = torchaudio.models.hubert_base().eval()
    model.load_state_dict(weights)
    found = load_extractor("ssl", checkpoint=tmp_path / "hubert.pt", architecture="hubert_base")(wave(4000))
    assert found.shape == (768,)
    np.testing.assert_allclose(found, expected(model, wave(4000)), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "wav2vec3"}, "unknown architecture 'wav2vec3'. Known: wav2vec2_base, .*wavlm_model"),
        ({"architecture": "__name__"}, "unknown architecture"),
        ({"architecture": "hubert_base"}, "parameters go with wav2vec2_model and wavlm_model, not with hubert_base"),
        ({"layer": 3}, "layer must be a whole number from -3 to 2, not 3"),
        ({"layer": -4}, "from -3 to 2, not -4"),
        ({"layer": True}, "from -3 to 2, not True"),
        ({"layer": 1.0}, "from -3 to 2, not 1.0"),
        ({"parameters": None}, "the parameters lack wav2vec2_model's encoder_embed_dim, .*extractor_mode"),
        ({"parameters": {**SIZES, "depth": 3}}, "do not go with wav2vec2_model's depth"),
        ({"parameters": [1, 2]}, r"parameters must be a table of names and values, not \[1, 2\]"),
        ({"parameters": {**SIZES, "encoder_num_heads": 5}}, "cannot be made of these parameters: .*5"),
        ({"parameters": {**SIZES, "extractor_mode": "no_norm"}}, "cannot be made of these parameters"),
        ({"normalise_waveform": "yes"}, "normalise_waveform must be true or false, not 'yes'"),
        ({"checkpoint": 3}, "checkpoint must be the path of a file, not 3"),
        ({"checkpoint": "/nowhere/model.pt"}, "/nowhere/model.pt cannot be read .*nothing is downloaded"),
        ({"checkpoint": "/"}, "/ cannot be read"),
    ],
)
def test_wrong_options_are_named(checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        tiny(checkpoint, **changes)


def test_options_are_asked_for_and_known() -> None:
    with pytest.raises(FeatureError, match="missing a required argument: 'checkpoint'. Its options: checkpoint, archi"):
        load_extractor("ssl")
    with pytest.raises(FeatureError, match="unexpected keyword argument 'size'. Its options: checkpoint"):
        load_extractor("ssl", checkpoint="x", architecture="hubert_base", size=3)


class Trap:
    """What a hostile checkpoint holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda state: {k: v for k, v in state.items() if "layers.2" not in k}, r"lacks 16 arrays, such as encoder\."),
        (lambda state: {**state, "quantizer.weight": torch.zeros(2)}, "beyond the model, 1 array, such as quantizer"),
        (
            lambda state: {**state, "encoder.feature_projection.projection.weight": torch.zeros(7, 16)},
            r"no state dict of wav2vec2_model: encoder\.feature_projection\.projection\.weight: .*\[7, 16\].*\[32, 16\]",
        ),
        (lambda state: {"model": dict(state), "cfg": {"layers": 3}}, r"named arrays \(its first keys: model, cfg\)"),
        (lambda state: list(state.values()), "holds something other than named arrays"),
        (lambda state: torch.nn.Linear(2, 2), r"is no state dict: give what .* \(it holds objects, .*could run code"),
        (lambda state: Trap(), "is no state dict: give what"),
    ],
    ids=["too few", "too many", "another size", "of another kit", "a list", "a module", "a trap"],
)
def test_other_checkpoints_are_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Make, message: str
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    torch.save(content(torch.load(checkpoint, weights_only=True)), tmp_path / "other.pt")
    with pytest.raises(FeatureError, match=message) as refusal:
        tiny(tmp_path / "other.pt")(wave())
    assert str(tmp_path / "other.pt") in str(refusal.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"hello", "it is no such file"),
        (b"PK\3\4 but no archive", "it was cut off"),
        (bytes(1000), "it is no such file"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "other.pt").write_bytes(content)
    with pytest.raises(FeatureError, match=rf"other\.pt is no state dict: give what torch\.save.*\({why}") as refusal:
        tiny(tmp_path / "other.pt")(wave())
    assert "weights_only" not in str(refusal.value), "torch recommends to run the code of the file"


def test_a_truncated_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    (tmp_path / "part.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeatureError, match="is no state dict"):
        tiny(tmp_path / "part.pt")(wave())


def test_a_checkpoint_that_changes_before_it_is_loaded_is_noticed(tmp_path: Path) -> None:
    torch.save(reference().state_dict(), tmp_path / "tiny.pt")
    extractor = tiny(tmp_path / "tiny.pt")
    torch.save(reference(seed=1).state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(FeatureError, match="was changed while in use"):
        extractor(wave())


# ------------------------------------------------------------------ the cache and the pool


def options(path: Path, **changes: Any) -> dict[str, Any]:
    return {"checkpoint": str(path), "architecture": "wav2vec2_model", "parameters": SIZES, **changes}


def test_the_cache_knows_the_checkpoints_bytes_and_the_options(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.pt"
    torch.save(reference().state_dict(), path)
    calls = []
    compute = SSL.__call__
    monkeypatch.setattr(SSL, "__call__", lambda self, wave, /: (calls.append(1), compute(self, wave))[1])

    first = extract(corpus, "ssl", options(path), processes=1).values
    assert len(calls) == len(corpus)
    os.utime(path, (0, 0))  # its age does not matter
    assert extract(corpus, "ssl", options(path), processes=1).values.tobytes() == first.tobytes()
    assert len(calls) == len(corpus)

    torch.save(reference(seed=1).state_dict(), path)
    second = extract(corpus, "ssl", options(path), processes=1).values
    assert len(calls) == 2 * len(corpus)
    third = extract(corpus, "ssl", options(path, layer=0), processes=1).values
    assert len(calls) == 3 * len(corpus)
    for utterance, *rows in zip(corpus, first, second, third, strict=True):
        wanted = [(reference(), -1), (reference(seed=1), -1), (reference(seed=1), 0)]
        for row, (model, layer) in zip(rows, wanted, strict=True):
            np.testing.assert_allclose(row, expected(model, corpus.wave(utterance), layer), rtol=1e-4, atol=1e-4)


def test_every_setting_is_part_of_the_version(checkpoint: Path) -> None:
    same = {
        tiny(checkpoint).version,
        tiny(checkpoint, layer=2).version,
        tiny(checkpoint, normalise_waveform=False).version,
    }
    assert len(same) == 1
    others = {
        tiny(checkpoint, layer=0).version,
        tiny(checkpoint, normalise_waveform=True).version,
        tiny(checkpoint, parameters={**SIZES, "encoder_num_heads": 2}).version,
    }
    assert len(others | same) == 4


def test_workers_get_the_options(
    corpus: Corpus,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_bytes = extract(corpus, "ssl", options(checkpoint), processes=1).values.tobytes()
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "other"))
    assert extract(corpus, "ssl", options(checkpoint), processes=2).values.tobytes() == expected_bytes
    assert "worker processes died" not in caplog.text  # this process would have done their work


def test_too_short_a_recording_is_left_out(checkpoint: Path, tmp_path: Path) -> None:
    for name, samples in [("a/1", 3000), ("a/2", 19), ("b/1", 20)]:
        path = tmp_path / "voices" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(path), wave(samples), 16_000)
    table = extract(Corpus.from_folder(tmp_path / "voices"), "ssl", options(checkpoint))
    assert [utterance.id for utterance in table.corpus] == ["a/1.wav", "b/1.wav"]
    assert [(e.item, e.reason) for e in table.corpus.excluded] == [
        ("a/2.wav", "19 samples, fewer than the 20 that a frame of wav2vec2_model needs")
    ]
