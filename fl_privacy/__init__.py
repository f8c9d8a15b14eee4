"""Measures what speech models give away about the people whose voices trained them.

A plugin for Flower: wrap any strategy and record each client's update, attack the record, read a report that says, with
intervals and controls, how well the attacker does. The names below load what they need when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fl_privacy._version import __version__

if TYPE_CHECKING:
    from fl_privacy.attacks.evaluate import evaluate
    from fl_privacy.audit import Audit
    from fl_privacy.corpora import Corpus
    from fl_privacy.sims.local import run_simulation
    from fl_privacy.sims.run import run
    from fl_privacy.sims.shadow import shadow_updates
    from fl_privacy.sims.sweep import sweep
    from fl_privacy.strategies import CaptureUpdates, FedSGD, Reproducible
    from fl_privacy.updates import UpdateStore

_HOMES = {
    "Audit": "fl_privacy.audit",
    "CaptureUpdates": "fl_privacy.strategies",
    "Corpus": "fl_privacy.corpora",
    "FedSGD": "fl_privacy.strategies",
    "Reproducible": "fl_privacy.strategies",
    "UpdateStore": "fl_privacy.updates",
    "evaluate": "fl_privacy.attacks.evaluate",
    "run": "fl_privacy.sims.run",
    "run_simulation": "fl_privacy.sims.local",
    "shadow_updates": "fl_privacy.sims.shadow",
    "sweep": "fl_privacy.sims.sweep",
}

__all__ = [
    "Audit",
    "CaptureUpdates",
    "Corpus",
    "FedSGD",
    "Reproducible",
    "UpdateStore",
    "__version__",
    "evaluate",
    "run",
    "run_simulation",
    "shadow_updates",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
