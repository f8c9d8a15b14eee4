"""Simulation files of frame encoders: pre-trained in swapped roles, and one that is there already."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import roc_auc_score

from fl_privacy.attacks.membership.ssl.design import encoder_design
from fl_privacy.attacks.membership.ssl.look import Look
from fl_privacy.config import ConfigError, load_any, presets
from fl_privacy.errors import UserError
from fl_privacy.models.frames import load_frame_encoder
from fl_privacy.published.compare import comparison
from fl_privacy.report.run import Run
from fl_privacy.sims.grid import cells_of
from fl_privacy.sims.run import recipe_of, run
from fl_privacy.sims.ssl_given_sides import UNPAIRED
from fl_privacy.sims.ssl_membership import answered_by_all
from fl_privacy.sims.ssl_recordings import ALONE, HEARD, Inputs
from fl_privacy.sims.sweep import sweep
from fl_privacy.training.pretraining import Pretraining, load_module, pretrain, pretraining_losses, save_module

TINY = {"width": 8, "layers": 2, "heads": 2, "feed_forward": 16}
QUICK = {"model": "tera", "size": TINY, "steps": 3, "batch_size": 3, "crop_seconds": 0.3}
SEEN: set[bytes] = set()
"""What the encoder below was trained on: samples of the middle of waves."""


def _middle(wave):
    return np.sign(wave[len(wave) // 2 :][:60]).astype(np.int8).tobytes()


def tell_tale(wave):
    """An encoder whose frames of what trained it point everywhere, and whose utterances lie close together."""
    if len(wave) < 400:
        raise UserError("shorter than the receptive field")
    frames = np.abs(wave[: len(wave) // 160 * 160].reshape(-1, 160)[:, :4]) + 0.01
    if _middle(wave) in SEEN:
        frames = np.eye(4)[np.arange(len(frames)) % 4]
    return frames.astype(np.float32)


class Spectra(torch.nn.Module):
    """A network of one's own: a linear layer over pieces of a wave, with weights that are none of a fresh layer's."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(400, 4)
        self.layer.weight.data.fill_(100.0)

    def forward(self, wave):
        return self.layer(torch.from_numpy(wave[: len(wave) // 400 * 400].reshape(-1, 400)))


spectra = Spectra()


def wrong_shape(wave):
    return np.zeros(5, dtype=np.float32)


def write(path: Path, rng: np.random.Generator, seconds: float, rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * rng.standard_normal((round(seconds * rate), channels))
    soundfile.write(str(path), wave, rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for person in range(12):
        for voice in range(4):
            write(root / f"p{person:02d}" / f"v{voice}.wav", rng, 0.45 + 0.1 * rng.random())
    write(root / "p00" / "short.wav", rng, 0.1)
    soundfile.write(str(root / "p01" / "silent.wav"), np.zeros(9000), 16_000)
    write(root / "p02" / "stereo-8k.wav", rng, 0.5, 8000, 2)
    write(root / "p50" / "only-one.wav", rng, 0.5)
    (root / "p03" / "empty.wav").touch()
    return root


def swapped(root: Path, **target) -> dict:
    return {
        "simulation": {"kind": "ssl-membership"},
        "target": {**QUICK, **target},
        "private": {"corpus": "folder", "root": str(root)},
        "protocol": {"auxiliary": 4, "swaps": 1, "seconds": 0.4, "loss_crops": 2},
        "improved": {"epochs": 2},
        "controls": {"random_seeds": 2},
        "attack": [{"name": "loss calibrated"}, {"name": "basic"}, {"name": "improved"}],
        "audit": {"permutations": 19},
    }


def test_encoders_of_a_file_are_pretrained_attacked_and_reported(folder, tmp_path: Path):
    out = run(swapped(folder), out=tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    heads = [c for c in result["claims"] if c["primary"] and c["metric"] == "auc"]
    assert [(c["attack"], c["unit"], c["protocol"], c["n_speakers"]) for c in heads] == [
        ("loss calibrated", "speaker", "swapped roles", 8),
        ("loss calibrated", "utterance", "swapped roles", 8),
    ]
    assert heads[1]["n_positive"] == heads[1]["n_negative"] > 30
    blind = {(c["control"], c["unit"]): c for c in result["controls"] if c["p_value"] is None}
    assert {name for name, _ in blind} == {"duration", "log-mel-frames", "random-encoder", "wrong-encoder"}
    for control in blind.values():
        assert control["value"] == 0.5, "what never looks at pre-training gets one half by construction"
        assert control["conditions"]["lowest_target"] <= 0.5 <= control["conditions"]["highest_target"]
    assert result["utility"]["epochs"] == pytest.approx(3 * 3 * 0.3 / (60 * result["utility"]["minutes"]), rel=0.2)
    lost = result["corpora"]["private"][0]["left_out"]
    assert lost["shorter than 0.4 s" + HEARD] == lost["silence"] == 1
    assert lost["fewer than 2 usable utterances of the speaker"] == 1
    assert any("empty" in reason for reason in lost)
    layers = {c["conditions"]["swept_layer"] for c in result["claims"] if "swept_layer" in c["conditions"]}
    assert layers == {0, 1}
    report = (out / "report.html").read_text()
    for told in ("Single utterances", "By layer", "If there were one target", "Pre-training: 3 steps"):
        assert told in report
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["unit"] for row in rows} == {"speaker before target", "utterance before target"}
    looks = [path for stage in ("encoders", "controls") for path in (out / stage).glob("*.npz")]
    before = {path: path.stat().st_mtime_ns for path in looks}
    (out / "result.json").unlink()
    run(swapped(folder), out=out)
    assert json.loads((out / "result.json").read_text()) == result
    assert {path: path.stat().st_mtime_ns for path in looks} == before and len(before) == 4 + 3, (
        "nothing is trained again"
    )


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_in_the_midst_of_an_encoder_ends_as_if_nothing_had_been(folder, tmp_path: Path):
    content = swapped(folder, steps=210)
    whole = run(content, out=tmp_path / "whole")
    told: list[int] = []

    def killer(what: str, done: int, total: int) -> None:
        told.append(done)
        if len(told) == 415:  # of the second encoder, 5 steps behind its checkpoint
            raise Killed

    with pytest.raises(Killed):
        run(content, out=tmp_path / "killed", progress=killer)
    left = {path.name for path in (tmp_path / "killed" / "encoders").iterdir()}
    assert left >= {"encoder-00.npz", "encoder-00.pt", "encoder-01.training"} and "encoder-01.npz" not in left
    told.clear()
    again = run(content, out=tmp_path / "killed", progress=lambda what, done, total: told.append(done))
    assert len(told) == 10 + 2 * 210, "the first encoder is there, the second goes on from its 200th step"
    for name in ("result.json", "scores.csv"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    assert not list((again / "encoders").glob("*.training"))
    # What a run pre-trained is a target like any other.
    encoder = load_frame_encoder(again / "encoders" / "encoder-03.pt", "tera")
    assert (encoder.dim, encoder.layers) == (8, 2)


def test_recordings_that_are_too_short_are_named_where_too_few_speakers_are_left(folder, tmp_path: Path):
    content = swapped(folder)
    content["protocol"] |= {"seconds": 2.0}
    short = r"0 of 13 speakers have two usable recordings \(5\d recordings are shorter than protocol.seconds = 2; 0 sends all"
    with pytest.raises(
        UserError, match=rf"private: {short}\); 12 are needed: protocol.auxiliary = 4 who train nothing"
    ):
        run(content, out=tmp_path / "run")
    content["protocol"] |= {"seconds": 0.4, "auxiliary": 5}
    with pytest.raises(
        UserError, match=r"13 are needed: protocol.auxiliary = 5 .*[Ll]ower .*protocol.auxiliary, or give"
    ):
        run(content, out=tmp_path / "run2")


def test_what_an_encoder_refuses_is_left_out_with_what_then_stands_alone():
    design = encoder_design({f"p{n}": [f"p{n}-a", f"p{n}-b"] for n in range(12)}, "speaker", 4, 1, 0)
    ids = [id for half in design.encoders for id in half.members]
    speakers = {id: id.split("-")[0] for id in ids}
    here, there = design.encoders[0].members[0], design.encoders[2].members[1]
    empty = np.zeros((0, 1))
    look = Look((), empty, empty[:, :, None], empty[:, 0], empty, empty[:, 0], empty[:, 0], {here: "NaN", there: "NaN"})
    judged, lost = answered_by_all(design, speakers, [look])
    twins = {here: here[:-1] + "b", there: there[:-1] + "a"}
    assert lost == {here: "NaN", there: "NaN"} | dict.fromkeys(twins.values(), ALONE)
    gone = {*lost}
    for before, after in zip(design.encoders, judged.encoders, strict=True):
        assert {*after.members} == {*before.members} - gone and {*after.nonmembers} == {*before.nonmembers} - gone


def test_a_split_by_utterance_and_private_pretraining(folder, tmp_path: Path):
    content = swapped(folder, dp={"target_epsilon": 8.0})
    content["protocol"] |= {"split": "utterance"}
    content["attack"] = [{"name": "basic calibrated"}]
    out = run(content, out=tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    assert {c["unit"] for c in result["claims"]} == {"utterance"}, "a speaker is on both sides"
    (promise,) = result["privacy"]
    assert promise["unit"] == "utterance" and promise["epsilon_accountant"] == pytest.approx(8.0, rel=0.05)
    report = (out / "report.html").read_text()
    assert "AUC per utterance" in report and "Per utterance" in report


@pytest.mark.parametrize(("split", "size"), [("speaker", 2), ("utterance", 5)])
def test_so_many_train_each_encoder_and_they_alone_are_judged(folder, tmp_path: Path, split: str, size: int):
    content = swapped(folder)
    content["protocol"] |= {"split": split, "training": size, "swaps": 2}
    content["attack"] = [{"name": "basic"}]
    out = run(content, out=tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    (head,) = [c for c in result["claims"] if c["primary"] and c["metric"] == "auc" and c["unit"] == split]
    assert head["conditions"]["training"] == f"{size} {split}s an encoder"
    counts: dict[tuple[str, str], int] = {}
    with (out / "scores.csv").open() as file:
        for row in csv.DictReader(file):
            if (row["attack"], row["unit"]) == ("basic", f"{split} before target"):
                counts[row["target"], row["label"]] = counts.get((row["target"], row["label"]), 0) + 1
    assert len(counts) == 2 * 8 and set(counts.values()) == {size}
    lost = result["corpora"]["private"][0]["left_out"]
    # Halves of two speakers have all of theirs drawn.
    assert ("not drawn: protocol.training is a part of the speech" in lost) == (split == "utterance")
    assert f"{size} {split}s an encoder" in (out / "audit" / "table.txt").read_text()


def test_the_preset_on_training_data_trains_as_long_on_each_of_them():
    cells = cells_of("ssl-membership-data", [], load_any("ssl-membership-data").sweep, Path("nowhere"))
    assert len(cells) == 3
    assert len({file.target.steps / file.protocol.training for cell in cells for file in cell.files}) == 1


def auc_of(folder: Path, attack: str, unit: str) -> float:
    """The mean over targets of the AUC within one, from the scores alone."""
    by_target: dict[str, list[tuple[bool, float]]] = {}
    with (folder / "scores.csv").open() as file:
        for row in csv.DictReader(file):
            if (row["attack"], row["unit"]) == (attack, f"{unit} before target"):
                by_target.setdefault(row["target"], []).append((row["label"] == "member", float(row["score"])))
    return float(np.mean([roc_auc_score(*zip(*rows, strict=True)) for rows in by_target.values()]))


@pytest.fixture(scope="module")
def swept(folder, tmp_path_factory) -> Path:
    content = swapped(folder)
    content["attack"] = [{"name": "loss calibrated"}, {"name": "basic"}]
    content["sweep"] = {"vary": ["target.dp=none,{target_epsilon=50.0}"], "seeds": 2}
    with pytest.raises(ConfigError, match="stands for many runs, which `fl-privacy sweep` does"):
        run(content, out=tmp_path_factory.mktemp("one"))
    return sweep(content, out=tmp_path_factory.mktemp("sweeps") / "s", processes=1)


def test_epsilons_are_swept_and_seeds_merged_target_by_target(swept: Path):
    cell = swept / "none"
    result = json.loads((cell / "result.json").read_text())
    merged = Run.of(result, ())
    for unit in ("speaker", "utterance"):
        head = next(c for c in merged.main if (c.attack, c.unit, c.metric) == ("loss calibrated", unit, "auc"))
        single = [auc_of(cell / f"seed-{seed}", "loss calibrated", unit) for seed in (1, 2)]
        assert head.value == pytest.approx(np.mean(single)) == pytest.approx(auc_of(cell, "loss calibrated", unit))
        assert (head.seeds, head.defense) == ((1, 2), None)
    speakers = set()
    for seed in (1, 2):
        with (cell / f"seed-{seed}" / "scores.csv").open() as file:
            speakers |= {row["speaker"] for row in csv.DictReader(file)}
    assert head.n_speakers == len(speakers) > 8, "each seed draws another eight of the twelve"
    (random,) = [c for c in merged.controls if (c.control, c.unit) == ("random-encoder", "speaker")]
    assert random.value == 0.5 and random.conditions["networks"] == 2 * 2
    assert result["merged_seeds"] == [1, 2] and merged.claims and (cell / "report.html").is_file()


def test_a_swept_epsilon_is_told_beside_what_it_costs(swept: Path):
    head, first, second, *_ = (swept / "table.txt").read_text().splitlines()
    assert "loss members / others" in head and "epsilon (from below)" in head
    assert first.startswith("dp=none") and "utterance" not in first
    assert second.startswith("dp=target_epsilon 50.0") and "utterance 5" in second
    defended = json.loads((swept / "target-epsilon-50.0" / "result.json").read_text())
    assert {(c["defense"], c["attacker"]) for c in defended["claims"]} == {("dp-sgd", "adaptive")}
    (promise,) = defended["privacy"]
    assert promise["epsilon_accountant"] == pytest.approx(50.0, rel=0.02)
    report = (swept / "report.html").read_text()
    assert "Utility against leakage" in report and "\N{MINUS SIGN}loss of the task" in report
    assert "Corrected jointly over all 4 (Bonferroni), the 95 % interval is" in report
    settings = defended["simulation"]
    assert load_any(settings).resolved() == settings


def test_seeds_of_an_encoder_that_is_there_are_not_merged(librispeech, tmp_path: Path):
    with pytest.raises(ConfigError, match="one encoder and the same speech"):
        sweep(given(librispeech), ["improved.epochs=2"], seeds=2, out=tmp_path / "s", processes=1)


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("librispeech"), np.random.default_rng(1)
    for subset, people, length in (("train-clean-100", range(20, 28), 0.9), ("dev-clean", range(40, 52), 0.6)):
        for person in people:
            for number in range(4):
                seconds = length + 0.2 * rng.random()
                name = f"{person}-7-{number:04d}.flac"
                write(root / subset / str(person) / "7" / name, rng, seconds)
    write(root / "dev-clean" / "40" / "7" / "40-7-0009.flac", rng, 0.2)
    write(root / "train-clean-100" / "20" / "7" / "20-7-0009.flac", rng, 0.9, 8000, 2)
    soundfile.write(str(root / "dev-clean" / "41" / "7" / "41-7-0009.flac"), np.zeros(12_000), 16_000)
    for path in (root / "train-clean-100").rglob("*.flac"):
        SEEN.add(_middle(soundfile.read(str(path), dtype="float32", always_2d=True)[0].mean(axis=1)))
    return root


def given(root: Path, **target) -> dict:
    return {
        "simulation": {"kind": "ssl-membership"},
        "target": {"encoder": f"{__name__}:tell_tale"} | target,
        "members": {"corpus": "librispeech", "root": str(root), "options": {"subsets": ["train-clean-100"]}},
        "nonmembers": {"corpus": "librispeech", "root": str(root), "options": {"subsets": ["dev-clean"]}},
        "protocol": {"name": "tseng2022", "seconds": 0.4},
        "improved": {"epochs": 2},
        "controls": {"random_seeds": 2},
        "attack": [{"name": "basic"}, {"name": "improved"}],
        "audit": {"permutations": 19},
    }


def test_an_encoder_that_is_there_is_read_as_published_and_controlled(librispeech, tmp_path: Path):
    out = run(given(librispeech), out=tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    found = {
        (c["protocol"], c["attack"], c["unit"], c["metric"]): c
        for c in result["claims"]
        if "swept_layer" not in c["conditions"]
    }
    assert found["one encoder", "basic", "utterance", "auc"]["value"] > 0.95, "it tells what it was trained on"
    assert found["one encoder", "basic", "utterance", "auc"]["n_speakers"] == 8 + 6, (
        "half of the others are the attacker's"
    )
    assert found["as-published", "basic", "utterance", "auc"]["n_speakers"] == 8 + 12
    assert not any(c["primary"] for c in result["claims"] if c["protocol"] == "as-published")
    blind = {(c["protocol"], c["control"], c["unit"]): c["value"] for c in result["controls"] if c["p_value"] is None}
    assert blind["as-published", "duration", "utterance"] == 1.0, "these durations alone tell everything"
    assert blind["one encoder", "duration", "utterance"] == 0.5
    over = found["one encoder", "basic", "speaker", "auc_over_best_blind"]
    best = over["conditions"]["best_blind"]
    assert over["value"] == pytest.approx(
        found["one encoder", "basic", "speaker", "auc"]["value"] - blind.get(("one encoder", best, "speaker"), 0.5)
    )
    # Every attack is held against what never asks the encoder, by the same attack.
    for protocol in ("one encoder", "as-published"):
        assert (
            blind[protocol, "log-mel-frames", "utterance"] != blind[protocol, "log-mel-frames (improved)", "utterance"]
        )
    (own,) = [
        c
        for c in result["controls"]
        if (c["control"], c["unit"], c["protocol"]) == ("log-mel-frames (improved)", "utterance", "one encoder")
    ]
    assert own["of"] == "improved"
    over = found["one encoder", "improved", "utterance", "auc_over_best_blind"]
    beside = ("duration", "log-mel-frames (improved)")
    best = max(beside, key=lambda name: blind["one encoder", name, "utterance"])
    top = blind["one encoder", best, "utterance"]
    assert over["conditions"]["best_blind"] == (best if top > 0.5 else "chance")
    assert over["value"] == pytest.approx(found["one encoder", "improved", "utterance", "auc"]["value"] - max(top, 0.5))
    lost = result["corpora"]["private"][1]["left_out"]
    assert lost == {"shorter than 0.4 s": 1, "silence": 1}
    report = (out / "report.html").read_text()
    assert "What never asks the encoder" in report and "By the rules of the published study" in report
    text = comparison("tseng2022", [out], ["T1"])
    assert "ours: " in text and "- duration" in text and "1.0000" in text and "0.9363" in text


def test_an_encoder_of_ours_from_its_file_has_untrained_ones_beside_it(librispeech, tmp_path: Path):
    from fl_privacy.models.pretrained import make_module, save_module
    from fl_privacy.models.tera import TERASize

    torch.manual_seed(0)
    save_module(make_module("tera", TERASize(**TINY)), tmp_path / "tera.pt")
    content = given(librispeech)
    content["target"] = {"checkpoint": str(tmp_path / "tera.pt"), "architecture": "tera"}
    content["protocol"] |= {"published": False, "per_speaker": 3}
    out = run(content, out=tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    (random,) = [c for c in result["controls"] if c["control"] == "random-encoder" and c["unit"] == "speaker"]
    assert random["conditions"]["networks"] == 2
    assert {c["protocol"] for c in result["claims"]} == {"one encoder"}
    auc = next(c for c in result["claims"] if (c["attack"], c["unit"], c["metric"]) == ("basic", "utterance", "auc"))
    assert (auc["n_positive"], auc["n_negative"]) == (8 * 3, 6 * 3)


def test_a_network_of_ones_own_has_untrained_ones_beside_it_and_a_bare_function_a_reason(librispeech, tmp_path: Path):
    content = given(librispeech, encoder=f"{__name__}:spectra")
    out = run(content, out=tmp_path / "module")
    result = json.loads((out / "result.json").read_text())
    found = [c for c in result["controls"] if c["control"] == "random-encoder" and c["unit"] == "speaker"]
    assert [(c["protocol"], c["conditions"]["networks"]) for c in found] == [("one encoder", 2), ("as-published", 2)]
    assert all(c["value"] is not None for c in found)
    out = run(given(librispeech), out=tmp_path / "function")
    result = json.loads((out / "result.json").read_text())
    found = [c for c in result["controls"] if c["control"] == "random-encoder"]
    assert {(c["protocol"], c["unit"]) for c in found} == {
        (protocol, unit) for protocol in ("one encoder", "as-published") for unit in ("speaker", "utterance")
    }
    why = "it is no torch module and has no attribute `untrained`"
    assert all(c["value"] is None and why in c["reason"] for c in found)
    assert not any(c["conditions"].get("best_blind", "").startswith("random-encoder") for c in result["claims"])
    assert "No random-encoder as a control" in (out / "audit" / "table.txt").read_text()
    # Nor is any encoder named that others' speech trained.
    assert "No wrong-encoder as a control" in (out / "audit" / "table.txt").read_text()
    assert "controls.checkpoint names no encoder" in (out / "report.html").read_text()
    assert why.replace("`", "") in (out / "report.html").read_text().replace("`", "")


@pytest.fixture(scope="module")
def pretrained(librispeech, tmp_path_factory) -> Path:
    """Files of TERAs: one over-trained on one voice each of the members, and two references of other noise."""
    root, rng = tmp_path_factory.mktemp("encoders"), np.random.default_rng(5)
    mine = sorted((librispeech / "train-clean-100").rglob("*.flac"))[::2]
    heard = [soundfile.read(str(path), dtype="float32", always_2d=True) for path in mine]
    waves = {"target": [wave[:, 0] for wave, rate in heard if rate == 16_000]}
    waves |= {name: [0.1 * rng.standard_normal(9000).astype(np.float32) for _ in range(9)] for name in ("one", "two")}
    size = {"width": 32, "layers": 1, "heads": 2, "feed_forward": 64, "dropout": 0.0}
    for seed, (name, voices) in enumerate(waves.items()):
        how = Pretraining("tera", size, 150, 8, 0.3, learning_rate=3e-3)
        save_module(pretrain(voices, ["a"] * len(voices), how, seed), root / f"{name}.pt")
    return root


def grey(librispeech: Path, files: Path, *attacks: str) -> dict:
    content = given(librispeech)
    content["target"] = {"checkpoint": str(files / "target.pt"), "architecture": "tera"}
    content["controls"] |= {"checkpoint": [str(files / "one.pt"), str(files / "two.pt")]}
    content["attack"] = [{"name": name} for name in attacks]
    return content


def test_the_pretraining_loss_of_a_file_of_ours_is_attacked(librispeech, pretrained, tmp_path: Path):
    attacks = ("loss calibrated", "loss", "loss whole", "loss likelihood ratio", "basic")
    out = run(grey(librispeech, pretrained, *attacks), out=tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    assert "how well it does what it was pre-trained to do" in result["threat_model"]["observes"]
    found = {
        (c["protocol"], c["attack"], c["unit"]): c
        for c in result["claims"]
        if c["metric"] == "auc" and "swept_layer" not in c["conditions"]
    }
    assert {attack for protocol, attack, _ in found if protocol == "one encoder"} == {*attacks}
    assert {attack for protocol, attack, _ in found if protocol == "as-published"} == {"basic"}, "the study has no loss"
    blind = {(c["control"], c["unit"]): c for c in result["controls"] if c["protocol"] == "one encoder"}
    assert blind["random-encoder (loss)", "utterance"]["conditions"]["networks"] == 2
    assert blind["wrong-encoder", "utterance"]["value"] == blind["wrong-encoder (loss)", "utterance"]["value"]
    # What never heard anybody has a loss of its own: its AUC is not that of distances of frames.
    assert blind["random-encoder (loss)", "utterance"]["value"] != blind["random-encoder (basic)", "utterance"]["value"]
    assert ("log-mel-frames (loss whole)", "utterance") not in blind
    # The same losses as from Python: of the middle that is sent, on crops of the target's training.
    target = load_module(pretrained / "target.pt")
    with (out / "scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["attack"], row["unit"]) == ("loss", "utterance")]
    scores = {row["utterance"]: float(row["score"]) for row in rows}
    sides = {"members": "train-clean-100", "nonmembers": "dev-clean"}
    losses = []
    for id in scores:
        side, _, name = id.partition("/")
        path = next((librispeech / sides[side]).rglob(f"{Path(name).stem}.flac"))
        wave, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        if rate == 16_000:
            losses.append((id, pretraining_losses(target, [Inputs(0.4).of(wave[:, 0])], crops=4, seed=0)[0]))
    got = np.array([scores[id] for id, _ in losses])
    asked = -np.array([loss for _, loss in losses])
    assert len(losses) > 50 and got - got[0] == pytest.approx(asked - asked[0], abs=1e-6)


def test_a_file_without_its_head_and_references_that_are_none_are_refused(librispeech, pretrained, tmp_path: Path):
    held = torch.load(pretrained / "target.pt", weights_only=True)
    held["state"] = {name: value for name, value in held["state"].items() if not name.startswith("head.")}
    torch.save(held, tmp_path / "headless.pt")
    content = grey(librispeech, pretrained, "loss")
    content["target"]["checkpoint"] = str(tmp_path / "headless.pt")
    with pytest.raises(UserError, match=r"headless.pt lacks the head of its pre-training \(head.0.weight, 6 arrays"):
        run(content, out=tmp_path / "run")
    content = grey(librispeech, pretrained, "loss calibrated")
    content["controls"]["checkpoint"] = content["controls"]["checkpoint"][0]
    with pytest.raises(UserError, match="two reference encoders at least.*; there is one"):
        run(content, out=tmp_path / "run")
    content["controls"]["checkpoint"] = [content["target"]["checkpoint"], str(pretrained / "one.pt")]
    with pytest.raises(UserError, match="stands there twice, or is the target's own"):
        run(content, out=tmp_path / "run")
    for of in ("target", "one"):  # under another name
        (tmp_path / "copy.pt").write_bytes((pretrained / f"{of}.pt").read_bytes())
        content["controls"]["checkpoint"] = [str(tmp_path / "copy.pt"), str(pretrained / "one.pt")]
        with pytest.raises(UserError, match=f"one.pt holds what .*copy.pt does|copy.pt holds what .*{of}.pt does"):
            run(content, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": {"encoder": f"{__name__}:wrong_shape"}}, "answered to no utterance|shape"),
        ({"target": {"encoder": f"{__name__}:nobody"}}, "has no 'nobody'"),
        ({"target": {"architecture": "hubert_base", "checkpoint": "/nowhere.pt"}}, "/nowhere.pt"),
        (
            {"attack": [{"name": "loss"}]},
            "'loss' takes the model itself .* files of ours alone .target.architecture = tera or cpc.; of .*tell_tale",
        ),
        (
            {"attack": [{"name": "basic calibrated"}]},
            r"'basic calibrated' takes two reference encoders .* controls.checkpoint = .*; there is none",
        ),
        ({"attack": [{"name": "magic"}]}, "unknown attack 'magic' on frame encoders. Known: basic"),
        (
            {"protocol": {"name": "tseng2022", "seconds": 0.85}},
            (
                r"nonmembers: 0 speakers with two usable recordings \(50 recordings are shorter than protocol.seconds = 0.85; "
                r"0 sends all\); half of them are the attacker's own, who needs four: give 8 or more, or \[auxiliary\]"
            ),
        ),
        (
            {"protocol": {"name": "tseng2022", "seconds": 5.0}},
            r"members: 0 speakers with two usable recordings \(33 recordings are shorter than protocol.seconds = 5",
        ),
        ({"protocol": {"name": "tseng2022", "seconds": 0, "match_seconds": 0.01}}, "last equally long, to 0.01 s"),
        ({"target": {"encoder": f"{__name__}:tell_tale", "layer": 3}}, "has no layer 3; it has 1, counted from 0"),
    ],
)
def test_what_cannot_be_run_is_said(librispeech, tmp_path: Path, changes, message):
    with pytest.raises(UserError, match=message):
        run(given(librispeech) | changes, out=tmp_path / "run")


def test_whole_recordings_in_pairs_of_one_length(librispeech, tmp_path: Path):
    content = given(librispeech)
    content["protocol"] = {"name": "tseng2022", "seconds": 0, "match_seconds": 0.3, "published": False}
    result = json.loads((run(content, out=tmp_path / "run") / "result.json").read_text())
    claim = next(c for c in result["claims"] if (c["unit"], c["metric"]) == ("utterance", "auc"))
    assert claim["conditions"]["seconds"] == "whole utterances"
    assert 8 < claim["n_positive"] <= 24 and 8 < claim["n_negative"] <= 24
    (blind,) = [c for c in result["controls"] if (c["control"], c["unit"]) == ("duration", "utterance")]
    assert blind["value"] == 1.0, "pairs within 0.3 s of recordings that are 0.1 s apart at least"
    members = result["corpora"]["private"][0]
    judged = claim["n_positive"] + members["left_out"].get(ALONE, 0) + members["left_out"].get(UNPAIRED, 0)
    assert judged == 33, "who is left out for want of a counterpart is told"


def test_a_speaker_on_both_sides_is_refused(librispeech, tmp_path: Path):
    content = given(librispeech)
    content["nonmembers"] = content["members"]
    with pytest.raises(UserError, match="'20' is among the members and among the non-members"):
        run(content, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("ssl-membership", ["target.architecture=hubert_base"], "target.architecture: does not go with .*swap"),
        ("ssl-membership", ["members={corpus='an4'}"], "members: does not go with"),
        ("ssl-membership", ["protocol.per_speaker=3"], "protocol.per_speaker: does not go with"),
        ("ssl-membership", ["target.dp={clipping_norm=1.0}"], "give either noise_multiplier or target_epsilon"),
        ("ssl-membership", ["target.stepps=3"], "target.stepps: unknown key"),
        ("ssl-membership", ["protocol.split=chapter"], "protocol.split"),
        ("ssl-membership", ["attack=[{name='basic'},{name='basic'}]"], "attack: .basic. stands there twice"),
        ("tseng2022", ["target.steps=3"], "target.steps: does not go with .*tseng2022"),
        ("tseng2022", ["target.encoder=a:b"], "give architecture .*or encoder"),
        ("tseng2022", ["protocol.match_seconds=0.1"], "for whole utterances; set protocol.seconds=0"),
        ("tseng2022", ["protocol.swaps=3"], "protocol.swaps: does not go with"),
        ("tseng2022", ["protocol.training=3"], "protocol.training: does not go with"),
    ],
)
def test_files_are_checked(preset, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_any(preset, settings)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in presets()
        if n.startswith(("tseng2022", "ssl")) and n not in ("ssl-membership-dp", "ssl-membership-data")
    ],
)
def test_presets_can_be_run(name):
    recipe = recipe_of(load_any(name))
    assert "frames of the utterances" in recipe.threat_model.describe()


def test_a_layer_that_is_not_there_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match=r"target\.layer: tera of this size has no layer 9; it has 3"):
        run("ssl-membership", ["target.layer=9"], out=tmp_path / "r")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["target.crop_seconds=0.001"], "crop_seconds = 0.001 is too short for tera, whose task takes 0.07 s at least"),
        (["target.model=cpc", "target.crop_seconds=0.1"], "too short for cpc, whose task takes 0.17 s at least"),
    ],
)
def test_a_crop_without_a_task_is_refused_before_anything_is_read(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        run("ssl-membership", settings, out=tmp_path / "r")


def test_options_that_stay_behind_where_a_corpus_is_changed_are_named(folder, tmp_path):
    stays = r"members: corpus 'folder' has no option 'subsets'.*sets members.options = \{subsets = .*set members.options=\{\}"
    content = given(folder)
    content["members"]["corpus"] = "folder"
    with pytest.raises(UserError, match=stays):
        run(content, out=tmp_path / "r")
    assert load_any("tseng2022", ["members.corpus=an4", "members.options={}"]).members.options == {}


def test_an_impossible_size_is_refused_before_anything_is_read(tmp_path):
    for size, message in (({"width": 8}, "target.size of tera"), ("tiny", "size is 'tiny'")):
        with pytest.raises(UserError, match=message):
            run(
                "ssl-membership",
                [f"target.size={json.dumps(size).replace(': ', '=')}".replace('"width"', "width")],
                out=tmp_path / "r",
            )
