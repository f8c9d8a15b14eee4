from __future__ import annotations

import csv
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sklearn.metrics import roc_auc_score

from fl_privacy.corpora import Corpus, write
from fl_privacy.errors import UserError
from fl_privacy.sims.run import run
from fl_privacy.updates import Labels, UpdateStore

SMALL: dict[str, Any] = {
    "simulation": {"kind": "federated-ser", "seed": 1},
    "private": {"corpus": "synthetic", "options": {"speakers": 15, "utterances": 6, "seed": 1}},
    "auxiliary": [{"corpus": "synthetic", "options": {"speakers": 12, "utterances": 6, "seed": 2}}],
    "federation": {"rounds": 20, "clients_per_round": 4},
    "attack": [{"name": "input-reconstruction"}, {"name": "raw-linear"}],
    "audit": {"permutations": 5},
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(SMALL, out=tmp_path_factory.mktemp("runs") / "first")


def result_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


def digests(folder: Path) -> dict[str, str]:
    files = [folder / name for name in ("result.json", "scores.csv", "report.html")]
    files += sorted(folder.glob("*/updates/*"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def primary(result: dict[str, Any], metric: str) -> dict[str, Any]:
    return next(c for c in result["claims"] if c["primary"] and c["unit"] == "speaker" and c["metric"] == metric)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(finished: Path, tmp_path: Path) -> None:
    again = digests(run(SMALL, out=tmp_path / "again"))
    assert len(again) > 2 * 20  # a shard a round for victim and shadow
    assert again == digests(finished)
    other = digests(run(SMALL, ["simulation.seed=2"], out=tmp_path / "other"))
    assert all(other[name] != value for name, value in again.items() if name.endswith(".safetensors"))


def test_gender_leaks_from_synthetic_gradients_and_the_claim_equals_the_scores_file(finished: Path) -> None:
    result = result_of(finished)
    claim = primary(result, "auc")
    assert claim["value"] > 0.85
    assert 0 < claim["low"] < claim["value"] <= claim["high"] <= 1
    with (finished / "scores.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["attack"] == claim["attack"] and r["unit"] == "speaker"]
    assert claim["value"] == pytest.approx(
        roc_auc_score([r["label"] == "male" for r in rows], [float(r["score"]) for r in rows])
    )
    assert claim["n_speakers"] == len(rows) == 12


def test_every_control_stands_beside_the_claim(finished: Path) -> None:
    controls = {c["control"] for c in result_of(finished)["controls"]}
    assert controls == {
        "majority",
        "permuted-auxiliary-labels",
        "permuted-private-labels",
        "blind-examples",
        "blind-norm",
        "blind-shares",
    }
    assert primary(result_of(finished), "tpr_at_fpr_0.01")["value"] is None  # 6 negatives cannot resolve 1 %
    assert "auc_over_best_blind" in {c["metric"] for c in result_of(finished)["claims"]}


def test_held_out_speakers_are_no_clients_and_utility_is_theirs(finished: Path) -> None:
    result = result_of(finished)
    clients = {row["speaker"] for row in Labels.read(finished / "victim" / "labels.csv").rows.values()}
    assert len(result["test_speakers"]) == 3
    assert not clients & set(result["test_speakers"])
    assert len(clients) == 12
    assert len(result["utility"]["by_round"]["uar"]) == 21  # before the first round, and after each
    assert 0 <= result["utility"]["uar"] <= 1


def test_finished_stages_are_not_done_again(finished: Path) -> None:
    store = finished / "victim" / "updates" / "store.json"
    before = store.stat().st_mtime_ns
    (finished / "report.html").unlink()
    run(SMALL, out=finished)
    assert store.stat().st_mtime_ns == before
    assert (finished / "report.html").exists()


def test_another_simulation_in_the_same_folder_is_refused_and_nothing_lost(finished: Path) -> None:
    before = digests(finished)
    with pytest.raises(UserError, match="other settings"):
        run(SMALL, ["simulation.seed=9"], out=finished)
    assert digests(finished) == before


def test_strange_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis\.tex\)"):
        run(SMALL, out=tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_read_only_run_folder_is_named(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("")
    with pytest.raises(UserError, match="cannot write to the run folder"):
        run(SMALL, out=target / "run")
    if os.geteuid() != 0:  # root may write anywhere
        folder = tmp_path / "locked"
        folder.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(UserError, match="cannot write to the run folder"):
            run(SMALL, out=folder / "run")


def test_stores_can_be_left_out(tmp_path: Path) -> None:
    folder = run(SMALL, ["capture.keep=false", "federation.rounds=2"], out=tmp_path / "run")
    assert not list(folder.glob("*/updates"))
    assert result_of(folder)["claims"]
    run(SMALL, ["capture.keep=false", "federation.rounds=2"], out=folder)  # nothing is missed the second time


def test_equal_examples_silence_the_blind_baseline(tmp_path: Path) -> None:
    folder = run(
        SMALL,
        ["federation.examples_per_client=equal", "federation.rounds=4", "federation.algorithm=fedavg"],
        out=tmp_path / "run",
    )
    blind = next(
        c
        for c in result_of(folder)["controls"]
        if c["control"] == "blind-examples" and c["unit"] == "speaker" and c["metric"] == "auc"
    )
    assert blind["value"] == 0.5
    assert {u.kind for u in UpdateStore(folder / "victim" / "updates").updates()} == {"delta"}


def test_shards_of_a_speaker_are_clients_whose_evidence_is_added_up(tmp_path: Path) -> None:
    folder = run(SMALL, ["federation.shards_per_speaker=2", "federation.rounds=8"], out=tmp_path / "run")
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for attack in ("blind-norm", "input-reconstruction"):
        mine = [r for r in rows if r["attack"] == attack]
        clients, speakers = ([r for r in mine if r["unit"] == unit] for unit in ("client", "speaker"))
        assert len(clients) > len(speakers)
        for speaker in speakers:
            total = sum(float(c["score"]) for c in clients if c["speaker"] == speaker["speaker"])
            if attack == "blind-norm":
                assert float(speaker["score"]) == pytest.approx(total)
            else:  # calibrated: what two clients of one speaker say is partly the same
                assert abs(float(speaker["score"])) <= abs(total) + 1e-9


def test_a_corrupt_file_among_good_ones_costs_only_itself(tmp_path: Path) -> None:
    root = tmp_path / "voices"
    write(Corpus.load("synthetic", speakers=10, utterances=4, seed=5), root)
    victim = sorted(root.rglob("*.wav"))[0]
    victim.write_bytes(bytes(range(256)) * 40)
    folder = run(
        SMALL,
        [f'private={{corpus="folder", root="{root}", attribute="gender"}}', "federation.rounds=2"],
        out=tmp_path / "run",
    )
    facts = result_of(folder)["corpora"]["private"][0]
    assert facts["utterances"] == 39
    assert sum(facts["left_out"].values()) == 1


def test_missing_corpus_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        run(SMALL, ['private={corpus="ravdess", root="/nowhere"}'], out=tmp_path / "run")


def test_a_client_with_broken_data_answers_an_error_and_the_run_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "voices"
    write(Corpus.load("synthetic", speakers=10, utterances=4, seed=5), root)
    folder = run(
        SMALL,
        [
            f'private={{corpus="folder", root="{root}", attribute="gender"}}',
            'features={name="tests.sims.test_run:Poisoned", normalise="none"}',
            "federation.rounds=6",
            "federation.folds=5",
        ],
        out=tmp_path / "run",
    )
    failed = result_of(folder)["failed_replies"]
    assert failed
    assert all("not finite" in reason for _, _, reason in failed)
    assert len({client for _, client, _ in failed}) < 8


class Poisoned:
    """Features that overflow in training for loud speakers: finite on disk, not finite once trained on."""

    name, version, dimension = "poisoned", "1", 4

    def __call__(self, wave: Any) -> Any:
        loud = float(np.abs(wave).mean()) * 1e4 % 1.0 < 0.1
        return np.array([3e38, -3e38, 3e38, 3e38] if loud else [0.1, -0.3, 0.5, 0.7], dtype=np.float32)


def test_a_mixed_sample_rate_stereo_folder_runs(tmp_path: Path) -> None:
    corpus = Corpus.load("synthetic", speakers=10, utterances=4, seed=6)
    rows = ["path,speaker,gender,emotion"]
    for number, utterance in enumerate(corpus):
        wave = corpus.wave(utterance)
        name = f"{utterance.id.replace('/', '-')}.{'flac' if number % 2 else 'wav'}"
        soundfile.write(tmp_path / name, np.stack([wave, wave], 1), 16_000 if number % 3 else 8_000)
        rows.append(f"{name},{utterance.speaker},{utterance.labels['gender']},{utterance.labels['emotion']}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    folder = run(
        SMALL,
        [f'private={{corpus="folder", root="{tmp_path}", attribute="gender"}}', "federation.rounds=10"],
        out=tmp_path / "run",
    )
    assert primary(result_of(folder), "auc")["n_speakers"] == 8


def test_a_run_killed_at_any_moment_ends_the_same(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("_killed.py")), str(tmp_path), "20"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["differs"] == []
    assert told["killed"] == 20
    assert told["stages"] >= 3  # kills fell into different stages
