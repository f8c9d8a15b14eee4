"""Was this utterance, or this speaker's voice, used to pre-train a self-supervised speech encoder?"""

from __future__ import annotations

from fl_privacy.attacks.membership.ssl.scores import pair_mean, speaker_score, utterance_score

__all__ = ["pair_mean", "speaker_score", "utterance_score"]
