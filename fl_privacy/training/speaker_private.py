"""DP-SGD in the training of speaker encoders: each voice is protected.

A step's batch is a Poisson sample of the voices, of each of which one crop is taken: so an example, whose gradient is
clipped, is a voice, and epsilon is about adding or removing one recording. All voices of a speaker together are
promised less (`fl_privacy.training.group_accounting`). That there is a class of that number is taken as known: who has
no voice left keeps a row in the loss's last layer, which nobody is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fl_privacy.audit import Privacy
from fl_privacy.errors import UserError
from fl_privacy.models.speaker import WaveEncoder
from fl_privacy.models.speaker_losses import SeparableLoss, SpeakerLoss
from fl_privacy.training.accounting import Ledger, noise_multiplier_for
from fl_privacy.training.group_accounting import group_epsilon
from fl_privacy.training.losses import LOSSES, Loss
from fl_privacy.training.private import DPSGD, PrivateGradients, poisson, replaced, sample_rate

if TYPE_CHECKING:
    from fl_privacy.training.speaker import Crops

NAME = "dp-sgd"


@dataclass(frozen=True, slots=True)
class SpeakerDP:
    """DP-SGD's settings.

    Attributes
    ----------
    noise_multiplier : float or None
        Standard deviation of the noise on a sum of clipped gradients, in units of `clipping_norm`.
    target_epsilon : float or None
        Instead of it: the least noise that keeps a voice within this epsilon over all steps; infinity clips alone.
    clipping_norm : float
        Largest L2 norm of a voice's gradient.
    delta : float
        Of the guarantee; below one in the voices.
    batch_size : int
        Voices in a batch, on average.

    Raises
    ------
    UserError
        For settings that are impossible, or unless there is exactly one of noise and target.
    """

    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    clipping_norm: float = 1.0
    delta: float = 1e-5
    batch_size: int = 64

    def __post_init__(self) -> None:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise UserError(f"{NAME}: give either noise_multiplier or target_epsilon")
        if self.target_epsilon is not None and not self.target_epsilon > 0.0:
            raise UserError(f"{NAME}: target_epsilon is {self.target_epsilon}: it must be above 0")
        if not 0.0 < self.delta < 1.0:
            raise UserError(f"{NAME}: delta is {self.delta}: it must be above 0, and below one in the voices")
        if self.batch_size < 1:
            raise UserError(f"{NAME}: batch_size is {self.batch_size}: it must be at least 1")
        DPSGD(self.clipping_norm, self.noise_multiplier or 0.0)  # which checks both

    def of(self, voices: int, steps: int) -> DPSGD:
        """Return what is done to each voice's gradient, where so many voices train for so many steps.

        Raises
        ------
        UserError
            Where there are too many voices for delta, or the target cannot be reached.
        """
        rate = sample_rate(voices, self.batch_size)
        if self.delta * voices >= 1.0:
            raise UserError(
                f"{NAME}: delta = {self.delta:g} is not below 1/{voices}, one in the voices: it would allow to publish "
                "one of them outright. Choose a smaller delta"
            )
        noise = self.noise_multiplier
        if self.target_epsilon is not None:
            noise = noise_multiplier_for(self.target_epsilon, self.delta, rate, steps)
        return DPSGD(self.clipping_norm, noise or 0.0)

    def ledger(self, voices: int, steps: int) -> Ledger:
        """Return the steps that such a training takes."""
        noise = self.of(voices, steps).noise_multiplier
        return Ledger("example").added(noise, sample_rate(voices, self.batch_size), steps)

    def promises(self, trainings: list[dict[str, int]], steps: int) -> list[Privacy]:
        """Say what is promised to a voice and to a speaker, by the weakest of several trainings.

        Parameters
        ----------
        trainings : list of dict of str to int
            Of each, how many of its voices are whose.
        steps : int
        """
        single, whole, most = 0.0, 0.0, 0
        for counts in trainings:
            ledger, largest = self.ledger(sum(counts.values()), steps), max(counts.values())
            single = max(single, ledger.epsilon(self.delta))
            whole, most = max(whole, group_epsilon(ledger, largest, self.delta)), max(most, largest)
        noisy = math.isfinite(single)
        mechanism = NAME if noisy else f"{NAME}: clips only, no noise"
        shared: dict[str, Any] = {
            "mechanism": mechanism,
            "protects_from": "all who receive the recogniser",
            "delta": self.delta,
        }
        return [
            Privacy(
                unit="utterance",
                epsilon_accountant=single,
                note="An utterance is one recording: a step draws each with the same probability and takes one crop of "
                "it; neighbours differ in one recording, the number of speakers stays.",
                **shared,
            ),
            Privacy(
                unit="speaker",
                epsilon_accountant=whole,
                conditions={"voices_of_a_speaker": most},
                note=f"A speaker with {most} training recordings, the most that any has, all of them there or none: a "
                "Poisson batch holds a binomial number of them (Ganesh 2024, arXiv 2401.10294).",
                **shared,
            ),
        ]


def check_loss(name: str) -> None:
    """Refuse a loss in which voices meet.

    Raises
    ------
    UserError
        With the reason.
    """
    known = LOSSES.get(name)
    if known is not None and known.mixes:
        raise UserError(
            f"{NAME}: the loss {name!r} cannot be private voice by voice: {known.mixes}. Clipping one voice's gradient "
            "does not bound what it does to the others'; take aam-softmax or softmax"
        )


class _Scored(nn.Module):
    """Frames to scores for the training speakers: the network and the loss's last layer, trained as one."""

    def __init__(self, network: nn.Module, loss: SeparableLoss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, frames: Tensor) -> Tensor:
        scores: Tensor = self.loss.scores(self.network(frames))
        return scores


def made_private(model: WaveEncoder) -> WaveEncoder:
    """Put layers that can be private in the place of those that cannot: GroupNorm for BatchNorm, Opacus' LSTM."""
    network, _ = replaced(model.network, replace_batch_norm=True)
    return WaveEncoder(network, model.front_end)


def train_by_voices(
    model: WaveEncoder,
    loss: SpeakerLoss,
    crops: Crops,
    dp: SpeakerDP,
    steps: int,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
    told: Callable[[int], None] | None = None,
) -> None:
    """Train an encoder in place by private gradients of Poisson batches of voices.

    Parameters
    ----------
    model : WaveEncoder
        Made by `made_private`.
    loss : SpeakerLoss
        Separable by voice.
    crops : Crops
    dp : SpeakerDP
    steps : int
    optimiser, schedule : Optimizer, LRScheduler
        Of the parameters of both; what they do with private gradients costs no privacy.
    rng : numpy.random.Generator
        Draws the batches and crops, and seeds the noise.
    told : callable, optional
        Told the number of steps done.
    """
    assert isinstance(loss, SeparableLoss)  # `check_loss`
    whole = _Scored(model.network, loss)
    parameters = dict(whole.named_parameters())
    voices = crops.voices
    rate = sample_rate(voices, dp.batch_size)
    with PrivateGradients(whole, Loss("speaker loss", loss.each), dp.of(voices, steps)) as gradients:
        for step in range(steps):
            frames, codes = crops.cut(poisson(rng, voices, rate).numpy(), rng)
            for name, slope in gradients(frames, codes, rng=rng, expected=rate * voices).items():
                parameters[name].grad = slope
            optimiser.step()
            schedule.step()
            if told is not None:
                told(step + 1)
