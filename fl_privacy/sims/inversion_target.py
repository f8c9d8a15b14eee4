"""The classifier under attack: trained in the run, or one that is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from fl_privacy.config.speaker_inversion import InversionTarget
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier, load_classifier
from fl_privacy.sims.inversion_people import People
from fl_privacy.training.sincnet import SincNetTraining, train_classifier

FILE = "classifier.safetensors"
PROGRESS = "progress.safetensors"

_ENOUGH = 0.9
"""Share of the classes that has to be told apart by answers."""


def train_target(
    folder: Path, people: People, training: SincNetTraining, seed: int, told: Callable[[int], None] | None = None
) -> None:
    """Train a classifier of the run's classes on their recordings, and write it; a killed training goes on."""
    found = train_classifier(*people.of(people.trained), training, 1000 * seed, checkpoint=folder / PROGRESS, told=told)
    found.save(folder / FILE)
    (folder / PROGRESS).unlink(missing_ok=True)


def train_other(
    folder: Path, people: People, training: SincNetTraining, seed: int, told: Callable[[int], None] | None = None
) -> None:
    """Train a SincNet that judges: another seed, and the recordings of judges; a given checkpoint's size it has not."""
    found = train_classifier(
        *people.of(people.judged), training, 1000 * seed + 999, checkpoint=folder / PROGRESS, told=told
    )
    found.save(folder / FILE)
    (folder / PROGRESS).unlink(missing_ok=True)


def named_classes(target: InversionTarget) -> tuple[str, ...] | None:
    """Return the names of the classes of a checkpoint, which may be numbers; None where it is trained in the run.

    Raises
    ------
    UserError
        For a file that is no classifier, or one whose numbers are not finite.
    """
    if target.checkpoint is None:
        return None
    return _held(target.checkpoint).classes


def adopt_target(folder: Path, people: People, target: InversionTarget) -> None:
    """Bring a checkpoint into the run, its classes named as the people are.

    Raises
    ------
    UserError
        Where its classes cannot be told.
    """
    assert target.checkpoint is not None
    held = _held(target.checkpoint)
    order = list(people.classes) if held.classes == people.classes else _told_apart(held, people)
    named = SpeakerClassifier(held.network, order, held.sample_rate, held.window, held.shift)
    named.save(folder / FILE)


def _held(checkpoint: str) -> SpeakerClassifier:
    """Read a checkpoint that can be attacked: a network of NaN gives NaN for every wave, whatever is done to it."""
    held = load_classifier(checkpoint)
    for name, tensor in held.network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"target: checkpoint {checkpoint} holds numbers that are not finite ({name})")
    return held


def _told_apart(held: SpeakerClassifier, people: People) -> list[str]:
    """Names in the order of the outputs: each speaker is the class that answers to the speaker's recordings."""
    if set(held.classes) == set(people.classes):
        return list(held.classes)
    rows = []
    for name in people.classes:
        rows.append(
            np.mean([held.posteriors(wave, held.window // 2).mean(axis=0) for wave in people.trained[name]], axis=0)
        )
    table = np.stack(rows)
    speakers, classes = linear_sum_assignment(-table)
    agree = float(np.mean(np.argmax(table, axis=1) == classes))
    if agree < _ENOUGH:
        raise UserError(
            f"target: which class is which speaker cannot be told from its answers: it recognises {agree:.0%} of the "
            "speakers; is it a classifier of this corpus?"
        )
    names = [""] * len(speakers)
    for speaker, number in zip(speakers, classes, strict=True):
        names[number] = people.classes[speaker]
    return names
