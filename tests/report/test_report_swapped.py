"""The page of an audit in swapped roles, whose rows are speakers, or utterances, before several targets."""

from __future__ import annotations

import csv
import io
import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fl_privacy.audit import SwappedAudit
from fl_privacy.config import load_any
from fl_privacy.report import render, sections, write_sweep_report
from fl_privacy.report.figures.scores import thinned
from fl_privacy.report.run import Run
from fl_privacy.report.sweep import best_of
from fl_privacy.report.swept import Sweep
from fl_privacy.sims.speaker_recipe import SpeakerMembershipRecipe
from fl_privacy.sims.speaker_result import SpeakerMembershipResult
from fl_privacy.sims.ssl_result import Reading, scores_csv
from tests.report.test_report_figures import drawn_points, element
from tests.report.test_report_page import Page

TARGETS, SPEAKERS = 6, 30
ATTACKS = ("pair.mean likelihood ratio", "pair.mean")


def audited(name: str, seed: int, shift: float = 1.5, levels: float = 3.0, utterances: int = 0) -> SwappedAudit:
    """Scores of every target at a level of its own, so that pooling them loses much."""
    rng, drawn = np.random.default_rng(seed), np.random.default_rng(0)
    rows: list[tuple[float, bool, str, int, str]] = []
    for target in range(TARGETS):
        level = levels * (target % 2)
        members = set(drawn.permutation(SPEAKERS)[: SPEAKERS // 2].tolist())
        for speaker in range(SPEAKERS):
            for number in range(max(utterances, 1)):
                role = (number + target + speaker) % 2 == 0 if utterances else speaker in members
                score = level + shift * role + rng.normal()
                rows.append((score, role, f"s{speaker:02}", target, f"s{speaker:02}-{number}"))
    scores, roles, speakers, targets, ids = zip(*rows, strict=True)
    return SwappedAudit(scores, roles, speakers, targets, utterances=ids if utterances else None, name=name)


def of_speakers(levels: float = 3.0) -> SimpleNamespace:
    """A run of speaker membership at two mixing ratios, as its own recipe writes it."""
    settings = SpeakerMembershipRecipe(load_any("speaker-membership", ["audit.permutations=20"])).settings
    audits = {
        (name, r): audited(name, seed, 1.5 * r + 0.2 * seed, levels)
        for seed, (name, r) in enumerate((name, r) for r in (1.0, 0.0) for name in ATTACKS)
    }
    utility = {"eer_members": 0.1, "eer_nonmembers": 0.2}
    found = SpeakerMembershipResult(audits, {}, utility, 9, (), settings, {}, {}, SPEAKERS, 1)
    return whole(found.claims(), found.controls(), found.scores_csv(), [audits[name, 1.0] for name in ATTACKS])


def of_frames(unit: str) -> SimpleNamespace:
    """A run on frame encoders, with a blind control and rows of utterances, as its own recipe writes it."""
    many = {"speaker": 0, "utterance": 4}
    units = ("speaker", "utterance") if unit == "speaker" else ("utterance",)
    audits = {("loss", of): audited("loss", 5, utterances=many[of]) for of in units}
    blind = {("duration", of): audited("duration", 6, 0.3, utterances=many[of]) for of in units}
    shared = {"target": "tera", "protocol": "swapped roles", "seeds": (1,), "conditions": {"private": "an4"}}
    reading = Reading(audits, blind, {}, shared)
    return whole(reading.claims(), reading.controls(20), scores_csv([reading]), [audits["loss", unit]])


def whole(claims: Any, controls: Any, text: str, audits: list[SwappedAudit]) -> SimpleNamespace:
    result = {
        "schema": 1,
        "simulation": {},
        "threat_model": {"attacker": "a user of the recogniser", "observes": "scores", "words": "The attacker is."},
        "claims": [claim.to_dict() for claim in claims],
        "controls": [control.to_dict() for control in controls],
    }
    rows = list(csv.DictReader(io.StringIO(text)))
    return SimpleNamespace(
        result=json.loads(json.dumps(result)), rows=rows, text=text, primary=audits[0], audits=audits
    )


MAKERS = {
    "recognisers": of_speakers,
    "encoders": lambda: of_frames("speaker"),
    "utterances": lambda: of_frames("utterance"),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def made(request) -> SimpleNamespace:
    return MAKERS[request.param]()


def test_the_roc_is_of_all_rows_at_one_threshold(made):
    run, audit = Run.of(made.result, made.rows), made.primary
    content = sections.roc(run)
    assert content is not None
    x, y = drawn_points(content["linear"], "roc-data-0").T
    area = np.trapezoid((y.max() - y) / (y.max() - y.min()), (x - x.min()) / (x.max() - x.min()))
    pooled, claimed = roc_auc_score(audit.members, audit.scores), audit.auc().value
    assert area == pytest.approx(pooled, abs=2e-3)
    assert claimed is not None and claimed - pooled > 0.05, "levels of targets are to cost the pooled curve something"
    fpr, tpr = run.roc(run.primary)  # type: ignore[misc]
    for rate in (0.02, 0.05):
        at_rate = audit.tpr_at_fpr(rate).value
        assert at_rate is None or tpr[fpr <= rate + 1e-9].max() == pytest.approx(at_rate)


def test_the_mean_over_targets_is_never_shown_as_the_area_of_the_pooled_curve(made):
    content = sections.roc(Run.of(made.result, made.rows))
    assert content is not None
    claimed = f"{made.primary.auc().value:.3f}"
    pooled = f"{roc_auc_score(made.primary.members, made.primary.scores):.3f}"
    for figure in (content["linear"], content["log"]):
        assert claimed not in figure.svg and "(AUC" not in figure.svg
        assert f"area under it {pooled}" in figure.svg
    text = Page(render(made.result, made.rows)).text
    assert f"the area under this curve is {pooled}, the AUC of the table {claimed}" in text
    assert f"before {TARGETS} targets" in text and "at one threshold for all targets" in text


def test_other_ratios_and_units_do_not_get_into_the_figures(made):
    first = Run.of(made.result, made.rows)
    kept = made.rows[0]
    unit = kept["unit"] if first.unit == "speaker" else "utterance before target"
    mine = [row for row in made.rows if row["unit"] == unit and row.get("r", "1.0") in ("1.0", "")]
    again = Run.of(made.result, mine)
    assert first.scores == again.scores
    primary = first.scores[first.primary or ""]
    assert len(primary) == made.primary.scores.size
    assert len(mine) < len(made.rows) or first.unit == "utterance"


def test_a_speaker_has_a_mark_of_either_kind_at_the_mean_of_its_scores(made):
    run, audit = Run.of(made.result, made.rows), made.primary
    content = sections.scores(run)
    assert content is not None
    expected = {
        (speaker, label): audit.scores[(audit.speakers == speaker) & (audit.members == role)].mean()
        for speaker in np.unique(audit.speakers)
        for label, role in (("member", True), ("non-member", False))
        if ((audit.speakers == speaker) & (audit.members == role)).any()
    }
    drawn = {(row[0], row[1]): row[2] for row in content["figure"].rows}
    assert drawn == pytest.approx(expected)
    marks = [list(element(content["figure"], f"strip-data-{row}").iter("use")) for row in (0, 1)]
    assert sum(map(len, marks)) == len(expected)
    titles = re.findall(r"<title>(s\d\d) \(((?:non-)?member)\): ", content["figure"].svg)
    assert sorted(titles) == sorted(expected)
    counts = np.array([row[2:] for row in content["distributions"].rows])
    assert counts.sum(axis=0).tolist() == [int((~audit.members).sum()), int(audit.members.sum())]
    right = ((audit.decisions > 0) == audit.members).sum()
    assert (content["right"], content["total"]) == (right, audit.scores.size)
    assert (
        f"{right} of {audit.scores.size} {run.unit}s before targets are decided rightly"
        in Page(render(made.result, made.rows)).text
    )


def test_scores_that_do_not_give_the_claim_within_targets_are_not_drawn(made):
    # Targets that trade places: the pooled scores are the same, the AUC within a target is not.
    rows = [{**row, "target": str((int(row["target"]) + number) % TARGETS)} for number, row in enumerate(made.rows)]
    run = Run.of(made.result, rows)
    assert sections.roc(run) is None
    assert sections.scores(run) is None


def test_a_reader_is_told_who_is_judged_before_how_many_models(made):
    page = Page(render(made.result, made.rows)).text
    unit = "utterance" if made.primary.utterances is not None else "speaker"
    assert f"Roles are swapped: {TARGETS} models were attacked, each trained on some of these {unit}s" in page
    assert f"which of {SPEAKERS} speakers of the corpus an4 trained the model" in page
    assert f"one {unit} {'who' if unit == 'speaker' else 'that'} trained the model and one" in page
    assert f"{SPEAKERS} against {SPEAKERS}" not in page, "the same people stand on both sides"
    assert "attacker's labels permuted" not in page, "nobody permuted these"


def test_the_headline_tells_voices_that_were_trained_on_from_others():
    told = of_speakers()
    other = next(
        c
        for c in told.result["claims"]
        if (c["attack"], c["metric"], c["conditions"].get("r")) == (ATTACKS[0], "auc", 0.0)
    )
    said = f"With other voices of the same people its AUC is {other['value']:.3f} ({other['low']:.3f} to"
    page = Page(render(told.result, told.rows)).text
    assert f"The attacker has voices on which the model was trained. {said}" in page
    alone = told.result | {"claims": [c for c in told.result["claims"] if c["conditions"].get("r") != 0.0]}
    assert "other voices" not in Page(render(alone, told.rows)).text


def test_without_a_blind_control_one_half_is_said_to_be_so_by_construction():
    told = of_speakers()
    assert "gets one half by construction" in Page(render(told.result, told.rows)).text
    told = of_frames("speaker")
    assert "by construction; the attack" not in Page(render(told.result, told.rows)).text


def test_the_best_of_a_sweep_has_an_interval_that_allows_for_the_choice(tmp_path):
    run = of_speakers()
    entries = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(run.result))
        (tmp_path / name / "scores.csv").write_text(run.text)
        entries.append({"settings": {"x.y": name}, "seeds": [1], "grid": 0, "path": f"{name}/result.json"})
    (tmp_path / "sweep.json").write_text(json.dumps(entries))
    best = best_of(Sweep.read(tmp_path), "auc")
    assert best is not None and best.among == 4 and best.reason is None
    audit = max(run.audits, key=lambda audit: audit.auc().value)
    wide = SwappedAudit(audit.scores, audit.members, audit.speakers, audit.targets, confidence=1 - 0.05 / 4).auc()
    assert best.claim.attack == audit.name
    assert (best.low, best.high) == pytest.approx((wide.low, wide.high))
    assert "no interval that allows for the choice" not in write_sweep_report(tmp_path).read_text()


@given(st.integers(0, 2**32 - 1), st.integers(2, 4000), st.integers(2, 4000), st.booleans())
def test_a_thinned_curve_stays_the_curve(seed, yes, no, tied):
    from fl_privacy.audit.metrics import roc

    rng = np.random.default_rng(seed)
    scores = [rng.normal(size=yes) + 1, rng.normal(size=no)]
    fpr, tpr = roc(*(s.round(1) if tied else s for s in scores))
    x, y = thinned(fpr, tpr, 500)
    assert len(x) <= max(500, 2) and (len(fpr) > 500 or len(x) == len(fpr))
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    assert {*zip(x, y, strict=True)} <= {*zip(fpr, tpr, strict=True)}
    assert np.trapezoid(y, x) == pytest.approx(np.trapezoid(tpr, fpr), abs=3e-3)


def test_many_rows_keep_the_page_small():
    rng = np.random.default_rng(0)
    fpr, tpr = (np.sort(rng.random(40_000)) for _ in range(2))
    x, _ = thinned(fpr, tpr)
    assert len(x) <= 2000
    assert np.searchsorted(x, fpr[50]) >= 40, "low rates keep their points"


def test_rows_that_lack_their_target_are_refused_in_words(made):
    from fl_privacy.errors import UserError

    for row in (broken := [dict(row) for row in made.rows]):
        del row["target"]
    with pytest.raises(UserError, match=r"line \d+: KeyError\('target'\)"):
        Run.of(made.result, broken)
