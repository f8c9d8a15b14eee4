from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.audit import Audit, Claim, metrics, standardise_runs
from fl_privacy.errors import UserError


def example(n_speakers=24, rows=8, signal=0.5, seed=0, **settings):
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(n_speakers), rows)
    labels = np.where(speakers % 2, "male", "female")
    scores = rng.normal(size=speakers.size) + signal * np.where(speakers % 2, 1, -1)
    return Audit(scores, labels, speakers, **settings)


def test_evidence_is_summed_over_a_speakers_rows():
    audit = Audit([1.0, -3.0, 0.5, 2.0, -1.0], [1, 1, 0, 0, 1], ["b", "b", "a", "c", "d"])
    speakers, scores, labels = audit.speaker_scores()
    assert speakers.tolist() == ["a", "b", "c", "d"]
    assert scores.tolist() == [0.5, -2.0, 2.0, -1.0]
    assert labels.tolist() == [False, True, False, True]
    mean = Audit([1.0, -3.0, 0.5, 2.0, -1.0], [1, 1, 0, 0, 1], ["b", "b", "a", "c", "d"], aggregate="mean")
    assert mean.speaker_scores()[1].tolist() == [0.5, -1.0, 2.0, -1.0]


def test_values_are_the_metrics_over_each_unit():
    clients = np.arange(24 * 8) // 4
    audit = example(clients=clients)
    for unit, key in (("update", np.arange(24 * 8)), ("client", clients), ("speaker", audit.groups)):
        sums = np.bincount(key, weights=audit.scores)
        truth = np.array([audit.labels[key == k][0] for k in range(sums.size)])
        assert audit.auc(unit).value == metrics.auc(sums[truth], sums[~truth])
        assert audit.uar(unit).value == metrics.uar(sums > 0, truth)
        assert audit.accuracy(unit).value == metrics.accuracy(sums > 0, truth)
        assert audit.eer(unit).value == metrics.eer(sums[truth], sums[~truth])
        assert audit.auc(unit).n_positive == truth.sum()
        assert audit.auc(unit).n_negative == (~truth).sum()
        assert audit.auc(unit).n_speakers == 24


def test_more_updates_of_the_same_speakers_do_not_buy_a_narrower_interval():
    one, many = example(rows=1, seed=1), example(rows=1, seed=1)
    many = Audit(np.repeat(many.scores, 100), np.repeat(many.labels, 100), np.repeat(many.groups, 100), name="repeated")
    for question in ("auc", "uar", "accuracy", "eer"):
        a, b = getattr(one, question)("update"), getattr(many, question)("update")
        assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=1e-6)


def test_positive_label():
    scores, labels = [3.0, 2.0, 1.0, 0.0], ["female", "female", "male", "male"]
    assert Audit(scores, labels).auc().value == 0.0
    assert Audit(scores, labels, positive="female").auc().value == 1.0
    assert Audit(scores, [True, True, False, False]).auc().value == 1.0
    assert Audit(scores, [2, 2, 1, 1]).auc().value == 1.0


def test_threshold_counts_once_for_each_observation():
    settings = {"labels": [1, 1, 0, 0], "groups": ["a", "a", "b", "b"]}
    scores = [0.7, 0.6, 0.4, 0.3]
    assert Audit(scores, **settings).uar().value == 0.5
    assert Audit(scores, **settings, threshold=0.5).uar().value == 1.0
    assert Audit(scores, **settings, threshold=0.5, aggregate="mean").accuracy().value == 1.0


def test_too_few_negatives_leave_the_rate_unresolved():
    found = example().tpr_at_fpr(0.01)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert "100" in found.reason
    wide = example(n_speakers=400)
    assert wide.tpr_at_fpr(0.01).low < wide.tpr_at_fpr(0.01).value < wide.tpr_at_fpr(0.01).high
    assert wide.tpr_at_fpr(0.001).value is None


def test_one_speaker_of_a_class_gives_a_value_without_an_interval():
    audit = Audit([1.0, 0.0, 0.2], [1, 0, 0])
    for estimate in (audit.auc(), audit.uar(), audit.accuracy(), audit.eer()):
        assert estimate.value is not None
        assert estimate.low is None
        assert estimate.high is None
        assert "fewer than 2 speakers" in estimate.reason


@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 4), st.integers(0, 1000))
def test_every_estimate_lies_in_its_interval(m, n, rows, seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(m + n), rows)
    audit = Audit(rng.integers(-2, 3, groups.size), groups < m, groups)
    for unit in ("update", "speaker"):
        for estimate in audit.estimates(unit).values():
            if estimate.value is not None:
                assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9
                assert estimate.high > estimate.low


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [1, 0]}, "labels of shape"),
        ({"labels": [1, 1, 1]}, "two distinct labels; got 1"),
        ({"labels": [1, 2, 3]}, "two distinct labels; got 3"),
        ({"labels": ["f", None, "m"]}, "missing"),
        ({"scores": [1.0, float("nan"), 0.0]}, "NaN or infinite, the first at index 1"),
        ({"scores": [1.0, float("inf"), 0.0]}, "NaN or infinite"),
        ({"groups": ["a", "b"]}, "groups of shape"),
        ({"groups": ["a", "a", "b"]}, "Speaker a has two labels"),
        ({"clients": [1, 2]}, "clients of shape"),
        ({"clients": [7, 7, 8]}, "Client 7 has two speakers"),
        ({"positive": "x"}, "'x' is not among"),
        ({"aggregate": "max"}, "aggregate"),
        ({"confidence": 95}, "confidence"),
        ({"decisions": [1.0]}, "one for each score"),
    ],
)
def test_mistakes_are_named(arguments, message):
    given_arguments = {"scores": [1.0, 2.0, 3.0], "labels": [0, 1, 1], "groups": ["a", "b", "c"], **arguments}
    with pytest.raises(UserError, match=message):
        Audit(**given_arguments)


def test_unknown_units_are_refused():
    with pytest.raises(UserError, match="there are: update, utterance, client, speaker"):
        example().auc("voice")
    with pytest.raises(UserError, match="knows no clients"):
        example().auc("client")


def test_claims_carry_their_context_and_round_trip():
    claims = example(clients=np.arange(192) // 4, name="x-hat").claims(primary=True, attribute="gender", seeds=(1, 2))
    assert {claim.unit for claim in claims} == {"update", "client", "speaker"}
    assert {"auc", "uar", "accuracy", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "eer"} == {c.metric for c in claims}
    assert all(claim.attack == "x-hat" and claim.primary and claim.attribute == "gender" for claim in claims)
    assert [Claim.from_dict(json.loads(json.dumps(claim.to_dict()))) for claim in claims] == claims
    assert {claim.unit for claim in example(rows=1).claims(rows="utterance")} == {"speaker"}
    assert {claim.unit for claim in example().claims(rows="utterance")} == {"utterance", "speaker"}


def test_save_writes_the_result_and_the_scores(tmp_path):
    audit = example(name="x-hat", clients=np.arange(192) // 4)
    audit.save(tmp_path / "audit", attribute="gender")
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == ["result.json", "scores.csv"]
    text = (tmp_path / "audit" / "result.json").read_text()
    result = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert result["schema"] == 1
    assert [Claim.from_dict(row) for row in result["claims"]] == audit.claims(attribute="gender")
    with (tmp_path / "audit" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    again = Audit(
        [float(row["score"]) for row in rows],
        [row["label"] for row in rows],
        [int(row["speaker"]) for row in rows],
        clients=[int(row["client"]) for row in rows],
        name="x-hat",
    )
    assert again.claims() == audit.claims()
    audit.save(tmp_path / "again", attribute="gender")
    assert (tmp_path / "again" / "result.json").read_text() == text


def test_table_has_a_line_for_each_estimate():
    table = example(name="x-hat").table()
    assert table.startswith("x-hat: male against female, 24 speakers")
    assert len(table.splitlines()) == 2 + 2 * 6
    assert "unresolved" in table
    assert "95 % interval" in table


def test_runs_on_different_scales_weigh_the_same():
    labels = ["f", "f", "m", "m"]
    first = Audit([0.0, 1.0, 2.0, 3.0], labels, ["a", "b", "c", "d"])
    loud = Audit([0.0, 1000.0, 2000.0, 3000.0], labels, ["a", "b", "c", "d"])
    speakers, scores, _ = standardise_runs([first, loud]).speaker_scores()
    assert speakers.tolist() == ["a", "b", "c", "d"]
    expected = (np.arange(4) - 1.5) / np.arange(4).std()
    np.testing.assert_allclose(scores, expected)


def test_merged_runs_keep_the_threshold():
    # Everyone is far above the threshold in both runs: all are taken for men, and centring must not hide it.
    runs = [example(seed=seed, rows=1) for seed in range(2)]
    runs = [Audit(r.scores + 50, np.where(r.labels, "m", "f"), r.groups) for r in runs]
    merged = standardise_runs(runs)
    assert merged.uar().value == 0.5
    assert merged.auc().value > 0.5
    assert merged.speaker_scores()[1].mean() == pytest.approx(0.0, abs=1e-12)


def test_a_run_that_says_nothing_adds_nothing():
    said = Audit([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1], ["a", "b", "c", "d"])
    silent = Audit([0.3] * 7, [0, 0, 1, 1, 0, 0, 0], list("abcdefg"))
    merged = standardise_runs([said, silent])
    names, scores, _ = merged.speaker_scores()
    assert scores[:4].tolist() == sorted(scores[:4].tolist())
    assert names.size == 7
    assert np.abs(merged.combined("speaker").evidence[:, 1]).max() < 10


def test_speakers_may_differ_between_runs_but_not_their_labels():
    first = Audit([0.0, 1.0, 2.0], [0, 0, 1], ["a", "b", "c"])
    second = Audit([0.0, 4.0, 2.0], [0, 1, 1], ["a", "c", "e"])
    assert standardise_runs([first, second]).n_speakers == 4
    with pytest.raises(UserError, match="Speaker b has two labels"):
        standardise_runs([first, Audit([0.0, 1.0], [0, 1], ["a", "b"])])
    with pytest.raises(UserError, match="different labels"):
        standardise_runs([first, Audit([0.0, 1.0], ["f", "m"], ["a", "b"])])
    with pytest.raises(UserError, match="No runs"):
        standardise_runs([])
