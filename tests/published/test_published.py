from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_privacy.audit import Claim
from fl_privacy.config import load
from fl_privacy.errors import UserError
from fl_privacy.published import GENERATIONS, Published, values
from fl_privacy.published.compare import comparison
from fl_privacy.published.departures import departures

FIVE = ("emobase", "apc", "vq_apc", "decoar2", "tera")
SIX = (*FIVE, "npc")


def one(**wanted: Any) -> Published:
    found = [row for row in values("feng2021") if all(getattr(row, k) == v for k, v in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def mean(digits: int, **wanted: Any) -> float:
    found = [
        r.value
        for r in values("feng2021")
        if all(getattr(r, k) in (v if isinstance(v, tuple) else (v,)) for k, v in wanted.items())
    ]
    assert found
    return round(100 * float(np.mean(found)) + 1e-9, digits)


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({"table": "T1a", "private": "iemocap", "feature": "emobase", "algorithm": "fedsgd", "layer": "first"}, 0.9143),
        ({"table": "T1a", "private": "msp_improv", "feature": "tera", "algorithm": "fedavg", "layer": "fusion"}, 0.8353),
        ({"table": "T1b", "private": "crema_d", "feature": "vq_apc", "algorithm": "fedsgd", "layer": "second"}, 0.6035),
        ({"table": "T2", "private": "crema_d", "feature": "tera", "algorithm": "fedavg", "quantity": "ser_uar"}, 0.6816),
        ({"table": "T2", "private": "iemocap", "feature": "npc", "algorithm": "fedsgd", "layer": "last"}, 0.5823),
        ({"table": "T3", "generation": "A", "private": "msp_improv", "feature": "tera", "quantity": "attack_uar", "dropout": 0.6}, 0.9531),
        ({"table": "T4", "generation": "A", "private": "crema_d", "feature": "tera", "local_epochs": 5, "quantity": "ser_acc"}, 0.7460),
        ({"table": "T4", "generation": "B", "private": "crema_d", "feature": "npc", "algorithm": "fedsgd", "quantity": "ser_uar"}, 0.6327),
        ({"table": "T5", "private": "msp_improv", "feature": "npc", "dropout": 0.6}, 0.9981),
        ({"table": "T5", "private": "iemocap", "feature": "tera", "algorithm": "fedavg", "dropout": 0.4, "attack_dropout": 0.1}, 0.8873),
        ({"table": "T6", "private": "iemocap", "feature": "emobase", "epsilon": math.inf, "n_updates": 1}, 0.8255),
        ({"table": "T6", "private": "msp_improv", "feature": "decoar2", "epsilon": 10.0, "n_updates": 100}, 0.4655),
        ({"table": "T6b", "private": "crema_d", "epsilon": 50.0, "n_updates": 3}, 0.7381),
        ({"table": "T7", "private": "iemocap", "feature": "emobase", "epsilon": 20.0}, 0.6037),
        ({"table": "full", "private": "msp_improv", "feature": "apc", "algorithm": "fedavg"}, 0.743),
    ],
)  # fmt: skip
def test_single_values(wanted, value):
    assert one(**wanted).value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("generation", ["A", "B"])
def test_the_columns_have_the_stated_means(generation):
    table = {"A": "T1b", "B": "T1a"}[generation]
    for algorithm in ("fedsgd", "fedavg"):
        for layer in ("first", "second", "last", "fusion"):
            stated = one(table="T0", generation=generation, algorithm=algorithm, layer=layer, dropout=0.2).value
            assert mean(4, table=table, algorithm=algorithm, layer=layer) == pytest.approx(100 * stated, abs=0.056)
    for quantity in ("attack_uar", "ser_uar"):
        for dropout in (0.2, 0.4, 0.6):
            layer = "first" if quantity == "attack_uar" else ""
            wanted = {"generation": generation, "quantity": quantity, "dropout": dropout, "algorithm": "fedavg"}
            stated = one(table="T0", layer=layer, **wanted).value
            assert mean(4, table="T3", **wanted) == pytest.approx(100 * stated, abs=0.056)


def test_the_means_over_features_are_those_of_the_cells():
    for private in ("iemocap", "crema_d", "msp_improv"):
        for epsilon in (math.inf, 50.0, 25.0, 10.0, 5.0):
            for n in (1, 5, 10, 100):
                cell = {"private": private, "epsilon": epsilon, "n_updates": n}
                assert mean(2, table="T6", **cell) == pytest.approx(100 * one(table="T6b", **cell).value, abs=0.011)
    for row in values("feng2021", ["T6b"]):
        if row.private == "all":
            three = mean(
                2,
                table="T6b",
                private=("iemocap", "crema_d", "msp_improv"),
                epsilon=row.epsilon,
                n_updates=row.n_updates,
            )
            assert three == pytest.approx(100 * row.value, abs=0.011)


@pytest.mark.parametrize(
    ("private", "stated"),
    [
        ("iemocap", (63.5, 61.4, 61.5, 59.6, 53.9)),
        ("crema_d", (68.8, 66.3, 66.3, 65.6, 64.3)),
        ("msp_improv", (50.7, 50.3, 50.1, 48.6, 45.4)),
    ],
)
def test_ser_under_noise_has_the_stated_means_over_five_features(private, stated):
    found = [
        mean(1, table="T7", generation="HEAD", private=private, feature=FIVE, epsilon=epsilon)
        for epsilon in (math.inf, 50.0, 25.0, 10.0, 5.0)
    ]
    assert found == pytest.approx(stated, abs=0.051)


def test_every_table_is_whole_and_no_number_contradicts_another():
    rows = values("feng2021")
    cells = 3 * len(SIX)
    assert Counter(row.table for row in rows) == {
        "T0": 16 + 4 + 6,
        "T1a": cells * 8,
        "T1b": cells * 8,
        "T2": cells * 12,
        "T3": cells * 12,
        "T4": cells * 14,
        "T5": 3 * 5 * 7 - 12,  # cells that were never run
        "T6": 3 * 5 * 5 * 4,
        "T6b": 4 * 5 * 5,
        "T7": cells * 8 - 16,
        "full": 3 * 5 + 3 * 2,
    }
    assert {row.generation for row in rows} == set(GENERATIONS)
    assert all(0.3 < row.value < 1 for row in rows)
    seen: dict[Any, float] = {}
    for row in rows:
        key = tuple(v for k, v in vars(row).items() if k not in ("table", "value", "note"))
        assert seen.setdefault(key, row.value) == row.value


def test_what_is_doubtful_says_so():
    doubted = [row for row in values("feng2021") if "image of this release says" in row.note]
    assert {(row.value, row.note[-6:]) for row in doubted} == {
        (0.7307, "0.8307"),
        (0.735, "0.8350"),
        (0.5751, "0.7751"),
    }
    assert one(table="T7", private="iemocap", feature="emobase", epsilon=100.0).note == "*3"
    first = [row for row in values("feng2021", ["T2"]) if row.layer == "first"]
    assert first
    assert all("optimistic" in row.note for row in first)


@pytest.mark.parametrize(
    ("study", "table", "message"), [("feng2022", None, "feng2021"), ("feng2021", ["T8"], "no table 'T8'.*T1a")]
)
def test_unknown_names_are_refused(study, table, message):
    with pytest.raises(UserError, match=message):
        values(study, table)


# ------------------------------------------------------------------ beside ours


def write(folder: Path, claims: list[Claim], uar: float = 0.6, settings: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "simulation": load("feng2021-fedavg", settings or []).resolved(),
        "claims": [c.to_dict() for c in claims],
        "utility": {"uar": uar, "accuracy": uar + 0.05},
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def claim(value: float, **changes: Any) -> Claim:
    conditions = {
        "private": "iemocap",
        "features": "emobase",
        "layer": "first",
        "dropout": 0.2,
        "local_epochs": 1,
        "folds": 5,
    }
    conditions |= changes.pop("conditions", {})
    given = {"attack": "cnn", "algorithm": "fedavg", "unit": "update", "metric": "uar", "protocol": "as-published"}
    return Claim(**{**given, **changes}, value=value, conditions=conditions)


def lines_of(text: str, *starts: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith(starts)]


def test_ours_stands_in_the_row_of_the_same_setting_and_in_a_column_of_its_own(tmp_path):
    claims = [claim(0.7777), claim(0.1234, protocol="controlled"), claim(0.9, metric="accuracy")]
    claims.append(claim(0.7, unit="client", metric="asr", conditions={"leaked_updates": 1}))
    text = comparison("feng2021", [write(tmp_path / "run", claims, 0.61)])
    attack, ser = text.split("The attack")[1].split("Emotion recognition")
    heads = next(line for line in attack.splitlines() if line.startswith("private"))
    assert [h.strip() for h in heads.split("  ") if h.strip()] == [
        "private", "features", "N", "A UAR", "B UAR", "C ASR", "ours: cnn ASR", "ours: cnn UAR",
    ]  # fmt: skip
    assert "algorithm fedavg, layer first, dropout 0.2" in attack
    assert lines_of(attack, "iemocap") == [
        ["iemocap", "emobase", "0.8766", "0.8321", "0.7777"],  # T1b, T1a
        ["iemocap", "emobase", "1", "0.8255", "0.8738", "[1]", "0.7000"],  # T6, T2
    ]
    assert "0.1234" not in text  # a controlled claim has no place here
    assert "0.9000" not in text  # nor a metric that the study does not give
    ((*published, uar, accuracy),) = lines_of(ser, "iemocap")
    assert {"0.6165", "0.6119", "0.6125"} <= set(published)  # T3 A, T3 B, T2 C
    assert (uar, accuracy) == ("0.6100", "0.6600")
    assert "model of the last round" in ser


def test_what_departs_from_the_study_says_so_and_other_settings_have_other_rows(tmp_path):
    claims = [
        claim(0.5555, conditions={"folds": 1}),
        claim(0.6666, conditions={"private": "ravdess"}),
        claim(0.7777, conditions={"dropout": 0.4}),
        claim(0.8888, unit="client", conditions={"leaked_updates": 5}),
        claim(0.4444, defense="dp"),
    ]
    text = comparison("feng2021", [write(tmp_path, claims, settings=["federation.rounds=10"])]).split("Emotion")[0]
    (row,) = [line for line in text.splitlines() if "0.5555" in line]
    note = row.split("0.5555 ")[1].strip()
    assert f"{note} 1 fold (study: 5); rounds 10 (study: 200)" in text
    beside = {"0.5555": "0.8321", "0.7777": "0.8864", "0.8888": "0.8440"}  # T1a, T3, T6
    for ours in ("0.5555", "0.6666", "0.7777", "0.8888", "0.4444"):
        (row,) = [line for line in text.splitlines() if ours in line]
        others = [word for word in row.split() if word.startswith("0.") and len(word) == 6 and word != ours]
        if ours in beside:
            assert beside[ours] in others
        else:
            assert not others


def test_of_a_sweep_the_merged_results_count(tmp_path):
    write(tmp_path / "cell", [claim(0.7)])
    write(tmp_path / "cell" / "seed-1", [claim(0.1111, conditions={"folds": 1})])
    entries = [
        {"settings": {}, "seeds": [1, 2], "path": "cell/result.json"},
        {"settings": {}, "path": "cell/seed-1/result.json"},
    ]
    (tmp_path / "sweep.json").write_text(json.dumps(entries))
    text = comparison("feng2021", [tmp_path])
    assert "0.7000" in text
    assert "0.1111" not in text


def test_all_published_numbers_can_stand_beside_ours(tmp_path):
    folder = write(tmp_path / "run", [claim(0.7777)])
    short, whole = comparison("feng2021", [folder]), comparison("feng2021", [folder], whole=True)
    assert len(whole.splitlines()) > 20 * len(short.splitlines())
    assert "0.7777" in whole
    assert "0.8321" not in comparison("feng2021", [folder], ["T1b"])


def test_without_results_each_table_is_printed():
    text = comparison("feng2021", tables=["T1a"])
    assert len(lines_of(text, "iemocap", "crema_d", "msp_improv")) == 3 * 6 * 8
    assert lines_of(text, "iemocap")[0] == ["iemocap", "emobase", "fedsgd", "first", "0.9143"]
    assert "the README image of this release says 0.8307" in text
    assert "ours" not in text


def test_results_of_another_protocol_are_refused(tmp_path):
    folder = write(tmp_path / "run", [claim(0.5, protocol="controlled")])
    with pytest.raises(UserError, match=r"no claims of the protocol 'as-published'.*protocol\.name"):
        comparison("feng2021", [folder])
    with pytest.raises(UserError, match="no run folder and no sweep folder"):
        comparison("feng2021", [tmp_path])


OTHERS = 'auxiliary=[{corpus="iemocap", shards=10}, {corpus="msp_improv", shards=10}]'


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([], []),
        (["federation.dropout=0.6", "features.name=tera", "attack.cnn.layers=['last']", "federation.fold=2"], []),
        (['private={corpus="crema_d", attribute="gender"}', OTHERS], []),
        (['private={corpus="crema_d", attribute="gender", shards=10}', OTHERS], ["shards of crema_d 10 (study: 1)"]),
        (
            ['private={corpus="crema_d", attribute="gender"}', 'auxiliary=[{corpus="ravdess"}]'],
            ["auxiliary ravdess (study: iemocap + msp_improv)"],
        ),
        (["federation.learning_rate=0.01"], ["learning_rate 0.01 (study: 0.0005)"]),
        (["capture.observe=sum"], ["capture.observe sum (study: each)"]),
        (["shadow.initialisation=own"], ["shadow.initialisation own (study: victim)"]),
        (["attack.cnn.generation=C", "attack.cnn.dropout=0.1"], ["cnn.dropout 0.1 (study: default)", "cnn.generation C (study: B)"]),
        (["private.attribute=age"], ["attribute age (study: gender)"]),
    ],
)  # fmt: skip
def test_departures_from_the_study_are_named(settings, told):
    assert departures("feng2021", load("feng2021-fedavg", settings).resolved(), "cnn") == told
