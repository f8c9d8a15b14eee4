"""DP-SGD of speaker encoders, voice by voice, and what it promises all voices of a speaker."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution
from scipy.stats import binom

from fl_privacy.errors import UserError
from fl_privacy.models.speaker import make_encoder
from fl_privacy.models.speaker_losses import make_loss
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.group_accounting import group_epsilon
from fl_privacy.training.speaker import Crops, SpeakerTraining, train_speaker_encoder
from fl_privacy.training.speaker_private import SpeakerDP, made_private, train_by_voices

LENGTH = 12


def waves(voices, seconds=0.3):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1 for _ in range(voices)]


def one_step(frames, names, dp, seed, encoder="x-vector"):
    """Parameters before and after one step of plain gradient descent with a rate of one."""
    torch.manual_seed(0)
    model = made_private(make_encoder(encoder))
    loss = make_loss("aam-softmax", 64, 2)
    crops = Crops(frames, names, LENGTH)
    parameters = [*model.parameters(), *loss.parameters()]
    before = torch.cat([p.detach().flatten().clone() for p in parameters])
    optimiser = torch.optim.SGD(parameters, lr=1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)
    train_by_voices(model, loss, crops, dp, 1, optimiser, schedule, np.random.default_rng(seed))
    return before, torch.cat([p.detach().flatten() for p in parameters])


def frames_of(voices, length=LENGTH):
    torch.manual_seed(1)
    return [torch.randn(length, 40) for _ in range(voices)]


def test_one_voice_more_moves_a_step_by_no_more_than_the_clipping_norm():
    """Every voice is drawn, crops are whole voices: what is left between two steps is the one voice's own."""
    frames, names = frames_of(5), ["a", "b", "a", "b", "a"]
    dp = SpeakerDP(target_epsilon=math.inf, clipping_norm=0.3, batch_size=5)
    steps = []
    for count in (4, 5):
        before, after = one_step(frames[:count], names[:count], dp, 0)
        steps.append(count * (before - after))  # the sum of clipped gradients
    moved = float((steps[1] - steps[0]).norm())
    assert 0.9 * 0.3 < moved <= 0.3 * 1.001
    loose = SpeakerDP(target_epsilon=math.inf, clipping_norm=1e6, batch_size=5)
    before, after = one_step(frames, names, loose, 0)
    assert float((before - after).norm()) > 1.0, "without clipping a step is far longer"


def test_a_step_is_the_sum_of_each_voice_alone_clipped():
    frames, names = frames_of(4), ["a", "b", "a", "b"]
    before, after = one_step(frames, names, SpeakerDP(target_epsilon=math.inf, clipping_norm=0.5, batch_size=4), 0)
    torch.manual_seed(0)
    model = made_private(make_encoder("x-vector"))
    loss = make_loss("aam-softmax", 64, 2)
    parameters = [*model.parameters(), *loss.parameters()]
    total = torch.zeros_like(before)
    for voice, code in zip(frames, (0, 1, 0, 1), strict=True):
        gradients = torch.autograd.grad(loss(model.network(voice[None]), torch.tensor([code])), parameters)
        own = torch.cat([g.flatten() for g in gradients])
        total += own * min(1.0, 0.5 / float(own.norm()))
    np.testing.assert_allclose((before - after).numpy(), (total / 4).numpy(), atol=2e-6)


def test_noise_is_as_strong_as_it_says():
    frames, names = frames_of(4), ["a", "b", "a", "b"]
    dp = SpeakerDP(noise_multiplier=50.0, clipping_norm=0.5, batch_size=4)
    before, after = one_step(frames, names, dp, 0)
    assert float((before - after).std()) == pytest.approx(50.0 * 0.5 / 4, rel=0.02)


def test_batches_are_drawn_voice_by_voice():
    """A speaker with many voices is drawn more often, each voice alike, and a batch may be empty."""
    seen = []

    class Watched(Crops):
        def cut(self, voices, rng):
            seen.append(voices.tolist())
            return super().cut(voices, rng)

    torch.manual_seed(0)
    model, loss = made_private(make_encoder("x-vector")), make_loss("softmax", 64, 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)
    crops = Watched(frames_of(6), ["a"] * 5 + ["b"], LENGTH)
    dp = SpeakerDP(noise_multiplier=1.0, batch_size=1)
    train_by_voices(model, loss, crops, dp, 60, optimiser, schedule, np.random.default_rng(0))
    assert len(seen) == 60 and [] in seen
    assert all(len(set(batch)) == len(batch) for batch in seen), "a voice gives a crop a step at most"
    counts = np.bincount([voice for batch in seen for voice in batch], minlength=6)
    assert all(binom.cdf(c, 60, 1 / 6) > 1e-3 and binom.sf(c - 1, 60, 1 / 6) > 1e-3 for c in counts)


@pytest.mark.parametrize("encoder", ["x-vector", "ecapa", "lstm"])
def test_every_encoder_can_be_trained_privately(encoder):
    names = ["a", "a", "b", "b"]
    settings = SpeakerTraining(encoder, "softmax", 2, crop_frames=10, dp=SpeakerDP(1.0, batch_size=2))
    first, again, other = (train_speaker_encoder(waves(4), names, settings, seed) for seed in (1, 1, 2))
    parts = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, again, other)]
    assert torch.equal(parts[0], parts[1]) and not torch.equal(parts[0], parts[2])
    assert not any("BatchNorm" in type(layer).__name__ for layer in first.modules())
    alone, together = torch.from_numpy(waves(1)[0])[None], torch.from_numpy(np.stack(waves(3)))
    np.testing.assert_allclose(first(alone).detach()[0], first(together).detach()[0], atol=1e-5)


def test_a_loss_in_which_voices_meet_is_refused_with_the_reason():
    with pytest.raises(UserError, match="'ge2e' cannot be private.*centroid is a mean over utterances.*aam-softmax"):
        SpeakerTraining("lstm", "ge2e", dp=SpeakerDP(1.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either noise_multiplier or target_epsilon"),
        ({"noise_multiplier": 1.0, "target_epsilon": 1.0}, "either noise_multiplier or target_epsilon"),
        ({"target_epsilon": 0.0}, "must be above 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": 1.0, "clipping_norm": 0.0}, "clipping_norm is 0.0"),
        ({"noise_multiplier": 1.0, "delta": 1.0}, "delta is 1.0"),
        ({"noise_multiplier": 1.0, "batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        SpeakerDP(**settings)


def test_a_delta_that_would_publish_a_voice_is_refused():
    with pytest.raises(UserError, match="not below 1/200, one in the voices"):
        SpeakerDP(1.0, delta=0.01).of(200, 10)


def test_a_target_is_kept_and_no_more_noise_is_taken_than_it_needs():
    dp = SpeakerDP(target_epsilon=4.0, batch_size=20)
    spent = dp.ledger(100, 50).epsilon(1e-5)
    assert 3.99 < spent <= 4.0
    assert SpeakerDP(target_epsilon=math.inf).of(100, 50).noise_multiplier == 0.0


# What a group of examples is promised.


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(1.1, 0.1, 200), (0.6, 0.05, 50), (20.0, 1.0, 100), (5.0, 0.6, 9)]
)
def test_a_group_of_one_is_an_example(noise, rate, steps):
    ledger = Ledger("example").added(noise, rate, steps)
    assert group_epsilon(ledger, 1, 1e-5) == pytest.approx(ledger.epsilon(1e-5), rel=1e-6)


@pytest.mark.parametrize("group", [2, 6])
def test_a_group_is_promised_what_the_mixture_of_gaussians_is(group):
    """Against Google's accountant, which composes the same pair exactly: never below it, and not far above."""
    noise, rate, steps = 2.0, 0.2, 10
    chances = binom.pmf(range(group + 1), group, rate)
    exact = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise, list(range(group + 1)), list(chances), value_discretization_interval=1e-2
    ).self_compose(steps)
    least = exact.get_epsilon_for_delta(1e-5)
    found = group_epsilon(Ledger("example").added(noise, rate, steps), group, 1e-5)
    assert least - 0.01 * least <= found <= 1.25 * least


def test_a_group_may_lose_more_than_its_members_and_less_than_by_the_general_rule():
    ledger = Ledger("example").added(3.0, 0.1, 100)
    alone, found = ledger.epsilon(1e-5), [group_epsilon(ledger, k, 1e-5) for k in (1, 2, 4, 8)]
    assert found == sorted(found) and found[1] > 1.2 * found[0]
    # k times epsilon at a delta that is (exp(k epsilon) - 1) / (exp(epsilon) - 1) times as large.
    for k, mine in zip((2, 4), found[1:], strict=False):
        small = 1e-5 * math.expm1(alone) / math.expm1(k * alone)
        assert mine < k * ledger.epsilon(small)


def test_no_noise_and_no_steps():
    assert group_epsilon(Ledger("example").added(0.0, 0.1, 5), 3, 1e-5) == math.inf
    assert group_epsilon(Ledger("example"), 3, 1e-5) == 0.0
    with pytest.raises(UserError, match="a group of 0"):
        group_epsilon(Ledger("example").added(1.0, 0.1, 5), 0, 1e-5)


def test_promises_name_their_units_and_are_of_the_weakest_training():
    dp = SpeakerDP(2.0, batch_size=10)
    trainings = [{"a": 5, "b": 5}, {"c": 40, "d": 60}]
    voice, speaker = dp.promises(trainings, 20)
    assert (voice.unit, speaker.unit) == ("utterance", "speaker")
    assert voice.epsilon_accountant == pytest.approx(dp.ledger(10, 20).epsilon(1e-5))  # every voice in every batch
    both = [group_epsilon(dp.ledger(10, 20), 5, 1e-5), group_epsilon(dp.ledger(100, 20), 60, 1e-5)]
    assert speaker.epsilon_accountant == pytest.approx(max(both)) and speaker.conditions["voices_of_a_speaker"] == 60
    assert [p.epsilon_accountant for p in SpeakerDP(target_epsilon=math.inf).promises(trainings, 20)] == [None, None]
