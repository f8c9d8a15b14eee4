"""Claims by the rules of the published study (Feng et al., arXiv 2112.13416 and 2204.02500): protocol "as-published".

There, every update counts as one independent guess, and rounds are mixed. So these claims have no intervals, and never
stand in one table with controlled ones (docs/architecture.md, "Audit rules").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.score import Scores
from fl_privacy.audit import Claim
from fl_privacy.updates import Update

PROTOCOL = "as-published"
LEAKED = "leaked_updates"
"""The condition that says over how many of its updates a client's mean is."""

_DRAWS = 10
_NO_INTERVAL = "as published, without an interval: updates of one speaker are not independent"


class _Mean(Mapping[str, NDArray[np.float32]]):
    """Arrays of the mean of some updates, computed when they are asked for."""

    def __init__(self, updates: Sequence[Update]) -> None:
        self._updates = updates

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        total = np.zeros(self._updates[0].arrays[name].shape)
        for update in self._updates:
            total += update.arrays[name]
        return (total / len(self._updates)).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._updates[0].arrays if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return all(name in update.arrays for update in self._updates)


@dataclass(frozen=True)
class LeakedMeans:
    """The private updates, and behind them the means of some updates of a client that an attack scores too.

    Attributes
    ----------
    private : int
        How many private updates there are.
    observed : Observed
        These and the means.
    clients : tuple of str
    rows : dict of int to ndarray of int, (clients, draws)
        For each number of leaked updates, which row of `observed` each draw of each client is.
    """

    private: int
    observed: Observed
    clients: tuple[str, ...]
    rows: Mapping[int, NDArray[np.int64]]

    @classmethod
    def of(cls, private: Observed, counts: Sequence[int]) -> LeakedMeans:
        """Draw, for each client ten times, so many of its updates without replacement, or all where it has fewer.

        Parameters
        ----------
        private : Observed
        counts : sequence of int
            Numbers of leaked updates; none leaves the private updates as they are.
        """
        mine: dict[str, list[int]] = {}
        for row, update in enumerate(private.updates):
            mine.setdefault(update.client, []).append(row)
        updates, labels = list(private.updates), list(private.rows)
        clients = tuple(sorted(mine))
        # One update is its own mean, and equal draws are scored once.
        known = {(row,): row for row in range(len(updates))}
        rows = {count: np.zeros((len(clients), _DRAWS), dtype=np.int64) for count in counts}
        for number, client in enumerate(clients):
            for count, draw in ((count, draw) for count in counts for draw in range(_DRAWS)):
                rng = np.random.default_rng([draw, number, count])
                size = min(count, len(mine[client]))
                drawn = tuple(sorted(rng.choice(mine[client], size, replace=False).tolist()))
                if drawn not in known:
                    known[drawn] = len(updates)
                    updates.append(replace(updates[drawn[0]], arrays=_Mean([updates[i] for i in drawn])))
                    labels.append(labels[drawn[0]])
                rows[count][number, draw] = known[drawn]
        return cls(len(private.updates), Observed(tuple(updates), tuple(labels)), clients, rows)

    def split(self, scores: Scores) -> tuple[Scores, NDArray[np.float64]]:
        """Return the scores of the private updates alone, and those of all rows of `observed`."""
        n = self.private
        only = replace(scores, scores=scores.scores[:n], evidence=scores.evidence[:n], permuted=scores.permuted[:, :n])
        return only, scores.scores

    def claims(self, scores: NDArray[np.float64], truth: NDArray[np.int64], **context: Any) -> list[Claim]:
        """Claim UAR over clients and draws, and ASR, the share of right draws averaged over clients.

        Parameters
        ----------
        scores : ndarray, (rows,) or (rows, classes)
            Of all rows of `observed`.
        truth : ndarray, (rows,)
            Class number of each.
        **context
            Further fields of every claim.
        """
        conditions = context.pop("conditions", {})
        right, claims = _predicted(scores) == truth, []
        for count, rows in self.rows.items():
            classes = truth[rows]
            uar = float(np.mean([right[rows][classes == c].mean() for c in np.unique(truth)]))
            shared = {**context, "conditions": {**conditions, LEAKED: count}, "unit": "client"}
            counts = _counts(truth[rows[:, 0]], self.observed.speakers)
            claims.append(_claim("uar", uar, **counts, **shared))
            claims.append(_claim("asr", float(right[rows].mean(axis=1).mean()), **counts, **shared))
        return claims


def update_claims(
    scores: NDArray[np.float64], truth: NDArray[np.int64], speakers: Sequence[str], **context: Any
) -> list[Claim]:
    """Claim UAR (macro recall) and accuracy over single updates, each decided for its most likely class.

    Parameters
    ----------
    scores : ndarray, (n,) or (n, classes)
        As `Attack.decision_function` gives them.
    truth : ndarray, (n,)
        Class numbers.
    speakers : sequence of str
        Whose each update is.
    **context
        Further fields of every claim.
    """
    right = _predicted(scores) == truth
    uar = float(np.mean([right[truth == c].mean() for c in np.unique(truth)]))
    counts = _counts(truth, speakers)
    return [
        _claim("uar", uar, unit="update", **counts, **context),
        _claim("accuracy", float(right.mean()), unit="update", **counts, **context),
    ]


def merged_claims(results: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """Average the as-published claims of several runs, one a fold, over the folds.

    Parameters
    ----------
    results : sequence of mapping
        Contents of result.json files.

    Returns
    -------
    list of Claim
        With the conditions ``folds``, how many, and ``sd_over_folds``.
    """
    groups: dict[Any, list[Claim]] = {}
    for result in results:
        for row in result["claims"]:
            if row["protocol"] == PROTOCOL:
                claim = Claim.from_dict(row)
                groups.setdefault((claim.attack, claim.unit, claim.metric, claim.conditions.get(LEAKED)), []).append(
                    claim
                )
    merged = []
    for claims in groups.values():
        values = np.array([claim.value for claim in claims], dtype=np.float64)
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        conditions = {**claims[0].conditions, "folds": len(claims), "sd_over_folds": spread}
        merged.append(
            replace(
                claims[0],
                value=float(values.mean()),
                conditions=conditions,
                seeds=tuple(seed for claim in claims for seed in claim.seeds),
                n_speakers=None,  # (a speaker may be a client in several folds)
                n_positive=_total([claim.n_positive for claim in claims]),
                n_negative=_total([claim.n_negative for claim in claims]),
            )
        )
    return merged


def layer_name(layers: str | Sequence[str]) -> str:
    """Return what the study calls these layers: a place, or "fusion" of the three; else the names joined."""
    wanted = (layers,) if isinstance(layers, str) else tuple(layers)
    return "fusion" if wanted in (("first", "second", "last"), ("all",)) else "+".join(wanted)


def _predicted(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(np.int64)


def _total(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _counts(truth: NDArray[np.int64], speakers: Sequence[str]) -> dict[str, Any]:
    two = len(np.unique(truth)) == 2 and truth.max() == 1
    return {
        "n_positive": int((truth == 1).sum()) if two else None,
        "n_negative": int((truth == 0).sum()) if two else None,
        "n_speakers": len(set(speakers)),
    }


def _claim(metric: str, value: float, **fields: Any) -> Claim:
    return Claim(**{**fields, "protocol": PROTOCOL, "primary": False}, metric=metric, value=value, reason=_NO_INTERVAL)
