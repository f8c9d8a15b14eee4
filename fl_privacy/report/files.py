"""The files that reports are made of."""

from __future__ import annotations

import csv
from pathlib import Path

from fl_privacy.errors import UserError


def read_scores(path: Path) -> list[dict[str, str]]:
    """Read the rows of a scores.csv; none where there is no such file.

    Raises
    ------
    UserError
        Where it cannot be read.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
