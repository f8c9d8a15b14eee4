"""Central training of speaker encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder
from fl_privacy.training.speaker import Crops, SpeakerTraining, train_speaker_encoder
from fl_privacy.training.verification import verification_eer


def voices(speakers, each, seconds=0.5):
    """Speakers that differ in the pitch of a buzz."""
    rng = np.random.default_rng(0)
    time = np.arange(int(16_000 * seconds)) / 16_000
    waves, names = [], []
    for speaker in range(speakers):
        for _ in range(each):
            buzz = sum(np.sin(2 * np.pi * (150 + 90 * speaker) * k * time + rng.uniform(0, 6)) / k for k in (1, 2, 3))
            waves.append((0.1 * buzz + 0.02 * rng.standard_normal(time.size)).astype(np.float32))
            names.append(f"s{speaker}")
    return waves, names


QUICK = SpeakerTraining(steps=12, speakers_per_batch=3, crops_per_speaker=3, crop_frames=20, learning_rate=5e-3)


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


@pytest.mark.parametrize(("encoder", "loss"), [("x-vector", "aam-softmax"), ("ecapa", "softmax"), ("lstm", "ge2e")])
def test_the_same_seed_gives_the_same_encoder(encoder, loss):
    waves, names = voices(3, 3)
    settings = SpeakerTraining(encoder, loss, 3, 3, 2, 20)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first, again, other = (train_speaker_encoder(waves, names, settings, seed) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again)) and not torch.equal(weights(first), weights(other))
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's randomness is its own"
    assert not first.training


def test_training_tells_speakers_apart():
    waves, names = voices(4, 6)
    told = []
    trained = train_speaker_encoder(waves, names, QUICK, 1, told.append)
    assert told == list(range(1, 13))
    eer = verification_eer(SpeakerEncoder.of_module(trained).embed(waves), names)
    assert eer < 0.2


def test_crops_are_of_their_speaker_and_short_voices_are_repeated():
    frames = [torch.full((length, 2), float(mark)) for length, mark in ((30, 1), (5, 1), (50, 2))]
    frames[1] = torch.arange(5.0)[:, None].repeat(1, 2)
    crops = Crops(frames, ["a", "a", "b"], 12)
    rng = np.random.default_rng(1)
    drawn = [crops.draw(2, 8, rng) for _ in range(5)]
    short = 0
    for cut, codes in drawn:
        assert cut.shape == (16, 12, 2) and sorted(codes.tolist()) == [0] * 8 + [1] * 8
        for crop, code in zip(cut, codes, strict=True):
            values = crop[:, 0]
            if code == 1:
                assert (values == 2).all()
            elif values.unique().numel() > 1:
                short += 1
                steps = values.diff()
                assert set(steps.tolist()) <= {1.0, -4.0}
    assert short


def test_more_speakers_a_batch_than_there_are():
    crops = Crops([torch.zeros(30, 2)] * 2, ["a", "b"], 10)
    assert crops.draw(5, 1, np.random.default_rng(0))[1].tolist().count(0) in (2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"steps": 0}, "steps must be positive, not 0"), ({"clip": -1.0}, "clip must not be negative")],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(UserError, match=message):
        SpeakerTraining(**changes)


def test_one_speaker_is_not_enough():
    waves, _ = voices(1, 2)
    with pytest.raises(UserError, match="two speakers at least"):
        train_speaker_encoder(waves, ["a", "a"], QUICK, 1)
    with pytest.raises(UserError, match="2 waves, but 1 speakers"):
        train_speaker_encoder(waves, ["a"], QUICK, 1)


def test_a_training_that_diverges_says_so():
    waves, names = voices(2, 2)
    wild = SpeakerTraining("x-vector", "softmax", 3, 2, 2, 20, learning_rate=1e30, clip=0.0)
    with pytest.raises(UserError, match="diverged; lower learning_rate"):
        train_speaker_encoder(waves, names, wild, 1)


def test_equal_error_rate_of_pairs_by_hand():
    # a: 0 and 60 degrees; b: 80 and 90. Same: cos 60 = .5, cos 10 = .98; different: cos 80, 90, 20, 30.
    angles = np.radians([0, 60, 80, 90])
    embeddings = np.column_stack([np.cos(angles), np.sin(angles)]) * [[1], [5], [2], [3]]
    # Above .9: one of two same pairs is lost, and one of four others (20 degrees, .94) comes through.
    found = verification_eer(embeddings, ["a", "a", "b", "b"])
    assert 0.25 <= found <= 0.5


def test_equal_error_rate_needs_pairs_of_both_kinds():
    with pytest.raises(UserError, match="two voices of a speaker and two speakers"):
        verification_eer(np.eye(2), ["a", "b"])
