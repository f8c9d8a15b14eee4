from __future__ import annotations

import csv
import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu, rankdata
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from fl_privacy.audit import (
    Audit,
    Claim,
    MulticlassAudit,
    chance,
    intervals,
    metrics,
    paired_difference,
    permutation_null,
    permutation_p_value,
    standardise_runs,
)
from fl_privacy.audit.files import read_units, units_csv
from fl_privacy.errors import UserError

CLASSES = ("irish", "scottish", "welsh", "english", "cornish")


def example(k=4, per_class=5, rows=6, signal=0.6, seed=0, **settings):
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(k * per_class), rows)
    labels = np.array([f"class {c:02}" for c in range(k)])[speakers % k]
    scores = rng.normal(size=(speakers.size, k)) + signal * (speakers % k == np.arange(k)[:, None]).T
    return MulticlassAudit(scores, labels, speakers, **settings)


def slow_hand_till(scores, codes):
    pairs = []
    for a, b in itertools.combinations(sorted(set(codes)), 2):
        wins = [
            1.0 if x[a] - x[b] > y[a] - y[b] else 0.5 if x[a] - x[b] == y[a] - y[b] else 0.0
            for x, c in zip(scores, codes, strict=True)
            for y, d in zip(scores, codes, strict=True)
            if (c, d) == (a, b)
        ]
        pairs.append(sum(wins) / len(wins))
    return sum(pairs) / len(pairs)


@st.composite
def tables(draw, least=2):
    k = draw(st.integers(2, 4))
    codes = draw(st.lists(st.integers(0, k - 1), min_size=least, max_size=12).filter(lambda c: len(set(c)) > 1))
    rows = st.lists(st.integers(-3, 3), min_size=k, max_size=k)
    return np.array(draw(st.lists(rows, min_size=len(codes), max_size=len(codes))), dtype=float), np.array(codes)


@given(tables())
def test_hand_till_is_the_share_of_pairs_told_apart(table):
    scores, codes = table
    expected = slow_hand_till(scores.tolist(), codes.tolist())
    assert metrics.hand_till(scores, codes) == pytest.approx(expected, abs=1e-11)
    few = metrics._FEW
    try:
        metrics._FEW = 0
        assert metrics.hand_till(scores, codes) == pytest.approx(expected, abs=1e-11)
    finally:
        metrics._FEW = few


def test_hand_till_of_many_rows_is_the_mean_of_mann_whitneys():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 700)
    scores = np.round(rng.normal(size=(700, 3)) + 0.5 * np.eye(3)[codes], 1)
    found = []
    for a, b in itertools.combinations(range(3), 2):
        margin = scores[:, a] - scores[:, b]
        x, y = margin[codes == a], margin[codes == b]
        found.append(mannwhitneyu(x, y).statistic / (x.size * y.size))
    assert metrics.hand_till(scores, codes) == pytest.approx(np.mean(found), abs=1e-9)


@given(tables(least=4), st.integers(-5, 5))
def test_what_is_added_to_a_row_makes_no_difference(table, seed):
    scores, codes = table
    shift = np.random.default_rng(seed + 5).integers(-9, 9, len(codes))[:, None]
    before, after = (MulticlassAudit(s, codes, classes=range(s.shape[1])).estimates() for s in (scores, scores + shift))
    assert after == before


def test_two_classes_are_the_audit_of_two_classes():
    rng = np.random.default_rng(1)
    speakers = np.repeat(np.arange(18), 5)
    labels = np.where(speakers % 3, "b", "a")
    scores, others = (rng.normal(size=90) + s * np.where(labels == "b", 1, -1) for s in (0.5, 0.2))
    two = [Audit(s, labels, speakers) for s in (scores, others)]
    many = [MulticlassAudit(np.column_stack([-s / 2, s / 2]), labels, speakers) for s in (scores, others)]
    for unit in ("update", "speaker"):
        for metric in ("auc", "uar", "accuracy"):
            expected, found = two[0].estimates(unit)[metric], many[0].estimates(unit)[metric]
            assert (found.value, found.low, found.high) == pytest.approx(
                (expected.value, expected.low, expected.high), abs=1e-9
            )
    expected, found = paired_difference(*two), paired_difference(*many)
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-9
    )
    assert many[0].majority() == two[0].majority()


def test_decisions_are_those_of_scikit_learn():
    audit = example(k=12, per_class=3, rows=4, signal=1.0, clients=np.arange(12 * 3 * 4) // 2)
    for unit, key in (("update", np.arange(144)), ("client", np.arange(144) // 2), ("speaker", audit.groups)):
        sums = np.stack([np.bincount(key, weights=column) for column in audit.scores.T], axis=1)
        truth = np.array([audit.labels[key == u][0] for u in np.unique(key)])
        named = sums.argmax(axis=1)
        found = audit.estimates(unit)
        assert found["accuracy"].value == pytest.approx(accuracy_score(truth, named))
        assert found["uar"].value == pytest.approx(balanced_accuracy_score(truth, named))
        best = top_k_accuracy_score(truth, sums, k=5, labels=np.arange(12))
        assert found["top_5_accuracy"].value == pytest.approx(best)
        places = [rankdata(-row)[c] for row, c in zip(sums, truth, strict=True)]
        assert found["mean_rank"].value == pytest.approx(np.mean(places))
        assert found["auc"].n_speakers == 36


def test_ties_share_the_point():
    audit = MulticlassAudit(np.zeros((6, 3)), list("aabbcc"))
    assert audit.accuracy().value == pytest.approx(1 / 3)
    assert audit.uar().value == pytest.approx(1 / 3)
    assert audit.auc().value == 0.5
    top = metrics.among_best(np.array([[2.0, 1.0, 1.0, 0.0]]), np.array([1]), best=2)
    assert top.tolist() == [0.5]


def test_one_speaker_a_class_is_a_question_of_who_it_is():
    rng = np.random.default_rng(2)
    names = [f"s{i:02}" for i in range(24)]
    scores = rng.normal(size=(24, 24)) + 1.5 * np.eye(24)
    audit = MulticlassAudit(scores, names, names)
    right = int((scores.argmax(axis=1) == np.arange(24)).sum())
    exact = binomtest(right, 24).proportion_ci(method="exact")
    accuracy, uar = audit.accuracy(), audit.uar()
    assert (accuracy.low, accuracy.high) == pytest.approx((exact.low, exact.high))
    assert uar.value == pytest.approx(accuracy.value)
    assert uar.high - uar.low < 1.2 * (accuracy.high - accuracy.low)
    assert audit.auc().value == pytest.approx(slow_hand_till(scores, list(range(24))))
    assert 0.05 < audit.auc().high - audit.auc().low < 0.35
    assert {"top_5_accuracy", "mean_rank"} < set(audit.estimates())
    sure = MulticlassAudit(100 * np.eye(24), names, names)
    assert sure.mean_rank().value == sure.mean_rank().low == 1
    assert sure.auc().value == sure.auc().high == 1
    assert 0.8 < sure.auc().low < 0.95
    assert sure.mean_rank().high < 5


def test_two_candidates_can_be_told_apart_by_luck():
    audit = MulticlassAudit(np.eye(2), ["a", "b"])
    assert audit.auc().value == 1.0
    assert audit.auc().low < 0.5


def test_repeating_every_row_changes_no_interval():
    one = example(rows=1, signal=1.0)
    names = np.array(one.classes)[one.labels]
    many = MulticlassAudit(np.repeat(one.scores, 100, axis=0), np.repeat(names, 100), np.repeat(one.groups, 100))
    for metric, found in many.estimates("update").items():
        expected = one.estimates("update")[metric]
        assert (found.value, found.low, found.high) == pytest.approx(
            (expected.value, expected.low, expected.high), abs=1e-6
        )
    assert many.auc("update").n_speakers == 20


@given(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_every_estimate_lies_in_its_interval(k, per_class, rows, seed):
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(k * per_class), rows)
    audit = MulticlassAudit(rng.integers(-2, 3, (speakers.size, k)), speakers % k, speakers)
    for unit in ("update", "speaker"):
        for found in audit.estimates(unit).values():
            assert found.low - 1e-9 <= found.value <= found.high + 1e-9
            assert found.high - found.low > 1e-3
    found = paired_difference(audit, audit)
    assert found.low < 0 < found.high


@pytest.mark.parametrize(
    "interval",
    [
        lambda n: intervals.hand_till_interval(*_spread_out(n)),
        lambda n: intervals.hand_till_difference_interval(
            _spread_out(n)[0], _spread_out(n)[0][::-1], _spread_out(n)[1]
        ),
        lambda n: intervals.mean_recall_interval([np.arange(n) < 0.7 * n] * 3),
    ],
)
def test_width_shrinks_with_more_speakers(interval):
    widths = [high - low for low, high in map(interval, (10, 20, 40, 80))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.6 * widths[0]


def _spread_out(n):
    codes = np.repeat(np.arange(3), n)
    scores = np.random.default_rng(0).normal(size=(3 * n, 3)) + 0.7 * np.eye(3)[codes]
    return scores, codes


def test_mean_recall_of_two_classes_is_the_uar_interval():
    rates, sizes = [[1, 0, 0.5, 1], [0.2, 0, 1]], [[4, 4, 2, 1], [5, 5, 5]]
    assert intervals.mean_recall_interval(rates, sizes) == pytest.approx(intervals.uar_interval(*rates, *sizes))


def test_classes_that_do_not_occur_do_not_count():
    audit = MulticlassAudit(
        [[3, 1, 0, 9], [0, 2, 1, 0], [0, 1, 2, 0]], ["irish", "scottish", "welsh"], classes=CLASSES[:4]
    )
    assert audit.uar().value == pytest.approx(2 / 3)
    assert audit.auc().value == slow_hand_till(audit.scores, [0, 1, 2])
    assert audit.majority()["uar"] == pytest.approx(1 / 3)


def test_majority_names_the_commonest_class():
    labels = list("aaaabbcccd")
    audit = MulticlassAudit(np.random.default_rng(0).normal(size=(10, 4)), labels)
    assert audit.majority() == pytest.approx({"auc": 0.5, "uar": 0.25, "accuracy": 0.4})
    many = [f"{i:02}" for i in [0] * 6 + list(range(12))]
    found = MulticlassAudit(np.zeros((18, 12)), many).majority()
    assert found["accuracy"] == pytest.approx(7 / 18)
    assert found["top_5_accuracy"] == pytest.approx(11 / 18)
    assert found["mean_rank"] == pytest.approx((7 * 1 + 11 * 7) / 18)


def test_permuted_speakers_give_a_null_around_a_half():
    audit = example(k=3, per_class=6, signal=1.0)
    speakers, _, truth = audit.speaker_scores()
    null = permutation_null(lambda codes: audit.headline_value(truth=codes), speakers, truth, 300, 0)
    assert abs(null.mean() - 0.5) < 0.02
    assert permutation_p_value(audit.headline_value(), null).value < 0.01
    again = [audit.with_scores(s).headline_value() for s in np.random.default_rng(0).normal(size=(50, 108, 3))]
    assert abs(np.mean(again) - 0.5) < 0.05


def test_headline_of_other_scores_is_that_of_their_audit():
    audit = example(rows=3)
    other = audit.with_scores(np.random.default_rng(5).normal(size=audit.scores.shape), name="other")
    assert audit.headline_value(scores=other.speaker_scores()[1]) == other.headline_value() == other.auc().value
    assert (other.name, other.n_speakers, other.classes) == ("other", audit.n_speakers, audit.classes)
    assert audit.headline_estimate("update") == audit.auc("update")


def test_difference_to_a_blind_baseline():
    strong, weak = example(signal=1.5), example(signal=0.1, seed=1)
    found = paired_difference(strong, weak)
    assert found.value == pytest.approx(strong.auc().value - weak.auc().value)
    assert 0 < found.low < found.value < found.high
    against_chance = paired_difference(strong, chance(strong))
    assert against_chance.low == pytest.approx(strong.auc().low - 0.5)
    assert chance(strong).uar().value == pytest.approx(0.25)
    with pytest.raises(UserError, match="different classes"):
        paired_difference(strong, example(k=3))
    with pytest.raises(UserError, match="not scored on the same speakers"):
        paired_difference(strong, example(per_class=4))


def test_runs_on_different_scales_weigh_the_same_and_rows_may_be_shifted():
    quiet = example(rows=1, seed=3, signal=1.0)
    other = example(rows=1, seed=4, signal=1.0)
    shift = np.random.default_rng(0).normal(size=(20, 1))
    loud = other.with_scores(1000 * other.scores + 50 * shift)
    merged, expected = standardise_runs([quiet, loud]), standardise_runs([quiet, other])
    np.testing.assert_allclose(merged.speaker_scores()[1], expected.speaker_scores()[1], atol=1e-9)
    alone = standardise_runs([quiet])
    assert alone.auc() == quiet.auc()
    assert alone.uar() == quiet.uar()


def test_merged_runs_keep_the_decisions_of_a_biased_attacker():
    # All are taken for the first class in both runs: centring would hide it.
    runs = [example(rows=1, seed=seed, signal=2.0) for seed in range(2)]
    merged = standardise_runs([r.with_scores(r.scores + np.array([50, 0, 0, 0])) for r in runs])
    assert merged.uar().value == pytest.approx(0.25)
    assert merged.auc().value > 0.8


def test_a_run_that_says_nothing_adds_nothing():
    said = example(rows=1, signal=1.0)
    shifted = said.with_scores(np.random.default_rng(0).normal(size=(20, 1)) + np.zeros((20, 4)))
    merged = standardise_runs([said, shifted])
    assert merged.auc() == said.auc()


def test_runs_of_different_people_must_agree_on_who_is_what():
    first = MulticlassAudit(np.eye(3), list("abc"), ["x", "y", "z"])
    second = MulticlassAudit(np.eye(3), list("abc"), ["x", "w", "z"])
    assert standardise_runs([first, second]).n_speakers == 4
    with pytest.raises(UserError, match="Speaker x has two labels"):
        standardise_runs([first, MulticlassAudit(np.eye(3), list("abc"), ["y", "x", "z"])])
    with pytest.raises(UserError, match="different classes"):
        standardise_runs([first, MulticlassAudit(np.eye(3), list("abd"), ["x", "y", "z"])])
    with pytest.raises(UserError, match="two kinds"):
        standardise_runs([first, Audit([0.0, 1.0], [0, 1])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": [1.0, 2.0, 3.0]}, "a column for each class; got shape"),
        (
            {"scores": [[1.0, 2.0], [float("nan"), 0.0], [1.0, 1.0]]},
            "1 of 3 rows are NaN or infinite, the first at index 1",
        ),
        ({"labels": ["a", "b"]}, "labels of shape"),
        ({"labels": ["a", "a", "a"], "classes": ["a", "b"]}, "two classes that occur; got 'a' alone"),
        ({"labels": ["a", "b", None]}, "missing"),
        ({"labels": ["a", "b", "x"], "classes": ["a", "b"]}, "no class, such as 'x'; the classes are 'a', 'b'"),
        ({"labels": ["a", "b", "c"]}, "2 columns of scores, but 3 classes"),
        ({"classes": ["a", "a"]}, "2 columns of scores, but 1 classes"),
        ({"groups": ["p", "p", "q"]}, "Speaker p has two labels"),
        ({"clients": [1, 1, 2]}, "Client 1 has two speakers"),
        ({"decisions": [[1.0, 2.0]]}, "decisions of shape"),
        ({"aggregate": "max"}, "aggregate"),
        ({"confidence": 95}, "confidence"),
    ],
)
def test_mistakes_are_named(arguments, message):
    given_arguments = {"scores": [[1.0, 2.0], [3.0, 0.0], [1.0, 1.0]], "labels": ["a", "b", "b"], **arguments}
    with pytest.raises(UserError, match=message):
        MulticlassAudit(**given_arguments)


def test_codes_outside_the_columns_are_refused():
    with pytest.raises(UserError, match="from 0 to 1"):
        metrics.hand_till(np.eye(2), [0, 2])
    with pytest.raises(UserError, match="at least two classes"):
        metrics.hand_till(np.eye(2), [1, 1])


def test_claims_round_trip_and_name_no_positives():
    claims = example(clients=np.arange(120) // 3, name="x-hat").claims(primary=True, attribute="accent")
    assert {claim.unit for claim in claims} == {"update", "client", "speaker"}
    assert {claim.metric for claim in claims} == {"auc", "uar", "accuracy"}
    assert all((c.n_positive, c.n_negative, c.n_speakers) == (None, None, 20) for c in claims)
    assert [Claim.from_dict(json.loads(json.dumps(claim.to_dict()))) for claim in claims] == claims


def test_table_says_how_many_classes_and_units():
    table = example(clients=np.arange(120) // 3, name="x-hat").table()
    assert table.startswith("x-hat: which of 4 classes, 20 speakers")
    lines = [line.split() for line in table.splitlines()[2:]]
    assert {(line[0], line[-1]) for line in lines} == {("update", "120"), ("client", "40"), ("speaker", "20")}


def test_what_is_written_can_be_read_again(tmp_path):
    audits = [example(clients=np.arange(120) // 3, name="x-hat"), example(seed=7, name="blind")]
    merged = standardise_runs([audits[0], example(seed=8)])
    for written in (audits, [merged]):
        rows = list(csv.DictReader(io.StringIO(units_csv(written))))
        found = read_units(rows)
        assert list(found) == [audit.name for audit in written]
        for audit in written:
            for metric, estimate in found[audit.name].estimates().items():
                expected = audit.estimates()[metric]
                assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
                    (expected.value, expected.low, expected.high), rel=1e-12
                )
    assert [row["client"] for row in rows if row["unit"] == "speaker"] == [""] * 20
    audits[0].save(tmp_path)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score:class 02"]) for row in rows] == audits[0].scores[:, 2].tolist()
    assert {row["decision"] for row in rows} <= set(audits[0].classes)
