"""Simulation files of speaker membership: recognisers in swapped roles, and one that is there already."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.metrics import roc_auc_score

from fl_privacy import cli
from fl_privacy.audit import Privacy
from fl_privacy.audit.claims import jsonable
from fl_privacy.config import ConfigError, SpeakerMembershipFile, load, load_any
from fl_privacy.errors import UserError
from fl_privacy.sims.own_attacks import cross_fitted
from fl_privacy.sims.run import run
from fl_privacy.sims.speaker_recipe import SpeakerMembershipRecipe
from fl_privacy.sims.sweep import sweep
from fl_privacy.sims.sweep import table as sweep_table
from fl_privacy.training.speaker import SpeakerTraining

QUICK = {"steps": 4, "speakers_per_batch": 3, "crops_per_speaker": 2, "crop_frames": 20}
MEMORY: set[bytes] = set()
"""What the recogniser below was trained on: first bytes of voices."""


def tell_tale(waves):
    """A recogniser that knows its voices: those of members lie close; one voice has no embedding."""
    found = []
    for wave in waves:
        level = np.abs(np.fft.rfft(wave, 512))[:32]
        if wave[:8].tobytes() in MEMORY:
            level = np.full(32, 10.0) + 0.01 * level
        if len(wave) < 1000:
            level[:] = np.nan
        found.append(level)
    return np.stack(found)


def wrong_shape(waves):
    return np.zeros((len(waves), 3, 2))


def people(root: Path, names: range, rng: np.random.Generator, voices: int = 6) -> None:
    time = np.arange(4800) / 16_000
    for person in names:
        (root / f"p{person:02d}").mkdir(parents=True)
        for voice in range(voices):
            buzz = np.sin(2 * np.pi * (120 + 40 * person) * time + rng.uniform(0, 6))
            wave = 0.2 * buzz + 0.1 * rng.standard_normal(time.size)
            soundfile.write(str(root / f"p{person:02d}" / f"v{voice}.wav"), wave, 16_000)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    people(root / "members", range(7), rng)
    people(root / "nonmembers", range(10, 17), rng)
    people(root / "auxiliary", range(20, 32), rng)
    for person, length in ((3, 4800), (4, 4800), (5, 400)):  # silence, a person of one voice, a voice without embedding
        path = root / "members" / f"p{person:02d}"
        if person == 4:
            for voice in range(1, 6):
                (path / f"v{voice}.wav").unlink()
        wave = np.zeros(4800) if person == 3 else 0.1 * rng.standard_normal(length)
        soundfile.write(str(path / "v0.wav"), wave, 16_000)
    for path in (root / "members").rglob("*.wav"):
        MEMORY.add(soundfile.read(str(path), dtype="float32")[0][:8].tobytes())
    return root


def own(speech: Path, **target) -> dict:
    sides = {side: {"corpus": "folder", "root": str(speech / side)} for side in ("members", "nonmembers", "auxiliary")}
    return {
        "simulation": {"kind": "speaker-membership"},
        "target": {"model": f"{__name__}:tell_tale", **target},
        **sides,
        "shadow": {**QUICK, "steps": 60},
        "protocol": {"imposters": 3, "swaps": 2, "voices": 6},
        "attack": [{"name": "pair.mean"}, {"name": "pair.mean likelihood ratio"}],
    }


def swapped(speech: Path) -> dict:
    return {
        "simulation": {"kind": "speaker-membership"},
        "target": QUICK,
        "private": {"corpus": "folder", "root": str(speech / "auxiliary")},
        "protocol": {
            "imposters": 2,
            "swaps": 2,
            "voices": 3,
            "budgets": [
                {"voices": 3, "imposters": 4, "imposter_voices": 6},
                {"voices": 2, "imposters": 1, "imposter_voices": 4, "grouped": True},
            ],
        },
        "attack": [{"name": "logistic"}, {"name": "pair.mean"}],
        "audit": {"permutations": 30},
    }


def test_recognisers_of_a_file_are_trained_attacked_and_reported(speech, tmp_path: Path):
    folder = run(swapped(speech), ["audit.confidence=0.9"], out=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    assert result["simulation"]["simulation"]["kind"] == "speaker-membership"
    assert "embeddings of the voices" in result["threat_model"]["words"]
    heads = [c for c in result["claims"] if c["primary"] and c["metric"] == "auc"]
    assert [(c["attack"], c["conditions"]["r"], c["confidence"]) for c in heads] == [
        ("logistic", 1.0, 0.9),
        ("logistic", 0.0, 0.9),
    ]
    asked = [c for c in result["claims"] if "queries" in c["conditions"]]
    # Candidates of a target (the speakers of its pool) times voices, and the imposters' voices.
    assert [(c["conditions"]["queries"], c["conditions"]["scores_a_candidate"]) for c in asked] == [
        *[(4 * 3 + 4 * 6, 3 + 3 * 24)] * 2,
        *[(4 * 2 + 4, 1 + 2)] * 2,
    ]
    assert asked[0]["value"] == heads[0]["value"], "the whole budget is the whole attack"
    report = (folder / "report.html").read_text()
    for told in ("r = 0", "enrolled as a group", "AUC over pair.mean", "equal error rate", "12</td>"):
        assert told in report
    for absent in ("No reply failed", 'id="rounds"'):
        assert absent not in report
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("recogniser-*.npz")}
    (folder / "result.json").unlink()
    (folder / "report.html").unlink()
    run(swapped(speech), ["audit.confidence=0.9"], out=folder)
    assert json.loads((folder / "result.json").read_text()) == result
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is trained again"


def test_a_recogniser_of_ones_own_is_judged_against_baselines_that_never_ask_it(speech, tmp_path: Path):
    folder = run(own(speech), out=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    found = {(c["attack"], c["metric"]): c for c in result["claims"] if c["unit"] == "speaker"}
    head = found["pair.mean", "auc"]
    assert (head["value"], head["n_positive"], head["n_negative"]) == (1.0, 6, 7)
    assert found["pair.mean likelihood ratio", "auc"]["value"] is not None
    blind = {c["control"]: c["value"] for c in result["controls"] if c["metric"] == "auc" and c["unit"] == "speaker"}
    assert set(blind) == {
        "random-initialisation",
        "mean-log-mel",
        "log-mel-classifier",
        "wrong-target",
        "majority",
        "permuted-private-labels",
    }
    over = found["pair.mean", "auc_over_best_blind"]
    best = max(0.5, *(blind[k] for k in blind if k not in ("majority", "permuted-private-labels")))
    assert over["value"] == pytest.approx(1.0 - best)
    # What could not be judged is told, and harmed nobody else.
    lost = result["corpora"]["private"][0]["left_out"]
    assert lost["silence"] == 1
    assert lost["one voice; how close voices lie takes two"] == 1
    assert any("NaN" in reason for reason in lost)
    assert result["queries"] >= 13 * 5 + 3 * 6
    report = (folder / "report.html").read_text()
    assert "Scores by speaker" in report and "log-mel-classifier" in report
    assert "which of 13 speakers trained the model" in report and "of the corpus" not in report
    with (folder / "scores.csv").open() as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"member", "non-member"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": {"model": f"{__name__}:wrong_shape"}}, "none of .* voices has an embedding.*shape .*expected"),
        ({"target": {"model": f"{__name__}:nobody"}}, "has no 'nobody'"),
        ({"target": {"model": "/nowhere/model.pt"}}, "there is no file /nowhere/model.pt"),
        ({"nonmembers": "members"}, "'p00' is among the members and among the non-members"),
        ({"auxiliary": "members"}, "the attacker owns other people's"),
        ({"attack": [{"name": "magic"}]}, "unknown membership attack"),
        ({"shadow": {"encoder": "magic"}}, "unknown speaker encoder 'magic'. Known: x-vector"),
    ],
)
def test_what_cannot_be_run_is_said(speech, tmp_path: Path, changes, message):
    content = own(speech)
    for key, value in changes.items():
        content[key] = {"corpus": "folder", "root": str(speech / value)} if isinstance(value, str) else value
    with pytest.raises(UserError, match=message):
        run(content, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["protocol.budgets=[{voices=9, imposters=1, imposter_voices=1}]"], "budgets.0.voices: more than the 5"),
        (["target.encoderr=x"], "target.encoderr: unknown key"),
        (["federation.rounds=3"], "federation: unknown key"),
        (["target.model=a:b"], "target: encoder: the model is trained already"),
        (["members={corpus='an4'}"], r"members: for a model of one's own"),
        (["target.sample_rate=8000"], "sample_rate: for a model of one's own"),
        (["protocol.ratios=[2.0]"], "protocol.ratios.0"),
        (["protocol.ratios=[1.0, 0.0, 1.0]"], "ratios: 1.0 stands there twice"),
        (["attack=[{name='logistic'}, {name='logistic'}]"], "attack: .logistic. stands there twice"),
        (["simulation.kind=magic"], "simulation.kind: 'magic' is none of federated-ser, speaker-membership"),
    ],
)
def test_files_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_any("speaker-membership", settings)


def test_a_model_of_ones_own_takes_three_corpora():
    content = {
        "simulation": {"kind": "speaker-membership"},
        "target": {"model": "a:b"},
        "attack": [{"name": "logistic"}],
    }
    with pytest.raises(ConfigError, match=r"members: missing; a model of one's own takes"):
        load_any(content)
    with pytest.raises(ConfigError, match="private: missing"):
        load_any({**content, "target": {}})


def test_federated_files_are_read_as_before_and_others_are_refused_there():
    assert load_any("federated-ser") == load("federated-ser")
    with pytest.raises(ConfigError, match="is no federated simulation"):
        load("speaker-membership")


def test_defaults_are_those_of_the_training():
    file = load_any("speaker-membership")
    assert isinstance(file, SpeakerMembershipFile)
    assert SpeakerTraining(**file.target.training) == SpeakerTraining()


def test_a_classifier_of_recordings_is_never_asked_of_whom_it_learned():
    rng, members = np.random.default_rng(0), np.arange(80) < 40
    noise = rng.standard_normal((80, 40))
    own_scores = cross_fitted(noise, members, 0)
    assert abs(np.mean(own_scores[:40][:, None] > own_scores[40:]) - 0.5) < 0.15
    noise[:40, 0] += 4
    told = cross_fitted(noise, members, 0)
    assert np.mean(told[:40][:, None] > told[40:]) > 0.9


def test_the_command(speech, tmp_path: Path, monkeypatch, capsys):
    path = tmp_path / "simulation.toml"
    toml = "\n".join(
        [
            "[simulation]\nkind = 'speaker-membership'",
            "[target]\n" + "\n".join(f"{key} = {value}" for key, value in QUICK.items()),
            f"[private]\ncorpus = 'folder'\nroot = '{speech / 'auxiliary'}'",
            "[protocol]\nimposters = 2\nswaps = 2\nvoices = 3",
            "[[attack]]\nname = 'pair.mean'",
        ]
    )
    path.write_text(toml)
    out = tmp_path / "run"
    monkeypatch.setattr(
        sys, "argv", ["fl-privacy", "run", str(path), "--set", "audit.permutations=9", "--out", str(out), "-q"]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("The attacker is a user of the recogniser")
    assert any(line.startswith("1     pair.mean") for line in printed)
    assert printed[-1] == str(out)


# Private training, sweeps and merged seeds.


def auc_of(folder: Path, attack: str) -> float:
    """The mean over targets of the AUC within one, from the scores alone."""
    by_target: dict[str, list[tuple[bool, float]]] = {}
    with (folder / "scores.csv").open() as file:
        for row in csv.DictReader(file):
            if row["attack"] == attack:
                by_target.setdefault(row["target"], []).append((row["label"] == "member", float(row["score"])))
    return float(np.mean([roc_auc_score(*zip(*rows, strict=True)) for rows in by_target.values()]))


@pytest.fixture(scope="module")
def swept(speech, tmp_path_factory) -> Path:
    file = swapped(speech) | {"attack": [{"name": "pair.mean"}]}
    file["target"] = {"steps": 3, "crop_frames": 20}
    file["protocol"] = {"imposters": 4, "swaps": 1, "voices": 3, "ratios": [1.0]}
    vary = ['defense=[],[{name="dp-sgd",target_epsilon=50.0,batch_size=6},{name="dp-sgd",target_epsilon=5.0}]']
    with pytest.raises(ConfigError, match="defense"):
        sweep(file, vary, out=tmp_path_factory.mktemp("two"))
    return sweep(
        file,
        ['defense=[],[{name="dp-sgd",target_epsilon=50.0,batch_size=6}]'],
        seeds=2,
        out=tmp_path_factory.mktemp("sweeps") / "s",
        processes=1,
    )


def test_seeds_are_merged_target_by_target(swept: Path):
    cell = swept / "none"
    result = json.loads((cell / "result.json").read_text())
    head = next(c for c in result["claims"] if c["primary"] and c["metric"] == "auc")
    single = [auc_of(cell / f"seed-{seed}", "pair.mean") for seed in (1, 2)]
    assert head["value"] == pytest.approx(np.mean(single))
    assert head["value"] == pytest.approx(auc_of(cell, "pair.mean"))
    assert (head["seeds"], head["defense"]) == ([1, 2], None)
    with (cell / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["target"] for row in rows}) == 2 * 4
    assert head["n_speakers"] == len({row["speaker"] for row in rows})
    permuted = next(c for c in result["controls"] if c["control"] == "permuted-private-labels")
    assert permuted["n_permutations"] == 30 and permuted["low"] < 0.5 < permuted["high"]
    assert (cell / "report.html").is_file()


def test_a_defended_run_says_what_it_promises_to_whom(swept: Path):
    cell = next(path for path in swept.iterdir() if "dp-sgd" in path.name)
    result = json.loads((cell / "seed-1" / "result.json").read_text())
    voice, speaker = (Privacy.from_dict(row) for row in result["privacy"])
    assert voice.unit == "utterance" and 49.0 < voice.epsilon_accountant <= 50.0
    # Three of a speaker's six voices are trained on.
    assert speaker.unit == "speaker" and speaker.conditions == {"voices_of_a_speaker": 3}
    assert speaker.epsilon_accountant > voice.epsilon_accountant
    told = {(c["attack"], c["attacker"], c["defense"]) for c in result["claims"]}
    assert told == {("pair.mean", "adaptive", "dp-sgd"), ("pair.mean:static", "static", "dp-sgd")}
    auc = {c["attack"]: c["value"] for c in result["claims"] if c["metric"] == "auc"}
    assert auc["pair.mean"] == auc["pair.mean:static"], "one feature ranks alike, whoever fitted its scale"
    merged = json.loads((cell / "result.json").read_text())
    assert [row["unit"] for row in merged["privacy"]] == ["utterance", "speaker"]
    log = (cell / "seed-1" / "log.txt").read_text()
    assert log.count("trained on 6 voices of 2 speakers") == 2 * 4 and "target_epsilon=50.0" in log
    report = (cell / "report.html").read_text()
    for text in ("all of them there or none", "single recording", "over all steps of training"):
        assert text in report


def test_the_sweeps_table_holds_errors_and_both_attackers(swept: Path):
    head, first, second, *_ = sweep_table(swept).splitlines()
    for text in ("EER members / others", "static AUC", "epsilon (from below)"):
        assert text in head
    assert "utterance" in second and "utterance" not in first
    assert "1 \N{MINUS SIGN} EER of the task" in (swept / "report.html").read_text()
    settings = json.loads((swept / "none" / "result.json").read_text())["simulation"]
    again = load_any(settings)
    assert again.resolved() == settings


def test_seeds_of_ones_own_recogniser_are_merged_by_speaker(speech, tmp_path: Path):
    file = own(speech) | {"attack": [{"name": "pair.mean"}]}
    file["shadow"], file["protocol"]["swaps"] = QUICK, 1
    folder = sweep(file, [], seeds=2, out=tmp_path / "s", processes=1)
    result = json.loads((folder / "all" / "result.json").read_text())
    head = next(c for c in result["claims"] if c["primary"] and c["metric"] == "auc" and c["unit"] == "speaker")
    assert head["value"] == 1.0 and head["seeds"] == [1, 2] and head["n_speakers"] == 13
    assert "mean-log-mel" in {c["control"] for c in result["controls"]}


def test_fewer_queries_to_a_recogniser_of_ones_own(speech, tmp_path: Path):
    file = own(speech)
    file["protocol"] = {**file["protocol"], "budgets": [{"voices": 2, "imposters": 2, "imposter_voices": 3}]}
    folder = run(file, out=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    less = [c for c in result["claims"] if "queries" in c["conditions"]]
    # 6 members (one of whose six voices the recogniser does not embed) and 7 others, two voices of each.
    assert [c["conditions"]["queries"] for c in less] == [13 * 2 + 2 * 3]
    assert less[0]["value"] == 1.0 and less[0]["attack"] == "pair.mean"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["target.clip=1.0", 'defense=[{name="dp-sgd",noise_multiplier=1.0}]'],
            "target.speakers_per_batch: dp-sgd has",
        ),
        (["protocol.static=false"], "protocol.static: for a run with a defense"),
        (['defense=[{name="dp-sgd"}]'], "give either noise_multiplier or target_epsilon"),
        (['defense=[{name="magic"}]'], "defense.0.name"),
    ],
)
def test_settings_that_would_be_idle_are_refused(speech, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_any(swapped(speech), settings)


def test_ones_own_recogniser_has_no_permutations_to_choose_and_no_defense(speech):
    for setting, message in (
        ("audit.permutations=9", "audit.permutations: of roles that are swapped"),
        ('defense=[{name="dp-sgd",noise_multiplier=1.0}]', "this one is trained already"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_any(own(speech), [setting])
    assert "permutations" not in load_any(own(speech)).resolved()["audit"]


def test_a_loss_that_cannot_be_private_is_refused_before_training(speech, tmp_path: Path):
    file = swapped(speech) | {"target": {"encoder": "lstm", "loss": "ge2e"}}
    with pytest.raises(UserError, match="'ge2e' cannot be private"):
        run(file, ['defense=[{name="dp-sgd",noise_multiplier=1.0}]'], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("epsilon", [3.0, float("inf")])
def test_a_defended_file_is_read_again_from_its_result(speech, epsilon):
    """As a sweep's processes and a report's settings do; JSON has no infinity but a word for it."""
    file = swapped(speech) | {"target": {"steps": 4, "crop_frames": 20}}
    file["shadow"] = {"encoder": "ecapa"}
    file["defense"] = [{"name": "dp-sgd", "target_epsilon": epsilon}]
    held = load_any(file).resolved()
    assert "clip" not in held["target"] and "clip" not in held["shadow"] and held["protocol"]["static"] is True
    again = load_any(json.loads(json.dumps(jsonable(held))))
    assert again.resolved() == held
    kinds = SpeakerMembershipRecipe(again).settings.shadow_kinds
    assert {end: (kind.encoder, kind.dp is not None) for end, kind in kinds.items()} == {
        "": ("ecapa", True),
        ":static": ("ecapa", False),
    }


def test_recognisers_have_no_stores_to_keep(speech, tmp_path: Path):
    with pytest.raises(ConfigError, match="keep_stores is for federated simulations"):
        sweep(swapped(speech), ["protocol.voices=2,3"], out=tmp_path, keep_stores=True)


def test_a_file_of_many_runs_is_not_one_run():
    with pytest.raises(ConfigError, match="which `fl-privacy sweep` does"):
        SpeakerMembershipRecipe(load_any("speaker-membership-dp"))


def test_shadows_of_a_disjoint_architecture(speech, tmp_path: Path):
    file = swapped(speech) | {"attack": [{"name": "pair.mean"}, {"name": "logistic"}]}
    del file["protocol"]["budgets"]
    shadow = 'shadow={encoder="lstm",loss="ge2e",steps=2,speakers_per_batch=2,crops_per_speaker=2,crop_frames=20}'
    folder = run(file, [shadow, "protocol.swaps=1", "protocol.imposters=4"], out=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    assert "trains lstm recognisers of its own, which may be unlike the target" in result["threat_model"]["owns"]
    assert {c["target"] for c in result["claims"]} == {"x-vector"} and {c["attacker"] for c in result["claims"]} == {
        None
    }
    assert sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".") == [
        "audit",
        "recognisers",
        "shadows",
        "voices",
    ]
