"""Attributes other than two sexes, and what shadows are made from: whole runs on a corpus of one's own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from fl_privacy.config import ConfigError
from fl_privacy.errors import UserError
from fl_privacy.sims.run import run
from fl_privacy.sims.sweep import sweep
from fl_privacy.updates import Labels, UpdateStore

HERE = "tests.sims.tiny_speech:"
TINY: dict[str, Any] = {
    "simulation": {"kind": "federated-ser", "seed": 1},
    "private": {"corpus": HERE + "scan", "options": {"people": 1, "speakers": 15}},
    "auxiliary": [{"corpus": HERE + "scan", "options": {"people": 2, "speakers": 15}}],
    "features": {"name": HERE + "Levels"},
    "federation": {"rounds": 8, "clients_per_round": 6},
    "attack": [{"name": "input-reconstruction"}],
    "audit": {"permutations": 5},
}
SPEAKER = ["private.attribute=speaker", "auxiliary.0.options.people=1"]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def result_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


def claim(folder: Path, metric: str, unit: str = "speaker", **conditions: Any) -> dict[str, Any]:
    """Return the primary attack's claim, of all of its updates or of the slice that is asked for."""
    return next(
        c
        for c in result_of(folder)["claims"]
        if c["primary"]
        and (c["metric"], c["unit"]) == (metric, unit)
        and {k: v for k, v in c["conditions"].items() if k in ("leaked_updates", "rounds")} == conditions
    )


def speakers(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open() as file:
        return [
            row for row in csv.DictReader(file) if row["unit"] == "speaker" and row["attack"] == "input-reconstruction"
        ]


def test_three_accents(tmp_path: Path) -> None:
    folder = run(
        TINY,
        ["private.attribute=accent", "private.options.effect=4", "auxiliary.0.options.effect=4"],
        out=tmp_path / "run",
    )
    found = claim(folder, "auc")
    assert found["value"] > 0.85
    assert found["attribute"] == "accent"
    rows = speakers(folder)
    assert {row["label"] for row in rows} == {"irish", "scottish", "welsh"}
    assert claim(folder, "accuracy")["value"] == np.mean([row["decision"] == row["label"] for row in rows])
    assert (folder / "report.html").stat().st_size > 1000


def test_a_number_by_regression(tmp_path: Path) -> None:
    folder = run(TINY, ["private.attribute=age", "private.numeric=true"], out=tmp_path / "run")
    rows = speakers(folder)
    age, told = ([float(row[key]) for row in rows] for key in ("label", "prediction"))
    found = claim(folder, "correlation")
    assert found["value"] == pytest.approx(pearsonr(age, told)[0])
    assert found["value"] > 0.6
    assert claim(folder, "mean_absolute_error")["value"] == pytest.approx(np.abs(np.subtract(age, told)).mean())
    assert 20 < np.mean(told) < 70  # years
    assert {c["control"] for c in result_of(folder)["controls"]} >= {
        "permuted-auxiliary-labels",
        "permuted-private-labels",
        "blind-norm",
    }


def test_a_sentence_varies_within_a_speaker_and_seeds_and_federations_agree_on_it(tmp_path: Path) -> None:
    root = sweep(
        TINY,
        ["private.attribute=statement"],
        seeds=2,
        settings=["shadow.federations=2", "private.options.effect=4", "auxiliary.0.options.effect=4"],
        out=tmp_path / "sweep",
        processes=1,
    )
    said: dict[str, set[str]] = {}
    for file in root.rglob("labels.csv"):
        for row in Labels.read(file).rows.values():
            said.setdefault(row["speaker"], set()).add(row["statement"])
    assert len(said) == 15 + 15
    assert {len(values) for values in said.values()} == {1}
    merged = next(path for path in root.rglob("result.json") if "seed-" not in str(path))
    assert claim(merged.parent, "auc")["value"] > 0.9
    assert claim(merged.parent, "auc")["seeds"] == [1, 2]


def test_which_of_the_candidates_it_is(tmp_path: Path) -> None:
    folder = run(TINY, SPEAKER, out=tmp_path / "run")
    rows = speakers(folder)
    assert {row["label"] for row in rows} == {row["speaker"] for row in rows}
    assert len(rows) == 12  # of the fold that is held out, nobody is a candidate
    assert claim(folder, "accuracy")["value"] > 0.8
    assert claim(folder, "accuracy")["value"] == np.mean([row["decision"] == row["speaker"] for row in rows])
    said = "other recordings of the same speakers"
    assert said in result_of(folder)["threat_model"]["owns"]
    # The halves share no recording: each speaker's sixteen are split in two.
    for side in ("victim", "shadow-0"):
        labels = Labels.read(folder / side / "labels.csv")
        assert {row["examples"] for row in labels.rows.values()} == {"8"}


def test_seeds_of_other_candidates_are_not_merged(tmp_path: Path) -> None:
    arguments = {"settings": [*SPEAKER], "out": tmp_path / "s", "processes": 1, "seeds": 2}
    with pytest.raises(UserError, match=r"federation\.fold"):
        sweep(TINY, ["features.normalise=none"], **arguments)
    assert not list(tmp_path.rglob("result.json"))
    arguments["settings"] += ["federation.fold=0"]
    root = sweep(TINY, ["features.normalise=none"], **arguments)
    assert claim(root / "none", "accuracy")["value"] > 0.8


@pytest.mark.parametrize("observe", ["each", "sum"])
def test_matched_shadows_answer_the_victims_own_models(observe: str, tmp_path: Path) -> None:
    folder = run(
        TINY,
        [
            "attack.0.shadows=matched",
            "shadow.matched_every=2",
            f"capture.observe={observe}",
            "private.options.effect=4",
            "auxiliary.0.options.effect=4",
        ],
        out=tmp_path / "run",
    )
    assert not (folder / "shadow-0").exists()
    victim, matched = (UpdateStore(folder / name / "updates") for name in ("victim", "matched"))
    assert victim.rounds == tuple(range(1, 9))
    assert matched.rounds == (1, 3, 5, 7)
    for update in matched.updates():
        client = next(u for u in victim.updates() if u.round == update.round)
        for name, array in update.sent.items():
            np.testing.assert_array_equal(array, client.sent[name])
    assert claim(folder, "auc")["value"] > (0.8 if observe == "each" else 0.6)


@pytest.mark.parametrize("choice", ["own", "victim"])
def test_shadows_start_from_the_victims_weights_or_their_own(choice: str, tmp_path: Path) -> None:
    folder = run(TINY, [f"shadow.initialisation={choice}", "federation.rounds=2"], out=tmp_path / "run")
    first, theirs = (
        next(iter(UpdateStore(folder / name / "updates").updates())).sent for name in ("victim", "shadow-0")
    )
    same = [np.array_equal(first[name], theirs[name]) for name in first if name.endswith("weight")]
    assert same == [choice == "victim"] * len(same)


def test_shards_that_are_not_linked_add_up_per_client_alone(tmp_path: Path) -> None:
    settings = ["federation.shards_per_speaker=2", "federation.clients_per_round=12", "audit.leaked_updates=[2]"]
    linked = run(TINY, settings, out=tmp_path / "linked")
    apart = run(TINY, [*settings, "audit.link_shards=false"], out=tmp_path / "apart")
    assert claim(linked, "auc", leaked_updates="all")["n_positive"] == 6
    found = claim(apart, "auc", "client", leaked_updates="all")
    assert found["n_positive"] == 12  # two clients of each
    assert found["n_speakers"] == 12
    assert claim(apart, "auc", "client", leaked_updates=2)["n_speakers"] == 12
    assert not [c for c in result_of(apart)["claims"] if "leaked_updates" in c["conditions"] and c["unit"] == "speaker"]


def test_windows_are_the_rounds_that_are_asked_for(tmp_path: Path) -> None:
    folder = run(TINY, ["audit.windows=[[1, 3], [4, 8]]"], out=tmp_path / "run")
    rounds = {c["conditions"]["rounds"] for c in result_of(folder)["claims"] if "rounds" in c["conditions"]}
    assert rounds == {"1-3", "4-8"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["private.positive=Male"], "'gender' has no value 'Male'; it has: female, male"),
        (["private.attribute=accent", "auxiliary.0.options.accents=2"], "irish / scottish / welsh"),
        (["private.attribute=gender", "private.numeric=true"], "'gender' must hold numbers, not 'female'"),
        (["private.attribute=age", "private.numeric=true", "attack.0.classifier=lda"], "cannot tell a number"),
        (["private.attribute=age", "private.numeric=true", "attack.0.name=gaussian-lr"], "cannot tell a number"),
        (["private.attribute=age", "private.numeric=true", "attack.0.name=cnn"], "cannot tell a number"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_trained(
    settings: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(TINY, settings, out=tmp_path / "run")
    assert not (tmp_path / "run" / "victim").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["shadow.matched_every=2"], r"shadow\.matched_every: .* shadows = 'matched'"),
        (["attack.0.shadows=matched", "shadow.federations=2"], r"shadow\.federations: "),
        (["attack.0.shadows=matched", "shadow.initialisation=victim"], r"shadow\.initialisation: "),
        (["audit.windows=[[5, 2]]"], r"a span is \(first round, last round\), not \(5, 2\)"),
        (["audit.windows=[[9, 12]]"], "no round from 9 to 12 is captured: they are 1 to 8"),
        (["capture.every=4", "audit.windows=[[2, 4]]"], "they are 1 to 5, every 4"),
        ([*SPEAKER, "private.positive=s01"], "one for each candidate"),
        ([*SPEAKER, "shadow.hold_out=true"], "the same speakers"),
        (["private.attribute=speaker", "auxiliary.0.options.speakers=9"], "the private corpus alone"),
        (["auxiliary.0.options.people=1"], "the private corpus itself"),
    ],
)
def test_settings_that_would_be_ignored_or_cannot_be_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(TINY, settings)
