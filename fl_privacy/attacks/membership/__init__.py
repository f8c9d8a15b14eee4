"""Was this speaker's voice used to train the recogniser?"""

from __future__ import annotations

from fl_privacy.attacks.membership.features import (
    ALL_FEATURES,
    DISTINCT,
    FEATURES,
    Imposters,
    feature_names,
    membership_features,
)

__all__ = ["ALL_FEATURES", "DISTINCT", "FEATURES", "Imposters", "feature_names", "membership_features"]
