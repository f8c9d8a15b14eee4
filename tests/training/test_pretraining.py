"""Pre-training: the same weights from the same seed, interrupted or not; losses that can be compared; privacy."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl_privacy.errors import UserError
from fl_privacy.models.cpc import CPCSize
from fl_privacy.models.frames import load_frame_encoder
from fl_privacy.models.tera import TERASize
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.pretraining import (
    DPPretraining,
    Pretraining,
    encoder_of,
    pretrain,
    pretraining_losses,
    published,
    save_module,
)
from fl_privacy.training.pretraining_settings import learning_rate

RNG = np.random.default_rng(0)
WAVES = [
    (np.sin(np.arange(n) * f) * 0.1 + RNG.normal(0, 0.01, n)).astype(np.float32)
    for n, f in [(9000, 0.05), (3000, 0.07), (12_000, 0.1), (16_000, 0.2), (5000, 0.15)]
]
NAMES = ["a", "a", "b", "b", "b"]
TINY: dict[str, Any] = {
    "tera": {"size": TERASize(16, 2, 2, 24, dropout=0.0), "crop_seconds": 0.3, "steps": 6, "batch_size": 3},
    "cpc": {"size": CPCSize(8), "crop_seconds": 0.3, "steps": 6, "batch_size": 3, "negatives": 8},
}


def tiny(model: str, **changes: Any) -> Pretraining:
    return Pretraining(model, **{**TINY[model], **changes})  # type: ignore[arg-type]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class Killed(Exception):
    pass


@pytest.mark.parametrize("model", ["tera", "cpc"])
@pytest.mark.parametrize("dp", [None, DPPretraining(noise_multiplier=0.5)])
def test_a_killed_training_ends_in_the_same_bits(tmp_path: Path, model: str, dp: DPPretraining | None) -> None:
    size = TERASize(16, 2, 2, 24, dropout=0.3) if model == "tera" else CPCSize(8)
    settings = tiny(model, size=size, dp=dp, negatives_among="utterance")
    whole = pretrain(WAVES, NAMES, settings, 1)

    def killer(done: int) -> None:
        seen.append(done)
        if done == 5:
            raise Killed

    seen: list[int] = []
    path = tmp_path / "tera.ckpt"
    with pytest.raises(Killed):
        pretrain(WAVES, NAMES, settings, 1, checkpoint=path, told=killer, checkpoint_every=2)
    torch.manual_seed(99)
    resumed = pretrain(WAVES, NAMES, settings, 1, checkpoint=path, told=seen.append, checkpoint_every=2)
    assert seen == [1, 2, 3, 4, 5, 5, 6]
    assert same(whole, resumed) and whole.record == resumed.record
    assert same(pretrain(WAVES, NAMES, settings, 1, checkpoint=path, told=seen.append), whole) and len(seen) == 7
    assert not same(pretrain(WAVES, NAMES, settings, 2), whole)


def test_training_leaves_random_streams_and_threads_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pretrain(WAVES, NAMES, tiny("cpc", steps=1), 1)
    assert torch.equal(before, torch.get_rng_state())


def test_another_trainings_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    settings = tiny("tera", steps=1)
    pretrain(WAVES, NAMES, settings, 1, checkpoint=path)
    for waves, other, seed in [
        (WAVES, settings, 2), (WAVES, replace(settings, batch_size=2), 1), (WAVES[::-1], settings, 1),
    ]:  # fmt: skip
        with pytest.raises(UserError, match="x.ckpt belongs to other waves, settings or another seed; remove it"):
            pretrain(waves, NAMES, other, seed, checkpoint=path)
    path.write_bytes(b"0")
    with pytest.raises(UserError, match="is no state dict"):
        pretrain(WAVES, NAMES, settings, 1, checkpoint=path)


@pytest.mark.parametrize("model", ["tera", "cpc"])
def test_it_learns_what_it_is_trained_to_do(model: str) -> None:
    steps = [np.cumsum(np.resize(np.repeat([0.05, 0.4, 0.9, 0.2], 1200), len(wave))) for wave in WAVES]
    beats = [(0.1 * np.sin(phase)).astype(np.float32) + wave / 100 for phase, wave in zip(steps, WAVES, strict=True)]
    settings = tiny(model, steps=120, learning_rate=1e-2)
    early = pretrain(beats, NAMES, replace(settings, steps=1, learning_rate=1e-9), 1)
    late = pretrain(beats, NAMES, settings, 1)
    before, after = (pretraining_losses(module, beats, crops=4, seed=0) for module in (early, late))
    assert after.max() < {"tera": 0.93, "cpc": 0.99}[model] * before.min()


def test_the_learning_rate_rises_and_falls_for_tera_and_stays_for_cpc() -> None:
    settings = Pretraining("tera", steps=100, learning_rate=1.0, warm_up=0.1)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:9] == pytest.approx([0.1 * k for k in range(1, 10)])
    assert max(rates) <= 1.0 and rates[10] == pytest.approx(1.0)
    assert np.diff(rates[11:]) == pytest.approx(np.full(88, -1 / 90))
    assert {learning_rate(Pretraining("cpc", steps=100), step) for step in range(100)} == {2e-4}
    assert published("tera").rate == 2e-4 and published("tera", 960).steps == 1_000_000
    assert published("cpc").size == "published" and published("cpc").one_speaker


def test_every_utterance_is_heard_once_an_epoch_and_cpcs_batches_are_one_speakers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fl_privacy.training import pretraining

    heard: list[list[int]] = []
    cut = pretraining.Crops.cut
    monkeypatch.setattr(
        pretraining.Crops, "cut", lambda self, numbers, rng: (heard.append(list(numbers)), cut(self, numbers, rng))[1]
    )
    pretrain(WAVES, NAMES, tiny("tera", steps=5), 1)
    order = [n for batch in heard for n in batch]
    assert all(sorted(order[k : k + 5]) == [0, 1, 2, 3, 4] for k in (0, 5, 10))
    heard.clear()
    pretrain(WAVES, NAMES, tiny("cpc", steps=20), 1)
    owners = [{NAMES[n] for n in batch} for batch in heard]
    assert all(len(owner) == 1 for owner in owners) and {"a"} in owners and {"b"} in owners
    assert all(len(set(batch)) == 3 for batch, owner in zip(heard, owners, strict=True) if owner == {"b"})


# ------------------------------------------------------------------ losses that a grey-box attacker may ask for


@pytest.mark.parametrize("model", ["tera", "cpc"])
@pytest.mark.parametrize("full_length", [False, True])
def test_a_waves_loss_depends_on_the_wave_and_the_seed_alone(model: str, full_length: bool) -> None:
    module = pretrain(WAVES, NAMES, tiny(model, steps=1), 1)
    found = pretraining_losses(module, WAVES, crops=2, seed=0, full_length=full_length)
    assert found.shape == (5,) and found.dtype == np.float64 and np.isfinite(found).all()
    back = pretraining_losses(module, WAVES[::-1], crops=2, seed=0, full_length=full_length)
    np.testing.assert_array_equal(found, back[::-1])
    np.testing.assert_array_equal(
        found[3:4], pretraining_losses(module, WAVES[3:4], crops=2, seed=0, full_length=full_length)
    )
    assert (pretraining_losses(module, WAVES, crops=2, seed=1, full_length=full_length) != found).all()
    assert not module.training


@pytest.mark.parametrize("model", ["tera", "cpc"])
def test_two_models_are_asked_the_same_questions(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fl_privacy.training import ssl_objectives

    kind = ssl_objectives.Reconstruction if model == "tera" else ssl_objectives.Contrast
    asked: list[torch.Tensor] = []
    question = kind.question

    def spied(self: Any, crops: torch.Tensor, rng: np.random.Generator) -> Any:
        inputs, targets = question(self, crops, rng)
        asked.extend([inputs, targets])
        return inputs, targets

    one, other = (pretrain(WAVES, NAMES, tiny(model, steps=1), seed) for seed in (1, 2))
    monkeypatch.setattr(kind, "question", spied)
    first = pretraining_losses(one, WAVES[:1], crops=3, seed=0)
    second = pretraining_losses(other, WAVES[:1], crops=3, seed=0)
    assert first != second
    assert torch.equal(asked[0], asked[2]) and torch.equal(asked[1], asked[3])
    assert len(asked[0]) == 3 and asked[0].shape[1] == (30 if model == "tera" else 4800)


def test_the_crops_length_is_that_of_the_training_unless_said_otherwise(tmp_path: Path) -> None:
    module = pretrain(WAVES, NAMES, tiny("tera", steps=1), 1)
    save_module(module, tmp_path / "own.pt")
    again = load_frame_encoder(tmp_path / "own.pt", "tera")
    np.testing.assert_array_equal(again(WAVES[0]), encoder_of(module)(WAVES[0]))
    asked = {"crops": 2, "seed": 0}
    usual = pretraining_losses(module, WAVES, **asked)
    np.testing.assert_array_equal(usual, pretraining_losses(module, WAVES, **asked, crop_seconds=0.3))
    assert (usual != pretraining_losses(module, WAVES, **asked, crop_seconds=0.2)).any()
    with pytest.raises(UserError, match="crops must be positive, not 0"):
        pretraining_losses(module, WAVES, crops=0, seed=0)


# ------------------------------------------------------------------ privacy


@pytest.mark.parametrize("model", ["tera", "cpc"])
def test_private_training_says_what_it_spent_and_gives_back_the_plain_network(model: str) -> None:
    dp = DPPretraining(target_epsilon=5.0, delta=1e-3)
    module = pretrain(WAVES, NAMES, tiny(model, dp=dp, negatives_among="utterance"), 1)
    spent = module.record["privacy"]
    assert spent["unit"] == "utterance" and spent["sample_rate"] == 3 / 5 and spent["steps"] == 6
    ledger = Ledger("example").added(spent["noise_multiplier"], 3 / 5, 6)
    assert spent["epsilon"] == ledger.epsilon(1e-3) == pytest.approx(5.0, rel=1e-3)
    assert module.record["replaced"] == ({} if model == "tera" else {"recurrent": "DPLSTM"})
    assert encoder_of(module)(WAVES[0]).shape[1] == module.dim


@pytest.mark.parametrize("model", ["tera", "cpc"])
def test_without_noise_or_clipping_private_steps_are_adams_along_the_mean_gradient(model: str) -> None:
    """Every utterance is drawn and none is clipped: one step must be that of ordinary training on all."""
    many = {"steps": 1, "batch_size": 5, "negatives_among": "utterance", "weight_decay": 0.0}
    private = pretrain(WAVES, NAMES, tiny(model, dp=DPPretraining(1e6, 0.0), **many), 1)
    from fl_privacy._randomness import own_randomness
    from fl_privacy.models.pretrained import make_module
    from fl_privacy.training._crops import Crops

    settings = tiny(model, **many)
    with own_randomness("pretraining", model, 1):
        plain = make_module(model, settings.size)
    start = copy.deepcopy(plain)
    objective = settings.objective()
    crops = Crops([objective.sequence(w) for w in WAVES], objective.moments(0.3))
    rng = np.random.default_rng([1, 1, 0])
    rng.integers(2**63)  # dropout's
    rng.random(5)  # who is drawn
    inputs, targets = objective.question(crops.cut(np.arange(5), rng), rng)
    objective.loss(plain(inputs), targets).mean().backward()
    for (name, after), before, p in zip(
        private.named_parameters(), start.parameters(), plain.parameters(), strict=True
    ):
        # The first step of Adam goes one learning rate along the gradient's sign, wherever that is clear.
        clear = p.grad.abs() > 1e-5
        moved = -torch.sign(p.grad) * learning_rate(settings, 0)
        torch.testing.assert_close(
            (after - before)[clear], moved[clear], rtol=2e-2, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_an_utterance_is_clipped_whatever_it_sounds_like() -> None:
    """One utterance changed: the gradients' sum moves by two clipping norms at most."""
    from fl_privacy.training.private import DPSGD, PrivateGradients, replaced

    for model in ("tera", "cpc"):
        settings = tiny(model, negatives_among="utterance")
        objective = settings.objective()
        from fl_privacy.models.pretrained import make_module

        torch.manual_seed(0)
        network, _ = replaced(make_module(model, settings.size))
        sums = []
        for voices in (WAVES, [WAVES[3], *WAVES[1:]]):
            rng = np.random.default_rng(0)
            from fl_privacy.training._crops import Crops

            crops = Crops([objective.sequence(w) for w in voices], objective.moments(0.15)).cut(np.arange(5), rng)
            inputs, targets = objective.question(crops, np.random.default_rng(1))
            with PrivateGradients(network, objective.loss, DPSGD(1e-3, 0.0)) as gradients:
                found = gradients(inputs, targets, rng=rng, expected=1.0)
            sums.append(torch.cat([g.flatten() for g in found.values()]))
        difference = float((sums[0] - sums[1]).norm())
        assert 1e-5 < difference <= 2e-3 * 1.001
        assert float(sums[0].norm()) <= 5e-3 * 1.001


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "apc"}, "model is 'apc'. Known: tera, cpc"),
        ({"steps": 0}, "steps must be positive, not 0"),
        ({"crop_seconds": -1.0}, "crop_seconds must be positive"),
        ({"warm_up": 1.0}, "warm_up is from 0 to below 1"),
        ({"negatives_among": "corpus"}, "negatives_among is 'corpus'. Known: batch, utterance"),
        ({"batches": "both"}, "batches is 'both'. Known: speaker, mixed"),
        ({"model": "cpc", "dp": DPPretraining(noise_multiplier=1.0)}, "take negatives_among = 'utterance'"),
        ({"batches": "speaker", "dp": DPPretraining(noise_multiplier=1.0)}, "draws each utterance by itself"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pretraining(**settings)
    with pytest.raises(UserError, match="one of noise_multiplier and target_epsilon"):
        DPPretraining()


@pytest.mark.parametrize(
    ("waves", "message"),
    [
        ([], "0 waves and 1 speakers"),
        ([np.zeros(399, np.float32)], "wave 0 has 399 samples; 400 at least are needed"),
        ([np.zeros((2, 500), np.float32)], r"wave 0 has the shape \(2, 500\)"),
        ([np.full(900, np.inf, np.float32)], "wave 0 holds samples that are not finite"),
    ],
)
def test_waves_that_cannot_be_trained_on_are_refused(waves: Any, message: str) -> None:
    for model in ("tera", "cpc"):
        with pytest.raises(UserError, match=message):
            pretrain(waves, ["a"], tiny(model), 1)


@pytest.mark.parametrize("model", ["tera", "cpc"])
def test_short_waves_and_silence_can_be_trained_on(model: str) -> None:
    waves = [np.zeros(8000, np.float32), WAVES[0][:400]]
    module = pretrain(waves, ["a", "b"], tiny(model, steps=2), 1)
    assert np.isfinite(module.record["loss"])
    assert np.isfinite(pretraining_losses(module, waves, crops=2, seed=0)).all()
    assert np.isfinite(pretraining_losses(module, waves, crops=2, seed=0, full_length=True)).all()


def test_a_training_that_diverges_says_where() -> None:
    with pytest.raises(UserError, match="pre-training tera diverged at step . of 6; lower learning_rate"):
        pretrain(WAVES, NAMES, tiny("tera", learning_rate=1e30, clip=0.0), 1)
