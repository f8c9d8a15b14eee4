"""Links of the pages, as they stand in the repository: every file, every heading."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from doc_blocks import DOCS, ROOT, prose

TEXTS = sorted(
    [
        *DOCS.rglob("*.md"),
        *ROOT.glob("*.md"),
        *(p for p in (ROOT / "examples").rglob("*.md") if "flwr" not in p.parts),
    ]
)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as repository browsers make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[(.*?)\]\(.*?\)|[`*]", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return frozenset(found)


def links(path: Path) -> list[tuple[int, str]]:
    lines = prose(path.read_text(encoding="utf-8")).splitlines()
    return [(number, target) for number, line in enumerate(lines, 1) for target in LINK.findall(line)]


def broken(path: Path) -> list[str]:
    found = []
    for number, target in links(path):
        if re.match(r"(https?|mailto):", target):
            continue  # nothing is asked of the network
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists():
            found.append(f"{path.relative_to(ROOT)}:{number}: no file {target}")
        elif anchor and anchor not in anchors(there):
            found.append(f"{path.relative_to(ROOT)}:{number}: no heading {target}")
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert broken(path) == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n\n[x](#a-b-c) [y](other.md) [z](#nothing) `[w](in-code.md)`\n")
    monkeypatch.setattr("test_docs_links.ROOT", tmp_path)
    assert broken(page) == ["page.md:3: no file other.md", "page.md:3: no heading #nothing"]


def test_code_speaks_of_headings_that_are_there() -> None:
    """Messages and docstrings name pages and, in quotes, headings."""
    for path in (ROOT / "fl_privacy").rglob("*.py"):
        for name, heading in re.findall(r"(docs/[\w-]+\.md)(?:, \"([^\"]+)\")?", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{path}: {name}"
            if heading:
                assert heading.lower().replace(" ", "-") in anchors(ROOT / name), f"{path}: {heading}"
