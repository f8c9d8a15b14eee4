"""Countermeasures: in training, against the white-box attack; on answers, against an attacker who can only ask.

The attacker knows the countermeasure: against noise each point is asked several times, against rounding points lie
further apart, against labels alone the attack is another. Every attack by queries starts from the piece of auxiliary
speech that the target takes most for the class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_privacy.attacks.inversion import Checkpoint, Inversion, Job, invert
from fl_privacy.attacks.inversion.queries import Access, EstimatedGradients, Estimation
from fl_privacy.audit.claims import jsonable
from fl_privacy.audit.files import write_atomically
from fl_privacy.audit.metrics import Floats
from fl_privacy.config.speaker_inversion import Countermeasure, InversionTarget, QuerySettings
from fl_privacy.defenses.outputs import OutputDefense, Purification, output_defense
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier
from fl_privacy.models.sincnet import SIZES
from fl_privacy.sims.inversion_cells import QUEUE
from fl_privacy.sims.inversion_people import People, Wave, cuts
from fl_privacy.training.sincnet import PrivateTraining, SincNetTraining

_POOL = 4
"""Pieces of each auxiliary speaker that an attacker by queries may start from."""

_LEAST = 1e-3


def training_of(target: InversionTarget, counter: Countermeasure | None = None) -> SincNetTraining:
    """Return how a target is trained, with a countermeasure or without.

    Raises
    ------
    UserError
        For settings that the countermeasure does not take.
    """
    plain = SincNetTraining(
        SIZES[target.size],
        steps=target.steps,
        batch_size=target.batch_size,
        learning_rate=target.learning_rate,
        optimiser=target.optimiser,
        decay=target.decay,
    )
    if counter is None:
        return plain
    makers: dict[str, Callable[..., SincNetTraining]] = {
        "dropout": lambda rate=0.3: replace(plain, size=replace(plain.size, dropout=rate)),
        "label-smoothing": lambda amount=-0.05: replace(plain, label_smoothing=amount),
        "dp-sgd": lambda target_epsilon=8.0, delta=1e-5, clipping_norm=1.0: replace(
            plain, private=PrivateTraining(target_epsilon, delta, clipping_norm)
        ),
    }
    try:
        return makers[counter.name](**counter.settings)
    except TypeError as error:
        raise UserError(
            f"countermeasure {counter.name!r}: {error}".replace("training_of.<locals>.<lambda>()", "it")
        ) from error


def label_of(counter: Countermeasure) -> str:
    """Return a countermeasure's name with its settings, for tables."""
    told = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in counter.settings.items()
    )
    return f"{counter.name} ({told})" if told else counter.name


@dataclass(frozen=True)
class Asked:
    """What an attack by queries found.

    Attributes
    ----------
    waves, starts : ndarray, shape (identities, window)
    facts : mapping
        ``queries``, ``sentence_error`` by defended answers, ``note``.
    """

    waves: NDArray[np.float32]
    starts: NDArray[np.float32]
    facts: dict[str, Any]


def attack_by_queries(
    folder: Path,
    target: SpeakerClassifier,
    people: People,
    counter: Countermeasure | None,
    settings: QuerySettings,
    seed: int,
    told: Callable[[int], None] | None = None,
) -> None:
    """Attack a target that answers through a countermeasure, and measure what that does to its users.

    Parameters
    ----------
    folder : Path
        Gets ``asked.npz`` and ``facts.json``; what it has of a ``queue.npz`` is gone on from.
    target : SpeakerClassifier
    people : People
    counter : Countermeasure or None
        On answers; None for answers as they are.
    settings : QuerySettings
    seed : int
    told : callable, optional
        Told how many identities are done.
    """
    pool = _pool(people, target.window, seed)
    defense = _defense(counter, target, pool)
    access = Access(lambda windows: probabilities(target, windows), defense)
    rng = np.random.default_rng([seed, 40])
    identities = settings.attacked(len(target.classes))
    # One answer tells of every class, so that one pool serves all of them.
    answers = access(pool, rng)[:, :identities]
    starts = pool[np.argmax(answers + 1e-9 * rng.random(answers.shape), axis=0)]
    lit = int((answers.max(axis=0) > 0).sum())
    how, note = _knowing(counter, settings)
    note = f"{note}; {lit} of {identities} classes are met by auxiliary speech" if lit < identities else note
    gradients = EstimatedGradients(access, how, target.window, len(target.classes))
    jobs = [Job(k, start, settings.step_size, 1000 * seed + k) for k, start in enumerate(starts)]
    # Costs are noisy: whether one is the lowest says little, so that all steps are taken.
    rule = Inversion("cross-entropy", "normalised", "variance", settings.iterations, settings.iterations, 0.0)
    checkpoint = Checkpoint(folder / QUEUE, access)
    found = invert(gradients, jobs, rule, micro_batch=1, told=told, checkpoint=checkpoint)
    waves = np.stack([one.wave for one in found])
    own = np.arange(identities)
    before, after = (float(probabilities(target, rows)[own, own].mean()) for rows in (starts, waves))
    note = f"{note}; mean probability of the class from {before:.2f} to {after:.2f}"
    facts = {
        "queries": access.queries,
        "sentence_error": _sentence_error(target, people, defense, seed),
        "note": note,
        "identities": identities,
    }
    np.savez(folder / "asked.npz", allow_pickle=False, waves=waves, starts=starts)
    write_atomically(folder / "facts.json", json.dumps(jsonable(facts), indent=1) + "\n")
    checkpoint.remove()


def read_asked(folder: Path) -> Asked:
    """Read what an attack by queries found."""
    with np.load(folder / "asked.npz", allow_pickle=False) as held:
        waves, starts = held["waves"], held["starts"]
    return Asked(waves, starts, json.loads((folder / "facts.json").read_text(encoding="utf-8")))


@torch.no_grad()
def probabilities(target: SpeakerClassifier, windows: NDArray[np.float32]) -> Floats:
    """Return the target's probabilities (n, classes) of windows (n, window)."""
    parts = [
        torch.softmax(target.logits(torch.from_numpy(windows[i : i + 64])).double(), dim=1).numpy()
        for i in range(0, len(windows), 64)
    ]
    return np.concatenate(parts)


def _pool(people: People, window: int, seed: int) -> NDArray[np.float32]:
    pieces: list[Wave] = []
    for number, waves in enumerate(people.auxiliary.values()):
        pieces += cuts(waves, window, _POOL, np.random.default_rng([seed, 41, number]))
    return np.stack(pieces).astype(np.float32)


def _defense(
    counter: Countermeasure | None, target: SpeakerClassifier, pool: NDArray[np.float32]
) -> OutputDefense | None:
    if counter is None:
        return None
    made = output_defense(counter.model_dump())
    return made.fitted(probabilities(target, pool)) if isinstance(made, Purification) else made


def _knowing(counter: Countermeasure | None, settings: QuerySettings) -> tuple[Estimation, str]:
    """How somebody estimates who knows the countermeasure; as many queries in all."""
    plain = Estimation(settings.pairs, settings.radius, settings.below)
    name = "" if counter is None else counter.name
    if name == "confidence-noise":
        repeats = min(4, settings.pairs)
        return replace(plain, pairs=max(1, settings.pairs // repeats), repeats=repeats), f"asks {repeats} times"
    if name == "rounding":
        return replace(plain, radius=3 * settings.radius), "asks three times as far away"
    if name == "label-only":
        return replace(plain, radius=3 * settings.radius, objective="probability"), "estimates the share of neighbours"
    return plain, "estimates gradients"


def _sentence_error(target: SpeakerClassifier, people: People, defense: OutputDefense | None, seed: int) -> float:
    """Share of unused sentences that are told wrongly by the sum of logarithms of the answers that users see."""
    rng = np.random.default_rng([seed, 42])
    waves, owners = people.of(people.tested)
    wrong = []
    for wave, owner in zip(waves, owners, strict=True):
        seen = np.exp(target.posteriors(wave, target.window // 4))
        answers = seen if defense is None else defense(seen, rng)
        best = int(np.argmax(np.log(np.maximum(answers, _LEAST)).sum(axis=0)))
        wrong.append(best != target.number(owner))
    return float(np.mean(wrong))


def check_countermeasures(counters: Sequence[Countermeasure], target: InversionTarget) -> None:
    """Refuse settings that a countermeasure does not take, before anything runs.

    Raises
    ------
    UserError
    """
    from fl_privacy.config.speaker_inversion import OUTPUT_LEVEL, TRAINING_LEVEL

    for counter in counters:
        if counter.name in OUTPUT_LEVEL:
            output_defense(counter.model_dump())
        elif counter.name in TRAINING_LEVEL:
            training_of(target, counter)
        elif counter.settings:
            raise UserError(f"countermeasure {counter.name!r} takes no settings")
