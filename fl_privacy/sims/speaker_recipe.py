"""The recipe ``speaker-membership``: a simulation file, run into a folder with a result and a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fl_privacy.attacks.membership.queries import Budget
from fl_privacy.attacks.saved import save_evidence
from fl_privacy.audit.files import write_atomically, write_result
from fl_privacy.config import CorpusChoice, SpeakerMembershipFile, refuse_sweep
from fl_privacy.errors import UserError
from fl_privacy.models.speaker import ENCODERS
from fl_privacy.models.speaker_losses import LOSSES
from fl_privacy.sims.own_recogniser import OwnRecogniser, attack_own_recogniser
from fl_privacy.sims.progress import Progress, silent
from fl_privacy.sims.recipe import EVIDENCE, facts_of, finish
from fl_privacy.sims.speaker_membership import SpeakerMembership, attack_in_swapped_roles
from fl_privacy.sims.speaker_recognisers import Source
from fl_privacy.sims.speaker_result import SpeakerMembershipResult
from fl_privacy.sims.stages import RunFolder
from fl_privacy.training.speaker import SpeakerTraining
from fl_privacy.training.speaker_private import NAME, SpeakerDP
from fl_privacy.updates import ThreatModel

_SEEN = {"white-box": "the embeddings of the voices that it sends", "scores": "similarities of two voices alone"}


class SpeakerMembershipRecipe:
    """One run of the recipe.

    Parameters
    ----------
    file : SpeakerMembershipFile
    progress : callable, optional
        See `Progress`.
    workers : int
        Processes that train recognisers; they change no result.

    Raises
    ------
    UserError
        For an attack, encoder or loss that is not known.
    """

    def __init__(self, file: SpeakerMembershipFile, progress: Progress | None = None, workers: int = 1) -> None:
        refuse_sweep(file.sweep)
        self.file = file
        self._progress: Progress = progress or silent
        target, protocol, audit = file.target, file.protocol, file.audit
        own = target.model is not None
        dp = next((SpeakerDP(**defense.model_dump(exclude={"name"})) for defense in file.defense), None)
        shadow = None if file.shadow is None else SpeakerTraining(**file.shadow.model_dump())
        # Of a model of one's own the attacker knows the shadows' training alone.
        training = (shadow or SpeakerTraining()) if own else SpeakerTraining(**target.training, dp=dp)
        speech = file.auxiliary if own else file.private
        assert speech is not None
        for chosen in (training, shadow or training):
            for name, known, what in ((chosen.encoder, ENCODERS, "encoder"), (chosen.loss, LOSSES, "loss")):
                if name not in known:
                    raise UserError(f"unknown speaker {what} {name!r}. Known: {', '.join(known)}")
        self.settings = SpeakerMembership(
            speech.corpus,
            speech.root,
            training,
            shadow=None if own else shadow,
            access=target.access,
            imposters=protocol.imposters,
            swaps=protocol.swaps,
            voices=protocol.voices,
            ratios=protocol.ratios,
            chunk_frames=protocol.chunk_frames,
            fpr=audit.fpr,
            attacks=tuple(attack.name for attack in file.attack),
            permutations=audit.permutations,
            confidence=audit.confidence,
            seed=file.simulation.seed,
            processes=workers,
            options=speech.options,
            budgets=tuple(Budget(**budget.model_dump()) for budget in protocol.budgets),
            static=protocol.static,
        )

    @property
    def threat_model(self) -> ThreatModel:
        """Who attacks, what they see and own."""
        file, settings = self.file, self.settings
        trained = f"{settings.training.encoder if settings.shadow is None else settings.shadow.encoder} recognisers"
        how = "" if file.target.model is None and settings.shadow is None else ", which may be unlike the target"
        if settings.training.dp is not None:
            how += f", with the same {NAME}"
        return ThreatModel(
            attacker="a user of the recogniser",
            observes=_SEEN[settings.access],
            owns=f"recordings of the candidates, and others' speech, on which it trains {trained} of its own{how}",
        )

    def run(self, folder: RunFolder) -> None:
        """Do every stage that is not done."""
        work = self._swapped if self.file.target.model is None else self._own
        finish(folder, lambda: folder.stage("audit", lambda path: work(path, folder)))

    def _swapped(self, path: Path, folder: RunFolder) -> None:
        found = attack_in_swapped_roles(folder, self.settings, self._told())
        found.save(path / EVIDENCE)
        self.write_swapped(path, folder.path, found)

    def write_swapped(self, path: Path, out: Path, found: SpeakerMembershipResult, **parts: Any) -> None:
        """Write the result of one run, or of several seeds merged, into a folder; a table into `path`."""
        assert self.file.private is not None
        corpora = {"private": [facts_of(self.file.private, dict(found.excluded))], "auxiliary": []}
        parts |= {
            "utility": {"task": "Verification by voices that no recogniser was trained on", **found.utility},
            "queries": found.queries,
            "corpora": corpora,
            "privacy": [promise.to_dict() for promise in found.privacy],
            "table": found.table(),
        }
        self._write(path, out, found.claims(), found.controls(), found.scores_csv(), parts)

    def _own(self, path: Path, folder: RunFolder) -> None:
        from fl_privacy.attacks.files import scores_csv

        file = self.file
        assert file.target.model is not None
        assert file.members is not None
        assert file.nonmembers is not None
        assert file.auxiliary is not None
        rate = file.target.sample_rate if "sample_rate" in file.target.model_fields_set else None
        own = OwnRecogniser(
            file.target.model, _source(file.members, "members/"), _source(file.nonmembers, "nonmembers/"), rate
        )
        found = attack_own_recogniser(folder, own, self.settings, self._told())
        corpora = {
            "private": [
                facts_of(file.members, found.left_out["members/"]),
                facts_of(file.nonmembers, found.left_out["nonmembers/"]),
            ],
            "auxiliary": [facts_of(file.auxiliary, found.left_out["auxiliary/"])],
        }
        parts = {
            "utility": {"task": "Verification by the candidates' voices", **found.utility},
            "queries": found.queries,
            "corpora": corpora,
            "table": found.evaluation.table(),
        }
        evaluation = found.evaluation
        save_evidence(evaluation, path / EVIDENCE)
        self._write(path, folder.path, evaluation.claims, evaluation.controls, scores_csv(evaluation), parts)

    def _write(self, path: Path, out: Path, claims: Any, controls: Any, scores: str, parts: dict[str, Any]) -> None:
        write_atomically(path / "table.txt", parts["table"] + "\n")
        write_result(
            out,
            claims,
            controls,
            scores,
            simulation=self.file.resolved(),
            threat_model=self.threat_model.to_result(),
            **parts,
        )

    def _told(self) -> Callable[[int, int], None]:
        settings = self.settings
        kinds = {settings.training, *settings.shadow_kinds.values()}
        each = 4 if self.file.target.model is None else 2
        total, done = each * settings.swaps * sum(training.steps for training in kinds), 0

        def told(job: int, step: int) -> None:
            nonlocal done
            done += 1  # one call for each step
            self._progress("training recognisers", done, total)

        return told


def _source(speech: CorpusChoice, side: str) -> Source:
    return Source(speech.corpus, speech.root, json.dumps(speech.options, sort_keys=True), side)
