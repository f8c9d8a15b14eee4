from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.attacks.calibration import Calibration, speaker_folds


def draw(rng, speakers: int, updates: int, distance: float, between: float, within: float):
    """Scores of two classes of speakers with a speaker effect: (n,), labels, names."""
    of = np.arange(speakers) % 2
    effect = rng.normal(size=speakers) * between
    rows = np.repeat(np.arange(speakers), updates)
    scores = distance * of[rows] + effect[rows] + within * rng.normal(size=len(rows))
    return scores, of[rows], [f"s{i}" for i in rows]


def test_evidence_of_a_stranger_is_the_log_likelihood_ratio_of_the_model_that_made_it():
    rng = np.random.default_rng(0)
    scores, labels, speakers = draw(rng, 4000, 5, 2.0, 0.8, 1.5)
    found = Calibration.learn(scores, labels, speakers, 2)
    variance = 0.8**2 + 1.5**2
    assert found.correlation == pytest.approx(0.8**2 / variance, abs=0.03)
    x = np.linspace(-3, 5, 9)
    expected = (2.0 / variance) * (x - 1.0)
    np.testing.assert_allclose(found(x), expected, atol=0.15)
    # Five updates of one speaker: with the correlation, their sum is the ratio of the joint densities.
    mean = 1.7
    joint = 2.0 * (mean - 1.0) / (0.8**2 + 1.5**2 / 5)
    added = 5 * found(np.array([mean]))[0] / (1 + 4 * found.correlation)
    assert added == pytest.approx(joint, rel=0.1)


def cost(evidence: np.ndarray, labels: np.ndarray) -> float:
    """Cllr: 0 is perfect, 1 is what no evidence gives."""
    return float(
        (np.logaddexp(0, -evidence[labels == 1]).mean() + np.logaddexp(0, evidence[labels == 0]).mean())
        / (2 * np.log(2))
    )


def test_adding_up_as_if_updates_were_independent_costs_more_than_it_tells():
    """Forty updates a speaker, mostly one and the same evidence: the plain sum is sure of what is not so."""
    costs = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = Calibration.learn(*draw(rng, 20, 40, 1.0, 1.0, 1.0), 2)
        scores, labels, _ = draw(rng, 200, 40, 1.0, 1.0, 1.0)
        summed, truth = found(scores).reshape(200, 40).sum(axis=1), labels.reshape(200, 40)[:, 0]
        costs.append((cost(summed / (1 + 39 * found.correlation), truth), cost(summed, truth)))
    right, plain = np.mean(costs, axis=0)
    assert right < 0.95
    assert plain > 2.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 12), st.integers(1, 6))
def test_order_is_kept_and_evidence_finite_whatever_was_held_out(seed, speakers, updates):
    rng = np.random.default_rng(seed)
    scores, labels, names = draw(rng, speakers, updates, rng.normal(), rng.random(), rng.random())
    found = Calibration.learn(scores, labels, names, 2)
    x = np.sort(rng.normal(size=30) * 10)
    evidence = found(x)
    assert np.isfinite(evidence).all()
    assert (np.diff(evidence) >= 0).all()
    assert evidence[-1] > evidence[0]
    assert 0 <= found.correlation <= 1


def test_scores_against_the_attack_weigh_next_to_nothing():
    rng = np.random.default_rng(1)
    scores, labels, names = draw(rng, 20, 5, -2.0, 0.5, 0.5)
    assert np.abs(Calibration.learn(scores, labels, names, 2)(scores)).max() < 1e-4


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_of_the_scores_makes_no_difference(classes, scale):
    rng = np.random.default_rng(6)
    of = np.repeat(np.arange(12), 5) % classes
    names = [f"s{i // 5}" for i in range(60)]
    scores = rng.normal(size=(60, classes)) + 2 * np.eye(classes)[of]
    scores = scores if classes > 2 else scores[:, 1] - scores[:, 0]
    one, other = (Calibration.learn(scores * c, of, names, classes) for c in (1.0, scale))
    assert one.correlation == pytest.approx(other.correlation)
    np.testing.assert_allclose(other(scores * scale), one(scores), rtol=1e-6, atol=1e-9)


def test_equal_scores_are_no_crash():
    found = Calibration.learn(np.zeros(12), np.arange(12) // 6, [f"s{i // 2}" for i in range(12)], 2)
    assert np.isfinite(found(np.array([0.0, 1.0]))).all()


def test_three_classes():
    rng = np.random.default_rng(2)
    of = np.arange(900) % 3
    rows = np.repeat(np.arange(900), 4)
    centres = np.array([[2.0, 0, 0], [0, 2, 0], [0, 0, 2]])
    scores = centres[of[rows]] + rng.normal(size=(900, 3))[rows] * 0.5 + rng.normal(size=(len(rows), 3))
    found = Calibration.learn(scores, of[rows], [f"s{i}" for i in rows], 3)
    evidence = found(scores)
    np.testing.assert_allclose(evidence.sum(axis=1), 0, atol=1e-9)
    away = (scores[:, None] - centres) ** 2
    expected = -away.sum(axis=2) / 2 / (1 + 0.5**2)
    expected -= expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(evidence, expected, atol=0.6)
    assert found.correlation == pytest.approx(0.25 / 1.25, abs=0.03)


def test_folds_hold_out_whole_speakers_and_deal_out_classes_evenly():
    speakers = [f"s{i // 3}" for i in range(72)]
    labels = (np.arange(72) // 3) % 2
    held = np.array(list(speaker_folds(speakers, labels, 5, seed=3)))
    assert held.shape == (5, 72)
    np.testing.assert_array_equal(held.sum(axis=0), 1)
    for fold in held:
        assert len({s for s, out in zip(speakers, fold, strict=True) if out}) * 3 == fold.sum()
        assert abs(labels[fold].mean() - 0.5) < 0.15
    assert len(list(speaker_folds(["a", "a", "b"], np.array([0, 0, 1]), 10, 0))) == 1
    # Which class is called which makes no difference.
    np.testing.assert_array_equal(held, list(speaker_folds(speakers, 1 - labels, 5, seed=3)))
