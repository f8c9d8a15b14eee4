"""The files that reports are made of."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_privacy.errors import UserError


def read_result(path: Path) -> Mapping[str, Any]:
    """Read a result.json.

    Raises
    ------
    UserError
        Where there is none, or it is no result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no result to report on: {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(result, Mapping):
        raise UserError(f"{path} is not a result: it holds a {type(result).__name__}")
    return result


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
