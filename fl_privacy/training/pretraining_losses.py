"""How well an encoder does on a recording what it was pre-trained to do: the statistic of the grey-box attacks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_privacy._processes import one_thread
from fl_privacy.errors import UserError
from fl_privacy.models.pretrained import Module
from fl_privacy.training._crops import Crops
from fl_privacy.training.pretraining_settings import Pretraining
from fl_privacy.training.ssl_objectives import Objective, checked_waves


@torch.no_grad()
def pretraining_losses(
    module: Module,
    waves: Sequence[NDArray[np.float32]],
    *,
    crops: int,
    seed: int,
    full_length: bool = False,
    crop_seconds: float | None = None,
) -> NDArray[np.float64]:
    """Return how well a module does on each wave what it was pre-trained to do: what a grey-box attacker may ask.

    Which crops, masks and negatives a wave is asked with depends on the seed and the wave's own samples alone: neither
    on the module nor on the other waves. So losses of two modules can be subtracted, wave by wave. Dropout is off;
    CPC's negatives come from the same utterance.

    Parameters
    ----------
    module : TERA or CPC
    waves : sequence of ndarray, each (samples,)
        16 kHz.
    crops : int
        Crops, or masks and negatives for the whole, over which a wave's loss is averaged.
    seed : int
    full_length : bool
        Whether the whole wave is taken instead of crops.
    crop_seconds : float, optional
        Length of a crop; by default that of the module's training.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    UserError
        For waves that are too short or not finite, and without crops.
    """
    if crops < 1:
        raise UserError(f"pretraining_losses: crops must be positive, not {crops}")
    seconds = training_crop(module) if crop_seconds is None else crop_seconds
    settings = Pretraining(module.kind, module.size, negatives_among="utterance", crop_seconds=seconds)  # type: ignore[arg-type]
    objective = settings.objective()
    length = objective.moments(settings.seconds)
    found = np.empty(len(waves))
    was_training = module.training
    module.eval()
    with one_thread():
        for number, wave in enumerate(checked_waves(waves, objective)):
            rng = np.random.default_rng([seed, *hashlib.sha256(wave.tobytes()).digest()])
            sequence = objective.sequence(wave)
            if full_length:
                asked = sequence[None].expand(crops, *sequence.shape)
            else:
                asked = Crops([sequence], length).cut(np.zeros(crops, dtype=np.int64), rng)
            found[number] = _mean_loss(module, objective, asked, rng)
    module.train(was_training)
    return found


def training_crop(module: Module) -> float:
    """Return the seconds of a crop in a module's training, as its record tells; else as published."""
    kind: str = module.kind
    return float(module.record.get("crop_seconds") or Pretraining(kind).seconds)  # type: ignore[arg-type]


def _mean_loss(module: nn.Module, objective: Objective, asked: Tensor, rng: np.random.Generator) -> float:
    inputs, targets = objective.question(asked, rng)
    return float(objective.loss(module(inputs), targets).double().mean())
