"""How long the published CNN takes: some batches, timed, and what that makes of its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy._randomness import own_randomness
from fl_privacy.attacks.attribute.cnn import (
    BATCH,
    VALIDATION,
    PublishedCNN,
    batches,
    device_of,
    one_thread,
    start_network,
    train_step,
    validate,
)
from fl_privacy.attacks.base import Auxiliary
from fl_privacy.updates import Update


@dataclass(frozen=True)
class Speed:
    """Seconds that the attack takes for one update, of all its layers together.

    Attributes
    ----------
    read : float
        To learn means and spreads.
    trained : float
        In each epoch, of an update that is learnt from.
    scored : float
        In each epoch of an update for validation, and once of a private one.
    updates : int
        How many were trained on to measure it.
    """

    read: float
    trained: float
    scored: float
    updates: int

    def of_fit(self, updates: int, epochs: int) -> float:
        """Extrapolate to the training on so many updates for so many epochs."""
        return updates * (self.read + epochs * ((1 - VALIDATION) * self.trained + VALIDATION * self.scored))


def measure_speed(
    attack: PublishedCNN,
    updates: Sequence[Update],
    labels: NDArray[Any],
    auxiliary: Auxiliary,
    *,
    seconds: float = 60.0,
) -> Speed:
    """Train on batches for so many seconds, at least one batch a layer, and say how long an update takes.

    Parameters are as for `PublishedCNN.fit`; the attack stays as it is.
    """
    start = perf_counter()
    own, truth, found = attack.learnt_from(updates, labels, auxiliary)
    read = (perf_counter() - start) / len(updates)
    trained = scored = 0.0
    count = 0
    for standard in found:
        with one_thread(), own_randomness("published-cnn", attack.seed, standard.layer.name):
            network, optimiser = start_network(
                standard, len(auxiliary.classes), attack.schedule.dropout, device_of(attack.device)
            )
            start, done = perf_counter(), 0
            while not done or perf_counter() - start < seconds / len(found):
                for batch in batches(np.arange(len(own))):
                    train_step(network, optimiser, standard.read([own[i] for i in batch]), truth[batch])
                    done += len(batch)
                    if perf_counter() - start >= seconds / len(found):
                        break
            trained += (perf_counter() - start) / done
            start, batch = perf_counter(), np.arange(min(BATCH, len(own)))
            validate(network, standard, [own[i] for i in batch], truth[batch])
            scored += (perf_counter() - start) / len(batch)
            count += done
    return Speed(read, trained, scored, count)
