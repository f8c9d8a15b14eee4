"""Central training of speaker encoders on crops of a few seconds: the recognisers under attack, and their shadows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_privacy._processes import one_thread
from fl_privacy._randomness import own_randomness
from fl_privacy.errors import UserError
from fl_privacy.models.speaker import WaveEncoder, make_encoder
from fl_privacy.models.speaker_losses import make_loss
from fl_privacy.training.speaker_private import SpeakerDP, check_loss, made_private, train_by_voices

Waves = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class SpeakerTraining:
    """How a speaker encoder is trained.

    The defaults leak clearly and train in a minute on half an hour of speech.

    Attributes
    ----------
    encoder : str
        One of `fl_privacy.models.speaker.ENCODERS`.
    loss : str
        One of `fl_privacy.models.speaker_losses.LOSSES`.
    steps : int
        Batches.
    speakers_per_batch, crops_per_speaker : int
        A batch; the speakers differ from each other where there are enough.
    crop_frames : int
        Length of a crop, 10 ms each; shorter voices are repeated.
    learning_rate : float
        Highest of Adam's one-cycle schedule.
    clip : float
        Norm that gradients are cut to; 0: they are not.
    dp : SpeakerDP or None
        Private training, voice by voice: its batches are Poisson samples of voices, and `speakers_per_batch`,
        `crops_per_speaker` and `clip` are of no account.

    Raises
    ------
    UserError
        For numbers that are not positive, or a loss that cannot be private where it is to be.
    """

    encoder: str = "x-vector"
    loss: str = "aam-softmax"
    steps: int = 400
    speakers_per_batch: int = 16
    crops_per_speaker: int = 4
    crop_frames: int = 80
    learning_rate: float = 2e-3
    clip: float = 3.0
    dp: SpeakerDP | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "speakers_per_batch", "crops_per_speaker", "crop_frames", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"speaker training: {name} must be positive, not {getattr(self, name)}")
        if self.clip < 0:
            raise UserError(f"speaker training: clip must not be negative, not {self.clip}")
        if self.dp is not None:
            check_loss(self.loss)


class Crops:
    """Frames of many voices, from which batches of crops are cut.

    Parameters
    ----------
    frames : sequence of Tensor, each (frames, mels)
    speakers : sequence of str
        Of each voice.
    length : int
        Frames of a crop.
    """

    def __init__(self, frames: Sequence[Tensor], speakers: Sequence[str], length: int) -> None:
        self.length = length
        self.names = tuple(dict.fromkeys(speakers))
        number = {name: code for code, name in enumerate(self.names)}
        long = [voice.repeat(-(-length // len(voice)), 1) for voice in frames]
        self._frames = torch.cat(long)
        sizes = np.array([len(voice) for voice in long])
        self._starts = np.cumsum(sizes) - sizes
        self._spare = sizes - length + 1
        codes = np.array([number[name] for name in speakers])
        self._codes = codes
        self._voices = [np.flatnonzero(codes == code) for code in range(len(self.names))]

    @property
    def voices(self) -> int:
        """How many voices there are."""
        return len(self._codes)

    def draw(self, speakers: int, crops: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw crops of each of several speakers.

        Returns
        -------
        Tensor, (speakers * crops, length, mels)
        Tensor, (speakers * crops,)
            Numbers of the speakers.
        """
        there = len(self.names)
        chosen = np.resize(rng.permutation(there), speakers) if speakers > there else rng.permutation(there)[:speakers]
        codes = np.repeat(chosen, crops)
        return self.cut(np.array([rng.choice(self._voices[code]) for code in codes]), rng)

    def cut(self, voices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Cut a crop out of each of some voices (n,), given by number.

        Returns
        -------
        Tensor, (n, length, mels)
        Tensor, (n,)
            Numbers of the speakers.
        """
        starts = self._starts[voices] + rng.integers(self._spare[voices])
        rows = torch.from_numpy(starts[:, None] + np.arange(self.length))
        return self._frames[rows], torch.from_numpy(self._codes[voices])


def train_speaker_encoder(
    waves: Waves,
    speakers: Sequence[str],
    settings: SpeakerTraining,
    seed: int,
    told: Callable[[int], None] | None = None,
) -> WaveEncoder:
    """Train a speaker encoder on one thread; the same seed gives the same encoder on one machine.

    Parameters
    ----------
    waves : sequence of ndarray, each (samples,)
        16 kHz.
    speakers : sequence of str
        Of each wave; two at least.
    settings : SpeakerTraining
    seed : int
        Of the initial weights and the crops.
    told : callable, optional
        Told the number of steps done.

    Returns
    -------
    WaveEncoder
        In evaluation mode.

    Raises
    ------
    UserError
        With fewer than two speakers, or where training ends in numbers that are not finite.
    """
    if len(waves) != len(speakers):
        raise UserError(f"{len(waves)} waves, but {len(speakers)} speakers: give one for each wave.")
    if len(set(speakers)) < 2:
        raise UserError("A speaker encoder is trained on two speakers at least.")
    with one_thread(), own_randomness("speaker encoder", seed):
        model = make_encoder(settings.encoder)
        if settings.dp is not None:
            model = made_private(model)
        crops = Crops(frames_of(model, waves), speakers, settings.crop_frames)
        loss = make_loss(settings.loss, int(model.network.dimension), len(crops.names))  # type: ignore[arg-type]
        parameters = [*model.parameters(), *loss.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps)
        rng = np.random.default_rng([seed, 1])
        model.train()
        if settings.dp is not None:
            train_by_voices(model, loss, crops, settings.dp, settings.steps, optimiser, schedule, rng, told)
        else:
            for step in range(settings.steps):
                frames, codes = crops.draw(settings.speakers_per_batch, settings.crops_per_speaker, rng)
                optimiser.zero_grad()
                loss(model.network(frames), codes).backward()
                if settings.clip:
                    nn.utils.clip_grad_norm_(parameters, settings.clip)
                optimiser.step()
                schedule.step()
                if told is not None:
                    told(step + 1)
        if not all(torch.isfinite(p).all() for p in parameters):
            raise UserError(f"training the {settings.encoder} encoder diverged; lower learning_rate")
    return model.eval()


@torch.no_grad()
def frames_of(model: WaveEncoder, waves: Waves) -> list[Tensor]:
    """Return the front end's frames (frames, mels) of each wave."""
    return [model.front_end(torch.from_numpy(np.ascontiguousarray(wave))[None])[0] for wave in waves]
