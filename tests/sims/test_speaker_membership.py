"""The recipe: train recognisers in swapped roles, attack each, audit."""

from __future__ import annotations

import csv
import io
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.stats import spearmanr

from fl_privacy.attacks.membership.queries import Budget
from fl_privacy.errors import UserError
from fl_privacy.sims.speaker_membership import SpeakerMembership, attack_in_swapped_roles
from fl_privacy.sims.stages import RunFolder
from fl_privacy.training.speaker import SpeakerTraining

ATTACKS = ("pair.mean likelihood ratio", "pair.mean", "logistic")
BASELINES = ("tlk-improved", "encodermi-v", "encodermi-s", "faceauditor", "after-lrl (unverified)", "norms")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Fourteen people of six short voices, one of two voices and one of a single voice."""
    root, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    time = np.arange(4800) / 16_000
    for person in range(16):
        (root / f"p{person:02d}").mkdir()
        for voice in range({14: 2, 15: 1}.get(person, 6)):
            buzz = np.sin(2 * np.pi * (120 + 40 * person) * time + rng.uniform(0, 6))
            wave = 0.2 * buzz + 0.05 * rng.standard_normal(time.size)
            if (person, voice) == (3, 0):
                wave[:] = 0  # silence
            soundfile.write(str(root / f"p{person:02d}" / f"v{voice}.wav"), wave, 16_000)
    return root


def quick(speech, **changes):
    training = SpeakerTraining(steps=4, speakers_per_batch=3, crops_per_speaker=2, crop_frames=20)
    given = {
        "imposters": 2,
        "swaps": 2,
        "voices": 3,
        "fpr": 0.2,
        "permutations": 30,
        "attacks": ATTACKS,
        "training": training,
    }
    return SpeakerMembership("folder", str(speech), **{**given, **changes})


def attacked(settings, out, told=None):
    with RunFolder(out, {}).held() as folder:
        return attack_in_swapped_roles(folder, settings, told)


def test_a_run_from_speech_to_claims(speech, tmp_path: Path):
    told = []
    result = attacked(quick(speech), tmp_path / "run", lambda job, step: told.append((job, step)))
    assert told == [(job, step) for job in range(8) for step in (1, 2, 3, 4)]
    assert set(result.audits) == {(name, r) for name in ATTACKS for r in (1.0, 0.0)}
    audit = result.audits["pair.mean", 1.0]
    assert (len(audit.scores), audit.n_speakers, len(audit.by_target())) == (8 * 6, 12, 8)
    assert dict(result.excluded) == {
        "p03/v0.wav": "silence",
        "p14": "2 voices; two of each half are needed",
        "p15": "1 voices; two of each half are needed",
    }
    assert result.queries == 6 + 5 + 6 * 3, "the silent voice is an imposter's"
    assert 0 <= result.utility["eer_members"] <= 1

    claims = result.claims()
    heads = [c for c in claims if c.primary and c.metric == "auc"]
    assert {(c.attack, c.conditions["r"]) for c in heads} == {(ATTACKS[0], 1.0), (ATTACKS[0], 0.0)}
    rows = list(csv.DictReader(io.StringIO(result.scores_csv())))
    assert len(rows) == 2 * 3 * 48
    by_speaker = {}
    for row in rows:
        if (row["attack"], row["r"]) == ("pair.mean", "1.0"):
            by_speaker.setdefault(row["speaker"], []).append(int(row["label"] == "member"))
    assert all(sum(roles) == 2 and len(roles) == 4 for roles in by_speaker.values())
    controls = {(c.control, c.of, c.conditions["r"]): c for c in result.controls()}
    assert len(controls) == 2 * 3
    permuted = controls["permuted-private-labels", "pair.mean", 0.0]
    assert permuted.n_permutations == 30
    assert permuted.low < 0.5 < permuted.high
    beside = {(c.attack, c.metric): c.value for c in claims if c.conditions["r"] == 1.0}
    assert beside["pair.mean", "auc_over_best_blind"] == pytest.approx(audit.auc().value - 0.5)
    less = beside["logistic", "auc_over_pair_mean"]
    assert less == pytest.approx(result.audits["logistic", 1.0].auc().value - audit.auc().value)
    table = result.table()
    assert "pair.mean likelihood ratio" in table and "8 targets, 3 voices a speaker; EER" in table

    # Similarities alone give the same features, and so nearly the same scores.
    scored = attacked(quick(speech, access="scores"), tmp_path / "run")
    for key in (("pair.mean", 1.0), ("pair.mean likelihood ratio", 0.0)):
        np.testing.assert_allclose(scored.audits[key].scores, result.audits[key].scores, atol=0.1)

    # Recognisers are not trained again for other attacks.
    told.clear()
    again = attacked(quick(speech, attacks=ATTACKS[1:]), tmp_path / "run", lambda *seen: told.append(seen))
    assert told == []
    np.testing.assert_array_equal(again.audits["pair.mean", 0.0].scores, result.audits["pair.mean", 0.0].scores)


def test_a_run_that_was_cut_off_goes_on(speech, tmp_path: Path):
    first = attacked(quick(speech), tmp_path / "whole")
    attacked(quick(speech), tmp_path / "cut")
    (tmp_path / "cut" / ".done" / "recognisers").unlink()
    lost = tmp_path / "cut" / "recognisers" / "recogniser-03.npz"
    lost.unlink()
    told = set()
    second = attacked(quick(speech), tmp_path / "cut", lambda job, step: told.add(job))
    assert told == {0}, "one recogniser was missing"
    for key, audit in first.audits.items():
        np.testing.assert_array_equal(audit.scores, second.audits[key].scores)


def test_shadows_of_another_kind(speech, tmp_path: Path):
    other = SpeakerTraining("lstm", "ge2e", 2, 3, 2, 20)
    result = attacked(quick(speech, shadow=other, ratios=(1.0,)), tmp_path / "run")
    sizes = []
    for kind in ("recognisers", "shadows"):
        with np.load(tmp_path / "run" / kind / "recogniser-07.npz") as held:
            sizes.append(held["embeddings"].min() >= 0)
    assert sizes == [False, True], "an LSTM's embeddings have no negative numbers"
    assert "x-vector (shadows lstm)" in result.table()
    alike = attacked(quick(speech, ratios=(1.0,)), tmp_path / "alike")
    first, second = (r.audits["pair.mean", 1.0] for r in (result, alike))
    for target in range(8):  # the same targets heard, judged on another scale
        mine = first.targets == target
        assert abs(spearmanr(first.scores[mine], second.scores[mine]).statistic) == pytest.approx(1.0)
    assert not np.allclose(first.scores, second.scores)


def test_baselines_look_at_what_they_should(speech, tmp_path: Path):
    result = attacked(quick(speech, attacks=BASELINES, ratios=(1.0,)), tmp_path / "run")
    assert {name for name, _ in result.audits} == set(BASELINES)
    scores = [audit.scores for audit in result.audits.values()]
    for one, other in itertools.combinations(scores, 2):
        assert np.isfinite(one).all() and not np.allclose(one, other)


def test_chunks_count_as_voices(speech, tmp_path: Path):
    result = attacked(quick(speech, chunk_frames=10, ratios=(0.5,)), tmp_path / "run")
    assert {r for _, r in result.audits} == {0.5}
    with np.load(tmp_path / "run" / "recognisers" / "recogniser-00.npz") as held:
        assert set(held["sizes"].tolist()) == {5}  # 30 frames in chunks of 10 every 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ("magic",)}, "unknown membership attack .*magic.*Known: pair.mean"),
        ({"voices": 1}, "how close voices lie takes two at least"),
        ({"ratios": (1.2,)}, "give shares from 0 to 1"),
        ({"access": "scores", "attacks": ("norms",)}, "'norms' looks at embeddings"),
        ({"budgets": (Budget(4, 1, 1),)}, "more than the 3 voices"),
        ({"access": "label"}, 'give "white-box" .embeddings. or "scores"'),
        ({"swaps": 1}, "'pair.mean likelihood ratio' is calibrated by references.*swaps = 2 at least"),
        ({"permutations": 0}, "permutations = 0 must be positive"),
        ({"fpr": 0.0}, "fpr = 0.0 must lie strictly between"),
    ],
)
def test_settings_are_checked(speech, changes, message):
    with pytest.raises(UserError, match=message):
        quick(speech, **changes)


def test_too_few_people(speech, tmp_path: Path):
    with pytest.raises(UserError, match="14 speakers, 9 of them imposters: too few"):
        attacked(quick(speech, imposters=9), tmp_path / "run")


def test_a_file_that_cannot_be_decoded_is_left_out_with_the_reason(speech, tmp_path: Path):
    root = tmp_path / "speech"
    shutil.copytree(speech, root)
    soundfile.write(str(root / "p05" / "v1.wav"), np.full(4800, np.nan), 16_000, subtype="FLOAT")
    result = attacked(quick(root, attacks=("pair.mean",), swaps=1, ratios=(1.0,)), tmp_path / "run")
    reasons = dict(result.excluded)
    assert reasons["p03/v0.wav"] == "silence"
    assert reasons["p05/v1.wav"] == "holds samples that are not finite numbers"
    with np.load(tmp_path / "run" / "recognisers" / "recogniser-00.npz") as held:
        ids = set(held["ids"].tolist())
    assert "p05/v1.wav" not in ids and "p05/v2.wav" in ids
