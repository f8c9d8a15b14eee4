"""Speaker encoders, their losses, and the wrapper that checks what a recogniser answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder, vectors_of
from fl_privacy.models.speaker import ENCODERS, LogMel, make_encoder
from fl_privacy.models.speaker_losses import GE2E, LOSSES, AAMSoftmax, Softmax, make_loss


def noise(seconds, seed=0):
    return np.random.default_rng(seed).standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_embeds_voices_of_any_length(name):
    torch.manual_seed(0)
    model = make_encoder(name).eval()
    with torch.no_grad():
        shapes = {tuple(model(torch.from_numpy(noise(s))[None]).shape) for s in (0.001, 0.3, 1.0)}
        batch = model(torch.from_numpy(np.stack([noise(0.5, 1), noise(0.5, 2)])))
    assert shapes == {(1, model.network.dimension)}
    assert torch.isfinite(batch).all() and not torch.allclose(batch[0], batch[1])


def parameters(name):
    return sum(p.numel() for p in make_encoder(name).network.parameters())


def test_published_sizes():
    # Counted by hand from the papers' tables: weights, biases, batch normalisations.
    convolutions = [(40, 512, 5), (512, 512, 3), (512, 512, 3), (512, 512, 1), (512, 1500, 1)]
    expected = sum(i * o * k + 3 * o for i, o, k in convolutions) + 3000 * 512 + 512
    assert parameters("x-vector-published") == expected
    lstm = sum(4 * 256 * (inputs + 256 + 2) for inputs in (40, 256, 256)) + 256 * 257
    assert parameters("lstm-published") == lstm
    assert 14.0e6 < parameters("ecapa-published") < 15.5e6  # 14.7 million in the paper
    assert all(parameters(name) < 200_000 for name in ("x-vector", "ecapa", "lstm"))


def test_the_channel_is_subtracted():
    """A fixed gain adds a constant to every frame's logarithms."""
    wave = torch.from_numpy(noise(0.5))[None]
    front = LogMel()
    torch.testing.assert_close(front(wave), front(3.0 * wave), atol=1e-3, rtol=0)
    assert front(wave).mean(dim=1).abs().max() < 1e-4
    assert front(torch.zeros(1, 8000)).abs().max() < 1e-5


def test_the_lstm_gives_directions_without_negative_numbers():
    torch.manual_seed(1)
    found = make_encoder("lstm")(torch.from_numpy(noise(0.5))[None])
    assert found.min() >= 0 and float(found.detach().norm()) == pytest.approx(1.0, abs=1e-3)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="unknown speaker encoder 'resnet'. Known: x-vector"):
        make_encoder("resnet")
    with pytest.raises(UserError, match="unknown speaker loss 'triplet'. Known: softmax"):
        make_loss("triplet", 4, 4)


# Losses, each against its formula one crop at a time.


def test_aam_softmax_adds_a_margin_to_the_own_angle():
    torch.manual_seed(2)
    loss, x, y = AAMSoftmax(5, 3), torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = []
    for embedding, own in zip(x, y, strict=True):
        logits = []
        for k in range(3):
            cosine = float(functional.cosine_similarity(embedding, loss.cosines.weight[k], dim=0).detach())
            logits.append(30 * (math.cos(math.acos(cosine) + 0.2) if k == own else cosine))
        expected.append(math.log(sum(math.exp(v - logits[own]) for v in logits)))
    assert float(loss(x, y)) == pytest.approx(np.mean(expected), rel=1e-4)


def test_ge2e_compares_with_the_mean_of_the_other_crops():
    torch.manual_seed(3)
    x, y = torch.randn(6, 5), torch.tensor([4, 4, 9, 9, 9, 4])
    expected = []
    unit = functional.normalize(x)
    for i in range(6):
        logits = {}
        for k in (4, 9):
            rows = [j for j in range(6) if y[j] == k and j != i]
            centre = torch.stack([unit[j] for j in rows]).mean(dim=0)
            logits[k] = 10 * float(functional.cosine_similarity(unit[i], centre, dim=0)) - 5
        own = logits[int(y[i])]
        expected.append(math.log(sum(math.exp(v - own) for v in logits.values())))
    assert float(GE2E(5, 2)(x, y)) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_which_losses_are_a_sum_over_crops(name):
    """DP-SGD needs a loss for each crop; the mean over parts of a batch is then the mean over the batch."""
    torch.manual_seed(4)
    loss, x, y = make_loss(name, 5, 2), torch.randn(8, 5), torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    separable = bool(torch.isclose(loss(x, y), (loss(x[:4], y[:4]) + loss(x[4:], y[4:])) / 2, atol=1e-6))
    assert separable == loss.by_example == (name != "ge2e")


def test_ge2e_needs_several_crops_of_several_speakers():
    with pytest.raises(UserError, match="at least two speakers, each with at least two crops"):
        GE2E(5, 2)(torch.randn(3, 5), torch.tensor([0, 0, 1]))


def test_softmax_is_cross_entropy_of_its_layer():
    torch.manual_seed(5)
    loss, x = Softmax(4, 3), torch.randn(2, 4)
    y = torch.tensor([2, 0])
    logits = torch.relu(x) @ loss.layer.weight.T + loss.layer.bias
    assert float(loss(x, y)) == pytest.approx(-float(torch.log_softmax(logits, 1)[[0, 1], y].mean()), rel=1e-5)


# The wrapper.


def test_an_encoder_of_ones_own_is_asked_in_batches_and_counted():
    sizes = []

    def embed(waves):
        sizes.append(len(waves))
        return [[wave.mean(), len(wave)] for wave in waves]

    encoder = SpeakerEncoder(embed, batch_size=2)
    found = encoder.embed([noise(0.1), noise(0.2), noise(0.3)])
    assert found.shape == (3, 2) and found[:, 1].tolist() == [1600, 3200, 4800]
    assert sizes == [2, 1] and encoder.queries == 3 and encoder.dimension == 2
    assert encoder.embed([]).shape == (0, 2)


def test_waves_come_at_the_encoders_rate():
    encoder = SpeakerEncoder(lambda waves: [[len(wave)] for wave in waves], sample_rate=8000)
    assert encoder.embed([noise(1.0)]).tolist() == [[8000.0]]


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda waves: np.ones((1, 4)), r"mine gave an array of shape \(1, 4\) for 2 waves; expected \(2, dimension\)"),
        (lambda waves: np.ones(2), r"mine gave an array of shape \(2,\) for 2 waves"),
        (
            lambda waves: [[1.0, 2.0], [np.nan, 1.0]],
            r"NaN or infinity for 1 of 2 waves, the first is wave 1 \(0.20 s\)",
        ),
        (lambda waves: 1 / 0, "mine failed on waves 0 to 1: ZeroDivisionError: division by zero"),
        (lambda waves: torch.ones(2, 4, requires_grad=True)[:, :0], r"shape \(2, 0\)"),
    ],
)
def test_wrong_answers_are_refused(embed, message):
    with pytest.raises(UserError, match=message):
        SpeakerEncoder(embed, name="mine").embed([noise(0.1), noise(0.2)])


def test_an_encoder_may_not_change_its_dimension():
    encoder = SpeakerEncoder(lambda waves: np.ones((len(waves), len(waves))))
    encoder.embed([noise(0.1)])
    with pytest.raises(UserError, match="embeddings of 2 numbers, before of 1"):
        encoder.embed([noise(0.1), noise(0.1)])


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros((2, 100), np.float32), r"wave 0 has shape \(2, 100\)"),
        (np.zeros(0, np.float32), r"wave 0 has shape \(0,\)"),
        (np.full(100, np.nan, np.float32), "wave 0 holds samples that are not finite"),
    ],
)
def test_bad_waves_are_named(wave, message):
    with pytest.raises(UserError, match=message):
        SpeakerEncoder(lambda waves: np.ones((len(waves), 2))).embed([wave])


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_encoders_from_files(tmp_path: Path, kind):
    class Moments(nn.Module):
        def forward(self, waves: torch.Tensor) -> torch.Tensor:
            return torch.stack([waves.mean(dim=1), waves.std(dim=1)], dim=1)

    if kind == "torchscript":
        path = tmp_path / "encoder.pt"
        torch.jit.script(Moments()).save(str(path))
    else:
        path = tmp_path / "encoder.pt2"
        length = torch.export.Dim("length", min=2)
        torch.export.save(torch.export.export(Moments(), (torch.zeros(1, 800),), dynamic_shapes=({1: length},)), path)
    wave = noise(0.3)
    found = SpeakerEncoder.from_file(path).embed([wave])
    np.testing.assert_allclose(found[0], [wave.mean(), wave.std(ddof=1)], rtol=1e-4, atol=1e-6)


def test_files_that_are_no_encoders(tmp_path: Path):
    with pytest.raises(UserError, match="there is no file"):
        SpeakerEncoder.from_file(tmp_path / "none.pt")
    for name in ("weights.pt", "weights.pt2"):
        torch.save({"weight": torch.ones(2)}, tmp_path / name)
        with pytest.raises(UserError, match=r"is neither a TorchScript nor a torch\.export file .* give a callable"):
            SpeakerEncoder.from_file(tmp_path / name)


# Similarities alone.


def test_similarities_of_all_pairs_are_as_good_as_embeddings():
    rng = np.random.default_rng(6)
    table = rng.standard_normal((9, 5)) * rng.uniform(0.5, 2, (9, 1))
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    seen = vectors_of(unit @ unit.T)
    assert seen.shape == (9, 5)
    np.testing.assert_allclose(seen @ seen.T, unit @ unit.T, atol=1e-5)


@pytest.mark.parametrize(
    ("similarities", "message"),
    [
        (np.ones((2, 3)), "one number for each two voices"),
        (np.array([[1.0, 0.2], [0.9, 1.0]]), "the same in either order"),
        (np.array([[1.0, 3.0], [3.0, 1.0]]), "no cosines"),
    ],
)
def test_what_is_no_table_of_similarities(similarities, message):
    with pytest.raises(UserError, match=message):
        vectors_of(similarities)
