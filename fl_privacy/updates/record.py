"""One captured update, and the threat model under which it was captured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["gradient", "delta"]
"""What an update is: the gradient of a batch, or the difference ``returned - sent`` of two sets of weights."""

Observe = Literal["each", "sum"]
"""What the attacker sees of a round: each client's update, or their weighted sum (ideal secure aggregation)."""

NamedBy = Literal["query", "mod", "node"]
"""Where a client's name comes from: its partition id by query, by what a mod adds to replies, or its node id."""

SUM = "sum"
"""Name that stands for all clients of a round in a store of sums."""


def observation(
    observe: Observe = "each",
    *,
    every: int = 1,
    clients: Sequence[str] | None = None,
    arrays: Sequence[str] | None = None,
    position: str = "",
) -> str:
    """Say what reaches the attacker, for a `ThreatModel`.

    Parameters
    ----------
    observe : {"each", "sum"}
    every : int
        Every how many rounds it looks.
    clients : sequence of str, optional
        Whom it watches; all by default.
    arrays : sequence of str, optional
        Which arrays or layers of the updates it keeps; all by default.
    position : str
        Where in the server it sits, as the end of a phrase: "before ..." or "after ...".
    """
    rounds = "every round" if every == 1 else f"one round in {every}"
    of = f" of {' and '.join(arrays)}" if arrays is not None else ""
    if observe == "sum":
        seen = (
            f"the weighted sum of the selected clients' updates{of} in {rounds}, who took part, and the model sent "
            "(single updates are estimated from the sums)"
        )
    elif clients is None:
        seen = f"every selected client's own update{of} in {rounds}, and the model each was sent"
    else:
        watched = f"each of {len(clients)} watched clients" if len(clients) != 1 else "one watched client"
        seen = f"the own update{of} of {watched} in {rounds}, and the model each was sent"
    return f"{seen}, {position}" if position else seen


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
        The weight that the client reported for the aggregation; of a sum, that of all together, and None where some
        client reported none: then the sum is unweighted.
    arrays : Mapping[str, ndarray]
        The update by array name, float32, in the model's own order; read from disk when asked for. Clients may send
        parts of the model only: then these.
    model : Mapping[str, tuple of int]
        Shape of every array of the model, captured or not; empty where it is not known.
    participants : tuple of str
        Where the update is the weighted sum over several clients (``observe="sum"``): who they are. Else empty.
    sent : Mapping[str, ndarray]
        The model that the client was sent, float32, read from disk when asked for; empty where that is not known.
    """

    round: int
    client: str
    kind: Kind
    num_examples: float | None
    arrays: Mapping[str, NDArray[np.float32]] = field(repr=False)
    model: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    participants: tuple[str, ...] = ()
    sent: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)

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
    observes: str = observation()
    owns: str = "the architecture, and labelled data of other people"
    active: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    def to_result(self) -> dict[str, Any]:
        """Return the fields, and all of them in words, as they stand in result.json."""
        return {**self.to_dict(), "words": self.describe()}

    def describe(self) -> str:
        """Say the threat model in words."""
        manner = "alters the protocol" if self.active else "follows the protocol and alters nothing"
        return f"The attacker is {self.attacker}: it sees {self.observes}; it owns {self.owns}. It {manner}."
