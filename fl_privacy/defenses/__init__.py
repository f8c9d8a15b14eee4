"""Defenses: one object each, with hooks that are the identity unless it says otherwise."""

from fl_privacy.defenses.base import Defense, make_defenses
from fl_privacy.defenses.clashes import check_defenses

__all__ = ["Defense", "check_defenses", "make_defenses"]
