"""The recipe ``speaker-inversion``: a simulation file, run into a folder with a result and a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.inversion import Prior
from fl_privacy.attacks.inversion.export import write_synthetic
from fl_privacy.config.speaker_inversion import OUTPUT_LEVEL, TRAINING_LEVEL, Countermeasure, SpeakerInversionFile
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier, load_classifier
from fl_privacy.models.sincnet import SIZES
from fl_privacy.sims.inversion_audit import write_findings
from fl_privacy.sims.inversion_cells import (
    QUEUE,
    Cell,
    CellJob,
    cells_of,
    check_lengths,
    do_cells,
    read_cell,
    wave_jobs,
)
from fl_privacy.sims.inversion_defended import attack_by_queries, check_countermeasures, label_of, training_of
from fl_privacy.sims.inversion_judges import Bench, bench_of, check_judges, read_judge, train_judges
from fl_privacy.sims.inversion_people import People, cuts, people_of
from fl_privacy.sims.inversion_spoof import spoof
from fl_privacy.sims.inversion_target import FILE, PROGRESS, adopt_target, named_classes, train_other, train_target
from fl_privacy.sims.progress import Progress, silent
from fl_privacy.sims.recipe import finish
from fl_privacy.sims.stages import RunFolder
from fl_privacy.updates import ThreatModel

UNDEFENDED = "answers as they are"

STARTED = "started"
"""File of a stage whose cells are kept as they are done."""


class SpeakerInversionRecipe:
    """One run of the recipe.

    Parameters
    ----------
    file : SpeakerInversionFile
    progress : callable, optional
        See `Progress`.
    workers : int
        Processes that do cells; they change no result.

    Raises
    ------
    UserError
        For a start, a judge or a countermeasure's setting that is not known, a vector shorter than a window or slid
        over a single one, and more classes attacked by queries than there are.
    """

    def __init__(self, file: SpeakerInversionFile, progress: Progress | None = None, workers: int = 1) -> None:
        self.file, self._workers = file, workers
        self._progress: Progress = progress or silent
        self.cells = cells_of(file.attack)
        if file.target.checkpoint is None:
            check_lengths(self.cells, SIZES[file.target.size].window)
        if file.people.classes is not None:
            file.queries.attacked(file.people.classes)
        check_judges(file.judges)
        check_countermeasures(file.countermeasure, file.target)
        if file.spoof is not None and not any(cell.of_waves for cell in self.cells):
            raise UserError("spoof: there is no inversion to make speech of")

    @property
    def threat_model(self) -> ThreatModel:
        """Who attacks, what they see and own."""
        return ThreatModel(
            attacker="somebody who holds the trained classifier",
            observes="the classifier's weights, and which class is whom",
            owns="recordings of other people, who are no class of it",
        )

    def run(self, folder: RunFolder) -> None:
        """Do every stage that is not done."""
        finish(folder, lambda: self._stages(folder))

    # ------------------------------------------------------------------ stages

    def _stages(self, folder: RunFolder) -> None:
        people = people_of(self.file, named_classes(self.file.target))
        self.file.queries.attacked(len(people.classes))
        target = self._target(folder, people)
        bench = self._bench(folder, people, target)
        self._cells(folder, people, target)
        self._spoof(folder, people, target, bench)
        self._defended(folder, people, target)
        folder.stage(
            "audit",
            lambda path: write_findings(path, folder, self.file, self.cells, people, bench, self.threat_model),
        )
        if self.file.output.audio:
            self._audio(folder, people)

    def _target(self, folder: RunFolder, people: People) -> SpeakerClassifier:
        file = self.file
        if file.target.checkpoint is not None:
            path = folder.stage("target", lambda path: adopt_target(path, people, file.target))
            found = load_classifier(path / FILE)
            check_lengths(self.cells, found.window)
            return found
        path = self._trained(folder, "target", people, None)
        return load_classifier(path / FILE)

    def _trained(self, folder: RunFolder, name: str, people: People, counter: Countermeasure | None) -> Path:
        training = training_of(self.file.target, counter)
        told = self._of("training the target", training.steps)
        seed = self.file.simulation.seed
        return folder.stage(name, lambda path: train_target(path, people, training, seed, told), go_on=PROGRESS)

    def _bench(self, folder: RunFolder, people: People, target: SpeakerClassifier) -> Bench:
        file, seed = self.file, self.file.simulation.seed
        other = None
        if file.judges.other_seed:
            training = training_of(file.target)
            told = self._of("training a judge of another seed", training.steps)
            path = folder.stage(
                "other-seed", lambda path: train_other(path, people, training, seed, told), go_on=PROGRESS
            )
            other = load_classifier(path / FILE)
        done = 0

        def stepped(step: int) -> None:
            nonlocal done
            done += 1
            self._progress("training judges", done, 2 * file.judges.steps)

        path = folder.stage(
            "judges",
            lambda path: train_judges(path, people, file.judges, seed, stepped),
            go_on="independent.safetensors",
        )
        return bench_of(path, people, target, other, seed)

    def _cells(self, folder: RunFolder, people: People, target: SpeakerClassifier) -> None:
        def work(path: Path) -> None:
            (path / STARTED).touch()
            prior = self._prior(people, target) if any(not cell.of_waves for cell in self.cells) else None
            where = str(folder.path / "target" / FILE)
            jobs = [self._job(cell, where, people, target, prior, path / cell.folder) for cell in self.cells]
            total = sum(max(1, len(job.jobs)) for job in jobs)
            counts: dict[int, int] = {}

            def told(job: int, done: int) -> None:
                counts[job] = done
                self._progress("inversions", min(sum(counts.values()), total), total)

            do_cells(jobs, self._workers, told)

        folder.stage("cells", work, go_on=STARTED)

    def _job(
        self, cell: Cell, where: str, people: People, target: SpeakerClassifier, prior: Prior | None, path: Path
    ) -> CellJob:
        seed = self.file.simulation.seed
        if not cell.from_waves:
            return CellJob(cell, where, (), prior, seed, str(path))
        speech, _ = people.of(people.auxiliary)
        jobs = wave_jobs(cell, len(people.classes), target.window, speech, seed)
        return CellJob(cell, where, jobs, None, seed, str(path))

    def _prior(self, people: People, target: SpeakerClassifier) -> Prior:
        """What d-vectors of single windows of other people look like."""
        import torch

        seed = self.file.simulation.seed
        pieces = [
            piece
            for number, waves in enumerate(people.auxiliary.values())
            for piece in cuts(waves, target.window, 20, np.random.default_rng([seed, 50, number]))
        ]
        with torch.no_grad():
            parts = [
                target.dvectors(torch.from_numpy(np.stack(pieces[i : i + 64]))).numpy()
                for i in range(0, len(pieces), 64)
            ]
        return Prior.fit(np.concatenate(parts))

    def _spoof(self, folder: RunFolder, people: People, target: SpeakerClassifier, bench: Bench) -> None:
        settings = self.file.spoof
        if settings is None:
            return
        routes: dict[str, tuple[str, NDArray[np.float32]]] = {}
        for cell in self.cells:
            # One start of each attack: the first.
            if cell.of_waves and any(cell.attack.name == other.split(" ")[0] for other in routes):
                continue
            found = read_cell(folder.path / "cells" / cell.folder)
            routes[cell.name] = ("wave" if cell.of_waves else "d-vector", found.waves)
        told = self._of("training the synthesiser", settings.steps)
        encoder = read_judge(folder.path / "judges", "encoder")
        seed = self.file.simulation.seed
        folder.stage("spoof", lambda path: spoof(path, target, encoder, people, bench, routes, settings, seed, told))

    def _defended(self, folder: RunFolder, people: People, target: SpeakerClassifier) -> None:
        asked: list[Countermeasure | None] = [c for c in self.file.countermeasure if c.name in OUTPUT_LEVEL]
        for counter in [None, *asked] if asked else []:
            name = "undefended" if counter is None else counter.name
            told = self._of(
                f"queries: {UNDEFENDED if counter is None else label_of(counter)}",
                self.file.queries.attacked(len(people.classes)),
            )

            def ask(path: Path, counter: Countermeasure | None = counter, told: Callable[[int], None] = told) -> None:
                attack_by_queries(path, target, people, counter, self.file.queries, self.file.simulation.seed, told)

            folder.stage(f"queries/{name}", ask, go_on=QUEUE)
        for counter in self.file.countermeasure:
            if counter.name not in TRAINING_LEVEL:
                continue
            self._trained(folder, f"defended/{counter.name}/target", people, counter)
            where = folder.path / "defended" / counter.name / "target" / FILE

            def invert_again(path: Path, where: Path = where) -> None:
                (path / STARTED).touch()
                do_cells([self._job(self.cells[0], str(where), people, target, None, path)], 1)

            folder.stage(f"defended/{counter.name}/cell", invert_again, go_on=STARTED)

    def _audio(self, folder: RunFolder, people: People) -> None:
        place = folder.path / "audio"
        place.mkdir(exist_ok=True)
        ran_off = set()
        for cell in self.cells:
            found = read_cell(folder.path / "cells" / cell.folder)
            if found.diverged[0]:
                ran_off.add(cell.name)
            if cell.of_waves:
                for name, wave, diverged in zip(people.classes, found.waves, found.diverged, strict=True):
                    # What ran off is no inversion: its wave is mostly the start.
                    if not diverged:
                        write_synthetic(place / f"{cell.folder}-{name.replace('/', '-')}.wav", wave)
        if (folder.path / "spoof" / "spoof.npz").exists():
            with np.load(folder.path / "spoof" / "spoof.npz", allow_pickle=False) as held:
                for key in held.files:
                    voice, _, what = key.rpartition("|")
                    # An example is of the first class.
                    if what == "example" and voice.rpartition(", ")[0] not in ran_off:
                        write_synthetic(place / f"speech-{voice.replace(' ', '-').replace(',', '')}.wav", held[key])

    def _of(self, what: str, total: int) -> Callable[[int], None]:
        return lambda done: self._progress(what, done, total)
