"""The page of a sweep: numbers where they belong, colours that can be read, and a best that is told as a best of many."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.audit import Audit, Claim, MulticlassAudit, NumericAudit
from fl_privacy.audit.files import units_csv
from fl_privacy.errors import UserError
from fl_privacy.report import heat, write_sweep_report
from fl_privacy.report.notes import Notes
from fl_privacy.report.run import Run
from fl_privacy.report.sweep import best_of, headline, page_of_sweep
from fl_privacy.report.swept import Sweep, Swept
from tests.report.test_report_page import Page, contrast, sections
from tests.report.test_report_parts import CLASSES, NUMBERS

Cells = Sequence[tuple[int, Mapping[str, Any], str]]

GRIDS: Cells = [
    (0, {"features.normalise": "global"}, "centre"),
    (0, {"features.normalise": "speaker"}, "speaker"),
    (1, {"federation.dropout": 0}, "none"),
    (1, {"federation.dropout": 0.2}, "centre"),
    (1, {"federation.dropout": 0.5}, "much"),
]


@pytest.fixture
def write(make, tmp_path):
    """Write a sweep folder: cells (grid, settings, folder), each folder's result with a shift of its own."""

    def written(cells: Cells = GRIDS, results: Mapping[str, Mapping[str, Any]] | None = None, **how: Any) -> Path:
        root = tmp_path / "sweep"
        for number, name in enumerate(dict.fromkeys(folder for *_, folder in cells)):
            run = make(**{"shift": 0.5 * number, "seed": number, **how})
            (root / name).mkdir(parents=True, exist_ok=True)
            result = (results or {}).get(name, run.result)
            (root / name / "result.json").write_text(json.dumps(result))
            (root / name / "scores.csv").write_text(run.text)
        entries = [{"settings": s, "seeds": [1], "grid": g, "path": f"{f}/result.json"} for g, s, f in cells]
        entries += [{"settings": {}, "grid": 0, "path": "nowhere/result.json"}]  # a single seed's run, not a cell
        (root / "sweep.json").write_text(json.dumps(entries))
        (root / "simulation.toml").write_text('[sweep]\nvary = ["a.b=1,2"]\n')
        return root

    return written


class Tables(HTMLParser):
    """Heat maps as they are read: caption -> {(row, column): (text, style)}."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, dict[tuple[str, str], tuple[str, str]]] = {}
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag == "table":
            self.inside = told.get("class") == "heat"
            self.heads: list[str] = []
        if tag == "tr":
            self.column = 0
        if tag == "thead":
            self.last: list[str] = []
        self.tag, self.told, self.text = tag, told, ""

    def handle_data(self, data: str) -> None:
        if not self.inside or not data.strip():
            return
        if self.tag == "caption":
            self.caption = data
            self.found[data] = {}
        elif self.tag == "th" and self.told.get("scope") == "col":
            self.heads.append(data)
        elif self.tag == "th" and self.told.get("scope") == "row":
            self.row = data
        elif self.tag == "td":
            self.column += 1
            style = self.told.get("style") or self.told.get("class") or ""
            self.found[self.caption][self.row, self.heads[self.column]] = (data, style)


def claimed(root: Path, folder: str, attack: str) -> str:
    rows = json.loads((root / folder / "result.json").read_text())["claims"]
    wanted = (attack, "speaker", "auc")
    return next(f"{c['value']:.3f}" for c in rows if (c["attack"], c["unit"], c["metric"]) == wanted)


def test_every_number_stands_where_its_attack_and_condition_meet(write):
    root = write()
    found = Tables(write_sweep_report(root).read_text()).found
    places = {
        "AUC by attack and normalise": {"global": "centre", "speaker": "speaker"},
        "AUC by attack and dropout": {"0": "none", "0.2": "centre", "0.5": "much"},
    }
    assert set(found) == set(places)
    for caption, columns in places.items():
        assert set(found[caption]) == {(attack, column) for attack in ("strong", "weak") for column in columns}
        for (attack, column), (text, _) in found[caption].items():
            assert text == claimed(root, columns[column], attack)


def test_the_table_has_every_attack_of_every_cell_once(write):
    root = write()
    page = Page(write_sweep_report(root).read_text())
    groups = [a for a in page.all("th") if a.get("scope") == "rowgroup"]
    assert [a["rowspan"] for a in groups] == ["2"] * 4
    # The centre stands in two grids, and has the settings of both.
    assert page.text.count("normalise=global dropout=0.2") == 1
    for folder in ("centre", "speaker", "none", "much"):
        for attack in ("strong", "weak"):
            assert claimed(root, folder, attack) in page.text


def test_keys_that_change_together_are_one_axis_and_further_axes_are_further_maps(write):
    corpora = [("ravdess", "emodb"), ("emodb", "ravdess")]
    cells = [
        (
            0,
            {"private.corpus": a, "auxiliary.0.corpus": b, "federation.algorithm": g, "features.dropout": d},
            f"{a}{g}{d}",
        )
        for a, b in corpora
        for g in ("fedsgd", "fedavg")
        for d in (0, 1, 2)
    ]
    captions = list(Tables(write_sweep_report(write(cells, shift=1.0, seed=0)).read_text()).found)
    assert captions == [
        f"AUC by attack and dropout; private.corpus + auxiliary.0.corpus={a} + {b}, algorithm={g}"
        for a, b in corpora
        for g in ("fedsgd", "fedavg")
    ]


def test_one_attack_alone_gives_its_place_to_a_second_axis(write):
    cells = [(0, {"a.x": x, "a.y": y, "a.z": "same"}, f"{x}{y}") for x in (1, 2) for y in (3, 4, 5)]
    (caption,) = Tables(write_sweep_report(write(cells, attacks=("only",))).read_text()).found
    assert caption == "AUC by x and y; z=same, attack=only"


def test_what_has_no_value_is_hatched_with_its_reason_and_what_was_not_run_is_said_so(write, make):
    result = make(shift=0.0, seed=0, attacks=("only",)).result
    for row in result["claims"]:
        row |= {"value": None, "low": None, "high": None, "reason": "the sky fell"}
    cells = [(0, {"a.x": x, "a.y": y}, f"{x}{y}") for x, y in ((1, 1), (1, 2), (2, 1))]
    text = write_sweep_report(write(cells, {"12": result}, attacks=("only",))).read_text()
    (found,) = Tables(text).found.values()
    assert found["1", "2"] == ("unresolved", "hatched")
    assert found["2", "2"] == ("not run", "hatched")
    assert found["1", "1"][1].startswith("background:#")
    assert re.search(r'<li id="note-maps-1">the sky fell</li>', text)


def test_different_kinds_of_attribute_never_share_a_map_or_a_table(write):
    cells = [(0, {"private.attribute": name}, name) for name in ("accent", "age")]
    text = write_sweep_report(write(cells, {"accent": CLASSES, "age": NUMBERS})).read_text()
    found = Tables(text).found
    assert list(found) == ["AUC by attack; attribute=accent", "correlation by attack; attribute=age"]
    assert found["correlation by attack; attribute=age"]["best", "correlation"][0] == "+0.510"
    assert "mean absolute error" in text
    assert Page(text).text.count("Best of 1:") == 2
    assert Page(text).text.count("There is no interval that allows for the choice") == 2  # the scores are of others


# ------------------------------------------------------------------ colours


@given(st.floats(0, 1), st.sampled_from([0.5, 0.25, 0.02]))
def test_text_can_be_read_on_every_colour(value, middle):
    ground = heat.colour(value, middle, 0.0)
    assert contrast(heat.ink_on(ground), ground) >= 4.5


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2).map(sorted))
def test_colours_go_one_way_from_blue_over_white_to_orange(pair):
    low, high = ([int(heat.colour(v, 0.0, -1.0)[i : i + 2], 16) for i in (1, 3, 5)] for v in pair)
    assert low[0] - low[2] <= high[0] - high[2] + 1  # red less blue; one for rounding
    assert heat.colour(0.0, 0.0, -1.0) == heat.colour(0.5, 0.5, 0.0) == heat.MIDDLE
    assert (heat.colour(1.0, 0.5, 0.0), heat.colour(0.0, 0.5, 0.0)) == (heat.HIGH, heat.LOW)


# ------------------------------------------------------------------ the best of many


def test_the_best_is_told_with_an_interval_for_all_of_them_at_once(write):
    root = write(seed=3)
    best = best_of(Sweep.read(root), "auc")
    assert best is not None
    every = [float(claimed(root, f, a)) for f in ("centre", "speaker", "none", "much") for a in ("strong", "weak")]
    assert best.among == 8
    assert best.claim.value == pytest.approx(max(every), abs=5e-4)
    scores = Run.of(best.cell.run.result, Sweep.read(root).scores(best.cell)).scores[best.claim.attack]
    audit = Audit([s.score for s in scores], [s.label for s in scores], confidence=1 - 0.05 / 8)
    assert (best.low, best.high) == (audit.auc().low, audit.auc().high)
    assert best.low is not None
    assert best.claim.low is not None
    assert best.low < best.claim.low


def test_a_best_of_nothing_is_seldom_taken_for_a_finding():
    """Under the null, the corrected interval of the best of 20 holds .5; the best's own interval often does not."""
    rng = np.random.default_rng(5)
    labels = np.repeat(["f", "m"], 12)
    own = corrected = 0
    times = 60
    for _ in range(times):
        runs, rows = [], {}
        for number in range(20):
            audit = Audit(rng.normal(size=24), labels, name="a")
            claims = [Claim(attack="a", unit="speaker", metric="auc", **vars(audit.auc())).to_dict()]
            rows[str(number)] = list(csv.DictReader(io.StringIO(units_csv([audit]))))
            runs.append(Swept(0, {"n": number}, (1,), str(number), Run.of({"schema": 1, "claims": claims}, ())))

        class Held(Sweep):
            def scores(self, cell: Swept, rows: Mapping[str, Any] = rows) -> Any:
                return rows[cell.path]

        best = best_of(Held(Path(), tuple(runs)), "auc")
        assert best is not None
        assert best.low is not None
        own += (best.claim.low or 0.0) > 0.5
        corrected += best.low > 0.5
    assert own > 0.2 * times
    assert corrected <= 0.05 * times


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_the_best_of_other_attributes_is_corrected_too(kind, tmp_path):
    rng = np.random.default_rng(8)
    entries, audits = [], {}
    for name, strength in (("weak", 0.0), ("strong", 3.0)):
        truth = rng.integers(0, 3, 30)
        scores = strength * np.eye(3)[truth] + rng.normal(size=(30, 3))
        if kind == "number":
            made = NumericAudit(scores @ np.arange(3), truth, name="a")
        else:
            made = MulticlassAudit(scores, truth.astype(str), name="a")
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.csv").write_text(units_csv([made]))
        claims = [claim.to_dict() for claim in made.claims(primary=True)]
        (tmp_path / name / "result.json").write_text(json.dumps({"schema": 1, "claims": claims}))
        entries.append({"settings": {"a.b": name}, "seeds": [1], "grid": 0, "path": f"{name}/result.json"})
        audits[name] = made
    (tmp_path / "sweep.json").write_text(json.dumps(entries))
    best = best_of(Sweep.read(tmp_path), {"classes": "auc", "number": "correlation"}[kind])
    assert best is not None
    assert (best.cell.path, best.among) == ("strong", 2)
    audits["strong"].confidence = 0.975
    expected = audits["strong"].headline_estimate()
    assert (best.low, best.high) == (expected.low, expected.high)


def test_scores_that_do_not_give_the_claim_give_no_corrected_interval(write):
    root = write()
    for path in root.glob("*/scores.csv"):
        path.unlink()
    best = best_of(Sweep.read(root), "auc")
    assert best is not None
    assert (best.low, best.high) == (None, None)
    assert "no interval that allows for the choice: scores.csv" in Page(write_sweep_report(root).read_text()).text


def test_the_attack_declared_first_is_told_before_the_best(write):
    root = write()
    told = headline(Sweep.read(root))
    assert told["what"] == "4 conditions (normalise, dropout), 2 attacks each, one seed."
    (found,) = told["found"]
    values = sorted(float(claimed(root, folder, "strong")) for folder in ("centre", "speaker", "none", "much"))
    assert f"between {values[0]:.3f} " in found["declared"]
    assert f"and {values[-1]:.3f} " in found["declared"]


# ------------------------------------------------------------------ the page


def test_the_page_is_whole_refers_to_nothing_outside_and_is_the_same_each_time(write):
    root = write()
    text = write_sweep_report(root).read_text(encoding="utf-8")
    page = Page(text)
    assert sections(page) == ["result", "maps", "cells", "threat-model", "settings"]
    assert "fl-privacy sweep simulation.toml" in page.text
    assert 'vary = ["a.b=1,2"]' in page.text
    assert "//" not in text
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|aria-labelledby="([^"]+)"', text)
    assert {name for found in references for name in found if name} <= set(ids)
    (root / "sweep.json").write_text((root / "sweep.json").read_text().replace(", ", ",\n"))
    assert page_of_sweep(root).text == text
    assert sorted(p.name for p in root.iterdir() if p.is_file()) == ["report.html", "simulation.toml", "sweep.json"]


def test_what_comes_from_files_is_shown_and_never_obeyed(write):
    evil = "<script>alert('1')</script>\x07\"{{ 7*7 }}"
    cells = [(0, {f"a.{evil}": value, "b": [evil]}, name) for value, name in ((evil, "x"), ({evil: 1}, "y"))]
    root = write(cells, attacks=(evil, "weak"))
    (root / "simulation.toml").write_text(evil)
    text = write_sweep_report(root).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, told in page.tags for name in told if name.startswith("on")]
    assert "\x07" not in text
    assert "alert('1')" in page.text
    assert "49" not in re.findall(r"\b\d+\b", page.text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no sweep to report on"),
        ("{", "no list of a sweep's cells"),
        ("3", "no list of a sweep's cells"),
        ('[{"settings": {}, "seeds": [1], "path": "gone/result.json"}]', "no result at"),
    ],
)
def test_a_folder_that_is_no_sweep_is_refused_in_words(tmp_path, content, message):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=message):
        write_sweep_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_sweep_of_results_without_claims_has_a_page(write):
    root = write([(0, {}, "bare")], {"bare": {"schema": 1}})
    page = Page(write_sweep_report(root).read_text())
    assert "No cell has a result" in page.text


def test_maps_of_one_grid_take_their_values_from_that_grid_alone(write):
    sweep = Sweep.read(write())
    for grid in sweep.grids:
        (one,) = heat.maps(grid, Notes("n"))
        assert one.columns is not None
        assert len(one.columns.values) == len(grid)
    assert [cell.path for cell in sweep.distinct] == ["centre", "speaker", "none", "much"]
