"""What self-supervised encoders are pre-trained to do: TERA rebuilds altered frames, CPC tells what comes next.

Each objective turns voices into crops, crops into (inputs, targets), and has a loss of each example by itself. All that
is random about them (crops, masks, negatives) comes from a generator that is handed in and never from the model, so
that two models can be asked the same question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_privacy.errors import UserError
from fl_privacy.models.cpc import CONVOLUTIONS, STEPS
from fl_privacy.models.log_mel import HOP, SAMPLE_RATE, WINDOW, normalised_log_mel
from fl_privacy.training._crops import repeated
from fl_privacy.training.losses import Loss

SPAN, SHARE, WIDEST, NOISY, DEVIATION = 7, 0.15, 16, 0.15, 0.2
"""Frames of a span; share of the frames that spans cover; widest band; how often noise is added, and how much."""


class Objective(Protocol):
    """How a kind of model is trained."""

    loss: Loss
    shortest: int
    """Fewest samples of a wave."""
    least: float
    """Fewest seconds of a crop."""

    def sequence(self, wave: NDArray[np.float32]) -> Tensor:
        """Return what crops are cut from, (moments, ...)."""

    def moments(self, seconds: float) -> int:
        """Return how long a crop of so many seconds is."""

    def question(self, crops: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return what the model is given and what the loss holds its answer against."""


class Reconstruction:
    """TERA's: time, frequency and magnitude of log-mel frames are altered (Liu et al. 2021, arXiv 2007.06028, II-B).

    The loss of an example is the mean absolute error over what was altered in time or frequency.
    """

    shortest = WINDOW
    least = SPAN * HOP / SAMPLE_RATE
    """A span of frames that is altered as one."""

    def __init__(self) -> None:
        self.loss = Loss("tera", _masked_error)

    def sequence(self, wave: NDArray[np.float32]) -> Tensor:
        """Return frames (frames, 80), normalised over the whole wave."""
        return normalised_log_mel(torch.from_numpy(wave)[None])[0]

    def moments(self, seconds: float) -> int:
        """Return a number of frames."""
        return round(seconds * SAMPLE_RATE / HOP)

    def question(self, crops: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return altered frames (n, t, bands), and (n, 2, t, bands): the true ones and where they were altered."""
        altered, mask = altered_frames(crops, rng)
        return altered, torch.stack([crops, mask], dim=1)


def altered_frames(frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Alter frames in time, frequency and magnitude, each example by itself.

    Time: spans of 7 frames that cover 15 % (they may overlap) are set to zero (in 80 % of the examples), replaced by
    other spans of the same example (10 %) or left as they are (10 %). Frequency: a band up to 16 wide is set to zero.
    Magnitude: in 15 % of the examples N(0, .2) is added to all.

    Parameters
    ----------
    frames : Tensor, (n, t, bands)
    rng : Generator

    Returns
    -------
    altered : Tensor, (n, t, bands)
    mask : Tensor, (n, t, bands)
        1 where time or frequency was chosen, whatever was done there.
    """
    n, t, bands = frames.shape
    span = min(SPAN, t)
    spans = max(1, round(t * SHARE / span))
    rows = np.arange(n)[:, None]

    def chosen() -> NDArray[np.int64]:
        starts = np.argsort(rng.random((n, t - span + 1)), axis=1)[:, :spans]
        return (starts[:, :, None] + np.arange(span)).reshape(n, spans * span)

    here, there, dice = chosen(), chosen(), rng.random((n, 1))
    spanned = np.zeros((n, t), dtype=bool)
    spanned[rows, here] = True
    source = np.broadcast_to(np.arange(t), (n, t)).copy()
    source[rows, here] = np.where((dice >= 0.8) & (dice < 0.9), there, here)
    widths = rng.integers(0, min(WIDEST, bands), (n, 1), endpoint=True)
    lowest = rng.integers(0, bands - widths, endpoint=True)
    numbers = np.arange(bands)
    band = (numbers >= lowest) & (numbers < lowest + widths)
    keep = ~(spanned & (dice < 0.8))[:, :, None] & ~band[:, None, :]
    noisy = np.flatnonzero(rng.random(n) < NOISY)
    noise = rng.standard_normal((len(noisy), t, bands), dtype=np.float32) * np.float32(DEVIATION)
    altered = frames[torch.from_numpy(rows), torch.from_numpy(source)] * torch.from_numpy(keep)
    altered[torch.from_numpy(noisy)] += torch.from_numpy(noise)
    return altered, torch.from_numpy((spanned[:, :, None] | band[:, None, :]).astype(np.float32))


def _masked_error(rebuilt: Tensor, targets: Tensor) -> Tensor:
    frames, mask = targets.unbind(1)
    return ((rebuilt - frames).abs() * mask).sum((1, 2)) / mask.sum((1, 2)).clamp_min(1)


class Contrast:
    """CPC's: tell the true frame 1 to 12 ahead from others (van den Oord et al. 2018, arXiv 1807.03748).

    The score of a candidate is the mean over channels of prediction times frame; the loss of an example is the mean
    over its contexts of the cross-entropy, summed over the 12 steps.

    Parameters
    ----------
    negatives : int
        Of each context, drawn with replacement, shared by the 12 steps.
    among : {"batch", "utterance"}
        From all frames of the batch, or of the same example alone. Never at the context's own place in an utterance.
    """

    shortest = 160 * (STEPS + 2) + 465
    least = shortest / SAMPLE_RATE
    """A frame's receptive field, and the frames ahead that it is to tell."""

    def __init__(self, negatives: int = 128, among: Literal["batch", "utterance"] = "batch") -> None:
        self.negatives, self.among = negatives, among
        mixes = "its negatives are frames of other utterances of the batch" if among == "batch" else ""
        self.loss = Loss("cpc", _contrast_across if among == "batch" else _contrast_within, mixes)

    def sequence(self, wave: NDArray[np.float32]) -> Tensor:
        """Return the samples themselves."""
        return torch.from_numpy(wave)

    def moments(self, seconds: float) -> int:
        """Return a number of samples."""
        return round(seconds * SAMPLE_RATE)

    def question(self, crops: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the crops (n, samples), and the numbers of the negatives (n, contexts, negatives).

        They count the frames of all examples, one after another, or from 0 in each example where negatives come from
        the same utterance.
        """
        n, frames = len(crops), frames_of(crops.shape[1])
        contexts = frames - STEPS
        shape = (n, contexts, self.negatives)
        numbers = (rng.integers(1, frames, shape) + np.arange(contexts)[:, None]) % frames
        if self.among == "batch":
            numbers += rng.integers(n, size=shape) * frames
        return crops, torch.from_numpy(numbers)


def frames_of(samples: int) -> int:
    """Return how many frames CPC's convolutions make of so many samples."""
    for kernel, stride, padding in CONVOLUTIONS:
        samples = (samples + 2 * padding - kernel) // stride + 1
    return samples


def _contrast_within(outputs: tuple[Tensor, Tensor], negatives: Tensor) -> Tensor:
    """Return the loss of each example, whose negatives are numbers of its own frames (n, contexts, negatives)."""
    predictions, frames = outputs
    contexts, steps = predictions.shape[1:3]
    # All frames are scored: there are not many more than negatives.
    scores = torch.unflatten(predictions.flatten(1, 2) @ frames.mT, 1, (contexts, steps))
    false = scores.gather(3, negatives[:, :, None].expand(-1, -1, steps, -1))
    return _cross_entropy(predictions, frames, false)


def _contrast_across(outputs: tuple[Tensor, Tensor], negatives: Tensor) -> Tensor:
    """Return the loss of each example, whose negatives are numbers of the batch's frames (n, contexts, negatives)."""
    predictions, frames = outputs
    chosen = frames.flatten(0, 1)[negatives.flatten()].view(*negatives.shape, frames.shape[2])
    return _cross_entropy(predictions, frames, predictions @ chosen.mT)


def _cross_entropy(predictions: Tensor, frames: Tensor, false: Tensor) -> Tensor:
    """Return the loss of each example.

    Parameters
    ----------
    predictions : Tensor, (n, contexts, 12, channels)
    frames : Tensor, (n, contexts + 12, channels)
    false : Tensor, (n, contexts, 12, negatives)
        Predictions times negatives, summed over channels.
    """
    contexts, steps, channels = predictions.shape[1:]
    ahead = frames[:, 1:].unfold(1, steps, 1)[:, :contexts].transpose(2, 3)
    true = (predictions * ahead).sum(3, keepdim=True)
    scores = torch.cat([true, false], dim=3) / channels
    losses = torch.logsumexp(scores, dim=3) - scores[..., 0]
    return losses.mean(1).sum(1)


def objective_of(kind: str, negatives: int = 128, among: Literal["batch", "utterance"] = "batch") -> Objective:
    """Return the objective of a kind of model: "tera" or "cpc"."""
    if kind == "tera":
        return Reconstruction()
    if kind == "cpc":
        return Contrast(negatives, among)
    raise UserError(f"unknown self-supervised model {kind!r}. Known: tera, cpc")


def checked_waves(waves: Sequence[NDArray[np.float32]], objective: Objective) -> list[NDArray[np.float32]]:
    """Return waves as float32, or say which one cannot be used."""
    found = []
    for number, wave in enumerate(waves):
        samples = np.ascontiguousarray(wave, dtype=np.float32)
        if samples.ndim != 1:
            raise UserError(f"wave {number} has the shape {samples.shape}; expected (samples,), one channel at 16 kHz")
        if len(samples) < WINDOW:
            raise UserError(f"wave {number} has {len(samples)} samples; {WINDOW} at least are needed")
        if not np.isfinite(samples).all():
            raise UserError(f"wave {number} holds samples that are not finite numbers")
        found.append(repeated(torch.from_numpy(samples), objective.shortest).numpy())
    return found
