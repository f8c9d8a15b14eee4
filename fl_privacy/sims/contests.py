"""Who attacks and learns from what: each attack in the hands of one who knows the defense, and of one who does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fl_privacy.attacks.base import Attack, make_attacks
from fl_privacy.audit.reading import STATIC
from fl_privacy.config import AttackChoice
from fl_privacy.errors import UserError

STATIC_SHADOWS = "static-"
"""Begins the names of shadows that are made without the defense."""


@dataclass(frozen=True)
class Contest:
    """One attack, by an attacker who knows the defense or one who does not.

    Attributes
    ----------
    name : str
        What it is reported under.
    attack : Attack
    choice : AttackChoice
    aware : bool
        Whether the attacker knows the defenses (true where there are none).
    """

    name: str
    attack: Attack
    choice: AttackChoice
    aware: bool

    @property
    def shadows(self) -> tuple[str, bool]:
        """What it learns from: federations or matched shadows, and whether they are made through the defenses."""
        return self.choice.shadows, self.aware and not self.choice.clean


def contests(choices: Sequence[AttackChoice], *, against_defense: bool) -> list[Contest]:
    """Make the attacks of a run; against a defense each also in its static form, right behind.

    Raises
    ------
    UserError
        Where an attack cannot be made, or has a label that is the harness's own.
    """
    settings = [choice.model_dump(exclude_none=True) for choice in choices]
    found = []
    for (name, attack), (_, again), choice in zip(make_attacks(settings), make_attacks(settings), choices, strict=True):
        if name.endswith(STATIC):
            raise UserError(f"attack {name!r}: labels that end in {STATIC} are the harness's own")
        found.append(Contest(name, attack, choice, aware=True))
        if against_defense:
            found.append(Contest(f"{name}{STATIC}", again, choice, aware=False))
    return found


@dataclass(frozen=True)
class Shadow:
    """A federation of the attacker's own, or its clients' answers to the victims' models."""

    name: str
    seed: int
    defended: bool

    @property
    def part(self) -> str:
        """What its partition is called: the same people, defended or not."""
        return self.name.removeprefix(STATIC_SHADOWS)

    @property
    def of(self) -> str:
        """What attacks ask for it as."""
        return "matched" if self.part == "matched" else "federation"
