"""A Hugging Face folder of wav2vec 2.0, HuBERT, WavLM... as a `FrameEncoder`; nothing is downloaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_privacy.errors import UserError
from fl_privacy.models.frames import FrameEncoder


def frame_encoder(folder: str | Path, device: str = "cpu") -> FrameEncoder:
    """Load the model in a folder such as ``model.save_pretrained(folder)`` writes.

    Parameters
    ----------
    folder : str or Path
        With ``config.json``, the weights and, where there is one, ``preprocessor_config.json``: its ``do_normalize``
        says whether a wave is first brought to mean 0 and variance 1.
    device : str
        Of torch.

    Returns
    -------
    FrameEncoder
        Its layers are the transformer's: 0 is the first, -1 the last hidden state.

    Raises
    ------
    UserError
        If the package transformers is missing, or cannot load the folder.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"Hugging Face folder: there is no {folder / 'config.json'}; save_pretrained writes one")
    try:
        from transformers import AutoModel
    except ImportError as missing:
        raise UserError("a Hugging Face folder needs the package transformers: pip install transformers") from missing
    try:
        model = AutoModel.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"Hugging Face folder {folder}: {str(error).splitlines()[0]}") from error
    preprocessing = folder / "preprocessor_config.json"
    normalise = preprocessing.is_file() and bool(json.loads(preprocessing.read_text()).get("do_normalize", False))
    return wrapped(model, name=folder.name, normalise=normalise, device=device)


def wrapped(model: Any, *, name: str, normalise: bool, device: str = "cpu") -> FrameEncoder:
    """Wrap a model that is called as transformers' speech models are.

    Parameters
    ----------
    model : Module
        Takes ``model(waves, output_hidden_states=True)`` and answers with ``hidden_states``, the first of which goes
        into the transformer; its ``config`` has ``hidden_size``, ``num_hidden_layers``, ``conv_kernel`` and
        ``conv_stride``.
    name : str
    normalise : bool
        Whether a wave is first brought to mean 0 and variance 1.
    device : str
    """
    model = model.eval().to(device)
    field = 1
    for kernel, stride in zip(reversed(model.config.conv_kernel), reversed(model.config.conv_stride), strict=True):
        field = (field - 1) * stride + kernel

    def layers(wave: NDArray[np.float32]) -> list[torch.Tensor]:
        if normalise:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        with torch.inference_mode():
            answer = model(torch.from_numpy(wave)[None].to(device), output_hidden_states=True)
        return [frames[0] for frames in answer.hidden_states[1:]]

    return FrameEncoder.of_callable(
        layers,
        name=name,
        dim=model.config.hidden_size,
        hop=math.prod(model.config.conv_stride),
        layers=model.config.num_hidden_layers,
        shortest=field,
    )
