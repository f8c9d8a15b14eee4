"""A multi-speaker synthesiser from a local folder, for experiment 3 of ``speaker-inversion``.

The folder (environment variable ``SYNTHESISER``) holds two TorchScript files: ``encoder.pt``, one wave (1, samples) at
16 kHz to its speaker vector (1, d), and ``synthesiser.pt``, a speaker vector (1, d) to a wave (1, samples) at 16 kHz of
a fixed sentence. Export yours in this shape; nothing is downloaded. Files are code: load none that you do not trust. ::

    SYNTHESISER=~/models/cloning fl-privacy run speaker-inversion \
        --set spoof.synthesiser=speaker_synthesiser:say --set spoof.encoder=speaker_synthesiser:encoder
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder


@cache
def _model(name: str) -> Any:
    folder = os.environ.get("SYNTHESISER")
    path = Path(folder or "").expanduser() / name
    if folder is None or not path.is_file():
        raise UserError(f"set SYNTHESISER to a folder that holds {name}; {path} is no file")
    return torch.jit.load(str(path), map_location="cpu").eval()


def _embed(waves: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    with torch.no_grad():
        rows = [_model("encoder.pt")(torch.from_numpy(wave)[None])[0].numpy() for wave in waves]
    return np.stack(rows)


encoder = SpeakerEncoder(_embed, name="cloning encoder")


def say(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Say the model's sentence in a voice.

    Parameters
    ----------
    vector : ndarray of float32, shape (d,)

    Returns
    -------
    ndarray of float32, shape (samples,)
        At 16 kHz.
    """
    with torch.no_grad():
        wave: NDArray[np.float32] = _model("synthesiser.pt")(torch.from_numpy(vector)[None])[0].numpy()
    return wave
