"""The section on epsilon: every promise with its unit, the unit attacked beside it, and what follows in plain words."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fl_privacy.audit import Privacy
from fl_privacy.report import render
from fl_privacy.report.run import Run
from fl_privacy.report.words import task
from tests.report.test_report_page import SECTIONS, Page, sections


@pytest.fixture
def page(make):
    def paged(*promises: Privacy, **changes: Any) -> Page:
        run = make()
        return Page(render({**run.result, "privacy": [p.to_dict() for p in promises], **changes}, run.rows))

    return paged


def promise(**changes: Any) -> Privacy:
    told = {"unit": "example", "mechanism": "dp-sgd", "protects_from": "server", "epsilon_accountant": 7.96}
    return Privacy(**{**told, "delta": 1e-5, **changes})


def test_there_is_a_section_only_where_something_is_promised(page):
    assert sections(page()) == SECTIONS
    assert "epsilon" in sections(page(promise()))


def test_a_promise_stands_with_both_epsilons_and_both_units(page):
    text = page(promise(epsilon_lower_bound=1.234, method="one-run", confidence=0.95, canaries=1000)).text
    assert "dp-sgd example speaker: gender server 7.96 1.23 1e-05" in text
    assert "the number of right guesses, by the one-run bound" in text
    assert "(95 % confidence; 1,000 canaries)" in text


def test_what_is_not_promised_or_audited_is_said(page):
    assert "server no guarantee not audited" in page(promise(epsilon_accountant=None)).text


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("example", "promises little about an attribute that all of a client's examples share"),
        ("client", "the same only where all of a person's examples lie with one client"),
        ("recording", "What is protected is a recording, what is attacked is the gender of a speaker"),
        ("speaker", None),
    ],
)
def test_units_that_differ_are_put_in_plain_words_once(page, unit, said):
    text = page(promise(unit=unit), promise(unit=unit, mechanism="another")).text
    assert text.count("What is protected is") == (said is not None)
    if said:
        assert said in text


def test_a_bound_above_the_accountant_is_not_passed_over(page):
    assert "One of three is true" not in page(promise(epsilon_lower_bound=7.9, confidence=0.95)).text
    text = page(promise(epsilon_lower_bound=8.2, confidence=0.95)).text
    assert "canaries show an epsilon of at least 8.2 (95 % confidence), more than the accountant's 7.96" in text


def test_a_mechanisms_name_is_text_and_not_markup(page):
    found = page(promise(mechanism="<script>x</script>", note="<b>mind</b> this"))
    assert "<script>x</script>" in found.text
    assert found.all("script") == []
    assert "<b>mind</b> this" in found.text


def test_the_headline_says_how_an_attacker_does_who_does_not_know_the_defense(make):
    run = make(attacks=("strong", "strong:static"))
    result = copy.deepcopy(run.result)
    for claim in result["claims"]:
        claim["defense"] = "loud"
    said = task(Run.of(result, ()))
    static = next(c for c in result["claims"] if c["attack"] == "strong:static" and c["metric"] == "auc")
    assert "The defense is loud, which the attacker knows." in said
    assert f"An attacker who does not know it has AUC {static['value']:.3f} (" in said
    assert task(Run.of(run.result, ())).endswith("No defense is on.")
    del result["simulation"]["defense"]  # updates of an app whose defenses nobody told
    for claim in result["claims"]:
        claim["defense"] = None
    assert "defense" not in task(Run.of(result, ()))


def test_with_a_defense_a_reader_is_told_how_to_learn_what_it_costs(make):
    result = copy.deepcopy(make().result)
    cost = "What it costs is the difference to a run without it"
    assert cost not in Page(render(result, ())).text
    for claim in result["claims"]:
        claim["defense"] = "loud"
    assert f"This is with the defense (loud). {cost}" in Page(render(result, ())).text
