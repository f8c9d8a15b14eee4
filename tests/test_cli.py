from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fl_privacy import cli
from fl_privacy.updates import UpdateStore


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fl-privacy", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_run_prints_a_table_and_the_folder_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "cache"))
    small = [
        "federation.rounds=4",
        "audit.permutations=3",
        "private.options.speakers=10",
        "private.options.utterances=4",
    ]
    small += ["auxiliary.0.options.speakers=8", "auxiliary.0.options.utterances=4"]
    sets = [word for setting in small for word in ("--set", setting)]
    assert call(monkeypatch, "run", "federated-ser", *sets, "--out", str(tmp_path / "run"), "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "run")
    assert lines[0].startswith("The attacker is the server")
    assert any(line.startswith("input-reconstruction") for line in lines)
    assert any(line.startswith("SER on held-out speakers") for line in lines)
    for name in ("result.json", "scores.csv", "report.html", "log.txt"):
        assert (tmp_path / "run" / name).is_file()

    # The captured stores serve the attack command.
    victim, shadow = tmp_path / "run" / "victim", tmp_path / "run" / "shadow-0"
    arguments = ["attack", str(victim / "updates"), "--shadow", str(shadow / "updates")]
    arguments += ["--labels", str(victim / "labels.csv"), "--shadow-labels", str(shadow / "labels.csv")]
    arguments += ["--attribute", "gender", "--permutations", "3"]
    assert call(monkeypatch, *arguments, "--out", str(tmp_path / "audit")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "audit")
    assert (tmp_path / "audit" / "report.html").is_file()
    assert call(monkeypatch, *arguments[:-3], "shoe_size") == 2
    assert "shoe_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nope"], "no file and no preset 'nope'; presets: .*federated-ser"),
        (["run", "federated-ser", "--set", "federation.roundz=3"], "federation.roundz: unknown key"),
        (["run", "federated-ser", "--set", "federation.rounds=-3"], "federation.rounds: "),
        (["run", "federated-ser", "--set", "private.corpus=timit"], "timit"),
        (["run", "federated-ser", "--set", 'attack=[{name="nope"}]'], "no attack 'nope'|attack 'nope'"),
        (["run", "federated-ser", "--set", 'attack=[{name="raw-linear", layer="x"}]'], "raw-linear.*layer"),
        (["run", "federated-ser", "--set", 'defense=[{name="dp"}]'], "defense 'dp'"),
        (["corpus", "ravdess", "/nowhere"], "/nowhere"),
        (["sweep", "federated-ser", "--vary", "x"], "not of the form"),
        (["published", "feng2022"], "no published study 'feng2022'.*feng2021"),
        (["published", "feng2021", "/nowhere"], "/nowhere"),
        (["run", "where-it-leaks"], "`fl-privacy sweep`"),
        (
            [
                "attack",
                "/nowhere",
                "--shadow",
                "/nowhere",
                "--labels",
                "/l",
                "--shadow-labels",
                "/l",
                "--attribute",
                "g",
            ],
            "/",
        ),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FL_PRIVACY_DATA", raising=False)
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("fl-privacy: ")
    assert re.search(message, error)
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 2


def test_presets_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "presets") == 0
    printed = capsys.readouterr().out
    assert "federated-ser " in printed
    kinds = {line.split()[0]: line.split()[1] == "(sweep)" for line in printed.splitlines()}
    assert (kinds["where-it-leaks"], kinds["federated-ser"]) == (True, False)


def test_published_numbers_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "published", "feng2021", "--table", "T6b") == 0
    out = capsys.readouterr().out
    assert re.search(r"iemocap +mean +inf +1 +0.8550", out)
    assert "A     first release" in out


def test_corpus_shows_what_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "corpus", "synthetic") == 0
    out = capsys.readouterr().out
    assert "40 (20 female, 20 male)" in out
    assert "left out" in out


def test_import_is_light() -> None:
    """`import fl_privacy` and the command's help load none of the heavy libraries."""
    code = "import sys, fl_privacy.cli; print([m for m in ('torch', 'flwr', 'ray', 'matplotlib', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import fl_privacy

    assert set(fl_privacy.__all__) <= set(dir(fl_privacy))
    assert all(getattr(fl_privacy, name) is not None for name in fl_privacy.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        fl_privacy.nothing  # noqa: B018


def test_an_attack_of_ones_own_lies_beside_the_simulation_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As docs/how-to/attack.md says: `my_module:LayerNorms`, found in the folder one runs from; by the real command."""
    text = (Path(__file__).parent.parent / "docs" / "how-to" / "attack.md").read_text()
    code = next(block for block in text.split("```python\n") if "class LayerNorms" in block).split("```")[0]
    (tmp_path / "my_module.py").write_text(code)
    small = [
        "federation.rounds=2",
        "audit.permutations=2",
        "private.options.speakers=10",
        "private.options.utterances=4",
    ]
    small += [
        "auxiliary.0.options.speakers=8",
        "auxiliary.0.options.utterances=4",
        'attack=[{name="my_module:LayerNorms"}]',
    ]
    command = [str(Path(sys.executable).with_name("fl-privacy")), "run", "federated-ser", "--quiet", "--out", "run"]
    done = subprocess.run(
        [*command, *(word for setting in small for word in ("--set", setting))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "FL_PRIVACY_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert "my_module:LayerNorms" in done.stdout
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0  # who is who is nobody else's business


def test_attack_does_not_write_over_other_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text("mine")
    arguments = [
        "attack",
        "x",
        "--shadow",
        "y",
        "--labels",
        "l",
        "--shadow-labels",
        "m",
        "--attribute",
        "gender",
        "--out",
    ]
    assert call(monkeypatch, *arguments, str(tmp_path)) == 2
    assert "holds other files (result.json)" in capsys.readouterr().err
    assert call(monkeypatch, *arguments, str(tmp_path / "result.json" / "z")) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert (tmp_path / "result.json").read_text() == "mine"


def test_check_says_what_would_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", "none")
    assert call(monkeypatch, "check") == 1
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("SuperLink's port")]
    assert " problem " in row
    assert re.fullmatch(r"\d+ problems?, \d+ notes?", lines[-1])
    assert not list(tmp_path.iterdir())


def test_check_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from fl_privacy.sims import environment

    finding = environment.Finding("threads", "note", "many", "fewer")
    monkeypatch.setattr(environment, "check_environment", lambda: [finding])
    assert call(monkeypatch, "check", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "threads", "state": "note", "found": "many", "todo": "fewer"}
    ]
    assert call(monkeypatch, "check") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing would fail (1 note)"


LAYERLESS = """
import numpy as np

class Blind:
    needs = frozenset()
    def fit(self, updates, labels, auxiliary):
        return self
    def decision_function(self, updates):
        return np.zeros(len(updates))
"""


@pytest.fixture
def captured(tmp_path: Path, make_store: Callable[..., UpdateStore], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of an `attack` command on two stores whose second layer tells the gender, and the first nothing."""
    rng = np.random.default_rng(4)
    for name, clients in (("private", 16), ("own", 30)):
        sex = np.arange(clients) % 2
        updates = {
            str(i): {
                "fc1.weight": rng.normal(size=(4, 3)).astype(np.float32),
                "fc1.bias": rng.normal(size=4).astype(np.float32),
                "fc2.weight": (rng.normal(size=(2, 4)) + 4 * sex[i]).astype(np.float32),
                "fc2.bias": rng.normal(size=2).astype(np.float32),
            }
            for i in range(clients)
        }
        make_store(name, [updates])
        rows = [f"{i},{'fm'[sex[i]]},{30 + 20 * sex[i] + i % 3}" for i in range(clients)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["client,gender,age", *rows]))
    (tmp_path / "layerless.py").write_text(LAYERLESS)
    monkeypatch.syspath_prepend(tmp_path)
    sides = ["--shadow", str(tmp_path / "own"), "--labels", str(tmp_path / "private.csv")]
    sides += ["--shadow-labels", str(tmp_path / "own.csv"), "--attribute", "gender", "--permutations", "2"]
    return ["attack", str(tmp_path / "private"), *sides]


def auc_of(attack: str, printed: str) -> float:
    (row,) = [line for line in printed.splitlines() if line.startswith(attack) and " reads " not in line]
    return float(row.split()[1])


def test_attack_says_which_layers_it_guessed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], captured: list[str]
) -> None:
    assert call(monkeypatch, *captured) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if " reads " in line]
    words = (
        "reads fc1 (fc1.weight 4 x 3, fc1.bias 4): the first dense layer, guessed from shapes; --layer names another"
    )
    assert said == [f"input-reconstruction {words}", f"raw-linear {words}"]


def test_attack_reads_the_layer_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], captured: list[str]
) -> None:
    assert call(monkeypatch, *captured, "--attack", "raw-linear") == 0
    assert auc_of("raw-linear", capsys.readouterr().out) < 0.9
    for layer, words in (("fc2", ", as named"), ("last", ": the last dense layer, guessed from shapes")):
        assert call(monkeypatch, *captured, "--attack", "raw-linear", "--layer", layer) == 0
        printed = capsys.readouterr().out
        assert f"raw-linear reads fc2 (fc2.weight 2 x 4, fc2.bias 2){words}\n" in printed
        assert auc_of("raw-linear", printed) == 1.0
    both = ["--layer", "fc2", "--layer", "fc1"]
    assert call(monkeypatch, *captured, "--attack", "layerless:Blind", "--attack", "raw-linear", *both) == 0
    printed = capsys.readouterr().out
    assert (
        "raw-linear reads fc2 (fc2.weight 2 x 4, fc2.bias 2) and fc1 (fc1.weight 4 x 3, fc1.bias 4), as named"
        in printed
    )
    assert printed.count(" reads ") == 1
    assert auc_of("layerless:Blind", printed) == 0.5


def test_a_layer_that_nothing_reads_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], captured: list[str]
) -> None:
    assert call(monkeypatch, *captured, "--layer", "fc3") == 2
    assert "no layer 'fc3' in the updates; there are: fc1, fc2" in capsys.readouterr().err
    assert call(monkeypatch, *captured, "--attack", "layerless:Blind", "--layer", "fc1") == 2
    assert "no attack here reads layers: layerless:Blind" in capsys.readouterr().err


def test_attack_on_a_number_and_with_another_positive_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], captured: list[str], tmp_path: Path
) -> None:
    number = [*captured, "--attack", "raw-linear", "--layer", "fc2", "--attribute", "age", "--numeric"]
    assert call(monkeypatch, *number) == 0
    assert auc_of("raw-linear", capsys.readouterr().out) > 0.8  # the correlation
    assert call(monkeypatch, *number, "--positive", "30") == 2
    assert "'age' is a number: it has no positive value" in capsys.readouterr().err
    out = tmp_path / "out"
    women = ["--attack", "raw-linear", "--layer", "fc2", "--positive", "f", "--out", str(out)]
    assert call(monkeypatch, *captured, *women) == 0
    rows = [line.split(",") for line in (out / "scores.csv").read_text().splitlines()]
    place = {name: i for i, name in enumerate(rows[0])}
    said = [(r[place["label"]], float(r[place["score"]])) for r in rows[1:] if r[0] == "raw-linear"]
    assert {label for label, score in said if score > 0} == {"f"}
