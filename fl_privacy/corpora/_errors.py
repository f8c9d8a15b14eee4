"""What can be wrong with a corpus."""

from __future__ import annotations

from fl_privacy.errors import UserError


class CorpusError(UserError):
    """A corpus that cannot be read as asked: wrong folder, missing table, contradictory labels, unknown name."""


class AudioError(CorpusError):
    """One audio file that cannot be decoded, is empty or holds values that are not numbers."""
