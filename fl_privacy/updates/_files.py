"""Names of a store's files, and what its format is called."""

from __future__ import annotations

from fl_privacy.errors import UserError

FORMAT = 2
HEADER = "store.json"
INDEX = "index.jsonl"


class StoreError(UserError):
    """A store that cannot be written, read, or does not hold what was asked for."""
