"""What the headline says, by the numbers."""

from __future__ import annotations

import pytest

from fl_privacy.audit import Claim, Control
from fl_privacy.report import words
from fl_privacy.report.run import Run


def run_of(
    over: tuple[float, float, float] | None = (0.3, 0.1, 0.5),
    p: float | None = 0.02,
    permutations: int | None = 50,
    auc: float | None = 0.9,
    second_p: float | None = None,
    best: str = "blind-examples",
    confidence: float = 0.95,
) -> Run:
    shared = {"attack": "a", "unit": "speaker", "confidence": confidence, "n_speakers": 20, "attribute": "gender"}
    claims = [Claim(metric="auc", value=auc, low=0.8, high=0.97, n_positive=10, n_negative=10, primary=True, **shared)]
    if over:
        value, low, high = over
        claims.append(
            Claim(
                metric="auc_over_best_blind", value=value, low=low, high=high, conditions={"best_blind": best}, **shared
            )
        )
    named = {"permuted-auxiliary-labels": second_p, "permuted-private-labels": p}
    controls = [
        Control(metric="auc", value=0.5, control=name, of="a", n_permutations=permutations, p_value=value, **shared)
        for name, value in named.items()
        if value is not None
    ]
    return Run({"schema": 1, "threat_model": {"attacker": "the server"}}, tuple(claims), tuple(controls), {})


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, words.SHOWN),
        ({"second_p": 0.05}, words.SHOWN),
        ({"p": 0.06}, words.UNRESOLVED),
        ({"second_p": 0.6}, words.SHOWN),  # permuting the attacker's labels is told, and decides nothing
        ({"p": None, "second_p": 0.02}, words.UNRESOLVED),
        ({"over": (0.3, -0.01, 0.5)}, words.UNRESOLVED),
        ({"over": (0.3, 0.0, 0.5)}, words.UNRESOLVED),
        ({"over": (0.3, 0.0, 0.5), "p": 0.4}, words.NOT_SHOWN),
        ({"over": (-0.3, -0.5, -0.1), "p": 1.0}, words.NOT_SHOWN),
        ({"over": None}, words.UNRESOLVED),
        ({"over": None, "p": 0.9}, words.UNRESOLVED),
        ({"p": None}, words.UNRESOLVED),
        ({"p": 0.1, "permutations": 9}, words.UNRESOLVED),
        ({"p": 0.04, "confidence": 0.99}, words.UNRESOLVED),
        ({"p": 0.1, "permutations": 9, "confidence": 0.9}, words.SHOWN),
        ({"p": 0.005, "permutations": 999, "confidence": 0.99}, words.SHOWN),
    ],
)
def test_a_leak_is_shown_only_where_both_tests_speak_for_it(changes, kind):
    assert words.verdict(run_of(**changes)).kind == kind


def test_the_verdict_gives_its_numbers_and_its_limits():
    shown = " ".join(words.verdict(run_of()).sentences)
    for part in ("+0.300", "+0.100 to +0.500", "p = 0.02", "0 of 50", "smallest possible is 0.02", "20 speakers"):
        assert part in shown
    absent = " ".join(words.verdict(run_of(over=(0.0, -0.2, 0.2), p=0.5)).sentences)
    assert "no proof" in absent
    assert "0.970" in absent
    few = " ".join(words.verdict(run_of(p=0.1, permutations=9)).sentences)
    assert "cannot give a p-value as small as 0.05" in few


def test_guessing_as_the_best_blind_baseline_is_said_so():
    text = " ".join(words.verdict(run_of(best="chance")).sentences)
    assert "does better than guessing" in text


def test_pairs_are_told_in_words():
    told = " ".join(words.measured(run_of(auc=0.876)))
    assert "88 of 100" in told
    assert "80 to 97" in told
    assert "0.876 (95 % interval 0.800 to 0.970), over 20 speakers, 10 against 10" in told
    assert "has no value" in words.measured(run_of(auc=None))[0]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(1.0, "100"), (0.999, "more than 99"), (0.99, "99"), (0.5, "50"), (0.001, "fewer than 1"), (0.0, "0")],
)
def test_a_share_is_never_rounded_to_all_or_none(fraction, text):
    assert words.of_hundred(fraction) == text


def test_numbers():
    assert words.number(-0.25, signed=True) == "\N{MINUS SIGN}0.250"
    assert words.number(None) == "unresolved"
    assert words.count(1, "speaker") == "1 speaker"
    assert words.p_value(0.0392156) == "0.039"


def test_real_runs_get_the_verdict_that_their_making_deserves(make):
    def kind(run) -> str:
        return words.verdict(Run.of(run.result, run.rows)).kind

    assert kind(make(shift=4.0, speakers=40)) == words.SHOWN
    assert kind(make(shift=-1.0, speakers=40)) == words.NOT_SHOWN
