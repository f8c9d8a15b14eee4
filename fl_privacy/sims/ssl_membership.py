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

from fl_privacy.attacks.membership.ssl.attacks import UNITS, frame_attacks
from fl_privacy.attacks.membership.ssl.design import EncoderDesign, encoder_design
from fl_privacy.attacks.membership.ssl.look import Look
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.attacks.membership.ssl.size import FEWEST, of_size
from fl_privacy.audit.reading import SWAPPED
from fl_privacy.errors import UserError
from fl_privacy.sims.speaker_recognisers import Source
from fl_privacy.sims.ssl_encoders import LOG_MEL, PRETRAINED, RANDOM, EncoderJob, facts_file, look_through_encoders
from fl_privacy.sims.ssl_reading import Seen, read
from fl_privacy.sims.ssl_recordings import (
    ALONE,
    HEARD,
    Inputs,
    Recordings,
    heard_alone,
    recordings,
    too_short,
    usable_utterances,
)
from fl_privacy.sims.ssl_result import Reading
from fl_privacy.sims.stages import RunFolder

if TYPE_CHECKING:
    from fl_privacy.training.pretraining import Pretraining

_SMALLEST_POOL = 4
"""Speakers; see `fl_privacy.attacks.membership.protocol.swap_design`."""

WHOLE_MASKS = 2
"""For the loss of a whole utterance, which has more masked frames than a crop."""

NOT_DRAWN = "not drawn: protocol.training is a part of the speech"
"""Why a recording of the pools neither trains an encoder nor is judged."""


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
    training_size : int
        Speakers, or utterances where these are split, that train each encoder; 0: all of its half. See
        `fl_privacy.attacks.membership.ssl.size.of_size`.
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
    training_size: int = 0

    def __post_init__(self) -> None:
        check_attacks(self.attacks)
        if self.training_size and self.training_size < FEWEST:
            raise UserError(f"protocol.training: {self.training_size} is too few; {FEWEST} or more, or 0 for all")
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
        part = f"{s.training_size} {s.split}s an encoder, " if s.training_size else ""
        targets = 4 * s.swaps * max(len(self.reading.runs), 1)
        what = (
            f"{s.source.corpus}: {s.training.model}, {targets} targets, split by {s.split}, {length}; {part}"
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
    usable, left_out = usable_utterances(held, settings.inputs)
    _check_speakers(held, usable, left_out, settings)
    short = heard_alone(held, usable, left_out)
    design = encoder_design(usable, settings.split, settings.auxiliary, settings.swaps, settings.seed, short)
    in_pools = {id for half in design.encoders for id in half.members}
    if settings.training_size:
        design = of_size(design, held.speakers, settings.training_size, settings.seed)
    left_out |= {id: left_out[id] + HEARD for half in design.encoders for id in half.unsent}
    auxiliary = {name: tuple(usable[name]) for name in design.auxiliary}
    candidates = tuple(sorted({id for half in design.encoders for id in half.members}))
    left_out |= dict.fromkeys(sorted(in_pools.difference(candidates)), NOT_DRAWN)
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
            WHOLE_MASKS if "loss whole" in statistics and kind == PRETRAINED else 0,
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
    seen = Seen(
        judged,
        held.speakers,
        {id: held.seconds(id) for id in candidates},
        looks[0],
        log_mel,
        looks[1],
        [looks[0][design.wrong_target(target)] for target in range(len(looks[0]))],
    )
    reading = read(seen, settings.attacks, settings.units, settings.layer, settings.confidence, _shared(settings))
    records = tuple(
        json.loads(facts_file(trained / f"encoder-{n:02d}.npz").read_text(encoding="utf-8"))
        for n in range(len(design.encoders))
    )
    sent = max(len(half.members) + len(half.nonmembers) for half in design.encoders)
    queries = sent + sum(len(ids) for ids in auxiliary.values())
    utility = _utility(settings, design, judged, held, looks[0], grey)
    return SslMembershipResult(reading, utility, left_out, queries, settings, records)


def _check_speakers(
    held: Recordings, usable: Mapping[str, Sequence[str]], left_out: Mapping[str, str], settings: SslMembership
) -> None:
    needed = settings.auxiliary + 2 * _SMALLEST_POOL
    if len(usable) < needed:
        people, short = len(set(held.speakers.values())), too_short(left_out, settings.inputs)
        raise UserError(
            f"private: {len(usable)} of {people} speakers have two usable recordings{short}; {needed} are needed: "
            f"protocol.auxiliary = {settings.auxiliary} who train nothing, and two pools of {_SMALLEST_POOL}. "
            f"{'Lower protocol.seconds or' if short else 'Lower'} protocol.auxiliary, or give more speakers"
        )


def answered_by_all(
    design: EncoderDesign, speakers: Mapping[str, str], looks: Sequence[Look]
) -> tuple[EncoderDesign, dict[str, str]]:
    """Return a design without the utterances that an encoder refused, and what is left out and why.

    Parameters
    ----------
    design : EncoderDesign
    speakers : mapping of str to str
        Of each utterance.
    looks : sequence of Look
    """
    lost = {id: reason for look in looks for id, reason in look.left_out.items()}
    if design.split == "speaker":
        asked = {id for half in design.encoders for id in half.members} - lost.keys()
        counts = Counter(speakers[id] for id in asked)
        lost |= {id: ALONE for id in sorted(asked) if counts[speakers[id]] == 1}

    def kept(ids: Sequence[str]) -> tuple[str, ...]:
        return tuple(id for id in ids if id not in lost)

    halves = [replace(half, members=kept(half.members), nonmembers=kept(half.nonmembers)) for half in design.encoders]
    return replace(design, encoders=tuple(halves)), lost


def _shared(settings: SslMembership) -> dict[str, Any]:
    """Return what every claim says of the run."""
    private = settings.training.dp is not None
    size = {"training": f"{settings.training_size} {settings.split}s an encoder"} if settings.training_size else {}
    return {
        "target": settings.training.model,
        "protocol": SWAPPED,
        "seeds": (settings.seed,),
        "defense": "dp-sgd" if private else None,
        # References of calibrated attacks are trained as the target is.
        "attacker": "adaptive" if private else None,
        "conditions": {
            "private": settings.source.corpus,
            "split": settings.split,
            "seconds": settings.inputs.seconds or "whole utterances",
            "steps": settings.training.steps,
            **size,
        },
    }


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
