"""Many updates of a first layer of 988 inputs: random numbers, on the disk once, under many names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fl_privacy.updates import ThreatModel, Update, UpdateStore
from fl_privacy.updates.store import Reply

UNITS, INPUTS = 256, 988
COORDINATES = UNITS * (INPUTS + 1)
_ON_DISK, _A_ROUND = 1700, 20


def write(place: Path) -> None:
    """Capture 1,700 updates (1.7 GB)."""
    rng = np.random.default_rng(0)
    sent = {"fc1.weight": np.zeros((UNITS, INPUTS), np.float32), "fc1.bias": np.zeros(UNITS, np.float32)}
    store = UpdateStore(place, keep_sent=False)
    store.begin(ThreatModel())
    for number in range(1, _ON_DISK // _A_ROUND + 1):
        replies = [
            Reply(
                str(client),
                0,
                {name: 1e-3 * rng.standard_normal(array.shape, np.float32) for name, array in sent.items()},
                "gradient",
                20.0,
            )
            for client in range(_A_ROUND)
        ]
        store.append(number, [sent], replies)
    store.close()


def clients(place: Path, name: str, updates: int, many: int) -> list[Update]:
    """Return so many updates of so many clients of this name: those on the disk, over and over."""
    held = UpdateStore(place).updates()
    return [replace(held[i % len(held)], client=f"{name}-{i % many}") for i in range(updates)]
