"""Classifiers on features, calibration by references, and both over a swap design."""

from __future__ import annotations

import numpy as np
import pytest

from fl_privacy.attacks.membership import FEATURES
from fl_privacy.attacks.membership.classifiers import (
    Boosting,
    DeepSets,
    Logistic,
    OneFeature,
    Perceptron,
    PublishedMLP,
    threshold_at,
)
from fl_privacy.attacks.membership.evidence import MembershipAttack, TaughtAttack, default_attacks
from fl_privacy.attacks.membership.protocol import swap_design
from fl_privacy.attacks.membership.references import calibrate
from fl_privacy.audit import SwappedAudit
from fl_privacy.audit.metrics import auc
from fl_privacy.errors import UserError

PAIR = FEATURES.index("pair.mean")


def rows(rng, n=200, shift=2.0):
    members = np.arange(n) % 2 == 0
    features = rng.standard_normal((n, len(FEATURES)))
    features *= 0.2
    features[:, PAIR] = rng.standard_normal(n) + shift * members
    return features, members, np.array([f"s{i // 2}" for i in range(n)])


@pytest.mark.parametrize("classifier", [OneFeature(), Logistic(), Boosting(), Perceptron(), PublishedMLP(epochs=200)])
def test_every_classifier_finds_what_there_is(classifier):
    rng = np.random.default_rng(0)
    features, members, _ = rows(rng, 600)
    scores = classifier.fit(*rows(rng, 600)).decision_function(features)
    assert scores.shape == (600,) and auc(scores[members], scores[~members]) > 0.75
    assert np.mean((scores > 0) == members) > 0.65


def test_one_feature_ranks_as_the_feature_does():
    rng = np.random.default_rng(1)
    features, _, _ = rows(rng)
    scores = OneFeature().fit(*rows(rng)).decision_function(features)
    assert (np.argsort(scores) == np.argsort(features[:, PAIR])).all()


def test_the_published_classifier_is_drawn_by_its_seed():
    data = rows(np.random.default_rng(2), n=40)
    scores = [PublishedMLP(epochs=20, seed=s).fit(*data).decision_function(data[0]) for s in (1, 1, 2)]
    assert np.array_equal(scores[0], scores[1]) and not np.array_equal(scores[0], scores[2])


@pytest.mark.parametrize("classifier", [Logistic(), Boosting(), OneFeature(), PublishedMLP(epochs=5)])
def test_classifiers_refuse_what_they_cannot_learn_on(classifier):
    features, members, speakers = rows(np.random.default_rng(3), n=20)
    with pytest.raises(UserError, match="members and non-members"):
        classifier.fit(features, np.ones(20, bool), speakers)
    with pytest.raises(UserError, match="NaN"):
        classifier.fit(np.full_like(features, np.nan), members, speakers)
    with pytest.raises(UserError, match="one row for each"):
        classifier.fit(features[:-1], members, speakers)


def test_a_threshold_keeps_its_false_positive_rate_on_shadows():
    rng = np.random.default_rng(4)
    scores, members = rng.standard_normal(400), np.arange(400) % 2 == 0
    threshold = threshold_at(scores, members, 0.05)
    assert np.mean(scores[~members] > threshold) == 0.05
    with pytest.raises(UserError, match="false positive rate of 0.001: 200 negatives cannot resolve it"):
        threshold_at(scores, members, 0.001)


# Calibration.


def population(rng, n=400, k=6, own=1.0, error=0.5):
    """A statistic before one recogniser and k references, with levels of their own."""
    speaker = own * rng.standard_normal(n)
    levels = rng.uniform(-1, 1, k)
    references = speaker[:, None] + levels + error * rng.standard_normal((n, k))
    return speaker + error * rng.standard_normal(n), references


@pytest.mark.parametrize(("own", "error", "k"), [(1.0, 0.5, 6), (1.0, 2.0, 3), (0.3, 1.0, 2)])
def test_the_slope_is_the_best_there_is(own, error, k):
    """Least squares of a stranger's statistic on the references' mean, from many speakers."""
    observed, references = population(np.random.default_rng(5), 40_000, k, own, error)
    best = np.polyfit(references.mean(axis=1), observed, 1)[0]
    found = calibrate(observed, references)
    np.testing.assert_allclose(found.slope, best, atol=0.02)
    assert found.score.std() == pytest.approx(1.0, abs=0.1)
    assert abs(np.corrcoef(found.residual, references.mean(axis=1))[0, 1]) < 0.02


def test_calibration_tells_members_from_speakers_who_speak_steadily():
    rng = np.random.default_rng(6)
    observed, references = population(rng)
    members = np.arange(400) % 2 == 0
    observed[members] += 1.0
    raw = auc(observed[members], observed[~members])
    for scores in (calibrate(observed, references).residual, calibrate(observed, references).score):
        assert auc(scores[members], scores[~members]) > raw + 0.08


def test_references_that_say_nothing_are_not_believed():
    rng = np.random.default_rng(7)
    found = calibrate(rng.standard_normal(4000), rng.standard_normal((4000, 4)))
    assert abs(found.slope).max() < 0.2


def test_references_that_know_the_speaker_are_left_out():
    rng = np.random.default_rng(8)
    observed, references = population(rng, 300, 6)
    known = rng.random((300, 6)) < 0.4
    known[known.all(axis=1), 0] = False
    hidden = np.where(known, np.nan, references)
    found = calibrate(observed, hidden)
    again = calibrate(observed, np.where(known, np.nan, references + 100 * known))
    np.testing.assert_array_equal(found.score, again.score)
    fewer, more = found.slope[known.sum(axis=1) == 4].max(), found.slope[known.sum(axis=1) == 1].min()
    assert fewer < more


def test_features_are_calibrated_one_by_one():
    rng = np.random.default_rng(9)
    parts = [population(rng, 50, 4) for _ in range(3)]
    observed, references = np.stack([o for o, _ in parts], axis=1), np.stack([r for _, r in parts], axis=2)
    found = calibrate(observed, references).score
    for column, (one, others) in enumerate(parts):
        np.testing.assert_allclose(found[:, column], calibrate(one, others).score)
    constant = calibrate(np.ones((5, 1)), np.ones((5, 3, 1))).score
    assert np.isfinite(constant).all()


@pytest.mark.parametrize(
    ("observed", "references", "message"),
    [
        (np.zeros(2), np.zeros((2, 3)), "three speakers and two references"),
        (np.zeros(5), np.zeros((5, 1)), "three speakers and two references"),
        (np.zeros(5), np.zeros((4, 3)), r"references of shape \(4, 3\) for 5 speakers"),
        (np.zeros(5), np.where(np.arange(5)[:, None] == 3, np.nan, np.zeros((5, 3))), "speaker 3 has no reference"),
    ],
)
def test_what_cannot_be_calibrated(observed, references, message):
    with pytest.raises(UserError, match=message):
        calibrate(observed, references)


# Over a design.


def world(seed, shift, speakers=52, pairs=2):
    """Features of every speaker before every recogniser: the speaker's own, noise, and a shift for members."""
    rng = np.random.default_rng(seed)
    design = swap_design([f"p{i}" for i in range(speakers)], 4, pairs, seed)
    people = [*design.speakers(0), *design.speakers(1)]
    own = {name: rng.standard_normal(len(FEATURES)) for name in people}
    heard = []
    for recogniser in design.recognisers:
        heard.append({name: own[name] + 0.5 * rng.standard_normal(len(FEATURES)) for name in people})
        for name in recogniser.members:
            heard[-1][name][PAIR] += shift
    return design, heard


def evidence_of(attack, design, heard, fpr=0.1, **given):
    return TaughtAttack(attack, design, [heard], fpr=fpr, **given).tell(heard)


def audit(found):
    return SwappedAudit(found.scores, found.members, found.speakers, found.targets)


def test_calibration_helps_over_a_design():
    design, heard = world(10, 1.0)
    found = {
        inputs: evidence_of(MembershipAttack(OneFeature(0 if inputs == "residual" else PAIR), inputs), design, heard)
        for inputs in ("features", "calibrated", "residual")
    }
    values = {inputs: audit(evidence).auc().value for inputs, evidence in found.items()}
    assert values["features"] > 0.65
    assert values["calibrated"] > values["features"] + 0.05 and values["residual"] > values["features"] + 0.05
    evidence = found["calibrated"]
    assert len(evidence.scores) == 8 * 24 and set(evidence.targets) == set(range(8))
    called = evidence.scores > evidence.thresholds
    assert np.mean(called[~evidence.members]) == pytest.approx(0.1, abs=0.08)


@pytest.mark.parametrize("name", ["pair.mean likelihood ratio", "pair.mean calibrated", "logistic calibrated"])
def test_nothing_is_found_where_there_is_nothing(name):
    """References that know some shadow speakers must not let labels through."""
    values = []
    for seed in range(3):
        design, heard = world(20 + seed, 0.0)
        values.append(audit(evidence_of(default_attacks()[name], design, heard)).auc().value)
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_one_target_alone():
    design, heard = world(11, 1.0)
    whole = evidence_of(MembershipAttack(Logistic()), design, heard)
    one = evidence_of(MembershipAttack(Logistic()), design, heard, targets=[7])
    np.testing.assert_array_equal(one.scores, whole.scores[whole.targets == 7])
    assert np.isnan(evidence_of(MembershipAttack(Logistic()), design, heard, fpr=0.001).thresholds).all()


def test_unknown_inputs():
    with pytest.raises(UserError, match="unknown inputs 'raw'"):
        MembershipAttack(OneFeature(), "raw")


def test_levels_are_told_from_the_speakers_that_a_reference_knows():
    """A reference that knows only steady speakers is not a steady reference."""
    rng = np.random.default_rng(12)
    observed, references = population(rng, 400, 4, own=1.0, error=0.1)
    steady = references.mean(axis=1) > np.median(references.mean(axis=1))
    hidden = references.copy()
    hidden[~steady, 0] = np.nan
    hidden[steady, 1] = np.nan
    found = calibrate(observed, hidden).residual
    assert abs(found[steady].mean() - found[~steady].mean()) < 0.1


def test_a_set_of_numbers_is_told_by_more_than_its_mean_in_any_order():
    """Sets of one mean, members' wider: a threshold on the mean, which is EncoderMI-T, cannot tell them apart."""
    rng = np.random.default_rng(9)

    def sets(n):
        members = np.arange(n) % 2 == 0
        table = rng.standard_normal((n, 15)) * np.where(members, 2.0, 0.7)[:, None]
        return table - table.mean(axis=1, keepdims=True), members

    table, members = sets(200)
    classifier = DeepSets(epochs=150).fit(*sets(200), np.arange(200))
    scores = classifier.decision_function(table)
    assert auc(scores[members], scores[~members]) > 0.95
    shuffled = rng.permuted(table, axis=1)
    np.testing.assert_allclose(classifier.decision_function(shuffled), scores, atol=1e-4)


def test_one_feature_is_not_turned_round_by_shadows_that_learned_nothing():
    """Members of these shadows lie farther apart by chance; the attack goes on to take close for member."""
    rng = np.random.default_rng(13)
    features, members, speakers = rows(rng, shift=-1.0)
    classifier = OneFeature().fit(features, members, speakers)
    assert classifier.turned_
    scores = classifier.decision_function(features)
    assert (np.argsort(scores) == np.argsort(features[:, PAIR])).all() and 0.2 < np.mean(scores > 0) < 0.8
    assert not OneFeature().fit(*rows(rng)).turned_


@pytest.mark.parametrize("stretch", [1.0, 0.02, 30.0])
def test_references_of_another_kind_are_brought_to_the_targets_scale(stretch):
    """Targets whose similarities lie close together, or far apart, are told as if they were of the shadows' kind."""
    design, heard = world(14, 1.5)
    rng = np.random.default_rng(15)
    for row in heard:
        row |= {name: rng.standard_normal(len(FEATURES)) for name in design.imposters}
    other = [{name: 7.0 + stretch * values for name, values in row.items()} for row in heard]
    taught = TaughtAttack(default_attacks()["pair.mean likelihood ratio"], design, [heard], fpr=0.1)
    alike = taught.tell(heard, heard)
    mended = taught.tell(other, heard, foreign=True)
    assert audit(alike).auc().value > 0.8
    assert audit(mended).auc().value == pytest.approx(audit(alike).auc().value, abs=0.03)
    assert np.mean((mended.scores > 0) == mended.members) > 0.65
    if stretch == 30.0:  # as it was: references explain nothing of what varies thirty times as much
        assert audit(taught.tell(other, heard)).auc().value < audit(mended).auc().value - 0.02


def test_a_taught_attack_leaves_the_given_one_as_it_was():
    design, heard = world(16, 1.0)
    attack = MembershipAttack(Logistic())
    TaughtAttack(attack, design, [heard], fpr=0.1)
    assert not hasattr(attack.classifier, "model_")


def test_encodermi_t_is_a_threshold_on_the_mean_similarity():
    design, heard = world(17, 1.0)
    known = default_attacks()
    found = [evidence_of(known[name], design, heard).scores for name in ("encodermi-t", "pair.mean")]
    np.testing.assert_array_equal(*found)
