"""The fenced blocks of the pages, with what a comment before one says of how it is tested."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

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
