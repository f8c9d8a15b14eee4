"""The recipe ``ssl-membership``: a simulation file, run into a folder with a result and a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fl_privacy.attacks.membership.ssl.attacks import frame_attacks
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.audit import Claim, Control, Privacy
from fl_privacy.audit.files import write_atomically, write_result
from fl_privacy.config import ConfigError, CorpusChoice, SslMembershipFile, refuse_sweep
from fl_privacy.sims.progress import Progress, silent
from fl_privacy.sims.recipe import EVIDENCE, facts_of, finish
from fl_privacy.sims.ssl_encoders import GivenEncoder
from fl_privacy.sims.ssl_evidence import save_evidence
from fl_privacy.sims.ssl_given import attack_given_encoder
from fl_privacy.sims.ssl_given_settings import AUXILIARY, MEMBERS, NONMEMBERS, GivenMembership
from fl_privacy.sims.ssl_membership import SslMembership, SslMembershipResult, attack_encoders
from fl_privacy.sims.ssl_recordings import Inputs, source_of
from fl_privacy.sims.ssl_result import scores_csv
from fl_privacy.sims.stages import RunFolder
from fl_privacy.updates import ThreatModel


class SslMembershipRecipe:
    """One run of the recipe.

    Parameters
    ----------
    file : SslMembershipFile
    progress : callable, optional
        See `Progress`.
    workers : int
        Processes that train and ask encoders; they change no result.

    Raises
    ------
    UserError
        For an attack, size or setting that is not known.
    """

    def __init__(self, file: SslMembershipFile, progress: Progress | None = None, workers: int = 1) -> None:
        refuse_sweep(file.sweep)
        self.file = file
        self._progress: Progress = progress or silent
        self._workers = workers
        self._swap = self._swapped_settings() if file.protocol.name == "swap" else None
        self._given = None if self._swap is not None else self._given_settings()

    @property
    def threat_model(self) -> ThreatModel:
        """Who attacks, what they see and own."""
        grey = any(frame_attacks()[attack.name].grey_box for attack in self.file.attack)
        loss = ", and, for the attacks on the loss, how well it does what it was pre-trained to do" if grey else ""
        calibrated = any(frame_attacks()[attack.name].calibration for attack in self.file.attack)
        own = "others' speech, on which it learns what looks like a member"
        references = (
            "; for calibrated attacks, encoders of the same kind that others' speech trained" if calibrated else ""
        )
        return ThreatModel(
            attacker="a user of the encoder",
            observes=f"the frames of the utterances that it sends{loss}",
            owns=f"recordings of the candidates, and {own}{references}",
        )

    def run(self, folder: RunFolder) -> None:
        """Do every stage that is not done."""
        work = self._swapped if self._swap is not None else self._asked
        finish(folder, lambda: folder.stage("audit", lambda path: work(path, folder)))

    def _swapped_settings(self) -> SslMembership:
        from fl_privacy.models.pretrained import make_module
        from fl_privacy.training.pretraining import DPPretraining, Pretraining

        file = self.file
        target, protocol, audit = file.target, file.protocol, file.audit
        assert file.private is not None
        dp = None if target.dp is None else DPPretraining(**target.dp.model_dump())
        size = _size(target.model, target.size)
        training = Pretraining(**target.training, size=size, dp=dp)
        import torch

        with torch.device("meta"):
            depth = make_module(training.model, training.size).depth  # refuses a size before anything is read
        if not -depth <= target.layer < depth:
            raise ConfigError(
                f"target.layer: {training.model} of this size has no layer {target.layer}; "
                f"it has {depth}, counted from 0 (or from the end, -1)"
            )
        return SslMembership(
            source_of(file.private.corpus, file.private.root, file.private.options),
            training,
            protocol.split,
            protocol.auxiliary,
            protocol.swaps,
            Inputs(protocol.seconds, backwards=protocol.backwards),
            target.backwards,
            target.layer,
            tuple(attack.name for attack in file.attack),
            Learning(**file.improved.model_dump()),
            protocol.loss_crops,
            file.controls.random_seeds,
            audit.permutations,
            audit.confidence,
            file.simulation.seed,
            self._workers,
            protocol.training,
        )

    def _given_settings(self) -> GivenMembership:
        file = self.file
        target, protocol, audit = file.target, file.protocol, file.audit
        assert file.members is not None
        assert file.nonmembers is not None
        parameters = tuple(sorted((target.parameters or {}).items()))
        given = GivenEncoder(target.checkpoint, target.architecture or "", parameters, target.encoder)
        others = file.controls.checkpoints
        return GivenMembership(
            given,
            _source(file.members, MEMBERS),
            _source(file.nonmembers, NONMEMBERS),
            None if file.auxiliary is None else _source(file.auxiliary, AUXILIARY),
            tuple(GivenEncoder(other, given.architecture, parameters) for other in others),
            Inputs(protocol.seconds, peak=True),
            protocol.backwards,
            protocol.match_seconds,
            protocol.per_speaker,
            protocol.published,
            target.layer,
            tuple(attack.name for attack in file.attack),
            Learning(**file.improved.model_dump()),
            file.controls.random_seeds,
            audit.permutations,
            audit.confidence,
            file.simulation.seed,
            self._workers,
            protocol.loss_crops,
        )

    def _swapped(self, path: Path, folder: RunFolder) -> None:
        found = attack_encoders(folder, self.swap, self._told(4 * self.swap.swaps * self.swap.training.steps))
        save_evidence(path / EVIDENCE, found)
        self.write_swapped(path, folder.path, found)

    @property
    def swap(self) -> SslMembership:
        """The settings of a run with swapped roles."""
        assert self._swap is not None
        return self._swap

    def write_swapped(self, path: Path, out: Path, found: SslMembershipResult, **parts: Any) -> None:
        """Write the result of one run, or of several seeds merged, into a folder; a table into `path`."""
        assert self.file.private is not None
        reading = found.reading
        self._write(
            path,
            out,
            reading.claims(),
            reading.controls(self.swap.permutations),
            scores_csv([reading]),
            {
                **parts,
                "utility": found.utility,
                "queries": found.queries,
                "corpora": {"private": [facts_of(self.file.private, dict(found.left_out))], "auxiliary": []},
                "privacy": [promise.to_dict() for promise in promises(found.records)],
                "table": found.table(),
            },
        )

    def _asked(self, path: Path, folder: RunFolder) -> None:
        settings, file = self._given, self.file
        assert settings is not None
        found = attack_given_encoder(folder, settings, self._told(0))
        given = {MEMBERS: file.members, NONMEMBERS: file.nonmembers, AUXILIARY: file.auxiliary}
        facts = {side: facts_of(speech, found.left_out[side]) for side, speech in given.items() if speech is not None}
        self._write(
            path,
            folder.path,
            [claim for reading in found.readings for claim in reading.claims()],
            found.controls(settings.permutations),
            scores_csv(found.readings[:1]),
            {
                "utility": {"task": "The encoder is there already"},
                "queries": found.queries,
                "corpora": {
                    "private": [facts[MEMBERS], facts[NONMEMBERS]],
                    "auxiliary": [facts[AUXILIARY]] if AUXILIARY in facts else [],
                },
                "table": found.table(),
            },
        )

    def _write(
        self,
        path: Path,
        out: Path,
        claims: Sequence[Claim],
        controls: Sequence[Control],
        scores: str,
        parts: Mapping[str, Any],
    ) -> None:
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

    def _told(self, total: int) -> Callable[[int, int], None]:
        done = 0

        def told(job: int, step: int) -> None:
            nonlocal done
            done += 1
            self._progress("pre-training" if total else "asking the encoder", done, max(total, done))

        return told


def promises(records: Sequence[Mapping[str, Any]]) -> list[Privacy]:
    """Say what private pre-training promises: of all encoders, the weakest."""
    spent = [record["privacy"] for record in records if "privacy" in record]
    if not spent:
        return []
    worst = max(spent, key=lambda one: one["epsilon"])
    return [
        Privacy(
            unit=worst["unit"],
            mechanism="DP-SGD in pre-training",
            protects_from="whoever has the encoder",
            epsilon_accountant=worst["epsilon"],
            delta=worst["delta"],
            conditions={key: worst[key] for key in ("noise_multiplier", "clipping_norm", "sample_rate", "steps")},
            note="A speaker with n utterances in the training data has n times that epsilon at most, not that epsilon.",
        )
    ]


def _size(model: str, size: Any) -> Any:
    if isinstance(size, str):
        return size
    from fl_privacy.errors import UserError
    from fl_privacy.models.cpc import CPCSize
    from fl_privacy.models.tera import TERASize

    try:
        return (TERASize if model == "tera" else CPCSize)(**size)
    except TypeError as error:
        raise UserError(f"target.size of {model}: {error}") from error


def _source(speech: CorpusChoice, side: str) -> Any:
    return source_of(speech.corpus, speech.root, speech.options, side)
