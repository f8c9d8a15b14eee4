"""How well a federation's model does its task: held-out speakers by the server, validation examples by the clients."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Score = float | list[int]
"""What `held_out_scores` says under one name."""


def held_out_scores(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], *, whole: bool = False
) -> dict[str, Score]:
    """Return ``uar`` (mean recall over the classes that there are) and ``accuracy``; empty without examples.

    Parameters
    ----------
    predicted, labels : ndarray, (n,)
        Class numbers.
    whole : bool
        Whether to add ``right``: of each example 1 or 0.
    """
    if not len(labels):
        return {}
    right = predicted == labels
    recalls = [float(right[labels == c].mean()) for c in np.unique(labels)]
    scores: dict[str, Score] = {"uar": float(np.mean(recalls)), "accuracy": float(right.mean())}
    return scores | {"right": right.astype(int).tolist()} if whole else scores


def write_utility(
    path: str | Path,
    classes: Sequence[str],
    test: Mapping[int, Mapping[str, Score]],
    validation: Mapping[int, float],
) -> None:
    """Write a federation's course as JSON, under a temporary name first.

    Parameters
    ----------
    path : str or Path
        The file.
    classes : sequence of str
        Of the task.
    test : Mapping[int, Mapping[str, float or list]]
        `held_out_scores` by round, from 0, the last of them whole; empty where nobody is held out.
    validation : Mapping[int, float]
        Clients' accuracy by round.
    """
    rounds = sorted(test)
    by_round = {"round": rounds} | {key: [test[r][key] for r in rounds] for key in ("uar", "accuracy")}
    course = {
        "classes": list(classes),
        "test": by_round,
        "right": test[rounds[-1]]["right"] if rounds else [],
        "validation_accuracy": {r: validation[r] for r in sorted(validation)},
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(course), encoding="utf-8")
    os.replace(temporary, path)
