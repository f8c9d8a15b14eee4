"""A recogniser of Hugging Face as a function of a list of waves: ``model = "huggingface_encoder:embed"``.

Any model with an x-vector head (WavLM, wav2vec 2.0, UniSpeech-SAT, ...). Needs the package ``transformers``, which
fl-privacy does not. ``$XVECTOR_MODEL`` names another model, or a folder.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

MODEL = "microsoft/wavlm-base-plus-sv"
SAMPLE_RATE = 16_000


@lru_cache
def parts() -> tuple[Any, Any]:
    """Load what scales a wave, and the model, once."""
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    name = os.environ.get("XVECTOR_MODEL", MODEL)
    return AutoFeatureExtractor.from_pretrained(name), AutoModelForAudioXVector.from_pretrained(name).eval()


def embed(waves: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return embeddings (n, d) of waves at 16 kHz, one at a time: none depends on what is beside it in a batch."""
    extractor, model = parts()
    found = []
    with torch.no_grad():
        for wave in waves:
            inputs = extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            found.append(model(**inputs).embeddings)  # (1, d)
    return torch.cat(found).cpu().numpy()
