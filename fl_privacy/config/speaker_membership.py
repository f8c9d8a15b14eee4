"""The file of an audit of speaker recognisers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fl_privacy.config._sweep import SweepSettings
from fl_privacy.config.sections import (
    AttackNames,
    AuditSettings,
    CorpusChoice,
    DPSettings,
    Once,
    Section,
    Simulation,
)


class SpeakerMembershipSimulation(Simulation):
    """What is run, and from which seed."""

    kind: Literal["speaker-membership"]


class RecogniserTraining(Section):
    """How speaker recognisers are trained; see `fl_privacy.training.speaker.SpeakerTraining`."""

    encoder: str = "x-vector"
    loss: str = "aam-softmax"
    steps: int = Field(default=400, ge=1)
    speakers_per_batch: int = Field(default=16, ge=1)
    crops_per_speaker: int = Field(default=4, ge=1)
    crop_frames: int = Field(default=80, ge=1)
    """Length of a crop, 10 ms each."""
    learning_rate: float = Field(default=2e-3, gt=0)
    clip: float = Field(default=3.0, ge=0)
    """Norm that gradients are cut to; 0: they are not."""


class SpeakerTarget(RecogniserTraining):
    """The recognisers under attack: trained in the run, or one that is there already."""

    access: Literal["white-box", "scores"] = "white-box"
    """Whether embeddings are seen, or similarities of two voices alone."""
    model: str | None = None
    """A trained recogniser: ``package.module:object``, or a TorchScript or ``torch.export`` file."""
    sample_rate: int = Field(default=16_000, ge=1)
    """That the model of a file, or a plain function, expects, in Hz."""

    @model_validator(mode="after")
    def _trained_or_given(self) -> SpeakerTarget:
        trained = sorted(self.model_fields_set & set(RecogniserTraining.model_fields))
        if self.model is not None and trained:
            raise ValueError(f"{trained[0]}: the model is trained already; [shadow] says how the attacker trains")
        if self.model is None and "sample_rate" in self.model_fields_set:
            raise ValueError("sample_rate: for a model of one's own; recognisers of a run hear 16000 Hz")
        return self

    @property
    def training(self) -> dict[str, Any]:
        """What is trained, where it is trained here."""
        return self.model_dump(include=set(RecogniserTraining.model_fields))


class RecogniserDefense(DPSettings):
    """DP-SGD over voices in the training of the recognisers; see `fl_privacy.training.speaker_private.SpeakerDP`."""

    name: Literal["dp-sgd"]
    batch_size: int = Field(default=64, ge=1)
    """Voices in a batch, on average: it is a Poisson sample, of one crop a voice."""


_BATCHES = ("speakers_per_batch", "crops_per_speaker", "clip")
"""Settings of a training that is not private."""


class QueryBudget(Section):
    """How much the primary attack asks of a target, in a trial of its own; see `attacks.membership.queries`."""

    voices: int = Field(ge=2)
    imposters: int = Field(ge=1)
    imposter_voices: int = Field(ge=1)
    grouped: bool = False


class MembershipProtocol(Section):
    """Who trains which recogniser, and what an attack hears."""

    imposters: int = Field(default=12, ge=1)
    """People known to the attacker who train no recogniser."""
    swaps: int = Field(default=4, ge=1)
    """How often a pool of speakers is halved: 2 recognisers each, of which each half trains one."""
    voices: int = Field(default=5, ge=2)
    """How many of a speaker's voices an attack hears."""
    ratios: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), Once] = (1.0, 0.0)
    """Shares of these that were trained on, where the speaker is a member; with a model of one's own, of shadows."""
    chunk_frames: int = Field(default=0, ge=0)
    """Split voices into chunks of this length, 10 ms each; 0: do not."""
    budgets: tuple[QueryBudget, ...] = ()
    """With how many queries the primary attack is tried beside."""
    static: bool = True
    """Against a defense: whether every attack is tried beside by somebody who does not know of it, whose shadows are
    trained without; twice the training."""

    @model_validator(mode="after")
    def _within(self) -> MembershipProtocol:
        for number, budget in enumerate(self.budgets):
            if budget.voices > self.voices:
                raise ValueError(f"budgets.{number}.voices: more than the {self.voices} that are heard of a speaker")
        return self


class MembershipAuditSettings(AuditSettings):
    """How claims are made; permutations are of the roles of recognisers that are trained in the run."""

    fpr: float = Field(default=0.05, gt=0, lt=1)
    """False positive rate that thresholds of shadows aim at."""


class SpeakerMembershipFile(Section):
    """Was this speaker's voice used? Recognisers trained in swapped roles, or one that somebody trained."""

    simulation: SpeakerMembershipSimulation
    target: SpeakerTarget = SpeakerTarget()
    private: CorpusChoice | None = None
    """Whose voices train the recognisers, where these are trained in the run."""
    members: CorpusChoice | None = None
    """With a model of one's own: speakers who trained it,"""
    nonmembers: CorpusChoice | None = None
    """speakers who did not,"""
    auxiliary: CorpusChoice | None = None
    """and other people, of whom the attacker trains shadows and takes imposters."""
    shadow: RecogniserTraining | None = None
    """How the attacker trains; default: as the targets were, or with the defaults where that is not known."""
    protocol: MembershipProtocol = MembershipProtocol()
    defense: tuple[RecogniserDefense, ...] = Field(default=(), max_length=1)
    """What the recognisers are trained with; the attacker who knows of it trains shadows alike."""
    attack: AttackNames
    """The first is primary."""
    audit: MembershipAuditSettings = MembershipAuditSettings()
    sweep: SweepSettings | None = None
    """Makes the file one of many simulations, for ``fl-privacy sweep``; none of these has it."""

    @model_validator(mode="after")
    def _whose(self) -> SpeakerMembershipFile:
        sides = ("members", "nonmembers", "auxiliary")
        given = [side for side in sides if getattr(self, side) is not None]
        if self.target.model is None:
            if given:
                raise ValueError(
                    f"{given[0]}: for a model of one's own (target.model); targets of a run have [private]"
                )
            if self.private is None:
                raise ValueError("private: missing; whose voices train the recognisers?")
            return self
        lacking = [side for side in sides if side not in given]
        if lacking:
            raise ValueError(f"{lacking[0]}: missing; a model of one's own takes [members], [nonmembers], [auxiliary]")
        if "permutations" in self.audit.model_fields_set:
            raise ValueError(
                "audit.permutations: of roles that are swapped; a model of one's own has one, permuted often"
            )
        if self.defense:
            raise ValueError("defense: for recognisers that are trained in the run; this one is trained already")
        if self.private is not None:
            raise ValueError("private: for recognisers that are trained in the run; target.model is trained already")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> SpeakerMembershipFile:
        """A setting that this simulation has no use for is refused."""
        if self.defense:
            for name, training in (("target", self.target), ("shadow", self.shadow)):
                idle = [] if training is None else [key for key in _BATCHES if key in training.model_fields_set]
                if idle:
                    raise ValueError(f"{name}.{idle[0]}: dp-sgd has clipping_norm, and batch_size for Poisson batches")
        elif "static" in self.protocol.model_fields_set:
            raise ValueError("protocol.static: for a run with a defense, and there is none")
        return self

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain JSON values, as they stand in result.json."""
        held = self.model_dump(mode="json", exclude_none=True)
        if self.target.model is not None:  # whose training nobody knows
            held["target"] = {k: v for k, v in held["target"].items() if k not in RecogniserTraining.model_fields}
            del held["audit"]["permutations"]
        else:
            del held["target"]["sample_rate"]
        for training in ("target", "shadow") if self.defense else ():
            held[training] = {k: v for k, v in held.get(training, {}).items() if k not in _BATCHES} or None
        if not self.defense:
            del held["protocol"]["static"]
        return {key: value for key, value in held.items() if value is not None}
