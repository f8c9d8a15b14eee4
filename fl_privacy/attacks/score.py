"""Run one attack: score the private updates, calibrate, and score again with permuted labels on the attacker's side."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import SUPPLIES, Attack, Auxiliary, LinearAttack, OneClassError
from fl_privacy.attacks.calibration import Calibration, speaker_folds
from fl_privacy.attacks.observed import Observed
from fl_privacy.audit.controls import speaker_permutations
from fl_privacy.errors import UserError

_FOLDS = 10
_AT_A_TIME = 50

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scores:
    """What an attack says of the private updates.

    Attributes
    ----------
    scores : ndarray, (n,) or (n, k)
        What the attack gives an update; for an attribute that is a number, its prediction.
    evidence : ndarray, (n,) or (n, k)
        The same as log-likelihood ratios (of more than two classes: log-likelihoods), calibrated on held-out speakers
        of the attacker's own; the plain scores where that could not be done.
    correlation : float
        How far the evidence of a speaker's updates is the same evidence, 0 to 1: `Audit` adds it up accordingly.
    calibrated : str
        How many speakers calibration rests on, or why there is none.
    permuted : ndarray, (p, n) or (p, n, k)
        Plain scores from p attacks, each trained on a different permuted speaker -> attribute map.
    """

    scores: Floats
    evidence: Floats
    correlation: float
    calibrated: str
    permuted: Floats

    def save(self, path: Path) -> None:
        """Write to an .npz file, whole or not at all."""
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as file:
            np.savez(file, **vars(self))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                arrays["scores"],
                arrays["evidence"],
                float(arrays["correlation"]),
                str(arrays["calibrated"]),
                arrays["permuted"],
            )


def check_needs(
    name: str, attack: Attack, supplied: frozenset[str] = SUPPLIES, *, numeric: bool = False, attribute: str = ""
) -> None:
    """Refuse what is no attack, one that needs what is not supplied, and one that cannot tell a number that is asked.

    Raises
    ------
    UserError
    """
    if not isinstance(attack, Attack):
        raise UserError(f"{name!r} is no attack: it needs fit, decision_function and needs (fl_privacy.attacks.Attack)")
    unknown = sorted(attack.needs - SUPPLIES)
    if unknown:
        raise UserError(f"attack {name!r} needs {', '.join(unknown)}, which captured updates do not offer")
    lacking = sorted(attack.needs - supplied)
    if lacking:
        hints = {
            "sent": "a store that keeps the models that clients were sent",
            "examples": "the attacker's own examples (examples=...)",
            "gradient": "the architecture (model=...)",
            "updates": "updates",
        }
        raise UserError(f"attack {name!r} needs {' and '.join(hints[need] for need in lacking)}")
    if numeric and not getattr(attack, "tells_numbers", hasattr(attack, "predict")):
        raise UserError(
            f"attack {name!r} cannot tell a number{f' ({attribute})' if attribute else ''}: it needs predict; of the "
            'attacks here, those with classifier = "ridge" have it'
        )


def run_attack(
    attack: Attack,
    own: Observed,
    private: Observed,
    labels: NDArray[Any],
    auxiliary: Auxiliary,
    *,
    permutations: int,
    seed: int,
    progress: Progress | None = None,
) -> Scores:
    """Fit on the attacker's own updates, score the private ones, calibrate; repeat for permuted labels.

    Parameters
    ----------
    attack : Attack
        Left unfitted: copies are fitted.
    own, private : Observed
        Updates of both sides.
    labels : ndarray, (len(own.updates),)
        Class number of each of the attacker's updates, or its number where `auxiliary` has no classes.
    auxiliary : Auxiliary
        What else the attacker owns.
    permutations : int
        How many permutations of the speaker -> attribute map of the attacker's side, each made once at the source; all
        different, so there may be fewer where the attacker has few speakers. 0 for none.
    seed : int
        Of the permutations and folds.
    progress : callable, optional
        Told (fits done, fits in all).
    """
    runner = _Linear(attack, own, private, auxiliary) if _is_linear(attack) else _Any(attack, own, private, auxiliary)
    folds = 0 if getattr(attack, "costly", False) else _FOLDS
    maps = _permuted(own, labels, auxiliary, permutations, seed) if permutations else []
    total, done = 1 + folds + len(maps), 0

    def tell(steps: int) -> None:
        nonlocal done
        done += steps
        if progress:
            progress(min(done, total), total)

    tell(0)
    scores = _checked(attack, runner.theirs(labels[None]), private, auxiliary)[0]
    tell(1)
    evidence, correlation, said = scores, 1.0, "a number: predictions are averaged"
    if auxiliary.classes:
        evidence, correlation, said = _calibrated(runner, own, labels, scores, len(auxiliary.classes), folds, seed)
    tell(folds)
    permuted = []
    for start in range(0, len(maps), _AT_A_TIME):
        rows, owned = zip(*maps[start : start + _AT_A_TIME], strict=True)
        permuted.append(_checked(attack, runner.theirs(np.array(rows), owned), private, auxiliary))
        tell(len(rows))
    shape = (0, *scores.shape)
    return Scores(scores, evidence, correlation, said, np.concatenate(permuted) if permuted else np.zeros(shape))


def _permuted(
    own: Observed, labels: NDArray[Any], auxiliary: Auxiliary, permutations: int, seed: int
) -> list[tuple[NDArray[Any], Auxiliary]]:
    """Permute the map of speakers to the attribute, and with it the attribute of the attacker's examples.

    Where the attribute varies within a speaker's examples (a sentence), it is permuted among them.
    """
    examples = auxiliary.examples
    if examples is None:
        return [(row, auxiliary) for row in speaker_permutations(own.speakers, labels, permutations, seed)]
    of = dict(zip(own.speakers, labels.tolist(), strict=True))
    told = list(zip(examples.speakers, examples.attribute.tolist(), strict=True))
    within = len(set(told)) > len(set(examples.speakers))
    others = {} if within else {speaker: value for speaker, value in told if speaker not in of}
    speakers = [*own.speakers, *others]
    every = np.concatenate([labels, np.array(list(others.values()), dtype=labels.dtype)])
    rng, found = np.random.default_rng([seed, 17]), []
    for row in speaker_permutations(speakers, every, permutations, seed):
        new = dict(zip(speakers, row.tolist(), strict=True))
        if within:
            attribute = examples.attribute.copy()
            names = np.array(examples.speakers)
            for speaker in np.unique(names):
                attribute[names == speaker] = rng.permutation(attribute[names == speaker])
        else:
            attribute = np.array([new[s] for s in examples.speakers], dtype=examples.attribute.dtype)
        found.append((row[: len(labels)], replace(auxiliary, examples=replace(examples, attribute=attribute))))
    return found


def _calibrated(
    runner: _Linear | _Any,
    own: Observed,
    labels: NDArray[np.int64],
    scores: Floats,
    classes: int,
    folds: int,
    seed: int,
) -> tuple[Floats, float, str]:
    """Return evidence, how far that of one speaker is the same, and what it rests on."""
    if not folds:
        return scores, 0.0, "not calibrated: it takes too long to learn without some of the speakers"
    of = dict(zip(own.speakers, labels.tolist(), strict=True))
    sizes = np.bincount(list(of.values()), minlength=classes)
    if sizes.min() < 2:
        return scores, 0.0, "not calibrated: a class has fewer than two of the attacker's speakers"
    held_out = np.zeros((len(labels), *scores.shape[1:]))
    said = np.zeros(len(labels), dtype=np.bool_)
    for left in speaker_folds(own.speakers, labels, folds, seed):
        try:
            held_out[left], said[left] = runner.ours(labels, left)
        except OneClassError:
            return scores, 0.0, "not calibrated: without some of the attacker's speakers one class is left"
    kept = [speaker for speaker, it in zip(own.speakers, said, strict=True) if it]
    if np.bincount([of[s] for s in set(kept)], minlength=classes).min() < 2:
        return scores, 0.0, "not calibrated: of a class, the attack can read fewer than two speakers"
    calibration = Calibration.learn(held_out[said], labels[said], kept, classes)
    evidence = calibration(scores)
    # Where an update says nothing to the attack, its score is 0, and so is its evidence.
    evidence[runner.silent] = 0.0
    return evidence, calibration.correlation, f"on {calibration.n_speakers} held-out speakers"


class _Linear:
    """Represents the updates once; each set of labels is then a matter of the classifier alone."""

    def __init__(self, attack: Attack, own: Observed, private: Observed, auxiliary: Auxiliary) -> None:
        assert isinstance(attack, LinearAttack)
        self._attack, self._auxiliary = copy.deepcopy(attack), auxiliary
        self._own = self._attack.fit_transform(own.updates, auxiliary)
        self._private = self._attack.transform(private.updates)
        self.silent = np.isnan(self._private).any(axis=1)

    def theirs(self, labels: NDArray[Any], permuted: Sequence[Auxiliary] = ()) -> Floats:
        """Score the private updates, for each row of labels."""
        # An attack to which none of the attacker's own updates says anything has learnt nothing, and says so.
        strict = not permuted and not np.isnan(self._own).any(axis=1).all()
        return self._attack.learn(self._own, labels, self._auxiliary, strict=strict)(self._private)

    def ours(self, labels: NDArray[Any], left: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
        """Score the attacker's own updates that are left out of learning; say which of them say something."""
        rows: Floats = self._own[left]
        scorer = self._attack.learn(self._own[~left], labels[None, ~left], self._auxiliary.where(~left))
        said = np.asarray(~np.isnan(rows).any(axis=1))
        return scorer(rows)[0], said


class _Any:
    """Fits a copy of the attack for each set of labels."""

    def __init__(self, attack: Attack, own: Observed, private: Observed, auxiliary: Auxiliary) -> None:
        self._attack, self._own, self._private, self._auxiliary = attack, own, private, auxiliary
        self.silent = np.zeros(len(private.updates), dtype=np.bool_)

    def theirs(self, labels: NDArray[Any], permuted: Sequence[Auxiliary] = ()) -> Floats:
        """Score the private updates, for each row of labels (and what is owned with it, where they are permuted)."""
        classes = len(self._auxiliary.classes)
        scores = []
        for row, owned in zip(labels, permuted or [self._auxiliary], strict=True):
            try:
                fitted = copy.deepcopy(self._attack).fit(self._own.updates, row, owned)
                scores.append(self._score(fitted, self._private.updates))
            except OneClassError:
                if not permuted:
                    raise
                scores.append(np.zeros((len(self._private.updates), *([classes] if classes > 2 else []))))
        return np.stack(scores)

    def ours(self, labels: NDArray[Any], left: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
        """Score the attacker's own updates that are left out of learning."""
        kept = [update for update, out in zip(self._own.updates, left, strict=True) if not out]
        fitted = copy.deepcopy(self._attack).fit(kept, labels[~left], self._auxiliary.where(~left))
        scores = self._score(fitted, [u for u, out in zip(self._own.updates, left, strict=True) if out])
        return scores, np.ones(len(scores), dtype=np.bool_)

    def _score(self, fitted: Attack, updates: Any) -> Floats:
        score = fitted.decision_function
        if not self._auxiliary.classes:
            score = fitted.predict  # type: ignore[attr-defined]  # see `check_needs`
        return np.asarray(score(updates), dtype=np.float64)


def _is_linear(attack: Attack) -> bool:
    # A subclass with a fit or decision function of its own is used as it is written.
    kind = type(attack)
    return (
        isinstance(attack, LinearAttack)
        and kind.fit is LinearAttack.fit
        and kind.decision_function is LinearAttack.decision_function
    )


def _checked(attack: Attack, scores: Floats, private: Observed, auxiliary: Auxiliary) -> Floats:
    classes = len(auxiliary.classes)
    expected = (len(private.updates),) if classes <= 2 else (len(private.updates), classes)
    if scores.shape[1:] != expected or not np.isfinite(scores).all():
        raise UserError(
            f"{type(attack).__name__}.{'decision_function' if classes else 'predict'} gave shape {scores.shape[1:]} "
            f"({int(np.isfinite(scores).sum())} finite) for {len(private.updates)} updates: one finite number a row"
            + (f" and class ({classes})" if classes > 2 else "")
        )
    return scores
