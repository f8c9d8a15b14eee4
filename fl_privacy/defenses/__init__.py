"""Defenses: one object each, with hooks that are the identity unless it says otherwise."""

from fl_privacy.defenses.base import Defense, make_defenses

__all__ = ["Defense", "make_defenses"]
