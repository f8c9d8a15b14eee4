"""Inversions against a slow one, one at a time; and the invariances of a network that normalises its input."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from buzzing_voices import voices

from fl_privacy.attacks.inversion import (
    Inversion,
    Job,
    Slopes,
    WhiteBox,
    invert,
    make_jobs,
    read_outs,
    restarts,
    slide,
    trimmed,
)
from fl_privacy.attacks.inversion.objectives import OBJECTIVES
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier
from fl_privacy.models.sincnet import SincNetSize
from fl_privacy.training.sincnet import SincNetTraining, sentence_error, train_classifier

SPEAKERS = 8
WINDOW = 1600
STRIDE = 250
TOY = SincNetSize(
    window=WINDOW,
    sinc_filters=16,
    sinc_length=101,
    sinc_stride=4,
    convolutions=((12, 5), (12, 5)),
    dense=(48, 48),
    norm_over="all",
)
"""Half the published window: enough to tell eight voices apart, and quick to invert."""


@pytest.fixture(scope="session")
def classifier():
    """A small network that knows eight invented voices."""
    settings = SincNetTraining(TOY, steps=130, batch_size=32, decay="none", shift=400)
    return train_classifier(*voices(SPEAKERS, 8), settings, 1)


@pytest.fixture(scope="session")
def precise(classifier):
    """The same in double precision: what a batch rounds otherwise does not grow to be seen."""
    return SpeakerClassifier(deepcopy(classifier.network).double(), classifier.classes, window=WINDOW, shift=400)


def test_the_network_under_attack_knows_its_speakers(classifier):
    assert sentence_error(classifier, *voices(SPEAKERS, 3, seed=1)) <= 0.3


def one_by_one(precise, job, settings):
    """Algorithm 1, written plainly."""
    lam = job.step_size * (np.var(job.start) if settings.scale == "variance" else 1.0)
    classifier, x = precise, torch.from_numpy(job.start)[None]
    costs, visited, step = [], [], 0
    while True:
        x = x.detach().requires_grad_()
        logits = classifier.logits(x.double())
        p = torch.softmax(logits.double(), 1)[0, job.identity]
        cost = 1 - p if settings.objective == "one-minus-p" else -torch.log(p)
        (gradient,) = torch.autograd.grad(cost, x)
        costs.append(float(cost.detach()))
        visited.append(x.detach())
        if 1 - float(p.detach()) <= settings.threshold:
            return visited[int(np.argmin(costs))][0].numpy(), step, "threshold"
        if step >= settings.patience and costs[-1] >= max(costs[-1 - settings.patience : -1]):
            return visited[int(np.argmin(costs))][0].numpy(), step, "patience"
        if step >= settings.iterations:
            return visited[int(np.argmin(costs))][0].numpy(), step, "iterations"
        x = x.detach() - lam * gradient
        step += 1


@pytest.mark.parametrize("name", ["one-minus-p", "cross-entropy"])
def test_the_queue_equals_a_plain_loop(precise, name):
    settings = Inversion(name, iterations=40, patience=25, threshold=0.05)
    jobs = [
        replace(job, step_size=size)
        for size, start in ((0.3, "laplace"), (3.0, "white"))
        for job in make_jobs(range(SPEAKERS), start, WINDOW, seed=2)
    ]
    told = []
    found = invert(precise, jobs, settings, micro_batch=5, told=told.append)
    assert told == list(range(1, len(jobs) + 1))
    reasons = set()
    for job, one in zip(jobs, found, strict=True):
        wave, steps, reason = one_by_one(precise, job, settings)
        assert (one.iterations, one.reason, one.identity) == (steps, reason, job.identity)
        np.testing.assert_allclose(one.wave, wave, atol=1e-5)
        with torch.no_grad():
            p = torch.softmax(precise.logits(torch.from_numpy(one.wave)[None].double()), 1)[0, job.identity]
        assert one.probability == pytest.approx(float(p), abs=1e-4)
        reasons.add(reason)
    assert {"threshold", "iterations"} <= reasons or name == "one-minus-p"


@pytest.mark.parametrize(("step", "size"), [("plain", 0.5), ("normalised", 0.05), ("adam", 0.02)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_is_what_its_jobs_are_alone(precise, step, size, objective):
    settings = Inversion(objective, step, iterations=12, patience=8, threshold=0.2)
    jobs = make_jobs(range(SPEAKERS), "gumbel", WINDOW, step_size=size)
    together = invert(precise, jobs, settings, micro_batch=3)
    for job, one in zip(jobs, together, strict=True):
        (alone,) = invert(precise, [job], settings)
        assert [w.iterations for w in one.windows] == [w.iterations for w in alone.windows]
        np.testing.assert_allclose(one.wave, alone.wave, atol=1e-5)
    shards = invert(precise, jobs[:3], settings, 3) + invert(precise, jobs[3:], settings, 2)
    for one, other in zip(together, shards, strict=True):
        np.testing.assert_allclose(one.wave, other.wave, atol=1e-5)


def test_single_precision_stays_close_for_a_while(classifier):
    jobs = make_jobs(range(SPEAKERS), "laplace", WINDOW)
    settings = Inversion(iterations=20, patience=20, threshold=0.0)
    for job, one in zip(jobs, invert(classifier, jobs, settings, micro_batch=8), strict=True):
        (alone,) = invert(classifier, [job], settings)
        assert np.abs(one.wave - alone.wave).max() <= 0.01 * job.start.std()
        assert one.cost == pytest.approx(alone.cost, rel=0.02, abs=1e-3)


def test_the_scale_of_a_start_does_not_matter_to_relative_steps(classifier):
    """The law: a step of plain gradient descent relative to the wave is lambda / Var(start)."""
    jobs = make_jobs(range(SPEAKERS), "laplace", WINDOW)
    louder = [replace(job, start=8 * job.start) for job in jobs]
    settings = Inversion(iterations=10, threshold=0.0)
    for one, other in zip(invert(classifier, jobs, settings), invert(classifier, louder, settings), strict=True):
        np.testing.assert_allclose(8 * one.wave, other.wave, atol=2e-3)
    absolute = replace(settings, scale="absolute")
    same = [replace(job, step_size=0.5 * float(np.var(job.start))) for job in jobs]
    for one, other in zip(invert(classifier, jobs, settings), invert(classifier, same, absolute), strict=True):
        np.testing.assert_allclose(one.wave, other.wave, atol=1e-5)
    by = WhiteBox(classifier)
    points, rngs = torch.from_numpy(np.stack([job.start for job in jobs])), [np.random.default_rng(0)] * SPEAKERS
    soft, loud = (by(scale * points, torch.arange(SPEAKERS), rngs).gradient for scale in (1, 8))
    torch.testing.assert_close(soft, 8 * loud, atol=1e-5, rtol=1e-3)


def test_cross_entropy_gets_where_one_minus_p_starves(classifier):
    jobs = make_jobs(range(SPEAKERS), "laplace", WINDOW)
    by = {name: invert(classifier, jobs, Inversion(name, iterations=40)) for name in ("one-minus-p", "cross-entropy")}
    right = {name: np.mean([one.probability > 0.5 for one in found]) for name, found in by.items()}
    assert right["cross-entropy"] >= 0.8 and right["cross-entropy"] > right["one-minus-p"] + 0.3


def test_a_sliding_inversion_is_read_in_every_way(classifier):
    jobs = make_jobs(range(SPEAKERS), "laplace", 2 * WINDOW)
    found = slide(classifier, jobs, Inversion(iterations=40), stride=STRIDE, micro_batch=6)
    read = [read_outs(classifier, one) for one in found]
    assert [w.offset for w in found[0].windows] == list(range(0, WINDOW + 1, STRIDE))
    share = {name: np.mean([one.to_dict()[name] for one in read]) for name in read[0].to_dict()}
    assert share["last_window"] >= 0.8 and share["grid_any"] >= share["last_window"]
    assert share["grid_all"] <= share["grid_any"]
    assert trimmed(found[0].wave, WINDOW).shape == (WINDOW,)
    np.testing.assert_array_equal(trimmed(found[0].wave, WINDOW), found[0].wave[WINDOW // 2 : -WINDOW // 2])
    # By hand, for one of them.
    one, grid = found[2], [classifier.decide(found[2].wave[w.offset : w.offset + WINDOW])[0] for w in found[2].windows]
    assert read[2].grid_any == (2 in grid) and read[2].grid_all == (set(grid) == {2})
    assert read[2].last_window == (grid[-1] == 2) and read[2].trim == (
        classifier.decide(one.wave[WINDOW // 2 : -WINDOW // 2])[0] == 2
    )
    assert read[2].sentence == (classifier.decide(one.wave)[0] == 2)


def test_an_inverted_window_is_lost_off_its_place(classifier):
    jobs = make_jobs(range(SPEAKERS), "laplace", 2 * WINDOW)
    windows = [replace(job, start=job.start[:WINDOW]) for job in jobs]
    found = invert(classifier, windows, Inversion(iterations=40))
    waves = [np.concatenate([one.wave, job.start[WINDOW:]]) for one, job in zip(found, jobs, strict=True)]
    right = [
        np.mean([classifier.decide(wave[at : at + WINDOW])[0] == n for n, wave in enumerate(waves)])
        for at in (0, 4, WINDOW // 2)
    ]
    assert right[0] >= 0.8 and right[1] >= 0.6 and right[2] <= right[0] - 0.4


def test_sliding_is_window_after_window(classifier):
    (job,) = make_jobs([3], "laplace", WINDOW + 800)
    settings = Inversion(iterations=6, threshold=0.0)
    (found,) = slide(classifier, [job], settings, stride=500)
    wave = job.start.copy()
    unit = float(np.std(job.start))
    for offset in (0, 500):
        size = job.step_size * unit**2
        (one,) = invert(classifier, [Job(3, wave[offset : offset + WINDOW], size)], replace(settings, scale="absolute"))
        wave[offset : offset + WINDOW] = one.wave
    np.testing.assert_allclose(found.wave, wave, atol=1e-5)
    assert found.iterations == 12 and (found.wave[WINDOW + 500 :] == job.start[WINDOW + 500 :]).all()
    control = restarts([job], 2, WINDOW, 500)
    assert [len(c.start) for c in control] == [WINDOW, WINDOW] and control[0].seed != control[1].seed
    np.testing.assert_array_equal(control[1].start, job.start[500 : WINDOW + 500])


def test_starts_without_variance_are_singular(classifier):
    zeros = Job(1, np.zeros(WINDOW, dtype=np.float32))
    with pytest.raises(UserError, match="job 0: the start is constant.*scale='absolute'"):
        invert(classifier, [zeros], Inversion())
    by, rng = WhiteBox(classifier), [np.random.default_rng(0)]
    noise = torch.from_numpy(make_jobs([1], "laplace", WINDOW)[0].start)[None]
    flat, usual = (by(x, torch.tensor([1]), rng).gradient.norm() for x in (torch.zeros(1, WINDOW), noise))
    assert flat > 1000 * usual, "the deviation of zero divides the gradient by a millionth"


class Broken:
    """Quadratic costs, but one identity's gradient is no number from the third step on."""

    length, classes, device = 4, 3, torch.device("cpu")

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.seen = 0

    def __call__(self, points, identities, rngs):
        self.rows.append(len(points))
        gradient = 2 * points
        if 1 in identities.tolist():
            self.seen += 1
            if self.seen > 2:
                gradient[identities == 1] = float("nan")
        return Slopes(points.square().sum(1), gradient, torch.full((len(points),), 0.5))


def test_divergence_is_told_and_the_others_go_on():
    target = Broken()
    jobs = [Job(i, np.array([1, 2, 3, 4], np.float32), 0.1) for i in (0, 1, 2, 0)]
    found = invert(target, jobs, Inversion(iterations=6, scale="absolute"), micro_batch=2)
    assert [one.reason for one in found] == ["iterations", "diverged", "iterations", "iterations"]
    assert found[1].iterations == 2
    np.testing.assert_allclose(found[1].wave, jobs[1].start * 0.8**2, rtol=1e-5)
    for one in (found[0], found[2], found[3]):
        np.testing.assert_allclose(one.wave, jobs[0].start * 0.8**6, rtol=1e-5)
    assert target.rows[:9] == [2] * 9, "the place of a job that ended is taken at once"


def test_overflowing_steps_are_told(classifier):
    jobs = make_jobs([0, 1], "laplace", WINDOW)
    jobs[0] = replace(jobs[0], step_size=1e38)
    found = invert(classifier, jobs, Inversion(iterations=5, threshold=0.0))
    assert found[0].reason == "diverged" and found[1].reason == "iterations"
    assert np.isfinite(found[0].wave).all()


class Noisy(Broken):
    """Gradients from each job's own chance."""

    def __call__(self, points, identities, rngs):
        noise = torch.from_numpy(np.stack([rng.standard_normal(4) for rng in rngs])).float()
        return Slopes(points.square().sum(1), 2 * points + noise, torch.full((len(points),), 0.5))


def test_chance_is_a_job_s_own():
    jobs = [Job(0, np.full(4, 3, np.float32), 0.1, seed) for seed in (5, 6, 5, 7)]
    settings = Inversion(iterations=9, scale="absolute")
    found = invert(Noisy(), jobs, settings, micro_batch=3)
    np.testing.assert_array_equal(found[0].wave, found[2].wave)
    assert not np.array_equal(found[0].wave, found[1].wave)
    np.testing.assert_array_equal(found[3].wave, invert(Noisy(), jobs[3:], settings)[0].wave)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (Job(8, np.ones(WINDOW, np.float32)), "job 0: there is no class 8; the target has 8"),
        (Job(-1, np.ones(WINDOW, np.float32)), "there is no class -1"),
        (Job(0, np.ones(1500, np.float32)), r"shape \(1500,\); expected \(1600,\)"),
        (Job(0, np.full(WINDOW, np.nan, np.float32)), "not finite"),
        (Job(0, np.ones(WINDOW, np.float32), 0.0), "step_size is 0.0"),
    ],
)
def test_bad_jobs_are_refused_before_any_work(classifier, job, said):
    with pytest.raises(UserError, match=said):
        invert(classifier, [job], Inversion(scale="absolute"))


def test_bad_settings_are_refused(classifier):
    for wrong in ({"objective": "p"}, {"step": "newton"}, {"iterations": 0}, {"threshold": 1.0}, {"scale": "db"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Inversion(**wrong)
    with pytest.raises(UserError, match="micro_batch"):
        invert(classifier, [], Inversion(), micro_batch=0)
    assert invert(classifier, [], Inversion()) == []
    with pytest.raises(UserError, match="at least 1600"):
        slide(classifier, [Job(0, np.ones(1500, np.float32))], Inversion())
    with pytest.raises(UserError, match="900 are left, fewer"):
        trimmed(np.zeros(2500, np.float32), WINDOW)
