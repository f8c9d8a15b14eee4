"""The recipe ``federated-ser``: speech emotion recognition in a federation, with an attacker in the server."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fl_privacy.attacks.architecture import gradient_of
from fl_privacy.attacks.base import SUPPLIES, Gradient, ReadsLayers
from fl_privacy.attacks.evaluate import assess
from fl_privacy.attacks.files import save
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.question import SPEAKER, Question, check_values
from fl_privacy.attacks.saved import save_evidence
from fl_privacy.attacks.score import Scores, check_needs, run_attack
from fl_privacy.audit import Privacy
from fl_privacy.config import FederatedSerFile, refuse_sweep
from fl_privacy.defenses import Defense, make_defenses, unaware
from fl_privacy.errors import UserError
from fl_privacy.sims import as_published
from fl_privacy.sims.beside import FOLDER, files_beside, quote
from fl_privacy.sims.canaries import audit_epsilon, from_server, with_canaries
from fl_privacy.sims.contests import STATIC_SHADOWS, Contest, Shadow, contests
from fl_privacy.sims.engines import ENGINES, Engine, local
from fl_privacy.sims.progress import Progress, silent
from fl_privacy.sims.recipe import EVIDENCE, finish
from fl_privacy.sims.run_config import run_config_of
from fl_privacy.sims.ser_data import Voices
from fl_privacy.sims.ser_utility import utility_of
from fl_privacy.sims.ser_victims import Victims
from fl_privacy.sims.shadow_training import match_shadow, train_shadow
from fl_privacy.sims.stages import RunFolder, remove
from fl_privacy.training.accounting import UNITS
from fl_privacy.updates import Labels, ThreatModel, UpdateStore, observation, resolve_layers

LEDGERS = "ledgers.json"
"""File in the victim's stage folder: the noisy steps that each client took."""

CHECKPOINT = "checkpoint"
"""File in a federation's stage folder from which a killed one goes on."""


class FederatedSerRecipe:
    """One run of the recipe.

    Parameters
    ----------
    settings : FederatedSerFile
        The resolved simulation.
    progress : callable, optional
        See `Progress`.
    engine : callable, optional
        What the victim federation runs on; by default what ``simulation.engine`` names.
    workers : int
        Processes of the local engine; they change no result.
    voices : Voices, optional
        Both sides' speech, where it is read already: of a simulation that differs in its defense alone.
    """

    def __init__(
        self,
        settings: FederatedSerFile,
        progress: Progress | None = None,
        engine: Engine | None = None,
        workers: int = 1,
        voices: Voices | None = None,
    ) -> None:
        refuse_sweep(settings.sweep)
        self.settings = settings
        self._local: Engine = functools.partial(local, workers=workers)
        engines = {**ENGINES, "local": self._local}
        self._engine = engine or engines.get(settings.simulation.engine)
        self._progress: Progress = progress or silent
        self._voices = voices or Voices(settings, self._progress)
        self._asked: dict[tuple[str, bool, bool], Question] = {}
        self._victims = Victims(settings, self._voices)
        self._contests = contests(settings.attack, against_defense=bool(settings.defense))
        self._victims.check()  # before anything runs
        supplied = SUPPLIES - ({"sent"} if settings.capture.observe == "sum" else set())
        for contest in self._contests:
            name, attack = contest.name, contest.attack
            check_needs(name, attack, supplied, numeric=settings.private.numeric, attribute=settings.private.attribute)
        self._check_layers()
        self._beside = [
            FederatedSerRecipe(file, functools.partial(self._tell_beside, number), workers=workers, voices=self._voices)
            for number, file in enumerate(files_beside(settings))
        ]

    def _tell_beside(self, number: int, what: str, done: int, total: int) -> None:
        self._progress(f"{what}, beside" if len(self._beside) == 1 else f"{what}, beside ({number + 1})", done, total)

    def _check_layers(self) -> None:
        """Refuse attacks on layers that the network does not have, or that are not captured."""
        from fl_privacy.models.ser import SERNet

        shapes = {name: tuple(p.shape) for name, p in SERNet(8, len(self.settings.task.classes)).named_parameters()}
        kept = self.settings.capture.arrays
        for contest in self._contests:
            name, attack = contest.name, contest.attack
            if not isinstance(attack, ReadsLayers):
                continue
            for layer in resolve_layers(shapes, attack.layers):
                if kept is not None and not any(key in (layer.name, *layer.arrays) for key in kept):
                    raise UserError(
                        f"attack {name!r} reads layer {layer.name}, which capture.arrays ({', '.join(kept)}) leaves out"
                    )

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
        if self.settings.private.attribute == SPEAKER:
            return f"the architecture, the training settings, and other recordings of the same speakers ({owned})"
        return f"the architecture, the training settings, and labelled speech of others ({owned})"

    def run(self, folder: RunFolder) -> None:
        """Do every stage that is not done."""
        settings = self.settings
        if self._engine is None:
            raise UserError(
                f"simulation.engine = {settings.simulation.engine!r} is for `flwr run` (see docs/engines.md); "
                f"here there are: {', '.join(ENGINES)}"
            )
        if not folder.done("victim"):
            self._victims.check(self._voices.partition("victim", settings.simulation.seed).clients)
            self._voices.check_strangers()
            self._check_attribute()
        folder.stage(
            "victim", lambda path: self._federation(path, "victim", settings.simulation.seed), go_on=CHECKPOINT
        )
        for shadow in self._shadows:
            folder.stage(
                shadow.name,
                lambda path, shadow=shadow: self._shadow(path, shadow, folder.path / "victim"),  # type: ignore[misc]
            )
        if self._audited(folder.path):
            folder.stage("canaries", lambda path: self._canaries(path, folder.path))
        finish(folder, lambda: self._attack_and_audit(folder))
        if not settings.capture.keep:
            for name in ["victim", *(shadow.name for shadow in self._shadows)]:
                remove(folder.path / name / "updates")

    def write_data(self, folder: Path) -> int:
        """Write the private clients' data, and nothing else, into a new folder; return how many clients there are."""
        made = self._voices.partition("victim", self.settings.simulation.seed)
        self._voices.write(made, folder)
        return len(made.clients)

    @cached_property
    def _shadows(self) -> list[Shadow]:
        """The shadow federations, and the matched shadows, that some attack learns from."""
        asked = {contest.shadows for contest in self._contests}
        seeds = [self._seed(100 + number) for number in range(self.settings.shadow.federations)]
        found = []
        for defended in (True, False):
            mark = "" if defended else STATIC_SHADOWS
            if ("federation", defended) in asked:
                found += [Shadow(f"{mark}shadow-{n}", seed, defended) for n, seed in enumerate(seeds)]
            if ("matched", defended) in asked:
                found.append(Shadow(f"{mark}matched", self._seed(99), defended))
        return found

    def _names(self, shadows: str, defended: bool) -> list[str]:
        return [s.name for s in self._shadows if s.defended == defended and s.of == shadows]

    def _seed(self, number: int) -> int:
        return int(np.random.SeedSequence([self.settings.simulation.seed, number]).generate_state(1)[0])

    def _check_attribute(self) -> None:
        """Refuse values of the attribute that nothing can be told of, before hours are spent."""
        private, kept = self.settings.private, self.settings.capture.clients
        victim = self._voices.partition("victim", self.settings.simulation.seed).labels.rows
        watched = [row for client, row in victim.items() if kept is None or int(client) in kept]
        for of in ("matched", "federation"):
            parts = {s.part: s.seed for s in self._shadows if s.of == of}
            own = [
                row for part, seed in parts.items() for row in self._voices.partition(part, seed).labels.rows.values()
            ]
            if own:
                theirs, mine = ([row[private.attribute] for row in rows] for rows in (watched, own))
                check_values(mine, theirs, private.attribute, positive=private.positive, numeric=private.numeric)

    # ------------------------------------------------------------------ stages

    def _federation(self, folder: Path, name: str, seed: int, defended: bool = True) -> None:
        """Partition, run the federation, and leave its store, labels and utility."""
        private = name == "victim"
        folder = folder.resolve()  # an engine's processes have working directories of their own
        clients = self._prepare(folder, name, seed)
        run_config = self._run_config(folder, clients, seed, private, defended)
        total = run_config["num-server-rounds"] * run_config["clients-per-round"]
        engine = (self._engine or self._local) if private else train_shadow
        if engine is not self._local:
            run_config["checkpoint"] = ""
        engine(folder, clients, run_config, lambda done: self._progress(f"{name} federation", done, total))
        self._progress(f"{name} federation", total, total)  # a resumed one counts from where it was
        remove(folder / "data")
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _shadow(self, folder: Path, shadow: Shadow, victim: Path) -> None:
        """Run a federation of the attacker's own, or its clients from the models that the victims were sent."""
        if shadow.of == "federation":
            self._federation(folder, shadow.name, shadow.seed, shadow.defended)
            return
        folder, seed, defended = folder.resolve(), shadow.seed, shadow.defended
        clients = self._prepare(folder, "matched", seed)
        run_config = self._run_config(folder, clients, seed, private=False, defended=defended)
        store = UpdateStore(victim / "updates")
        rounds = store.rounds[:: self.settings.shadow.matched_every]
        a_round = run_config["clients-per-round"]
        match_shadow(
            store,
            run_config,
            rounds=rounds,
            clients_per_round=a_round,
            seed=seed,
            trained=lambda done: self._progress("matched shadows", done, len(rounds) * a_round),
        )
        remove(folder / "data")

    def _prepare(self, folder: Path, name: str, seed: int) -> int:
        """Write a federation's data, its labels and what is known of its corpora; return how many clients it has."""
        made = self._voices.partition(name.removeprefix(STATIC_SHADOWS), seed)
        self._voices.write(made, folder / "data")
        made.labels.write(folder / "labels.csv")
        test = {"test_whose": made.test_whose, "test_labels": made.test_labels.tolist()}
        facts = [*self._voices.facts(name == "victim"), test]
        (folder / "corpora.json").write_text(json.dumps(facts))
        return len(made.clients)

    def _run_config(self, folder: Path, clients: int, seed: int, private: bool, defended: bool) -> dict[str, Any]:
        run_config = run_config_of(
            self.settings,
            folder,
            clients,
            seed,
            private=private,
            owns=self._owns,
            defenses=self._victims.defenses if defended else unaware(self._victims.defenses),
        )
        run_config["checkpoint"] = str(folder / CHECKPOINT)
        if self._victims.defenses and defended:
            # The attacker's noise is the victims': its own clients may take part more often.
            run_config["participations"] = self._victims.participations
            if private:
                run_config["ledgers"] = str(folder / LEDGERS)
        return run_config

    def _question(self, folder: Path, contest: Contest) -> Question:
        (shadows, defended), private = contest.shadows, self.settings.private
        key = (shadows, defended, contest.aware)
        if key not in self._asked:
            names = self._names(shadows, defended)
            own, victim = (_observed([folder / name for name in those]) for those in (names, ["victim"]))
            examples = None
            if any("examples" in each.attack.needs for each in self._contests):
                examples = self._voices.partition("matched", self._seed(99)).examples
            knows = contest.aware and bool(self._victims.defenses)
            self._asked[key] = Question.ask(
                own,
                victim,
                private.attribute,
                private.positive,
                numeric=private.numeric,
                examples=examples,
                gradient=self._gradient(victim),
                noise=self._victims.noise if knows else None,
                own_noise=self._victims.noise if knows and defended else None,
            )
        return self._asked[key]

    def _gradient(self, victim: Observed) -> Gradient:
        from fl_privacy.models.ser import SERNet

        shapes = victim.updates[0].shapes
        model: Any = SERNet(shapes["fc1.weight"][1], len(self.settings.task.classes), self.settings.federation.dropout)
        for defense in make_defenses(self._victims.defenses):
            model = defense.model(model)
        return gradient_of(model)

    def _attack_and_audit(self, folder: RunFolder) -> None:
        for number, recipe in enumerate(self._beside):
            with RunFolder(folder.path / FOLDER / str(number), recipe.settings.resolved()).held() as held:
                recipe.run(held)
        for number in range(len(self._contests)):
            folder.stage(
                f"attacks/{number}",
                lambda path, n=number: self._attack(path, n, folder.path),  # type: ignore[misc]
            )
        folder.stage("audit", lambda path: self._audit(path, folder.path))

    def _attack(self, folder: Path, number: int, run: Path) -> None:
        contest = self._contests[number]
        name, attack, choice = contest.name, contest.attack, contest.choice
        question = self._question(run, contest)
        leaked = as_published.leaked_means(self.settings, attack, question)
        permutations = 0 if getattr(attack, "costly", False) else self.settings.audit.permutations
        scores = run_attack(
            attack,
            question.own,
            leaked.observed,
            question.labels(question.own),
            question.auxiliary,
            permutations=permutations if choice.permutations is None else choice.permutations,
            seed=self.settings.simulation.seed,
            progress=lambda done, total: self._progress(f"attack {name}", done, total),
        )
        as_published.save_scores(leaked, scores, folder)

    def _audit(self, folder: Path, run: Path) -> None:
        """Write result.json and scores.csv into the run folder, and here what a sweep needs to merge seeds."""
        self._progress("audit", 0, 1)
        settings = self.settings
        question = self._question(run, self._contests[0])
        evaluation = assess(
            question,
            {c.name: Scores.load(run / "attacks" / str(i) / "scores.npz") for i, c in enumerate(self._contests)},
            confidence=settings.audit.confidence,
            link_shards=settings.audit.link_shards,
            leaked_updates=settings.audit.leaked_updates,
            windows=settings.audit.windows,
            seed=settings.simulation.seed,
            context=self._context(),
        )
        evaluation.claims += as_published.claims_of(settings, self._contests, question, run, self._context())
        own = self._names(*self._contests[0].shadows)[0]
        facts = {n: json.loads((run / n / "corpora.json").read_text()) for n in ("victim", own)}
        test = facts["victim"][-1]
        utility = utility_of(json.loads((run / "victim" / "utility.json").read_text()), **test)
        confidence = settings.audit.confidence
        save(
            evaluation,
            run,
            simulation=settings.resolved(),
            threat_model=self.threat_model.to_result(),
            attacks={c.name: _first_line(c.attack) for c in self._contests if c.aware},
            utility=utility,
            beside=[quote(run, n, evaluation, utility, confidence) for n in range(len(self._beside))],
            corpora={"private": facts["victim"][:-1], "auxiliary": facts[own][:-1]},
            test_speakers=list(utility["by_speaker"]),
            privacy=[promise.to_dict() for promise in with_canaries(self._promises(run), [run])],
            failed_replies=[list(f) for f in UpdateStore(run / "victim" / "updates").failures],
        )
        save_evidence(evaluation, folder / EVIDENCE)
        self._progress("audit", 1, 1)

    def _promises(self, run: Path) -> list[Privacy]:
        return self._victims.promises(run / "victim" / LEDGERS)

    def _audited(self, run: Path) -> list[str]:
        """Return the units whose epsilon is to be bounded from below."""
        audit, capture = self.settings.audit, self.settings.capture
        if not audit.canaries or capture.observe == "sum":
            return []
        found = {promise.unit for promise in self._promises(run) if from_server(promise)} & set(UNITS)
        if any(type(d).private_steps is not Defense.private_steps for d in make_defenses(self._victims.defenses)):
            found.discard("client")  # its crafted updates would have to come about by private steps
        return sorted(found)

    def _canaries(self, folder: Path, run: Path) -> None:
        """Bound epsilon from below, by canaries among replicas of the private clients."""
        folder, seed = folder.resolve(), self.settings.simulation.seed
        self._voices.write(self._voices.partition("victim", seed), folder / "data")
        run_config = self._run_config(folder, self._victims.clients, seed, private=True, defended=True)
        for unit in self._audited(run):
            audit_epsilon(
                UpdateStore(run / "victim" / "updates"),
                folder / "data",
                run_config,
                unit,  # type: ignore[arg-type]
                canaries=self.settings.audit.canaries,
                seed=seed,
                confidence=self.settings.audit.confidence,
                told=lambda done, total, unit=unit: self._progress(f"canaries among {unit}s", done, total),  # type: ignore[misc]
            ).save(folder / f"{unit}.npz")
        remove(folder / "data")

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


def _observed(stages: Sequence[Path]) -> Observed:
    return Observed.of([(UpdateStore(path / "updates"), Labels.read(path / "labels.csv")) for path in stages])


def _first_line(attack: object) -> str:
    return (type(attack).__doc__ or "").strip().partition("\n")[0]
