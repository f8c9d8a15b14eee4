"""How well a federation's model does on speakers who took no part, and how much better than another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fl_privacy.audit.paired import mean_difference


def utility_of(history: Mapping[str, Any], test_whose: Sequence[str], test_labels: Sequence[int]) -> dict[str, Any]:
    """Return what result.json says of the task.

    Parameters
    ----------
    history : mapping
        Of `fl_privacy.training.write_utility`.
    test_whose : sequence of str
        Each held-out example's speaker.
    test_labels : sequence of int
        Its class.
    """
    test = history["test"]
    last = {key: values[-1] for key, values in test.items() if values}
    return {
        "task": "emotion of held-out speakers, model of the last round",
        "uar": last.get("uar"),
        "accuracy": last.get("accuracy"),
        "chance_uar": 1 / len(history["classes"]),
        "by_speaker": _by_speaker(history["right"], test_whose, test_labels),
        "by_round": test,
        "validation_accuracy_by_round": history["validation_accuracy"],
    }


def _by_speaker(right: Sequence[int], whose: Sequence[str], labels: Sequence[int]) -> dict[str, float]:
    """Return each speaker's own UAR: its mean recall over the classes that it has."""
    known, of, classes = np.array(right), np.array(whose), np.array(labels)
    return {
        speaker: float(np.mean([known[mine & (classes == c)].mean() for c in np.unique(classes[mine])]))
        for speaker in dict.fromkeys(whose)
        if (mine := of == speaker).any()
    }


def utility_difference(there: Mapping[str, Any], here: Mapping[str, Any], confidence: float) -> dict[str, Any] | None:
    """Say how much better another federation's model does for the same speakers: the mean of the speakers' own UAR.

    Parameters
    ----------
    there, here : mapping
        Of `utility_of`.
    confidence : float
        Of the interval, which is over speakers.

    Returns
    -------
    dict or None
        An `Estimate`; None with fewer than two speakers.
    """
    mine, theirs = here["by_speaker"], there["by_speaker"]
    if len(mine) < 2 or set(mine) != set(theirs):
        return None
    rates = [[part[speaker] for speaker in mine] for part in (theirs, mine)]
    return asdict(mean_difference(*rates, confidence=confidence))
