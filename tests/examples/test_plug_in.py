"""The example app: the same before and after, and attackable as its README says."""

from __future__ import annotations

import csv
import difflib
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from fl_privacy import UpdateStore, cli, run_simulation
from fl_privacy.sims.superlink import SuperLink

APP = Path(__file__).parent.parent.parent / "examples" / "plug-in"
CONFIG = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (APP / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _app_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(APP)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    cli.app(standalone_mode=False)


def changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """Lines that the second file lacks, and lines that it adds."""
    texts = ((APP / "clinics" / name).read_text().splitlines() for name in (before, after))
    lines = [line for line in difflib.unified_diff(*texts, lineterm="", n=0) if line[:3] not in ("---", "+++", "@@ ")]
    return [line[1:] for line in lines if line[0] == "-"], [line[1:] for line in lines if line[0] == "+"]


def test_two_lines_are_added_to_the_server_and_none_is_lost() -> None:
    gone, new = changed("server_app.py", "server_app_captured.py")
    assert gone == []
    assert new == [
        "from fl_privacy import CaptureUpdates, UpdateStore",
        '    strategy = CaptureUpdates(strategy, UpdateStore(context.run_config["store"]))',
    ]


def test_nothing_else_of_the_app_is_ours() -> None:
    files = [path for path in (APP / "clinics").glob("*.py") if "fl_privacy" in path.read_text()]
    assert {path.name for path in files} == {"server_app_captured.py"}


def test_before_and_after_end_in_the_same_model(tmp_path: Path) -> None:
    ends = []
    for server in ("server_app", "server_app_captured"):
        config = CONFIG | {"num-server-rounds": 3, "store": str(tmp_path / server)}
        context = run_simulation(f"clinics.{server}:app", "clinics.client_app:app", 4, config, seed=5)
        ends.append({name: array.data for name, array in context.state["arrays"].items()})
        assert (tmp_path / server).exists() == (server == "server_app_captured")
    assert ends[0].keys() == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert all(end == ends[0] for end in ends)


@pytest.mark.parametrize("seed", [1, 2])
def test_labels_say_the_sex_of_patients_who_are_in_one_place_each(tmp_path: Path, seed: int) -> None:
    from clinics.task import INPUTS, PATIENTS, PRACTICES, deal_out
    from make_labels import write_labels

    write_labels(tmp_path, seed)
    people = deal_out(seed)
    assert "sex" not in INPUTS
    # Who is who, from the data set itself: every patient's other nine values differ from everybody else's.
    bunch = load_diabetes(scaled=False)
    table = dict(zip(bunch.feature_names, bunch.data.T, strict=True))
    centres, scales = np.array(list(INPUTS.values())).T
    known = (np.stack([table[name] for name in INPUTS], axis=1) - centres) / scales
    found: list[int] = []
    for side in ("victim", "shadow"):
        with (tmp_path / f"{side}.csv").open(newline="") as file:
            sexes = {row["client"]: row["sex"] for row in csv.DictReader(file)}
        practices = getattr(people, side)
        assert list(sexes) == [str(i) for i in range(PRACTICES)]
        assert sorted(sexes.values()) == ["1"] * (PRACTICES // 2) + ["2"] * (PRACTICES // 2)
        for number, practice in enumerate(practices):
            distances = np.abs(practice.x.numpy()[:, None, :] - known).max(axis=2)
            rows = distances.argmin(axis=1).tolist()
            assert distances.min(axis=1).max() < 1e-5
            assert len(rows) == PATIENTS
            assert {str(int(sex)) for sex in table["sex"][rows]} == {sexes[str(number)]}
            found += rows
    distances = np.abs(people.held_out.x.numpy()[:, None, :] - known).max(axis=2)
    found += distances.argmin(axis=1).tolist()
    assert sorted(found) == list(range(442))


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's own lines give the README's own table."""
    monkeypatch.chdir(shutil.copytree(APP, tmp_path / "plug-in", ignore=shutil.ignore_patterns("runs", "__pycache__")))
    code, matched = blocks("python")
    known: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), known)
    store = UpdateStore("runs/victim")
    assert len(store.rounds) == CONFIG["num-server-rounds"]
    assert {update.client for update in store.updates()} == {str(i) for i in range(24)}
    assert {update.num_examples for update in store.updates()} == {8.0}
    assert store.failures == ()
    lines = [line for text in blocks("bash") for line in text.replace("\\\n", "").splitlines()]
    (labels,) = [line for line in lines if line.startswith("python make_labels.py")]
    monkeypatch.setattr(sys, "argv", shlex.split(labels)[1:])
    exec(compile(Path("make_labels.py").read_text(), "make_labels.py", "exec"), {"__name__": "__main__"})
    attack, attack_matched = [line for line in lines if line.startswith("fl-privacy attack")]
    capsys.readouterr()
    command(attack, monkeypatch)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    (shown,) = blocks("text")
    # The words and the primary attack's figures; those of the controls hang on the last bits of sums.
    assert [line.split("  ")[0] for line in printed] == [line.split("  ")[0] for line in shown.splitlines()]
    firsts = [
        [line for line in some if line.startswith("input-reconstruction")] for some in (printed, shown.splitlines())
    ]
    assert len(firsts[0]) == 2
    assert firsts[0] == firsts[1]
    exec(compile(matched, "README.md", "exec"), known)
    assert [len(message.arrays) for message in UpdateStore("runs/victim").messages(1)] == [4]
    assert UpdateStore("runs/matched").rounds == store.rounds
    command(attack_matched, monkeypatch)
    assert "input-reconstruction" in capsys.readouterr().out


def test_readme_shows_the_diff() -> None:
    (shown,) = blocks("diff")
    _, new = changed("server_app.py", "server_app_captured.py")
    assert [line[1:] for line in shown.splitlines() if line.startswith("+")] == new
    assert not any(line.startswith("-") for line in shown.splitlines())


@pytest.mark.slow
def test_by_flwr_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from make_labels import write_labels

    nodes, rounds = 6, 2
    app = shutil.copytree(APP, tmp_path / "plug-in", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    config = {"num-server-rounds": rounds, "store": str(tmp_path / "victim")}
    with SuperLink(tmp_path / "flwr") as flower:
        flower.run(app, config, supernodes=nodes)  # raises if the run fails
    store = UpdateStore(tmp_path / "victim")
    assert store.rounds == (1, 2)
    assert set(store.named_by.values()) == {"query"}
    assert sorted(update.client for update in store.updates()) == sorted([str(i) for i in range(nodes)] * rounds)

    # The attacker's own federation needs no Ray.
    config |= {"people": "shadow", "store": str(tmp_path / "shadow")}
    run_simulation("clinics.server_app_captured:app", "clinics.client_app:app", 24, CONFIG | config)
    write_labels(tmp_path)
    capsys.readouterr()
    command(
        f"fl-privacy attack {tmp_path}/victim --shadow {tmp_path}/shadow --labels {tmp_path}/victim.csv "
        f"--shadow-labels {tmp_path}/shadow.csv --attribute sex --permutations 2",
        monkeypatch,
    )
    printed = capsys.readouterr().out
    assert "input-reconstruction reads fc1 (fc1.weight 16 x 9, fc1.bias 16)" in printed
    assert re.search(r"^input-reconstruction +[01]\.\d{3} \[", printed, re.MULTILINE)
