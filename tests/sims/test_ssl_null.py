"""Where encoders tell nothing of membership every attack guesses; where they do, the same tests find it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from fl_privacy.attacks.membership.ssl.attacks import UNITS, frame_attacks
from fl_privacy.attacks.membership.ssl.design import EncoderDesign, PretrainedHalf, encoder_design
from fl_privacy.attacks.membership.ssl.look import Look
from fl_privacy.sims.run import run
from fl_privacy.sims.ssl_reading import Seen, read
from fl_privacy.sims.ssl_result import Reading

PEOPLE = {f"p{n:02d}": tuple(f"p{n:02d}-{k}" for k in range(5)) for n in range(28)}
IDS = tuple(id for ids in PEOPLE.values() for id in ids)
SPEAKERS = {id: name for name, ids in PEOPLE.items() for id in ids}
SHARED = {"target": "tera", "protocol": "swapped roles", "seeds": (1,), "conditions": {}}
EASY = np.random.default_rng(99).standard_normal(28).repeat(5)
"""How much each speaker looks like a member to any encoder: most of every score below."""


def seen_by(rng: np.random.Generator, members: tuple[str, ...], leak: float) -> Look:
    """What a made-up encoder shows: what is easy about a speaker, noise, and `leak` of whom it was trained on."""
    told = leak * np.isin(IDS, members)
    layers = 2

    def score() -> np.ndarray:
        return 2 * EASY + 0.5 * rng.standard_normal(len(IDS)) + told

    # The attacks on speakers are means over pairs of these, whose length and steadiness grow with the score.
    def vectors() -> np.ndarray:
        height = score()[:, None]
        spread = 0.5 * np.exp(-0.3 * height) * rng.standard_normal((len(IDS), 8))
        return (np.exp(0.1 * height) * (1 + spread)).astype(np.float32)

    basic = np.stack([score() for _ in range(layers)], axis=1)
    means = np.stack([vectors() for _ in range(layers)], axis=1)
    return Look(IDS, basic, means, score(), vectors(), -score(), -score())


def reading_of(seed: int, leak: float, split: str = "speaker") -> Reading:
    rng = np.random.default_rng(seed)
    design = encoder_design(PEOPLE, split, 4, 2, seed)
    looks = [seen_by(rng, half.members, leak) for half in design.encoders]
    untrained = [seen_by(rng, (), 0.0) for _ in range(2)]
    wrong = [looks[design.wrong_target(target)] for target in range(len(looks))]
    seen = Seen(design, SPEAKERS, dict.fromkeys(IDS, 2.0), looks, seen_by(rng, (), 0.0), untrained, wrong)
    units = UNITS if split == "speaker" else ("utterance",)
    return read(seen, tuple(frame_attacks()), units, -1, 0.95, SHARED)


@pytest.mark.parametrize("split", ["speaker", "utterance"])
def test_encoders_that_know_nothing_give_intervals_that_cover_one_half(split: str) -> None:
    inside: dict[tuple[str, str], list[bool]] = {}
    p_values: list[float] = []
    for seed in range(12):
        reading = reading_of(seed, 0.0, split)
        for key, audit in (reading.audits | reading.blind).items():
            found = audit.auc()
            inside.setdefault(key, []).append(found.low <= 0.5 <= found.high)
        p_values += [c.p_value for c in reading.controls(19) if c.p_value is not None]
    assert {name for name, _ in inside} >= {*frame_attacks(), "duration", "random-encoder", "wrong-encoder"}
    covered = {key: np.mean(of) for key, of in inside.items()}
    # Of 12 intervals at .95, fewer than 9 inside would come about once in 400 times.
    assert min(covered.values()) >= 9 / 12, covered
    assert np.mean(list(covered.values())) > 0.92
    assert np.mean(np.array(p_values) <= 0.05) < 0.1, "roles permuted: one p-value in twenty is so small"
    assert np.mean(np.array(p_values) <= 0.5) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("split", ["speaker", "utterance"])
def test_encoders_that_leak_are_found_out_by_every_attack(split: str) -> None:
    reading = reading_of(0, 1.5, split)
    for (name, unit), audit in reading.audits.items():
        assert audit.auc().low > 0.5, (name, unit)
    assert all(audit.auc().low <= 0.5 <= audit.auc().high for audit in reading.blind.values())
    told = [c for c in reading.controls(99) if c.control == "permuted-private-labels"]
    assert len(told) == len(reading.audits) and all(c.p_value == 0.01 for c in told)


def test_labels_that_are_permuted_leave_nothing_of_a_leak() -> None:
    """The same encoders, scores and targets; only who is called a member is drawn anew."""
    rng = np.random.default_rng(5)
    design = encoder_design(PEOPLE, "speaker", 4, 2, 5)
    looks = [seen_by(rng, half.members, 1.5) for half in design.encoders]
    others = encoder_design(PEOPLE, "speaker", 4, 2, 5)
    pools = {half.pool: sorted({SPEAKERS[id] for id in (*half.members, *half.nonmembers)}) for half in design.encoders}
    halves: list[PretrainedHalf] = []
    for number in range(0, len(others.encoders), 2):
        pool = others.encoders[number].pool
        names = [pools[pool][place] for place in rng.permutation(len(pools[pool]))]
        sides = [tuple(id for name in part for id in PEOPLE[name]) for part in np.array_split(names, 2)]
        halves += [PretrainedHalf(pool, *sides), PretrainedHalf(pool, *sides[::-1])]
    shuffled = EncoderDesign("speaker", design.auxiliary, tuple(halves))
    log_mel = seen_by(rng, (), 0.0)
    aucs = {}
    for name, drawn in (("true", design), ("permuted", shuffled)):
        seen = Seen(drawn, SPEAKERS, dict.fromkeys(IDS, 2.0), looks, log_mel)
        reading = read(seen, ("loss calibrated", "basic", "improved"), UNITS, -1, 0.99, SHARED, sweep=False)
        aucs[name] = [audit.auc() for audit in reading.audits.values()]
    assert all(auc.low > 0.5 for auc in aucs["true"])
    assert all(auc.low <= 0.5 <= auc.high for auc in aucs["permuted"])


def test_inputs_of_one_length_tell_nothing_however_many_a_speaker_has() -> None:
    rng = np.random.default_rng(6)
    names = list(PEOPLE)
    members = tuple(id for name in names[:14] for id in PEOPLE[name][:3])
    others = tuple(id for name in names[14:] for id in PEOPLE[name][:4])
    design = EncoderDesign("speaker", (), (PretrainedHalf(0, members, others),))
    seen = Seen(design, SPEAKERS, dict.fromkeys(IDS, 0.4), [seen_by(rng, members, 0.0)], seen_by(rng, (), 0.0))
    reading = read(seen, ("basic",), UNITS, -1, 0.95, SHARED)
    assert [reading.blind["duration", unit].auc().value for unit in UNITS] == [0.5, 0.5]


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of nothing but noise: what an encoder knows of one it has by heart."""
    root, rng = tmp_path_factory.mktemp("noises"), np.random.default_rng(0)
    for person in range(16):
        for number in range(3):
            path = root / f"p{person:02d}" / f"v{number}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(str(path), 0.1 * rng.standard_normal(6400), 16_000)
    return root


def claims_of(root: Path, out: Path, **target: Any) -> dict[tuple[str, str], dict[str, Any]]:
    size = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 128, "dropout": 0.0}
    content = {
        "simulation": {"kind": "ssl-membership"},
        "target": {"model": "tera", "size": size, "batch_size": 8, "crop_seconds": 0.3, **target},
        "private": {"corpus": "folder", "root": str(root)},
        "protocol": {"auxiliary": 4, "swaps": 1, "seconds": 0.4, "loss_crops": 8},
        "improved": {"epochs": 5},
        "controls": {"random_seeds": 1},
        "attack": [{"name": name} for name in frame_attacks()],
        # Of 24 intervals, all hold at .99 together.
        "audit": {"permutations": 19, "confidence": 1 - 0.01 / 24},
    }
    result = json.loads((run(content, out=out) / "result.json").read_text())
    whole = [c for c in result["claims"] if c["metric"] == "auc" and "swept_layer" not in c["conditions"]]
    return {(c["attack"], c["unit"]): c for c in whole}


def test_encoders_that_were_never_trained_tell_nothing_and_over_trained_ones_their_recordings(
    noises: Path, tmp_path: Path
) -> None:
    fresh = claims_of(noises, tmp_path / "fresh", steps=1, learning_rate=1e-12)
    assert len(fresh) == 2 * len(frame_attacks())
    for key, claim in fresh.items():
        assert claim["low"] <= 0.5 <= claim["high"], (key, claim["value"])
    trained = claims_of(noises, tmp_path / "trained", steps=250, learning_rate=5e-3)
    for unit in UNITS:
        assert trained["loss", unit]["low"] > 0.5, "the same 36 recordings, heard some 70 times"
    assert trained["loss calibrated", "utterance"]["low"] > 0.5
