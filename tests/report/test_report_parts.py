"""Claims on a part of the evidence, under other protocols, and of attributes that are not two classes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fl_privacy.attacks import files
from fl_privacy.audit import Claim, Control
from fl_privacy.audit.reading import columns, main_claims, quoted_metric
from fl_privacy.report import parts, render, words
from fl_privacy.report.run import Run
from tests.report.test_report_figures import drawn_points, element, run_of
from tests.report.test_report_page import Page, sections

STEPS = (1, 3, 5, 10, "all")


def claim(attack: str, value: float | None, **more: Any) -> dict[str, Any]:
    shared = {"unit": "speaker", "metric": "auc", "confidence": 0.95, "n_speakers": 24, "attribute": "gender"}
    ends = {} if value is None else {"low": value - 0.1, "high": value + 0.05}
    return Claim(**{"attack": attack, "value": value, **ends, **shared, **more}).to_dict()


def leaked(attack: str, values: Any, **conditions: Any) -> list[dict[str, Any]]:
    return [
        claim(attack, value, conditions={"leaked_updates": n, "private": "ravdess", **conditions})
        for n, value in zip(STEPS, values, strict=True)
    ]


@pytest.fixture
def partial(make):
    """A run of two attacks, with claims on leaked updates and rounds and by published rules put first and last."""
    run = make()
    first = leaked("strong", (0.55, 0.6, 0.7, 0.8, 0.9))
    last = [
        *leaked("weak", (0.5, 0.45, None, 0.55, 0.5)),
        *(
            claim("strong", value, conditions={"rounds": span})
            for span, value in (("161-200", 0.61), ("1-40", 0.83), ("41-80", 0.72))
        ),
        claim("cnn", 0.91, unit="update", metric="uar", protocol="as-published"),
    ]
    run.result["claims"] = [*first, *run.result["claims"], *last]
    return run


def test_other_claims_never_stand_in_the_main_tables(make, partial):
    """The text table and the page's main sections are those of the run without them, wherever they stand."""

    def told(run) -> list[Any]:
        claims = [Claim.from_dict(c) for c in run.result["claims"]]
        controls = [Control.from_dict(c) for c in run.result["controls"]]
        page = render(run.result, run.rows)
        return [
            files.table(claims, controls),
            *(re.search(rf'<section id="{name}".*?</section>', page, re.S)[0] for name in ("result", "attacks", "roc")),
        ]

    assert told(partial) == told(make())
    run = run_of(partial)
    assert run.attacks == ["strong", "weak"]
    assert run.claim("strong", "auc").value not in (0.55, 0.9)


def test_controls_on_a_part_are_no_baselines(make):
    run = make()
    before = render(run.result, run.rows)
    control = {**claim("strong", 0.99, conditions={"leaked_updates": 1}), "control": "blind-new", "of": "strong"}
    run.result["controls"].insert(0, {**control, "n_permutations": None, "p_value": None, "observed": None})
    assert render(run.result, run.rows) == before


def test_the_curve_goes_through_the_claims_with_a_band_of_their_intervals(partial):
    content = parts.leaked(run_of(partial))
    assert content["heads"] == ["1", "3", "5", "10", "all"]
    (figure,) = content["figures"]
    points = drawn_points(figure, "leaked-0-data-0")
    assert len(points) == 5
    assert np.allclose(np.diff(points[:, 0]), np.diff(points[:, 0])[0])
    values = np.array([0.55, 0.6, 0.7, 0.8, 0.9])
    # Downwards on the page is less: a straight line from value to height, which the band's edges are on too.
    slope, start = np.polyfit(values, points[:, 1], 1)
    assert slope < 0
    assert np.allclose(points[:, 1], start + slope * values, atol=1e-3)
    (used,) = element(figure, "leaked-0-data-band-0").iter("use")
    band = drawn_points(figure, "leaked-0-data-band-0") + [float(used.get(at) or "nan") for at in ("x", "y")]
    for edge in (values - 0.1, values + 0.05):
        for x, y in zip(points[:, 0], start + slope * edge, strict=True):
            assert np.abs(band - [x, y]).sum(axis=1).min() < 0.01
    assert "guessing (0.5)" in figure.svg


def test_an_unresolved_step_is_a_gap_and_a_note(partial):
    content = parts.leaked(run_of(partial))
    weak = next(row for row in content["rows"] if row["name"] == "weak")
    assert [cell["text"] for cell in weak["cells"]] == ["0.500", "0.450", "unresolved", "0.550", "0.500"]
    assert list(content["notes"])[weak["cells"][2]["note"] - 1] == "no value"


def test_lines_that_differ_in_a_condition_are_named_by_it_and_units_are_kept_apart(make):
    run = make()
    for linked in (True, False):
        run.result["claims"] += leaked("strong", (0.5,) * 5, shards_linked=linked)
    run.result["claims"] += [{**c, "unit": "client"} for c in leaked("strong", (0.6,) * 5, shards_linked=True)]
    content = parts.leaked(run_of(run))
    assert [(row["name"], row["unit"]) for row in content["rows"]] == [
        ("strong (shards linked True)", "speaker"),
        ("strong (shards linked False)", "speaker"),
        ("strong (shards linked True)", "client"),
    ]
    assert ["per speaker" in f.svg for f in content["figures"]] == [True, False]


def test_more_lines_than_can_be_told_apart_are_several_figures(make):
    run = make()
    for number in range(7):
        run.result["claims"] += leaked(f"attack-{number}", (0.5,) * 5)
    content = parts.leaked(run_of(run))
    assert len(content["figures"]) == 3
    assert sections(Page(render(run.result, run.rows))).count("leaked") == 1


def test_rounds_stand_in_their_order(partial):
    content = parts.rounds(run_of(partial))
    assert content["heads"] == ["1-40", "41-80", "161-200"]
    assert [[cell["text"] for cell in row["cells"]] for row in content["rows"]] == [["0.830", "0.720", "0.610"]]


def test_published_rules_have_a_table_of_their_own(partial):
    page = Page(render(partial.result, partial.rows))
    assert {"leaked", "rounds", "published"} <= set(sections(page))
    content = parts.published(run_of(partial))
    assert (content["heads"], content["rows"][0]["name"]) == (["UAR"], "cnn")
    assert "0.910" in page.text


def test_published_claims_over_folds_are_one_row_an_attack_with_their_spread(make):
    run = make()
    for number, layer in enumerate(("first", "last")):
        conditions = {"layer": layer, "folds": 5}
        for metric in ("uar", "asr"):
            told = {**conditions, "sd_over_folds": 0.01 * (number + 1) + 0.001 * len(metric)}
            new = claim(f"cnn-{layer}", 0.9, metric=metric, unit="client", protocol="as-published", conditions=told)
            run.result["claims"].append({**new, "low": None, "high": None, "reason": "as published"})
    content = parts.published(run_of(run))
    assert [row["name"] for row in content["rows"]] == ["cnn-first", "cnn-last"]
    assert content["heads"] == ["UAR", "ASR"]
    assert content["rows"][1]["cells"][0]["span"] == "SD 0.023 over 5 folds"


def test_a_run_without_such_claims_has_no_such_sections(make):
    run = make()
    assert not {"leaked", "rounds", "published"} & set(sections(Page(render(run.result, run.rows))))


# ------------------------------------------------------------------ more than two classes, and numbers


def result_of(metrics: dict[str, float], over: str, guessed: dict[str, float], attribute: str) -> dict[str, Any]:
    shared: dict[str, Any] = {"n_positive": None, "n_negative": None, "attribute": attribute, "primary": True}
    claims = [claim("best", value, metric=metric, **shared) for metric, value in metrics.items()]
    claims.append(
        claim("best", 0.2, metric=f"{over}_over_best_blind", conditions={"best_blind": "blind-norm"}, **shared)
    )
    none = {"n_permutations": None, "p_value": None, "observed": None, "of": "best"}
    controls = [
        {**claim("majority", value, metric=metric, **shared), "control": "majority", **none}
        for metric, value in guessed.items()
    ]
    controls.append({**claim("blind-norm", 0.3, metric=over, **shared), "control": "blind-norm", **none})
    permuted = {
        "control": "permuted-private-labels",
        "of": "best",
        "n_permutations": 999,
        "p_value": 0.001,
        "observed": None,
    }
    controls.append({**claim("best", 0.25, metric=over, **shared), **permuted})
    return {"schema": 1, "claims": claims, "controls": controls}


METRICS = {"auc": 0.81, "uar": 0.62, "accuracy": 0.66}
CLASSES = result_of(METRICS, "auc", {"uar": 0.2, "accuracy": 0.3, "auc": 0.5}, "accent")
BY_UAR = result_of(METRICS, "uar", {"uar": 0.2, "accuracy": 0.3, "auc": 0.5}, "accent")
NUMBERS = result_of({"correlation": 0.51, "mean_absolute_error": 7.25}, "correlation", {}, "age")


@pytest.mark.parametrize(
    ("result", "metric", "shown"),
    [
        (CLASSES, "auc", ["AUC", "UAR", "accuracy", "AUC over best blind"]),
        (BY_UAR, "uar", ["UAR", "AUC", "accuracy", "UAR over best blind"]),
        (NUMBERS, "correlation", ["correlation", "mean absolute error", "correlation over best blind"]),
    ],
)
def test_other_attributes_have_the_columns_that_mean_something(result, metric, shown):
    claims = [Claim.from_dict(c) for c in result["claims"]]
    assert quoted_metric(main_claims(claims)) == metric
    page = Page(render(result, []))
    assert "TPR at 1 %" not in page.text
    text = files.table(claims, [Control.from_dict(c) for c in result["controls"]])
    assert re.split(r"\s{2,}", text.splitlines()[0]) == ["per speaker", *shown, "p aux", "p private"]
    for head in shown:
        assert head in page.text
    assert words.verdict(Run.of(result, [])).kind == words.SHOWN


def test_several_classes_in_words():
    told = " ".join(words.measured(Run.of(CLASSES, [])))
    assert "AUC per speaker: 0.810 (95 % interval 0.710 to 0.860), over 24 speakers." in told
    assert "shown two speakers who differ in accent" in told
    assert "right for 62 of 100 speakers (mean over the values of accent)" in told
    assert "accent" in words.task(Run.of(CLASSES, []))
    told = " ".join(words.measured(Run.of(BY_UAR, [])))
    assert "UAR per speaker: 0.620 (95 % interval 0.520 to 0.670), over 24 speakers." in told
    assert "right for 62 of 100" in told
    assert "Guessing gets 20." in told
    assert "pairs" not in told


@pytest.mark.parametrize(
    ("result", "columns"),
    [(CLASSES, {"decision": "north", "score:north": "0.5", "score:south": "-1"}), (NUMBERS, {"prediction": "31.5"})],
)
def test_scores_of_other_attributes_are_not_drawn_and_do_no_harm(result, columns):
    """As `scores.csv` has them; columns of two classes may stand beside, empty."""
    row = {"attack": "best", "unit": "speaker", "speaker": "s", "label": "x"}
    assert render(result, [{**row, **columns}, {**row, **columns, "score": ""}]) == render(result, [])


def test_a_number_in_words_is_no_share_of_a_hundred():
    told = " ".join(words.measured(Run.of(NUMBERS, [])))
    assert "Correlation per speaker: 0.510 (95 % interval 0.410 to 0.560), over 24 speakers." in told
    assert "off by 7.250 on average" in told
    assert "of 100" not in told
    page = Page(render(NUMBERS, []))
    assert "correlation per speaker (0: guessing)" in page.text


def test_two_classes_keep_their_columns(make):
    claims = [Claim.from_dict(c) for c in make().result["claims"]]
    assert columns(claims) == ("auc", "uar", "tpr_at_fpr_0.01", "auc_over_best_blind")
