"""Attacks: objects that learn from updates whose owners are known and score updates whose owners are not."""

from fl_privacy.attacks.base import Attack, Auxiliary, Examples, make_attacks

__all__ = ["Attack", "Auxiliary", "Examples", "make_attacks"]
