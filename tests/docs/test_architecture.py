"""The drawing of the layers is the import contract, and both hold every package."""

from __future__ import annotations

import re
import tomllib

from doc_blocks import DOCS, ROOT


def drawn() -> list[set[str]]:
    """Return the layers of the drawing, from top to bottom."""
    (drawing,) = re.findall(r"```text\n(.*?)```", (DOCS / "architecture.md").read_text(encoding="utf-8"), re.DOTALL)
    rows = [re.findall(r"\| +(\w+)(?= +\|)", line) for line in drawing.splitlines()]
    return [set(row) for row in rows if row]


def contract() -> list[set[str]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        (layers,) = (c for c in tomllib.load(file)["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [{name.removeprefix("fl_privacy.") for name in row.split(" | ")} for row in layers["layers"]]


def test_the_drawing_is_the_contract() -> None:
    assert drawn() == contract()


def test_every_package_has_a_layer() -> None:
    package = ROOT / "fl_privacy"
    found = {path.parent.name for path in package.glob("*/__init__.py")} | {path.stem for path in package.glob("*.py")}
    public = {name for name in found if not name.startswith("_")}
    assert set().union(*contract()) == public - {"presets"}
