"""Pre-training of self-supervised encoders: TERA and CPC, on one core, resumable to the bit.

What is random in a step (crops, masks, negatives, dropout, noise) depends on the seed and the number of the step alone,
so that a run that was killed goes on from a checkpoint as if nothing had been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy._processes import one_thread
from fl_privacy._randomness import own_randomness
from fl_privacy.errors import UserError
from fl_privacy.models.frames import encoder_of
from fl_privacy.models.pretrained import Module, load_module, make_module, save_module
from fl_privacy.training._crops import Crops
from fl_privacy.training._pretraining_steps import Run
from fl_privacy.training.pretraining_losses import pretraining_losses, training_crop
from fl_privacy.training.pretraining_settings import DPPretraining, Pretraining, published
from fl_privacy.training.ssl_objectives import checked_waves

__all__ = [
    "DPPretraining",
    "Pretraining",
    "encoder_of",
    "load_module",
    "pretrain",
    "pretraining_losses",
    "published",
    "save_module",
    "training_crop",
]

Waves = Sequence[NDArray[np.float32]]


def pretrain(
    waves: Waves,
    speakers: Sequence[str],
    settings: Pretraining,
    seed: int,
    *,
    checkpoint: Path | None = None,
    told: Callable[[int], None] | None = None,
    checkpoint_every: int = 200,
) -> Module:
    """Pre-train an encoder on one thread; the same seed gives the same weights on one machine.

    Parameters
    ----------
    waves : sequence of ndarray, each (samples,)
        16 kHz; each is an utterance.
    speakers : sequence of str
        Of each wave.
    settings : Pretraining
    seed : int
        Of the initial weights and all that is drawn.
    checkpoint : Path, optional
        A file that is written every `checkpoint_every` steps and at the end, and from which training goes on.
    told : callable, optional
        Told the number of steps done.
    checkpoint_every : int

    Returns
    -------
    TERA or CPC
        In evaluation mode. Its ``record`` holds the crop's length, the loss of the last step and, after private
        training, the ledger and which layers were replaced meanwhile.

    Raises
    ------
    UserError
        For waves that are too short or not finite, a checkpoint of other waves or settings, and where training ends in
        numbers that are not finite.
    """
    if not waves or len(waves) != len(speakers):
        raise UserError(f"pre-training: {len(waves)} waves and {len(speakers)} speakers: give a speaker for each wave")
    objective = settings.objective()
    usable = checked_waves(waves, objective)
    tell = told or (lambda done: None)
    with one_thread(), own_randomness("pretraining", settings.model, seed):
        module = make_module(settings.model, settings.size)
        crops = Crops([objective.sequence(wave) for wave in usable], objective.moments(settings.seconds))
        run = _private_run if settings.dp is not None else Run
        work = run(module, objective, crops, speakers, settings, seed)
        known = _fingerprint(usable, speakers, settings, seed) if checkpoint is not None else ""
        start = work.resume(checkpoint, known) if checkpoint is not None and checkpoint.exists() else 0
        with work:
            for step in range(start, settings.steps):
                work.step(step)
                if checkpoint is not None and ((step + 1) % checkpoint_every == 0 or step + 1 == settings.steps):
                    work.keep(checkpoint, known, step + 1)
                tell(step + 1)
        return work.finished()


def _private_run(*arguments: Any) -> Run:
    from fl_privacy.training._private_pretraining import PrivateRun

    return PrivateRun(*arguments)


def _fingerprint(waves: Waves, speakers: Sequence[str], settings: Pretraining, seed: int) -> str:
    digest = hashlib.sha256(repr((settings, seed, tuple(speakers))).encode())
    for wave in waves:
        digest.update(len(wave).to_bytes(8, "little") + wave.tobytes())
    return digest.hexdigest()
