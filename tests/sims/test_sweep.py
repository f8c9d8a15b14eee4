from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fl_privacy.audit import Claim
from fl_privacy.audit.reading import main_claims
from fl_privacy.config import ConfigError, load, load_any, presets
from fl_privacy.errors import UserError
from fl_privacy.report import write_sweep_report
from fl_privacy.sims.grid import cells_of
from fl_privacy.sims.merge import merge_seeds
from fl_privacy.sims.run import recipe_of
from fl_privacy.sims.run import run as run_simulation
from fl_privacy.sims.sweep import sweep, table
from tests.sims.test_run import SMALL

FAST = {**SMALL, "federation": {"rounds": 5, "clients_per_round": 4}, "audit": {"permutations": 3}}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return sweep(
            FAST,
            ["federation.algorithm=fedsgd,fedavg"],
            seeds=2,
            out=tmp_path_factory.mktemp("sweeps") / "s",
            processes=1,
        )


def speakers(folder: Path, attack: str) -> dict[str, tuple[str, float]]:
    with (folder / "scores.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["attack"] == attack and r["unit"] == "speaker"]
    return {r["speaker"]: (r["label"], float(r["score"])) for r in rows}


def test_every_cell_and_seed_is_listed_with_its_result(swept: Path) -> None:
    entries = json.loads((swept / "sweep.json").read_text())
    assert len(entries) == 2 * (1 + 2)
    assert all((swept / e["path"]).is_file() for e in entries)
    seeds = [e["settings"]["simulation.seed"] for e in entries if "seeds" not in e]
    assert seeds == [1, 2, 1, 2]
    assert {e["settings"]["federation.algorithm"] for e in entries} == {"fedsgd", "fedavg"}


def test_seeds_are_merged_by_speaker_as_documented(swept: Path) -> None:
    """The merged scores, recomputed by hand: z-score within each run, mean over the runs a speaker took part in."""
    cell = swept / "fedsgd"
    runs = [speakers(cell / f"seed-{seed}", "input-reconstruction") for seed in (1, 2)]
    by_hand: dict[str, list[float]] = {}
    for run in runs:
        values = np.array([score for _, score in run.values()])
        for name, (_, score) in run.items():
            by_hand.setdefault(name, []).append((score - values.mean()) / values.std())
    merged = speakers(cell, "input-reconstruction")
    assert set(merged) == set(by_hand)
    assert len(merged) > len(runs[0])  # other folds, other speakers
    for name, (_, score) in merged.items():
        assert score == pytest.approx(np.mean(by_hand[name]))
    claim = next(
        c
        for c in json.loads((cell / "result.json").read_text())["claims"]
        if c["primary"] and c["unit"] == "speaker" and c["metric"] == "auc"
    )
    truth = [label == "male" for label, _ in merged.values()]
    assert claim["value"] == pytest.approx(roc_auc_score(truth, [score for _, score in merged.values()]))
    assert claim["seeds"] == [1, 2]


def test_the_table_has_a_line_a_cell_and_a_report_stands_in_each(swept: Path) -> None:
    lines = table(swept).splitlines()
    assert len(lines) == 1 + 2
    assert "algorithm=fedsgd" in lines[1]
    assert (swept / "fedavg" / "report.html").is_file()


def test_the_sweep_has_a_report_of_all_cells_that_can_be_made_again(swept: Path) -> None:
    text = (swept / "report.html").read_text()
    for cell in ("fedsgd", "fedavg"):
        claims = map(Claim.from_dict, json.loads((swept / cell / "result.json").read_text())["claims"])
        for claim in main_claims(claims):
            if (claim.unit, claim.metric) == ("speaker", "auc"):
                assert f"{claim.value:.3f}" in text
    (swept / "report.html").unlink()
    assert write_sweep_report(swept).read_text() == text


def test_one_seed_alone_is_its_run_own_result(swept: Path, tmp_path: Path) -> None:
    run = swept / "fedsgd" / "seed-1"
    merge_seeds(tmp_path, (load(FAST),), [run])
    for name in ("result.json", "scores.csv", "report.html"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes()


def test_a_finished_sweep_does_nothing_again(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fl_privacy.sims import engines

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a federation was run again")

    monkeypatch.setattr(engines, "run_simulation", refuse)
    before = (swept / "sweep.json").read_text()
    sweep(FAST, ["federation.algorithm=fedsgd,fedavg"], seeds=2, out=swept, processes=1)
    assert (swept / "sweep.json").read_text() == before


def test_processes_give_the_same_results(swept: Path, tmp_path: Path) -> None:
    again = sweep(FAST, ["federation.algorithm=fedsgd,fedavg"], seeds=2, out=tmp_path / "s", processes=2)
    for path in ("fedsgd/result.json", "fedavg/seed-2/result.json", "fedavg/scores.csv"):
        assert (again / path).read_bytes() == (swept / path).read_bytes()


def test_a_ray_cluster_gives_the_same_results_and_a_users_error_is_told_as_one(swept: Path, tmp_path: Path) -> None:
    again = sweep(FAST, ["federation.algorithm=fedavg"], seeds=2, out=tmp_path / "s", processes=2, ray="local")
    for path in ("fedavg/result.json", "fedavg/seed-2/result.json", "fedavg/scores.csv"):
        assert (again / path).read_bytes() == (swept / path).read_bytes()
    (tmp_path / "t" / "fedavg" / "seed-1").mkdir(parents=True)
    (tmp_path / "t" / "fedavg" / "seed-1" / "mine.txt").write_text("not a run")
    with pytest.raises(UserError, match=r"fedavg/seed-1: .*"):
        sweep(FAST, ["federation.algorithm=fedavg"], seeds=2, out=tmp_path / "t", processes=2, ray="local")


def test_a_ray_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Ray cluster at '127.0.0.1:1'"):
        sweep(FAST, ["federation.algorithm=fedsgd"], seeds=2, out=tmp_path / "s", ray="127.0.0.1:1")


def test_a_grid_may_have_a_number_of_seeds_of_its_own(tmp_path: Path, planned: list[Any]) -> None:
    file = grids(["federation.dropout=0,0.2"], ["federation.rounds=6"])
    file["sweep"]["grid"][1]["seeds"] = 3
    sweep(file, out=tmp_path / "s", processes=1)
    first = file["simulation"]["seed"]
    assert [[f.simulation.seed - first for f in c.files] for c in planned] == [[0], [0], [0, 1, 2]]
    planned.clear()
    sweep(file, seeds=2, out=tmp_path / "s", processes=1)
    assert [len(c.files) for c in planned] == [2, 2, 2]


def test_stores_are_not_kept_unless_asked_for(swept: Path) -> None:
    assert not list(swept.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("federation.rounds", "not of the form"),
        ("a.b+c.d=1,2", "1 value.* for 2 keys"),
        ("federation.algorithm=fedsdg", "federation.algorithm"),
        ("federation.nope=1", r"federation\.nope: unknown key"),
    ],
)
def test_a_wrong_axis_is_refused_before_anything_runs(vary: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(FAST, [vary], out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The cells of a sweep to ``tmp_path / "s"``, which are then not run."""
    import fl_privacy.sims.sweep as module

    cells: list[Any] = []
    monkeypatch.setattr(module, "_run_all", lambda c, *_: cells.extend(c))
    monkeypatch.setattr(module, "merge_seeds", lambda *_: None)
    monkeypatch.setattr(module, "table", lambda root: "")
    monkeypatch.setattr(module, "write_sweep_report", lambda root: None)
    (tmp_path / "s").mkdir()
    return cells


def test_joined_keys_change_together(tmp_path: Path, planned: list[Any]) -> None:
    sweep(
        "federated-ser-ravdess",
        ["private.corpus+auxiliary.0.corpus=ravdess+emodb,emodb+ravdess", "features.normalise=global,speaker"],
        out=tmp_path / "s",
    )
    assert [(c.files[0].private.corpus, c.files[0].auxiliary[0].corpus) for c in planned] == [
        ("ravdess", "emodb"),
        ("ravdess", "emodb"),
        ("emodb", "ravdess"),
        ("emodb", "ravdess"),
    ]
    assert len({c.folder for c in planned}) == 4


def test_an_axis_of_seeds_counts_up_from_each(tmp_path: Path, planned: list[Any]) -> None:
    sweep(FAST, ["simulation.seed=1,10"], seeds=2, out=tmp_path / "s")
    assert [[f.simulation.seed for f in c.files] for c in planned] == [[1, 2], [10, 11]]
    with pytest.raises(ConfigError, match="names a value twice"):
        sweep(FAST, ["federation.rounds=1,1"], out=tmp_path / "t")


def grids(*varied: list[str], **more: Any) -> dict[str, Any]:
    return {**FAST, "sweep": {"grid": [{"vary": vary} for vary in varied], **more}}


def test_a_file_says_what_varies_and_the_call_may_say_otherwise(tmp_path: Path, planned: list[Any]) -> None:
    file = {**FAST, "sweep": {"vary": ["federation.algorithm=fedsgd,fedavg"], "seeds": 3}}
    sweep(file, out=tmp_path / "s")
    assert [(dict(c.settings), len(c.files)) for c in planned] == [
        ({"federation.algorithm": "fedsgd"}, 3),
        ({"federation.algorithm": "fedavg"}, 3),
    ]
    planned.clear()
    sweep(file, ["federation.rounds=3,4,5"], seeds=1, out=tmp_path / "s")
    assert [(dict(c.settings), len(c.files)) for c in planned] == [({"federation.rounds": n}, 1) for n in (3, 4, 5)]
    assert all(f.sweep is None for c in planned for f in c.files)
    assert all("sweep" not in f.resolved() for c in planned for f in c.files)
    planned.clear()
    sweep(file, [], out=tmp_path / "s")
    assert [(dict(c.settings), len(c.files)) for c in planned] == [({}, 3)]


def test_a_cell_of_two_grids_is_one_run_and_stands_in_both(tmp_path: Path, planned: list[Any]) -> None:
    """The centre (global, 5 rounds, .2 dropout) is a cell of all three grids, by its value or by leaving it alone."""
    file = grids(
        ["features.normalise=global,speaker"],
        ["federation.dropout=0,0.2,0.5"],
        ["federation.rounds=5,10", "features.normalise=speaker"],
    )
    sweep(file, out=tmp_path / "s")
    assert [c.grid for c in planned] == [0, 0, 1, 1, 1, 2, 2]
    folders = [c.folder.name for c in planned]
    assert folders[0] == folders[3]  # global, dropout .2
    assert folders[1] == folders[5]  # speaker, 5 rounds
    assert len(set(folders)) == 5
    assert folders[1:3] == ["normalise-speaker", "dropout-0"]
    for cell in planned:
        made = {json.dumps(f.resolved()) for f in cell.files}
        assert all(made != {json.dumps(f.resolved()) for f in c.files} for c in planned if c.folder != cell.folder)
    entries = json.loads((tmp_path / "s" / "sweep.json").read_text())
    cells = [e for e in entries if "seeds" in e]
    assert [e["grid"] for e in cells] == [0, 0, 1, 1, 1, 2, 2]
    assert cells[3]["settings"] == {"federation.dropout": 0.2}
    assert cells[0]["path"] == cells[3]["path"]


def test_shared_cells_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fl_privacy.sims.sweep as module

    ran: list[Path] = []
    monkeypatch.setattr(module, "run_file", lambda file, folder: ran.append(folder))
    monkeypatch.setattr(module, "merge_seeds", lambda folder, *_: ran.append(folder))
    monkeypatch.setattr(module, "table", lambda root: "")
    monkeypatch.setattr(module, "write_sweep_report", lambda root: None)
    (tmp_path / "s").mkdir()
    sweep(grids(["federation.dropout=0,0.2"], ["federation.rounds=5,6"]), out=tmp_path / "s", processes=1)
    assert len(ran) == len(set(ran)) == 2 * 3


def test_a_setting_may_be_infinite_and_the_list_of_cells_stays_json(tmp_path: Path, planned: list[Any]) -> None:
    """JSON has no infinity: a strict reader stops at a bare `Infinity`."""
    vary = ['defense=[],[{name="dp-sgd",target_epsilon=inf}]', "simulation.seed=1,2"]
    sweep({**FAST, "federation": {"rounds": 5}}, vary, out=tmp_path / "s")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    entries = json.loads((tmp_path / "s" / "sweep.json").read_text(), parse_constant=refuse)
    told = [e["settings"]["defense"] for e in entries if "seeds" in e]
    assert [d and d[0]["target_epsilon"] for d in told] == [[], [], "inf", "inf"]
    assert {c.settings["defense"][0]["target_epsilon"] for c in planned if c.settings["defense"]} == {float("inf")}
    assert sum("target-epsilon-inf" in c.folder.name for c in planned) == 2


def test_the_folder_holds_a_file_that_does_the_same_sweep_again(tmp_path: Path, planned: list[Any]) -> None:
    sweep(FAST, ["federation.algorithm=fedsgd,fedavg"], seeds=2, out=tmp_path / "s")
    first = [c.files for c in planned]
    planned.clear()
    sweep(tmp_path / "s" / "simulation.toml", out=tmp_path / "s")
    assert [c.files for c in planned] == first


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"vary": ["a=1"], "grid": [{"vary": ["b=1"]}]}, "leave one out"),
        ({"grid": [{"vary": []}]}, r"sweep\.grid\.0\.vary"),
        ({"grid": {"vary": ["b=1"]}}, r"write \[\[sweep\.grid\]\]"),
        ({"seeds": 0}, r"sweep\.seeds"),
        ({"varied": ["a=1"]}, r"sweep\.varied: unknown key"),
        ({"vary": ["sweep.seeds=1,2"]}, "cannot itself vary"),
        ({"vary": ["federation.rounds=1,2", "federation.rounds=3"]}, "varies federation.rounds twice"),
    ],
)
def test_a_wrong_sweep_is_refused(section: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep({**FAST, "sweep": section}, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_sweep_is_not_one_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a sweep varies the defense itself"):
        sweep("demo", vary=["simulation.seed=1,2"], out=tmp_path / "beside")
    assert not (tmp_path / "beside").exists()
    with pytest.raises(ConfigError, match="`fl-privacy sweep`"):
        run_simulation(grids(["federation.rounds=1,2"]), out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", sorted(presets()))
def test_presets_that_are_sweeps_name_cells_that_can_be(name: str, tmp_path: Path) -> None:
    own = getattr(load_any(name), "sweep", None)
    for cell in cells_of(name, [], own, tmp_path) if own else ():
        for file in cell.files:
            recipe_of(file)
