"""From what judges made of inversions to claims: proportions of speakers, each beside what it is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.inversion.distances import Distances
from fl_privacy.attacks.inversion.judges import Verdicts
from fl_privacy.audit import Audit, Claim, Control, Estimate, permutation_null, permutation_p_value
from fl_privacy.audit.metrics import Floats, auc
from fl_privacy.audit.paired import proportion, proportion_difference
from fl_privacy.sims.inversion_judges import ATTACKED, INDEPENDENT, Bench, Natural

IDENTITY = "identity"
ACCURACY, FIVE, AT_EER, AT_FAR = "accuracy", "top_5_accuracy", "accepted_at_eer", "accepted_at_far_0.01"
OVER_BLIND, OVER_JUDGE, OVER_RESTARTS = (
    "accuracy_over_best_blind",
    "accuracy_over_independent",
    "accuracy_over_restarts",
)
OWN_START = "random voices"
"""Of an attack that has a start of its own."""
CHANCE, START, STRANGER, NATURAL = "chance", "start", "another's voice", "own recordings"


@dataclass
class Judged:
    """One cell's inversions before all judges.

    Attributes
    ----------
    attack, start : str
        Names.
    length : int
        Samples of each wave.
    scores : mapping of str to ndarray, shape (classes, classes)
        By judge, one row a class that was attacked.
    starts : mapping of str to ndarray, shape (classes, classes)
        By judge: of the waves that the attack began with.
    readouts : mapping of str to ndarray, shape (classes,)
        Of the attacked classifier.
    distances : Distances
    conditions : mapping
        Settings of the cell.
    """

    attack: str
    start: str
    length: int
    scores: Mapping[str, Floats]
    starts: Mapping[str, Floats]
    readouts: Mapping[str, Floats]
    distances: Distances
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Attack and start."""
        return self.attack if self.start == OWN_START else f"{self.attack} from {self.start}"

    def verdicts(self, judge: str) -> Verdicts:
        """What a judge says of each inversion."""
        return Verdicts(self.scores[judge], np.arange(len(self.scores[judge])))


class Findings:
    """Claims and controls as they are gathered.

    Parameters
    ----------
    target : str
        What is under attack.
    seed : int
    confidence : float
    permutations : int
    shared : mapping
        Conditions of every claim, such as the corpus.
    """

    def __init__(self, target: str, seed: int, confidence: float, permutations: int, shared: Mapping[str, Any]) -> None:
        self.claims: list[Claim] = []
        self.controls: list[Control] = []
        self.confidence, self._permutations, self._seed = confidence, permutations, seed
        self._shared: dict[str, Any] = {"target": target, "seeds": (seed,), "unit": "speaker", "protocol": "inversion"}
        self._conditions = dict(shared)

    def add(self, attack: str, metric: str, found: Estimate, *, primary: bool = False, **conditions: Any) -> None:
        """Add a claim on identities."""
        self.claims.append(
            Claim(
                **self._shared,
                **vars(found),
                attack=attack,
                metric=metric,
                primary=primary,
                attribute=IDENTITY,
                conditions={**self._conditions, **conditions},
            )
        )

    def hold(
        self,
        control: str,
        of: str,
        metric: str,
        found: Estimate,
        n: int | None = None,
        p: float | None = None,
        attribute: str = IDENTITY,
        **conditions: Any,
    ) -> None:
        """Add a control."""
        self.controls.append(
            Control(
                **self._shared,
                **vars(found),
                attack=of,
                of=of,
                control=control,
                metric=metric,
                n_permutations=n,
                p_value=p,
                attribute=attribute,
                conditions={**self._conditions, **conditions},
            )
        )

    def rate(self, hits: Floats) -> Estimate:
        """Return a proportion of speakers."""
        return proportion(hits, confidence=self.confidence)

    def difference(self, a: Floats, b: Floats | float) -> Estimate:
        """Return a paired difference of proportions."""
        return proportion_difference(a, b, confidence=self.confidence)

    def cell(self, judged: Judged, bench: Bench, strangers: Mapping[str, Floats], primary: bool) -> None:
        """Add all that is claimed of a cell.

        Parameters
        ----------
        judged : Judged
        bench : Bench
        strangers : mapping of str to ndarray, shape (classes, classes)
            By judge: other people's real voices of the same length, one for each class.
        primary : bool
        """
        how = {"start": judged.start, "method": judged.attack, "length": judged.length, **judged.conditions}
        own = np.arange(len(next(iter(judged.scores.values()))))
        for judge in bench.judges:
            table, natural = judged.verdicts(judge), bench.natural(judge, judged.length)
            hits = table.among()
            leads = primary and judge == INDEPENDENT
            on = {**how, "judge": judge}
            self.add(judged.name, ACCURACY, self.rate(hits), primary=leads, **on)
            self.add(judged.name, FIVE, self.rate(table.among(5)), **on)
            self._accepted(judged.name, table, natural, on)
            blinds: dict[str, Floats | float] = {CHANCE: 1 / table.scores.shape[1]}
            for control, scores in ((START, judged.starts[judge]), (STRANGER, strangers[judge])):
                found = Verdicts(scores, own)
                blinds[control] = found.among()
                self.hold(control, judged.name, ACCURACY, self.rate(found.among()), **on)
                for metric, threshold in _levels(natural):
                    self.hold(control, judged.name, metric, self._taken(found, threshold), **on)
            best = max(blinds, key=lambda name: float(np.mean(blinds[name])))
            self.add(judged.name, OVER_BLIND, self.difference(hits, blinds[best]), primary=leads, best_blind=best, **on)
            null = table.permuted_hits(self._permutations, self._seed)
            p = permutation_p_value(float(hits.mean()), null)
            low, high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
            spread = Estimate(float(null.mean()), low, high, 0.95, None, None, len(hits))
            self.hold("permuted-identities", judged.name, ACCURACY, spread, p.n, p.value, **on)
        self.add(
            judged.name,
            OVER_JUDGE,
            self.difference(judged.verdicts(ATTACKED).among(), judged.verdicts(INDEPENDENT).among()),
            **how,
        )
        for name, hits in judged.readouts.items():
            self.add(judged.name, ACCURACY, self.rate(hits), readout=name, judge=ATTACKED, **how)

    def _accepted(self, attack: str, table: Verdicts, natural: Natural, on: Mapping[str, Any]) -> None:
        for metric, threshold in _levels(natural):
            self.add(attack, metric, self._taken(table, threshold), **on)
            if threshold is not None:
                self.hold("wrong-speaker", attack, metric, self.rate(table.accepted_of_others(threshold)), **on)

    def _taken(self, table: Verdicts, threshold: float | None) -> Estimate:
        """Return the share that is accepted at a threshold, where there is one."""
        if threshold is None:
            return unresolved(len(table.scores), self.confidence)
        return self.rate(table.accepted(threshold))

    def ceilings(self, bench: Bench, length: int) -> None:
        """Add what judges make of the speakers' own, unused recordings of a length; 0: whole."""
        for judge in bench.judges:
            natural = bench.natural(judge, length)
            rates = {
                ACCURACY: natural.recognised,
                FIVE: natural.among_five,
                AT_EER: natural.accepted_at_eer,
                AT_FAR: natural.accepted_at_far_1,
            }
            for metric, hits in rates.items():
                found = unresolved(len(natural.recognised), self.confidence) if hits is None else self.rate(hits)
                self.hold(NATURAL, "", metric, found, judge=judge, length=length)

    def against_restarts(self, slid: Judged, restarted: Judged) -> None:
        """Add how far sliding lies above as many independent attempts, each read at its best window."""
        found = self.difference(slid.readouts["grid_any"], restarted.readouts["grid_any"])
        self.add(slid.name, OVER_RESTARTS, found, start=slid.start, judge=ATTACKED, readout="grid_any")

    def label(
        self,
        attack: str,
        evidence: Floats,
        labels: Sequence[str],
        speakers: Sequence[str],
        attribute: str,
        positive: str,
    ) -> None:
        """Add how well a label of two values is read from inverted d-vectors.

        Parameters
        ----------
        attack : str
        evidence : ndarray, shape (classes,)
            Log-odds of the positive value.
        labels, speakers : sequence of str
        attribute, positive : str
        """
        audit = Audit(evidence, labels, speakers, positive=positive, confidence=self.confidence, name=attack)
        shared = {**self._shared, "attribute": attribute, "conditions": self._conditions}
        for metric, found in (("auc", audit.auc()), ("uar", audit.uar()), ("accuracy", audit.accuracy())):
            self.claims.append(Claim(**shared, **vars(found), attack=attack, metric=metric))
        larger = max(np.mean([label == value for label in labels]) for value in set(labels))
        n = len(labels)
        majority = Estimate(float(larger), None, None, self.confidence, None, None, n, "always the larger class")
        self.hold("majority", attack, "accuracy", majority, attribute=attribute)
        truth = np.array([label == positive for label in labels])

        def statistic(permuted: NDArray[Any]) -> float:
            yes = permuted == positive
            return auc(evidence[yes], evidence[~yes])

        null = permutation_null(statistic, list(speakers), list(labels), self._permutations, self._seed)
        p = permutation_p_value(auc(evidence[truth], evidence[~truth]), null)
        low, high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
        spread = Estimate(float(null.mean()), low, high, 0.95, None, None, n)
        self.hold("permuted-private-labels", attack, "auc", spread, p.n, p.value, attribute=attribute)


def _levels(natural: Natural) -> tuple[tuple[str, float | None], ...]:
    return (AT_EER, natural.thresholds.eer), (AT_FAR, natural.thresholds.far_1)


def unresolved(n: int, confidence: float) -> Estimate:
    """Return what is said of a rate at 1 % false acceptances, where real voices are too few to set a threshold."""
    return Estimate(None, None, None, confidence, None, None, n, "too few real voices to tell a rate of 1 %")
