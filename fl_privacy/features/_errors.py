"""What can be wrong with features."""

from __future__ import annotations

from fl_privacy.errors import UserError


class FeatureError(UserError):
    """Features that cannot be computed as asked: unknown extractor, missing package, no usable utterance."""
