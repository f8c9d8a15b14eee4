from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.audit import (
    Audit,
    best_blind,
    chance,
    majority,
    paired_difference,
    permutation_null,
    permutation_p_value,
)
from fl_privacy.errors import UserError


def test_majority():
    assert majority(["f", "m", "m", "m"]) == 0.75
    assert majority([1, 0]) == 0.5


def test_p_value_counts_ties_and_is_never_zero():
    found = permutation_p_value(0.8, [0.5, 0.8, 0.9, 0.1])
    assert found.value == 3 / 5
    assert permutation_p_value(2.0, np.zeros(49)).value == permutation_p_value(2.0, np.zeros(49)).smallest == 0.02


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40), st.integers(0, 99))
def test_permuting_moves_speakers_whole_and_keeps_the_counts(rows, seed):
    truth = dict(rows)
    speakers = np.array([speaker for speaker, _ in rows])
    labels = np.array([truth[speaker] for speaker in speakers.tolist()])
    if len(set(truth.values())) < 2:
        with pytest.raises(UserError, match="Nothing to permute"):
            permutation_null(lambda y: 0.0, speakers, labels, 1, seed)
        return
    seen = []
    permutation_null(lambda y: seen.append(y) or 0.0, speakers, labels, 3, seed)
    for permuted in seen:
        new = {speaker: set(permuted[speakers == speaker].tolist()) for speaker in truth}
        assert all(len(values) == 1 for values in new.values())
        assert Counter(next(iter(v)) for v in new.values()) == Counter(truth.values())
        assert not np.array_equal(permuted, labels)


def test_null_runs_through_every_other_map_once_where_there_are_few():
    seen = []
    permutation_null(lambda labels: seen.append(tuple(labels.tolist())) or 0.0, range(4), [0, 0, 1, 1], 50, 0)
    every = set(itertools.permutations([0, 0, 1, 1])) - {(0, 0, 1, 1)}
    assert len(seen) == 5
    assert set(seen) == every


def test_null_repeats_with_its_seed_and_never_a_map():
    def draw(seed):
        return permutation_null(lambda y: float(y @ 2.0 ** np.arange(12)), range(12), [0, 1] * 6, 60, seed)

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    assert np.unique(draw(1)).size == 60


@pytest.mark.parametrize(("n_speakers", "n"), [(4, 100), (6, 19), (12, 39)])
def test_p_values_are_valid_and_not_wasteful_under_the_null(n_speakers, n):
    labels = np.arange(n_speakers) % 2
    found = []
    for draw in range(400):
        scores = np.random.default_rng([7, draw]).normal(size=n_speakers)

        def statistic(y, scores=scores):
            return float(scores[y == 1].mean() - scores[y == 0].mean())

        null = permutation_null(statistic, np.arange(n_speakers), labels, n, draw)
        found.append(permutation_p_value(statistic(labels), null))
    for level in (0.05, 0.1, 0.2, 0.5):
        rate = np.mean([p.value <= level for p in found])
        error = np.sqrt(level * (1 - level) / 400)
        assert rate <= level + 3 * error
        attained = np.floor(level * (1 + found[0].n) + 1e-9) / (1 + found[0].n)
        assert rate >= attained - 3 * error


def test_permuting_needs_something_to_permute():
    with pytest.raises(UserError, match="Nothing to permute"):
        permutation_null(lambda y: 0.0, [1, 2], ["f", "f"], 10, 0)
    with pytest.raises(UserError, match="two labels"):
        permutation_null(lambda y: 0.0, ["a", "a"], [0, 1], 1, 0)
    with pytest.raises(UserError, match="speakers"):
        permutation_null(lambda y: 0.0, ["a"], [0, 1], 1, 0)


def audits(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(30) % 2
    strong = Audit(rng.normal(size=30) + 3 * labels, labels, name="strong")
    weak = Audit(rng.normal(size=30) + labels, labels, name="weak")
    wrong = Audit(rng.normal(size=30) - 2 * labels, labels, name="wrong")
    return strong, weak, wrong


def test_difference_to_a_blind_baseline():
    strong, weak, wrong = audits()
    found = paired_difference(strong, weak)
    assert found.value == pytest.approx(strong.auc().value - weak.auc().value)
    assert found.low < found.value < found.high
    assert paired_difference(strong, wrong).low > 0
    against_chance = paired_difference(strong, chance(strong))
    assert against_chance.value == pytest.approx(strong.auc().value - 0.5)
    assert against_chance.low == pytest.approx(strong.auc().low - 0.5)
    assert paired_difference(wrong, wrong).low < 0 < paired_difference(wrong, wrong).high


def test_best_blind_is_never_worse_than_chance():
    strong, weak, wrong = audits()
    assert best_blind([wrong, weak]) == "weak"
    assert best_blind([weak, strong]) == "strong"
    assert best_blind([wrong]) == "chance"
    assert best_blind([]) == "chance"


def test_difference_needs_the_same_speakers_and_labels():
    strong, weak, _ = audits()
    fewer = Audit(weak.scores[:-1], weak.labels[:-1], weak.groups[:-1], name="weak")
    with pytest.raises(UserError, match="not scored on the same speakers: 1 are in one alone, such as 29"):
        paired_difference(strong, fewer)
    with pytest.raises(UserError, match="disagree on the labels"):
        paired_difference(strong, Audit(weak.scores, ~weak.labels, weak.groups))
    tiny = Audit([1.0, 0.0, 0.5], [1, 0, 0])
    assert paired_difference(tiny, tiny).low is None
