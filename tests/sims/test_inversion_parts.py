"""Parts of the recipe of inversion: who is what, whose class is whose, findings, the published table."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from fl_privacy.attacks.inversion.distances import distances
from fl_privacy.config import load_any
from fl_privacy.config.speaker_inversion import Countermeasure, InversionTarget
from fl_privacy.corpora import Corpus, Utterance
from fl_privacy.errors import UserError
from fl_privacy.published.pizzi2023 import CLASSES, table_1
from fl_privacy.sims.inversion_defended import label_of, training_of
from fl_privacy.sims.inversion_findings import Findings, Judged
from fl_privacy.sims.inversion_judges import ATTACKED, INDEPENDENT, Natural, Thresholds
from fl_privacy.sims.inversion_people import cuts, people_of
from fl_privacy.sims.inversion_target import _told_apart
from fl_privacy.training.sincnet import SincNetTraining, _smoothed


class Hums:
    """Every recording a wave of its own."""

    def wave(self, utterance: Utterance) -> np.ndarray:
        rng = np.random.default_rng(abs(int(utterance.id.replace("-", ""))))
        return (0.1 * rng.standard_normal(4000)).astype(np.float32)

    def fingerprint(self, utterance: Utterance) -> str:
        return utterance.id

    def seconds(self, utterance: Utterance) -> float:
        return 0.25


def scan(*, people: int = 12, voices: int = 8, first: int = 0) -> Corpus:
    items = [
        Utterance(f"{p}-{v}", f"s{p:02d}", labels={"gender": "fm"[p % 2], "part": "ab"[v % 2]})
        for p in range(first, first + people)
        for v in range(voices)
    ]
    return Corpus("hums", None, tuple(items), source=Hums())


def file(**changes):
    content = {
        "simulation": {"kind": "speaker-inversion"},
        "private": {"corpus": f"{__name__}:scan"},
        "people": {"classes": 5},
        "attack": [{"name": "standard", "starts": ["laplace"]}],
    }
    return load_any(content | changes)


def bytes_of(voices) -> list[bytes]:
    return [wave.tobytes() for waves in voices.values() for wave in waves]


def test_no_recording_serves_two_purposes():
    found = people_of(file())
    parts = [bytes_of(part) for part in (found.trained, found.judged, found.tested, found.auxiliary)]
    everything = [one for part in parts for one in part]
    assert len(everything) == len(set(everything)) == 12 * 8
    assert len(found.classes) == 5 and set(found.auxiliary).isdisjoint(found.classes)
    assert {len(found.trained[name]) for name in found.classes} == {4}
    assert {len(found.judged[name]) for name in found.classes} == {2}
    again, other = people_of(file()), people_of(file(simulation={"kind": "speaker-inversion", "seed": 2}))
    assert bytes_of(again.trained) == bytes_of(found.trained)
    assert other.classes != found.classes
    assert set(found.labels) == {f"s{n:02d}" for n in range(12)}


def test_recordings_are_chosen_by_label_and_by_a_corpus_of_their_own():
    found = people_of(file(private={"corpus": f"{__name__}:scan", "where": {"part": ["a"]}}))
    assert len(bytes_of(found.auxiliary)) == 7 * 4
    beside = file(auxiliary={"corpus": f"{__name__}:scan", "options": {"first": 20, "people": 6}}, people={})
    both = people_of(beside)
    assert len(both.classes) == 12 and len(both.auxiliary) == 6
    assert all(name.startswith("auxiliary/") for name in both.auxiliary)
    assert both.labels["auxiliary/s21"] == "m"
    for changes, message in (
        ({"private": {"corpus": f"{__name__}:scan", "where": {"room": ["a"]}}}, "no label 'room'"),
        ({"private": {"corpus": f"{__name__}:scan", "where": {"part": ["c"]}}}, "no recording has"),
        ({"auxiliary": {"corpus": f"{__name__}:scan"}}, "is a class of the target"),
    ):
        with pytest.raises(UserError, match=message):
            people_of(file(**changes))


def test_named_classes_keep_the_targets_order():
    found = people_of(file(), named=("s07", "s02", "s09"))
    assert found.classes == ("s07", "s02", "s09") and list(found.trained) == ["s07", "s02", "s09"]
    with pytest.raises(UserError, match="'nobody', a class of the target"):
        people_of(file(), named=("s07", "nobody", "s01"))


def test_cuts_are_the_louder_pieces():
    wave = np.zeros(8000, dtype=np.float32)
    wave[4000:] = np.random.default_rng(0).standard_normal(4000)
    found = cuts([wave], 1600, 5, np.random.default_rng(1))
    assert 0 < len(found) <= 5 and all(piece.size == 1600 and piece.any() for piece in found)
    (repeated,) = cuts([wave[-500:]], 1200, 3, np.random.default_rng(1))
    assert np.array_equal(repeated[:500], repeated[500:1000])


def test_numbered_classes_are_told_by_their_answers():
    people = people_of(file())
    order = [3, 0, 4, 1, 2]  # output k answers to the speaker order[k]
    owner = {wave.tobytes(): n for n, name in enumerate(people.classes) for wave in people.trained[name]}

    def posteriors(wave, shift):
        right = order.index(owner[wave.tobytes()])
        return np.log(np.full((2, 5), 0.1) + 0.5 * np.eye(5)[right])

    held = SimpleNamespace(classes=tuple("01234"), window=3200, posteriors=posteriors)
    assert _told_apart(held, people) == [people.classes[n] for n in order]
    deaf = SimpleNamespace(
        classes=held.classes, window=3200, posteriors=lambda wave, shift: np.log([[0.6, 0.1, 0.1, 0.1, 0.1]])
    )
    with pytest.raises(UserError, match="cannot be told from its answers: it recognises 20%"):
        _told_apart(deaf, people)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_label_smoothing_is_torchs_and_goes_on_below_zero(share):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((6, 4))).requires_grad_()
    codes = torch.from_numpy(rng.integers(0, 4, 6))
    assert torch.allclose(
        _smoothed(logits, codes, share), functional.cross_entropy(logits, codes, label_smoothing=share)
    )
    # The loss is linear in the share: below zero it is on the same line.
    plain, smooth = (functional.cross_entropy(logits, codes, label_smoothing=s) for s in (0.0, share))
    assert torch.allclose(_smoothed(logits, codes, -share), 2 * plain - smooth)
    with pytest.raises(UserError, match="label_smoothing"):
        SincNetTraining(label_smoothing=1.0)


def test_countermeasures_in_training_change_it_alone():
    target = InversionTarget(size="small", steps=7)
    plain = training_of(target)
    made = {
        name: training_of(target, Countermeasure(name=name, **settings))
        for name, settings in (("dropout", {"rate": 0.4}), ("label-smoothing", {}), ("dp-sgd", {"target_epsilon": 3.0}))
    }
    assert made["dropout"].size.dropout == 0.4 and made["dropout"].steps == plain.steps == 7
    assert made["label-smoothing"].label_smoothing < 0
    assert made["dp-sgd"].private.target_epsilon == 3 and made["dp-sgd"].size.normalisation == "group"
    assert label_of(Countermeasure(name="dropout", rate=0.4)) == "dropout (rate 0.4)"
    assert label_of(Countermeasure(name="label-only")) == "label-only"


class FixedBench:
    """Two judges with thresholds at zero, who take half of all real pieces for their speakers'."""

    judges = dict.fromkeys((ATTACKED, INDEPENDENT))

    def natural(self, judge, length):
        half = np.tile([0.0, 1.0], 10)
        return Natural(Thresholds(0.0, 0.0, 0.1, 0.5), half, half, half, half)


def judged(strong: bool, seed: int) -> Judged:
    """Scores of 20 classes: the target always recognises them; the independent judge where they are strong."""
    rng = np.random.default_rng(seed)
    noise = [rng.standard_normal((20, 20)) for _ in range(3)]
    scores = {ATTACKED: noise[0] + 20 * np.eye(20), INDEPENDENT: noise[1] + (3.5 if strong else 0) * np.eye(20)}
    rows = rng.standard_normal((3, 20, 4))
    lain = distances(rows[0], rows[1], rows[2], np.arange(20))
    return Judged("standard", "laplace", 3200, scores, dict.fromkeys(scores, noise[2]), {}, lain)


def of(findings: Findings, metric: str, judge: str):
    return next(c for c in findings.claims if c.metric == metric and c.conditions.get("judge") == judge)


def test_adversarial_examples_are_no_reconstructions():
    """What the target alone recognises is claimed of the target alone: on null data there is nothing to be found."""
    low = []
    for seed in range(30):
        findings = Findings("t", 1, 0.95, 99, {})
        findings.cell(judged(False, seed), FixedBench(), dict.fromkeys(FixedBench.judges, np.zeros((20, 20))), True)
        assert of(findings, "accuracy", ATTACKED).value == 1.0
        low.append((of(findings, "accuracy_over_best_blind", INDEPENDENT).low or 0) > 0)
    assert np.mean(low) <= 0.1
    strong = Findings("t", 1, 0.95, 99, {})
    strong.cell(judged(True, 0), FixedBench(), dict.fromkeys(FixedBench.judges, np.zeros((20, 20))), True)
    over = of(strong, "accuracy_over_best_blind", INDEPENDENT)
    assert over.primary and (over.low or 0) > 0.3
    null = next(
        c for c in strong.controls if c.control == "permuted-identities" and c.conditions["judge"] == INDEPENDENT
    )
    assert null.p_value == pytest.approx(0.01)
    assert not any(c.primary for c in strong.claims if c.conditions.get("judge") != INDEPENDENT)


def test_the_published_table_is_whole():
    rows = table_1()
    assert len(rows) == 20 and {row.method for row in rows} == {"standard", "sliding"}
    for row in rows:
        assert row.correct / CLASSES == pytest.approx(row.accuracy, abs=0.0006), row
        assert 0.6 < row.distance < 0.9 and row.distance_sd < 0.1


def test_every_setting_of_a_targets_training_is_heeded():
    given = {"steps": 7, "batch_size": 3, "learning_rate": 0.5, "optimiser": "adam", "decay": "none"}
    training, left = training_of(InversionTarget(**given)), training_of(InversionTarget())
    assert {name: getattr(training, name) for name in given} == given
    assert all(getattr(left, name) != value for name, value in given.items())
