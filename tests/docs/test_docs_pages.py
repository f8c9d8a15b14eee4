"""What has to have a page has one, with what such a page says."""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest
import yaml
from doc_blocks import DOCS, ROOT, pages

from fl_privacy import cli, config
from fl_privacy._registry import find_object
from fl_privacy.attacks.base import BUILT_IN
from fl_privacy.attacks.membership.evidence import default_attacks
from fl_privacy.attacks.membership.ssl.attacks import frame_attacks
from fl_privacy.config.speaker_inversion import DVECTORS, WAVES

ATTACKS = [page for page in pages() if page.startswith("attacks/")]
SECTIONS = ["What it does", "What it needs", "Source", "What it finds", "What it does not show"]


def head(page: str) -> str:
    """Return the line below an attack's title: names, what it is, where it is."""
    return (DOCS / page).read_text(encoding="utf-8").split("\n## ")[0]


@pytest.mark.parametrize("name", [*BUILT_IN, *default_attacks(), *frame_attacks(), *WAVES, *DVECTORS])
def test_every_attack_has_a_page(name: str) -> None:
    assert [page for page in ATTACKS if f"`{name}`" in head(page)], f"no page of docs/attacks begins with `{name}`"


@pytest.mark.parametrize("page", ATTACKS)
def test_the_page_of_an_attack(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    (where,) = re.findall(r"`(fl_privacy\.[\w.]+)`", head(page))
    module, _, name = where.rpartition(".")
    try:
        importlib.import_module(where)
    except ModuleNotFoundError:
        found = getattr(importlib.import_module(module), name)
        names = re.findall(r"`([a-z-]+)`", head(page))
        if names and names[0] in BUILT_IN:
            assert found is find_object(names[0], BUILT_IN, "attack")
    source = text.split("## Source")[1].split("\n## ")[0]
    assert re.search(r"arXiv|[Tt]his project|\d{4}", source)


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        """Reads the file without what only mkdocs knows."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    shown = set(re.findall(r"[\w./-]+\.md", str(site["nav"])))
    assert set(pages()) <= shown


def test_the_drawing_of_the_layers_is_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    drawing = text.split("## Layers")[1].split("```")[1]
    boxes = [re.search(r"\|(.*)\|", line) for line in drawing.splitlines() if line.count("|") > 1]
    drawn = [{name.strip() for name in found[1].split("|")} for found in boxes if found and "|" in found[0]]
    assert drawn == [{name.strip().removeprefix("fl_privacy.") for name in layer.split("|")} for layer in layers]


def test_every_preset_is_named_somewhere() -> None:
    texts = "".join((DOCS / page).read_text(encoding="utf-8") for page in pages())
    for name in config.presets():
        assert name in texts or name.rpartition("-")[2] in texts, name


def test_every_command_is_named_somewhere() -> None:
    texts = "".join((DOCS / page).read_text(encoding="utf-8") for page in pages())
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        assert f"fl-privacy {name}" in texts, name
