"""The study's presets, and a run of one of them on synthetic voices in small."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_privacy.audit import Claim
from fl_privacy.audit.files import read_result
from fl_privacy.audit.reading import main_claims
from fl_privacy.config import FederatedSerFile, load
from fl_privacy.published.compare import comparison
from fl_privacy.published.departures import departures
from fl_privacy.sims.as_published import claims_of as claims_of_run
from fl_privacy.sims.grid import cells_of
from fl_privacy.sims.run import run
from fl_privacy.sims.sweep import sweep
from fl_privacy.updates import Labels, UpdateStore

AUXILIARY = """[
    {corpus = "synthetic", shards = 3, options = {speakers = 10, utterances = 4, seed = 2}},
    {corpus = "synthetic", options = {speakers = 10, utterances = 3, seed = 3}},
]"""
SMALL = [
    'private={corpus="synthetic", attribute="gender", shards=2, options={speakers=10, utterances=4, seed=1}}',
    f"auxiliary={AUXILIARY}",
    "features.name=functionals",
    "federation.rounds=6",
    "federation.clients_per_round=0.3",
    "shadow.federations=2",
    "attack.cnn.epochs=1",
    "attack.cnn.layers=['last']",
    "protocol.leaked_updates=[1, 2]",
]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("feng2021-fedsgd", SMALL, out=tmp_path_factory.mktemp("runs") / "run")


def preset(name: str) -> tuple[FederatedSerFile, dict[str, Any]]:
    """A preset without its sweep, and the sweep."""
    text = resources.files("fl_privacy.presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    varied = content.pop("sweep", {})
    return load(content), varied


@pytest.mark.parametrize("name", ["feng2021-fedsgd", "feng2021-fedavg", "feng2021-dropout", "feng2021-layers"])
def test_presets_are_the_study(name: str) -> None:
    file, varied = preset(name)
    assert (file.private.corpus, file.private.attribute, file.private.shards) == ("iemocap", "gender", 10)
    assert {a.corpus: a.shards for a in file.auxiliary} == {"msp_improv": 10, "crema_d": 1}
    assert (file.features.name, file.features.normalise) == ("emobase", "speaker")
    assert (file.federation.rounds, file.federation.folds, file.federation.batch_size) == (200, 5, 20)
    # Clients of the study's federations, and how many of them a round takes.
    rounds = {80: 8, 73: 7, 72: 7, 90: 9, 100: 10, 152: 15, 153: 15, 170: 17, 180: 18, 162: 16, 173: 17}
    assert {clients: file.federation.a_round_of(clients) for clients in rounds} == rounds
    rate = {"fedsgd": (None, 0.1), "fedavg": (5e-4,)}[file.federation.algorithm]
    assert file.federation.learning_rate in rate
    assert (file.shadow.federations, file.shadow.hold_out) == (5, True)
    assert {a.name for a in file.attack} == {"cnn"}
    assert file.protocol.name == "as-published"
    assert departures("feng2021", file.resolved(), str(file.attack[0].label or "cnn")) == []
    assert varied.get("seeds", 5) == 5
    assert bool(varied) == (name in ("feng2021-dropout", "feng2021-layers"))


def test_presets_that_are_sweeps_have_the_cells_of_the_study(tmp_path: Path) -> None:
    cells = {
        name: cells_of(f"feng2021-{name}", [], load(f"feng2021-{name}").sweep, tmp_path)
        for name in ("dropout", "layers")
    }
    assert [cell.files[0].federation.dropout for cell in cells["dropout"]] == [0.2, 0.4, 0.6]
    assert [cell.files[0].federation.algorithm for cell in cells["layers"]] == ["fedsgd", "fedavg"]
    for cell in (*cells["dropout"], *cells["layers"]):
        assert sorted(f.simulation.seed % 5 for f in cell.files) == [0, 1, 2, 3, 4]


def claims_of(folder: Path) -> dict[tuple[str, str, int | None], dict[str, Any]]:
    claims = [c for c in read_result(folder / "result.json")["claims"] if c["protocol"] == "as-published"]
    return {(c["unit"], c["metric"], c["conditions"].get("leaked_updates")): c for c in claims}


def test_claims_count_every_update(finished: Path) -> None:
    claims = claims_of(finished)
    assert set(claims) == {
        ("update", "uar", None), ("update", "accuracy", None),
        *(("client", metric, n) for metric in ("uar", "asr") for n in (1, 2)),
    }  # fmt: skip
    updates = UpdateStore(finished / "victim" / "updates").updates()
    truth = (
        np.array(Labels.read(finished / "victim" / "labels.csv").of([u.client for u in updates], "gender")) == "male"
    )
    right = (np.load(finished / "attacks" / "0" / "scores.npz")["scores"] > 0) == truth
    uar = claims["update", "uar", None]
    assert uar["value"] == pytest.approx((right[truth].mean() + right[~truth].mean()) / 2)
    assert claims["update", "accuracy", None]["value"] == pytest.approx(right.mean())
    assert uar["n_positive"] + uar["n_negative"] == len(updates) == 6 * 4  # floor(.3 x 16) a round
    assert uar["low"] is None
    assert not uar["primary"]
    assert {"layer": "last", "dropout": 0.2, "folds": 1, "attack": "cnn"}.items() <= uar["conditions"].items()


def test_a_numeric_attribute_and_another_protocol_have_no_such_claims(tmp_path: Path) -> None:
    file = preset("feng2021-fedsgd")[0]
    for settings, classes in ((file, ()), (load("federated-ser"), ("female", "male"))):
        question: Any = SimpleNamespace(auxiliary=SimpleNamespace(classes=classes))
        assert claims_of_run(settings, [], question, tmp_path, {}) == []


def test_controlled_claims_stay_as_they_are(finished: Path) -> None:
    result = read_result(finished / "result.json")
    controlled = [c for c in result["claims"] if c["protocol"] == "controlled"]
    assert {c["unit"] for c in controlled} >= {"update", "client", "speaker"}
    main = main_claims(map(Claim.from_dict, result["claims"]))
    assert sum(c.primary and (c.unit, c.metric) == ("speaker", "auc") for c in main) == 1
    assert not any(c.protocol == "as-published" for c in main)
    assert result["simulation"]["protocol"]["name"] == "as-published"
    assert {c["protocol"] for c in result["controls"]} == {"controlled"}


def test_speakers_are_cut_into_as_many_clients_as_their_corpus_says(finished: Path) -> None:
    def clients(name: str) -> dict[str, int]:
        speakers = [row["speaker"] for row in Labels.read(finished / name / "labels.csv").rows.values()]
        return {speaker: speakers.count(speaker) for speaker in speakers}

    assert set(clients("victim").values()) == {2}
    for name in ("shadow-0", "shadow-1"):
        by_corpus = {(s.partition("/")[0], n) for s, n in clients(name).items()}
        assert by_corpus == {("synthetic-1", 3), ("synthetic-2", 1)}


def test_each_shadow_federation_leaves_out_its_fold_of_each_corpus(finished: Path) -> None:
    for number in range(2):
        *_, last = json.loads((finished / f"shadow-{number}" / "corpora.json").read_text())
        everybody = Labels.read(finished / f"shadow-{number}" / "labels.csv").rows.values()
        assert len(set(last["test_whose"])) == 4  # two of ten, twice
        assert not {row["speaker"] for row in everybody} & set(last["test_whose"])
        assert len({row["speaker"] for row in everybody}) == 16
    first, second = (json.loads((finished / f"shadow-{n}" / "corpora.json").read_text())[-1] for n in (0, 1))
    assert not set(first["test_whose"]) & set(second["test_whose"])


def test_all_federations_start_from_the_victims_weights_where_that_is_said(finished: Path, tmp_path: Path) -> None:
    def start(folder: Path, name: str) -> Any:
        store = UpdateStore(folder / name / "updates")
        return store.sent(1, store.updates()[0].client)["fc1.weight"]

    victim = start(finished, "victim")
    for name in ("shadow-0", "shadow-1"):
        np.testing.assert_array_equal(start(finished, name), victim)
    own = run("feng2021-fedsgd", [*SMALL, "federation.rounds=1", "shadow.initialisation=own"], out=tmp_path / "own")
    assert np.abs(start(own, "shadow-0") - victim).max() > 1e-3


def test_our_result_is_printed_beside_the_published_numbers(finished: Path) -> None:
    text = comparison("feng2021", [finished])
    uar = claims_of(finished)["update", "uar", None]["value"]
    assert f"{uar:.4f} [1]" in text
    note = next(line for line in text.splitlines() if line.startswith("[1]"))
    for word in ("1 fold (study: 5)", "private synthetic", "rounds 6 (study: 200)", "cnn.epochs 1", "federations 2"):
        assert word in note
    assert "0.9143" not in text  # there is no published number of these voices


def test_seeds_of_a_sweep_are_the_folds_whose_mean_is_claimed(tmp_path: Path) -> None:
    changes = [*SMALL, "federation.rounds=2", "shadow.federations=1", "protocol.leaked_updates=[1]"]
    folder = sweep("feng2021-fedsgd", [], seeds=2, settings=changes, out=tmp_path / "sweep", processes=1)
    (entry,) = [e for e in json.loads((folder / "sweep.json").read_text()) if "seeds" in e]
    merged = claims_of((folder / entry["path"]).parent)
    runs = [claims_of(path.parent) for path in sorted(folder.glob("*/seed-*/result.json"))]
    assert len(runs) == 2
    for key, claim in merged.items():
        assert claim["value"] == pytest.approx(np.mean([one[key]["value"] for one in runs]))
        assert claim["conditions"]["folds"] == 2
        assert sorted(claim["seeds"]) == [8, 9]
    assert "2 folds (study: 5)" in comparison("feng2021", [folder])
