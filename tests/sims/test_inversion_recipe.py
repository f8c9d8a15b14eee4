"""The recipe of speaker inversion, on a few invented people."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import _killed_inversion
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from fl_privacy import cli
from fl_privacy.attacks.inversion import Prior, queue
from fl_privacy.attacks.inversion.queries import EstimatedGradients
from fl_privacy.config import ConfigError, load_any
from fl_privacy.config.speaker_inversion import QuerySettings
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier, load_classifier
from fl_privacy.models.sincnet import SIZES, SincNet
from fl_privacy.sims import inversion_cells
from fl_privacy.sims.run import run

CLASSES, OTHERS = 5, 6


def hears(waves):
    """A speaker encoder of one's own: a coarse spectrum."""
    return np.stack(
        [np.log(np.abs(np.fft.rfft(wave[:3200]))[:320].reshape(8, 40).sum(axis=1) + 1e-3) for wave in waves]
    )


def say(vector):
    """A synthesiser of one's own: noise of that spectrum."""
    phases = np.random.default_rng(0).uniform(0, 6.28, 320)
    return np.fft.irfft(np.repeat(np.exp(vector.astype(float)), 40) * np.exp(1j * phases), 3200).astype(np.float32)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """People who buzz at pitches of their own, men low and women high."""
    root, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    time = np.arange(6400) / 16_000
    rows = ["path,speaker,gender"]
    for person in range(CLASSES + OTHERS):
        (root / f"p{person:02d}").mkdir()
        for voice in range(5):
            pitch = 90 + 14 * person + rng.normal(0, 1) + (120 if person % 2 else 0)
            wave = sum(np.sin(2 * np.pi * k * pitch * time + rng.uniform(0, 6)) / k for k in range(1, 12))
            wave = 0.1 * wave * (1 + 0.5 * np.sin(2 * np.pi * 3 * time)) + 0.02 * rng.standard_normal(time.size)
            soundfile.write(str(root / f"p{person:02d}" / f"v{voice}.wav"), wave, 16_000)
            rows.append(f"p{person:02d}/v{voice}.wav,p{person:02d},{'female' if person % 2 else 'male'}")
    # What cannot be used is left out, and the run goes on.
    soundfile.write(str(root / "p00" / "short.wav"), np.ones(800) * 0.1, 16_000)
    soundfile.write(str(root / "p01" / "silent.wav"), np.zeros(6400), 16_000)
    (root / "p02" / "empty.wav").write_bytes(b"")
    rows += ["p00/short.wav,p00,male", "p01/silent.wav,p01,female", "p02/empty.wav,p02,male"]
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def settings(speech: Path, **changes) -> dict:
    quick = {"iterations": 15, "patience": 10}
    content = {
        "simulation": {"kind": "speaker-inversion"},
        "private": {"corpus": "folder", "root": str(speech)},
        "people": {"classes": CLASSES},
        "target": {"size": "small", "steps": 25, "batch_size": 16, "optimiser": "adam"},
        "attack": [
            {"name": "standard", "starts": ["laplace", "speech"], **quick},
            {"name": "sliding", "starts": ["laplace"], "length": 6400, "stride": 1600, **quick},
            {"name": "restarts", "starts": ["laplace"], "length": 6400, "stride": 1600, **quick},
            {"name": "shift-robust", "starts": ["laplace"], "length": 4800, "iterations": 2},
            {"name": "source-filter", "length": 3200, "iterations": 2, "attempts": 3},
            {"name": "dvector"},
            {"name": "map-dvector"},
        ],
        "judges": {"steps": 10, "crop_frames": 20, "other_seed": True},
        "spoof": {"steps": 8, "contents": 1},
        "countermeasure": [
            {"name": "rounding"},
            {"name": "label-only"},
            {"name": "label-smoothing", "amount": -0.02},
            {"name": "dp-sgd"},
            {"name": "withhold-layer"},
        ],
        "queries": {"identities": 2, "pairs": 3, "iterations": 2},
        "audit": {"permutations": 19},
    }
    return content | changes


@pytest.fixture(scope="module")
def done(speech, tmp_path_factory) -> Path:
    folder: Path = run(settings(speech), out=tmp_path_factory.mktemp("run") / "run")
    return folder


def find(result, attack, metric="accuracy", **conditions):
    return [
        c
        for c in result["claims"]
        if (c["attack"], c["metric"]) == (attack, metric)
        and all(c["conditions"].get(k) == v for k, v in conditions.items())
    ]


def test_every_attack_stands_before_every_judge(done: Path):
    result = json.loads((done / "result.json").read_text())
    judges = ("attacked", "other seed", "other architecture", "speaker encoder")
    waves = [f"{name} from laplace" for name in ("standard", "sliding", "restarts", "shift-robust")]
    for attack in (*waves, "standard from speech", "source-filter"):
        for judge in judges:
            mine = [c for c in find(result, attack, judge=judge) if "readout" not in c["conditions"]]
            assert len(mine) == 1 and mine[0]["n_speakers"] == CLASSES
            assert mine[0]["low"] <= mine[0]["value"] <= mine[0]["high"]
            assert mine[0]["low"] < mine[0]["high"], "an interval never has zero width"
            assert len(find(result, attack, "accuracy_over_best_blind", judge=judge)) == 1
    leads = [(c["attack"], c["metric"], c["conditions"]["judge"]) for c in result["claims"] if c["primary"]]
    assert leads == [
        ("standard from laplace", "accuracy", "other architecture"),
        ("standard from laplace", "accuracy_over_best_blind", "other architecture"),
    ]
    controls = {c["control"] for c in result["controls"]}
    assert controls >= {
        "start",
        "another's voice",
        "own recordings",
        "permuted-identities",
        "wrong-speaker",
        "majority",
    }
    assert {
        c["conditions"]["readout"] for c in find(result, "sliding from laplace") if "readout" in c["conditions"]
    } == {
        "last_window",
        "grid_any",
        "grid_all",
        "grid_sum",
        "trim",
        "trim_on_grid",
        "sentence",
    }
    assert len(find(result, "sliding from laplace", "accuracy_over_restarts")) == 1
    # 6400 samples hold three windows every 1600: as many attempts, no more.
    costs = result["inversion"]["costs"]
    assert costs["restarts from laplace"]["inversions"] == 3 * CLASSES
    assert sum(costs["sliding from laplace"]["ended"].values()) == 3 * CLASSES
    # Two steps each of three voices for everybody, and a look at the end; a step looks at four windows.
    tried = costs["source-filter"]
    assert (tried["inversions"], tried["gradient_steps"]) == (3 * CLASSES, 2 * 3 * CLASSES)
    assert tried["queries"] == 3 * 3 * CLASSES * 4 and tried["ended"] == {"iterations": 3 * CLASSES}
    # The countermeasures in training have had the primary attack again.
    assert costs["dp-sgd"]["inversions"] == CLASSES and set(costs) == {
        *waves, "standard from speech", "source-filter", "dvector", "map-dvector",
        "dp-sgd", "label-smoothing (amount -0.02)",
    }  # fmt: skip
    with (done / "costs.csv").open() as file:
        for row in csv.DictReader(file):
            assert int(row["gradient_steps"]) == costs[row["attack"]]["gradient_steps"] > 0
            assert int(row["windows_classified"]) == costs[row["attack"]]["queries"]
            assert 0 < float(row["seconds"]) < 60
            costs.pop(row["attack"])
    assert not costs, "each cell has its row"
    # What the last layer is made to say proves nothing; and its d-vectors have no wave to be judged.
    assert find(result, "dvector", judge="attacked")[0]["value"] == 1.0
    assert not find(result, "dvector", judge="other architecture")


def test_what_judges_say_can_be_computed_again(done: Path, speech):
    """From the files alone: the waves of a cell, the saved target."""
    result = json.loads((done / "result.json").read_text())
    target = load_classifier(done / "target" / "classifier.safetensors")
    with np.load(done / "cells" / "standard-from-laplace" / "found.npz") as held:
        waves, starts = held["waves"], held["starts"]
    assert waves.shape == starts.shape == (CLASSES, 3200) and not np.array_equal(waves, starts)
    hits = np.mean([target.decide(wave)[0] == number for number, wave in enumerate(waves)])
    told = [c for c in find(result, "standard from laplace", judge="attacked") if "readout" not in c["conditions"]]
    assert told[0]["value"] == pytest.approx(hits)
    speakers = set(target.classes)
    assert len(speakers) == CLASSES and speakers < {f"p{n:02d}" for n in range(CLASSES + OTHERS)}
    assert result["corpora"]["auxiliary"][0]["speakers"] == OTHERS
    left_out = result["corpora"]["private"][0]["left_out"]
    assert left_out == {"empty file": 1, "shorter than a window of 200 ms": 1, "silence": 1}


def test_experiment_three_has_its_controls(done: Path):
    result = json.loads((done / "result.json").read_text())
    part = result["inversion"]["spoof"]
    assert part["synthesiser"] == "reference synthesiser"
    assert part["voices"] == [
        "own recordings",
        "mean voice",
        "standard from laplace, encoded",
        "sliding from laplace, encoded",
        "restarts from laplace, encoded",
        "shift-robust from laplace, encoded",
        "source-filter, encoded",
        "dvector, mlp mapper",
        "dvector, ridge mapper",
        "map-dvector, mlp mapper",
        "map-dvector, ridge mapper",
    ]
    assert set(part["mapping"]) == {"mlp", "mlp, shuffled pairs", "ridge", "ridge, shuffled pairs", "mean voice"}
    for voice in part["voices"]:
        assert find(result, f"speech: {voice}", "accepted_at_eer", judge="other architecture")
    over = find(result, "speech: own recordings", "accepted_at_eer_over_best_blind", judge="other architecture")
    assert over[0]["conditions"]["best_blind"] in ("wrong-speaker", "mean voice")


def test_countermeasures_stand_with_their_price(done: Path):
    result = json.loads((done / "result.json").read_text())
    rows = {row["name"]: row for row in result["inversion"]["countermeasures"]}
    assert set(rows) == {
        "standard from laplace",
        "label-smoothing (amount -0.02)",
        "dp-sgd",
        "the speech that queries start from",
        "answers as they are",
        "rounding",
        "label-only",
        "withhold-layer",
    }
    # Four pieces of each other person's speech, tried as a start; then identities, points, sides and pairs.
    assert rows["rounding"]["queries"] == OTHERS * 4 + 2 * (2 + 1) * 2 * 3
    for name in ("rounding", "label-only", "dp-sgd", "label-smoothing (amount -0.02)"):
        assert 0 <= rows[name]["sentence_error"] <= 1
        assert find(result, name, judge="other architecture")[0]["n_speakers"] == (
            2 if name in ("rounding", "label-only") else 5
        )
    assert "dvector" in rows["withhold-layer"]["note"]
    work = {
        c["attack"]
        for c in result["controls"]
        if c["control"] == "own recordings" and c["conditions"]["judge"] == "attacked" and not c["conditions"]["length"]
    }
    assert work == {"", "dp-sgd", "label-smoothing (amount -0.02)"}, "what each target is worth at its own work"
    assert rows["withhold-layer"]["sentence_error"] == result["utility"]["sentence_error"], (
        "users are answered as before"
    )
    one, whole = result["privacy"]
    assert one["unit"] == "utterance" and one["epsilon_accountant"] == pytest.approx(8, abs=0.1)
    # Half of five recordings of each, at most three.
    assert whole["unit"] == "speaker" and whole["conditions"] == {"recordings_of_a_speaker": 2}
    assert whole["epsilon_accountant"] > 2 * one["epsilon_accountant"]


def test_a_run_prints_its_tables(done: Path):
    result = json.loads((done / "result.json").read_text())
    first, *tables = result["table"].split("\n\n")
    assert (
        first
        == f"Sentence error of the attacked classifier: {result['utility']['sentence_error']:.3f}; of guessing: 0.800"
    )
    names = [
        "recognised",
        "recognised, read at",
        "the last layer alone",
        "gender read from",
        "speech, accepted by other",
    ]
    for table, name in zip(tables, [*names, "countermeasure"], strict=True):
        assert table.startswith(name), table
    assert "diverged" not in result["table"], "where none did"
    lines = {line.split("  ")[0].strip(): line for table in tables for line in table.splitlines()}
    (claim,) = find(result, "speech: map-dvector, ridge mapper", "accepted_at_eer", judge="other architecture")
    assert f"{claim['value']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}]" in lines["map-dvector, ridge mapper"]
    assert "unresolved" in lines["map-dvector, ridge mapper"], "five voices do not tell a rate of 1 %"
    assert lines["withhold-layer"].endswith(f"{result['utility']['sentence_error']:.3f}")
    larger = next(c["value"] for c in result["controls"] if c["control"] == "majority")
    assert all(line.endswith(f"{larger:.3f}") for line in tables[3].splitlines()[1:])
    assert (
        tables[0].splitlines()[1].endswith(str(result["inversion"]["costs"]["standard from laplace"]["gradient_steps"]))
    )


def test_what_diverges_is_told_and_the_others_go_on(speech, done: Path, tmp_path: Path):
    content = settings(speech) | {"target": {"checkpoint": str(done / "target" / "classifier.safetensors")}}
    del content["people"]
    two = {"starts": ["laplace"], "iterations": 3}
    content["attack"] = [
        {"name": "standard", "step_size": 1e38, **two},
        {"name": "sliding", "length": 4800, "stride": 1600, **two},
    ]
    content |= {"countermeasure": [], "output": {"audio": True}, "judges": {"steps": 3, "other_seed": False}}
    content["spoof"] = {"synthesiser": f"{__name__}:say", "encoder": f"{__name__}:hears", "mappers": ["ridge"]}
    folder = run(content, out=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    costs = result["inversion"]["costs"]
    assert costs["standard from laplace"]["ended"] == {"diverged": CLASSES}
    assert "diverged" not in costs["sliding from laplace"]["ended"]
    with np.load(folder / "cells" / "standard-from-laplace" / "found.npz") as held:
        assert np.isfinite(held["waves"]).all()
    assert f"{CLASSES} diverged" in (folder / "report.html").read_text()
    lines = [line for line in result["table"].splitlines() if "diverged" in line]
    assert [line.split(";")[0] for line in lines] == [
        f"standard from laplace: {CLASSES} of {CLASSES} jobs diverged",
    ]
    # Of what ran off there is no audio; of the others there is.
    assert len(list((folder / "audio").glob("sliding-from-laplace-*.wav"))) == CLASSES
    assert len(list((folder / "audio").glob("speech-sliding-*.wav"))) == 1
    assert not list((folder / "audio").glob("*standard-*"))


def test_the_report_tells_all_of_it(done: Path):
    page = (done / "report.html").read_text()
    for told in (
        "Model inversion: 5 speakers",
        "By whom inversions are recognised",
        "Where a slid inversion is read",
        "Distances of d-vectors",
        "What inverted d-vectors give away",
        "From inversions to speech",
        "Countermeasures",
        "no deepfake",
        "guesses their voices",
        ">weights<",
        "empty file",
        "windows classified",
        "shorter than a window of 200 ms",
        "The last layer alone",
        "beside blind controls",
        "the start of standard from laplace, not attacked",
        "dvector, ridge mapper: over the better control",
        "Named in advance: standard from laplace",
        "speaker: identity",
    ):
        assert told in page, told
    steps = [
        json.loads((done / "result.json").read_text())["inversion"]["costs"][f"{name} from laplace"]["gradient_steps"]
        for name in ("sliding", "restarts")
    ]
    assert f"They took {steps[0]:,} and {steps[1]:,} gradient steps." in page
    assert page.count("<svg") == 3, "the threat, the picture of d-vectors, and waves"
    assert not list(done.rglob("*.wav")), "no audio unless it is asked for"
    assert "Beside the published table" not in page


def test_every_attack_is_kept_as_it_goes(speech, done: Path, tmp_path: Path, monkeypatch):
    """Each attack's queue is written, and with all of it there nothing is asked of the target again."""
    cells = inversion_cells.cells_of(load_any(settings(speech)).attack)
    target, heard = str(done / "target" / "classifier.safetensors"), [np.random.default_rng(0).standard_normal(9000)]
    dimension = len(load_classifier(target).dvector_of(heard[0].astype(np.float32)))
    prior = Prior.fit(np.random.default_rng(0).standard_normal((9, dimension)).astype(np.float32))
    jobs = [
        inversion_cells.CellJob(
            cell,
            target,
            inversion_cells.wave_jobs(cell, CLASSES, 3200, heard, 1) if cell.from_waves else (),
            prior,
            1,
            str(tmp_path / cell.folder),
        )
        for cell in cells
    ]
    # As if the run were cut off when the queue was through, and before what came of it was kept.
    monkeypatch.setattr(inversion_cells.Checkpoint, "remove", lambda self: None)
    inversion_cells.do_cells(jobs, 1)
    first = {cell.name: inversion_cells.read_cell(tmp_path / cell.folder) for cell in cells}
    for cell in cells:
        (tmp_path / cell.folder / "found.npz").unlink()
    monkeypatch.setattr(queue._Queue, "_advance", None)
    inversion_cells.do_cells(jobs, 1)
    for cell in cells:
        again = inversion_cells.read_cell(tmp_path / cell.folder)
        assert np.array_equal(again.waves, first[cell.name].waves) and again.cost == first[cell.name].cost, cell.name


def test_a_killed_run_goes_on_ends_alike_and_writes_marked_audio(speech, tmp_path: Path, monkeypatch):
    content = settings(speech)
    two = content["attack"][0] | {"starts": ["laplace", "white"]}
    content |= {"attack": [two, {"name": "dvector"}], "countermeasure": [], "output": {"audio": True}}
    content |= {"target": {"size": "small", "steps": 5, "batch_size": 8}}
    content |= {"judges": {"steps": 5, "other_seed": False}, "spoof": {"steps": 4, "contents": 1, "mappers": ["ridge"]}}
    whole, killed = run(content, out=tmp_path / "whole", workers=1), tmp_path / "killed"
    real, calls = inversion_cells._do, []

    def dies(job, told):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(job.cell.name)
        real(job, told)

    monkeypatch.setattr(inversion_cells, "_do", dies)
    with pytest.raises(KeyboardInterrupt):
        run(content, out=killed)
    kept = {path: path.stat().st_mtime_ns for path in killed.rglob("*.npz")}
    assert len(kept) == 2 and not (killed / "result.json").exists()
    monkeypatch.setattr(inversion_cells, "_do", real)
    run(content, out=killed)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "cells that were done are not done again"
    assert (killed / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    names = sorted(path.name for path in (whole / "audio").iterdir())
    assert len([name for name in names if name.startswith("standard-from-laplace")]) == CLASSES
    assert "speech-dvector-ridge-mapper.synthetic.wav" in names
    assert all(name.endswith(".synthetic.wav") for name in names)


def test_killed_while_training_and_within_queues_it_ends_in_the_same_bytes(tmp_path: Path, monkeypatch):
    killed, told, steps = tmp_path / "killed", [], []
    # In the second cell of waves, when two of its five jobs are done; and in an attack by queries, when one of three is.
    for what, least in (("training the target", 205), ("inversions", 7), ("queries: rounding", 2)):
        script = [sys.executable, str(Path(_killed_inversion.__file__)), str(killed), what, str(least)]
        ended = subprocess.run(script, capture_output=True, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not (killed / "result.json").exists()
        if what == "training the target":
            assert (killed / "target" / "progress.safetensors").exists()
        if what == "inversions":
            assert [p.parent.name for p in killed.glob("cells/*/found.npz")] == ["standard-from-laplace"]
            assert [p.parent.name for p in killed.glob("cells/*/queue.npz")] == ["standard-from-white"]
            with np.load(killed / "cells" / "standard-from-white" / "queue.npz") as held:
                assert held["steps"].tolist() == [6] * 5, "before the look at where they end"
        if what.startswith("queries"):
            with np.load(killed / "queries" / "rounding" / "queue.npz") as held:
                assert "done 0" in held.files and held["job"].tolist() == [1]
    real = EstimatedGradients.__call__
    monkeypatch.setattr(EstimatedGradients, "__call__", lambda *asked: steps.append(1) or real(*asked))
    run(_killed_inversion.SETTINGS, out=killed, progress=lambda what, done, total: told.append(what))
    assert {"training the target", "inversions"}.isdisjoint(told), "what is done is not done again"
    assert len(steps) == 1 + 3, "of two steps and a look at the end for each of three, the first five were kept"
    assert not list(killed.rglob("queue.npz"))
    whole = run(_killed_inversion.SETTINGS, out=tmp_path / "whole")
    for name in ("result.json", "scores.csv", "report.html"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    weights = [load_file(folder / "target" / "classifier.safetensors") for folder in (killed, whole)]
    assert all(np.array_equal(weights[0][name], tensor) for name, tensor in weights[1].items())
    for kept in (*(whole / "cells").glob("*/found.npz"), *(whole / "queries").glob("*/asked.npz")):
        assert (killed / kept.relative_to(whole)).read_bytes() == kept.read_bytes(), kept


def test_a_classifier_of_ones_own_is_attacked_by_its_names(speech, tmp_path: Path, done: Path):
    own = done / "target" / "classifier.safetensors"
    content = settings(speech) | {
        "target": {"checkpoint": str(own)},
        "countermeasure": [],
        "judges": {"steps": 5, "other_seed": False},
    }
    content["attack"] = [content["attack"][0]]
    content["spoof"] = {"synthesiser": f"{__name__}:say", "encoder": f"{__name__}:hears", "mappers": ["ridge"]}
    del content["people"]
    folder = run(content, out=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    assert load_classifier(folder / "target" / "classifier.safetensors").classes == load_classifier(own).classes
    assert result["simulation"]["target"] == {"checkpoint": str(own)}
    assert result["inversion"]["costs"]["standard from laplace"]["inversions"] == CLASSES
    assert result["inversion"]["spoof"]["synthesiser"] == f"{__name__}:say"
    assert find(result, "speech: own recordings", "accepted_at_eer", judge="other architecture")


STANDARD = {"name": "standard", "starts": ["laplace"]}
SLIDING = {"name": "sliding", "starts": ["laplace"], "stride": 900}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": [{"name": "dvector"}]}, "the first is primary and has to make waves"),
        ({"attack": [{"name": "standard"}]}, "starts: missing"),
        ({"attack": [{"name": "magic", "starts": ["laplace"]}]}, "attack.0.name"),
        ({"countermeasure": [{"name": "magic"}]}, "unknown 'magic'. Known: confidence-noise"),
        ({"target": {"checkpoint": "x", "steps": 3}}, "steps: the checkpoint is trained already"),
        ({"target": {"checkpoint": "x"}, "countermeasure": [{"name": "dp-sgd"}]}, "dp-sgd is a matter of training"),
        (
            {"target": {"checkpoint": "x"}, "countermeasure": []},
            "people.classes: the checkpoint has its classes; leave",
        ),
        ({"people": {"trained": 0.8, "judged": 0.2}}, "leave no recordings to test on"),
        ({"spoof": {"synthesiser": "a:b"}}, "comes with the encoder"),
        ({"judge": {}}, r"judge: unknown key \(did you mean 'judges'\?\)$"),
        ({"attack": [{"name": "standart"}]}, r"source-filter', 'dvector' or 'map-dvector' \(it is 'standart'\)$"),
        (
            {"attack": [{"name": "dvector", "step": 3, "stepsize": 1}]},
            r"stepsize: unknown key \(did you mean 'step_size'",
        ),
        ({"attack": [STANDARD | {"step_size": float("inf")}]}, r"attack\.0\.step_size: .*finite"),
        ({"attack": [STANDARD | {"threshold": 2}]}, r"attack\.0\.threshold: .*less than 1"),
        ({"attack": [STANDARD, {"name": "dvector", "length": 4800}]}, r"attack\.1.*length: of no use to dvector"),
        ({"attack": [STANDARD | {"attempts": 3}]}, "attempts: of no use to standard; it is of source-filter"),
    ],
)
def test_files_are_checked(speech, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_any(settings(speech, **changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objective", "margin"),
        ("step", "adam"),
        ("scale", "published"),
        ("step_size", 0.1),
        ("iterations", 2),
        ("patience", 7),
        ("threshold", 0.01),
        ("length", 8000),
        ("stride", 900),
    ],
)
def test_restarts_beside_sliding_have_its_budget(speech, key, value):
    """A control that may take 2 steps where sliding takes 60 is none."""
    slid = {"name": "sliding", "starts": ["white", "laplace"], "iterations": 60}
    restarted = slid | {"name": "restarts", "starts": ["laplace"]}
    assert load_any(settings(speech, attack=[slid, restarted]))
    with pytest.raises(ConfigError, match=rf"attack\.1\.{key}: restarts are the control of sliding .*: {value} here"):
        load_any(settings(speech, attack=[slid, restarted | {key: value}]))
    # From another start they are no control of it.
    assert load_any(settings(speech, attack=[slid, restarted | {key: value, "starts": ["brown"]}]))


def test_restarts_take_slidings_published_step():
    steps = {}
    for name in ("standard", "sliding", "restarts"):
        attack = inversion_cells.InversionAttackChoice(name=name, starts=("brown",), scale="published")
        (cell,) = inversion_cells.cells_of([attack])
        steps[name] = cell.step_size
    assert steps["restarts"] == steps["sliding"] != steps["standard"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": [{"name": "standard", "starts": ["magic"]}]}, "unknown start 'magic'. Known: zeros"),
        (
            {"attack": [{"name": "standard", "starts": ["pink"], "scale": "published"}]},
            "no step size for starts of 'pink'",
        ),
        (
            {"attack": [{"name": "sliding", "starts": ["laplace"], "length": 3199}]},
            r"length = 3199 is shorter than a window \(3200\)",
        ),
        ({"attack": [SLIDING | {"length": 4000}]}, r"stride = 900 .* one window of 3200; two take a stride of 800 at"),
        ({"attack": [SLIDING | {"length": 3200}]}, r"length = 3200 is one window \(3200\)"),
        ({"attack": [SLIDING | {"length": 4000, "name": "restarts"}]}, "'restarts': stride = 900 leaves length = 4000"),
        ({"queries": {"identities": 6}}, "queries.identities: 6 of 5 classes"),
        ({"queries": {"identities": 6}, "people": {}}, "queries.identities: 6 of 5 classes"),
        ({"judges": {"encoder": "magic"}}, "unknown speaker encoder 'magic'"),
        ({"countermeasure": [{"name": "rounding", "places": 2}]}, "it takes: digits"),
        ({"countermeasure": [{"name": "dp-sgd", "sigma": 2}]}, "sigma"),
        (
            {"people": {"classes": 9}},
            "11 speakers with 3 usable recordings; 9 classes and 4 auxiliary speakers take 13;",
        ),
        (
            {"target": {"checkpoint": "/nowhere/model.pkl"}, "countermeasure": [], "people": {}},
            "there is no file /nowhe",
        ),
    ],
)
def test_what_cannot_be_run_is_said(speech, tmp_path: Path, changes, message):
    with pytest.raises(UserError, match=message):
        run(settings(speech, **changes), out=tmp_path / "run")
    assert not (tmp_path / "run" / ".done").exists(), "before any training"


def test_sliding_has_two_windows_at_least():
    for length, stride in ((4100, 900), (6400, 3200)):
        attack = inversion_cells.InversionAttackChoice(
            name="sliding", starts=("laplace",), length=length, stride=stride
        )
        inversion_cells.check_lengths(inversion_cells.cells_of([attack]), 3200)


def test_queries_attack_ten_classes_or_all_of_fewer():
    assert [QuerySettings().attacked(n) for n in (5, 10, 40)] == [5, 10, 10]
    assert QuerySettings(identities=12).attacked(40) == 12


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([f"an4-{n}" for n in range(8)], "the checkpoint is of other speakers: it names 8, 'an4-0' for one"),
        (["p00", "p03"], "the checkpoint has 2 classes; 3 at least"),
        (["p00", "p03", "nobody"], "'nobody', a class of the target, which names 3 speakers; 2 of them are there"),
        ([f"p{n:02d}" for n in range(8)], r"has 8 of them, and 4 have to be auxiliary: name an \[auxiliary\] corpus"),
        ([str(n) for n in range(8)], "has 8 classes, but the corpus has 11 speakers of use; its classes are numbers"),
    ],
)
def test_a_checkpoint_of_others_is_refused(speech, tmp_path: Path, classes, message):
    held = SpeakerClassifier(SincNet(SIZES["small"], len(classes)), classes)
    held.save(tmp_path / "own.safetensors")
    content = settings(speech, countermeasure=[], people={}, target={"checkpoint": str(tmp_path / "own.safetensors")})
    with pytest.raises(UserError, match=message) as refused:
        run(content, out=tmp_path / "run")
    assert "lower people.classes" not in str(refused.value), "which would not help"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_refused_at_once(speech, tmp_path: Path, done: Path, value):
    held = load_classifier(done / "target" / "classifier.safetensors")
    next(iter(held.network.parameters())).data.view(-1)[0] = value
    held.save(tmp_path / "own.safetensors")
    content = settings(speech, countermeasure=[], people={}, target={"checkpoint": str(tmp_path / "own.safetensors")})
    with pytest.raises(UserError, match=r"checkpoint .*own.safetensors holds numbers that are not finite"):
        run(content, out=tmp_path / "run")
    assert not (tmp_path / "run" / "target").exists(), "before any stage"


def test_the_presets_are_files_of_this_kind(capsys, monkeypatch):
    assert load_any("speaker-inversion").simulation.kind == "speaker-inversion"
    published = load_any("pizzi2023")
    assert {attack.objective for attack in published.attack if attack.name == "standard"} == {"one-minus-p"}
    monkeypatch.setattr(sys, "argv", ["fl-privacy", "presets"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "pizzi2023" in capsys.readouterr().out
