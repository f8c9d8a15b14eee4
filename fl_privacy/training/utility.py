"""How well a federation's model does its task: held-out speakers by the server, validation examples by the clients."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def held_out_scores(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return ``uar`` (mean recall over the classes that there are) and ``accuracy``; empty without examples.

    Parameters
    ----------
    predicted, labels : ndarray, (n,)
        Class numbers.
    """
    if not len(labels):
        return {}
    right = predicted == labels
    recalls = [float(right[labels == c].mean()) for c in np.unique(labels)]
    return {"uar": float(np.mean(recalls)), "accuracy": float(right.mean())}


def write_utility(
    path: str | Path,
    classes: Sequence[str],
    test: Mapping[int, Mapping[str, float]],
    validation: Mapping[int, float],
) -> None:
    """Write a federation's course as JSON, under a temporary name first.

    Parameters
    ----------
    path : str or Path
        The file.
    classes : sequence of str
        Of the task.
    test : Mapping[int, Mapping[str, float]]
        `held_out_scores` by round, from 0; empty where nobody is held out.
    validation : Mapping[int, float]
        Clients' accuracy by round.
    """
    rounds = sorted(test)
    by_round = {"round": rounds} | {key: [test[r][key] for r in rounds] for key in ("uar", "accuracy")}
    course = {
        "classes": list(classes),
        "test": by_round,
        "validation_accuracy": {r: validation[r] for r in sorted(validation)},
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(course), encoding="utf-8")
    os.replace(temporary, path)
