"""Flower's own runtimes, run: its simulation on Ray, and a deployment. Each must do what the local engine does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fl_privacy.errors import UserError
from fl_privacy.sims.run import run
from fl_privacy.sims.superlink import SuperLink, write_app
from fl_privacy.updates import UpdateStore

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "federated-ser"
SMALL = [
    "private.options={speakers=5, utterances=6, seed=1}",
    "auxiliary.0.options={speakers=6, utterances=6, seed=2}",
    "audit.permutations=2",
]
ROUNDS = ["federation.rounds=3", "federation.clients_per_round=2"]
"""Two of four clients are drawn in each round: the same ones on every engine."""


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes whose Flower home is in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"FLWR_HOME={folder}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def assert_same_federation(ours: Path, theirs: Path) -> None:
    """Compare two stores: to the byte."""
    one, two = UpdateStore(ours), UpdateStore(theirs)
    assert one.updates() and not one.failures
    assert set(one.named_by.values()) == {"query"}
    assert one.digest() == two.digest()


def same_run_here(folder: Path, out: Path, workers: int = 1) -> Path:
    """Run what a run folder's settings say on the local engine."""
    settings = json.loads((folder / "simulation.json").read_text())
    return run(settings, ["simulation.engine=local"], out=out, workers=workers)


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("federated-ser", [*SMALL, *ROUNDS, "simulation.engine=ray"], out=tmp_path_factory.mktemp("ray") / "run")


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_local_engines_updates(on_ray: Path, tmp_path: Path, workers: int) -> None:
    here = same_run_here(on_ray, tmp_path / "here", workers)
    assert_same_federation(here / "victim" / "updates", on_ray / "victim" / "updates")
    assert (here / "scores.csv").read_bytes() == (on_ray / "scores.csv").read_bytes()
    assert json.loads((on_ray / "result.json").read_text())["simulation"]["simulation"]["engine"] == "ray"


def test_two_runs_on_ray_are_the_same(on_ray: Path, tmp_path: Path) -> None:
    again = run("federated-ser", [*SMALL, *ROUNDS, "simulation.engine=ray"], out=tmp_path / "run")
    assert_same_federation(again / "victim" / "updates", on_ray / "victim" / "updates")


def test_ray_leaves_its_log_and_nothing_else(on_ray: Path) -> None:
    left = {path.name for path in (on_ray / "victim").iterdir()}
    assert left == {"corpora.json", "flower.log", "labels.csv", "updates", "utility.json"}
    assert "[ROUND 3/3]" in (on_ray / "victim" / "flower.log").read_text()
    assert not processes_of(on_ray)


def test_ctrl_c_stops_ray_too(tmp_path: Path) -> None:
    settings = [*SMALL, "federation.rounds=100000", "federation.clients_per_round=4", "simulation.engine=ray"]
    command = [sys.executable, "-m", "fl_privacy", "run", "federated-ser", "--quiet", "--out", str(tmp_path / "run")]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, *(word for setting in settings for word in ("--set", setting))],
            env=environment(),
            cwd=tmp_path,
            stderr=said,
            # Where the tests run in the background, Ctrl-C is ignored, and so it would be by what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            index = tmp_path / "run" / "victim" / "updates" / "index.jsonl"
            while process.poll() is None and not (index.exists() and index.stat().st_size):
                time.sleep(0.2)
            assert any("ray" in line for line in processes_of(tmp_path / "run"))
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert not processes_of(tmp_path / "run")
    assert "stopped; the same command goes on" in (tmp_path / "said").read_text()


def test_a_failed_run_says_what_the_app_said(tmp_path: Path) -> None:
    client = "fl_privacy.clients.ser:app"
    with SuperLink(tmp_path) as superlink:
        config = {"data": "/nowhere", "seed": 1}
        app = write_app(tmp_path / "app", "fl_privacy.sims.ser_server:app", client, config)
        with pytest.raises(
            UserError, match=r"^Flower's run failed: /nowhere holds no federation's data .*\nThe whole log"
        ):
            superlink.run(app, supernodes=2)
        with pytest.raises(UserError, match=r"^`flwr run` failed: .*Invalid run configuration"):
            superlink.run(app, {"no-such-key": 1}, supernodes=2)
    assert not processes_of(tmp_path)
    assert (tmp_path / "flower.log").exists() and not (tmp_path / "flower").exists()


def test_flwr_run_with_the_attacker_in_the_serverapp(tmp_path: Path) -> None:
    out, data = tmp_path / "run", tmp_path / "data"
    config = f'out="{out}" data="{data}" settings="{"; ".join(SMALL)}" num-server-rounds=3 clients-per-round=2'
    size = "num-supernodes=4 client-resources-num-cpus=1"
    with SuperLink(tmp_path) as superlink:
        command = ["flwr", "run", str(APP), "--stream", "--federation-config", size, "--run-config", config]
        ran = subprocess.run(command, env=superlink.environment(), capture_output=True, text=True, cwd=tmp_path)
        listed = subprocess.run(
            ["flwr", "ls", "--format", "json"], env=superlink.environment(), capture_output=True, text=True
        )
    assert json.loads(listed.stdout)["runs"][0]["status"] == "finished:completed", ran.stdout + ran.stderr
    assert "victim federation: 6/6" in ran.stdout and "input-reconstruction" in ran.stdout
    assert_same_federation(same_run_here(out, tmp_path / "here") / "victim" / "updates", out / "victim" / "updates")
    assert json.loads((out / "result.json").read_text())["claims"] and (out / "report.html").exists()
    assert len(list(data.glob("client-*.safetensors"))) == 4


def test_deployment(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ran = subprocess.run(
        [sys.executable, str(APP / "deploy.py"), "--clients", "2", "--out", str(out)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert_same_federation(same_run_here(out, tmp_path / "here") / "victim" / "updates", out / "victim" / "updates")
    assert UpdateStore(out / "victim" / "updates").rounds == (1, 2)


def test_a_deployment_that_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    ran = subprocess.run(
        [sys.executable, str(APP / "deploy.py"), "--clients", "2", "--out", str(tmp_path / "run")],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert "holds other files (thesis.tex)" in ran.stderr
