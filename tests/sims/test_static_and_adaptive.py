"""A defense is judged by an attacker who knows it beside one who does not, whole runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_privacy.attacks.base import LinearAttack
from fl_privacy.config import load
from fl_privacy.errors import UserError
from fl_privacy.sims import ser_recipe
from fl_privacy.sims.contests import Contest
from fl_privacy.sims.progress import silent
from fl_privacy.sims.run import run
from fl_privacy.sims.ser_data import Voices
from fl_privacy.sims.ser_recipe import FederatedSerRecipe
from fl_privacy.sims.ser_victims import Victims
from fl_privacy.updates import UpdateStore

HERE = "tests.sims.tiny_speech:"
TURNED = {"name": "tests.sims.turncoats:Turned"}
TINY: dict[str, Any] = {
    "simulation": {"kind": "federated-ser", "seed": 1},
    "private": {"corpus": HERE + "scan", "options": {"people": 1, "speakers": 15, "effect": 6.0}},
    "auxiliary": [{"corpus": HERE + "scan", "options": {"people": 2, "speakers": 15, "effect": 6.0}}],
    "features": {"name": HERE + "Levels"},
    "federation": {"rounds": 8, "clients_per_round": 6},
    "attack": [{"name": "input-reconstruction"}],
    "audit": {"permutations": 5},
    "defense": [TURNED],
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def result_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


def aucs(folder: Path) -> dict[tuple[str, str], float]:
    return {
        (c["attack"], c["attacker"]): c["value"]
        for c in result_of(folder)["claims"]
        if c["metric"] == "auc" and c["unit"] == "speaker" and not {"rounds", "leaked_updates"} & set(c["conditions"])
    }


@pytest.mark.parametrize(("algorithm", "shadows"), [("fedsgd", "federation"), ("fedavg", "matched")])
def test_who_knows_the_defense_sees_through_it_and_who_does_not_is_led_astray(
    tmp_path: Path, algorithm: str, shadows: str
) -> None:
    settings = [f"federation.algorithm={algorithm}", f"attack.0.shadows={shadows}"]
    folder = run(TINY, settings=settings, out=tmp_path / "run")
    found = aucs(folder)
    assert set(found) == {
        ("input-reconstruction", "adaptive"),
        ("input-reconstruction:static", "static"),
    }
    assert found["input-reconstruction", "adaptive"] > 0.75
    assert found["input-reconstruction:static", "static"] < 0.25
    primary = {c["attack"] for c in result_of(folder)["claims"] if c["primary"]}
    assert primary == {"input-reconstruction"}


def test_shadows_of_both_are_the_same_people_and_differ_in_the_defense_alone(tmp_path: Path) -> None:
    folder = run(TINY, out=tmp_path / "run")
    with_it, without = (UpdateStore(folder / name / "updates") for name in ("shadow-0", "static-shadow-0"))
    labels = [(folder / name / "labels.csv").read_text() for name in ("shadow-0", "static-shadow-0")]
    assert labels[0] == labels[1]
    ours, theirs = with_it.updates()[0], without.updates()[0]  # of the first round: from the same model
    np.testing.assert_array_equal(ours.arrays["fc1.weight"], -theirs.arrays["fc1.weight"])
    np.testing.assert_array_equal(ours.arrays["fc2.weight"], theirs.arrays["fc2.weight"])


@pytest.mark.parametrize("engine", ["local"])
def test_what_clients_kept_comes_back_to_the_accountant(tmp_path: Path, engine: str) -> None:
    folder = run(TINY, settings=[f"simulation.engine={engine}"], out=tmp_path / "run")
    (row,) = result_of(folder)["privacy"]
    ledgers = json.loads((folder / "victim" / "ledgers.json").read_text())
    counts = {
        client: sum(update.client == client for update in UpdateStore(folder / "victim" / "updates").updates())
        for client in ledgers
    }
    assert {client: kept.get("privacy.client.steps", [0]) for client, kept in ledgers.items()} == {
        client: [count] for client, count in counts.items()
    }
    assert row["epsilon_accountant"] == max(counts.values())


def test_the_attacker_who_knows_is_told_how_large_the_noise_is(tmp_path: Path) -> None:
    loud = {"name": "tests.sims.turncoats:Loud", "scale": 0.25}
    heard: dict[str, Any] = {}

    class Listening(LinearAttack):
        def fit_transform(self, updates: Any, auxiliary: Any) -> Any:
            asked = [None if scale is None else scale(updates[0]) for scale in (auxiliary.noise, auxiliary.own_noise)]
            heard.setdefault(self.label, asked)
            return np.zeros((len(updates), 1))

        def transform(self, updates: Any) -> Any:
            return np.zeros((len(updates), 1))

        def __init__(self, label: str) -> None:
            super().__init__()
            self.label = label

    names = ["plain", "clean"]
    attack = [{"name": "input-reconstruction", "label": n, "clean": n == "clean"} for n in names]
    with pytest.MonkeyPatch.context() as patch:
        made = ser_recipe.contests

        def listening(*arguments: Any, **settings: Any) -> list[Contest]:
            return [replace(contest, attack=Listening(contest.name)) for contest in made(*arguments, **settings)]

        patch.setattr(ser_recipe, "contests", listening)
        run({**TINY, "defense": [loud], "attack": attack}, out=tmp_path / "run")
    assert heard == {
        "plain": [0.25, 0.25],
        "clean": [0.25, None],
        "plain:static": [None, None],
        "clean:static": [None, None],
    }


def test_a_network_that_a_defense_made_larger_is_everybodys(tmp_path: Path) -> None:
    """The attacker who does not know the defense sees the models that are sent all the same."""
    longer = {"name": "tests.sims.turncoats:Longer"}
    attack = [{"name": "raw-linear", "layers": ["all"], "shadows": "matched"}, {"name": "class-weighted"}]
    folder = run({**TINY, "defense": [longer], "attack": attack}, out=tmp_path / "run")
    moved = {
        name: float(np.abs(UpdateStore(folder / name / "updates").updates()[0].arrays["more.bias"]).max())
        for name in ("victim", "matched", "static-matched")
    }
    assert moved["victim"] == moved["matched"] == pytest.approx(0.01)
    assert moved["static-matched"] == 0.0


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        ({"name": "dp-sgd", "target_epsilon": 1e-3}, "target"),
        ({"name": "dp-sgd", "noise_multiplier": 1.0, "delta": 0.2}, "not below 1/"),
        ({"name": "client-dp", "placement": "client", "clipping_norm": 1.0, "target_epsilon": 1e-3}, "target"),
        (
            {"name": "client-dp", "placement": "client", "clipping_norm": 1.0, "noise_multiplier": 1.0, "delta": 0.2},
            "1 /",
        ),
    ],
)
def test_what_no_client_can_do_is_refused_before_anything_runs(
    tmp_path: Path, defense: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run({**TINY, "defense": [defense]}, out=tmp_path / "run")
    assert not (tmp_path / "run" / "victim").exists()


def test_accuracies_that_no_account_holds_are_refused() -> None:
    with pytest.raises(UserError, match="fraction_evaluate"):
        FederatedSerRecipe(load(TINY, ["federation.fraction_evaluate=0.5"]))


LOCAL = {"name": "client-dp", "placement": "client", "clipping_norm": 0.5, "noise_multiplier": 0.01}
BY_EXAMPLE = {"name": "dp-sgd", "noise_multiplier": 0.8}


@pytest.mark.parametrize(
    ("defenses", "told"),
    [
        ([LOCAL], 0.005),
        ([BY_EXAMPLE], 0.8 / 12),  # each client has 12 examples, less than a batch
        ([BY_EXAMPLE, LOCAL], 0.005),  # clipping makes the earlier noise smaller, nobody knows by how much
        ([LOCAL, {"name": "top-k", "fraction": 0.5}], 0.0),
    ],
)
def test_the_noise_that_is_told_is_that_which_is_there(
    tmp_path: Path, defenses: list[dict[str, Any]], told: float
) -> None:
    settings = load({**TINY, "defense": defenses})
    victims = Victims(settings, Voices(settings, silent))
    folder = run({**TINY, "defense": defenses, "audit": {"permutations": 5, "canaries": 10}}, out=tmp_path / "run")
    update = UpdateStore(folder / "victim" / "updates").updates()[0]
    assert victims.noise(update) == pytest.approx(told)
    units = {row["unit"] for row in result_of(folder)["privacy"]}
    assert units == {d["name"].replace("dp-sgd", "example").replace("client-dp", "client") for d in defenses} & {
        "example",
        "client",
    }


def test_without_a_defense_all_shadows_are_clean(tmp_path: Path) -> None:
    """So that a sweep over defenses can have a cell without one."""
    attack = [{"name": "raw-linear", "label": label, "clean": label == "clean"} for label in ("plain", "clean")]
    found = aucs(run({**TINY, "defense": [], "attack": attack}, out=tmp_path / "run"))
    assert found["plain", "static"] == found["clean", "static"]


def test_names_and_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="harness's own"):
        FederatedSerRecipe(load({**TINY, "attack": [{"name": "input-reconstruction", "label": "a:static"}]}))
    with pytest.raises(UserError, match="reply is a setting of fedsgd"):
        load(TINY, ["federation.algorithm=fedavg", "federation.reply=step"])
