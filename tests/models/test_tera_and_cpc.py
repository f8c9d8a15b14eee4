"""TERA, CPC and their front end against slow and foreign versions of themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchaudio
from torch import nn

from fl_privacy.errors import UserError
from fl_privacy.models.cpc import CPC, ChannelNorm, CPCSize, Predictor
from fl_privacy.models.cpc import PUBLISHED as CPC_PUBLISHED
from fl_privacy.models.cpc import SMALL as CPC_SMALL
from fl_privacy.models.log_mel import log_mel, normalised_log_mel
from fl_privacy.models.tera import PUBLISHED, SMALL, TERA, TERASize, _positions


def waves(n: int = 1, samples: int = 4000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n, samples, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_log_mel_frames_are_a_slow_discrete_fourier_transform() -> None:
    wave = waves(samples=1000)[0].double().numpy()
    padded = np.concatenate([wave[200:0:-1], wave, wave[-2:-202:-1]])
    n = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82) / 2595) - 1)
    expected = []
    for start in range(0, len(padded) - 399, 160):
        heard = padded[start : start + 400] * window
        power = [abs(np.sum(heard * np.exp(-2j * np.pi * k * n / 400))) ** 2 for k in range(201)]
        row = []
        for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
            weights = [
                max(0.0, min((40 * k - low) / (middle - low), (high - 40 * k) / (high - middle))) for k in range(201)
            ]
            row.append(np.log(np.dot(weights, power) + 1e-10))
        expected.append(row)
    np.testing.assert_allclose(log_mel(torch.from_numpy(wave).float()[None])[0], expected, rtol=1e-3, atol=1e-3)


def test_log_mel_frames_are_torchaudios() -> None:
    spectrogram = torchaudio.transforms.MelSpectrogram(16_000, n_fft=400, hop_length=160, n_mels=80)
    expected = torch.log(spectrogram(waves(2, 16_000)) + 1e-10).transpose(1, 2)
    torch.testing.assert_close(log_mel(waves(2, 16_000)), expected, rtol=1e-3, atol=1e-3)


def test_teras_frames_have_mean_0_and_variance_1_and_know_no_loudness() -> None:
    frames = normalised_log_mel(waves(2, 8000))
    torch.testing.assert_close(frames.mean(1), torch.zeros(2, 80), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.std(1), torch.ones(2, 80), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised_log_mel(0.01 * waves(2, 8000)), frames, atol=1e-2, rtol=0)
    assert normalised_log_mel(torch.zeros(1, 8000)).abs().max() < 1


def test_tera_has_the_published_number_of_parameters() -> None:
    def count(d: int, layers: int, wide: int) -> int:
        layer = 4 * (d * d + d) + (d * wide + wide) + (wide * d + d) + 2 * 2 * d
        return (80 * d + d) + 2 * d + layers * layer + (d * d + d) + 2 * d + (80 * d + 80)

    with torch.device("meta"):
        assert parameters(TERA(PUBLISHED)) == count(768, 3, 3072) == 21_981_008
    assert parameters(TERA(SMALL)) == count(128, 3, 512)


@pytest.mark.parametrize("heads", [1, 4])
def test_teras_layers_are_torchs(heads: int) -> None:
    torch.manual_seed(0)
    model = TERA(TERASize(32, 2, heads, 48)).eval()
    x = torch.randn(3, 20, 32)
    for layer in model.layers:
        for name, p in layer.named_parameters():
            if "norm" in name:
                nn.init.normal_(p, 0.5, 0.3)
        theirs = nn.TransformerEncoderLayer(32, heads, 48, 0.0, "gelu", 1e-12, batch_first=True)
        names = {
            "self_attn.in_proj_": "attention.", "self_attn.out_proj.": "out.", "linear1.": "wide.",
            "linear2.": "narrow.", "norm1.": "attention_norm.", "norm2.": "norm.",
        }  # fmt: skip
        own = layer.state_dict()
        theirs.load_state_dict({a + kind: own[b + kind] for a, b in names.items() for kind in ("weight", "bias")})
        torch.testing.assert_close(layer(x), theirs.train()(x), rtol=1e-4, atol=1e-5)


def test_teras_positions_are_sinusoids() -> None:
    found = _positions(7, 6)
    for p in range(7):
        for k in range(6):
            angle = p / 10_000 ** (2 * (k // 2) / 6)
            assert found[p, k] == pytest.approx(math.cos(angle) if k % 2 else math.sin(angle), abs=1e-6)


def test_tera_starts_as_published_and_reads_as_many_layers_as_asked() -> None:
    torch.manual_seed(0)
    model = TERA(SMALL).eval()
    weights = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Linear)])
    assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.02)
    frames = normalised_log_mel(waves())
    one, all_ = model.hidden(frames, 1), model.hidden(frames)
    assert (len(one), len(all_), model.depth) == (1, 3, 3)
    assert torch.equal(one[0], all_[0])
    assert model(frames).shape == frames.shape


def test_cpc_has_the_published_number_of_parameters() -> None:
    def count(c: int) -> int:
        convolutions = (10 * c + c) + (8 * c * c + c) + 3 * (4 * c * c + c) + 5 * 2 * c
        return convolutions + 4 * (2 * c * c + 2 * c)

    transformer = 4 * 256 * 256 + 2 * 2 * 256 + (256 * 2048 + 2048) + (2048 * 256 + 256) + 32 * 116
    with torch.device("meta"):
        assert parameters(CPC(CPC_PUBLISHED)) == count(256) + 12 * transformer
        assert parameters(CPC(CPCSize(256))) == count(256) + 12 * 256 * 256 == 2_629_888
    assert parameters(CPC(CPC_SMALL)) == count(64) + 12 * 64 * 64 == 165_952


def test_channel_norm_is_by_moment_and_unbiased() -> None:
    torch.manual_seed(0)
    norm = ChannelNorm(5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 1, 7) * 3 + 1
    found = norm(x)
    for n in range(2):
        for t in range(7):
            column = x[n, :, 0, t].double()
            scaled = (column - column.sum() / 5) / (((column - column.sum() / 5) ** 2).sum() / 4 + 1e-5).sqrt()
            torch.testing.assert_close(
                found[n, :, 0, t].double(), scaled * norm.weight + norm.bias, rtol=1e-5, atol=1e-6
            )


def test_cpc_makes_128_frames_of_a_published_crop_that_see_465_samples_each() -> None:
    torch.manual_seed(0)
    model = CPC(CPC_SMALL).eval()
    assert (model.hop, model.shortest) == (160, 465)
    wave = waves(1, 20_480)
    with torch.no_grad():
        frames, contexts = model.encode(wave)
        assert frames.shape == contexts.shape == (1, 128, 64)
        changed = wave.clone()
        changed[0, 8000:] += 0.1
        other_frames, other_contexts = model.encode(changed)
    first = int(torch.nonzero((frames != other_frames).any(2)[0])[0])
    # The convolutions' padding shifts a frame's field to the left; contexts look back alone.
    assert first * 160 < 8000 <= first * 160 + 465
    assert torch.equal(contexts[:, :first], other_contexts[:, :first])
    assert not torch.equal(contexts[:, first:], other_contexts[:, first:])


def test_the_first_convolution_is_torchs_over_time() -> None:
    torch.manual_seed(0)
    model = CPC(CPC_SMALL)
    x = waves(2, 3000)
    for n, (stride, padding) in enumerate([(5, 3), (4, 2), (2, 1), (2, 1), (2, 1)]):
        convolution = model.encoder[3 * n]
        x = x[:, None] if x.ndim == 2 else x
        y = nn.functional.conv1d(x, convolution.weight[:, :, 0], convolution.bias, stride, padding)
        torch.testing.assert_close(convolution(x[:, :, None])[:, :, 0], y, rtol=1e-4, atol=1e-5)
        variance, mean = torch.var_mean(y, 1, keepdim=True)
        x = torch.relu((y - mean) / torch.sqrt(variance + 1e-5))
    torch.testing.assert_close(model.encode(waves(2, 3000))[0], x.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_linear_predictors_are_one_matrix_a_step() -> None:
    torch.manual_seed(0)
    model = CPC(CPCSize(8)).eval()
    predictions, frames = model(waves(2, 4000))
    _, contexts = model.encode(waves(2, 4000))
    assert predictions.shape == (2, 25 - 12, 12, 8) and frames.shape == (2, 25, 8)
    for step, matrix in enumerate(model.predictors.weight.split(8)):
        torch.testing.assert_close(predictions[:, :, step], contexts[:, :-12] @ matrix.T)


def test_a_transformer_predictor_is_its_formula() -> None:
    torch.manual_seed(0)
    predictor = Predictor(16, 24).eval()
    x = torch.randn(1, 9, 16)
    q, k, v = (layer(x)[0].view(9, 8, 2) for layer in (predictor.query, predictor.key, predictor.value))
    seen = torch.zeros(9, 8, 2)
    for h in range(8):
        for i in range(9):
            scores = [
                (q[i, h] @ k[j, h] + q[i, h] @ predictor.distance.weight[:, i - j]) / math.sqrt(2) for j in range(i + 1)
            ]
            weights = torch.softmax(torch.stack(scores), 0)
            seen[i, h] = sum(w * v[j, h] for j, w in enumerate(weights))
    y = nn.functional.layer_norm(x[0] + seen.reshape(9, 16) @ predictor.out.weight.T, (16,))
    z = nn.functional.layer_norm(y + predictor.narrow(torch.relu(predictor.wide(y))), (16,))
    torch.testing.assert_close(predictor(x)[0], z, rtol=1e-4, atol=1e-5)


def test_transformer_predictors_take_longer_waves_in_blocks() -> None:
    torch.manual_seed(0)
    model = CPC(CPCSize(8, "transformer", 16)).eval()
    contexts = model.encode(waves(1, 160 * 200))[1][:, :-12]
    predictions, _ = model(waves(1, 160 * 200))
    assert predictions.shape == (1, 188, 12, 8)
    torch.testing.assert_close(predictions[:, 116:, 3], model.predictors[3](contexts[:, 116:]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TERASize(130, 3, 4, 512), "a multiple of heads; got 130 and 4"),
        (lambda: TERASize(128, 0, 4, 512), "layers must be positive"),
        (lambda: TERASize(128, 3, 4, 512, 1.0), "dropout must be from 0 to below 1"),
        (lambda: CPCSize(64, "lstm"), "predictors is 'lstm'. Known: linear, transformer"),  # type: ignore[arg-type]
        (lambda: CPCSize(12, "transformer"), "8 heads, which do not divide 12"),
        (lambda: CPCSize(1), "channels must be at least 2"),
    ],
)
def test_impossible_sizes_are_refused(make, message) -> None:
    with pytest.raises(UserError, match=message):
        make()
