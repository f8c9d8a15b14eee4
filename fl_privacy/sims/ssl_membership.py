"""Was this utterance, or this speaker's voice, used to pre-train? Encoders trained for it, in swapped roles.

The attacks of Tseng, Kao and Lee 2022 (arXiv 2111.05113) and what is ahead of them, where nothing but membership tells
members from non-members: chance decided who is which, inputs are of one length, the attacker's own speakers are others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.ssl.attacks import UNITS, FrameAttack, frame_attacks, statistic
from fl_privacy.attacks.membership.ssl.design import EncoderDesign, encoder_design
from fl_privacy.attacks.membership.ssl.look import Look
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.audit import SwappedAudit
from fl_privacy.corpora import AudioError
from fl_privacy.errors import UserError
from fl_privacy.sims.speaker_recognisers import Source
from fl_privacy.sims.ssl_encoders import (
    LOG_MEL,
    PRETRAINED,
    RANDOM,
    EncoderJob,
    Inputs,
    Recordings,
    facts_file,
    look_through_encoders,
    recordings,
    trains,
)
from fl_privacy.sims.ssl_result import Reading, Rows, standardised_mean
from fl_privacy.sims.stages import RunFolder

if TYPE_CHECKING:
    from fl_privacy.training.pretraining import Pretraining

Floats = NDArray[np.float64]

_WHOLE_MASKS = 2
"""For the loss of a whole utterance, which has more masked frames than a crop."""

HEARD = " (pre-training hears it, no attack is sent it)"
"""Follows the reason why a recording is left out of the attacks alone."""

Units = Mapping[str, Sequence[str]]
"""The utterances of each speaker or utterance that is attacked."""
Score = Callable[[int, Units], Floats]
"""Scores of units before a target, by its number."""


@dataclass(frozen=True)
class SslMembership:
    """The settings of a run with swapped roles.

    Attributes
    ----------
    source : Source
        The corpus.
    training : Pretraining
        Of the encoders.
    split : str
        See `fl_privacy.attacks.membership.ssl.design.encoder_design`.
    auxiliary : int
        Speakers, at least, who train no encoder: on these the improved attacks learn.
    swaps : int
        How often each of the two pools is halved: 4 times as many encoders, each the target once.
    inputs : Inputs
        What is sent of an utterance.
    backwards : bool
        Pre-train on waves turned around in time.
    layer : int
        Whose frames are attacked.
    attacks : tuple of str
        Names out of `fl_privacy.attacks.membership.ssl.attacks.frame_attacks`, the primary one first.
    learning : Learning
        Of the improved attacks.
    loss_crops : int
        Of each utterance, on which the pre-training loss is taken.
    random_seeds : int
        Networks that were never trained, as a control.
    permutations : int
    confidence : float
    seed : int
    processes : int
        The results are the same for any number.
    """

    source: Source
    training: Pretraining
    split: str = "speaker"
    auxiliary: int = 12
    swaps: int = 2
    inputs: Inputs = field(default_factory=Inputs)
    backwards: bool = False
    layer: int = -1
    attacks: tuple[str, ...] = ("basic", "improved", "loss", "loss calibrated")
    learning: Learning = field(default_factory=Learning)
    loss_crops: int = 4
    random_seeds: int = 5
    permutations: int = 200
    confidence: float = 0.95
    seed: int = 1
    processes: int = 1

    def __post_init__(self) -> None:
        check_attacks(self.attacks)
        if self.random_seeds < 1 or self.loss_crops < 1:
            raise UserError("random_seeds and loss_crops must be positive")

    @property
    def units(self) -> tuple[str, ...]:
        """What is attacked: where a speaker's utterances are on both sides, no speaker is a member."""
        return UNITS if self.split == "speaker" else ("utterance",)


def check_attacks(names: Sequence[str]) -> None:
    """Refuse names of attacks that are not known, or none at all."""
    unknown = sorted(set(names) - set(frame_attacks()))
    if unknown or not names:
        told = repr(unknown[0]) if unknown else "none"
        raise UserError(f"unknown attack {told} on frame encoders. Known: {', '.join(frame_attacks())}")


@dataclass(frozen=True)
class SslMembershipResult:
    """What a run found.

    Attributes
    ----------
    reading : Reading
    utility : mapping
        Of the pre-training: ``epochs``, ``minutes`` of speech an encoder, and mean losses on members and non-members.
    left_out : mapping of str to str
        Utterances that were not used, and why.
    queries : int
        Utterances sent to a target.
    settings : SslMembership
    records : tuple of mapping
        How each encoder was pre-trained; ``privacy`` where that was private.
    """

    reading: Reading
    utility: Mapping[str, Any]
    left_out: Mapping[str, str]
    queries: int
    settings: SslMembership
    records: tuple[Mapping[str, Any], ...]

    def table(self) -> str:
        """What was run, then one line for each attack and control."""
        s, u = self.settings, self.utility
        length = f"the middle {s.inputs.seconds:g} s" if s.inputs.seconds else "whole utterances"
        losses = (
            f"loss {u['loss_members']:.4f} on members, {u['loss_nonmembers']:.4f} on non-members"
            if "loss_members" in u
            else "no loss taken"
        )
        targets = 4 * s.swaps * max(len(self.reading.runs), 1)
        what = (
            f"{s.source.corpus}: {s.training.model}, {targets} targets, split by {s.split}, {length}; "
            f"{u['minutes']:.1f} min of speech an encoder, {u['epochs']:.1f} epochs; {losses}"
        )
        return "\n".join([what, *self.reading.table()])


def attack_encoders(
    folder: RunFolder, settings: SslMembership, told: Callable[[int, int], None] | None = None
) -> SslMembershipResult:
    """Do what is left of the stages ``encoders`` and ``controls``, and attack.

    Parameters
    ----------
    folder : RunFolder
    settings : SslMembership
    told : callable, optional
        Told the number of an encoder in training and how many steps of it are done.

    Raises
    ------
    UserError
        Where the corpus has too few speakers or utterances.
    """
    sources = (settings.source,)
    recordings.cache_clear()  # files may have changed since another run of this process
    held = recordings(sources)
    usable, left_out = usable_utterances(held, settings.inputs, least=2)
    short = heard_alone(held, usable, left_out)
    design = encoder_design(usable, settings.split, settings.auxiliary, settings.swaps, settings.seed, short)
    left_out |= {id: left_out[id] + HEARD for half in design.encoders for id in half.unsent}
    auxiliary = {name: tuple(usable[name]) for name in design.auxiliary}
    candidates = tuple(sorted({id for half in design.encoders for id in half.members}))
    statistics = {frame_attacks()[name].statistic for name in settings.attacks}
    grey = bool(statistics & {"loss", "loss whole"})
    improved = "improved" in statistics

    def job(
        kind: str, number: int, path: Path, members: tuple[str, ...] = (), checkpoint: str | None = None
    ) -> EncoderJob:
        return EncoderJob(
            kind,
            sources,
            members,
            settings.training,
            None,
            settings.inputs,
            candidates,
            auxiliary,
            settings.learning if improved else None,
            settings.layer if kind != LOG_MEL else -1,
            1000 * settings.seed + number,
            settings.loss_crops if grey and kind == PRETRAINED else 0,
            _WHOLE_MASKS if "loss whole" in statistics and kind == PRETRAINED else 0,
            str(path),
            settings.backwards,
            checkpoint,
        )

    looks: list[list[Look]] = [[], []]

    def train(path: Path) -> None:
        (path / "started").touch()
        jobs = [
            job(PRETRAINED, n, path / f"encoder-{n:02d}.npz", half.heard, str(path / f"encoder-{n:02d}.pt"))
            for n, half in enumerate(design.encoders)
        ]
        look_through_encoders(jobs, settings.processes, told)

    def control(path: Path) -> None:
        (path / "started").touch()
        jobs = [job(RANDOM, 500 + n, path / f"random-{n:02d}.npz") for n in range(settings.random_seeds)]
        look_through_encoders([*jobs, job(LOG_MEL, 499, path / "log-mel.npz")], settings.processes)

    trained = folder.stage("encoders", train, go_on="started")
    looks[0] = [Look.read(trained / f"encoder-{n:02d}.npz") for n in range(len(design.encoders))]
    untrained = folder.stage("controls", control, go_on="started")
    looks[1] = [Look.read(untrained / f"random-{n:02d}.npz") for n in range(settings.random_seeds)]
    log_mel = Look.read(untrained / "log-mel.npz")
    judged, refused = answered_by_all(design, held.speakers, [*looks[0], *looks[1], log_mel])
    left_out |= refused
    reading = read_swapped(settings, judged, held, looks[0], looks[1], log_mel)
    records = tuple(
        json.loads(facts_file(trained / f"encoder-{n:02d}.npz").read_text(encoding="utf-8"))
        for n in range(len(design.encoders))
    )
    queries = len(candidates) // 2 + sum(len(ids) for ids in auxiliary.values())
    utility = _utility(settings, design, judged, held, looks[0], grey)
    return SslMembershipResult(reading, utility, left_out, queries, settings, records)


def answered_by_all(
    design: EncoderDesign, speakers: Mapping[str, str], looks: Sequence[Look]
) -> tuple[EncoderDesign, dict[str, str]]:
    """Return a design without the utterances that an encoder refused, and what these are and why.

    Parameters
    ----------
    design : EncoderDesign
    speakers : mapping of str to str
        Of each utterance.
    looks : sequence of Look
    """
    refused = {id: reason for look in looks for id, reason in look.left_out.items()}

    def kept(ids: Sequence[str]) -> tuple[str, ...]:
        left = [id for id in ids if id not in refused]
        counts = Counter(speakers[id] for id in left)
        return tuple(id for id in left if design.split == "utterance" or counts[speakers[id]] > 1)

    halves = [replace(half, members=kept(half.members), nonmembers=kept(half.nonmembers)) for half in design.encoders]
    return replace(design, encoders=tuple(halves)), refused


def usable_utterances(
    held: Recordings, inputs: Inputs, least: int, *, decode: bool = True, side: str = ""
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the ids of each speaker's usable utterances, and of the others why they are left out.

    Parameters
    ----------
    held : Recordings
    inputs : Inputs
    least : int
        Utterances that a speaker has to have.
    decode : bool
        Look at the samples; else at the durations that files tell.
    side : str
        Only of ids that begin so.
    """
    found: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    for id in [id for id in held if id.startswith(side)]:
        try:
            if decode:
                inputs.of(held.wave(id))
            elif held.seconds(id) < inputs.seconds:
                raise AudioError(f"shorter than {inputs.seconds:g} s")
        except AudioError as error:
            left_out[id] = str(error)
        else:
            found.setdefault(held.speakers[id], []).append(id)
    for name in [name for name, ids in found.items() if len(ids) < least]:
        left_out |= dict.fromkeys(found.pop(name), f"fewer than {least} usable utterances of the speaker")
    return found, left_out


def heard_alone(
    held: Recordings, usable: Mapping[str, Sequence[str]], left_out: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return, of usable speakers, the recordings that can pre-train an encoder but are too short to be sent.

    Parameters
    ----------
    held : Recordings
    usable : mapping of str to sequence of str
        By speaker, what can be sent.
    left_out : mapping of str to str
        What cannot.
    """
    found: dict[str, list[str]] = {}
    for id in left_out:
        if held.speakers[id] not in usable:
            continue
        try:
            wave = held.wave(id)
        except AudioError:
            continue
        if trains(wave):
            found.setdefault(held.speakers[id], []).append(id)
    return found


def read_swapped(
    settings: SslMembership,
    design: EncoderDesign,
    held: Recordings,
    looks: Sequence[Look],
    untrained: Sequence[Look],
    log_mel: Look,
) -> Reading:
    """Attack every encoder of a design, and hold the attacks against controls on the same rows.

    Parameters
    ----------
    settings : SslMembership
    design : EncoderDesign
    held : Recordings
    looks : sequence of Look
        Of each encoder.
    untrained : sequence of Look
        Of networks that were never trained.
    log_mel : Look
        Of log-mel frames.
    """
    known = frame_attacks()
    primary = known[settings.attacks[0]]
    same = primary.statistic if not primary.grey_box else "basic"

    def gathered(name: str, unit: str, score: Score) -> SwappedAudit:
        rows = Rows()
        for target, half in enumerate(design.encoders):
            members = frozenset(half.members)
            groups = units_of([*half.members, *half.nonmembers], held.speakers, unit)
            speakers = [held.speakers[ids[0]] for ids in groups.values()]
            roles = np.array([ids[0] in members for ids in groups.values()])
            rows.add(score(target, groups), roles, list(groups), speakers, target)
        return rows.audit(name, unit, settings.confidence)

    def attacked(attack: FrameAttack, unit: str, layer: int) -> Score:
        def score(target: int, groups: Units) -> Floats:
            references = [looks[number] for number in design.references(target)]
            return attack.scores(looks[target], references, groups, unit, layer)

        return score

    audits = {
        (name, unit): gathered(name, unit, attacked(known[name], unit, settings.layer))
        for name in settings.attacks
        for unit in settings.units
    }
    swept = [name for name in settings.attacks if known[name].statistic == "basic"]
    layers: dict[tuple[str, str, int], SwappedAudit] = {
        (name, unit, layer): gathered(name, unit, attacked(known[name], unit, layer))
        for name in swept
        for unit in settings.units
        for layer in range(looks[0].basic.shape[1])
        if looks[0].basic.shape[1] > 1
    }
    blind: dict[tuple[str, str], SwappedAudit] = {}
    details: dict[tuple[str, str], Mapping[str, Any]] = {}
    seconds = {id: held.seconds(id) for half in design.encoders for id in half.members}
    for unit in settings.units:

        def under(look: Look, layer: int = settings.layer, unit: str = unit) -> Score:
            return lambda target, groups: statistic(same, look, groups, unit, layer)

        def untold(target: int, groups: Units, unit: str = unit) -> Floats:
            return standardised_mean([statistic(same, look, groups, unit, settings.layer) for look in untrained])

        def elsewhere(target: int, groups: Units, unit: str = unit) -> Floats:
            other = looks[design.wrong_target(target)]
            return statistic(primary.statistic, other, groups, unit, settings.layer)

        def lasting(target: int, groups: Units) -> Floats:
            return np.array([np.mean([seconds[id] for id in ids]) for ids in groups.values()])

        found: dict[str, Score] = {
            "duration": lasting,
            "log-mel-frames": under(log_mel, layer=-1),
            "random-encoder": untold,
            "wrong-encoder": elsewhere,
        }
        blind |= {(name, unit): gathered(name, unit, score) for name, score in found.items()}
        each = [gathered("random-encoder", unit, under(look)).auc().value or 0.0 for look in untrained]
        spread = {"networks": len(each), "lowest_network": min(each), "highest_network": max(each)}
        details["random-encoder", unit] = spread
    shared = {
        "target": settings.training.model,
        "protocol": "swapped roles",
        "seeds": (settings.seed,),
        "defense": "dp-sgd" if settings.training.dp is not None else None,
        # References of calibrated attacks are trained as the target is.
        "attacker": "adaptive" if settings.training.dp is not None else None,
        "conditions": {
            "private": settings.source.corpus,
            "split": settings.split,
            "seconds": settings.inputs.seconds or "whole utterances",
            "steps": settings.training.steps,
        },
    }
    return Reading(audits, blind, layers, shared, details)


def units_of(ids: Sequence[str], speakers: Mapping[str, str], unit: str) -> dict[str, tuple[str, ...]]:
    """Return the utterances of each unit: one each, or all of a speaker's."""
    if unit == "utterance":
        return {id: (id,) for id in ids}
    found: dict[str, list[str]] = {}
    for id in ids:
        found.setdefault(speakers[id], []).append(id)
    return {name: tuple(mine) for name, mine in found.items()}


def _utility(
    settings: SslMembership,
    design: EncoderDesign,
    judged: EncoderDesign,
    held: Recordings,
    looks: Sequence[Look],
    grey: bool,
) -> dict[str, Any]:
    training = settings.training
    seconds = [sum(held.seconds(id) for id in half.heard) for half in design.encoders]
    heard = training.steps * training.batch_size * training.seconds
    found: dict[str, Any] = {
        "task": "Pre-training",
        "minutes": float(np.mean(seconds)) / 60,
        "epochs": float(np.mean([heard / each for each in seconds])),
        "steps": training.steps,
    }
    if grey:
        for name, side in (("loss_members", "members"), ("loss_nonmembers", "nonmembers")):
            means = [
                float(look.loss[look.rows(getattr(half, side))].mean())
                for half, look in zip(judged.encoders, looks, strict=True)
            ]
            found[name] = float(np.mean(means))
    return found


def source_of(corpus: str, root: str | None, options: Mapping[str, Any], side: str = "") -> Source:
    """Return where a corpus is."""
    return Source(corpus, root, json.dumps(dict(options), sort_keys=True), side)
