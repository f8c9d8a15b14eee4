"""One captured update, and the threat model under which it was captured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["gradient", "delta"]
"""What an update is: the gradient of a batch, or the difference ``returned - sent`` of two sets of weights."""


@dataclass(frozen=True)
class Update:
    """What one client sent in one round.

    Attributes
    ----------
    round : int
        Server round, from 1.
    client : str
        Pseudonym of the client; the label file says whose it is.
    kind : {"gradient", "delta"}
        A gradient is of the loss; a delta is ``returned weights - sent weights``.
    num_examples : float or None
        The weight that the client reported for the aggregation.
    arrays : Mapping[str, ndarray]
        The update by array name, float32, in the model's own order; read from disk when asked for.
    model : Mapping[str, tuple of int]
        Shape of every array of the model, captured or not; empty where it is not known.
    """

    round: int
    client: str
    kind: Kind
    num_examples: float | None
    arrays: Mapping[str, NDArray[np.float32]] = field(repr=False)
    model: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every array of the model, as far as it is known."""
        return self.model or {name: array.shape for name, array in self.arrays.items()}


@dataclass(frozen=True)
class ThreatModel:
    """Who attacks, what they observe, and what they own.

    Attributes
    ----------
    attacker : str
        Where the attacker sits.
    observes : str
        What of the federation reaches the attacker.
    owns : str
        What else the attacker has: auxiliary speakers, the model, the settings.
    active : bool
        Whether the attacker changes anything in the protocol.
    """

    attacker: str = "the server (honest but curious)"
    observes: str = "every selected client's own update in every round, and the model each was sent"
    owns: str = "the architecture, and labelled data of other people"
    active: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    def describe(self) -> str:
        """Say the threat model in words."""
        manner = "alters the protocol" if self.active else "follows the protocol and alters nothing"
        return f"The attacker is {self.attacker}: it sees {self.observes}; it owns {self.owns}. It {manner}."
