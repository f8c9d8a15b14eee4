"""Runs beside one another, and the numbers behind the figures."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
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
    assert sections(page) == ["result", "primary", "cells", "threat-model"]
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
    with pytest.raises(UserError, match="no result to report on"):
        make_report([one, tmp_path / "nowhere"], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
    (tmp_path / "a-file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make_report([one], tmp_path / "a-file" / "out.html")


def test_runs_of_other_kinds_are_held_against_each_other_in_what_both_have(write, tmp_path):
    one = write("one", federation={"rounds": 5})
    two = write("two", simulation={"kind": "speaker-membership", "seed": 4}, protocol={"swaps": 2})
    page = Page(make_report([one, two], tmp_path / "both.html")[0].read_text(encoding="utf-8"))
    assert "kind=speaker-membership" in page.text
    assert "swaps" not in page.text


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
