"""Was this speaker's voice used? A speaker recogniser's leakage, measured on recognisers trained for it.

SLMIA-SR (Chen, Zhang and Song 2024, arXiv 2309.07983) with swapped roles, and what is ahead of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.evidence import (
    WHITE_BOX,
    Evidence,
    Features,
    TaughtAttack,
    calibrated,
    default_attacks,
)
from fl_privacy.attacks.membership.protocol import SwapDesign, Voices, swap_design
from fl_privacy.attacks.membership.queries import Budget
from fl_privacy.audit import Privacy, SwappedAudit
from fl_privacy.audit.reading import STATIC
from fl_privacy.errors import UserError
from fl_privacy.sims.speaker_recognisers import Embeddings, RecogniserJob, Source, embed_by_recognisers, read_embeddings
from fl_privacy.sims.speaker_result import SpeakerMembershipResult
from fl_privacy.sims.speaker_voices import as_seen, looked_at, unusable, usable_voices
from fl_privacy.sims.stages import RunFolder
from fl_privacy.training.speaker import SpeakerTraining
from fl_privacy.training.verification import verification_eer


@dataclass(frozen=True)
class SpeakerMembership:
    """The settings of a run.

    Attributes
    ----------
    corpus : str
        A name, or ``package.module:function``.
    root : str or None
        The corpus's folder.
    options : mapping
        Further arguments of the corpus's scan.
    training : SpeakerTraining
        Of the targets.
    shadow : SpeakerTraining or None
        Of shadows and references, where the attacker does not know how the targets were trained; None: alike.
    access : str
        "white-box": the attack sees embeddings; "scores": cosine similarities of voices alone, of which it makes the
        same features.
    imposters : int
        Speakers, at least, that train no recogniser and are known to the attacker.
    swaps : int
        How often each of the two pools of speakers is halved: 4 times as many recognisers, each a target once.
    voices : int
        How many of a speaker's voices the attack hears.
    ratios : tuple of float
        Shares of these that were trained on, where the speaker is a member; the attack learns on all of them, and each
        gets its own result.
    chunk_frames : int
        Split voices into chunks of this length, 10 ms each; 0: do not.
    fpr : float
        Wished false positive rate of the thresholds that shadows set.
    attacks : tuple of str
        Names out of `fl_privacy.attacks.membership.evidence.default_attacks`, the primary one first; by default all
        that serve either access.
    permutations : int
        Of the speakers' roles, for p-values.
    confidence : float
        Of every interval.
    seed : int
    processes : int
        The results are the same for any number.
    budgets : tuple of Budget
        With how many queries the primary attack is tried beside.
    static : bool
        Where the targets' training is private: whether every attack is tried beside by somebody who does not know of
        it, whose shadows are trained without.
    """

    corpus: str = "an4"
    root: str | None = None
    training: SpeakerTraining = field(default_factory=SpeakerTraining)
    shadow: SpeakerTraining | None = None
    access: str = "white-box"
    imposters: int = 12
    swaps: int = 4
    voices: int = 5
    ratios: tuple[float, ...] = (1.0, 0.0)
    chunk_frames: int = 0
    fpr: float = 0.05
    attacks: tuple[str, ...] = tuple(name for name in default_attacks() if name not in WHITE_BOX)
    permutations: int = 200
    confidence: float = 0.95
    seed: int = 1
    processes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    static: bool = True

    def __post_init__(self) -> None:
        _ = self.shadow_kinds  # a loss that cannot be private is refused
        unknown = sorted(set(self.attacks) - set(default_attacks()))
        if unknown or not self.attacks:
            raise UserError(f"unknown membership attack {unknown[:1] or 'none'}. Known: {', '.join(default_attacks())}")
        if self.access not in ("white-box", "scores"):
            raise UserError(f'access = {self.access!r}: give "white-box" (embeddings) or "scores" (similarities)')
        if any(budget.voices > self.voices for budget in self.budgets):
            raise UserError(f"budgets: more than the {self.voices} voices that are heard of a speaker")
        blind = [name for name in self.attacks if name in WHITE_BOX]
        if blind and self.access == "scores":
            raise UserError(f'attack {blind[0]!r} looks at embeddings; with access = "scores" there are none')
        references = calibrated(self.attacks)
        if references and self.swaps < 2:
            raise UserError(
                f"attack {references[0]!r} is calibrated by references that a speaker did not train, of which a shadow "
                "leaves none with swaps = 1: give swaps = 2 at least, or other attacks"
            )
        if self.permutations < 1:
            raise UserError(f"permutations = {self.permutations} must be positive")
        if self.voices < 2:
            raise UserError(f"voices = {self.voices}: how close voices lie takes two at least")
        if not self.ratios or not all(0.0 <= r <= 1.0 for r in self.ratios):
            raise UserError(f"ratios = {self.ratios}: give shares from 0 to 1")
        if not 0.0 < self.fpr < 1.0:
            raise UserError(f"fpr = {self.fpr} must lie strictly between 0 and 1")

    @property
    def shadow_kinds(self) -> dict[str, SpeakerTraining]:
        """How shadows are trained, by the end of the attacks' names: where that is as the targets are, no others are.

        The attacker who knows of a defense, whose attacks are named as they are, and the one who does not.
        """
        if self.training.dp is None:
            return {"": self.shadow or self.training}
        plain = self.shadow or self.training
        known = {"": replace(plain, dp=self.training.dp)}
        return known | ({STATIC: replace(plain, dp=None)} if self.static else {})

    @property
    def source(self) -> Source:
        """Where the voices are."""
        return Source(self.corpus, self.root, json.dumps(dict(self.options), sort_keys=True))


def attack_in_swapped_roles(
    folder: RunFolder, settings: SpeakerMembership, told: Callable[[int, int], None] | None = None
) -> SpeakerMembershipResult:
    """Train recognisers, attack each of them, and audit the attacks.

    Stages that are done are not done again, and neither are recognisers of one that was cut off.

    Parameters
    ----------
    folder : RunFolder
        Takes the stages ``voices``, ``recognisers``, ``shadows`` where these are of another kind, and, of an attacker
        who does not know of a defense, ``static-shadows``.
    settings : SpeakerMembership
    told : callable, optional
        Told the number of a recogniser in training and how many steps of it are done.

    Raises
    ------
    UserError
        Where the corpus has too few speakers or voices.
    """
    corpus = settings.source.load()
    left_out = unusable(folder, corpus)
    voices, excluded = usable_voices(corpus, settings.seed, left_out=left_out)
    design = swap_design(tuple(voices), settings.imposters, settings.swaps, settings.seed)
    for budget in settings.budgets:
        budget.of(_imposters(design, voices))  # refused before anything is trained
    promises = promises_of(settings, design, voices)

    def embedded(name: str, training: SpeakerTraining) -> list[Embeddings]:
        def work(path: Path) -> None:
            _embed(path, settings, training, design, voices, told)

        held = folder.stage(name, work, go_on="started")
        tables = [read_embeddings(_file(held, number)) for number in range(len(design.recognisers))]
        return [as_seen(table, settings.access) for table in tables]

    targets = embedded("recognisers", settings.training)
    shadows = {}
    for suffix, training in settings.shadow_kinds.items():
        name = "static-shadows" if suffix else "shadows"
        shadows[suffix] = targets if training == settings.training else embedded(name, training)
    inputs = read_embeddings(_file(folder.path / "recognisers", len(design.recognisers)))
    found = _attacked(settings, design, voices, targets, shadows, inputs)
    return replace(found, excluded=(*left_out.items(), *excluded), privacy=promises)


def _file(folder: Path, number: int) -> Path:
    return folder / f"recogniser-{number:02d}.npz"


def _embed(
    folder: Path,
    settings: SpeakerMembership,
    training: SpeakerTraining,
    design: SwapDesign,
    voices: Mapping[str, Voices],
    told: Callable[[int, int], None] | None,
) -> None:
    (folder / "started").touch()
    jobs = [
        RecogniserJob(
            (settings.source,),
            recogniser,
            voices,
            training,
            settings.chunk_frames,
            1000 * settings.seed + number,
            str(_file(folder, number)),
        )
        for number, recogniser in enumerate([*design.recognisers, None])
    ]
    embed_by_recognisers(jobs, settings.processes, told)


def _attacked(
    settings: SpeakerMembership,
    design: SwapDesign,
    voices: Mapping[str, Voices],
    targets: Sequence[Embeddings],
    shadows: Mapping[str, Sequence[Embeddings]],
    inputs: Embeddings,
) -> SpeakerMembershipResult:
    """Attack with shadows of every kind, by the end of the attacks' names."""
    found: dict[tuple[str, float], Evidence] = {}
    rows = _Rows(settings, design, voices, inputs)
    for suffix, tables in shadows.items():
        told = _told(settings.attacks, rows, targets, tables)
        found |= {(f"{name}{suffix}", r): evidence for (name, r), evidence in told.items()}
    # Side by side: an attack by who knows of a defense, and by who does not.
    keys = [(f"{name}{suffix}", r) for r in settings.ratios for name in settings.attacks for suffix in shadows]
    audits, at_threshold = {}, {}
    for name, r in keys:
        evidence = found[name, r]
        audits[name, r] = _audit(name, evidence, evidence.scores, settings.confidence)
        if np.isfinite(evidence.thresholds).all():
            decisions = evidence.scores - evidence.thresholds
            at_threshold[name, r] = _audit(name, evidence, decisions, settings.confidence)
    reduced = {}
    primary = settings.attacks[0]
    for budget in settings.budgets:
        # The attack is trained on as few voices as it then hears ("N-dependent training").
        few = _Rows(settings, design, voices, inputs, budget)
        for (name, r), evidence in _told((primary,), few, targets, shadows[""]).items():
            reduced[budget, r] = _audit(name, evidence, evidence.scores, settings.confidence)
    imposters = _imposters(design, voices)
    candidates = len(design.speakers(0))
    return SpeakerMembershipResult(
        audits,
        at_threshold,
        _utility(design, voices, targets),
        sum(len(ids) for ids in imposters.values()) + candidates * settings.voices,
        (),
        settings,
        reduced,
        imposters,
        candidates,
        settings.seed,
    )


def promises_of(settings: SpeakerMembership, design: SwapDesign, voices: Mapping[str, Voices]) -> tuple[Privacy, ...]:
    """Return what the targets' private training promises, by the weakest of them; nothing where it is not private."""
    dp = settings.training.dp
    if dp is None:
        return ()
    trainings = [{name: len(voices[name].trained) for name in r.members} for r in design.recognisers]
    return tuple(dp.promises(trainings, settings.training.steps))


@dataclass(frozen=True)
class _Rows:
    """What attacks look at of every speaker before every recogniser of some tables, by mixing ratio.

    From one draw of voices; with a budget, of the primary attack alone.
    """

    settings: SpeakerMembership
    design: SwapDesign
    voices: Mapping[str, Voices]
    inputs: Embeddings
    budget: Budget | None = None

    def of(self, tables: Sequence[Embeddings]) -> dict[float, Features]:
        return {r: self._at(tables, r) for r in self.settings.ratios}

    @property
    def count(self) -> int:
        """How many voices are heard of a speaker."""
        return self.settings.voices if self.budget is None else self.budget.voices

    def _at(self, tables: Sequence[Embeddings], r: float) -> Features:
        settings, count = self.settings, self.count
        people = [*self.design.speakers(0), *self.design.speakers(1)]
        heard = {
            name: self.voices[name].draw(r, count, np.random.default_rng([settings.seed, 2, number, round(1000 * r)]))
            for number, name in enumerate(people)
        }
        imposters = _imposters(self.design, self.voices)
        if self.budget is not None:
            imposters = self.budget.of(imposters)
        # Strangers to every recogniser, by whom one kind of recogniser is told from another.
        heard |= {name: ids[:count] for name, ids in imposters.items() if len(ids) > 1}
        attacks = settings.attacks if self.budget is None else settings.attacks[:1]
        grouped = self.budget is not None and self.budget.grouped
        return looked_at(heard, imposters, tables, self.inputs, attacks, count, settings.seed, grouped=grouped)


def _told(
    names: Sequence[str], rows: _Rows, targets: Sequence[Embeddings], shadows: Sequence[Embeddings]
) -> dict[tuple[str, float], Evidence]:
    """What attacks that learned on shadows say of the targets, by name and mixing ratio."""
    foreign, attacks = shadows is not targets, default_attacks(rows.count)
    taught_on = rows.of(shadows)
    asked = rows.of(targets) if foreign else taught_on
    found = {}
    for name in names:
        taught = TaughtAttack(attacks[name], rows.design, list(taught_on.values()), fpr=rows.settings.fpr)
        for r in rows.settings.ratios:
            found[name, r] = taught.tell(asked[r], taught_on[r], foreign=foreign)
    return found


def _imposters(design: SwapDesign, voices: Mapping[str, Voices]) -> dict[str, tuple[str, ...]]:
    return {name: voices[name].all for name in design.imposters}


def _audit(name: str, found: Evidence, decisions: NDArray[np.float64], confidence: float) -> SwappedAudit:
    return SwappedAudit(
        found.scores,
        found.members,
        found.speakers,
        found.targets,
        decisions=decisions,
        name=name,
        confidence=confidence,
    )


def _utility(design: SwapDesign, voices: Mapping[str, Voices], tables: Sequence[Embeddings]) -> dict[str, float]:
    members: list[float] = []
    nonmembers: list[float] = []
    for recogniser, table in zip(design.recognisers, tables, strict=True):
        for people, found in ((recogniser.members, members), (recogniser.nonmembers, nonmembers)):
            heard = [(name, voice) for name in people for voice in voices[name].unseen]
            # A voice's embedding is the mean of its chunks'.
            embeddings = np.stack([table[voice].mean(axis=0) for _, voice in heard])
            found.append(verification_eer(embeddings, [name for name, _ in heard]))
    return {"eer_members": float(np.mean(members)), "eer_nonmembers": float(np.mean(nonmembers))}
