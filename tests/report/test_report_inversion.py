"""The page of an inversion says what its numbers allow, and no more."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fl_privacy.attacks.inversion.distances import distances
from fl_privacy.report import make_report, words
from fl_privacy.report.inversion import headline, is_inversion, verdict
from fl_privacy.report.inversion_sections import countermeasures, recognised
from fl_privacy.report.render import render
from fl_privacy.report.run import Run
from fl_privacy.sims.inversion_findings import NATURAL, Findings, Judged
from fl_privacy.sims.inversion_judges import ATTACKED, INDEPENDENT, Natural, Thresholds


class Bench:
    judges = dict.fromkeys((ATTACKED, INDEPENDENT))

    def __init__(self, deaf: str = "") -> None:
        self.deaf = deaf

    def natural(self, judge, length):
        half = np.tile([0.0, 1.0], 10)
        # One of twenty, as by chance, where it learned nothing.
        right = np.eye(20)[0] if judge == self.deaf else half
        return Natural(Thresholds(0.0, None, 0.1, None), right, half, half, None)


def result(strength: float, permutations: int = 99, deaf: str = "") -> dict:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((20, 20)) for _ in range(4)]
    scores = {ATTACKED: noise[0] + 9 * np.eye(20), INDEPENDENT: noise[1] + strength * np.eye(20)}
    rows = rng.standard_normal((3, 20, 4))
    one = Judged(
        "standard", "laplace", 3200, scores, dict.fromkeys(scores, noise[2]), {}, distances(*rows, np.arange(20))
    )
    findings = Findings("SincNet", 1, 0.95, permutations, {"private": "a <b> corpus", "classes": 20})
    findings.cell(one, Bench(), dict.fromkeys(scores, noise[3]), primary=True)
    for length in (0, 3200):
        findings.ceilings(Bench(deaf), length)
    return {
        "schema": 1,
        "simulation": {"simulation": {"kind": "speaker-inversion"}},
        "claims": [claim.to_dict() for claim in findings.claims],
        "controls": [control.to_dict() for control in findings.controls],
        "inversion": {"distances": {}},
    }


@pytest.mark.parametrize(
    ("strength", "permutations", "kind"),
    [(5.0, 99, words.SHOWN), (0.0, 99, words.NOT_SHOWN), (5.0, 9, words.UNRESOLVED)],
)
def test_a_reconstruction_is_claimed_where_both_tests_speak_for_it(strength, permutations, kind):
    run = Run.of(result(strength, permutations), ())
    found = verdict(run)
    assert found.kind == kind, found
    assert ("chance here" in " ".join(found.sentences)) == (kind == words.NOT_SHOWN)


def test_the_headline_is_the_independent_recognisers():
    run = Run.of(result(0.0), ())
    told = headline(run)
    work, first, attacked, natural = told["measured"]
    assert "recognises unused recordings of its own speakers: 0.500 (95 % interval" in work
    assert "independent recogniser of another architecture" in first and "chance is 0.050" in first
    assert "under attack: 1.000" in attacked and "adversarial examples count" in attacked
    assert "gets 0.500 right" in natural


def test_a_classifier_that_knows_nobody_is_said_first_and_nothing_follows_from_it():
    run = Run.of(result(0.0, deaf=ATTACKED), ())
    told = headline(run)
    assert "cannot be told from one that guesses" in told["measured"][0]
    assert "recognises 0.050 (95 % interval" in told["measured"][0] and "chance is 0.050" in told["measured"][0]
    assert told["verdict"].kind == words.UNRESOLVED and "cannot be told from one that guesses" in told["verdict"].title
    assert "learned nothing says nothing" in " ".join(told["verdict"].sentences)
    # What both tests show is shown, whatever the classifier is worth.
    found = verdict(Run.of(result(5.0, deaf=ATTACKED), ()))
    assert found.kind == words.SHOWN
    for deaf in ("", INDEPENDENT):
        told = headline(Run.of(result(0.0, deaf=deaf), ()))
        assert "guesses" not in told["measured"][0] and told["verdict"].kind == words.NOT_SHOWN
        assert ("at this length it is no judge" in told["measured"][-1]) == (deaf == INDEPENDENT)


@pytest.mark.parametrize("right", [1, 8])
def test_a_countermeasure_that_takes_the_target_away_is_told(right):
    findings = Findings("SincNet", 1, 0.95, 19, {"classes": 20})
    hits = (np.arange(20) < right).astype(float)
    findings.hold(NATURAL, "dp-sgd", "accuracy", findings.rate(hits), judge=ATTACKED, length=0)
    row = {"name": "dp-sgd", "access": "white-box", "note": "again", "sentence_error": 1 - right / 20}
    content = result(0.0) | {"inversion": {"countermeasures": [row]}}
    content["controls"] += [control.to_dict() for control in findings.controls]
    (table,) = countermeasures(Run.of(content, ()))["tables"]
    assert ("nothing follows" in table["rows"][0]["cells"][-1]["text"]) == (right == 1)


def test_the_page_has_every_judge_and_what_is_not_resolved():
    found = result(5.0)
    assert is_inversion(Run.of(found, ()))
    content = recognised(Run.of(found, ()))
    *by_judge, blind = content["tables"]
    assert {tuple(table["heads"]) for table in by_judge} == {(ATTACKED, INDEPENDENT)} and len(by_judge) == 4
    (row,) = blind["rows"]
    over = next(c for c in found["claims"] if c["primary"] and c["metric"] == "accuracy_over_best_blind")
    told = [cell["text"] for cell in row["cells"]]
    assert told[2:] == [over["conditions"]["best_blind"], f"+{over['value']:.3f}", "0.01"]
    page = render(found, ())
    assert page == render(found, ())
    assert "too few real voices to tell a rate of 1 %" in page
    assert "Model inversion: 20 speakers" in page and "Privacy audit" not in page
    assert "own, unused recordings (200 ms)" in page and "another person" in page


def test_the_numbers_behind_its_figures_are_saved(tmp_path):
    wave = {"low": [-0.5, -0.25], "high": [0.5, 0.25], "seconds": 0.2, "spectrum": np.eye(8).tolist()}
    (tmp_path / "result.json").write_text(
        json.dumps(result(5.0) | {"inversion": {"examples": [{"name": "a", **wave}]}})
    )
    page, table = make_report([tmp_path], data=tmp_path / "numbers")
    assert table.read_text().splitlines() == ["name,seconds,low,high", "a,0.0,-0.5,0.5", "a,0.2,-0.25,0.25"]
    assert "data as CSV" in page.read_text()
