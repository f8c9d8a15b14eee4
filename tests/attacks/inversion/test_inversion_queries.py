"""Gradients from answers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct

from fl_privacy.attacks.inversion.queries import Access, EstimatedGradients, Estimation, band_limited
from fl_privacy.defenses.outputs import ConfidenceNoise, LabelOnly
from fl_privacy.errors import UserError

W = np.random.default_rng(0).standard_normal((3, 32)) / 4


def softmax_of(windows):
    odds = np.exp(np.asarray(windows, dtype=np.float64) @ W.T)
    return odds / odds.sum(axis=1, keepdims=True)


def true_gradient(wave, t):
    p = softmax_of(wave[None])[0]
    return -(W[t] - p @ W)


def ask(access, estimation, waves, whose, seed):
    estimate = EstimatedGradients(access, estimation, 32, 3)
    rngs = [np.random.default_rng([seed, n]) for n in range(len(waves))]
    found = estimate(torch.from_numpy(np.asarray(waves)), torch.tensor(whose), rngs)
    return found.cost.numpy(), found.gradient.numpy(), found.miss.numpy()


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("t", [0, 2])
def test_the_estimate_is_the_gradient_of_minus_the_logarithm(t):
    wave = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    access = Access(softmax_of)
    cost, gradient, miss = ask(access, Estimation(pairs=4000, radius=0.01, below=1.0), wave[None], [t], seed=3)
    assert cosine(gradient[0], true_gradient(wave, t)) > 0.98
    assert np.linalg.norm(gradient[0]) == pytest.approx(np.linalg.norm(true_gradient(wave, t)), rel=0.1)
    assert cost[0] == pytest.approx(-np.log(softmax_of(wave[None])[0, t]), rel=0.02)
    assert miss[0] == pytest.approx(1 - softmax_of(wave[None])[0, t], rel=0.02)
    assert access.queries == 8000


def test_a_point_is_told_alike_whoever_else_is_asked():
    waves = np.random.default_rng(7).standard_normal((4, 32)).astype(np.float32)
    how, noisy = Estimation(pairs=8), ConfidenceNoise(0.3)
    together = ask(Access(softmax_of, noisy), how, waves, [0, 1, 2, 0], seed=5)[1]
    alone = ask(Access(softmax_of, noisy), how, waves[:2], [0, 1], seed=5)[1]
    assert np.allclose(together[:2], alone)


def test_noisy_answers_cost_more_queries():
    waves = np.random.default_rng(2).standard_normal((12, 32)).astype(np.float32)
    whose = np.arange(12) % 3

    def quality(repeats):
        access = Access(softmax_of, ConfidenceNoise(0.5))
        gradients = ask(access, Estimation(pairs=200, radius=0.3, below=1.0, repeats=repeats), waves, whose, seed=1)[1]
        told = [cosine(g, true_gradient(w, t)) for g, w, t in zip(gradients, waves, whose, strict=True)]
        return np.mean(told), access.queries

    (once, few), (often, many) = quality(1), quality(30)
    assert many == 30 * few == 30 * 12 * 400
    assert often > once + 0.08


def test_labels_far_from_the_class_give_no_direction():
    far = (-20 * W[1]).astype(np.float32)
    cost, gradient, _ = ask(Access(softmax_of, LabelOnly()), Estimation(objective="probability"), far[None], [1], 0)
    assert cost[0] == 1 and not gradient.any()
    # At the boundary they do: the way into the class.
    edge = (0.05 * np.random.default_rng(4).standard_normal(32)).astype(np.float32)
    wide = Estimation(pairs=3000, radius=2.0, below=1.0, objective="probability")
    gradient = ask(Access(softmax_of, LabelOnly()), wide, edge[None], [1], 0)[1][0]
    assert cosine(-gradient, W[1] - W.mean(axis=0)) > 0.8


def test_directions_lie_below_a_frequency_and_have_unit_power():
    drawn = band_limited(200, 400, 0.25, np.random.default_rng(0))
    spectrum = np.abs(dct(drawn, norm="ortho", axis=1))
    assert spectrum[:, 100:].max() < 1e-9 and spectrum[:, :100].min(axis=1).max() > 0
    assert np.mean(drawn**2) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"pairs": 0}, "pairs"), ({"below": 1.5}, "share of half"), ({"objective": "magic"}, '"log" or "probability"')],
)
def test_wrong_settings_are_said(settings, message):
    with pytest.raises(UserError, match=message):
        Estimation(**settings)
