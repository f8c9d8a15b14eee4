"""Countermeasures on answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.defenses.outputs import OUTPUTS, ConfidenceNoise, LabelOnly, Purification, output_defense
from fl_privacy.errors import UserError


def answers(n: int, classes: int, seed: int) -> np.ndarray:
    logits = 3 * np.random.default_rng(seed).standard_normal((n, classes))
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True)


def made(name: str, given_answers: np.ndarray):
    defense = output_defense({"name": name})
    return defense.fitted(given_answers) if isinstance(defense, Purification) else defense


@given(st.sampled_from(sorted(OUTPUTS)), st.integers(0, 1000), st.integers(2, 12))
def test_answers_keep_their_shape_and_are_probabilities(name, seed, classes):
    before = answers(20, classes, seed)
    kept = before.copy()
    after = made(name, before)(before, np.random.default_rng(0))
    assert after.shape == before.shape and np.array_equal(before, kept), "what is given stays as it is"
    assert np.isfinite(after).all() and after.min() >= 0 and after.max() <= 1 + 1e-9
    if name != "rounding":
        assert np.allclose(after.sum(axis=1), 1)


def test_what_each_lets_through():
    before = answers(500, 6, 1)
    rng = np.random.default_rng(2)
    rounded = output_defense({"name": "rounding", "digits": 1})(before, rng)
    assert set(np.unique(np.round(rounded * 10, 6))) <= set(range(11))
    labels = LabelOnly()(before, rng)
    assert np.array_equal(labels.argmax(axis=1), before.argmax(axis=1)) and np.array_equal(np.unique(labels), [0, 1])
    noisy = ConfidenceNoise(0.2)(before, rng)
    assert np.abs(noisy - before).max() > 0.05
    assert not np.array_equal(noisy, ConfidenceNoise(0.2)(before, rng)), "asked twice, answered otherwise"
    # Uniform noise of mean .1 on six classes: 1 + .6 to share. Its mean over many answers gives the answer back.
    again = np.mean([ConfidenceNoise(0.2)(before[:5], rng) for _ in range(4000)], axis=0)
    assert np.allclose(again, (before[:5] + 0.1) / 1.6, atol=0.01)


def test_purified_answers_lie_in_few_directions_and_keep_most_decisions():
    reference = answers(400, 10, 3)
    purified = Purification(3).fitted(reference)
    before = answers(100, 10, 4)
    logs = np.log(purified(before, np.random.default_rng(0)))
    # Up to the constant that makes a row sum to one, log-probabilities span as many directions as were kept.
    centred = logs - logs.mean(axis=1, keepdims=True)
    assert np.linalg.matrix_rank(centred - centred.mean(axis=0), tol=1e-6) <= 3
    whole = Purification(10).fitted(reference)(before, np.random.default_rng(0))
    assert np.allclose(whole, before, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "magic"}, "unknown countermeasure 'magic'. Known: confidence-noise"),
        ({"name": "rounding", "digits": -1}, "digits = -1"),
        ({"name": "rounding", "places": 1}, "it takes: digits"),
        ({"name": "confidence-noise", "amount": 0.0}, "must be positive"),
        ({"name": "purification", "keep": 0}, "must be positive"),
    ],
)
def test_wrong_settings_are_said(settings, message):
    with pytest.raises(UserError, match=message):
        output_defense(settings)


def test_purification_sees_reference_voices_first():
    with pytest.raises(UserError, match="fitted on answers"):
        Purification(2)(answers(2, 4, 0), np.random.default_rng(0))
    with pytest.raises(UserError, match="two at least"):
        Purification(2).fitted(answers(1, 4, 0))
