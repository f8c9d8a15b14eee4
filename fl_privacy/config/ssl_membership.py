"""The file of an audit of self-supervised speech encoders."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fl_privacy.config._sweep import SweepSettings
from fl_privacy.config.sections import AttackNames, AuditSettings, CorpusChoice, DPSettings, Section, Simulation

_TRAINED = (
    "model",
    "size",
    "steps",
    "batch_size",
    "crop_seconds",
    "learning_rate",
    "backwards",
    "negatives_among",
    "dp",
)
_SWAPPED = ("split", "auxiliary", "swaps", "training")
_GIVEN = ("checkpoint", "architecture", "parameters", "encoder")


class SslMembershipSimulation(Simulation):
    """What is run, and from which seed."""

    kind: Literal["ssl-membership"]


class EncoderTarget(Section):
    """The encoders under attack: pre-trained in the run, or one that is there already."""

    model: Literal["tera", "cpc"] = "tera"
    size: str | dict[str, Any] = "small"
    """``small``, ``published``, or a table of sizes."""
    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=16, ge=1)
    crop_seconds: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    backwards: bool = False
    """Pre-train on waves turned around in time."""
    negatives_among: Literal["batch", "utterance"] | None = None
    """Of CPC."""
    dp: DPSettings | None = None
    """Over utterances (`fl_privacy.training.pretraining.DPPretraining`); ``none``, or left out: ordinary training."""
    checkpoint: str | None = None
    """Of an encoder that is there already: its file; without one, torch's hub cache."""
    architecture: str | None = None
    """Of the checkpoint, such as ``hubert_base`` or ``WAV2VEC2_BASE``."""
    parameters: dict[str, Any] | None = None
    """Sizes, where the architecture takes some."""
    encoder: str | None = None
    """Instead: ``package.module:object``, a function of a wave that returns frames, or a `FrameEncoder`."""
    layer: int = -1
    """Whose frames are attacked; 0 is the first."""

    @field_validator("dp", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        """Read "none": TOML has no word for it, and a sweep over epsilons wants a cell without."""
        return None if value == "none" else value

    @property
    def training(self) -> dict[str, Any]:
        """How encoders are pre-trained, as far as it is said, but for `size` and `dp`."""
        names = ("model", "steps", "batch_size", "crop_seconds", "learning_rate", "negatives_among")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class EncoderProtocol(Section):
    """Who pre-trains which encoder, and what an attack sends."""

    name: Literal["swap", "tseng2022"] = "swap"
    """``swap``: one corpus parted at random, two encoders a pair. ``tseng2022``: members and non-members are given."""
    split: Literal["speaker", "utterance"] = "speaker"
    """Of a swap: whole speakers are on one side, or half of each speaker's utterances."""
    auxiliary: int = Field(default=12, ge=4)
    """Of a swap: speakers who train no encoder, on whom attacks learn."""
    swaps: int = Field(default=2, ge=1)
    """How often each of the two pools is halved: 4 times as many encoders."""
    training: int = Field(default=0, ge=0)
    """Of a swap: so many speakers of a half (or utterances, where these are split) train its encoder; 0: all."""
    seconds: float = Field(default=2.0, ge=0)
    """The middle of an utterance that is sent; 0: all of it."""
    loss_crops: int = Field(default=4, ge=1)
    """Crops of an utterance on which a pre-training loss is taken."""
    backwards: bool = False
    """Turn inputs around in time."""
    match_seconds: float = Field(default=0.0, ge=0)
    """Under ``tseng2022``, of whole utterances: pair members and non-members within so much; 0: do not."""
    per_speaker: int = Field(default=0, ge=0)
    """Under ``tseng2022``: utterances of each speaker, drawn; 0: all."""
    published: bool = True
    """Under ``tseng2022``: make the study's own reading beside the controlled one."""


class ImprovedAttack(Section):
    """How the improved attacks learn; see `fl_privacy.attacks.membership.ssl.pseudo_labels.Learning`."""

    utterances: int = Field(default=500, ge=1)
    speakers: int = Field(default=1, ge=1)
    epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=5, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    standardise: bool = True


class EncoderControls(Section):
    """What attacks are held against."""

    random_seeds: int = Field(default=5, ge=1)
    """Networks that were never trained."""
    checkpoint: str | tuple[str, ...] | None = None
    """Under ``tseng2022``: one or several checkpoints of the same architecture that neither side's speech trained. The
    first is a control; calibrated attacks take two or more as references."""

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """All of them."""
        return (self.checkpoint,) if isinstance(self.checkpoint, str) else self.checkpoint or ()


class SslMembershipFile(Section):
    """Was this speech used to pre-train? Encoders trained in swapped roles, or one that somebody trained."""

    simulation: SslMembershipSimulation
    target: EncoderTarget = EncoderTarget()
    private: CorpusChoice | None = None
    """Of a swap: whose speech is parted."""
    members: CorpusChoice | None = None
    """Else: speech that trained the encoder,"""
    nonmembers: CorpusChoice | None = None
    """speech that did not,"""
    auxiliary: CorpusChoice | None = None
    """and the attacker's own; by default the non-members' (half of their speakers, where the reading is controlled)."""
    protocol: EncoderProtocol = EncoderProtocol()
    improved: ImprovedAttack = ImprovedAttack()
    controls: EncoderControls = EncoderControls()
    attack: AttackNames
    """The first is primary."""
    audit: AuditSettings = AuditSettings()
    sweep: SweepSettings | None = None
    """Makes the file one of many simulations, for ``fl-privacy sweep``; none of these has it."""

    @model_validator(mode="after")
    def _fits_the_protocol(self) -> SslMembershipFile:
        swap = self.protocol.name == "swap"
        how = f'protocol.name = "{self.protocol.name}"'
        wrong = [
            *(f"target.{key}" for key in (_GIVEN if swap else _TRAINED) if key in self.target.model_fields_set),
            *(key for key in (("members", "nonmembers", "auxiliary") if swap else ("private",)) if getattr(self, key)),
            *(
                f"protocol.{key}"
                for key in (("match_seconds", "per_speaker", "published") if swap else _SWAPPED)
                if key in self.protocol.model_fields_set
            ),
            *(["controls.checkpoint"] if swap and self.controls.checkpoint else []),
        ]
        if wrong:
            raise ValueError(f"{wrong[0]}: does not go with {how}")
        lacking = [key for key in (("private",) if swap else ("members", "nonmembers")) if getattr(self, key) is None]
        if lacking:
            raise ValueError(f"{lacking[0]}: missing; {how} takes it")
        if not swap:
            target = self.target
            if (target.encoder is None) == (target.architecture is None):
                raise ValueError("target: give architecture (and checkpoint), or encoder")
            if target.encoder is not None and (target.checkpoint or target.parameters or self.controls.checkpoint):
                raise ValueError("target.encoder: stands alone; checkpoints and parameters go with architecture")
        if self.protocol.match_seconds and self.protocol.seconds:
            raise ValueError("protocol.match_seconds: for whole utterances; set protocol.seconds=0")
        return self

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain JSON values, as they stand in result.json, less those of other protocols."""
        held = self.model_dump(mode="json", exclude_none=True)
        swap = self.protocol.name == "swap"
        for key in _GIVEN if swap else _TRAINED:
            held["target"].pop(key, None)
        others = ("match_seconds", "per_speaker", "published") if swap else _SWAPPED
        for key in others:
            held["protocol"].pop(key, None)
        return held
