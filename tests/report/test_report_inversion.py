"""The page of an inversion says what its numbers allow, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from fl_privacy.attacks.inversion.distances import distances
from fl_privacy.report import words
from fl_privacy.report.inversion import headline, is_inversion, verdict
from fl_privacy.report.inversion_sections import recognised
from fl_privacy.report.render import render
from fl_privacy.report.run import Run
from fl_privacy.sims.inversion_findings import Findings, Judged
from fl_privacy.sims.inversion_judges import ATTACKED, INDEPENDENT, Natural, Thresholds


class Bench:
    judges = dict.fromkeys((ATTACKED, INDEPENDENT))

    def natural(self, judge, length):
        half = np.tile([0.0, 1.0], 10)
        return Natural(Thresholds(0.0, None, 0.1, None), half, half, half, None)


def result(strength: float, permutations: int = 99) -> dict:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((20, 20)) for _ in range(4)]
    scores = {ATTACKED: noise[0] + 9 * np.eye(20), INDEPENDENT: noise[1] + strength * np.eye(20)}
    rows = rng.standard_normal((3, 20, 4))
    one = Judged(
        "standard", "laplace", 3200, scores, dict.fromkeys(scores, noise[2]), {}, distances(*rows, np.arange(20))
    )
    findings = Findings("SincNet", 1, 0.95, permutations, {"private": "a <b> corpus", "classes": 20})
    findings.cell(one, Bench(), dict.fromkeys(scores, noise[3]), primary=True)
    findings.ceilings(Bench(), 3200)
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
    first, attacked, natural = told["measured"]
    assert "independent recogniser of another architecture" in first and "chance is 0.050" in first
    assert "under attack: 1.000" in attacked and "adversarial examples count" in attacked
    assert "gets 0.500 right" in natural


def test_the_page_has_every_judge_and_what_is_not_resolved():
    found = result(5.0)
    assert is_inversion(Run.of(found, ()))
    content = recognised(Run.of(found, ()))
    heads = {tuple(table["heads"]) for table in content["tables"]}
    assert heads == {(ATTACKED, INDEPENDENT)}
    page = render(found, ())
    assert page == render(found, ())
    assert "too few real voices to tell a rate of 1 %" in page
    assert "Model inversion: 20 speakers" in page and "Privacy audit" not in page
    assert "own, unused recordings (200 ms)" in page and "another person" in page
