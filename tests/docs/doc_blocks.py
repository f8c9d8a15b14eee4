"""The fenced blocks of the pages, with what a comment before one says of how it is tested."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

ELSEWHERE = {
    ("speaker-membership.md", "$ fl-privacy audit-speaker"): "tests/sims/test_speaker_audit.py asks for one person",
    ("speaker-membership.md", "import csv"): "tests/corpora/test_manifest_recipe.py runs the recipe",
    (
        "how-to/shell.md",
        "fl-privacy --show-completion",
    ): "tests/test_cli_start.py, which shell it is called from or not",
    ("defenses.md", "from fl_privacy.defenses import Defense"): "tests/defenses/test_defenses_page.py runs the example",
}
"""Blocks that another test runs: page, how the block begins, and which."""

_FENCE = re.compile(
    r"^(?:<!-- test: (?P<kind>\w+)(?:: (?P<value>.*?))? -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes
    ----------
    page : str
        Path below docs/.
    line : int
        Of the fence.
    language, text : str
    kind, value : str
        Of ``<!-- test: kind: value -->`` in the line before: "skip" and why; "short", where other numbers come out than
        are shown, and what is added to each command if not the usual. Empty without.
    """

    page: str
    line: int
    language: str
    text: str
    kind: str
    value: str


def pages() -> list[str]:
    """Return the pages below docs/."""
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["text"],
            found["kind"] or "",
            found["value"] or "",
        )
        for found in _FENCE.finditer(text)
    ]


def prose(text: str) -> str:
    """Return a page's text without code and comments, of the same number of lines."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]+", "", found[0])

    return re.sub(r"^```.*?^```$|<!--.*?-->|``.+?``|`[^`\n]*`", blank, text, flags=re.MULTILINE | re.DOTALL)


def why_skipped(block: Block) -> str:
    """Return why a block is not run with its page; empty where it is."""
    if block.kind == "skip":
        return block.value
    if block.text.startswith("cd examples/"):
        return "tests/examples runs the examples"
    return next(
        (why for (page, start), why in ELSEWHERE.items() if block.page == page and block.text.startswith(start)), ""
    )


if __name__ == "__main__":  # what is not run, and why
    for name in pages():
        for one in blocks(name):
            if why := why_skipped(one):
                print(f"docs/{name}:{one.line}: {one.text.splitlines()[0]}: {why}")
