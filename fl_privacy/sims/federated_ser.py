"""The recipe ``federated-ser``: speech emotion recognition in a federation, with an attacker in the server."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fl_privacy.attacks.base import make_attacks
from fl_privacy.attacks.evaluate import Question, assess
from fl_privacy.attacks.files import save
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.score import Scores, check_needs, run_attack
from fl_privacy.config import CorpusChoice, SimulationFile
from fl_privacy.corpora import Corpus
from fl_privacy.defenses import make_defenses
from fl_privacy.errors import UserError
from fl_privacy.features import FeatureTable, extract
from fl_privacy.report import write_report
from fl_privacy.sims import as_published
from fl_privacy.sims.engines import ENGINES, Engine, local
from fl_privacy.sims.partition import Partition, corpus_names, partition, task_corpus
from fl_privacy.sims.stages import RunFolder, remove
from fl_privacy.training import write_federation
from fl_privacy.updates import Labels, ThreatModel, UpdateStore, observation

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

CHECKPOINT = "checkpoint"
"""File in a federation's stage folder from which a killed one goes on."""


class FederatedSER:
    """One run of the recipe.

    Parameters
    ----------
    settings : SimulationFile
        The resolved simulation.
    progress : callable, optional
        See `Progress`.
    engine : callable, optional
        What the victim federation runs on; by default what ``simulation.engine`` names.
    workers : int
        Processes of the local engine; they change no result.
    """

    def __init__(
        self,
        settings: SimulationFile,
        progress: Progress | None = None,
        engine: Engine | None = None,
        workers: int = 1,
    ) -> None:
        self.settings = settings
        self._local: Engine = functools.partial(local, workers=workers)
        engines = {**ENGINES, "local": self._local}
        self._engine = engine or engines.get(settings.simulation.engine)
        self._progress: Progress = progress or (lambda what, done, total: None)
        self._attacks = make_attacks([a.model_dump(exclude_none=True) for a in settings.attack])
        for name, attack in self._attacks:
            check_needs(name, attack)
        self._defenses = [d.model_dump() for d in settings.defense]
        make_defenses(self._defenses)  # a wrong setting is refused before anything runs

    @property
    def threat_model(self) -> ThreatModel:
        """Who attacks, what they see and own."""
        capture = self.settings.capture
        clients = None if capture.clients is None else [str(c) for c in capture.clients]
        seen = observation(capture.observe, every=capture.every, clients=clients, arrays=capture.arrays)
        return ThreatModel(observes=seen, owns=self._owns)

    @property
    def _owns(self) -> str:
        owned = " and ".join(choice.corpus for choice in self.settings.auxiliary)
        return f"the architecture, the training settings, and labelled speech of others ({owned})"

    def run(self, folder: RunFolder) -> None:
        """Do every stage that is not done."""
        settings = self.settings
        if self._engine is None:
            raise UserError(
                f"simulation.engine = {settings.simulation.engine!r} is for `flwr run` (see docs/engines.md); "
                f"here there are: {', '.join(ENGINES)}"
            )
        with _logs_to(folder.path / "log.txt"):
            if not folder.done("victim"):
                self._check_strangers()
            folder.stage(
                "victim", lambda path: self._federation(path, "victim", settings.simulation.seed), go_on=CHECKPOINT
            )
            names = [f"shadow-{i}" for i in range(settings.shadow.federations)]
            for number, name in enumerate(names):
                seed = int(np.random.SeedSequence([settings.simulation.seed, 100 + number]).generate_state(1)[0])
                folder.stage(
                    name,
                    lambda path, name=name, seed=seed: self._federation(path, name, seed),  # type: ignore[misc]
                    go_on=CHECKPOINT,
                )
            whole = folder.done("audit") and (folder.path / "result.json").exists()
            if not whole:
                folder.undo("audit")
                question = self._question(folder.path, names)
                for number in range(len(self._attacks)):
                    folder.stage(
                        f"attacks/{number}",
                        lambda path, n=number: self._attack(path, n, question),  # type: ignore[misc]
                    )
                folder.stage("audit", lambda path: self._audit(path, folder.path, question))
            if not (folder.path / "report.html").exists():
                write_report(folder.path)
        if not settings.capture.keep:
            for name in ["victim", *names]:
                remove(folder.path / name / "updates")

    def write_data(self, folder: Path) -> int:
        """Write the private clients' data, and nothing else, into a new folder; return how many clients there are."""
        made = self._partition("victim", self.settings.simulation.seed)[1]
        self._write(made, folder)
        return len(made.clients)

    # ------------------------------------------------------------------ stages

    @cached_property
    def _private(self) -> FeatureTable:
        return self._features(self.settings.private)

    @cached_property
    def _auxiliary(self) -> list[FeatureTable]:
        return [self._features(choice) for choice in self.settings.auxiliary]

    def _check_strangers(self) -> None:
        """Refuse auxiliary recordings that are private ones, under whatever name they came."""
        private = {self._private.corpus.fingerprint(u): u.id for u in self._private.corpus}
        for table in self._auxiliary:
            shared = [u.id for u in table.corpus if table.corpus.fingerprint(u) in private]
            if shared:
                raise UserError(
                    f"{len(shared)} recording(s) of the auxiliary corpus {table.corpus.name!r} are private ones too, "
                    f"such as {shared[0]!r}: the attacker owns other speakers"
                )

    def _features(self, choice: CorpusChoice) -> FeatureTable:
        corpus = task_corpus(Corpus.load(choice.corpus, choice.root, **choice.options), self.settings.task)
        what = f"features of {choice.corpus}"
        return extract(
            corpus, self.settings.features.name, progress=lambda done, total: self._progress(what, done, total)
        )

    def _partition(self, name: str, seed: int) -> tuple[list[FeatureTable], Partition]:
        settings, private = self.settings, name == "victim"
        tables = [self._private] if private else self._auxiliary
        choices = [settings.private] if private else settings.auxiliary
        names = corpus_names([table.corpus.name for table in (self._private, *self._auxiliary)])
        return tables, partition(
            tables,
            settings.federation,
            settings.task,
            names_of_corpora=names[:1] if private else names[1:],
            attribute=settings.private.attribute,
            how=settings.features.normalise,
            seed=seed,
            hold_out=private or settings.shadow.hold_out,
            shards=[choice.shards or settings.federation.shards_per_speaker for choice in choices],
            fold=None if private else int(name.removeprefix("shadow-")) % settings.federation.folds,
        )

    def _write(self, made: Partition, data: Path) -> None:
        write_federation(data, made.clients, self.settings.task.classes, made.test_features, made.test_labels)

    def _federation(self, folder: Path, name: str, seed: int) -> None:
        """Partition, run the federation, and leave its store, labels and utility."""
        settings, capture, private = self.settings.federation, self.settings.capture, name == "victim"
        folder = folder.resolve()  # an engine's processes have working directories of their own
        tables, made = self._partition(name, seed)
        data = folder / "data"
        self._write(made, data)
        made.labels.write(folder / "labels.csv")
        (folder / "corpora.json").write_text(
            json.dumps([_facts(t.corpus) for t in tables] + [{"test_speakers": list(made.test_speakers)}])
        )
        clients = len(made.clients)
        a_round = settings.a_round_of(clients)
        if a_round > clients:
            raise UserError(f"federation.clients_per_round = {a_round}, but {name} has only {clients} clients")
        rounds = settings.rounds if private else self.settings.shadow.rounds or settings.rounds
        engine = self._engine if private and self._engine else self._local
        shared = not private and self.settings.shadow.initialisation == "victim"
        engine(
            folder,
            clients,
            {
                **({"initial-seed": self.settings.simulation.seed} if shared else {}),
                "data": str(data),
                "store": str(folder / "updates"),
                "utility": str(folder / "utility.json"),
                "seed": seed,
                "algorithm": settings.algorithm,
                "num-server-rounds": rounds,
                "clients-per-round": a_round,
                "batch-size": settings.batch_size,
                "learning-rate": settings.learning_rate or 0.0,
                "local-epochs": settings.local_epochs,
                "dropout": settings.dropout,
                "fraction-evaluate": settings.fraction_evaluate,
                "defenses": json.dumps(self._defenses),
                "observe": capture.observe,
                "owns": self._owns,
                "capture-arrays": json.dumps(capture.arrays),
                "capture-clients": json.dumps(capture.clients if private else None),
                "capture-every": capture.every,
                "capture-dtype": capture.dtype,
                "checkpoint": str(folder / CHECKPOINT) if engine is self._local else "",
            },
            lambda done: self._progress(f"{name} federation", done, rounds * a_round),
        )
        self._progress(
            f"{name} federation", rounds * a_round, rounds * a_round
        )  # a resumed one counts from where it was
        remove(data)
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _question(self, folder: Path, shadows: list[str]) -> Question:
        def observed(names: list[str]) -> Observed:
            return Observed.of(
                [(UpdateStore(folder / n / "updates"), Labels.read(folder / n / "labels.csv")) for n in names]
            )

        private = self.settings.private
        return Question.ask(observed(shadows), observed(["victim"]), private.attribute, private.positive)

    def _attack(self, folder: Path, number: int, question: Question) -> None:
        name, attack = self._attacks[number]
        leaked = as_published.leaked_means(self.settings, attack, question)
        scores = run_attack(
            attack,
            question.own,
            leaked.observed,
            question.labels(question.own),
            question.auxiliary,
            permutations=self.settings.audit.permutations,
            seed=self.settings.simulation.seed,
            progress=lambda done, total: self._progress(f"attack {name}", done, total),
        )
        as_published.save_scores(leaked, scores, folder)

    def _audit(self, folder: Path, run: Path, question: Question) -> None:
        """Write result.json and scores.csv into the run folder, and here what a sweep needs to merge seeds."""
        self._progress("audit", 0, 1)
        settings = self.settings
        evaluation = assess(
            question,
            {name: Scores.load(run / "attacks" / str(i) / "scores.npz") for i, (name, _) in enumerate(self._attacks)},
            confidence=settings.audit.confidence,
            seed=settings.simulation.seed,
            context=self._context(),
        )
        evaluation.claims += as_published.claims_of(settings, self._attacks, question, run, self._context())
        facts = {n: json.loads((run / n / "corpora.json").read_text()) for n in ("victim", "shadow-0")}
        save(
            evaluation,
            run,
            simulation=settings.resolved(),
            threat_model={**self.threat_model.to_dict(), "words": self.threat_model.describe()},
            utility=_utility(json.loads((run / "victim" / "utility.json").read_text())),
            corpora={"private": facts["victim"][:-1], "auxiliary": facts["shadow-0"][:-1]},
            test_speakers=facts["victim"][-1]["test_speakers"],
            failed_replies=[list(f) for f in UpdateStore(run / "victim" / "updates").failures],
        )
        with (folder / "permuted.npz").open("wb") as file:
            np.savez(file, **evaluation.permuted)  # type: ignore[arg-type]
        self._progress("audit", 1, 1)

    def _context(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "target": "federation",
            "algorithm": settings.federation.algorithm,
            "attacker": "static" if not settings.defense else "adaptive",
            "defense": "+".join(d.name for d in settings.defense) or None,
            "protocol": "controlled",
            "seeds": (settings.simulation.seed,),
            "conditions": {
                "private": settings.private.corpus,
                "auxiliary": "+".join(a.corpus for a in settings.auxiliary),
                "features": settings.features.name,
                "normalise": settings.features.normalise,
            },
        }


def _facts(corpus: Corpus) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for excluded in corpus.excluded:
        reasons[excluded.reason] = reasons.get(excluded.reason, 0) + 1
    return {
        "name": corpus.name,
        "speakers": len(corpus.speakers),
        "utterances": len(corpus),
        "left_out": dict(sorted(reasons.items())),
    }


def _utility(history: Mapping[str, Any]) -> dict[str, Any]:
    test = history["test"]
    last = {key: values[-1] for key, values in test.items() if values}
    return {
        "task": "emotion of held-out speakers, model of the last round",
        "uar": last.get("uar"),
        "accuracy": last.get("accuracy"),
        "chance_uar": 1 / len(history["classes"]),
        "by_round": test,
        "validation_accuracy_by_round": history["validation_accuracy"],
    }


@contextmanager
def _logs_to(path: Path) -> Iterator[None]:
    """Send what Flower and we log to a file, and only there."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to the run folder: {path}: {error.strerror or error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    saved = []
    for name in ("flwr", "fl_privacy"):
        logger = logging.getLogger(name)
        saved.append((logger, logger.handlers[:], logger.level, logger.propagate))
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, handlers, level, propagate in saved:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
