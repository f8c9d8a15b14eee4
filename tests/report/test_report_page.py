"""The page as a whole: valid, self-contained, safe, the same each time, and never brought down by what is missing."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fl_privacy.errors import UserError
from fl_privacy.report import render, write_report

VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}
SECTIONS = ["result", "threat-model", "attacks", "roc", "scores", "controls", "utility", "data", "settings"]


class Page(HTMLParser):
    """Checks that tags balance, and keeps what a test may ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def sections(page: Page) -> list[str | None]:
    return [section.get("id") for section in page.all("section")]


@pytest.fixture(scope="module")
def text(make):
    run = make()
    return render(run.result, run.rows)


def test_a_whole_run_gives_every_section_and_a_labelled_figure_for_each(text):
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.all("html")[0]["lang"] == "en"
    assert sections(page) == SECTIONS
    assert len(page.all("h1")) == 1
    assert len(page.all("h2")) == len(SECTIONS)
    figures = page.all("svg")
    assert len(figures) == 7
    for svg in figures:
        assert svg["role"] == "img"
        assert len(svg["aria-label"] or "") > 20
        assert svg["viewbox"]
        assert "width" not in svg


def test_ids_are_unique_and_every_reference_within_the_page_has_its_target(text):
    ids = [a["id"] for _, a in Page(text).tags if "id" in a]
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)|aria-labelledby="([^"]+)"', text)
    assert len(references) > 20
    assert {name for found in references for name in found if name} <= set(ids)


def test_the_page_refers_to_nothing_outside_itself_and_runs_no_script(text):
    page = Page(text)
    assert "//" not in text
    assert "@import" not in text
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert (attributes.get("href") or "#").startswith(("#", "data:text/csv"))


def test_the_same_input_gives_the_same_bytes_also_in_another_process(make, tmp_path):
    run = make()
    first = render(copy.deepcopy(run.result), copy.deepcopy(run.rows))
    assert render(run.result, run.rows) == first
    (tmp_path / "result.json").write_text(json.dumps(run.result))
    (tmp_path / "scores.csv").write_text(run.text)
    code = (
        "import sys, pathlib; import matplotlib as m; m.rcParams['xtick.major.size'] = 9; m.rcParams['font.size'] = 20;"
        "from fl_privacy.report import write_report; write_report(pathlib.Path(sys.argv[1]));"
        "assert m.rcParams['font.size'] == 20; assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LANG": "C", "MPLCONFIGDIR": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == first


def test_what_comes_from_users_files_is_shown_and_never_obeyed(make):
    evil = "<script>alert('1')</script>&amp;{{ 7*7 }}$x^2$\x07]]>"
    run = make(attacks=(evil, "weak"), prefix=evil)
    for part in ("private", "auxiliary"):
        run.result["corpora"][part][0]["name"] = evil
        run.result["corpora"][part][0]["left_out"] = {evil: 3}
    run.result["failed_replies"] = [[1, "1", evil]]
    run.result["test_speakers"] = [evil]
    run.result["threat_model"] |= {"words": evil, "attacker": evil}
    run.result["utility"]["task"] = evil
    run.result["versions"] = {evil: evil}
    run.result["simulation"]["private"]["corpus"] = evil
    for row in run.result["claims"] + run.result["controls"]:
        row |= {"attribute": evil, "reason": evil, "defense": evil, "conditions": {"private": evil, "best_blind": evil}}
    for row in run.rows:
        row["label"] = row["label"] + evil
    text = render(run.result, run.rows)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\x07" not in text
    assert page.text.count("<script>alert('1')</script>&amp;{{ 7*7 }}$x^2$\ufffd]]>") > 10


def test_a_name_in_a_figure_is_text_and_no_formula(make):
    run = make(attacks=("$x^2$", "weak"))
    assert "$x^2$ (AUC" in render(run.result, run.rows)


@pytest.mark.parametrize("name", ["\ud800", "声の持ち主", "\u202eabc", "a" * 500, " "])
def test_odd_names_do_no_harm(make, name):
    run = make(attacks=(name, "weak"), prefix=name)
    render(run.result, run.rows).encode("utf-8")


def test_nulls_with_a_reason_are_said_and_do_not_crash(make):
    run = make()
    for row in run.result["claims"] + run.result["controls"]:
        row |= {"value": None, "low": None, "high": None, "reason": "because of rain"}
    for row in run.result["controls"]:
        row["p_value"] = None
    page = Page(render(run.result, run.rows))
    assert "because of rain" in page.text
    assert "Unresolved" in page.text
    for row in run.result["claims"] + run.result["controls"]:
        for key in row:
            if key not in ("attack", "unit", "metric", "conditions", "seeds", "primary", "control", "of"):
                row[key] = None
    assert "unresolved" in Page(render(run.result, run.rows)).text


def test_values_without_intervals_are_drawn(make):
    run = make()
    for row in run.result["claims"] + run.result["controls"]:
        row |= {"low": None, "high": None, "reason": "no interval: a class has fewer than 2 speakers"}
    page = Page(render(run.result, run.rows))
    assert sections(page) == SECTIONS
    assert "no interval" in page.text


@pytest.mark.parametrize("part", ["utility", "threat_model", "corpora", "simulation", "versions", "controls", "claims"])
def test_a_part_that_is_missing_leaves_a_report_of_the_rest(make, part):
    run = make()
    found = []
    for missing in (None, type(run.result[part])()):
        run.result[part] = missing
        found.append(render(run.result, run.rows))
    del run.result[part]
    assert {"result", "settings", "utility"} <= set(sections(Page(found[0])))
    assert found == [render(run.result, run.rows)] * 2


def test_one_attack_alone_and_no_scores(make):
    run = make(attacks=("only",))
    assert sections(Page(render(run.result, run.rows))) == SECTIONS
    without = [name for name in SECTIONS if name not in ("roc", "scores")]
    assert sections(Page(render(run.result, []))) == without
    bare = Page(render({"schema": 1}, []))
    assert "holds no claim" in bare.text


def test_an_audit_of_ones_own_scores_has_a_report(tmp_path):
    from fl_privacy.audit import Audit

    scores, labels, groups = [0.1, 0.2, 0.9, 0.8, 0.3, 0.7], [0, 0, 1, 1, 0, 1], list("aabbcd")
    Audit(scores, labels, groups).save(tmp_path)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert {"result", "roc", "scores"} <= set(sections(page))
    assert "4 speakers" in page.text


def test_the_report_replaces_an_old_one_whole_and_leaves_nothing_else(make, tmp_path):
    run = make()
    (tmp_path / "result.json").write_text(json.dumps(run.result))
    (tmp_path / "scores.csv").write_text(run.text)
    (tmp_path / "report.html").write_text("old")
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(run.result, run.rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "result.json", "scores.csv"]


@pytest.mark.parametrize(
    ("result", "scores", "message"),
    [
        (None, "", "no result at"),
        ("{", "", "not JSON"),
        ("[]", "", "list"),
        ('{"schema": 99}', "", "schema 99"),
        ('{"schema": 1, "claims": [{"attack": "a"}]}', "", "missing"),
        ('{"schema": 1}', "attack,unit,speaker,label,score,decision\na,speaker,s,m,many,1\n", "line 2"),
        ('{"schema": 1}', "attack,unit,speaker,label,score,decision\na,speaker,s,m,nan,1\n", "not finite"),
        ('{"schema": 1}', "attack,unit,speaker\na,speaker,s\n", "line 2"),
    ],
)
def test_a_folder_that_is_not_a_run_is_refused_in_words(tmp_path, result, scores, message):
    if result is not None:
        (tmp_path / "result.json").write_text(result)
    (tmp_path / "scores.csv").write_text(scores)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_importing_the_report_is_light():
    heavy = {"matplotlib", "torch", "jinja2", "flwr", "sklearn"}
    code = f"import sys, fl_privacy.report; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_text_and_of_marks_in_both_modes(text):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    modes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{([^}]*)\}", text)
    ]
    assert len(modes) == 2
    for colours in modes:
        for name in ("ink", "muted", "link", "shown", "not-shown", "unresolved"):
            for ground in ("paper", "card"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in ("first", "second", "third"):
            assert contrast(colours[name], colours["paper"]) >= 3, name
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert used <= set(modes[0]) == set(modes[1])


def test_templates_travel_with_the_package():
    from importlib import resources

    import fl_privacy.report.sections as sections_module

    folder = resources.files("fl_privacy.report") / "templates"
    for section in sections_module.SECTIONS:
        assert (folder / section.template).is_file()
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'packages = ["fl_privacy"]' in pyproject


def test_permutations_of_another_statistic_than_the_claims_say_of_which(make):
    run = make(shift=3.0)
    assert "before calibration" not in render(run.result, run.rows)
    (control,) = [
        c
        for c in run.result["controls"]
        if (c["control"], c["of"], c["unit"]) == ("permuted-auxiliary-labels", "strong", "speaker")
    ]
    control["observed"] = 0.1234
    text = render(run.result, run.rows)
    assert (
        "With the labels of the attacker's own speakers permuted, the AUC before calibration (0.123) was"
        in text.replace("&#39;", "'")
    )
    assert text.count("before calibration") == 1
