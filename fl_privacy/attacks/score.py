"""Run one attack: score the private updates, and again with permuted labels on the attacker's side."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import Attack, Auxiliary, LinearAttack, OneClassError
from fl_privacy.attacks.observed import Observed
from fl_privacy.audit.controls import speaker_permutations
from fl_privacy.errors import UserError

SUPPLIED = frozenset({"updates"})
"""What the harness can give an attack."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scores:
    """What an attack says of the private updates.

    Attributes
    ----------
    scores : ndarray, (n,)
        One score an update.
    permuted : ndarray, (k, n)
        The same from k attacks, each trained on a different permuted speaker -> attribute map.
    """

    scores: NDArray[np.float64]
    permuted: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write to an .npz file, whole or not at all."""
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as file:
            np.savez(file, scores=self.scores, permuted=self.permuted)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["scores"], arrays["permuted"])


def check_needs(name: str, attack: Attack) -> None:
    """Refuse what is no attack, and an attack that needs what the harness cannot supply."""
    if not isinstance(attack, Attack):
        raise UserError(f"{name!r} is no attack: it needs fit, decision_function and needs (fl_privacy.attacks.Attack)")
    lacking = sorted(attack.needs - SUPPLIED)
    if lacking:
        raise UserError(f"attack {name!r} needs {', '.join(lacking)}, which captured updates do not offer")


def run_attack(
    attack: Attack,
    own: Observed,
    private: Observed,
    labels: NDArray[np.int64],
    auxiliary: Auxiliary,
    *,
    permutations: int,
    seed: int,
    progress: Progress | None = None,
) -> Scores:
    """Fit on the attacker's own updates, score the private ones; repeat for permuted labels.

    Parameters
    ----------
    attack : Attack
        Left unfitted: copies are fitted.
    own, private : Observed
        Updates of both sides.
    labels : ndarray, (len(own.updates),)
        0 or 1 for each of the attacker's updates.
    auxiliary : Auxiliary
        What else the attacker owns.
    permutations : int
        How many permutations of the speaker -> attribute map of the attacker's side, each made once at the source; all
        different, so there may be fewer where the attacker has few speakers. A slow attack may say how many it can
        afford, in an attribute `permutations`.
    seed : int
        Of the permutations.
    progress : callable, optional
        Told (fits done, fits in all).
    """
    fit_and_score: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    # A subclass with a fit or decision function of its own is used as it is written.
    kind = type(attack)
    if (
        isinstance(attack, LinearAttack)
        and kind.fit is LinearAttack.fit
        and kind.decision_function is LinearAttack.decision_function
    ):
        linear = copy.deepcopy(attack)
        mine = linear.fit_transform(own.updates)
        theirs = linear.transform(private.updates)

        def fit_and_score(labels: NDArray[np.int64]) -> NDArray[np.float64]:
            return linear.fit_represented(mine, labels, auxiliary).score_represented(theirs)
    else:

        def fit_and_score(labels: NDArray[np.int64]) -> NDArray[np.float64]:
            fitted = copy.deepcopy(attack).fit(own.updates, labels, auxiliary)
            return np.asarray(fitted.decision_function(private.updates), dtype=np.float64)

    def checked(labels: NDArray[np.int64]) -> NDArray[np.float64]:
        scores = fit_and_score(labels)
        if scores.shape != (len(private.updates),) or not np.isfinite(scores).all():
            raise UserError(
                f"{type(attack).__name__}.decision_function gave shape {scores.shape} "
                f"({int(np.isfinite(scores).sum())} finite) for {len(private.updates)} updates: one finite number a row"
            )
        return scores

    scores = checked(labels)
    permutations = min(permutations, getattr(attack, "permutations", permutations))
    permuted = []
    draws = speaker_permutations(own.speakers, labels, permutations, seed) if permutations else ()
    for number, shuffled in enumerate(draws):
        try:
            permuted.append(checked(shuffled))
        except OneClassError:  # of the speakers that the attack can read, all drew one class: it has learnt nothing
            permuted.append(np.zeros(len(private.updates)))
        if progress:
            progress(number + 1, permutations)
    return Scores(scores, np.array(permuted).reshape(len(permuted), len(private.updates)))
