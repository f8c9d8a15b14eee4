"""Blind baselines: what can be told without looking at what the clients computed.

A speaker who records more, or is angrier, can be told apart by that alone; an attack claims only what it finds beyond.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.observed import Observed
from fl_privacy.updates import Update


def baselines(own: Observed, private: Observed) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Represent both sides by statistics that say nothing of the voice.

    Parameters
    ----------
    own, private : Observed
        The attacker's updates and the private ones.

    Returns
    -------
    dict
        Name -> (representation of `own`, of `private`), each (n, d) and standardised by `own`:
        ``blind-examples`` (log number of local examples, from the label file's ``examples`` or as reported),
        ``blind-shares`` (shares of the task's classes among them, where the label files have ``share_*``) and
        ``blind-norm`` (log norm of the whole update). What the files do not tell is left out.
    """
    found = {"blind-norm": (_norms(own), _norms(private))}
    # Like with like: both from the label files, or both as reported.
    listed = all(side.has(["examples"]) for side in (own, private))
    examples = [_listed_examples(side) if listed else _reported_examples(side) for side in (own, private)]
    if examples[0] is not None and examples[1] is not None:
        found["blind-examples"] = (examples[0], examples[1])
    shares = sorted({c for c in own.rows[0] if c.startswith("share_")} & set(private.rows[0]))
    if own.has(shares) and private.has(shares):
        found["blind-shares"] = (own.numbers(shares), private.numbers(shares))
    return {name: _standardise(*pair) for name, pair in sorted(found.items())}


def _standardise(
    own: NDArray[np.float64], private: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, spread = own.mean(axis=0), own.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    return (own - mean) / spread, (private - mean) / spread


def _norms(side: Observed) -> NDArray[np.float64]:
    return np.array([[_log_norm(update)] for update in side.updates])


def _log_norm(update: Update) -> float:
    square = sum(float(np.dot(flat, flat)) for flat in (a.reshape(-1) for a in update.arrays.values()))
    return float(np.log(max(square, 1e-30))) / 2


def _listed_examples(side: Observed) -> NDArray[np.float64]:
    return np.log(np.maximum(side.numbers(["examples"]), 1.0))


def _reported_examples(side: Observed) -> NDArray[np.float64] | None:
    told = [update.num_examples for update in side.updates]
    if any(number is None or number <= 0 for number in told):
        return None
    return np.log(np.array(told, dtype=np.float64))[:, None]
