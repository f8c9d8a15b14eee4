"""Training of speaker classifiers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fl_privacy.errors import UserError
from fl_privacy.models.sincnet import SincNetSize
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.private import replaced
from fl_privacy.training.sincnet import (
    Chunks,
    PrivateTraining,
    SincNetTraining,
    privacy_spent,
    sentence_error,
    train_classifier,
)

TINY = SincNetSize(
    window=480, sinc_filters=8, sinc_length=61, sinc_stride=4, convolutions=((8, 3),), dense=(16,), norm_over="all"
)
QUICK = SincNetTraining(TINY, steps=60, batch_size=16, learning_rate=3e-3, shift=240)


def buzzes(speakers=3, each=5, seed=0):
    """Speakers that differ in the pitch of a buzz."""
    rng = np.random.default_rng(seed)
    time = np.arange(3000) / 16_000
    waves, names = [], []
    for speaker in range(speakers):
        for _ in range(each):
            tones = [np.sin(2 * np.pi * (300 + 700 * speaker) * k * time + rng.uniform(0, 6)) / k for k in (1, 2)]
            waves.append((0.1 * sum(tones) + 0.02 * rng.standard_normal(time.size)).astype(np.float32))
            names.append(f"s{speaker}")
    return waves, names


def weights(classifier):
    return torch.cat([t.flatten().float() for t in classifier.network.state_dict().values()])


def test_training_tells_speakers_apart_and_follows_its_seed():
    told = []
    first = train_classifier(*buzzes(), QUICK, 1, told=told.append)
    assert told == list(range(1, 61)) and first.classes == ("s0", "s1", "s2")
    assert (first.window, first.shift) == (480, 240) and not first.network.training
    assert sentence_error(first, *buzzes(seed=1)) <= 0.2
    short = replace(QUICK, steps=3, size=replace(TINY, dropout=0.3))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, again, other = (weights(train_classifier(*buzzes(), short, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's randomness is its own"


@pytest.mark.parametrize("optimiser", ["rmsprop", "adam"])
@pytest.mark.parametrize("private", [None, PrivateTraining(8.0)])
def test_a_killed_training_ends_the_same(tmp_path, optimiser, private):
    settings = replace(QUICK, steps=7, checkpoint_every=2, optimiser=optimiser, private=private, batch_size=5)
    whole = train_classifier(*buzzes(), settings, 1)
    file = tmp_path / "training.safetensors"

    def killed(step):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier(*buzzes(), settings, 1, checkpoint=file, told=killed)
    told = []
    rest = train_classifier(*buzzes(), settings, 1, checkpoint=file, told=told.append)
    assert told == [5, 6, 7], "it goes on from the last checkpoint"
    assert torch.equal(weights(whole), weights(rest))
    for other in ({"seed": 2}, {"settings": replace(settings, learning_rate=0.1)}, {"waves": buzzes(seed=3)[0]}):
        asked = {"waves": buzzes()[0], "speakers": buzzes()[1], "settings": settings, "seed": 1} | other
        with pytest.raises(UserError, match="of another training"):
            train_classifier(**asked, checkpoint=file)
    file.write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        train_classifier(*buzzes(), settings, 1, checkpoint=file)


def test_chunks_are_of_their_speaker_at_any_place_with_a_gain():
    waves = [np.arange(1, 600, dtype=np.float32), -np.arange(1, 900, dtype=np.float32)]
    chunks = Chunks(waves, ["a", "b"], 480)
    rng = np.random.default_rng(0)
    drawn, codes = chunks.cut(np.array([0] * 300 + [1] * 300), (0.8, 1.2), rng)
    assert codes.tolist() == [0] * 300 + [1] * 300
    assert (drawn[:300] > 0).all() and (drawn[300:] < 0).all()
    steps = drawn[:300].diff(dim=1)
    gains = steps.mean(dim=1) * 599
    assert 0.8 <= gains.min() < 0.82 and 1.18 < gains.max() <= 1.2
    torch.testing.assert_close(steps, steps.mean(dim=1, keepdim=True).expand_as(steps), atol=1e-6, rtol=1e-3)
    starts = (drawn[:300, 0] / gains * 599).round()
    assert starts.min() == 1 and starts.max() == 120, "the first and the last place are drawn"


def test_private_training_costs_what_the_accountant_says_of_utterances():
    settings = replace(QUICK, steps=4, batch_size=5, private=PrivateTraining(3.0, delta=1e-4, clipping_norm=0.5))
    assert settings.size.normalisation == "group"
    spent = privacy_spent(settings, 15)
    assert spent["unit"] == "utterance" and spent["sample_rate"] == 5 / 15 and spent["steps"] == 4
    assert spent["epsilon"] <= 3.0 and spent["epsilon"] == pytest.approx(3.0, rel=1e-3)
    assert spent["epsilon"] == Ledger("example").added(float(spent["noise_multiplier"]), 5 / 15, 4).epsilon(1e-4)
    with pytest.raises(UserError, match="not private"):
        privacy_spent(QUICK, 15)


def test_an_utterance_moves_a_private_step_by_no_more_than_the_norm():
    """Without noise: training with one utterance changed, one step of gradient descent, differs by at most 2 C / n."""
    waves, names = buzzes(2, 3)
    settings = replace(QUICK, steps=1, batch_size=6, private=PrivateTraining(float("inf"), clipping_norm=0.01))
    other = [*waves[:-1], np.random.default_rng(9).standard_normal(3000).astype(np.float32)]
    from fl_privacy.training import sincnet as module

    found = []
    for voices in (waves, other):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_optimiser", lambda network, settings: torch.optim.SGD(network.parameters(), lr=1.0))
            found.append(weights(train_classifier(voices, names, settings, 1)).double())
    moved = (found[0] - found[1]).norm().item()
    assert 0 < moved <= 2 * 0.01 / 6 * 1.001


def test_group_normalisation_is_what_a_private_training_needs():
    from fl_privacy.models.sincnet import SincNet

    swapped, changes = replaced(SincNet(TINY, 3), replace_batch_norm=True)
    ours = SincNet(replace(TINY, normalisation="group"), 3)
    assert list(changes) == ["dense_norms.0"]
    assert repr(swapped.dense_norms[0]) == repr(ours.dense_norms[0])


def test_bad_voices_and_settings_are_refused():
    waves, names = buzzes(2, 1)
    for bad, said in [
        (([waves[0][:100], waves[1]], names), "wave 0 .speaker 's0'. has 100 samples, fewer than a window's 480"),
        (([0 * waves[0], waves[1]], names), "silent or not finite"), ((waves, names[:1]), "2 waves, but 1 speakers"),
        ((waves, ["a", "a"]), "two speakers"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=said):
            train_classifier(*bad, QUICK, 1)
    for wrong, said in [({"steps": 0}, "positive"), ({"gain": (2, 1)}, "gain"), ({"optimiser": "sgd"}, "Known")]:
        with pytest.raises(UserError, match=said):
            replace(QUICK, **wrong)
    with pytest.raises(UserError, match="diverged"):
        train_classifier(*buzzes(2, 2), replace(QUICK, steps=30, learning_rate=1e30), 1)
    with pytest.raises(UserError, match="0 sentences"):
        sentence_error(train_classifier(*buzzes(), replace(QUICK, steps=1), 1), [], [])
