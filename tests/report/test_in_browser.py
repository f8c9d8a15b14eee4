"""The page in a real browser: readable on a phone and on paper, by day and by night, for those who see colours otherwise."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report_inversion import result as inversion

from fl_privacy.report import make_report, write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")

WIDTHS = (320, 412, 820, 1400)

OVERFLOWING = """
const page = document.documentElement, wide = [];
if (page.scrollWidth > page.clientWidth) wide.push(`page: ${page.scrollWidth} > ${page.clientWidth}`);
for (const text of document.querySelectorAll("svg text")) {
  const box = text.getBoundingClientRect(), frame = text.closest("svg").getBoundingClientRect();
  if (box.width && (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
      || box.bottom > frame.bottom + 1)) wide.push(text.textContent);
}
for (const svg of document.querySelectorAll("svg")) {
  const box = svg.getBoundingClientRect();
  if (box.width < 100 || box.height < 40) wide.push("a figure of no size");
}
return wide;
"""
"""What reaches out of the page, or out of its figure."""

INVERTED = {
    "distances": {"standard from laplace": {key: {"mean": 0.7, "sd": 0.1} for key in ("own", "others", "wrong")}},
    "examples": [
        {"name": name, "low": [-0.5] * 160, "high": [0.5] * 160, "seconds": 0.2,
         "spectrum": [[float(band * frame % 7) for frame in range(20)] for band in range(40)]}
        for name in ("a real recording", "sliding from speech-mean-50-mixed")
    ],
}  # fmt: skip
"""What an inversion's result holds beside its claims."""

FAINT = """
function rgb(text) { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; }
function luminance(c) {
  const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function over(top, below) { return [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])); }
function behind(element) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    const colour = rgb(getComputedStyle(e).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
}
const faint = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const style = getComputedStyle(element);
  if (!own || element.closest("title") || style.visibility === "hidden" || !element.getClientRects().length) continue;
  const ground = behind(element);
  const ink = over(rgb(element.closest("svg") ? style.fill : style.color), ground);
  const [a, b] = [luminance(ink), luminance(ground)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)}: ${element.textContent.trim().slice(0, 40)}`);
}
return faint;
"""
"""Text below the contrast of WCAG 2.1 AA (1.4.3), by its relative luminance."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Chromium leaves its profile's sockets behind: among this session's files, not in the machine's own folder.
    place = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("chromium"))}
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER), env=place))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(make, tmp_path_factory) -> dict[str, Path]:
    """A run with a leak, one without, an inversion, and all beside one another."""
    root = tmp_path_factory.mktemp("reports")
    for name, shift in (("leak", 3.0), ("none", 0.0)):
        run = make(shift=shift)
        settings = run.result["simulation"] | {"defense": [{"name": name}], "features": {"root": name * 50}}
        (root / name).mkdir()
        (root / name / "result.json").write_text(json.dumps(run.result | {"simulation": settings}))
        (root / name / "scores.csv").write_text(run.text)
        write_report(root / name)
    (root / "inverted").mkdir()
    (root / "inverted" / "result.json").write_text(json.dumps(inversion(5.0) | {"inversion": INVERTED}))
    write_report(root / "inverted")
    make_report([root / "leak", root / "none", root / "inverted"], root / "all.html")
    return {
        "inverted": root / "inverted/report.html",
        "leak": root / "leak/report.html",
        "none": root / "none/report.html",
        "all": root / "all.html",
    }


@pytest.mark.parametrize("name", ["leak", "none", "all", "inverted"])
def test_nothing_overflows_nothing_is_faint_and_nothing_is_complained_about(browser, pages, name):
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
        for width in WIDTHS:
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(pages[name].as_uri())
            assert browser.execute_script(OVERFLOWING) == [], (scheme, width)
        assert browser.execute_script(FAINT) == [], scheme
    assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []


def test_on_a_phone_each_attack_of_a_comparison_has_its_first_number_beside_it(browser, pages):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": []})
    size = {"width": 320, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(pages["all"].as_uri())
    hidden = """
    return [...document.querySelectorAll("#attacks td.number:nth-child(2), #attacks th.run > div")].filter(
      cell => cell.getBoundingClientRect().right > 320 || cell.getBoundingClientRect().height > 160).length;
    """
    assert browser.execute_script("return document.querySelectorAll('#attacks td.number:nth-child(2)').length") >= 5
    assert browser.execute_script(hidden) == 0


def test_on_paper_nothing_is_cut_off(browser, pages):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    size = {"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for page in pages.values():
        browser.get(page.as_uri())
        assert browser.execute_script(OVERFLOWING) == []
        assert browser.execute_script(FAINT) == []


def test_the_checks_see_what_they_look_for(browser, pages, tmp_path):
    text = pages["leak"].read_text(encoding="utf-8")
    broken = text.replace("</main>", '<p style="width:3000px;color:#ccc;background:#fff">out of the page</p></main>')
    (tmp_path / "broken.html").write_text(broken, encoding="utf-8")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": []})
    browser.get((tmp_path / "broken.html").as_uri())
    assert browser.execute_script(OVERFLOWING)
    assert "out of the page" in browser.execute_script(FAINT)[0]


def test_a_link_saves_the_numbers_behind_a_figure(browser, pages, tmp_path):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.get(pages["leak"].as_uri())
    browser.execute_script("document.querySelector('a[download=\"strip.csv\"]').click()")
    for _ in range(50):
        if (tmp_path / "strip.csv").is_file():
            break
        time.sleep(0.1)
    rows = (tmp_path / "strip.csv").read_text().splitlines()
    assert rows[0] == "speaker,label,score,decision"
    assert len(rows) == 1 + 24
