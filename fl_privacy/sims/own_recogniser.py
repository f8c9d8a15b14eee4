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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.conclude import Evaluation, conclude
from fl_privacy.attacks.membership.evidence import Features, TaughtAttack, calibrated, default_attacks
from fl_privacy.attacks.membership.protocol import Recogniser, SwapDesign, Voices, chunks, one_sided_design
from fl_privacy.attacks.membership.queries import Budget
from fl_privacy.audit import Audit, Claim
from fl_privacy.audit.claims import jsonable
from fl_privacy.audit.files import write_atomically
from fl_privacy.corpora import AudioError
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder, load_encoder
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
from fl_privacy.sims.speaker_result import budget_conditions
from fl_privacy.sims.speaker_voices import as_seen, looked_at, unusable, usable_voices
from fl_privacy.sims.stages import RunFolder
from fl_privacy.training.verification import verification_eer

Floats = NDArray[np.float64]

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
    drawn = one_sided_design((), (), tuple(voices), settings.imposters, settings.pairs, settings.seed)
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
    world = _World(settings, design, known, heard, (target, *shadows), inputs)
    evaluation = _concluded(own, world, untrained)
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


@dataclass(frozen=True)
class _World:
    """Who is heard with which voices, before the recogniser in question and the shadows."""

    settings: SpeakerMembership
    design: SwapDesign
    voices: Mapping[str, Voices]
    heard: Mapping[str, Sequence[str]]
    tables: tuple[Embeddings, ...]
    inputs: Embeddings

    @property
    def imposters(self) -> dict[str, tuple[str, ...]]:
        """Ids of the imposters' voices that the recogniser embeds."""
        all_of = {name: self.voices[name].all for name in self.design.imposters}
        found = {name: tuple(id for id in ids if id in self.tables[0]) for name, ids in all_of.items()}
        if not any(found.values()):
            raise UserError("auxiliary: the recogniser embeds no imposter's voice")
        return {name: ids for name, ids in found.items() if ids}

    def rows(self, r: float, budget: Budget | None = None) -> Features:
        """What attacks look at: candidates before every recogniser, the shadows' speakers before the shadows.

        With a budget, of the primary attack alone.
        """
        settings = self.settings
        count = settings.voices if budget is None else budget.voices
        people = {
            name: self.voices[name].draw(r, count, np.random.default_rng([settings.seed, 3, number, round(1000 * r)]))
            for number, name in enumerate(self.design.speakers(1))
        }
        imposters = self.imposters if budget is None else budget.of(self.imposters)
        asked = {name: ids[:count] for name, ids in self.heard.items()}
        strangers = {name: ids[:count] for name, ids in imposters.items() if len(ids) > 1}
        attacks = settings.attacks if budget is None else settings.attacks[:1]
        everybody = {**asked, **people, **strangers}
        grouped = budget is not None and budget.grouped
        return looked_at(everybody, imposters, self.tables, self.inputs, attacks, count, settings.seed, grouped=grouped)

    def scores(
        self, name: str, rows: Sequence[Features], count: int, design: SwapDesign | None = None, *, foreign: bool = True
    ) -> Floats:
        """What an attack says of each candidate, sorted by name; shadows may be unlike the recogniser."""
        attack, design = default_attacks(count)[name], design or self.design
        taught = TaughtAttack(attack, design, rows, fpr=self.settings.fpr, targets=[0])
        return taught.tell(rows[0], foreign=foreign).scores


def _concluded(own: OwnRecogniser, world: _World, untrained: Embeddings) -> Evaluation:
    settings, design, heard, inputs = world.settings, world.design, world.heard, world.inputs
    names = design.speakers(0)
    speakers, members = np.array(names), np.isin(names, design.recognisers[0].members)
    rows = [world.rows(r) for r in settings.ratios]
    audits = {
        name: _audit(name, world.scores(name, rows, settings.voices), members, speakers, settings)
        for name in settings.attacks
    }
    stages = {"random-initialisation": untrained, "mean-log-mel": inputs}
    scores = {name: np.array([_closeness(table, heard[n]) for n in names]) for name, table in stages.items()}
    means = np.stack([np.concatenate([inputs[id] for id in heard[n]]).mean(axis=0) for n in names])
    scores["log-mel-classifier"] = cross_fitted(means, members, settings.seed)
    primary = settings.attacks[0]
    if settings.pairs - 1 >= (2 if calibrated([primary]) else 1):
        # A shadow in the target's place. Its twin, trained on everybody that it was not, goes too: without the one, the
        # other would leave some speakers no reference.
        others = SwapDesign(design.imposters, (design.recognisers[0], *design.recognisers[3:]))
        before = [[row[1], *row[3:]] for row in rows]
        scores["wrong-target"] = world.scores(primary, before, settings.voices, others, foreign=False)
    blinds = {name: _audit(name, found, members, speakers, settings) for name, found in scores.items()}
    found = conclude(
        audits,
        blinds,
        {name: np.empty((0, len(names))) for name in audits},
        seed=settings.seed,
        **context_of(own, settings),
    )
    found.claims += [claim for budget in settings.budgets for claim in _with_less(own, world, budget)]
    return found


def _with_less(own: OwnRecogniser, world: _World, budget: Budget) -> list[Claim]:
    """The primary attack with fewer queries."""
    settings, names = world.settings, world.design.speakers(0)
    rows = [world.rows(r, budget) for r in settings.ratios]
    scores = world.scores(settings.attacks[0], rows, budget.voices)
    members = np.isin(names, world.design.recognisers[0].members)
    audit = _audit(settings.attacks[0], scores, members, np.array(names), settings)
    context = context_of(own, settings)
    less = budget_conditions(budget, sum(len(ids[: budget.voices]) for ids in world.heard.values()), world.imposters)
    told = context | {"conditions": {**context["conditions"], **less}}
    return [claim for claim in audit.claims(**told) if (claim.unit, claim.metric) == ("speaker", "auc")]


def context_of(own: OwnRecogniser, settings: SpeakerMembership) -> dict[str, Any]:
    """Return what every claim says of the run."""
    return {
        "target": own.model,
        "attribute": "membership",
        "protocol": "one recogniser",
        "seeds": (settings.seed,),
        "conditions": {
            "private": own.members.corpus,
            "auxiliary": settings.corpus,
            "voices": settings.voices,
            "access": settings.access,
        },
    }


def cross_fitted(inputs: Floats, members: NDArray[np.bool_], seed: int, folds: int = 5) -> Floats:
    """Return the log-odds (n,) of a logistic regression, of each speaker from one that was fitted on others.

    Where this does well, members' and non-members' recordings differ by themselves, and an attack proves nothing.

    Parameters
    ----------
    inputs : ndarray, shape (n, q)
    members : ndarray of bool, shape (n,)
        Two of each kind at least.
    seed : int
    folds : int
        Fewer where a kind has fewer speakers.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    splits = StratifiedKFold(min(folds, members.sum(), (~members).sum()), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return np.asarray(cross_val_predict(model, inputs, members, cv=splits, method="decision_function"))


def _closeness(table: Embeddings, voices: Sequence[str]) -> float:
    """`pair.mean` without a classifier, which keeps the order."""
    rows = np.concatenate([table[id] for id in voices]).astype(np.float64)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    return float((unit @ unit.T)[np.triu_indices(len(unit), k=1)].mean())


def _audit(
    name: str, scores: Floats, members: NDArray[np.bool_], speakers: NDArray[np.str_], settings: SpeakerMembership
) -> Audit:
    labels = np.where(members, "member", "non-member")
    return Audit(scores, labels, speakers, positive="member", confidence=settings.confidence, name=name)


def _eer(table: Embeddings, heard: Mapping[str, Sequence[str]]) -> float:
    vectors = [table[id].mean(axis=0) for ids in heard.values() for id in ids]
    return verification_eer(np.stack(vectors), [name for name, ids in heard.items() for _ in ids])


def _flat(ids: Mapping[str, Sequence[str]]) -> list[str]:
    return [id for of in ids.values() for id in of]
