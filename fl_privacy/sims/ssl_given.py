"""Encoders that are there already, as Tseng, Kao and Lee 2022 (arXiv 2111.05113) attack them, and controlled.

Members are one set of recordings, non-members another: nothing is swapped, so that whatever sets these apart looks like
membership. The published reading sends whole utterances, and takes the non-members for the attacker's own. The
controlled one beside it sends inputs of one length, learns on speakers who are not judged, and is held against what
never asks the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.ssl.attacks import UNITS, frame_attacks
from fl_privacy.attacks.membership.ssl.design import EncoderDesign, PretrainedHalf
from fl_privacy.attacks.membership.ssl.look import Look
from fl_privacy.attacks.membership.ssl.matching import match_durations
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.audit.reading import AS_PUBLISHED
from fl_privacy.errors import UserError
from fl_privacy.sims.own_attacks import cross_fitted
from fl_privacy.sims.speaker_recognisers import Source
from fl_privacy.sims.ssl_encoders import (
    GIVEN,
    LOG_MEL,
    RANDOM,
    EncoderJob,
    GivenEncoder,
    given_module,
    look_through_encoders,
)
from fl_privacy.sims.ssl_membership import WHOLE_MASKS, check_attacks
from fl_privacy.sims.ssl_reading import Seen, read
from fl_privacy.sims.ssl_recordings import (
    ALONE,
    Inputs,
    Recordings,
    recordings,
    too_short,
    usable_utterances,
)
from fl_privacy.sims.ssl_result import Reading
from fl_privacy.sims.stages import RunFolder

Floats = NDArray[np.float64]

MEMBERS, NONMEMBERS, AUXILIARY = "members/", "nonmembers/", "auxiliary/"

UNPAIRED = "no recording of the other side lasts as long"
"""Why a recording is left out where members and non-members are paired by duration."""


@dataclass(frozen=True)
class GivenMembership:
    """The settings of a run on an encoder that is there already.

    Attributes
    ----------
    encoder : GivenEncoder
    members, nonmembers : Source
        What trained it, and what did not; their sides are `MEMBERS` and `NONMEMBERS`.
    auxiliary : Source or None
        The attacker's own speech (side `AUXILIARY`). None: all non-members, in the published reading, and half of the
        non-members' speakers, who are then not judged, in the controlled one.
    others : tuple of GivenEncoder
        Of the same architecture, pre-trained on neither side's speech: references of calibrated attacks, and the first
        one a control.
    inputs : Inputs
        Of the controlled reading.
    backwards : bool
        Turn every input around in time, in both readings.
    match : float
        Where the controlled reading sends whole utterances, pair members and non-members that differ by so many seconds
        at most; 0: do not.
    per_speaker : int
        Utterances of each speaker, drawn; 0: all.
    published : bool
        Whether the published reading is made beside the controlled one.
    layer : int
    attacks : tuple of str
        Names out of `fl_privacy.attacks.membership.ssl.attacks.frame_attacks`, the primary one first. The published
        reading makes those of them that the study has.
    learning : Learning
        Of the controlled reading; the published one has the study's rate.
    random_seeds : int
    permutations, confidence, seed, processes
        As in `fl_privacy.sims.ssl_membership.SslMembership`.
    loss_crops : int
        Of what is sent of an utterance, on which the pre-training loss is taken.

    Raises
    ------
    UserError
        For an attack that the encoder has not got what it takes for.
    """

    encoder: GivenEncoder
    members: Source
    nonmembers: Source
    auxiliary: Source | None = None
    others: tuple[GivenEncoder, ...] = ()
    inputs: Inputs = field(default_factory=lambda: Inputs(peak=True))
    backwards: bool = False
    match: float = 0.0
    per_speaker: int = 0
    published: bool = True
    layer: int = -1
    attacks: tuple[str, ...] = ("improved", "basic")
    learning: Learning = field(default_factory=Learning)
    random_seeds: int = 5
    permutations: int = 200
    confidence: float = 0.95
    seed: int = 1
    processes: int = 1
    loss_crops: int = 4

    def __post_init__(self) -> None:
        check_attacks(self.attacks)
        if self.encoder.encoder is None and not self.encoder.architecture:
            raise UserError("target.architecture: missing; which network is the checkpoint of?")
        files = [one.checkpoint for one in (self.encoder, *self.others)]
        if self.others and len(set(files)) < len(files):
            raise UserError("controls.checkpoint: a file stands there twice, or is the target's own")
        for name in self.attacks:
            self._check_attack(name)

    def _check_attack(self, name: str) -> None:
        from fl_privacy.models.pretrained import IN_REPO

        attack, there = frame_attacks()[name], len(self.others)
        if attack.grey_box and self.encoder.architecture not in IN_REPO:
            raise UserError(
                f"attack {name!r} takes the model itself with the head of its pre-training, which is there in files of "
                f"ours alone (target.architecture = {' or '.join(IN_REPO)}); of {self.name}: basic, improved"
            )
        if attack.calibration and there < 2:
            raise UserError(
                f"attack {name!r} takes two reference encoders at least, of the target's architecture and pre-trained "
                f'on neither side\'s speech: controls.checkpoint = ["one.pt", "another.pt"]; there {_count(there)}'
            )

    @property
    def grey_box(self) -> bool:
        """Whether an attack takes the pre-training loss."""
        return any(frame_attacks()[name].grey_box for name in self.attacks)

    @property
    def study(self) -> tuple[str, ...]:
        """Those of the attacks that the published study has."""
        return tuple(name for name in self.attacks if name in ("basic", "improved"))

    @property
    def name(self) -> str:
        """Of the target, in claims."""
        return self.encoder.encoder or self.encoder.architecture


def _count(there: int) -> str:
    return "is one" if there == 1 else "is none"


@dataclass(frozen=True)
class _Way:
    """How a reading is made.

    Attributes
    ----------
    stage, protocol : str
    inputs : Inputs
    learning : Learning
    attacks : tuple of str
    """

    stage: str
    protocol: str
    inputs: Inputs
    learning: Learning
    attacks: tuple[str, ...]


@dataclass(frozen=True)
class GivenResult:
    """What a run found.

    Attributes
    ----------
    controlled : Reading
    published : Reading or None
    left_out : mapping of str to dict of str to str
        By side: utterances that were not used, and why.
    queries : int
        Utterances sent to the target.
    """

    controlled: Reading
    published: Reading | None
    left_out: Mapping[str, dict[str, str]]
    queries: int

    def table(self) -> str:
        """One line for each attack and control, the two readings apart."""
        lines = [
            "Controlled: inputs of one length, the attacker's own speakers are not judged",
            *self.controlled.table(),
        ]
        if self.published is not None:
            lines += ["", "As published (no claim: what never asks the encoder stands beside)", *self.published.table()]
        return "\n".join(lines)


def attack_given_encoder(
    folder: RunFolder, settings: GivenMembership, told: Callable[[int, int], None] | None = None
) -> GivenResult:
    """Do what is left of the stages ``controlled`` and ``published``.

    Parameters
    ----------
    folder : RunFolder
    settings : GivenMembership
    told : callable, optional
        Told the number of an encoder and how many utterances it was asked of.

    Raises
    ------
    UserError
        Where the encoder cannot be used, a speaker is on both sides, or too few are left.
    """
    sources = [settings.members, settings.nonmembers, *([settings.auxiliary] if settings.auxiliary else [])]
    recordings.cache_clear()  # files may have changed since another run of this process
    held = recordings(tuple(sources))
    _apart(held)
    left_out: dict[str, dict[str, str]] = {source.side: {} for source in sources}
    inputs = replace(settings.inputs, backwards=settings.backwards)
    sides = {s.side: _chosen(held, s.side, inputs, settings, left_out[s.side]) for s in sources}
    own, judged = _parted(sides, settings, left_out)
    if settings.match and not inputs.samples:
        judged = _matched(held, judged, settings, left_out)
    way = _Way("controlled", "one encoder", inputs, settings.learning, settings.attacks)
    controlled, sent = _read(folder, way, held, own, judged, settings, left_out, told)
    published = None
    if settings.published and settings.study:
        whole = Inputs(0.0, peak=True, backwards=settings.backwards)
        everything = {s.side: _chosen(held, s.side, whole, settings, left_out[s.side]) for s in sources}
        mine = everything[AUXILIARY] if settings.auxiliary else everything[NONMEMBERS]
        way = _Way("published", AS_PUBLISHED, whole, settings.learning.as_published(), settings.study)
        judged = {side: everything[side] for side in (MEMBERS, NONMEMBERS)}
        published, more = _read(folder, way, held, mine, judged, settings, left_out, told)
        sent += more
    return GivenResult(controlled, published, left_out, sent)


def _apart(held: Recordings) -> None:
    sides: dict[str, set[str]] = {MEMBERS: set(), NONMEMBERS: set(), AUXILIARY: set()}
    for name in set(held.speakers.values()):
        side, _, speaker = name.partition("/")
        sides[f"{side}/"].add(speaker)
    both = sorted(sides[MEMBERS] & sides[NONMEMBERS])
    if both:
        raise UserError(f"speaker {both[0]!r} is among the members and among the non-members")
    known = sorted(sides[AUXILIARY] & sides[MEMBERS])
    if known:
        raise UserError(f"auxiliary: speaker {known[0]!r} is a member; the attacker owns other people's speech")


def _chosen(
    held: Recordings, side: str, inputs: Inputs, settings: GivenMembership, left_out: dict[str, str]
) -> dict[str, list[str]]:
    usable, lost = usable_utterances(held, inputs, decode=False, side=side)
    left_out |= lost
    if not settings.per_speaker:
        return usable
    found = {}
    for number, name in enumerate(sorted(usable)):
        rng = np.random.default_rng([settings.seed, 4, number])
        ids = sorted(usable[name])
        found[name] = sorted(ids[place] for place in rng.permutation(len(ids))[: max(settings.per_speaker, 2)])
    return found


def _parted(
    sides: Mapping[str, dict[str, list[str]]], settings: GivenMembership, left_out: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, list[str]], dict[str, dict[str, list[str]]]]:
    """Return the attacker's own speakers, and those who are judged."""
    judged = {side: sides[side] for side in (MEMBERS, NONMEMBERS)}
    theirs = AUXILIARY if settings.auxiliary is not None else NONMEMBERS
    needed = dict.fromkeys(sides, 2) | {theirs: 4 if theirs == AUXILIARY else 8}
    for side, people in sides.items():
        if len(people) < needed[side]:
            half = side == theirs == NONMEMBERS
            why = "; half of them are the attacker's own, who needs four" if half else ""
            raise UserError(
                f"{side.rstrip('/')}: {len(people)} speakers with two usable recordings"
                f"{too_short(left_out[side], settings.inputs)}{why}: give {needed[side]} or more"
                f"{', or [auxiliary]' if half else ''}"
            )
    if settings.auxiliary is not None:
        return sides[AUXILIARY], judged
    names = sorted(judged[NONMEMBERS])
    order = [names[place] for place in np.random.default_rng([settings.seed, 5]).permutation(len(names))]
    cut = max(4, len(order) // 2)
    own = {name: judged[NONMEMBERS][name] for name in sorted(order[:cut])}
    return own, {MEMBERS: judged[MEMBERS], NONMEMBERS: {name: judged[NONMEMBERS][name] for name in sorted(order[cut:])}}


def _matched(
    held: Recordings,
    judged: Mapping[str, dict[str, list[str]]],
    settings: GivenMembership,
    left_out: Mapping[str, dict[str, str]],
) -> dict[str, dict[str, list[str]]]:
    flat = {side: [id for ids in people.values() for id in ids] for side, people in judged.items()}
    seconds = {side: [held.seconds(id) for id in ids] for side, ids in flat.items()}
    kept = match_durations(seconds[MEMBERS], seconds[NONMEMBERS], settings.match, settings.seed)
    found = {}
    for side, numbers in zip((MEMBERS, NONMEMBERS), kept, strict=True):
        chosen = {flat[side][number] for number in numbers}
        left_out[side] |= {id: UNPAIRED for id in flat[side] if id not in chosen}
        people = {name: [id for id in ids if id in chosen] for name, ids in judged[side].items()}
        left_out[side] |= {ids[0]: ALONE for ids in people.values() if len(ids) == 1}
        found[side] = {name: ids for name, ids in people.items() if len(ids) > 1}
    return found


def _read(
    folder: RunFolder,
    way: _Way,
    held: Recordings,
    own: Mapping[str, Sequence[str]],
    judged: Mapping[str, Mapping[str, Sequence[str]]],
    settings: GivenMembership,
    left_out: dict[str, dict[str, str]],
    told: Callable[[int, int], None] | None,
) -> tuple[Reading, int]:
    sources = tuple(s for s in (settings.members, settings.nonmembers, settings.auxiliary) if s is not None)
    candidates = tuple(id for people in judged.values() for ids in people.values() for id in ids)
    auxiliary = {name: tuple(ids) for name, ids in own.items()}
    kinds: list[tuple[str, str, GivenEncoder | None]] = [("target", GIVEN, settings.encoder)]
    if settings.encoder.known:
        kinds += [(f"random-{n:02d}", RANDOM, settings.encoder) for n in range(settings.random_seeds)]
    kinds += [(f"other-{n:02d}", GIVEN, other) for n, other in enumerate(settings.others)]
    kinds.append(("log-mel", LOG_MEL, None))
    path = folder.path / way.stage
    statistics = {frame_attacks()[name].statistic for name in way.attacks}
    losses = (
        settings.loss_crops if any(name.startswith("loss") for name in statistics) else 0,
        WHOLE_MASKS if "loss whole" in statistics else 0,
    )
    crop = _crop_seconds(settings) if any(losses) else None

    def work(path: Path) -> None:
        (path / "started").touch()
        jobs = [
            EncoderJob(
                kind,
                sources,
                (),
                None,
                given,
                way.inputs,
                candidates,
                auxiliary,
                way.learning if "improved" in statistics else None,
                -1 if kind == LOG_MEL else settings.layer,
                1000 * settings.seed + number,
                *((0, 0) if kind == LOG_MEL else losses),
                str(path / f"{name}.npz"),
                crop_seconds=crop,
            )
            for number, (name, kind, given) in enumerate(kinds)
        ]
        look_through_encoders(jobs, settings.processes, told)

    folder.stage(way.stage, work, go_on="started")
    looks = {name: Look.read(path / f"{name}.npz") for name, _, _ in kinds}
    for look in looks.values():
        for id, reason in look.left_out.items():
            left_out[f"{id.partition('/')[0]}/"][id] = reason
    heard = set.intersection(*(set(look.ids) for look in looks.values()))
    people: dict[str, dict[str, list[str]]] = {}
    for side, of in judged.items():
        answered = {name: [id for id in ids if id in heard] for name, ids in of.items()}
        left_out[side] |= {ids[0]: ALONE for ids in answered.values() if len(ids) == 1}
        people[side] = {name: ids for name, ids in answered.items() if len(ids) > 1}
    for side, of in people.items():
        if len(of) < 2:
            raise UserError(f"{side.rstrip('/')}: fewer than two speakers with two usable utterances")
    reading = _attacked(held, looks, people, way, settings)
    return reading, len(set(candidates) | {id for ids in auxiliary.values() for id in ids})


def _crop_seconds(settings: GivenMembership) -> float:
    """Return the length of a crop in the target's training: on such crops references are asked, too."""
    from fl_privacy.models.frames import load_frame_encoder
    from fl_privacy.training.pretraining import training_crop

    target = settings.encoder
    module = given_module(target)
    if module is None:  # says why
        load_frame_encoder(target.checkpoint, target.architecture, parameters=dict(target.parameters) or None)
        raise UserError(f"target.checkpoint: {target.architecture} of ours comes from a file")
    return training_crop(module)


def _attacked(
    held: Recordings,
    looks: Mapping[str, Look],
    people: Mapping[str, Mapping[str, Sequence[str]]],
    way: _Way,
    settings: GivenMembership,
) -> Reading:
    flat = {side: tuple(id for ids in of.values() for id in ids) for side, of in people.items()}
    others = [look for name, look in looks.items() if name.startswith("other")]
    seen = Seen(
        EncoderDesign("speaker", (), (PretrainedHalf(0, flat[MEMBERS], flat[NONMEMBERS]),)),
        held.speakers,
        {id: way.inputs.seconds or held.seconds(id) for ids in flat.values() for id in ids},
        [looks["target"]],
        looks["log-mel"],
        [look for name, look in looks.items() if name.startswith("random")],
        others[:1],
        others,
    )
    shared: dict[str, Any] = {
        "target": settings.name,
        "protocol": way.protocol,
        "seeds": (settings.seed,),
        "conditions": {
            "private": settings.members.corpus,
            "auxiliary": (settings.auxiliary or settings.nonmembers).corpus,
            "seconds": way.inputs.seconds or "whole utterances",
            **({"backwards": True} if settings.backwards else {}),
        },
    }
    return read(
        seen,
        way.attacks,
        UNITS,
        settings.layer,
        settings.confidence,
        shared,
        controlled=len(way.attacks),
        sweep=way.protocol != AS_PUBLISHED,
        further={
            ("log-mel-classifier", "speaker"): lambda _, groups: _told_by_log_mel(
                looks["log-mel"], groups, settings.seed
            )
        },
    )


def _told_by_log_mel(look: Look, groups: Mapping[str, Sequence[str]], seed: int) -> Floats:
    """Mean log-mel energies of a speaker, with a classifier that is told who the other members are."""
    means = np.stack([look.means[look.rows(mine), -1].mean(axis=0) for mine in groups.values()])
    members = np.array([mine[0].startswith(MEMBERS) for mine in groups.values()])
    return cross_fitted(means.astype(np.float64), members, seed)
