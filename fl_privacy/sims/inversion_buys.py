"""What an inversion leads to, and what helps against it: claims on made speech and on countermeasures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.inversion.judges import Verdicts
from fl_privacy.audit import Privacy
from fl_privacy.config.speaker_inversion import TRAINING_LEVEL, Countermeasure, SpeakerInversionFile
from fl_privacy.models.classifier import load_classifier
from fl_privacy.sims.inversion_cells import Cell, Found, read_cell
from fl_privacy.sims.inversion_defended import label_of, read_asked, training_of
from fl_privacy.sims.inversion_findings import ACCURACY, AT_EER, AT_FAR, NATURAL, Findings, Judged, unresolved
from fl_privacy.sims.inversion_judges import ATTACKED, Bench, ClassifierJudge
from fl_privacy.sims.inversion_people import People
from fl_privacy.sims.inversion_spoof import MEAN, accepted
from fl_privacy.sims.inversion_target import FILE
from fl_privacy.sims.stages import RunFolder
from fl_privacy.training.accounting import Ledger
from fl_privacy.training.group_accounting import group_epsilon
from fl_privacy.training.sincnet import SincNetTraining, privacy_spent, sentence_error


def spoof_findings(findings: Findings, path: Path, bench: Bench) -> dict[str, Any]:
    """Add what judges say of the speech that was made; return what the page tells of it."""
    facts = json.loads((path / "facts.json").read_text(encoding="utf-8"))
    rates = accepted(path, bench)
    for voice, by_judge in rates.items():
        name = f"speech: {voice}"
        for judge, found in by_judge.items():
            for metric, key in ((AT_EER, "eer"), (AT_FAR, "far_1")):
                if key not in found:
                    none = unresolved(len(found["eer"]), findings.confidence)
                    findings.add(name, metric, none, judge=judge, voice=voice)
                    continue
                findings.add(name, metric, findings.rate(found[key]), judge=judge, voice=voice)
                if voice == MEAN:
                    continue
                findings.hold(
                    "wrong-speaker", name, metric, findings.rate(found[f"wrong_{key}"]), judge=judge, voice=voice
                )
                blinds = {"wrong-speaker": found[f"wrong_{key}"], MEAN: rates[MEAN][judge][key]}
                best = max(blinds, key=lambda blind: float(blinds[blind].mean()))
                findings.add(
                    name,
                    f"{metric}_over_best_blind",
                    findings.difference(found[key], blinds[best]),
                    judge=judge,
                    voice=voice,
                    best_blind=best,
                )
    note = (
        "It is a small voice converter, trained in the run, and no deepfake."
        if "reference" in facts["synthesiser"]
        else ""
    )
    return {**facts, "note": note}


def defended_findings(
    findings: Findings,
    folder: RunFolder,
    file: SpeakerInversionFile,
    cells: Sequence[Cell],
    people: People,
    bench: Bench,
    judged: Mapping[str, Judged],
    privacy: list[Privacy],
) -> list[dict[str, Any]]:
    """Add claims on each countermeasure; return the rows of the page, and append what privacy was spent."""
    rows: list[dict[str, Any]] = []
    primary = judged[cells[0].name]
    rows.append({"name": primary.name, "access": "white-box", "note": "no countermeasure", "sentence_error": None})
    rows[-1]["sentence_error"] = sentence_error(
        load_classifier(folder.path / "target" / FILE), *people.of(people.tested)
    )
    for counter in file.countermeasure:
        if counter.name in TRAINING_LEVEL:
            rows.append(_trained(findings, folder, file, counter, cells[0], people, bench, privacy))
    for name in ("undefended", *(c.name for c in file.countermeasure)):
        place = folder.path / "queries" / name
        if not (place / "facts.json").exists():
            continue
        asked = read_asked(place)
        counter_of = next((c for c in file.countermeasure if c.name == name), None)
        label = "answers as they are" if counter_of is None else label_of(counter_of)
        whose = np.arange(len(asked.waves))
        access = "labels" if name == "label-only" else "scores"
        if counter_of is None:
            _before_all(findings, bench, "the speech that queries start from", asked.starts, whose)
            note = "the auxiliary speech nearest to the class"
            rows.append({"name": "the speech that queries start from", "access": access, "note": note})
        _before_all(findings, bench, label, asked.waves, whose)
        rows.append({"name": label, "access": access, **asked.facts})
    for counter in file.countermeasure:
        if counter.name == "withhold-layer":
            layers = [cell.name for cell in cells if not cell.of_waves]
            none = f"without it there is no {' and no '.join(layers)}" if layers else "no attack of this run uses it"
            for judge in bench.judges:
                hits = primary.verdicts(judge).among()
                findings.add(counter.name, ACCURACY, findings.rate(hits), judge=judge, access="white-box")
            note = f"{none}; left: {primary.name}, which needs none"
            # Its users are answered as before.
            rows.append({**rows[0], "name": counter.name, "note": note})
    return rows


def read_defended(folder: RunFolder, file: SpeakerInversionFile) -> dict[str, Found]:
    """Read the primary attack again, against each target that was trained with a countermeasure."""
    return {
        label_of(counter): read_cell(folder.path / "defended" / counter.name / "cell")
        for counter in file.countermeasure
        if counter.name in TRAINING_LEVEL
    }


def _before_all(
    findings: Findings, bench: Bench, name: str, waves: NDArray[np.float32], whose: NDArray[np.int64]
) -> None:
    for judge in bench.judges.values():
        hits = Verdicts(judge.scores(list(waves)), whose).among()
        findings.add(name, ACCURACY, findings.rate(hits), judge=judge.name, countermeasure=name)


def _trained(
    findings: Findings,
    folder: RunFolder,
    file: SpeakerInversionFile,
    counter: Countermeasure,
    cell: Cell,
    people: People,
    bench: Bench,
    privacy: list[Privacy],
) -> dict[str, Any]:
    """Claims on the primary attack against a target trained with a countermeasure."""
    place = folder.path / "defended" / counter.name
    target, label = load_classifier(place / "target" / FILE), label_of(counter)
    waves = list(read_cell(place / "cell").waves)
    own = ClassifierJudge(target, ATTACKED)
    findings.hold(NATURAL, label, ACCURACY, findings.rate(bench.recognised(own)), judge=ATTACKED, length=0)
    for judge in bench.judges.values():
        hears = own if judge.name == ATTACKED else judge
        hits = Verdicts(hears.scores(waves), np.arange(len(waves))).among()
        findings.add(label, ACCURACY, findings.rate(hits), judge=judge.name, countermeasure=label)
    note = f"{cell.name} again, against a target trained so"
    if counter.name == "dp-sgd":
        promises = _promised(training_of(file.target, counter), people)
        privacy += promises
        note += "; epsilon " + " and ".join(f"{one.epsilon_accountant or 0:.3g} for one {one.unit}" for one in promises)
    return {
        "name": label,
        "access": "white-box",
        "sentence_error": sentence_error(target, *people.of(people.tested)),
        "note": note,
    }


def _promised(training: SincNetTraining, people: People) -> list[Privacy]:
    """Say what a private training promises to a recording, and to the speaker who has most of them."""
    counts = [len(waves) for waves in people.trained.values()]
    spent = privacy_spent(training, sum(counts))
    noise, rate, steps, delta = (float(spent[key]) for key in ("noise_multiplier", "sample_rate", "steps", "delta"))
    most = max(counts)
    whole = group_epsilon(Ledger("example").added(noise, rate, int(steps)), most, delta)
    shared: dict[str, Any] = {"mechanism": "dp-sgd", "protects_from": "whoever holds the classifier", "delta": delta}
    return [
        Privacy(
            unit=str(spent["unit"]),
            epsilon_accountant=float(spent["epsilon"]),
            conditions={"noise_multiplier": noise, "steps": int(steps)},
            note="An utterance is one recording. A whole class is attacked: a speaker has several recordings, and what "
            "the model learns of a class is what it is for.",
            **shared,
        ),
        Privacy(
            unit="speaker",
            epsilon_accountant=whole,
            conditions={"recordings_of_a_speaker": most},
            note=f"A speaker with {most} training recordings, the most that any has, all of them there or none (Ganesh "
            "2024, arXiv 2401.10294).",
            **shared,
        ),
    ]
