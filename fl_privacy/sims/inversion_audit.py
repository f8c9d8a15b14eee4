"""The last stage of an inversion: every cell before every judge, claims, controls, and what the report draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_privacy.attacks.inversion.distances import Distances, distances
from fl_privacy.attacks.inversion.gender import AttributeReader
from fl_privacy.attacks.inversion.judges import Verdicts
from fl_privacy.audit import Privacy
from fl_privacy.audit.files import write_atomically, write_result
from fl_privacy.audit.metrics import Floats
from fl_privacy.config.speaker_inversion import SpeakerInversionFile
from fl_privacy.models.classifier import SpeakerClassifier, load_classifier
from fl_privacy.sims.inversion_buys import defended_findings, read_defended, spoof_findings
from fl_privacy.sims.inversion_cells import READOUTS, RESTARTS, Cell, Found, read_cell
from fl_privacy.sims.inversion_findings import ACCURACY, OWN_START, Findings, Judged
from fl_privacy.sims.inversion_judges import ATTACKED, Bench
from fl_privacy.sims.inversion_pages import beside_published, corpora_of, costs_csv, examples, scores_csv
from fl_privacy.sims.inversion_people import People, cuts
from fl_privacy.sims.inversion_tables import tables_of
from fl_privacy.sims.inversion_target import FILE
from fl_privacy.sims.stages import RunFolder
from fl_privacy.training.sincnet import sentence_error
from fl_privacy.updates import ThreatModel

_HEARD = 6
"""Recordings of each auxiliary speaker, at most, that a label is learned on."""


class DVectors:
    """D-vectors of the target: of the classes' recordings, of short pieces, of other people's.

    Parameters
    ----------
    target : SpeakerClassifier
    people : People
    bench : Bench
        Cuts the pieces.
    """

    def __init__(self, target: SpeakerClassifier, people: People, bench: Bench) -> None:
        self._target, self._bench = target, bench
        self.means = np.stack([self.of(people.trained[name]).mean(axis=0) for name in people.classes])
        self.unused = {0: self._unused(0)}
        waves, owners = people.of({name: heard[:_HEARD] for name, heard in people.auxiliary.items()})
        self.auxiliary, self.owners = self.of(waves), owners

    def of(self, waves: Sequence[NDArray[np.float32]]) -> Floats:
        """Return d-vectors (n, d) of waves of a window at least."""
        return np.stack([self._target.dvector_of(wave) for wave in waves]).astype(np.float64)

    def distances(self, inverted: Floats, length: int) -> tuple[Distances, Floats]:
        """Return distances of one d-vector a class, and those of unused pieces of a length to their own speaker."""
        whole = distances(inverted, self.means, *self.unused[0])
        if length not in self.unused:
            self.unused[length] = self._unused(length)
        return whole, distances(inverted, self.means, *self.unused[length]).within

    def _unused(self, length: int) -> tuple[Floats, NDArray[np.int64]]:
        pieces, owners = self._bench.pieces(length)
        return self.of(pieces), owners


def write_findings(
    path: Path,
    folder: RunFolder,
    file: SpeakerInversionFile,
    cells: Sequence[Cell],
    people: People,
    bench: Bench,
    model: ThreatModel,
) -> None:
    """Judge all that was found, and write result.json, scores.csv, costs.csv and the table."""
    target = load_classifier(folder.path / "target" / FILE)
    seed = file.simulation.seed
    findings = Findings(
        "SincNet",
        seed,
        file.audit.confidence,
        file.audit.permutations,
        {"private": file.private.corpus, "classes": len(people.classes)},
    )
    dvectors = DVectors(target, people, bench)
    found = {cell.name: read_cell(folder.path / "cells" / cell.folder) for cell in cells}
    judged, vectors, summaries = _judged(cells, found, target, people, bench, dvectors, seed)
    for number, one in enumerate(judged.values()):
        strangers = _strangers(people, bench, one.length, seed)
        findings.cell(one, bench, strangers, primary=number == 0)
    # Whole recordings, too: what the target and the judges are worth at their own work.
    for length in sorted({0, *(one.length for one in judged.values())}):
        findings.ceilings(bench, length)
    for one in judged.values():
        rival = judged.get(f"restarts from {one.start}")
        if one.attack == "sliding" and rival is not None:
            findings.against_restarts(one, rival)
    _layer(findings, cells, found, target)
    again = read_defended(folder, file)
    part: dict[str, Any] = {
        "readouts": READOUTS,
        "restarts": RESTARTS,
        "distances": summaries,
        "costs": {name: one.cost for name, one in (found | again).items()},
    }
    part["picture"] = _label(findings, file, people, dvectors, vectors)
    if file.spoof is not None:
        part["spoof"] = spoof_findings(findings, folder.path / "spoof", bench)
    privacy: list[Privacy] = []
    if file.countermeasure:
        part["countermeasures"] = defended_findings(findings, folder, file, cells, people, bench, judged, privacy)
    part["examples"] = examples(cells, found, people, bench)
    if any(cell.attack.scale == "published" for cell in cells):
        part |= beside_published(file, cells, summaries, len(people.classes))
    error, guessing = sentence_error(target, *people.of(people.tested)), 1 - 1 / len(people.classes)
    utility = {"task": "Speaker recognition of unused sentences", "sentence_error": error}
    queries = sum(int(one.cost["queries"]) for one in found.values())
    work = f"Sentence error of the attacked classifier: {error:.3f}; of guessing: {guessing:.3f}"
    table = f"{work}\n\n{tables_of(findings.claims, findings.controls, list(bench.judges), part)}"
    write_atomically(path / "table.txt", table + "\n")
    # Beside the result, not in it: seconds differ from run to run.
    write_atomically(folder.path / "costs.csv", costs_csv(found | again))
    write_result(
        folder.path,
        findings.claims,
        findings.controls,
        scores_csv(judged, people),
        simulation=file.resolved(),
        threat_model=model.to_result(),
        utility=utility,
        privacy=[one.to_dict() for one in privacy],
        queries=queries,
        corpora=corpora_of(file, people),
        inversion=part,
        table=table,
    )


def _judged(
    cells: Sequence[Cell],
    found: Mapping[str, Found],
    target: SpeakerClassifier,
    people: People,
    bench: Bench,
    dvectors: DVectors,
    seed: int,
) -> tuple[dict[str, Judged], dict[str, Floats], dict[str, Any]]:
    judged, vectors, summaries = {}, {}, {}
    for cell in cells:
        one = found[cell.name]
        if cell.of_waves:
            waves, length = list(one.waves), one.waves.shape[1]
            inverted = dvectors.of(waves)
            judged[cell.name] = Judged(
                cell.attack.name,
                cell.start or OWN_START,
                length,
                {judge.name: judge.scores(waves) for judge in bench.judges.values()},
                {judge.name: judge.scores(list(one.starts)) for judge in bench.judges.values()},
                one.readouts,
                dvectors.distances(inverted, length)[0],
                {"objective": cell.attack.objective, "step": cell.attack.step},
            )
        else:
            inverted, length = one.waves.astype(np.float64), target.window
        lain, short = dvectors.distances(inverted, length)
        told = lain.summary()
        told["within_short"] = {"mean": float(short.mean()), "sd": float(short.std(ddof=1))}
        if cell.of_waves:
            hits = judged[cell.name].verdicts(ATTACKED).among() > 0
            # The study's figure is of the inversions alone that the target recognises.
            if hits.sum() > 1:
                told["own_recognised"] = {
                    "mean": float(lain.own[hits].mean()),
                    "sd": float(lain.own[hits].std(ddof=1)),
                }
        vectors[cell.name], summaries[cell.name] = inverted, told
    return judged, vectors, summaries


def _strangers(people: People, bench: Bench, length: int, seed: int) -> dict[str, Floats]:
    """One piece of another person's real voice for each class, before every judge."""
    others = list(people.auxiliary.values())
    waves = [
        cuts(others[number % len(others)], length, 1, np.random.default_rng([seed, 60, number]))[0]
        for number in range(len(people.classes))
    ]
    return {judge.name: judge.scores(waves) for judge in bench.judges.values()}


def _layer(findings: Findings, cells: Sequence[Cell], found: Mapping[str, Found], target: SpeakerClassifier) -> None:
    for cell in cells:
        if cell.of_waves:
            continue
        with torch.no_grad():
            scores = target.classify(torch.from_numpy(found[cell.name].waves)).double().numpy()
        hits = Verdicts(scores, np.arange(len(scores))).among()
        findings.add(cell.name, ACCURACY, findings.rate(hits), judge=ATTACKED, layer="classifier alone")


def _label(
    findings: Findings,
    file: SpeakerInversionFile,
    people: People,
    dvectors: DVectors,
    vectors: Mapping[str, Floats],
) -> dict[str, Any] | None:
    attribute = file.people.attribute
    if attribute is None or any(name not in people.labels for name in (*people.classes, *people.auxiliary)):
        return None
    known = [people.labels[owner] for owner in dvectors.owners]
    mine = [people.labels[name] for name in people.classes]
    if len(set(known)) != 2 or len(set(mine)) != 2 or set(known) != set(mine):
        return None
    reader = AttributeReader.fit(dvectors.auxiliary, known)
    positive = reader.classes[1]
    evidence = {"own recordings": reader.decision_function(dvectors.means)}
    evidence |= {name: reader.decision_function(rows) for name, rows in vectors.items()}
    for name, odds in evidence.items():
        findings.label(name, odds, mine, people.classes, attribute, positive)
    drawn = next((name for name in vectors if name.startswith("map-dvector")), None) or next(
        (name for name in vectors if name.startswith("dvector")), next(iter(vectors))
    )
    real, inverted = reader.picture(dvectors.auxiliary), reader.picture(vectors[drawn])

    def of(points: Floats, labels: Sequence[str]) -> dict[str, list[list[float]]]:
        return {
            value: [
                [round(float(x), 5) for x in row] for row, label in zip(points, labels, strict=True) if label == value
            ]
            for value in reader.classes
        }

    return {"attack": drawn, "classes": list(reader.classes), "real": of(real, known), "inverted": of(inverted, mine)}
