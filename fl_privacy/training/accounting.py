"""How much privacy a client has spent: the steps that it took, kept in its own state, composed once at the end."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

UNITS = ("example", "client")
"""What a noisy step may protect."""

KEY = "privacy"
"""Names in a client's memory that begin so are its ledger."""


@dataclass(frozen=True)
class Ledger:
    """The noisy steps that one client took, as flat lists (equal neighbours are one entry).

    Attributes
    ----------
    unit : str
        What each step protects: "example" or "client".
    noise_multipliers : tuple of float
    sample_rates : tuple of float
    steps : tuple of int
    """

    unit: str
    noise_multipliers: tuple[float, ...] = ()
    sample_rates: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()

    @classmethod
    def read(cls, memory: MutableMapping[str, Any], unit: str) -> Ledger:
        """Read a unit's ledger from what a client keeps."""
        noise, rates, steps = (memory.get(f"{KEY}.{unit}.{what}", ()) for what in ("noise", "rates", "steps"))
        return cls(unit, tuple(map(float, noise)), tuple(map(float, rates)), tuple(map(int, steps)))

    def write(self, memory: MutableMapping[str, Any]) -> None:
        """Keep it in a client's memory, as flat lists of numbers."""
        if self.steps:
            memory[f"{KEY}.{self.unit}.noise"] = list(self.noise_multipliers)
            memory[f"{KEY}.{self.unit}.rates"] = list(self.sample_rates)
            memory[f"{KEY}.{self.unit}.steps"] = list(self.steps)

    def added(self, noise_multiplier: float, sample_rate: float, steps: int) -> Ledger:
        """Return it with further steps."""
        if self.steps and (self.noise_multipliers[-1], self.sample_rates[-1]) == (noise_multiplier, sample_rate):
            more = (*self.steps[:-1], self.steps[-1] + steps)
            return Ledger(self.unit, self.noise_multipliers, self.sample_rates, more)
        return Ledger(
            self.unit,
            (*self.noise_multipliers, noise_multiplier),
            (*self.sample_rates, sample_rate),
            (*self.steps, steps),
        )
