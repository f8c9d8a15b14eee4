"""Runs beside one another, and the numbers behind the figures."""

from __future__ import annotations

import copy
import csv
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_report_inversion import result as inversion
from test_report_page import Page, sections
from typer.testing import CliRunner

from fl_privacy.audit import metrics
from fl_privacy.cli import app
from fl_privacy.errors import UserError
from fl_privacy.report import make_report, render


@pytest.fixture
def write(make, tmp_path):
    """A run folder whose settings differ from the others' in what is given."""

    def written(name: str, shift: float = 3.0, **changes: object) -> Path:
        run = make(shift=shift)
        result = copy.deepcopy(run.result)
        result["simulation"] |= changes
        folder = tmp_path / name
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "scores.csv").write_text(run.text)
        return folder

    return written


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_run_has_its_verdict_and_its_claims_under_what_sets_it_apart(write, tmp_path):
    one = write("one", federation={"rounds": 5, "batch_size": 20})
    two = write("two", shift=0.0, federation={"rounds": 9, "batch_size": 20})
    (path,) = make_report([one, two], tmp_path / "both.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert sections(page) == ["result", "primary", "attacks", "settings", "threat-model"]
    assert "A leak is shown" in page.text
    assert "No leak is shown" in page.text
    assert "rounds=5" in page.text
    assert "rounds=9" in page.text
    assert "batch_size" not in page.text
    assert page.text.count("The model at its own task: UAR 0.600.") == 2
    for folder in (one, two):
        claims = json.loads((folder / "result.json").read_text())["claims"]
        auc = next(c for c in claims if (c["attack"], c["metric"], c["unit"]) == ("strong", "auc", "speaker"))
        assert f"{auc['value']:.3f}" in page.text


def test_what_cannot_be_laid_side_by_side_is_said(write, tmp_path):
    one, two = write("one"), write("two")
    with pytest.raises(UserError, match="--out"):
        make_report([one, two])
    with pytest.raises(UserError, match="given twice"):
        make_report([one, one], tmp_path / "out.html")
    with pytest.raises(UserError, match="no result at"):
        make_report([one, tmp_path / "nowhere"], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
    (tmp_path / "a-file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make_report([one], tmp_path / "a-file" / "out.html")


def table_of(page: str, section: str, number: int = 0) -> str:
    """The text of a table of a section."""
    body = page.split(f'<section id="{section}"')[1].split("</section>")[0]
    table = body.split("<table>")[number + 1].split("</table>")[0]
    return re.sub(r"<[^>]+>", " ", table.replace("<wbr>", ""))


def test_runs_are_told_kind_by_kind_and_only_those_of_a_kind_are_held_against_each_other(write, tmp_path):
    fast, slow = (write(name, federation={"rounds": rounds}) for name, rounds in (("fast", 5), ("slow", 9)))
    other = write("other", simulation={"kind": "speaker-membership", "seed": 4}, protocol={"swaps": 2})
    page = make_report([fast, other, slow], tmp_path / "all.html", tmp_path / "data")[0].read_text(encoding="utf-8")
    for section in ("primary", "attacks"):
        titles = re.findall(r"<h3>(.*?)</h3>", page.split(f'<section id="{section}"')[1].split("</section>")[0])
        assert titles == ["Federations of speech emotion recognition", "Speaker membership"]
    first, second = (table_of(page, "attacks", number) for number in (0, 1))
    assert "rounds=5" in first and "rounds=9" in first and str(other) not in first
    assert str(other) in second and str(fast) not in second
    # What a kind alone has says nothing of a run that is the only one of its kind.
    assert "swaps" not in page and "speaker-membership" not in Page(page).text
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "intervals-federated-ser-auc.csv",
        "intervals-speaker-membership-auc.csv",
    }


def test_settings_that_differ_are_short_beside_the_numbers_and_whole_below(write, tmp_path):
    long = "a corpus of one's own that lies " + "deep " * 30 + "down"
    attack = [{"name": "strong", "starts": ["white"]}, {"name": "weak"}]
    one = write("one", private={"root": long}, attack=attack, defense=[{"name": "dp-sgd", "target_epsilon": 8.0}])
    two = write("two", private={"root": "here"}, attack=[{"name": "strong", "starts": ["brown"]}], auxiliary=[])
    page = make_report([one, two], tmp_path / "both.html")[0].read_text(encoding="utf-8")
    beside, below = (re.sub(r"\s+", " ", table_of(page, section)) for section in ("attacks", "settings"))
    assert long not in html.unescape(beside) and "root=a corpus of one" in beside
    assert long in html.unescape(below)
    assert "attack.strong.starts white brown" in below
    assert "auxiliary emodb + folder none" in below
    assert "defense dp-sgd (target_epsilon 8.0) none" in below
    assert "weak" not in below, "which attacks there are the table of attacks tells"


def test_an_inversion_is_told_by_who_recognises_it_and_its_other_numbers_are_left_to_its_own_page(write, tmp_path):
    one, two = write("one"), tmp_path / "inverted"
    two.mkdir()
    (two / "result.json").write_text(json.dumps(inversion(5.0)))
    page = make_report([one, two], tmp_path / "both.html")[0].read_text(encoding="utf-8")
    assert "Voices are reconstructed that somebody else recognises" in page
    assert "Recognised by an independent recogniser" in page
    federated, inverted = (table_of(page, "attacks", number) for number in (0, 1))
    assert "attacked" not in federated and "AUC" in federated
    assert "AUC" not in inverted and "attacked" in inverted and "other architecture" in inverted
    claim = next(c for c in inversion(5.0)["claims"] if c["primary"] and c["metric"] == "accuracy")
    assert f"{claim['value']:.3f}" in inverted
    for number in (0, 1):
        rows = page.split('<section id="attacks"')[1].split("<table>")[number + 1].split("<tr>")[3:]
        assert all(re.search(r'class="number">\S', row) for row in rows), "a row without a number"


def test_the_tables_hold_what_the_figures_show(write, tmp_path):
    folder = write("one", shift=1.0)
    page, *tables = make_report([folder], data=tmp_path / "data")
    assert page == folder / "report.html"
    assert {table.name for table in tables} >= {"roc.csv", "strip.csv", "distributions.csv", "intervals.csv"}
    scores = {row["speaker"]: row for row in rows_of(folder / "scores.csv") if row["attack"] == "strong"}
    strip = rows_of(tmp_path / "data" / "strip.csv")
    assert {row["speaker"]: float(row["score"]) for row in strip} == {
        name: pytest.approx(float(row["score"])) for name, row in scores.items()
    }
    by_class = {label: [float(r["score"]) for r in strip if r["label"] == label] for label in ("female", "male")}
    curve = [row for row in rows_of(tmp_path / "data" / "roc.csv") if row["name"] == "strong"]
    area = np.trapezoid([float(r["tpr"]) for r in curve], [float(r["fpr"]) for r in curve])
    assert area == pytest.approx(metrics.auc(np.array(by_class["male"]), np.array(by_class["female"])))
    bins = rows_of(tmp_path / "data" / "distributions.csv")
    for label, values in by_class.items():
        edges = [float(r["from"]) for r in bins] + [float(bins[-1]["to"])]
        assert [int(r[label]) for r in bins] == np.histogram(values, edges)[0].tolist()


def test_layers_that_attacks_read_are_drawn(make):
    run = make()
    assert "read-layers" not in sections(Page(render(run.result, run.rows)))
    attacks = [{"name": "strong", "layers": ["first"]}, {"name": "x", "label": "weak", "layers": ["second", "last"]}]
    result = {**run.result, "simulation": {**run.result["simulation"], "attack": attacks}}
    page = Page(render(result, run.rows))
    assert "read-layers" in sections(page)
    assert "second + last" in page.text


def test_the_command(write, tmp_path):
    one, two = write("one"), write("two", shift=0.0)
    done = CliRunner().invoke(app, ["report", str(one), str(two), "--out", str(tmp_path / "both.html")])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "both.html")
    done = CliRunner().invoke(app, ["report", str(one), "--csv", str(tmp_path / "data")])
    assert done.output.splitlines()[0] == str(one / "report.html")
    assert (tmp_path / "data" / "strip.csv").is_file()
