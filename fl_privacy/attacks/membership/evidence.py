"""One target's candidates told apart with what shadow recognisers teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.baselines import WITHIN
from fl_privacy.attacks.membership.classifiers import (
    Boosting,
    DeepSets,
    Logistic,
    MembershipClassifier,
    OneFeature,
    Perceptron,
    PublishedMLP,
    threshold_at,
)
from fl_privacy.attacks.membership.features import FEATURES
from fl_privacy.attacks.membership.protocol import SwapDesign
from fl_privacy.attacks.membership.references import calibrate
from fl_privacy.errors import UserError

Floats = NDArray[np.float64]
Features = Sequence[Mapping[str, Floats]]
"""For each recogniser a row (f,) of each speaker's voices: the features, then whatever other attacks look at."""

WHITE_BOX = frozenset({"norms"})
"""Attacks that similarities alone do not serve."""

_FEWEST_IMPOSTERS = 3

INPUTS = ("features", "calibrated", "residual")
"""What a classifier may learn on: features as they are, over references' spread, or `pair.mean` less what references
explain (`columns` are then the features')."""


@dataclass(frozen=True, slots=True)
class MembershipAttack:
    """A classifier and what it learns on.

    Attributes
    ----------
    classifier : MembershipClassifier
        Not fitted.
    inputs : str
        One of `INPUTS`.
    columns : sequence of int or None
        Of a speaker's row, which it learns on; None for the features, which come first.
    """

    classifier: MembershipClassifier
    inputs: str = "features"
    columns: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise UserError(f"unknown inputs {self.inputs!r} of a membership attack. Known: {', '.join(INPUTS)}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an attack says of every target's candidates.

    Attributes
    ----------
    scores : ndarray, shape (n,)
        Log-odds of membership.
    members : ndarray of bool, shape (n,)
    speakers, targets : ndarray, shape (n,)
        Of each row.
    thresholds : ndarray, shape (n,)
        What a score has to exceed at the wished false positive rate, by the shadows' non-members; NaN where they are
        too few.
    """

    scores: Floats
    members: NDArray[np.bool_]
    speakers: NDArray[np.str_]
    targets: NDArray[np.int64]
    thresholds: Floats


class TaughtAttack:
    """An attack, fitted on shadow recognisers once, that is then asked about targets as often as one likes.

    Parameters
    ----------
    attack : MembershipAttack
        Its classifier is copied, not fitted.
    design : SwapDesign
        Says which recognisers are whose shadows; they are the target's references too, none of which knows any of its
        candidates.
    training : sequence of Features
        What the attack learns on, before the shadow recognisers: the features at one or several mixing ratios
        ("mixing-ratio training").
    fpr : float
        Wished false positive rate of the thresholds.
    targets : sequence of int, optional
        Numbers of the recognisers that are attacked; by default all.
    """

    def __init__(
        self,
        attack: MembershipAttack,
        design: SwapDesign,
        training: Sequence[Features],
        *,
        fpr: float,
        targets: Sequence[int] | None = None,
    ) -> None:
        self._attack, self._design = attack, design
        self._taught: list[tuple[list[int], MembershipClassifier, float]] = []
        for pool in (0, 1):
            numbers = [t for t, r in enumerate(design.recognisers) if r.pool == pool]
            chosen = [t for t in numbers if targets is None or t in targets]
            if not chosen:
                continue
            # All targets of a pool have the same shadows.
            parts = [_of_shadows(attack, design, design.shadows(chosen[0]), features) for features in training]
            inputs, members, speakers = (np.concatenate(column) for column in zip(*parts, strict=True))
            classifier = deepcopy(attack.classifier).fit(inputs, members, speakers)
            try:
                threshold = threshold_at(classifier.decision_function(inputs), members, fpr)
            except UserError:
                threshold = np.nan
            self._taught.append((chosen, classifier, threshold))

    def tell(self, heard: Features, references: Features | None = None, *, foreign: bool = False) -> Evidence:
        """Tell of the targets' candidates.

        Parameters
        ----------
        heard : Features
            What it is asked about, before the targets.
        references : Features, optional
            The same voices before the shadow recognisers, where these are not of the targets' kind.
        foreign : bool
            Whether they are of another kind, whose similarities may lie on another scale. A statistic that is
            calibrated is then first moved and stretched so that the imposters, who are strangers to all, have the same
            mean and their ``pair.mean`` the same spread before target and references; the rows need to hold three
            imposters at least, or nothing is moved.

        Returns
        -------
        Evidence
            Rows by target, then by speaker.
        """
        rows: list[tuple[Floats, Floats, float, int]] = []
        names: list[str] = []
        for chosen, classifier, threshold in self._taught:
            candidates = self._design.speakers(self._design.recognisers[chosen[0]].pool)
            for target in chosen:
                shadows = self._design.shadows(target)
                found = _inputs(
                    self._attack, self._design, target, shadows, heard, references or heard, candidates, foreign
                )
                mine = np.isin(candidates, self._design.recognisers[target].members)
                rows.append((classifier.decision_function(found), mine.astype(float), threshold, target))
                names += candidates
        sizes = [len(scores) for scores, *_ in rows]
        return Evidence(
            np.concatenate([scores for scores, *_ in rows]),
            np.concatenate([members for _, members, *_ in rows]).astype(bool),
            np.array(names),
            np.repeat([target for *_, target in rows], sizes),
            np.repeat([threshold for _, _, threshold, _ in rows], sizes),
        )


def _of_shadows(
    attack: MembershipAttack, design: SwapDesign, shadows: Sequence[int], features: Features
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.str_]]:
    """What a classifier learns on: inputs, members, speakers, of all shadows."""
    speakers = design.speakers(design.recognisers[shadows[0]].pool)
    found = [_inputs(attack, design, shadow, shadows, features, features, speakers) for shadow in shadows]
    members = [np.isin(speakers, design.recognisers[shadow].members) for shadow in shadows]
    return np.concatenate(found), np.concatenate(members), np.tile(np.array(speakers), len(shadows))


def _inputs(
    attack: MembershipAttack,
    design: SwapDesign,
    target: int,
    references: Sequence[int],
    heard: Features,
    before_references: Features,
    speakers: Sequence[str],
    foreign: bool = False,
) -> Floats:
    """What a classifier is given of speakers before one recogniser."""
    columns = list(range(len(FEATURES)) if attack.columns is None else attack.columns)
    observed = np.stack([heard[target][speaker][columns] for speaker in speakers])
    if attack.inputs == "features":
        return observed
    others = [number for number in references if number != target]
    if foreign:
        observed = _as_references(observed, columns, design, heard[target], [before_references[n] for n in others])
    known = np.stack([[before_references[number][speaker][columns] for number in others] for speaker in speakers])
    for column, number in enumerate(others):
        known[np.isin(speakers, design.recognisers[number].members), column] = np.nan
    if attack.inputs == "calibrated":
        return calibrate(observed, known).score
    pair = FEATURES.index("pair.mean")
    return calibrate(observed[:, pair], known[:, :, pair]).residual[:, None]


def _as_references(
    observed: Floats,
    columns: Sequence[int],
    design: SwapDesign,
    target: Mapping[str, Floats],
    references: Sequence[Mapping[str, Floats]],
) -> Floats:
    """Move and stretch statistics (n, f) before a target to where they would be before references."""
    known = [name for name in design.imposters if name in target and all(name in rows for rows in references)]
    if len(known) < _FEWEST_IMPOSTERS:
        return observed
    pair = FEATURES.index("pair.mean")
    mine = np.stack([target[name] for name in known])
    theirs = np.stack([[rows[name] for name in known] for rows in references])
    # One factor for all of them: they are cosines, or made of cosines.
    spread = float(mine[:, pair].std())
    factor = float(theirs[:, :, pair].std(axis=1).mean()) / spread if spread > 1e-9 else 1.0
    return np.asarray(theirs[:, :, columns].mean(axis=(0, 1)) + factor * (observed - mine[:, columns].mean(axis=0)))


def calibrated(names: Sequence[str]) -> list[str]:
    """Return those of some attacks that calibrate by references, for which every pool has to be halved twice."""
    known = default_attacks()
    return [name for name in names if name in known and known[name].inputs != "features"]


def default_attacks(voices: int = 5) -> dict[str, MembershipAttack]:
    """The attacks of a report by name, the primary one first.

    Parameters
    ----------
    voices : int
        How many of a speaker's voices they hear: after the features, a row holds that many voices' pairs, sorted
        (`baselines.pair_quantiles`), 10 numbers of `baselines.hardest_pairs`, 1 of `baselines.learned_similarity` and
        4 of `baselines.norms`.
    """
    pairs = len(FEATURES) + voices * (voices - 1) // 2
    return {
        "pair.mean likelihood ratio": MembershipAttack(OneFeature(), "calibrated"),
        "pair.mean calibrated": MembershipAttack(OneFeature(0), "residual"),
        "logistic calibrated": MembershipAttack(Logistic(), "calibrated"),
        "boosting calibrated": MembershipAttack(Boosting(), "calibrated"),
        "pair.mean": MembershipAttack(OneFeature()),
        "logistic": MembershipAttack(Logistic()),
        "boosting": MembershipAttack(Boosting()),
        "published-mlp": MembershipAttack(PublishedMLP()),
        "tlk-improved": MembershipAttack(OneFeature(0), columns=[pairs + 10]),
        "encodermi-v": MembershipAttack(Perceptron((256, 256)), columns=range(len(FEATURES), pairs)),
        "encodermi-s": MembershipAttack(DeepSets(), columns=range(len(FEATURES), pairs)),
        "encodermi-t": MembershipAttack(OneFeature()),
        "faceauditor": MembershipAttack(Perceptron(), columns=range(pairs, pairs + 10)),
        "after-lrl (unverified)": MembershipAttack(Perceptron(), columns=WITHIN),
        "norms": MembershipAttack(Logistic(C=1.0), columns=range(pairs + 11, pairs + 15)),
    }
