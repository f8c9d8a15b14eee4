"""What is run beside a federation is a run of its own, and what is said of it agrees with that run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from fl_privacy.config import ConfigError, load
from fl_privacy.errors import UserError
from fl_privacy.sims.beside import table_beside
from fl_privacy.sims.run import run

DP = {"name": "dp-sgd", "target_epsilon": 8.0}
SMALL: dict[str, Any] = {
    "simulation": {"kind": "federated-ser", "seed": 1},
    "private": {"corpus": "synthetic", "options": {"speakers": 15, "utterances": 8, "seed": 1}},
    "auxiliary": [{"corpus": "synthetic", "options": {"speakers": 12, "utterances": 6, "seed": 2}}],
    "federation": {"rounds": 12, "clients_per_round": 4},
    "attack": [{"name": "input-reconstruction"}],
    "audit": {"permutations": 3, "canaries": 10},
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(SMALL | {"beside": [{"defense": [DP]}]}, out=tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def defended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(SMALL | {"defense": [DP], "beside": [{}]}, out=tmp_path_factory.mktemp("defended") / "run")


def result_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


def auc_of(folder: Path, attack: str) -> float:
    lines = [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    mine = [r for r in rows if (r["attack"], r["unit"]) == (attack, "speaker")]
    return float(roc_auc_score([r["label"] == "male" for r in mine], [float(r["score"]) for r in mine]))


def test_each_is_what_it_would_be_alone(plain: Path, defended: Path) -> None:
    """The undefended run, and the one beside the defended one, are the same; and the other way round."""
    for alone, beside in ((plain, defended), (defended, plain)):
        one, other = result_of(alone), result_of(beside / "beside" / "0")
        assert (one["claims"], one["controls"]) == (other["claims"], other["controls"])
        assert one["utility"] == other["utility"]
        assert (alone / "scores.csv").read_bytes() == (beside / "beside" / "0" / "scores.csv").read_bytes()


def test_differences_are_of_the_two_runs(plain: Path, defended: Path) -> None:
    (there,) = result_of(plain)["beside"]
    attack = "input-reconstruction"
    for knowing, name in (("adaptive", attack), ("static", f"{attack}:static")):
        found = there["leakage_difference"][knowing]
        assert found["value"] == pytest.approx(auc_of(defended, name) - auc_of(plain, attack))
        assert found["low"] <= found["value"] <= found["high"]
    mine, theirs = (result_of(folder)["utility"]["by_speaker"] for folder in (plain, defended))
    assert list(mine) == result_of(plain)["test_speakers"]
    compared = stats.ttest_rel([theirs[s] for s in mine], [mine[s] for s in mine])
    interval = compared.confidence_interval(0.95)
    found = there["utility_difference"]
    assert (found["low"], found["high"]) == pytest.approx((max(interval.low, -1), min(interval.high, 1)))
    assert found["value"] == pytest.approx(np.mean([theirs[s] - mine[s] for s in mine]))
    (back,) = result_of(defended)["beside"]
    assert back["utility_difference"]["value"] == pytest.approx(-found["value"])
    assert back["leakage_difference"]["adaptive"]["value"] == pytest.approx(
        -there["leakage_difference"]["adaptive"]["value"]
    )


def test_a_speakers_own_uar_is_of_its_own_recordings(plain: Path) -> None:
    utility = result_of(plain)["utility"]
    # Eight recordings, two of each class: the mean over speakers is the UAR of all, and the accuracy.
    assert np.mean(list(utility["by_speaker"].values())) == pytest.approx(utility["uar"])
    assert all((8 * value) % 1 == pytest.approx(0) for value in utility["by_speaker"].values())


def test_it_is_told_in_the_report_and_the_table(plain: Path, defended: Path) -> None:
    for folder, name, told in (
        (plain, "dp-sgd (target_epsilon 8.0)", "With dp-sgd (target_epsilon 8.0), run beside it"),
        (defended, "no defense", "Without a defense, run beside it"),
    ):
        (row,) = table_beside(result_of(folder)).splitlines()[1:]
        assert row.startswith(name)
        page = (folder / "report.html").read_text()
        assert "What a defense buys and costs" in page
        assert told in page
    assert "What a defense buys and costs" not in (plain / "beside" / "0" / "report.html").read_text()
    # What is there for its numbers alone leaves no updates behind.
    assert (plain / "victim" / "updates").exists()
    assert not list((plain / "beside").rglob("updates"))


def test_a_killed_one_goes_on_and_ends_the_same(plain: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "file.json", tmp_path / "run"
    file.write_text(json.dumps(SMALL | {"beside": [{"defense": [DP]}]}))
    code = f"import json, fl_privacy.sims.run as r; r.run(json.load(open({str(file)!r})), out={str(out)!r})"
    running = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    reached = out / "beside" / "0" / ".done" / "victim"
    for _ in range(1200):
        if reached.exists() or running.poll() is not None:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert reached.exists()
    assert not (out / "result.json").exists()
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in ("result.json", "scores.csv", "report.html", "beside/0/result.json"):
        assert (out / name).read_bytes() == (plain / name).read_bytes()


def test_what_cannot_be_run_beside_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for changes, told in (
        ({"beside": [{}]}, "that is run already"),
        ({"beside": [{"defense": [DP]}, {"defense": [DP]}]}, "beside.1.defense"),
        ({"beside": [{"defense": [DP]}], "sweep": {"vary": ["simulation.seed=1,2"]}}, "a sweep varies the defense"),
    ):
        with pytest.raises(ConfigError, match=told):
            load(SMALL | changes)
    with pytest.raises(UserError, match="dp-sgt"):
        run(SMALL | {"beside": [{"defense": [{"name": "dp-sgt"}]}]}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_demo_is_the_first_simulation_and_a_defense_beside_it() -> None:
    demo, first = (load(name).resolved() for name in ("demo", "federated-ser"))
    assert demo.pop("beside") == [{"defense": [DP]}]
    assert demo["audit"].pop("canaries") == 100
    first.pop("beside"), first["audit"].pop("canaries")
    assert demo == first
