"""The file of an audit of a speaker classifier by model inversion."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fl_privacy.config.sections import AuditSettings, CorpusChoice, Named, Once, Section, Simulation
from fl_privacy.errors import UserError

FROM_WAVES = ("standard", "sliding", "restarts", "shift-robust")
"""Attacks that begin with a wave."""
WAVES = (*FROM_WAVES, "source-filter")
"""Attacks that end with one."""
DVECTORS = ("dvector", "map-dvector")

OUTPUT_LEVEL = ("confidence-noise", "rounding", "purification", "label-only")
"""Countermeasures on answers: nothing to an attacker who holds the model."""
TRAINING_LEVEL = ("dropout", "label-smoothing", "dp-sgd")
"""Countermeasures in training."""

_OF_USE = {
    "length": ("sliding", "restarts", "shift-robust", "source-filter"),
    "stride": ("sliding", "restarts"),
    "attempts": ("source-filter",),
}
"""Settings of certain attacks alone."""

_BUDGET = (
    "objective",
    "step",
    "scale",
    "step_size",
    "iterations",
    "patience",
    "threshold",
    "length",
    "stride",
)
"""Settings in which a control of equal budget agrees."""


class CorpusPart(CorpusChoice):
    """A corpus of voices, or of those with certain labels."""

    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Values by label, such as ``{subset = ["train"]}``: recordings with one of these."""


class SpeakerInversionSimulation(Simulation):
    """What is run, and from which seed."""

    kind: Literal["speaker-inversion"]


class InversionPeople(Section):
    """Who is a class of the target, and what becomes of their recordings."""

    classes: int | None = Field(default=None, ge=3)
    """Speakers of the private corpus that the target knows; the others are auxiliary. Default: half of them, or all
    where there is an auxiliary corpus of its own; of a checkpoint, its classes."""
    trained: float = Field(default=0.5, gt=0, lt=1)
    """Share of a class's recordings that train the target,"""
    judged: float = Field(default=0.25, gt=0, lt=1)
    """and that judges know the voice by; the rest tests both."""
    attribute: str | None = "gender"
    """Label of two values to be read from inverted d-vectors; left out where the corpora have none."""

    @model_validator(mode="after")
    def _some_left(self) -> InversionPeople:
        if self.trained + self.judged > 0.95:
            raise ValueError("trained and judged leave no recordings to test on")
        return self


class InversionTarget(Section):
    """The classifier under attack: a SincNet that is trained in the run, or one that is there."""

    size: Literal["published", "middle", "small"] = "middle"
    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    decay: Literal["linear", "none"] = "linear"
    """Whether the learning rate falls to zero over the steps, or stays, as published."""
    checkpoint: str | None = None
    """A trained one: a file of ours, or the public checkpoint of SincNet's authors."""

    @model_validator(mode="after")
    def _trained_or_given(self) -> InversionTarget:
        trained = sorted(self.model_fields_set - {"checkpoint"})
        if self.checkpoint is not None and trained:
            raise ValueError(
                f"{trained[0]}: the checkpoint is trained already; "
                "give it alone: --set 'target={checkpoint=\"FILE\"}'"
            )
        return self


class InversionAttackChoice(Section):
    """An attack, on every class, from some starts."""

    name: Literal["standard", "sliding", "restarts", "shift-robust", "source-filter", "dvector", "map-dvector"]
    starts: Annotated[tuple[str, ...], Field(max_length=30), Once] = ()
    objective: Literal["cross-entropy", "one-minus-p", "margin"] = "cross-entropy"
    step: Literal["plain", "normalised", "adam"] = "plain"
    scale: Literal["variance", "published"] = "variance"
    """Steps relative to the start's variance, or of the published sizes (a constant start always takes these)."""
    step_size: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """Relative to the start's variance."""
    iterations: int = Field(default=200, ge=1)
    """Of each window, at most."""
    patience: int = Field(default=50, ge=1)
    threshold: float = Field(default=1e-3, gt=0, lt=1)
    """A cost, one minus the probability, at which a window is done."""
    length: int = Field(default=6400, ge=1)
    """Samples of a vector that is longer than a window; of restarts: of the slid vector that they stand beside."""
    stride: int = Field(default=500, ge=1)
    """Samples by which it slides."""
    attempts: int = Field(default=2, ge=1)
    """Random voices that source-filter starts from."""

    @model_validator(mode="after")
    def _starts(self) -> InversionAttackChoice:
        if self.name in FROM_WAVES and not self.starts:
            raise ValueError("starts: missing; what does the attack start from?")
        if self.name not in FROM_WAVES and self.starts:
            raise ValueError(f"starts: {self.name} has one of its own")
        return self

    @model_validator(mode="after")
    def _of_use(self) -> InversionAttackChoice:
        for key, names in _OF_USE.items():
            # Settings that a result resolved name every key: a default says nothing.
            if self.name not in names and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: of no use to {self.name}; it is of {', '.join(names)}")
        return self


class InversionJudges(Section):
    """How those are trained who judge inversions."""

    encoder: str = "x-vector"
    """Architecture of the independent recogniser and of the speaker encoder."""
    steps: int = Field(default=600, ge=1)
    crop_frames: int = Field(default=40, ge=1)
    other_seed: bool = True
    """Whether a second target, of another seed, judges too (one training more)."""


class SpoofSettings(Section):
    """Experiment 3: from inversions to speech that is put before a recogniser."""

    mappers: tuple[Literal["mlp", "ridge"], ...] = ("mlp", "ridge")
    synthesiser: str | None = None
    """One's own: ``package.module:function`` of a speaker vector; default: the reference one, trained in the run."""
    encoder: str | None = None
    """Of the speaker vectors that one's own synthesiser takes: as for `fl_privacy.models.encoder.load_encoder`."""
    steps: int = Field(default=1000, ge=1)
    """Of the reference synthesiser's training."""
    contents: int = Field(default=3, ge=1)
    """Recordings whose content it says."""

    @model_validator(mode="after")
    def _both(self) -> SpoofSettings:
        if (self.synthesiser is None) != (self.encoder is None):
            raise ValueError(
                "a synthesiser of one's own comes with the encoder of its speaker vectors, and the reverse"
            )
        return self


class Countermeasure(Named):
    """Something against inversion, by name: on answers, in training, or withholding the layer."""

    @property
    def settings(self) -> dict[str, Any]:
        """All keys but the name."""
        return {key: value for key, value in self.model_dump().items() if key != "name"}


class QuerySettings(Section):
    """The attack on a target that only answers."""

    identities: int | None = Field(default=None, ge=2)
    """Classes that are attacked by queries: the first in the target's order. Default: ten, or all of fewer."""
    pairs: int = Field(default=24, ge=1)
    iterations: int = Field(default=100, ge=1)
    step_size: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Length of a step, as a share of the wave's."""
    radius: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    below: float = Field(default=0.5, gt=0, le=1)

    def attacked(self, classes: int) -> int:
        """Return how many of a target's classes are attacked.

        Raises
        ------
        UserError
            For more than there are.
        """
        if self.identities is not None and self.identities > classes:
            raise UserError(f"queries.identities: {self.identities} of {classes} classes; the target has no more")
        return min(10, classes) if self.identities is None else self.identities


class InversionOutput(Section):
    """What a run writes beside its result."""

    audio: bool = False
    """Write inversions and synthesised voices as audio, marked as synthetic."""


class InversionAuditSettings(AuditSettings):
    """How claims are made."""

    permutations: int = Field(default=999, ge=19, le=100_000)


class SpeakerInversionFile(Section):
    """What do a classifier's weights say of the voices of its classes?"""

    simulation: SpeakerInversionSimulation
    private: CorpusPart
    """Whose voices the target knows."""
    auxiliary: CorpusPart | None = None
    """Other people, of whom the attacker has recordings; default: those of the private corpus who are no class."""
    people: InversionPeople = InversionPeople()
    target: InversionTarget = InversionTarget()
    attack: Annotated[tuple[InversionAttackChoice, ...], Field(min_length=1), Once]
    """The first, from its first start, is primary."""
    judges: InversionJudges = InversionJudges()
    spoof: SpoofSettings | None = None
    countermeasure: Annotated[tuple[Countermeasure, ...], Once] = ()
    queries: QuerySettings = QuerySettings()
    output: InversionOutput = InversionOutput()
    audit: InversionAuditSettings = InversionAuditSettings()

    @model_validator(mode="after")
    def _consistent(self) -> SpeakerInversionFile:
        if self.attack[0].name not in WAVES:
            raise ValueError(f"attack: the first is primary and has to make waves ({', '.join(WAVES)})")
        known = (*OUTPUT_LEVEL, *TRAINING_LEVEL, "withhold-layer")
        for name in (counter.name for counter in self.countermeasure):
            if name not in known:
                raise ValueError(f"countermeasure: unknown {name!r}. Known: {', '.join(known)}")
            if name in TRAINING_LEVEL and self.target.checkpoint is not None:
                raise ValueError(f"countermeasure: {name} is a matter of training; the checkpoint is trained already")
        if self.target.checkpoint is not None and self.people.classes is not None:
            raise ValueError("people.classes: the checkpoint has its classes; leave it out: --set 'people={}'")
        return self

    @model_validator(mode="after")
    def _equal_budgets(self) -> SpeakerInversionFile:
        """Restarts that differ from the sliding beside them in more than sliding are no control of it."""
        places = {attack.name: place for place, attack in enumerate(self.attack)}
        if not {"sliding", "restarts"} <= set(places):
            return self
        slid, restarted = (self.attack[places[name]] for name in ("sliding", "restarts"))
        if not set(slid.starts) & set(restarted.starts):
            return self
        for key in _BUDGET:
            mine, other = getattr(restarted, key), getattr(slid, key)
            if mine != other:
                raise ValueError(
                    f"attack.{places['restarts']}.{key}: restarts are the control of sliding from the same start and "
                    f"have to agree with it: {mine} here, {other} there"
                )
        return self

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain JSON values, as they stand in result.json."""
        held = self.model_dump(mode="json", exclude_none=True)
        if self.target.checkpoint is not None:
            held["target"] = {"checkpoint": self.target.checkpoint}
        return held
