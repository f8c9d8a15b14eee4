"""Utility against leakage: the right cells held against one another, and the best of them told for what they are."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.audit import Privacy
from fl_privacy.report import write_sweep_report
from fl_privacy.report.swept import Sweep
from fl_privacy.report.tradeoff import groups, marks, pareto
from fl_privacy.sims.sweep import table
from tests.report.test_report_page import Page, sections

numbers = st.integers(0, 6).map(float)


@given(st.lists(st.tuples(numbers, numbers), max_size=30))
def test_the_pareto_set_is_that_of_its_definition(pairs):
    def beaten(a: tuple[float, float], by: tuple[float, float]) -> bool:
        return by[0] >= a[0] and by[1] <= a[1] and by != a

    wanted = [not any(beaten(a, b) for b in pairs) for a in pairs]
    assert pareto([u for u, _ in pairs], [leak for _, leak in pairs]) == wanted


@pytest.fixture
def write(make, tmp_path):
    """Write a sweep: for each cell its settings, the task's UAR, and the quoted AUCs (adaptive, static)."""

    def written(cells: Mapping[str, tuple[dict[str, Any], float | None, float, float | None]]) -> Path:
        root = tmp_path / "sweep"
        for folder, (settings, utility, adaptive, static) in cells.items():
            defended = static is not None
            run = make(attacks=("strong", "strong:static") if defended else ("strong",))
            result = copy.deepcopy(run.result)
            for claim in result["claims"]:
                knows = not claim["attack"].endswith(":static")
                claim["attacker"] = "adaptive" if knows and defended else "static"
                claim["defense"] = str(settings.get("defense.0.name")) if defended else None
                if claim["metric"] == "auc":
                    claim |= {"value": adaptive if knows else static, "low": 0.0, "high": 1.0}
            result["utility"]["uar"] = utility
            if defended:
                promise = Privacy(unit="client", mechanism="m", protects_from="server", epsilon_accountant=7.5)
                result["privacy"] = [promise.to_dict()]
            (root / folder).mkdir(parents=True)
            (root / folder / "result.json").write_text(json.dumps(result))
            (root / folder / "scores.csv").write_text(run.text)
        listed = [{"settings": s, "seeds": [1], "grid": 0, "path": f"{f}/result.json"} for f, (s, *_) in cells.items()]
        (root / "sweep.json").write_text(json.dumps(listed))
        return root

    return written


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"defense.0.name": name, **more}


CELLS: dict[str, Any] = {
    "none": ({}, 0.70, 0.95, None),
    "weak": (named("weak"), 0.65, 0.90, 0.55),
    "worse": (named("worse"), 0.60, 0.92, 0.50),
    "strong": (named("strong"), 0.55, 0.52, 0.51),
    "inverted": (named("inverted"), 0.50, 0.40, 0.45),
}


def test_the_pareto_set_goes_by_the_better_attacker_and_below_guessing_is_guessing(write):
    found = marks(Sweep.read(write(CELLS)))
    assert found == {"none": True, "weak": True, "worse": False, "strong": True, "inverted": True}


def test_an_auc_below_one_half_does_not_beat_one_half(write):
    found = marks(Sweep.read(write({**CELLS, "strong": (named("strong"), 0.55, 0.49, 0.48)})))
    assert found["strong"]
    assert not found["inverted"]


def test_the_page_has_both_series_and_lists_every_cell(write):
    page = Page(text := write_sweep_report(write(CELLS)).read_text())
    assert sections(page)[:2] == ["result", "tradeoff"]
    part = text[text.index('id="tradeoff"') : text.index('id="maps"')]
    titles = re.findall(r"<title>(.*?)</title>", part)
    assert len([t for t in titles if t.startswith("name=weak")]) == 2
    assert "name=weak: UAR 0.650, AUC 0.900" in titles
    assert "name=weak: UAR 0.650, AUC 0.550" in titles
    assert len(titles) == 2 * len(CELLS)  # without a defense both attackers are the same
    assert part.count('<span class="tag">Pareto</span>') == 4
    assert part.count("client: 7.5") == 4
    assert "picked after the run is a choice" in part
    rows = re.findall(r'<th scope="row">(.*?)<br>', part)
    assert rows == ["no defense", "name=weak", "name=worse", "name=strong", "name=inverted"]


def test_who_knows_a_defense_may_act_as_if_not(write):
    """Noise in the shadows misleads the adaptive attacker; what leaks is what the better of the two gets."""
    misled = {
        "none": CELLS["none"],
        "misled": (named("misled"), 0.6, 0.5, 0.95),
        "fair": (named("fair"), 0.6, 0.8, 0.7),
    }
    found = marks(Sweep.read(write(misled)))
    assert found["fair"]
    assert not found["misled"]


def test_only_cells_that_differ_in_their_defense_alone_are_compared(write):
    cells = {
        f"{name}-{algorithm}": (
            {**settings, "federation.algorithm": algorithm},
            utility - (0.3 if algorithm == "fedavg" else 0),
            adaptive,
            static,
        )
        for algorithm in ("fedsgd", "fedavg")
        for name, (settings, utility, adaptive, static) in CELLS.items()
    }
    root = write(cells)
    found = groups(Sweep.read(root))
    assert [group.settings for group in found] == [("algorithm=fedsgd",), ("algorithm=fedavg",)]
    assert all(marks(Sweep.read(root))[f"none-{algorithm}"] for algorithm in ("fedsgd", "fedavg"))
    assert Page(write_sweep_report(root).read_text()).text.count("Utility and leakage, algorithm=") == 2


def test_without_defenses_there_is_no_such_section_and_no_such_column(write):
    root = write({"none": CELLS["none"]})
    assert "tradeoff" not in sections(Page(write_sweep_report(root).read_text()))
    assert "static" not in table(root)


def test_what_has_no_number_is_listed_and_neither_drawn_nor_marked(write):
    root = write({**CELLS, "blank": (named("blank"), None, 0.1, 0.1), "silent": (named("silent"), 0.9, None, None)})
    result = json.loads((root / "silent" / "result.json").read_text())
    for claim in result["claims"]:
        claim |= {"value": None, "low": None, "high": None, "reason": "the sky fell", "defense": "silent"}
    (root / "silent" / "result.json").write_text(json.dumps(result))
    text = write_sweep_report(root).read_text()
    found = marks(Sweep.read(root))
    assert not found["blank"]
    assert not found["silent"]
    assert found["none"]
    assert "name=blank:" not in text
    assert '<li id="note-tradeoff-1">the sky fell</li>' in text


def test_the_text_table_has_both_attackers_side_by_side_and_epsilon(write):
    lines = table(write(CELLS)).splitlines()
    assert "static AUC" in lines[0]
    assert "epsilon (from below)" in lines[0]
    line = {name: next(x for x in lines if f"name={name} " in x) for name in ("weak", "worse")}
    assert "0.900" in line["weak"]
    assert "0.550" in line["weak"]
    assert "client 7.5 (not audited)" in line["weak"]
    assert line["weak"].rstrip().endswith("yes")
    assert not line["worse"].rstrip().endswith("yes")
    assert " ".join(lines[-3:]).endswith("picked after the run is a choice.")
