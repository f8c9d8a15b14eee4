"""Was this speaker's voice used to train a recogniser that is there already? Its members and non-members are given.

Nothing is swapped here: whatever sets the two groups of people or recordings apart looks like membership. So every
attack is held against baselines that never ask the recogniser: one untrained, one trained on other people, the voices'
mean log-mel energies, and a classifier of these energies that is told who the *other* members are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.conclude import Evaluation
from fl_privacy.attacks.membership.protocol import Recogniser, SwapDesign, Voices, chunks, one_sided_design
from fl_privacy.audit.claims import jsonable
from fl_privacy.audit.files import write_atomically
from fl_privacy.corpora import AudioError
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder, load_encoder
from fl_privacy.sims.own_attacks import World, concluded
from fl_privacy.sims.speaker_membership import SpeakerMembership
from fl_privacy.sims.speaker_recognisers import (
    MEAN_LOG_MEL,
    RANDOM,
    Embeddings,
    RecogniserJob,
    Source,
    embed_by_recognisers,
    read_embeddings,
    write_embeddings,
)
from fl_privacy.sims.speaker_voices import as_seen, unusable, usable_voices
from fl_privacy.sims.stages import RunFolder
from fl_privacy.training.verification import verification_eer

_AUXILIARY = "auxiliary/"


@dataclass(frozen=True)
class OwnRecogniser:
    """A recogniser that somebody trained.

    Attributes
    ----------
    model : str
        As for `fl_privacy.models.encoder.load_encoder`.
    members, nonmembers : Source
        Voices of speakers who trained it, and of others; their sides differ.
    sample_rate : int or None
        That it expects, in Hz, where the model does not say.
    """

    model: str
    members: Source
    nonmembers: Source
    sample_rate: int | None = None


@dataclass(frozen=True)
class OwnRecogniserResult:
    """What a run found.

    Attributes
    ----------
    evaluation : Evaluation
        Attacks, and the baselines that never ask the recogniser.
    utility : mapping of str to float
        ``eer_members``, ``eer_nonmembers``: of verification by the voices that were heard.
    queries : int
        Voices, or chunks of them, sent to the recogniser.
    left_out : mapping of str to dict of str to str
        By side: speakers and voices left out, and why.
    """

    evaluation: Evaluation
    utility: Mapping[str, float]
    queries: int
    left_out: Mapping[str, dict[str, str]]


def attack_own_recogniser(
    folder: RunFolder,
    own: OwnRecogniser,
    settings: SpeakerMembership,
    told: Callable[[int, int], None] | None = None,
) -> OwnRecogniserResult:
    """Do what is left of the stages ``target`` and ``recognisers``, and attack.

    Parameters
    ----------
    folder : RunFolder
    own : OwnRecogniser
    settings : SpeakerMembership
        Its corpus are the attacker's own speakers, its training is the shadows'.
    told : callable, optional
        Told the number of a shadow in training and how many steps of it are done.

    Raises
    ------
    UserError
        Where the model gives no embeddings, a speaker is on both sides, or too few are left.
    """
    auxiliary = Source(settings.corpus, settings.root, settings.source.options, _AUXILIARY)
    given, left_out = _candidates(own, settings)
    mine = {(side.corpus, side.root, side.options) for side in (own.members, own.nonmembers)}
    speech = auxiliary.load()
    if (auxiliary.corpus, auxiliary.root, auxiliary.options) in mine:
        raise UserError("auxiliary: the same recordings as members or nonmembers; the attacker owns other people's")
    bad = unusable(folder, speech, _AUXILIARY)
    voices, excluded = usable_voices(speech, settings.seed, _AUXILIARY, bad)
    left_out[_AUXILIARY] = bad | dict(excluded)
    drawn = one_sided_design((), (), tuple(voices), settings.imposters, settings.swaps, settings.seed)
    asked = {name: voices[name].all for name in drawn.imposters}
    for budget in settings.budgets:
        budget.of(asked)  # refused before anything is trained
    sources = (own.members, own.nonmembers, auxiliary)

    def ask(path: Path) -> None:
        _ask(path, own, sources, settings, [*(id for ids in given.values() for id in ids), *_flat(asked)])

    held = folder.stage("target", ask)
    facts = json.loads((held / "facts.json").read_text(encoding="utf-8"))
    target = as_seen(read_embeddings(held / "embeddings.npz"), settings.access)
    for voice, reason in facts["left_out"].items():
        left_out[f"{voice.split('/')[0]}/"][voice] = reason
    heard = {name: tuple(id for id in ids if id in target) for name, ids in given.items()}
    for name in [name for name, ids in heard.items() if len(ids) < 2]:
        side = f"{given[name][0].split('/')[0]}/"
        left_out[side][name] = "fewer than two voices that the recogniser embeds"
        del heard[name]
    sides = [[n for n, ids in heard.items() if ids[0].startswith(s.side)] for s in (own.members, own.nonmembers)]
    for side, names in zip(("members", "nonmembers"), sides, strict=True):
        if len(names) < 2:
            why = next(iter(left_out[f"{side}/"].values()), "there are no more")
            raise UserError(f"{side}: {len(names)} speaker(s) with two usable voices; two at least ({why})")
    design = SwapDesign(
        drawn.imposters, (Recogniser(0, tuple(sorted(sides[0])), tuple(sorted(sides[1]))), *drawn.recognisers[1:])
    )
    known = {**voices, **{name: Voices((), ids) for name, ids in heard.items()}}

    def train(path: Path) -> None:
        _train(path, sources, settings, design, known, told)

    held = folder.stage("recognisers", train, go_on="started")
    shadows = [as_seen(read_embeddings(_file(held, n)), settings.access) for n in range(1, len(design.recognisers))]
    inputs, untrained = (read_embeddings(_file(held, len(design.recognisers) + n)) for n in range(2))
    world = World(settings, design, known, heard, (target, *shadows), inputs)
    evaluation = concluded(own, world, untrained)
    utility = {
        f"eer_{kind}": _eer(target, {name: heard[name] for name in names})
        for kind, names in zip(("members", "nonmembers"), sides, strict=True)
    }
    return OwnRecogniserResult(evaluation, utility, facts["queries"], left_out)


def _candidates(
    own: OwnRecogniser, settings: SpeakerMembership
) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, str]]]:
    """Ids of the voices that are heard of each speaker, and who was left out by side."""
    found: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, dict[str, str]] = {}
    for number, source in enumerate((own.members, own.nonmembers)):
        by_speaker: dict[str, list[str]] = {}
        for utterance in source.load():
            by_speaker.setdefault(utterance.speaker, []).append(source.side + utterance.id)
        both = sorted(set(by_speaker) & set(found))
        if both:
            raise UserError(f"speaker {both[0]!r} is among the members and among the non-members")
        left_out[source.side] = {}
        for place, (speaker, ids) in enumerate(sorted(by_speaker.items())):
            if len(ids) < 2:
                left_out[source.side][speaker] = "one voice; how close voices lie takes two"
                continue
            rng = np.random.default_rng([settings.seed, 2, number, place])
            found[speaker] = Voices((), tuple(sorted(ids))).draw(0.0, settings.voices, rng)
    return found, left_out


def _ask(
    folder: Path, own: OwnRecogniser, sources: Sequence[Source], settings: SpeakerMembership, ids: Sequence[str]
) -> None:
    encoder = load_encoder(own.model, own.sample_rate)
    waves, left_out = _decoded(sources, frozenset(ids))
    kept, sizes, parts = embedded(
        encoder, {id: waves[id] for id in ids if id in waves}, settings.chunk_frames, left_out
    )
    write_embeddings(folder / "embeddings.npz", kept, sizes, parts)
    facts = {"queries": encoder.queries, "left_out": left_out}
    write_atomically(folder / "facts.json", json.dumps(jsonable(facts), indent=1) + "\n")


def _decoded(
    sources: Sequence[Source], wanted: frozenset[str]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    waves, left_out = {}, {}
    for source in sources:
        speech = source.load()
        for utterance in speech:
            name = source.side + utterance.id
            if name in wanted:
                try:
                    waves[name] = speech.wave(utterance)
                except AudioError as error:
                    left_out[name] = str(error)
    return waves, left_out


def embedded(
    encoder: SpeakerEncoder, waves: Mapping[str, NDArray[np.float32]], chunk_frames: int, left_out: dict[str, str]
) -> tuple[list[str], list[int], NDArray[np.float32]]:
    """Embed voices, or their chunks; those that have no embedding are noted with the reason.

    Parameters
    ----------
    encoder : SpeakerEncoder
    waves : mapping of str to ndarray
        By id.
    chunk_frames : int
        0: voices are not split. A voice shorter than that is a chunk of its own.
    left_out : dict of str to str
        Voices that have none are added.

    Returns
    -------
    list of str, list of int
        Ids, and how many embeddings each has.
    ndarray, shape (embeddings, d)
    """
    parts = {name: chunks(wave, chunk_frames) if chunk_frames else [wave] for name, wave in waves.items()}
    owners = [name for name, of in parts.items() for _ in of]
    embeddings, failed = encoder.embed_usable([part for of in parts.values() for part in of])
    kept = [name for number, name in enumerate(owners) if number not in failed]
    for number, reason in failed.items():
        if owners[number] not in kept:
            left_out[owners[number]] = reason
    ids = list(dict.fromkeys(kept))
    return ids, [kept.count(name) for name in ids], embeddings


def _train(
    folder: Path,
    sources: tuple[Source, ...],
    settings: SpeakerMembership,
    design: SwapDesign,
    voices: Mapping[str, Voices],
    told: Callable[[int, int], None] | None,
) -> None:
    (folder / "started").touch()
    kinds: list[tuple[Recogniser | None, str]] = [(recogniser, "") for recogniser in design.recognisers[1:]]
    jobs = [
        RecogniserJob(
            sources,
            recogniser,
            voices,
            settings.training,
            settings.chunk_frames,
            1000 * settings.seed + number,
            str(_file(folder, number)),
            untrained,
        )
        for number, (recogniser, untrained) in enumerate([*kinds, (None, MEAN_LOG_MEL), (None, RANDOM)], start=1)
    ]
    embed_by_recognisers(jobs, settings.processes, told)


def _file(folder: Path, number: int) -> Path:
    return folder / f"recogniser-{number:02d}.npz"


def _eer(table: Embeddings, heard: Mapping[str, Sequence[str]]) -> float:
    vectors = [table[id].mean(axis=0) for ids in heard.values() for id in ids]
    return verification_eer(np.stack(vectors), [name for name, ids in heard.items() for _ in ids])


def _flat(ids: Mapping[str, Sequence[str]]) -> list[str]:
    return [id for of in ids.values() for id in of]
