"""The recipe as a ServerApp: on the local grid, where it must do exactly what the recipe itself does."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fl_privacy.clients import ser
from fl_privacy.config import FederationSettings
from fl_privacy.errors import UserError
from fl_privacy.sims import engines
from fl_privacy.sims.local import run_simulation
from fl_privacy.sims.run import run
from fl_privacy.sims.ser_attacker import _KEYS, simulation, write_data
from fl_privacy.training import read_client, read_federation

APP = Path(__file__).parents[2] / "examples" / "federated-ser"
PROJECT = tomllib.loads((APP / "pyproject.toml").read_text())
DEFAULTS: dict[str, Any] = PROJECT["tool"]["flwr"]["app"]["config"]
SETTINGS = [
    "private.options={speakers=5, utterances=6, seed=1}",
    "auxiliary.0.options={speakers=6, utterances=6, seed=2}",
    "audit.permutations=2",
]
CLIENTS = 4


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def told(folder: Path, **changes: Any) -> dict[str, Any]:
    here = {"out": str(folder / "run"), "data": str(folder / "data"), "settings": "; ".join(SETTINGS)}
    return DEFAULTS | here | {"num-server-rounds": 2} | {k.replace("_", "-"): v for k, v in changes.items()}


def attack(run_config: dict[str, Any], clients: int = CLIENTS) -> Path:
    run_simulation("fl_privacy.sims.ser_attacker:app", "fl_privacy.clients.ser:app", clients, run_config)
    return Path(run_config["out"])


def test_as_a_serverapp_it_does_what_the_recipe_does(tmp_path: Path, capsys) -> None:
    there = attack(told(tmp_path, algorithm="fedavg", seed=3, clients_per_round=2))
    changed = ["federation.rounds=2", "federation.algorithm=fedavg", "simulation.seed=3"]
    here = run("federated-ser", [*SETTINGS, *changed, "federation.clients_per_round=2"], out=tmp_path / "here")
    files = [path.relative_to(here) for path in here.glob("*/updates/*")] + [Path("scores.csv")]
    assert len(files) == 2 * (2 + 2) + 1
    for file in files:
        assert (there / file).read_bytes() == (here / file).read_bytes(), file
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (here, there))
    assert theirs["simulation"].pop("simulation") == {"engine": "grid", "kind": "federated-ser", "seed": 3}
    ours["simulation"].pop("simulation")
    assert theirs == ours
    assert "input-reconstruction" in capsys.readouterr().out


def test_data_that_is_there_is_used_and_other_data_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert write_data(told(tmp_path), data) == CLIENTS
    before = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    attack(told(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} == before
    with pytest.raises(UserError, match=r"data: .* holds something else than this federation's data"):
        attack(told(tmp_path, seed=2, out=str(tmp_path / "other")))
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_a_deployed_client_reads_its_own_nodes_data(tmp_path: Path, monkeypatch) -> None:
    write_data(told(tmp_path), tmp_path / "all")
    own = tmp_path / "own"
    own.mkdir()
    for name in ("federation.json", "client-00002.safetensors"):
        shutil.copy(tmp_path / "all" / name, own)
    asked = []
    monkeypatch.setattr(ser, "read_client", lambda folder, number: asked.append(folder) or read_client(folder, number))
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

    from fl_privacy import _flower
    from fl_privacy.models.ser import SERNet

    with _flower.run_identity(1):
        node = {"partition-id": 2, "num-partitions": 4, "data": str(own)}
        context = Context(1, 1, node, RecordDict(), told(tmp_path, data="/nowhere"))
        arrays = ArrayRecord(SERNet(read_federation(own).inputs, 4, 0.2).state_dict())
        config = ConfigRecord({"server-round": 1, "reply": "gradient", "learning-rate": 0.1})
        content = RecordDict({"arrays": arrays, "config": config})
        for kind in ("train", "evaluate"):
            reply = ser.app(Message(content, dst_node_id=1, message_type=kind), context)
            assert reply.content.metric_records["metrics"]["num-examples"] > 0
    assert asked == [str(own)] * 2


@pytest.mark.parametrize("key", ["out", "data"])
@pytest.mark.parametrize("value", ["", "runs/here"])
def test_relative_paths_are_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"run config {key} = {value!r} must be an absolute path"):
        attack(told(tmp_path, **{key: value}))


@pytest.mark.parametrize("nodes", [3, 6])
def test_the_right_number_of_supernodes_is_told(tmp_path: Path, monkeypatch, nodes: int) -> None:
    monkeypatch.setattr(engines, "_PATIENCE_SECONDS", 0.2)
    with pytest.raises(UserError, match=rf"has 4 clients, .* there are {nodes}\. .*num-supernodes=4 "):
        attack(told(tmp_path), nodes)


def test_nodes_without_partitions_of_their_own_are_refused(tmp_path: Path, monkeypatch) -> None:
    from fl_privacy.sims import local

    contexts = local.LocalGrid.__init__

    def everyone_is_the_first(self, *args, **kwargs):
        contexts(self, *args, **kwargs)
        for client in self._clients.values():
            client.node_config["partition-id"] = 0

    monkeypatch.setattr(local.LocalGrid, "__init__", everyone_is_the_first)
    with pytest.raises(UserError, match=r"partition-id of its own from 0 to 3 .* they say: 0, 0, 0, 0"):
        attack(told(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": "federation.rounds=3"}, "federation.rounds: give num-server-rounds by --run-config"),
        ({"settings": 'defense.x.epsilon=3; simulation.kind="x"'}, "give defenses by --run-config"),
        ({"settings": "no.such=1"}, "no: unknown key"),
        ({"defenses": "{"}, "run config defenses: '{' is no JSON"),
        ({"algorithm": "fedprox"}, r"federation\.algorithm"),
        ({"preset": "nothing"}, "no file and no preset 'nothing'"),
    ],
)
def test_what_is_no_simulation_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attack(told(tmp_path, **changes))


def test_clients_are_told_what_the_result_says(tmp_path: Path) -> None:
    class Told:
        run_config = told(tmp_path) | {"batch-size": 7}

    write_data(told(tmp_path), tmp_path / "stage")
    engine = engines.on_grid(None, Told)  # type: ignore[arg-type]
    meant = told(tmp_path) | {"data": str(tmp_path / "stage")}
    with pytest.raises(UserError, match=r"clients are told batch-size = 7, the simulation says 20"):
        engine(tmp_path, CLIENTS, meant, lambda done: None)


def test_the_apps_defaults_are_the_recipes(tmp_path: Path) -> None:
    assert set(DEFAULTS) == {*_KEYS, "out", "data", "preset", "settings"}
    assert simulation(DEFAULTS).federation == FederationSettings()
    assert PROJECT["tool"]["flwr"]["app"]["components"]["clientapp"] == engines.CLIENT_APP


def test_the_grid_engine_is_for_flwr_run_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"simulation\.engine = 'grid' is for `flwr run`"):
        run("federated-ser", ["simulation.engine=grid"], out=tmp_path / "run")
