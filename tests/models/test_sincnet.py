"""SincNet against slow versions of its parts, and files of classifiers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fl_privacy.errors import UserError
from fl_privacy.models._frozen import peaks
from fl_privacy.models.classifier import SpeakerClassifier, load_classifier
from fl_privacy.models.sincnet import PUBLISHED, SIZES, SMALL, AxisNorm, SincConv, SincNet, SincNetSize

TINY = SincNetSize(window=480, sinc_filters=4, sinc_length=31, convolutions=((3, 5),), dense=(8, 6))


def slow_filter(low, band, length, rate):
    """A band-pass sample by sample."""
    f1 = 50 + abs(low)
    f2 = min(max(f1 + 50 + abs(band), 50), rate / 2)
    half = length // 2
    left = []
    for k, n in enumerate(range(-half, 0)):
        place = k * (length / 2 - 1) / (half - 1)
        window = 0.54 - 0.46 * np.cos(2 * np.pi * place / length)
        ideal = (np.sin(2 * np.pi * f2 * n / rate) - np.sin(2 * np.pi * f1 * n / rate)) / (np.pi * n / rate)
        left.append(ideal * window / (2 * (f2 - f1)))
    return np.array([*left, 1.0, *left[::-1]])


def slow_norm(x, gamma, beta):
    return gamma * (x - x.mean(-1, keepdims=True)) / (x.std(-1, ddof=1, keepdims=True) + 1e-6) + beta


@given(st.floats(-9000, 9000), st.floats(-9000, 9000), st.integers(2, 130))
def test_filters_are_windowed_band_passes(low, band, half):
    conv = SincConv(2, 2 * half + 1, 1, 16_000)
    conv.low.data[0], conv.band.data[0] = low, band
    found = conv.filters()[0].detach().numpy()
    np.testing.assert_allclose(found, slow_filter(low, band, 2 * half + 1, 16_000), atol=2e-3)


def test_filters_begin_equally_spaced_on_the_mel_scale():
    conv = SincConv(80, 251, 1, 16_000)
    edges = np.append(conv.low.detach().numpy(), conv.low.detach().numpy()[-1] + conv.band.detach().numpy()[-1])
    assert edges[0] == pytest.approx(30, rel=1e-4) and edges[-1] == pytest.approx(7900, rel=1e-4)
    mel = 2595 * np.log10(1 + edges / 700)
    np.testing.assert_allclose(np.diff(mel), np.diff(mel).mean(), rtol=1e-3)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("samples", [300, 303])
@pytest.mark.parametrize("frozen", [False, True])
def test_filtering_equals_a_plain_convolution(stride, samples, frozen):
    conv = SincConv(5, 61, stride, 16_000)
    x = torch.randn(3, samples, requires_grad=True)
    expected = functional.conv1d(x[:, None], conv.filters()[:, None], stride=stride)
    weights = torch.randn_like(expected)
    inputs = (x,) if frozen else (x, conv.low, conv.band)
    slopes = torch.autograd.grad((expected * weights).sum(), inputs)
    conv.requires_grad_(not frozen)
    for _ in range(2):  # the second time with what was kept
        found = conv(x)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        for slope, right in zip(torch.autograd.grad((found * weights).sum(), inputs), slopes, strict=True):
            torch.testing.assert_close(slope, right, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        conv.low += 300.0
    moved = functional.conv1d(x[:, None], conv.filters()[:, None], stride=stride)
    torch.testing.assert_close(conv(x), moved, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("over", ["time", "all"])
def test_normalisation_is_as_published(over):
    norm = AxisNorm(3, 40, over=over)
    torch.nn.init.normal_(norm.gamma), torch.nn.init.normal_(norm.beta)
    x = (torch.randn(5, 3, 40) * torch.tensor([1e-5, 1.0, 30.0])[:, None] + 2).double()
    norm.double()
    arrays = x.numpy(), norm.gamma.detach().numpy(), norm.beta.detach().numpy()
    if over == "time":
        expected = slow_norm(*arrays)
    else:
        expected = slow_norm(*(a.reshape(*a.shape[:-2], -1) for a in arrays)).reshape(x.shape)
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-9)
    norm.requires_grad_(False)
    np.testing.assert_allclose(norm(x).numpy(), expected, rtol=1e-9)
    assert torch.autograd.gradcheck(norm, (torch.randn(1, 3, 40, dtype=torch.float64, requires_grad=True),))
    constant = torch.full((1, 3, 40), 4.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(norm(constant).square().sum(), constant)
    assert torch.isfinite(slope).all(), "the slope of a deviation of zero counts as none"


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_peaks_are_those_of_pooling_and_so_are_their_slopes(pool, folded):
    # Of few values, so that neighbours are often equal, in magnitude too, or all zero; the last are left over.
    x = torch.randint(-2, 3, (4, 5, 47)).float().requires_grad_()
    expected = functional.max_pool1d(x.abs() if folded else x, pool)
    found = peaks(x, pool, folded=folded)
    assert torch.equal(found, expected)
    weights = torch.randn_like(expected)
    slopes = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    assert torch.equal(*slopes)
    with torch.no_grad():
        x[0, 0, 4] = float("nan")
    assert torch.isnan(peaks(x, pool, folded=folded)[0, 0, 4 // pool])


@pytest.mark.parametrize("name", SIZES)
def test_a_frozen_network_is_the_same_and_has_the_same_slopes(name):
    # In double precision: which of two neighbours is larger must not be a matter of rounding.
    network = SincNet(SIZES[name], 5).double().eval()
    frames = torch.randn(11, 3200, dtype=torch.float64)
    frames[3] = 0.25  # constant: the normalisation of the input divides by a millionth
    both = []
    for frozen in (False, True):
        network.requires_grad_(not frozen)
        x = frames.clone().requires_grad_()
        scores = network.logits(x)
        both.append((scores.detach(), *torch.autograd.grad(scores[:, 2].sum(), x)))
    (plain, slopes), (scores, found) = both
    torch.testing.assert_close(scores, plain, atol=1e-10, rtol=1e-8)
    largest = slopes.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(found / largest, slopes / largest, atol=1e-8, rtol=0)


def test_the_published_network_has_its_sizes():
    network = SincNet(PUBLISHED, 462)
    assert PUBLISHED.frames == (983, 326, 107) and PUBLISHED.dimension == 2048
    count = sum(p.numel() for p in network.parameters())
    by_hand = 2 * 3200 + 160 + 2 * 80 * 983 + (80 * 5 + 1) * 60 + 2 * 60 * 326 + (60 * 5 + 1) * 60 + 2 * 60 * 107
    by_hand += 2 * 6420 + (6420 + 1) * 2048 + 2 * (2048 + 1) * 2048 + 3 * 2 * 2048 + 2049 * 462
    assert count == by_hand and round(count / 1e6, 2) == 22.77
    frames = torch.randn(2, 3200)
    assert network.eval().dvector(frames).shape == (2, 2048) and network.logits(frames).shape == (2, 462)
    bound = (0.01 / (6420 + 2048)) ** 0.5
    weight = network.dense[0].weight.detach()
    assert 0.99 * bound < weight.abs().max() <= bound and not network.last.bias.any()


def test_the_whole_network_is_as_published():
    """Its published form, part by part, from the weights of ours."""
    network = SincNet(replace(TINY, normalisation="batch"), 3)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.5)
    for layer in network.dense_norms:
        layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 2)
    network.eval()
    state = {name: tensor.detach().double().numpy() for name, tensor in network.state_dict().items()}
    x = np.random.default_rng(0).standard_normal((4, 480))

    def norm(y, name):
        return slow_norm(y, state[f"{name}.gamma"], state[f"{name}.beta"])

    def correlate(y, filters):
        windows = np.lib.stride_tricks.sliding_window_view(y, filters.shape[-1], axis=-1)
        return np.einsum("nctl,kcl->nkt", windows, filters)

    def pool(y):
        return y[..., : y.shape[-1] // 3 * 3].reshape(*y.shape[:-1], -1, 3).max(-1)

    def leaky(y):
        return np.where(y > 0, y, 0.2 * y)

    filters = np.stack(
        [
            slow_filter(low, band, 31, 16_000)
            for low, band in zip(state["sinc.low"][:, 0], state["sinc.band"][:, 0], strict=True)
        ]
    )
    y = leaky(norm(pool(np.abs(correlate(norm(x, "norm_in")[:, None], filters[:, None]))), "norms.0"))
    y = correlate(y, state["convolutions.0.weight"]) + state["convolutions.0.bias"][:, None]
    y = leaky(norm(pool(y), "norms.1"))
    y = norm(y.reshape(4, -1), "norm_dense")
    for n in range(2):
        y = y @ state[f"dense.{n}.weight"].T + state[f"dense.{n}.bias"]
        mean, var = state[f"dense_norms.{n}.running_mean"], state[f"dense_norms.{n}.running_var"]
        y = (y - mean) / np.sqrt(var + 1e-5) * state[f"dense_norms.{n}.weight"] + state[f"dense_norms.{n}.bias"]
        y = leaky(y)
    logits = y @ state["last.weight"].T + state["last.bias"]
    frames = torch.from_numpy(x).float()
    np.testing.assert_allclose(network.dvector(frames).detach().numpy(), y, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(network.logits(frames).detach().numpy(), logits, rtol=2e-3, atol=5e-3)
    assert network.dense_norms[0].momentum == 0.05


def test_sizes_that_are_impossible_are_refused():
    for wrong, said in [
        ({"sinc_length": 250}, "odd"), ({"window": 300}, "too short"), ({"dense": ()}, "hidden layer"),
        ({"pool": 0}, "positive"), ({"normalisation": "layer"}, "Known: batch, group"), ({"dropout": 1.0}, "below 1"),
        ({"norm_over": "x"}, "Known: time, all"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=said):
            SincNetSize(**wrong)
    with pytest.raises(UserError, match="two speakers"):
        SincNet(SMALL, 1)


def public_file(path, classes=462, old=False, drop=None, shape=None):
    """A file of three state dicts with the public code's names; returns the network that it holds."""
    network = SincNet(PUBLISHED, classes)
    state = network.state_dict()
    cnn = OrderedDict({f"ln0.{w}": state[f"norm_in.{w}"] for w in ("gamma", "beta")})
    for n, channels in enumerate((80, 60, 60)):
        cnn |= {f"ln.{n}.{w}": state[f"norms.{n}.{w}"] for w in ("gamma", "beta")}
        cnn[f"bn.{n}.weight"] = torch.zeros(channels)  # made by the public code, never used
        if n:
            cnn |= {f"conv.{n}.{w}": state[f"convolutions.{n - 1}.{w}"] for w in ("weight", "bias")}
    if old:
        cnn["conv.0.filt_b1"] = state["sinc.low"][:, 0].double() / 16_000
        cnn["conv.0.filt_band"] = state["sinc.band"][:, 0].double() / 16_000
    else:
        cnn |= {"conv.0.low_hz_": state["sinc.low"], "conv.0.band_hz_": state["sinc.band"]}
    dense = OrderedDict({f"ln0.{w}": state[f"norm_dense.{w}"] for w in ("gamma", "beta")})
    for n in range(3):
        dense |= {f"wx.{n}.{w}": state[f"dense.{n}.{w}"] for w in ("weight", "bias")}
        dense |= {f"bn.{n}.{w}": t for w, t in network.dense_norms[n].state_dict().items()}
        dense[f"ln.{n}.gamma"] = torch.zeros(2048)
    last = OrderedDict({f"wx.0.{w}": state[f"last.{w}"] for w in ("weight", "bias")})
    if drop:
        del cnn[drop]
    if shape:
        cnn[shape] = torch.zeros(7, 3)
    torch.save({"CNN_model_par": cnn, "DNN1_model_par": dense, "DNN2_model_par": last}, path)
    return network.eval()


@pytest.mark.parametrize("old", [False, True])
def test_the_public_checkpoint_is_read(tmp_path, old):
    network = public_file(tmp_path / "model_raw.pkl", classes=5, old=old)
    classifier = load_classifier(tmp_path / "model_raw.pkl")
    assert classifier.classes == ("0", "1", "2", "3", "4") and classifier.window == 3200
    frames = torch.randn(2, 3200)
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(frames), network.logits(frames), atol=1e-4, rtol=1e-3)


def test_checkpoints_of_something_else_are_refused(tmp_path):
    path = tmp_path / "m.pkl"
    public_file(path, 3, drop="conv.1.weight")
    with pytest.raises(UserError, match=r"has no convolutions.0.weight \(shape \(60, 80, 5\)\)"):
        load_classifier(path)
    public_file(path, 3, shape="ln.0.gamma")
    with pytest.raises(UserError, match=r"norms.0.gamma has shape \(7, 3\), not \(80, 983\)"):
        load_classifier(path)
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="has not the state dicts CNN_model_par"):
        load_classifier(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="is no checkpoint"):
        load_classifier(path)
    with pytest.raises(UserError, match="there is no file"):
        load_classifier(tmp_path / "elsewhere")


def test_a_saved_classifier_is_the_same(tmp_path):
    network = SincNet(replace(TINY, normalisation="group"), 3)
    classifier = SpeakerClassifier(network, ["ann", "bob", "cy"], window=480, shift=100)
    classifier.save(tmp_path / "c.safetensors")
    again = load_classifier(tmp_path / "c.safetensors")
    assert (again.classes, again.window, again.shift) == (classifier.classes, 480, 100)
    wave = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    assert again.decide(wave) == classifier.decide(wave)
    with pytest.raises(UserError, match="cannot be read"):
        (tmp_path / "d.safetensors").write_bytes(b"no")
        load_classifier(tmp_path / "d.safetensors")


def test_a_sentence_is_decided_by_summed_log_posteriors():
    network = SincNet(TINY, 3)
    classifier = SpeakerClassifier(network, "abc", window=480, shift=70)
    wave = np.random.default_rng(0).standard_normal(12_000).astype(np.float32)
    wave[:6000] *= 0.01
    frames = np.stack([wave[at : at + 480] for at in range(0, 12_000 - 479, 70)])
    with torch.no_grad():
        logs = torch.log_softmax(network.logits(torch.from_numpy(frames)), 1).double().sum(0)
        vectors = network.dvector(torch.from_numpy(frames)).numpy()
    decided, total = classifier.decide(wave)
    assert decided == int(logs.argmax()) and total == pytest.approx(float(logs.max()), rel=1e-4)
    energy = (frames**2).sum(1)
    loud = energy >= 0.1 * energy.mean()
    assert 0 < loud.sum() < len(loud)
    mean = np.mean([v / np.linalg.norm(v) for v in vectors[loud]], axis=0)
    np.testing.assert_allclose(classifier.dvector_of(wave), mean, atol=1e-5)
    assert classifier.queries == 2 * len(frames)
    for bad, said in [(wave[:100], "480 samples at least"), (np.full(900, np.nan, np.float32), "not finite")]:
        with pytest.raises(UserError, match=said):
            classifier.decide(bad)
    with pytest.raises(UserError, match="no speaker 'z'"):
        classifier.number("z")
    with pytest.raises(UserError, match=r"takes \(n, 480\)"):
        classifier.logits(torch.zeros(1, 481))


@pytest.mark.parametrize("name", SIZES)
def test_scale_and_offset_of_a_window_do_not_matter(name):
    network = SincNet(SIZES[name], 4).eval()
    frames = torch.randn(2, 3200)
    with torch.no_grad():
        torch.testing.assert_close(network.logits(frames), network.logits(7 * frames + 3), atol=1e-4, rtol=1e-2)
