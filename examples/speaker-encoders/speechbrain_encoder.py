"""A recogniser of SpeechBrain as a function of a list of waves: ``model = "speechbrain_encoder:embed"``.

Needs the package ``speechbrain``, which fl-privacy does not. ``$SPEECHBRAIN_SOURCE`` names another model, or a folder.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SOURCE = "speechbrain/spkrec-ecapa-voxceleb"


@lru_cache
def classifier() -> Any:
    """Load the model once."""
    from speechbrain.inference.speaker import EncoderClassifier

    return EncoderClassifier.from_hparams(source=os.environ.get("SPEECHBRAIN_SOURCE", SOURCE))


def embed(waves: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return embeddings (n, d) of waves at 16 kHz, one at a time: none depends on what is beside it in a batch."""
    with torch.no_grad():
        found = [classifier().encode_batch(torch.from_numpy(wave)[None]) for wave in waves]  # (1, 1, d) each
    return torch.cat(found).squeeze(1).cpu().numpy()
