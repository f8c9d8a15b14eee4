"""Every code block of the README, run: as it stands, but smaller where a line names a long run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fl_privacy import cli, config
from fl_privacy.audit import Claim
from fl_privacy.audit.files import read_result
from fl_privacy.audit.reading import main_claims
from fl_privacy.corpora import Corpus, write

ROOT = Path(__file__).parent.parent
TEXT, REAL_SPEECH = ((ROOT / name).read_text() for name in ("README.md", "docs/real-speech.md"))
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SMALLER = "--set federation.rounds=3 --set audit.permutations=2 --quiet"

TASK = """
from collections import OrderedDict
import numpy as np, torch
from torch import nn

def make_model():
    return nn.Sequential(OrderedDict(fc1=nn.Linear(12, 8), relu=nn.ReLU(), fc2=nn.Linear(8, 2)))

def data(people, partition):
    rng = np.random.default_rng([len(people), partition])
    sex = rng_sex(people, partition)
    x = rng.normal(size=(16, 12)) + 1.5 * sex * (np.arange(12) < 3)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(rng.integers(0, 2, 16))

def rng_sex(people, partition):
    return int(np.random.default_rng([7, len(people), partition]).integers(0, 2))
"""
CLIENT = """
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from my_app.task import data, make_model

app = ClientApp()

@app.train()
def train(message, context):
    model = make_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = data(context.run_config["people"], context.node_config["partition-id"])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(x)})}
    return Message(RecordDict(content), reply_to=message)
"""


def blocks(language: str) -> list[str]:
    found = [text for kind, text in BLOCKS if kind == language]

    return found


def command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    cli.app(standalone_mode=False)


def lines(start: str) -> list[str]:
    return [line for text in blocks("bash") for line in text.splitlines() if line.startswith(start)]


def test_corpus_and_run_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "cache"))
    write(Corpus.load("synthetic", speakers=10, utterances=4, seed=5), Path("path/to/voices"))
    shown, ran = lines("fl-privacy corpus"), lines("fl-privacy run")
    assert shown
    assert ran
    for line in shown:
        command(line, monkeypatch)
        assert "10 (5 female, 5 male)" in capsys.readouterr().out
    for line in ran:
        fewer = "--set auxiliary.0.options.speakers=8 --set auxiliary.0.options.utterances=4 --set audit.canaries=20"
        own = "" if "corpus" in line else "--set private.options.speakers=10 --set private.options.utterances=8"
        command(f"{line} {SMALLER} {fewer} {own}", monkeypatch)
        assert capsys.readouterr().out.splitlines()[-1] == shlex.split(line)[-1]
    assert any(
        "input-reconstruction:static" in row for row in Path("runs/defended/scores.csv").read_text().splitlines()
    )
    assert "Epsilon" in Path("runs/defended/report.html").read_text()


def test_simulation_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in blocks("toml"):
        file = config.load(tomllib.loads(text))
        assert file.private.corpus == "ravdess"
        (tmp_path / "mine.toml").write_text(text)
        assert config.load(tmp_path / "mine.toml") == file


@pytest.mark.data
@pytest.mark.skipif("FL_PRIVACY_DATA" not in os.environ, reason="needs RAVDESS and EmoDB under FL_PRIVACY_DATA")
def test_real_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(os.environ["FL_PRIVACY_DATA"]).resolve()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FL_PRIVACY_DATA", str(data))
    (text,) = blocks("toml")
    Path("mine.toml").write_text(text)
    command(f"fl-privacy run mine.toml {SMALLER}", monkeypatch)
    sweeps = [line for line in REAL_SPEECH.splitlines() if line.startswith("fl-privacy sweep")]
    assert len(sweeps) == 3
    for line in sweeps:
        capsys.readouterr()
        command(
            f"{line} {SMALLER} --seeds 1 --processes 1 --set attack='[{{name=\"input-reconstruction\"}}]'", monkeypatch
        )
        table = capsys.readouterr().out.splitlines()
        cells = 2 if "per-speaker" in line else 4
        assert len(table) == 1 + cells + 2
        assert table[-1] == line.split("--out ")[1]


def test_an_app_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_app").mkdir()
    (tmp_path / "my_app" / "task.py").write_text(TASK)
    (tmp_path / "my_app" / "client_app.py").write_text(CLIENT)
    scope: dict[str, Any] = {}
    for text in blocks("python"):
        if text.startswith("# my_app/"):
            (tmp_path / text.split()[1]).write_text(text)
            from importlib import import_module

            sexes = import_module("my_app.task").rng_sex
            for name, clients in [("victim", 24), ("shadow", 30)]:
                rows = [f"{i},{'fm'[sexes(name, i)]}" for i in range(clients)]
                (tmp_path / f"{name}.csv").write_text("\n".join(["client,gender", *rows]))
        else:
            exec(compile(text, "README.md", "exec"), scope)
    (line,) = lines("fl-privacy attack")
    capsys.readouterr()
    command(line, monkeypatch)
    assert capsys.readouterr().out.splitlines()[-1] == "runs/attacked"
    claims = main_claims([Claim.from_dict(c) for c in read_result(Path("runs/attacked/result.json"))["claims"]])
    (auc,) = [c.value for c in claims if c.primary and c.unit == "speaker" and c.metric == "auc"]
    assert auc is not None and auc > 0.7  # the app's data has the sex in it


def test_its_table_is_of_the_page_that_has_the_commands() -> None:
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in TEXT.splitlines()
        if re.match(r"\| (one for all|per speaker) \|", line)
    ]
    known = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in REAL_SPEECH.splitlines()
        if re.match(r"\| (RAVDESS|EmoDB) ← ", line)
    ]
    assert len(rows) == len(known) == 8
    for shown, (side, algorithm, *numbers) in zip(rows, known, strict=True):
        assert shown[1:3] == [side, algorithm]
        assert shown[4] == numbers[0]
        assert set(shown[5:]) <= set(numbers)


def test_make_demo_shows_the_leak_above_every_control(tmp_path: Path) -> None:
    assert "make demo" in lines("make")
    if not (ROOT / ".venv" / ".installed").exists() or shutil.which("make") is None:
        pytest.skip("the tests run in another environment than make's")
    done = subprocess.run(
        ["make", "--no-print-directory", "demo", f"ARGS=--quiet --set audit.canaries=20 --out {tmp_path / 'demo'}"],
        cwd=ROOT,
        # Not as a part of the make that runs the tests.
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        | {"FL_PRIVACY_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    printed = done.stdout.splitlines()
    assert printed[-1] == str(tmp_path / "demo")
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text()
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    claims = {c["metric"]: c for c in result["claims"] if c["primary"] and c["unit"] == "speaker"}
    controls = [c for c in result["controls"] if c["unit"] == "speaker" and c["metric"] == "auc"]
    assert claims["auc"]["low"] > max(c["value"] for c in controls)
    assert claims["auc_over_best_blind"]["low"] > 0.1
    # What the README shows is what the command prints.
    (shown,) = blocks("text")
    for start in ("input-reconstruction", "beside it", "dp-sgd", "SER on"):
        assert [line for line in shown.splitlines() if line.startswith(start)] == [
            line for line in printed if line.startswith(start)
        ]
    # Who reads the report alone can say what a defense costs.
    page = (tmp_path / "demo" / "report.html").read_text()
    assert re.search(
        r"With dp-sgd .*, run beside it: .* The UAR of the task .emotion.* is 0\.506 in place of 0\.731", page
    )


def test_make_test_is_a_target() -> None:
    assert "make test" in lines("make")
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pytest" in done.stdout


def test_check_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines("fl-privacy check")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    command(line, monkeypatch)
    *rows, empty, last = capsys.readouterr().out.splitlines()
    states = [row.split("  ")[1:] for row in rows if "->" not in row]
    found = [next(word.strip() for word in words if word.strip()) for words in states]
    order = ["ok", "note", "problem"]
    assert found == sorted(found, key=order.index)
    assert "problem" in found
    assert "->" in rows[-1]
    assert (empty, "problem" in last) == ("", True)
    assert not list(tmp_path.iterdir())


def test_no_block_is_of_a_kind_that_nothing_runs() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "toml", "text"}
    starts = {line.split()[0] + " " + line.split()[1] for text in blocks("bash") for line in text.splitlines()}
    known = {"make demo", "make test"} | {f"fl-privacy {c}" for c in ("corpus", "run", "attack", "check")}
    assert starts == known
