"""What the attacks see of an encoder, who trains which, and the confounds of the published protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fl_privacy.attacks.membership.ssl.attacks import FrameAttack, frame_attacks, statistic
from fl_privacy.attacks.membership.ssl.design import encoder_design
from fl_privacy.attacks.membership.ssl.look import FrameFile, Look, look_at
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.attacks.membership.ssl.scores import speaker_score, utterance_score
from fl_privacy.audit import SwappedAudit
from fl_privacy.audit.metrics import auc
from fl_privacy.errors import UserError
from fl_privacy.published.membership import BLIND

FAST = Learning(epochs=3, learning_rate=1e-3)


def two_layers(wave):
    """Frames of 40 samples; the second layer is a linear map of the first."""
    if len(wave) < 80:
        raise UserError("too short for two frames")
    frames = np.ascontiguousarray(wave[: len(wave) // 40 * 40].reshape(-1, 40)[:, :6])
    return [frames, frames @ np.linspace(-1, 1, 36, dtype=np.float32).reshape(6, 6)]


def speech(people=6, each=5, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"p{p}-{n}": rng.standard_normal(int(rng.integers(200, 900))).astype(np.float32)
        for p in range(people)
        for n in range(each)
    }


def by_speaker(waves):
    found = {}
    for id in waves:
        found.setdefault(id.split("-")[0], []).append(id)
    return found


def test_an_utterances_scores_do_not_depend_on_what_else_is_asked(tmp_path):
    waves = speech()
    own = {name: ids for name, ids in by_speaker(waves).items() if name < "p4"}
    others = [id for id in waves if id >= "p4"]
    whole = look_at(two_layers, waves, others, own, learning=FAST, seed=3)
    for asked in (others[:1], others[::-1], others[3:6]):
        some = look_at(two_layers, waves, asked, own, learning=FAST, seed=3)
        mine, theirs = some.rows(asked), whole.rows(asked)
        for name in ("basic", "means", "improved", "projected"):
            np.testing.assert_array_equal(getattr(some, name)[mine], getattr(whole, name)[theirs])
    number = whole.rows([others[0]])[0]
    layers = two_layers(waves[others[0]])
    assert whole.basic[number] == pytest.approx([utterance_score(frames) for frames in layers])
    np.testing.assert_allclose(whole.means[number, 1], layers[1].mean(axis=0), rtol=1e-5, atol=1e-6)
    whole.write(tmp_path / "look.npz")
    back = Look.read(tmp_path / "look.npz")
    assert back.ids == whole.ids
    np.testing.assert_array_equal(back.improved, whole.improved)


def test_what_the_encoder_refuses_is_told_and_harms_nobody_else():
    waves = speech() | {"p0-9": np.zeros(10, np.float32), "p5-9": np.full(10, 0.5, np.float32)}
    own = {name: ids for name, ids in by_speaker(waves).items() if name < "p4"}
    found = look_at(two_layers, waves, ["p5-9", "p5-1"], own, learning=FAST)
    assert dict(found.left_out) == {"p0-9": "too short for two frames", "p5-9": "too short for two frames"}
    assert "p5-1" in found.ids and len(found.ids) == 21
    with pytest.raises(UserError, match="answered to no utterance: too short"):
        look_at(two_layers, waves, ["p5-9"], {})


def test_frames_that_find_no_room_are_told_with_what_to_do(tmp_path):
    with FrameFile(tmp_path / "frames") as kept:
        kept.add(np.ones((2, 3), np.float32))
        kept.add(np.zeros((4, 3), np.float32)[::2])
        np.testing.assert_array_equal(kept[0], np.ones((2, 3)))
        assert kept[1].shape == (2, 3)
    with FrameFile(Path("/dev/full")) as kept, pytest.raises(UserError, match="find no room in /dev .*set TMPDIR"):
        kept.add(np.ones((2, 3), np.float32))


def test_statistics_of_speakers_and_utterances():
    waves = speech()
    found = look_at(two_layers, waves, list(waves), {})
    people = by_speaker(waves)
    expected = [
        speaker_score(np.stack([two_layers(waves[id])[0].mean(axis=0) for id in ids])) for ids in people.values()
    ]
    assert statistic("basic", found, people, "speaker", 0) == pytest.approx(expected, abs=1e-5)
    for name in ("improved", "loss"):
        with pytest.raises(UserError, match="has no such score"):
            statistic(name, found, people, "speaker")


def test_calibration_takes_away_what_references_explain():
    rng = np.random.default_rng(0)
    ids = tuple(f"u{n}" for n in range(200))
    own, members = rng.standard_normal(200), np.arange(200) < 100

    def look(shift):
        loss = own + 0.3 * rng.standard_normal(200) - shift * members
        empty = np.zeros((200, 1))
        return Look(ids, empty, empty[:, :, None].astype(np.float32), loss, empty.astype(np.float32), loss, loss)

    target, references = look(0.5), [look(0.0) for _ in range(4)]
    units = {id: (id,) for id in ids}
    found = {
        name: SwappedAudit(
            frame_attacks()[name].scores(target, references, units, "utterance"), members, ids, np.zeros(200)
        )
        .auc()
        .value
        for name in ("loss", "loss calibrated", "loss likelihood ratio")
    }
    assert found["loss"] < 0.7 < 0.8 < found["loss calibrated"]
    assert found["loss likelihood ratio"] > 0.75
    with pytest.raises(UserError, match="two reference encoders"):
        FrameAttack("loss", "residual").scores(target, references[:1], units, "utterance")


@pytest.mark.parametrize("split", ["speaker", "utterance"])
def test_every_unit_changes_roles_and_references_know_no_candidate(split):
    people = {f"p{n:02d}": [f"p{n:02d}-{k}" for k in range(3 + n % 3)] for n in range(21)}
    design = encoder_design(people, split, 5, 3, 7)
    assert design == encoder_design(people, split, 5, 3, 7) and len(design.encoders) == 12
    assert len(design.auxiliary) >= 5
    own = {id for name in design.auxiliary for id in people[name]}
    for number, half in enumerate(design.encoders):
        other = design.encoders[number ^ 1]
        assert (other.members, other.nonmembers) == (half.nonmembers, half.members)
        mine, theirs = ({id.split("-")[0] for id in side} for side in (half.members, half.nonmembers))
        assert (mine == theirs) if split == "utterance" else not mine & theirs
        candidates = {*half.members, *half.nonmembers}
        assert not own & candidates and not set(half.members) & set(half.nonmembers)
        references = design.references(number)
        assert len(references) == 6
        assert not any(candidates & {*design.encoders[r].members, *design.encoders[r].nonmembers} for r in references)
        assert design.wrong_target(number) == design.wrong_target(number ^ 1) in references
    if split == "utterance":
        sizes = [len(half.members) for half in design.encoders]
        assert max(sizes) - min(sizes) <= 3
    with pytest.raises(UserError, match="'chapter' is none of speaker, utterance"):
        encoder_design(people, "chapter", 5, 1, 0)


# Quantiles of LibriSpeech's durations in seconds, as icefall's recipe tabulates them to a tenth of a second
# (egs/librispeech/ASR/local/display_manifest_statistics.py); those of train-clean-100 are over its recordings at .9, 1 and
# 1.1 times their speed together. Beside each other part: its number of recordings.
PROBABILITIES = [0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1]
TRAIN = [1.3, 1.9, 2.2, 2.5, 4.2, 6.4, 11.4, 13.8, 15.3, 16.7, 17.3, 18.1, 18.4, 18.8, 27.2]
OTHERS = {
    "dev-clean": (2703, [1.4, 1.6, 1.8, 1.9, 2.4, 2.7, 3.8, 5.9, 9.3, 13.3, 16.4, 23.8, 28.5, 32.3, 32.6]),
    "dev-other": (2864, [1.1, 1.3, 1.7, 1.8, 2.2, 2.6, 3.5, 5.3, 7.9, 12.0, 15.0, 22.2, 27.1, 32.4, 35.2]),
    "test-clean": (2620, [1.3, 1.6, 1.8, 2.0, 2.3, 2.7, 3.7, 5.8, 9.6, 14.6, 17.8, 25.5, 28.4, 32.8, 35.0]),
    "test-other": (2939, [1.2, 1.5, 1.8, 1.9, 2.3, 2.6, 3.4, 5.2, 8.2, 12.6, 15.8, 21.4, 23.8, 33.5, 34.5]),
}


def durations(rng, count, member):
    if member:
        return np.interp(rng.random(count), PROBABILITIES, TRAIN)
    sizes = np.array([size for size, _ in OTHERS.values()])
    drawn = np.array([np.interp(rng.random(count), PROBABILITIES, table) for _, table in OTHERS.values()])
    return drawn[rng.choice(4, size=count, p=sizes / sizes.sum()), np.arange(count)]


def test_the_numbers_without_an_encoder_are_those_of_librispeechs_durations():
    """What the package tells beside the published numbers, drawn anew; in batches, as a mask that is added shows them."""

    def beside_the_longest(seconds):
        return np.concatenate([batch / batch.max() for batch in np.split(seconds, range(64, len(seconds), 64))])

    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        members, others = durations(rng, 28_539, True), durations(rng, 11_126, False)
        found.append([auc(members, others), auc(beside_the_longest(members), beside_the_longest(others))])
    assert np.mean(found, axis=0) == pytest.approx([BLIND["duration"], BLIND["duration in batches"]], abs=0.003)


def noise_encoder(wave):
    """Frames of autocorrelated noise at 12.5 Hz, which know nothing but how long the wave is (one sample a frame)."""
    rng = np.random.default_rng(int(wave[0] * 2**31))
    steps = rng.standard_normal((len(wave), 32))
    for n in range(1, len(steps)):
        steps[n] = 0.6 * steps[n - 1] + 0.8 * steps[n]
    return [steps.astype(np.float32)]


def test_durations_alone_do_what_the_published_attacks_do_and_the_controlled_protocol_takes_that_away():
    rng = np.random.default_rng(0)
    rate, each = 12.5, 12
    waves, member, seconds = {}, {}, {}
    for person in range(100):
        for n, length in enumerate(durations(rng, each, person < 50)):
            id = f"p{person:03d}-{n:02d}"
            member[id], seconds[id] = person < 50, length
            waves[id] = rng.random(max(int(length * rate), 2)).astype(np.float32)
    people = by_speaker(waves)
    own = {name: ids for name, ids in people.items() if name >= "p070"}
    judged = [id for id in waves if id < "p070"]

    def audit(ids, scores):
        roles, speakers = [member[id] for id in ids], [id[:4] for id in ids]
        return SwappedAudit(scores, roles, speakers, np.zeros(len(ids)), utterances=ids, confidence=0.99).auc()

    everything = list(waves)
    assert audit(everything, [seconds[id] for id in everything]).value == pytest.approx(BLIND["duration"], abs=0.025)
    whole = look_at(noise_encoder, waves, everything, {})
    basic = audit(everything, whole.basic[whole.rows(everything), 0])
    assert basic.value == pytest.approx(0.79, abs=0.03) and basic.low > 0.6, "no membership, yet a clear signal"
    # Controlled: inputs of one length, learning on speakers who are not judged. Four intervals at .99: of 25 draws of
    # noise 24 or 25 were inside of those at .95.
    length = int(1.3 * rate)
    cropped = {id: wave[len(wave) // 2 - length // 2 :][:length] for id, wave in waves.items()}
    found = look_at(noise_encoder, cropped, judged, own, learning=Learning(utterances=60, epochs=10), seed=1)
    for scores in (found.improved[found.rows(judged)], found.basic[found.rows(judged), 0]):
        told = audit(judged, scores)
        assert told.low < 0.5 < told.high and told.high - told.low < 0.15
    mine = by_speaker(judged)
    for name in ("basic", "improved"):
        scores = statistic(name, found, mine, "speaker")
        told = SwappedAudit(scores, [p < "p050" for p in mine], list(mine), np.zeros(len(mine)), confidence=0.99).auc()
        assert told.low < 0.5 < told.high
