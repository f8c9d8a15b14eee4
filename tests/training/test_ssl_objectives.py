"""Masks, negatives and losses of self-supervised training against slow versions and what the papers say of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.errors import UserError
from fl_privacy.training._crops import Crops, repeated
from fl_privacy.training.losses import private_loss
from fl_privacy.training.ssl_objectives import Contrast, Reconstruction, altered_frames, frames_of


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 3


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 6), t=st.integers(1, 120), bands=st.integers(1, 80), seed=st.integers(0, 2**32 - 1))
def test_only_what_is_masked_is_altered_but_for_noise_over_all(n: int, t: int, bands: int, seed: int) -> None:
    frames = noise(n, t, bands)
    before = frames.clone()
    altered, mask = altered_frames(frames, np.random.default_rng(seed))
    assert torch.equal(frames, before) and altered.shape == mask.shape == frames.shape
    for one, chosen, true in zip(altered, mask.bool(), frames, strict=True):
        outside = one[~chosen] - true[~chosen]
        assert not outside.any() or (outside != 0).float().mean() > 0.9  # nothing, or the noise
        whole_frames = chosen.all(1)
        assert whole_frames.any() and chosen.any()
        band = chosen[~whole_frames]
        if len(band):  # the same bands everywhere, side by side, at most 16 of them
            rows = torch.unique(band.int(), dim=0)
            assert len(rows) == 1 and int(rows.sum()) <= 16 and int(rows[0].diff().abs().sum()) <= 2


def test_masks_are_as_published_on_average() -> None:
    frames = noise(1500, 300, 80)
    altered, mask = altered_frames(frames, np.random.default_rng(1))
    whole = mask.all(2)
    spans = round(300 * 0.15 / 7)
    assert (whole.sum(1) <= spans * 7).all()
    # Starts are drawn without replacement, but spans may overlap: of 6 spans a few frames are lost.
    assert 0.85 * spans * 7 < float(whole.sum(1).float().mean()) < spans * 7
    band = torch.stack([m[~w][0] for m, w in zip(mask, whole, strict=True)])
    widths = band.sum(1).int().bincount(minlength=17) / 1500
    assert len(widths) == 17 and (widths - 1 / 17).abs().max() < 4 * math.sqrt(1 / 17 / 1500)
    noisy = (altered - frames)[:, :, :][~mask.bool()]
    share = float(
        (altered != frames)[torch.arange(1500), (~whole).int().argmax(1)].float().mean(1).gt(0.5).float().mean()
    )
    assert share == pytest.approx(0.15, abs=0.04)
    assert float(noisy[noisy != 0].std()) == pytest.approx(0.2, rel=0.05)
    kinds = []
    for one, true, w, m in zip(altered, frames, whole, mask.bool(), strict=True):
        inside = one[w][:, ~m[~w][0]] if (~w).any() else one[w]
        real = true[w][:, ~m[~w][0]]
        kinds.append("zero" if float(inside.mean()) < 1 else "same" if (inside - real).std() < 0.3 else "moved")
    for kind, wanted in [("zero", 0.8), ("moved", 0.1), ("same", 0.1)]:
        assert kinds.count(kind) / 1500 == pytest.approx(wanted, abs=0.04)


def test_each_example_is_altered_by_itself() -> None:
    frames = noise(4, 50, 20)
    other = frames.clone()
    other[1:] = 7
    first, second = (altered_frames(x, np.random.default_rng(3))[0] for x in (frames, other))
    assert torch.equal(first[0], second[0])


def test_teras_loss_is_the_mean_error_where_it_was_altered() -> None:
    objective = Reconstruction()
    inputs, targets = objective.question(noise(3, 40, 80), np.random.default_rng(0))
    rebuilt = noise(3, 40, 80, seed=1)
    found = objective.loss(rebuilt, targets)
    for n in range(3):
        frames, mask = targets[n]
        errors = [abs(float(rebuilt[n, t, b] - frames[t, b])) for t in range(40) for b in range(80) if mask[t, b] == 1]
        assert float(found[n]) == pytest.approx(np.mean(errors), rel=1e-5)
    assert torch.equal(targets[:, 0], noise(3, 40, 80))
    assert private_loss(objective.loss) is objective.loss


def slow_contrast(predictions, frames, negatives, across: bool) -> list[float]:
    losses = []
    for n in range(len(predictions)):
        total = 0.0
        for k in range(12):
            by_context = []
            for t in range(predictions.shape[1]):
                p = predictions[n, t, k].double()
                false = [
                    frames[int(j) // frames.shape[1], int(j) % frames.shape[1]] if across else frames[n, int(j)]
                    for j in negatives[n, t]
                ]
                scores = torch.stack([(p * z.double()).mean() for z in [frames[n, t + k + 1], *false]])
                by_context.append(float(-torch.log_softmax(scores, 0)[0]))
            total += float(np.mean(by_context))
        losses.append(total)
    return losses


@pytest.mark.parametrize("among", ["batch", "utterance"])
def test_the_contrast_is_a_cross_entropy_for_each_step_ahead(among) -> None:
    objective = Contrast(9, among)
    crops = noise(3, 160 * 20)
    inputs, negatives = objective.question(crops, np.random.default_rng(0))
    assert inputs is crops and negatives.shape == (3, 8, 9)
    predictions, frames = noise(3, 8, 12, 5, seed=1), noise(3, 20, 5, seed=2)
    found = objective.loss((predictions, frames), negatives)
    np.testing.assert_allclose(found, slow_contrast(predictions, frames, negatives, among == "batch"), rtol=1e-4)


def test_negatives_are_uniform_and_never_at_the_contexts_own_place() -> None:
    for among in ("batch", "utterance"):
        _, numbers = Contrast(4000, among).question(torch.zeros(3, 160 * 20), np.random.default_rng(0))
        places = numbers % 20
        own = torch.arange(8)[:, None].expand(3, 8, 1)
        assert not (places == own).any()
        counts = torch.stack([(places[0] == (t + d) % 20).sum(1)[t] for t in range(8) for d in range(1, 20)]).float()
        assert abs(float(counts.mean()) - 4000 / 19) < 1e-3
        assert (counts - 4000 / 19).abs().max() < 5 * math.sqrt(4000 / 19)
        owners = torch.bincount((numbers // 20).flatten(), minlength=3) / numbers.numel()
        expected = torch.full((3,), 1 / 3) if among == "batch" else torch.tensor([1.0, 0, 0])
        assert (owners - expected).abs().max() < 0.01


def test_only_negatives_of_the_same_utterance_can_be_private() -> None:
    assert private_loss(Contrast(8, "utterance").loss).name == "cpc"
    with pytest.raises(UserError, match="frames of other utterances"):
        private_loss(Contrast(8, "batch").loss)


def test_frames_are_counted_as_the_convolutions_make_them() -> None:
    from fl_privacy.models.cpc import CPC, CPCSize

    model = CPC(CPCSize(2))
    for samples in (465, 1000, 20_480, 33_333):
        assert frames_of(samples) == model.encode(torch.zeros(1, samples))[0].shape[1]


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    length=st.integers(1, 20),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_crops_are_pieces_of_their_voices(lengths, length, seed, data) -> None:
    voices = [torch.arange(n) + 100 * k for k, n in enumerate(lengths)]
    numbers = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=6)), dtype=np.int64)
    found = Crops(voices, length).cut(numbers, np.random.default_rng(seed))
    assert found.shape == (len(numbers), length)
    for crop, number in zip(found, numbers, strict=True):
        n = lengths[number]
        assert (crop // 100 == number).all()
        steps = crop.diff()
        assert ((steps == 1) | (steps == 1 - n)).all()  # on, or back to the start
        if n >= length:
            assert (steps == 1).all()


def test_repeating_reaches_a_length() -> None:
    assert repeated(torch.tensor([1, 2]), 5).tolist() == [1, 2, 1, 2, 1, 2]
    assert repeated(torch.ones(3, 2), 2).shape == (3, 2)
    assert repeated(torch.ones(3, 2), 4).shape == (6, 2)
