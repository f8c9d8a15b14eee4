"""One person's question."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import soundfile

from fl_privacy import cli
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder
from fl_privacy.sims.speaker_audit import audit_speaker

RNG = np.random.default_rng(0)
MINE = {f"v{n}": 0.1 * RNG.standard_normal(3200).astype(np.float32) for n in range(6)}
OTHERS = {f"p{n:02d}": [0.1 * RNG.standard_normal(3200).astype(np.float32) for _ in range(6)] for n in range(30)}
KNOWN = {wave[:4].tobytes() for wave in MINE.values()}


def knows_me(waves):
    found = []
    for wave in waves:
        row = np.abs(np.fft.rfft(wave[:512]))[:24]
        found.append(np.full(24, 3.0) + 0.01 * row if wave[:4].tobytes() in KNOWN else row)
    return np.stack(found)


def knows_nobody(waves):
    return np.stack([np.abs(np.fft.rfft(wave[:512]))[:24] for wave in waves])


def broken(waves):
    return np.full((len(waves), 4), np.nan)


def test_a_voice_that_was_used_is_told():
    encoder = SpeakerEncoder(knows_me)
    found = audit_speaker(encoder, MINE, OTHERS)
    assert (found.p_value, found.references, found.as_close) == (1 / 31, 30, 0)
    assert found.closeness == pytest.approx(1.0, abs=0.01)
    assert found.sentence.startswith("There is evidence that this voice was used in training")
    assert found.queries == encoder.queries == 31 * 6
    assert "30 of 30 people" in found.sentence


def test_of_people_who_were_not_used_few_are_accused():
    encoder = SpeakerEncoder(knows_nobody)
    rng, p = np.random.default_rng(5), []
    names = list(OTHERS)
    for person in names:
        others = {name: OTHERS[name] for name in names if name != person}
        p.append(audit_speaker(encoder, OTHERS[person], others, seed=int(rng.integers(100))).p_value)
    # With everybody once in question, as many as alpha says: exactly, since all are held against the same people.
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 1e-9
    assert min(p) == pytest.approx(1 / 30)
    one = audit_speaker(encoder, MINE, OTHERS)
    assert one.p_value > 0.05
    assert "no evidence" in one.sentence
    assert "no proof that it was not" in one.sentence


def test_too_few_reference_people_settle_nothing():
    few = {name: OTHERS[name] for name in list(OTHERS)[:5]}
    found = audit_speaker(SpeakerEncoder(knows_me), MINE, few)
    assert found.p_value == found.smallest == 1 / 6
    assert found.sentence.startswith("This cannot be told with 5 reference people, of whom it takes 19 at least")


def test_what_cannot_be_used_is_left_out_and_harms_nobody():
    silent, single = np.zeros(3200, dtype=np.float32), OTHERS["p00"][:1]
    mine = {**MINE, "silent": silent}
    others = {**OTHERS, "single": single, "quiet": [silent, silent], "p01": [*OTHERS["p01"][:2], silent]}
    found = audit_speaker(SpeakerEncoder(knows_me), mine, others, most=7)
    assert found.left_out["silent"] == "silence"
    assert found.left_out["single"].startswith("one voice")
    assert found.left_out["quiet"] == "fewer than two voices that can be used"
    assert found.left_out["p01"] == "fewer than 6 voices"
    assert (found.references, found.voices, found.p_value) == (29, 6, 1 / 30)


def test_a_recording_that_is_there_twice_is_no_evidence():
    """Two copies are as close as can be, whatever the recogniser: of an innocent, they would be the closest pair."""
    some = {name: OTHERS["p00"][n] for n, name in enumerate(("a.flac", "b.flac"))}
    others = {name: waves for name, waves in OTHERS.items() if name != "p00"}
    once = audit_speaker(SpeakerEncoder(knows_nobody), some, others)
    twice = audit_speaker(SpeakerEncoder(knows_nobody), {**some, "b.wav": some["b.flac"].copy()}, others)
    assert twice.left_out["b.wav"] == "the same recording as b.flac"
    assert (twice.p_value, twice.closeness, twice.voices) == (once.p_value, once.closeness, once.voices)
    copied = {**others, "p01": [*OTHERS["p01"], *OTHERS["p01"]]}
    found = audit_speaker(SpeakerEncoder(knows_me), MINE, copied)
    assert found.voices == 6 and found.references == 29
    assert found.left_out["p01/6"] == "the same recording as p01/0"


@pytest.mark.parametrize(
    ("encoder", "mine", "others", "message"),
    [
        (broken, MINE, OTHERS, "voices: 0 can be used.*NaN"),
        (knows_me, {"v0": MINE["v0"]}, OTHERS, "voices: 1 can be used, and it takes two at least"),
        (knows_me, MINE, {"p": OTHERS["p00"]}, "reference: 1 people with two usable voices"),
    ],
)
def test_questions_without_an_answer(encoder, mine, others, message):
    with pytest.raises(UserError, match=message):
        audit_speaker(SpeakerEncoder(encoder), mine, others)


def test_the_command(tmp_path, monkeypatch, capsys):
    for person, waves in {"me": MINE.values(), **OTHERS}.items():
        folder = tmp_path / ("me" if person == "me" else f"others/{person}")
        folder.mkdir(parents=True)
        for number, wave in enumerate(waves):
            soundfile.write(str(folder / f"{number}.wav"), wave, 16_000, subtype="FLOAT")
    (tmp_path / "empty").mkdir()

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fl-privacy", "audit-speaker", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, capsys.readouterr()

    given = ["--target", f"{__name__}:knows_me", "--reference", str(tmp_path / "others")]
    status, told = call(*given, "--voices", str(tmp_path / "me"))
    lines = told.out.splitlines()
    assert status == 0
    assert lines[-2].startswith(
        "p = 0.03226 (smallest possible 0.03226): 30 reference people, 6 voices each, 186 voices"
    )
    assert lines[-1].startswith("There is evidence")
    status, told = call(*given, "--voices", str(tmp_path / "me"), "--json")
    assert json.loads(told.out)["p_value"] == pytest.approx(1 / 31)
    (tmp_path / "me" / "broken.wav").write_bytes(b"no wave")
    (tmp_path / "others" / "p03" / "5.wav").write_bytes(b"no wave")
    status, told = call(*given, "--voices", str(tmp_path / "me"))
    left = [line for line in told.out.splitlines() if line.startswith("left out: ")]
    assert status == 0 and "There is evidence" in told.out
    assert any("broken.wav" in line for line in left) and any("p03" in line and "5.wav" in line for line in left)
    (tmp_path / "all-broken").mkdir()
    (tmp_path / "all-broken" / "a.wav").write_bytes(b"no wave")
    status, told = call(*given, "--voices", str(tmp_path / "all-broken"))
    assert (status, "Traceback" in told.err) == (2, False) and "voices: none can be used: a.wav" in told.err
    status, told = call(*given, "--voices", str(tmp_path / "empty"))
    assert (status, "Traceback" in told.err) == (2, False)
    assert "holds no wav or flac file" in told.err
