"""docs/defenses.md: its table, its combinations and its example."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from by_hand import AVG, SGD, Work

from fl_privacy._registry import find_object
from fl_privacy.defenses import Defense, check_defenses, make_defenses
from fl_privacy.defenses.base import BUILT_IN

PAGE = (Path(__file__).parent.parent.parent / "docs" / "defenses.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROWS = [line.split(" | ") for line in PAGE.splitlines() if re.match(r"\| `[\w-]+`", line)]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_is_in_the_table_with_its_settings(name):
    rows = [row for row in ROWS if row[0].startswith(f"| `{name}`")]
    assert rows
    named = {setting for row in rows for setting in re.findall(r"`(\w+)`", row[1])}
    made = find_object(name, BUILT_IN, "defense")
    takes = set(inspect.signature(made).parameters) - {"args", "kwargs"}
    assert named == takes - {"placement"}


def test_every_hook_is_in_the_table():
    hooks = {name for name, value in vars(Defense).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert {row[0].strip("| `") for row in ROWS} >= hooks


def test_the_combination_goes_together():
    (text,) = [text for kind, text in BLOCKS if kind == "toml" and "share-upper" in text]
    entries = tomllib.loads(text)["defense"]
    check_defenses(make_defenses(entries), "fedsgd")
    assert Work(*entries).update()["fc2.weight"].any()


def test_the_published_constant():
    (made,) = make_defenses([{"name": "udp-published", "epsilon": 5}])
    assert f"{made.sigma(23) * 23 * 5:.3f}" == re.search(r"`([\d.]+) / \(n_k epsilon\)`", PAGE).group(1)


@pytest.mark.parametrize("settings", [SGD, AVG])
def test_the_example_of_ones_own_does_what_it_says(settings, tmp_path, monkeypatch):
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    (file,) = [text for kind, text in BLOCKS if kind == "toml" and "my_package" in text]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "rounding.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    entries = tomllib.loads(file)["defense"]
    try:
        work, plain = Work(*entries, settings=settings), Work(settings=settings)
        sent = [work.update(0, r) for r in (1, 2, 3)]
        true = [plain.update(0, r) for r in (1, 2, 3)]
    finally:
        sys.modules.pop("my_package.rounding", None)
        sys.modules.pop("my_package", None)
    for name in true[0]:
        steps = np.stack([s[name] for s in sent]) / 0.01
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        # What is rounded off goes out later: the sums differ by half a step at most.
        assert np.abs(sum(s[name] for s in sent) - sum(t[name] for t in true)).max() <= 0.005 + 1e-5
