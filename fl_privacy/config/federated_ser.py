"""The file of a federated simulation."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fl_privacy.config._sweep import SweepSettings
from fl_privacy.config.sections import AuditSettings, CorpusChoice, Named, Once, Section, Simulation


class FederatedSimulation(Simulation):
    """What is run, from which seed, and on what."""

    kind: Literal["federated-ser"]
    engine: Literal["local", "ray", "grid"] = "local"
    """What the private federation runs on: this process, or Flower's simulation on Ray; ``"grid"`` is the Flower app of
    `fl_privacy.sims.ser_attacker`, on whatever that runs. Shadow federations are the attacker's own: local."""


class Task(Section):
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


class FederatedCorpus(CorpusChoice):
    """A corpus whose speakers are clients."""

    shards: int | None = Field(default=None, ge=1)
    """How many clients each speaker is cut into; default: ``federation.shards_per_speaker``."""
    part: str | None = Field(default=None, pattern=r"^[1-9]\d?/[2-9]\d?$")
    """``"1/2"``: the first of two random halves of the speakers, drawn by the simulation's seed within each value of
    the attribute; the other one, ``"2/2"``, are other people."""

    @model_validator(mode="after")
    def _part_of_whole(self) -> FederatedCorpus:
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


class Private(FederatedCorpus):
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


class Features(Section):
    """What clients train on."""

    name: str = "functionals"
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the extractor, such as ``checkpoint`` of "ssl"."""
    normalise: Literal["global", "speaker", "none"] = "global"


class FederationSettings(Section):
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


class Capture(Section):
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


class Shadow(Section):
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


class DefenseChoice(Named):
    """A defense and its settings."""


class Beside(Section):
    """The same federation under another defense, run beside: what a defense buys, and what it costs."""

    defense: tuple[DefenseChoice, ...] = ()
    """Instead of the run's own; left out, or empty: no defense."""


class AttackChoice(Named):
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


class FederatedAuditSettings(AuditSettings):
    """How claims are made, and of what."""

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
    def _in_order(self) -> FederatedAuditSettings:
        for first, last in self.windows or ():
            if first > last:
                raise ValueError(f"windows: a span is (first round, last round), not ({first}, {last})")
        return self


class ProtocolSettings(Section):
    """By whose rules claims are made."""

    name: Literal["controlled", "as-published"] = "controlled"
    """``"as-published"`` adds claims by the rules of Feng et al., in tables of their own; the controlled ones stay."""
    leaked_updates: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Once] = ()
    """As published: also attack the mean of so many updates of a client, for each of these numbers."""

    @model_validator(mode="after")
    def _used(self) -> ProtocolSettings:
        if self.leaked_updates and self.name != "as-published":
            raise ValueError("leaked_updates is a setting of the protocol as-published")
        return self


class FederatedSerFile(Section):
    """A whole simulation: the four nouns and how they are put together."""

    simulation: FederatedSimulation
    task: Task = Task()
    private: Private
    auxiliary: tuple[FederatedCorpus, ...] = Field(min_length=1)
    features: Features = Features()
    federation: FederationSettings = FederationSettings()
    capture: Capture = Capture()
    shadow: Shadow = Shadow()
    defense: tuple[DefenseChoice, ...] = ()
    beside: tuple[Beside, ...] = ()
    attack: tuple[AttackChoice, ...] = Field(min_length=1)
    audit: FederatedAuditSettings = FederatedAuditSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    sweep: SweepSettings | None = None
    """Makes the file one of many simulations, for ``fl-privacy sweep``; none of these has it."""

    @model_validator(mode="after")
    def _folds_once(self) -> FederatedSerFile:
        if self.shadow.hold_out and self.shadow.federations > self.federation.folds:
            raise ValueError(
                f"shadow.federations = {self.shadow.federations} with hold_out: there are {self.federation.folds} folds"
            )
        return self

    @model_validator(mode="after")
    def _beside_something_else(self) -> FederatedSerFile:
        if self.beside and self.sweep is not None:
            raise ValueError('beside is of one run; a sweep varies the defense itself: vary = ["defense=..."]')
        seen = [self.defense]
        for number, other in enumerate(self.beside):
            if other.defense in seen:
                raise ValueError(f"beside.{number}.defense: that is run already")
            seen.append(other.defense)
        return self

    @model_validator(mode="after")
    def _published_of_classes(self) -> FederatedSerFile:
        if self.protocol.name == "as-published" and self.private.numeric:
            raise ValueError("protocol: the published rules are for classes, not for a numeric attribute")
        return self

    @model_validator(mode="after")
    def _attacker_owns_others(self) -> FederatedSerFile:
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
    def _nothing_idle(self) -> FederatedSerFile:
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


def _apart(one: FederatedCorpus, other: FederatedCorpus) -> bool:
    """Whether two choices of one corpus are different parts of its speakers."""
    if one.part is None or other.part is None or one.part == other.part:
        return False
    return one.part.split("/")[1] == other.part.split("/")[1]
