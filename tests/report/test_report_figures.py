"""What is drawn is what was measured."""

from __future__ import annotations

import re
import tomllib
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fl_privacy.report import sections, toml
from fl_privacy.report.run import Run
from fl_privacy.report.svg import Figure


def run_of(made) -> Run:
    return Run.of(made.result, made.rows)


def element(figure: Figure, name: str) -> ElementTree.Element:
    return next(e for e in ElementTree.fromstring(figure.svg).iter() if e.get("id") == name)


def drawn_points(figure: Figure, name: str) -> np.ndarray:
    path = next(e for e in element(figure, name).iter() if e.tag == "path")
    return np.array([[float(n) for n in pair] for pair in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path.get("d") or "")])


@pytest.mark.parametrize("positive", [None, "female"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_area_under_the_drawn_roc_is_the_claimed_auc(make, seed, positive):
    run = run_of(make(shift=1.0, seed=seed, positive=positive))
    claims = [run.claim("strong", "auc"), run.baseline(run.best_blind, "auc")]
    content = sections.roc(run)
    assert content is not None
    for number, claim in enumerate(claims):
        if run.best_blind == "chance" and number == 1:
            continue
        assert claim is not None
        x, y = drawn_points(content["linear"], f"roc-data-{number}").T
        width, height = x.max() - x.min(), y.max() - y.min()
        area = np.trapezoid((y.max() - y) / height, (x - x.min()) / width)
        assert area == pytest.approx(claim.value, abs=1e-4)


def test_the_roc_is_of_the_scores_file(make):
    run = run_of(make(shift=1.0))
    rows = run.scores["strong"]
    fpr, tpr = run.roc("strong")
    expected = roc_auc_score([r.label == "male" for r in rows], [r.score for r in rows])
    assert np.trapezoid(tpr, fpr) == pytest.approx(expected)


def test_the_positive_kind_is_the_one_that_gives_the_claim(make):
    made = make(shift=2.0, positive="female")
    assert run_of(made).classes == ("male", "female")
    made.result["simulation"] = {}
    assert run_of(made).classes == ("male", "female")
    assert run_of(make(shift=2.0)).classes == ("female", "male")


def test_scores_that_do_not_give_the_claim_are_not_drawn(make):
    made = make(shift=1.0)
    for row in made.rows:
        row["score"] = str(unrelated(row["speaker"]))
    assert sections.roc(run_of(made)) is None
    assert sections.scores(run_of(made)) is None


def unrelated(name: str) -> float:
    return float(sum(ord(c) * i for i, c in enumerate(name)) % 7)


def test_each_speaker_has_a_mark_where_its_score_is_and_a_name_to_hover_over(make):
    run = run_of(make())
    content = sections.scores(run)
    assert content is not None
    places, scores = [], []
    by_name = {s.speaker: s for s in run.scores["strong"]}
    for row, label in enumerate(("female", "male")):
        for mark in element(content["figure"], f"strip-data-{row}").iter("use"):
            title = mark.find("title")
            assert title is not None
            speaker = by_name[(title.text or "").split(" ")[0]]
            assert speaker.label == label
            places.append(float(mark.get("x") or "nan"))
            scores.append(speaker.score)
    assert len(places) == len(by_name)
    assert np.corrcoef(places, scores)[0, 1] == pytest.approx(1.0, abs=1e-6)
    right = sum((s.score > 0) == (s.label == "male") for s in by_name.values())
    assert (content["right"], content["total"]) == (right, len(by_name))
    assert content["threshold"] == 0.0


def test_the_table_has_the_claims_and_the_reason_of_what_is_unresolved(make):
    run = run_of(make(speakers=24))
    table = sections.attacks(run)
    assert table is not None
    first = table["rows"][0]
    assert (first["name"], first["kind"]) == ("strong", "primary")
    claim = run.claim("strong", "auc")
    assert claim is not None
    assert first["cells"][0]["text"] == f"{claim.value:.3f}"
    assert first["cells"][2]["text"] == "unresolved"
    assert "12 negatives" in list(table["notes"])[first["cells"][2]["note"] - 1]
    assert [row["name"] for row in table["rows"]] == ["strong", "weak", "blind-examples", "blind-norm", "majority"]
    permuted = run.permuted("weak", "permuted-auxiliary-labels")
    assert permuted is not None
    assert table["rows"][1]["p_values"][0] == f"{permuted.p_value:.2g}"


def test_utility_is_told_and_drawn_where_there_is_any(make):
    content = sections.utility(run_of(make()))
    assert content is not None
    assert "UAR 0.600, accuracy 0.650 (UAR by guessing: 0.500)" in content["last"]
    assert "rounds 0 to 2" in content["figure"].svg
    made = make()
    made.result["utility"] = {"uar": 0.5}
    told = sections.utility(run_of(made))
    assert told is not None
    assert told["figure"] is None
    assert "UAR 0.500" in told["last"]


def test_failed_replies_are_counted_by_reason(make):
    content = sections.data(run_of(make()))
    assert content is not None
    assert (content["failed"], content["reasons"]) == (2, [("not finite", 2)])


values = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, max_size=4))
def test_settings_read_back_as_they_were(settings):
    assert tomllib.loads(toml.dumps(settings)) == settings


def test_the_simulation_of_a_report_is_a_simulation_file():
    from fl_privacy.config import load

    resolved = load("federated-ser").resolved()
    assert load(tomllib.loads(toml.dumps(resolved))).resolved() == resolved
