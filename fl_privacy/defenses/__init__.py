"""Defenses: one object each, with hooks that are the identity unless it says otherwise."""

from fl_privacy.defenses.base import Accounted, Defense, check_defenses, make_defenses, unaware

__all__ = ["Accounted", "Defense", "check_defenses", "make_defenses", "unaware"]
