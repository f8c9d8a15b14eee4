"""The simulation file: TOML read into frozen models that refuse what they do not know."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from fl_privacy.errors import UserError


class ConfigError(UserError):
    """A simulation file, or a ``--set``, that cannot be used as it is."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1; a simulation file does not."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError(f"cannot be {str(value).lower()}")
        return value


class _Named(BaseModel):
    """A built-in by name, or anyone's own by ``package.module:object``; the other keys go to its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(min_length=1)


class Simulation(_Section):
    """What is run, and from which seed."""

    kind: Literal["federated-ser"]
    seed: int = Field(default=1, ge=0)
    engine: Literal["local", "ray", "grid"] = "local"
    """What the private federation runs on: this process, or Flower's simulation on Ray; ``"grid"`` is the Flower app of
    `fl_privacy.sims.ser_attacker`, on whatever that runs. Shadow federations are the attacker's own: local."""


class Task(_Section):
    """What the clients learn."""

    label: str = "emotion"
    classes: tuple[str, ...] = ("neutral", "happy", "sad", "angry")
    others: Literal["refuse", "leave-out"] = "refuse"
    """What to do with utterances of other classes than `classes`."""

    @model_validator(mode="after")
    def _distinct(self) -> Task:
        if len(set(self.classes)) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be at least two different names")
        return self


class CorpusChoice(_Section):
    """A corpus and where it lies."""

    corpus: str = Field(min_length=1)
    root: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the corpus's scan, such as ``speakers`` of the synthetic one."""
    shards: int | None = Field(default=None, ge=1)
    """How many clients each speaker is cut into; default: ``federation.shards_per_speaker``."""

    part: str | None = Field(default=None, pattern=r"^[1-9]\d?/[2-9]\d?$")
    """``"1/2"``: the first of two random halves of the speakers, drawn by the simulation's seed within each value of
    the attribute; the other one, ``"2/2"``, are other people."""

    @model_validator(mode="after")
    def _part_of_whole(self) -> CorpusChoice:
        if self.part is not None and int(self.part.split("/")[0]) > int(self.part.split("/")[1]):
            raise ValueError(f"part {self.part!r}: there are only {self.part.split('/')[1]}")
        return self

    @property
    def identity(self) -> tuple[str, str]:
        """What two choices have in common when their speakers are the same people, parts apart."""
        if self.corpus == "synthetic":
            return self.corpus, str(self.options.get("seed", 0))
        if ":" in self.corpus:  # a scan of one's own may have other people under other options
            return self.corpus, json.dumps([self.root, self.options], sort_keys=True, default=str)
        root = self.root or os.path.join(os.environ.get("FL_PRIVACY_DATA", ""), self.corpus)
        return self.corpus, os.path.realpath(os.path.expanduser(root))


class Private(CorpusChoice):
    """Whose privacy is at stake, and what the attacker wants to know of them."""

    attribute: str = "gender"
    """Any label of the corpus, or ``"speaker"``: which of the candidates, of whom the attacker has other recordings."""
    positive: str | None = None
    """Of two values, the one that high scores mean; by default the last in alphabetical order."""
    numeric: bool = False
    """Whether the attribute is a number (age in years), told by regression."""

    @model_validator(mode="after")
    def _one_kind(self) -> Private:
        if self.numeric and (self.positive is not None or self.attribute == "speaker"):
            raise ValueError("numeric = true is for an attribute that is a number: without positive, and not a speaker")
        if self.positive is not None and self.attribute == "speaker":
            raise ValueError("positive is for one of two values; the attribute 'speaker' has one for each candidate")
        return self


class Features(_Section):
    """What clients train on."""

    name: str = "functionals"
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the extractor, such as ``checkpoint`` of "ssl"."""
    normalise: Literal["global", "speaker", "none"] = "global"


class FederationSettings(_Section):
    """The federation; defaults are the published settings (Feng et al.), `clients_per_round` apart."""

    algorithm: Literal["fedsgd", "fedavg"] = "fedsgd"
    rounds: int = Field(default=200, ge=1, le=1_000_000)
    clients_per_round: Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """A number, or a share, rounded down (as published: 0.1). Default: max(4, floor(0.1 x clients)), or all clients
    where there are fewer."""
    folds: int = Field(default=5, ge=2)
    fold: int | None = Field(default=None, ge=0)
    """Which fold of speakers is held out for the test; default: seed mod folds."""
    shards_per_speaker: int = Field(default=1, ge=1)
    examples_per_client: Literal["all", "equal"] | Annotated[int, Field(ge=1)] = "all"
    """``"equal"`` gives each client as many as the smallest has, so that their number tells nothing."""
    batch_size: int = Field(default=20, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, le=10)
    """Default: 0.1 (FedSGD), 5e-4 (FedAvg)."""
    local_epochs: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    reply: Literal["gradient", "step"] = "gradient"
    """FedSGD: what clients send, a gradient or the weights after a step along it, as Flower's DP wrappers need it."""
    fraction_evaluate: float = Field(default=0.0, ge=0, le=1)
    """Share of clients asked for their validation accuracy after each round."""

    @model_validator(mode="after")
    def _consistent(self) -> FederationSettings:
        if self.algorithm == "fedsgd" and self.local_epochs != 1:
            raise ValueError("local_epochs is a setting of fedavg: a fedsgd client computes one gradient")
        if self.algorithm == "fedavg" and self.reply != "gradient":
            raise ValueError("reply is a setting of fedsgd: a fedavg client sends weights")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds}), not {self.fold}")
        return self

    def a_round_of(self, clients: int) -> int:
        """Return how many of so many clients take part in a round."""
        wanted = self.clients_per_round
        if wanted is None:
            return min(clients, max(4, clients // 10))
        # (0.29 x 100 is a little below 29 in floating point.)
        return wanted if isinstance(wanted, int) else max(1, int(wanted * clients + 1e-9))


class Capture(_Section):
    """What of the updates is written down."""

    observe: Literal["each", "sum"] = "each"
    """Each client's update, or the weighted sum of a round and who took part (ideal secure aggregation)."""
    arrays: tuple[str, ...] | None = None
    """Arrays or layers to keep; default all."""
    clients: tuple[int, ...] | None = None
    """Partitions to keep; default all."""
    every: int = Field(default=1, ge=1)
    """Every how many rounds: 1, 1 + every, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    keep: bool = True
    """Whether the stores stay after the run: they are large, and personal data."""

    @model_validator(mode="after")
    def _sum_of_all(self) -> Capture:
        if self.observe == "sum" and self.clients is not None:
            raise ValueError("observe = 'sum' is over all clients of a round: leave out clients")
        return self


class Shadow(_Section):
    """The attacker's own federations."""

    federations: int = Field(default=1, ge=1)
    """How many, each with its own initialisation and partition."""
    rounds: int | None = Field(default=None, ge=1)
    """Default: as many as the victim's."""
    hold_out: bool = False
    """Whether each holds out a fold of its speakers as the victim does, the i-th fold i (as published)."""
    initialisation: Literal["own", "victim"] = "own"
    """``"victim"``: all start from the weights that the victim federation starts from, as where everybody runs the same
    code with the same seed (published: release C)."""
    matched_every: int = Field(default=1, ge=1)
    """Of how many captured rounds one is replayed on the attacker's clients, for attacks with shadows = "matched"."""


class DefenseChoice(_Named):
    """A defense and its settings."""


class AttackChoice(_Named):
    """An attack and its settings."""

    label: str | None = None
    shadows: Literal["federation", "matched"] = "federation"
    """What it learns from: federations of the attacker's own, or its own clients' updates from the victims' models."""
    clean: bool = False
    """Against a defense, what the attacker who knows it learns from: shadows without it, where the attack itself allows
    for it ("gaussian-lr" does, for noise), else shadows made through the same defense. Without a defense it changes
    nothing."""
    permutations: int | None = Field(default=None, ge=0, le=100_000)
    """Default: those of the audit; none where the attack says that it is costly."""


class AuditSettings(_Section):
    """How claims are made."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    permutations: int = Field(default=200, ge=1, le=100_000)
    canaries: int = Field(default=200, ge=0, le=1_000_000)
    """Against a defense that promises something to clients or examples: how many canaries bound its epsilon from below;
    0 for none."""
    link_shards: bool = True
    """Whether the attacker knows which clients are one speaker's. Claims of leaked updates and of spans of rounds are
    per speaker if it does, else per client. (The others are of both: a claim per speaker supposes that it knows.)"""
    leaked_updates: tuple[Annotated[int, Field(ge=1)], ...] = (1, 3, 5, 10)
    """Numbers of leaked updates of a client (or speaker, where linked) to make claims of, beside all of them."""
    windows: tuple[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], ...] | None = None
    """Spans of rounds (first, last) to make claims of; default: the first and the last fifth."""

    @model_validator(mode="after")
    def _in_order(self) -> AuditSettings:
        for first, last in self.windows or ():
            if first > last:
                raise ValueError(f"windows: a span is (first round, last round), not ({first}, {last})")
        return self


class SweepGrid(_Section):
    """One grid: a simulation for every combination of its axes' values."""

    vary: tuple[str, ...] = Field(min_length=1)
    """Axes, each ``"section.key=v1,v2"``; keys that change together are joined: ``"a.b+c.d=v1+w1,v2+w2"``."""
    seeds: int | None = Field(default=None, ge=1)
    """How many seeds this grid has; default: the sweep's."""


class SweepSettings(_Section):
    """Which simulations a file stands for, where it is not one alone."""

    vary: tuple[str, ...] = ()
    """The axes of the one grid; see `SweepGrid`."""
    grid: tuple[SweepGrid, ...] = ()
    """Several grids; a simulation that stands in two of them is run once."""
    seeds: int = Field(default=1, ge=1)
    """How many, counted up from the file's own; merged by speaker."""

    @model_validator(mode="after")
    def _one_way(self) -> SweepSettings:
        if self.vary and self.grid:
            raise ValueError("vary is for one grid, [[sweep.grid]] for several: leave one out")
        return self

    @property
    def grids(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """The axes of every grid, and its number of seeds."""
        return tuple((grid.vary, grid.seeds or self.seeds) for grid in self.grid) or ((self.vary, self.seeds),)

    def reseeded(self, seeds: int) -> SweepSettings:
        """Return the same with so many seeds for every grid."""
        grids = tuple(grid.model_copy(update={"seeds": None}) for grid in self.grid)
        return self.model_copy(update={"seeds": seeds, "grid": grids})


class ProtocolSettings(_Section):
    """By whose rules claims are made."""

    name: Literal["controlled", "as-published"] = "controlled"
    """``"as-published"`` adds claims by the rules of Feng et al., in tables of their own; the controlled ones stay."""
    leaked_updates: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """As published: also attack the mean of so many updates of a client, for each of these numbers."""

    @model_validator(mode="after")
    def _used(self) -> ProtocolSettings:
        if self.leaked_updates and self.name != "as-published":
            raise ValueError("leaked_updates is a setting of the protocol as-published")
        if len(set(self.leaked_updates)) < len(self.leaked_updates):
            raise ValueError("leaked_updates names a number twice")
        return self


class SimulationFile(_Section):
    """A whole simulation: the four nouns and how they are put together."""

    simulation: Simulation
    task: Task = Task()
    private: Private
    auxiliary: tuple[CorpusChoice, ...] = Field(min_length=1)
    features: Features = Features()
    federation: FederationSettings = FederationSettings()
    capture: Capture = Capture()
    shadow: Shadow = Shadow()
    defense: tuple[DefenseChoice, ...] = ()
    attack: tuple[AttackChoice, ...] = Field(min_length=1)
    audit: AuditSettings = AuditSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    sweep: SweepSettings | None = None
    """Makes the file one of many simulations, for ``fl-privacy sweep``; none of these has it."""

    @model_validator(mode="after")
    def _folds_once(self) -> SimulationFile:
        if self.shadow.hold_out and self.shadow.federations > self.federation.folds:
            raise ValueError(
                f"shadow.federations = {self.shadow.federations} with hold_out: there are {self.federation.folds} folds"
            )
        return self

    @model_validator(mode="after")
    def _published_of_classes(self) -> SimulationFile:
        if self.protocol.name == "as-published" and self.private.numeric:
            raise ValueError("protocol: the published rules are for classes, not for a numeric attribute")
        return self

    @model_validator(mode="after")
    def _attacker_owns_others(self) -> SimulationFile:
        private = self.private
        same = [corpus.identity == private.identity and not _apart(corpus, private) for corpus in self.auxiliary]
        if self.private.attribute == "speaker":
            if same != [True]:
                raise ValueError(
                    "auxiliary: for the attribute 'speaker' it is the private corpus alone, of which the attacker owns "
                    "one half of each speaker's recordings"
                )
            if self.auxiliary[0].options != self.private.options:
                raise ValueError(
                    "auxiliary.0.options: for the attribute 'speaker' they are those of the private corpus, which it is"
                )
            return self
        for number, corpus in enumerate(self.auxiliary):
            if same[number]:
                raise ValueError(
                    f"auxiliary.{number}.corpus: {corpus.corpus!r} is the private corpus itself; "
                    "the attacker owns other speakers"
                )
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> SimulationFile:
        """A setting that this simulation has no use for is refused."""
        learnt_from, shadow = {attack.shadows for attack in self.attack}, self.shadow
        idle = [
            name
            for name, field in Shadow.model_fields.items()
            if getattr(shadow, name) != field.default
            and ("matched" if name == "matched_every" else "federation") not in learnt_from
        ]
        if idle:
            which = "shadows = 'matched'" if "federation" in learnt_from else "another shadows than 'matched'"
            raise ValueError(f"shadow.{', shadow.'.join(idle)}: for an attack with {which}, and there is none")
        if shadow.hold_out and self.private.attribute == "speaker":
            raise ValueError("shadow.hold_out: for the attribute 'speaker' both sides leave out the same speakers")
        captured = range(1, self.federation.rounds + 1, self.capture.every)
        for first, last in self.audit.windows or ():
            if not any(first <= number <= last for number in captured):
                raise ValueError(
                    f"audit.windows: no round from {first} to {last} is captured: "
                    f"they are 1 to {captured[-1]}" + (f", every {self.capture.every}" if captured.step > 1 else "")
                )
        return self

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain JSON values, as they stand in result.json."""
        return self.model_dump(mode="json", exclude_none=True)


class SpeakerMembershipSimulation(_Section):
    """What is run, and from which seed."""

    kind: Literal["speaker-membership"]
    seed: int = Field(default=1, ge=0)


class Speech(_Section):
    """A corpus of voices and where it lies."""

    corpus: str = Field(min_length=1)
    root: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the corpus's scan, such as ``speakers`` of the synthetic one."""


class RecogniserTraining(_Section):
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


class QueryBudget(_Section):
    """How much the primary attack asks of a target, in a trial of its own; see `attacks.membership.queries`."""

    voices: int = Field(ge=2)
    imposters: int = Field(ge=1)
    imposter_voices: int = Field(ge=1)
    grouped: bool = False


class MembershipProtocol(_Section):
    """Who trains which recogniser, and what an attack hears."""

    imposters: int = Field(default=12, ge=1)
    """People known to the attacker who train no recogniser."""
    swaps: int = Field(default=4, ge=1)
    """How often a pool of speakers is halved: 2 recognisers each, of which each half trains one."""
    voices: int = Field(default=5, ge=2)
    """How many of a speaker's voices an attack hears."""
    ratios: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=(1.0, 0.0), min_length=1)
    """Shares of these that were trained on, where the speaker is a member; with a model of one's own, of shadows."""
    chunk_frames: int = Field(default=0, ge=0)
    """Split voices into chunks of this length, 10 ms each; 0: do not."""
    budgets: tuple[QueryBudget, ...] = ()
    """With how many queries the primary attack is tried beside."""

    @model_validator(mode="after")
    def _within(self) -> MembershipProtocol:
        for number, budget in enumerate(self.budgets):
            if budget.voices > self.voices:
                raise ValueError(f"budgets.{number}.voices: more than the {self.voices} that are heard of a speaker")
        return self


class MembershipAttackChoice(_Section):
    """An attack, by name."""

    name: str = Field(min_length=1)


class MembershipAuditSettings(_Section):
    """How claims are made."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    permutations: int = Field(default=200, ge=1, le=100_000)
    fpr: float = Field(default=0.05, gt=0, lt=1)
    """False positive rate that thresholds of shadows aim at."""


class SpeakerMembershipFile(_Section):
    """Was this speaker's voice used? Recognisers trained in swapped roles, or one that somebody trained."""

    simulation: SpeakerMembershipSimulation
    target: SpeakerTarget = SpeakerTarget()
    private: Speech | None = None
    """Whose voices train the recognisers, where these are trained in the run."""
    members: Speech | None = None
    """With a model of one's own: speakers who trained it,"""
    nonmembers: Speech | None = None
    """speakers who did not,"""
    auxiliary: Speech | None = None
    """and other people, of whom the attacker trains shadows and takes imposters."""
    shadow: RecogniserTraining | None = None
    """How the attacker trains; default: as the targets were, or with the defaults where that is not known."""
    protocol: MembershipProtocol = MembershipProtocol()
    attack: tuple[MembershipAttackChoice, ...] = Field(min_length=1)
    """The first is primary."""
    audit: MembershipAuditSettings = MembershipAuditSettings()

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
        if self.protocol.budgets:
            raise ValueError("protocol.budgets: for recognisers that are trained in the run")
        if self.private is not None:
            raise ValueError("private: for recognisers that are trained in the run; target.model is trained already")
        return self

    @model_validator(mode="after")
    def _once(self) -> SpeakerMembershipFile:
        names = [attack.name for attack in self.attack]
        if len(set(names)) < len(names):
            raise ValueError("attack: a name stands there twice")
        return self

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain JSON values, as they stand in result.json."""
        held = self.model_dump(mode="json", exclude_none=True)
        if self.target.model is not None:  # whose training nobody knows
            held["target"] = {k: v for k, v in held["target"].items() if k not in RecogniserTraining.model_fields}
        else:
            del held["target"]["sample_rate"]
        return held


AnyFile = SimulationFile | SpeakerMembershipFile
KINDS: Mapping[str, type[AnyFile]] = MappingProxyType(
    {"federated-ser": SimulationFile, "speaker-membership": SpeakerMembershipFile}
)
"""What a file is read into, by ``simulation.kind``."""


def _apart(one: CorpusChoice, other: CorpusChoice) -> bool:
    """Whether two choices of one corpus are different parts of its speakers."""
    if one.part is None or other.part is None or one.part == other.part:
        return False
    return one.part.split("/")[1] == other.part.split("/")[1]


def presets() -> dict[str, str]:
    """Return the presets in the package: name -> first comment line of the file."""
    found = {}
    for entry in sorted(resources.files("fl_privacy.presets").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            first = entry.read_text(encoding="utf-8").splitlines()[0]
            found[entry.name.removesuffix(".toml")] = first.lstrip("# ").strip()
    return found


def load_any(source: str | Path | Mapping[str, Any], settings: Sequence[str | tuple[str, Any]] = ()) -> AnyFile:
    """Read a simulation of any kind; which one ``simulation.kind`` says.

    Parameters
    ----------
    source : str, Path or mapping
        A preset's name, a TOML file, or its content as a mapping.
    settings : sequence of str, or of (key, value)
        ``"a.b=value"``: changes made before the check. The value is read as TOML, a bare word as a string; an entry
        of a list is addressed by its name or its number. In a pair, the value is taken as it is.

    Raises
    ------
    ConfigError
        With the path of the key at fault.
    """
    name, content = ("settings", dict(source)) if isinstance(source, Mapping) else _read(str(source))
    for setting in settings:
        key, value = parse_setting(setting) if isinstance(setting, str) else setting
        content = _assign(content, key.split("."), value, key)
    simulation = content.get("simulation")
    kind = simulation.get("kind", "federated-ser") if isinstance(simulation, Mapping) else "federated-ser"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{name}: simulation.kind: {kind!r} is none of {', '.join(KINDS)}")
    try:
        return KINDS[kind].model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{name}: " + "; ".join(_explain(e) for e in error.errors())) from None


def load(source: str | Path | Mapping[str, Any], settings: Sequence[str | tuple[str, Any]] = ()) -> SimulationFile:
    """Read a federated simulation; see `load_any`.

    Raises
    ------
    ConfigError
        Also for a simulation of another kind.
    """
    file = load_any(source, settings)
    if not isinstance(file, SimulationFile):
        kind = file.simulation.kind
        raise ConfigError(f"simulation.kind: {kind!r} is no federated simulation; `fl-privacy run` runs it")
    return file


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``key=value`` and read the value as TOML, or as a string where it is a bare word."""
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(f"{text!r} is not of the form section.key=value")
    return key, parse_value(value)


def parse_value(text: str) -> Any:
    """Read a TOML value; what TOML cannot read is a string as it stands."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        if any(c in text for c in "[]{}\"'"):
            raise ConfigError(f"{text!r} is no TOML value") from None
        return text.strip()


def _read(source: str) -> tuple[str, dict[str, Any]]:
    known = presets()
    path = Path(source)
    if source in known and not path.is_file():
        text = resources.files("fl_privacy.presets").joinpath(f"{source}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"no file and no preset {source!r}; presets: {', '.join(known)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} cannot be read: {error}") from error
    try:
        return source, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is no TOML: {error}") from None


def _assign(tree: Any, path: list[str], value: Any, whole: str) -> Any:
    """Return a copy of nested tables and lists with one value set; the original stays as it is."""
    head, rest = path[0], path[1:]
    if isinstance(tree, list):
        names = [str(_name_of(entry)) for entry in tree]
        if head.isdigit() and int(head) < len(tree):
            place = int(head)
        elif head in names:
            place = names.index(head)
        else:
            raise ConfigError(f"--set {whole}: no entry {head!r}; there are: {', '.join(names)}")
        new = value if not rest else _assign(tree[place], rest, value, whole)
        return [*tree[:place], new, *tree[place + 1 :]]
    if not isinstance(tree, dict):
        raise ConfigError(f"--set {whole}: {head!r} stands below something that is not a table")
    if not rest:
        return tree | {head: value}
    return tree | {head: _assign(tree.get(head, {}), rest, value, whole)}


def _name_of(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    return entry.get("label") or entry.get("name") or entry.get("corpus", "")


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key"
        case "missing":
            return f"{where}: missing"
        case "value_error":
            return f"{where}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
        case "tuple_type" if isinstance(error["input"], Mapping):
            return f"{where}: one table where a list of them stands; write [[{where}]], or {where}=[{{...}}] with --set"
        case _:
            message = error["msg"][0].lower() + error["msg"][1:]
            return f"{where}: {message} (it is {error['input']!r})"
