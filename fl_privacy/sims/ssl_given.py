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
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.audit import Control
from fl_privacy.audit.reading import AS_PUBLISHED
from fl_privacy.errors import UserError
from fl_privacy.sims.own_attacks import cross_fitted
from fl_privacy.sims.ssl_encoders import (
    GIVEN,
    LOG_MEL,
    RANDOM,
    EncoderJob,
    GivenEncoder,
    given_module,
    look_through_encoders,
    without_untrained,
)
from fl_privacy.sims.ssl_given_settings import AUXILIARY, MEMBERS, NONMEMBERS, GivenMembership
from fl_privacy.sims.ssl_given_sides import chosen, matched, parted, refuse_speakers_on_both_sides
from fl_privacy.sims.ssl_membership import WHOLE_MASKS
from fl_privacy.sims.ssl_reading import Seen, read
from fl_privacy.sims.ssl_recordings import ALONE, Inputs, Recordings, recordings
from fl_privacy.sims.ssl_result import RANDOM_ENCODER, Reading
from fl_privacy.sims.stages import RunFolder

Floats = NDArray[np.float64]


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
    without : mapping of str to str
        By control that there is not: why.
    """

    controlled: Reading
    published: Reading | None
    left_out: Mapping[str, dict[str, str]]
    queries: int
    without: Mapping[str, str] = field(default_factory=dict)

    def controls(self, permutations: int) -> list[Control]:
        """The controls of all readings; in place of one that there is not, the reason why."""
        found: list[Control] = []
        for reading in self.readings:
            found += reading.controls(permutations)
            for control, why in self.without.items():
                found += reading.lacking(control, why)
        return found

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The controlled one first."""
        return (self.controlled,) if self.published is None else (self.controlled, self.published)

    def table(self) -> str:
        """One line for each attack and control, the two readings apart."""
        lines = [
            "Controlled: inputs of one length, the attacker's own speakers are not judged",
            *self.controlled.table(),
        ]
        lines += [f"No {control} as a control. {why}" for control, why in self.without.items()]
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
    refuse_speakers_on_both_sides(held)
    left_out: dict[str, dict[str, str]] = {source.side: {} for source in sources}
    inputs = replace(settings.inputs, backwards=settings.backwards)
    sides = {s.side: chosen(held, s.side, inputs, settings, left_out[s.side]) for s in sources}
    own, judged = parted(sides, settings, left_out)
    if settings.match and not inputs.samples:
        judged = matched(held, judged, settings, left_out)
    why = without_untrained(settings.encoder)
    way = _Way("controlled", "one encoder", inputs, settings.learning, settings.attacks)
    controlled, sent = _read(folder, way, held, own, judged, settings, why is None, left_out, told)
    published = None
    if settings.published and settings.study:
        whole = Inputs(0.0, peak=True, backwards=settings.backwards)
        everything = {s.side: chosen(held, s.side, whole, settings, left_out[s.side]) for s in sources}
        mine = everything[AUXILIARY] if settings.auxiliary else everything[NONMEMBERS]
        way = _Way("published", AS_PUBLISHED, whole, settings.learning.as_published(), settings.study)
        judged = {side: everything[side] for side in (MEMBERS, NONMEMBERS)}
        published, more = _read(folder, way, held, mine, judged, settings, why is None, left_out, told)
        sent += more
    without = {} if why is None else {RANDOM_ENCODER: why}
    if not settings.others:
        without["wrong-encoder"] = "controls.checkpoint names no encoder of the same kind that others' speech trained."
    return GivenResult(controlled, published, left_out, sent, without)


def _read(
    folder: RunFolder,
    way: _Way,
    held: Recordings,
    own: Mapping[str, Sequence[str]],
    judged: Mapping[str, Mapping[str, Sequence[str]]],
    settings: GivenMembership,
    untrained: bool,
    left_out: dict[str, dict[str, str]],
    told: Callable[[int, int], None] | None,
) -> tuple[Reading, int]:
    sources = tuple(s for s in (settings.members, settings.nonmembers, settings.auxiliary) if s is not None)
    candidates = tuple(id for people in judged.values() for ids in people.values() for id in ids)
    auxiliary = {name: tuple(ids) for name, ids in own.items()}
    kinds: list[tuple[str, str, GivenEncoder | None]] = [("target", GIVEN, settings.encoder)]
    if untrained:
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
