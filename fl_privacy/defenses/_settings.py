"""Checks that several defenses make of their settings."""

from __future__ import annotations

import math

from fl_privacy.errors import UserError


def positive(defense: str, **settings: float) -> None:
    """Refuse a setting that is not a positive finite number."""
    for name, value in settings.items():
        if not _is_number(value) or not 0 < value < math.inf:
            raise UserError(f"{defense}: {name} must be positive and finite, not {value!r}")


def below_one(defense: str, **settings: float) -> None:
    """Refuse a setting that is not between 0 and 1, both excluded."""
    for name, value in settings.items():
        if not _is_number(value) or not 0 < value < 1:
            raise UserError(f"{defense}: {name} must be between 0 and 1, not {value!r}")


def whole(defense: str, least: int, most: float = math.inf, **settings: int) -> None:
    """Refuse a setting that is not a whole number from `least` to `most`."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            reach = f"from {least}" if most == math.inf else f"from {least} to {most}"
            raise UserError(f"{defense}: {name} must be a whole number {reach}, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
