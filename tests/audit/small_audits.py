"""Small audits of each kind, made at random."""

from __future__ import annotations

import numpy as np

from fl_privacy.audit import Audit, MulticlassAudit, NumericAudit

KINDS = ("two", "many", "number")


def example(kind, n=20, rows=12, own=0.4, each=1.0, seed=0, **settings):
    """Updates whose scores vary between speakers (`own`) and within (`each`)."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(n), rows)
    settings = {"clients": speakers * 3 + np.arange(speakers.size) % 3, "name": kind} | settings
    if kind == "two":
        scores = 0.5 * (2 * (speakers % 2) - 1) + own * rng.normal(size=n)[speakers]
        return Audit(scores + each * rng.normal(size=speakers.size), speakers % 2, speakers, **settings)
    if kind == "many":
        scores = (speakers % 4 == np.arange(4)[:, None]).T + own * rng.normal(size=(n, 4))[speakers]
        return MulticlassAudit(scores + each * rng.normal(size=(speakers.size, 4)), speakers % 4, speakers, **settings)
    ages = rng.integers(20, 75, n)[speakers]
    predictions = ages + 15 * own * rng.normal(size=n)[speakers] + 15 * each * rng.normal(size=speakers.size)
    return NumericAudit(predictions, ages, speakers, **settings)
