"""From a speaker vector to a waveform: the interface for a synthesiser of one's own, and a small reference.

The reference takes what was said from somebody else's recording and the voice from a vector. It is trained in the run,
to make recordings again, and with a critic that names the speaker, so that a vector of somebody else changes the voice
(without it, the voice of the content comes through). It is no deepfake: its speech is coarse and its pitch is the other
recording's. It is there so that the whole chain from an inversion to a spoofed recogniser runs, with its controls,
where there are no weights of a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy._processes import one_thread
from fl_privacy._randomness import own_randomness
from fl_privacy.attacks.inversion.griffin_lim import HOP, MelSpectra
from fl_privacy.errors import UserError

Synthesiser = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A speaker vector (d,) in, a waveform (samples,) at 16 kHz out: the reference one, or a multi-speaker model."""

Waves = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class SynthesiserTraining:
    """How the reference synthesiser is trained.

    Attributes
    ----------
    steps, batch_size : int
    crop_frames : int
        Length of a crop, 16 ms each; shorter recordings are repeated.
    channels : int
        Of its convolutions.
    learning_rate : float
        Highest of Adam's one-cycle schedule.
    """

    steps: int = 1000
    batch_size: int = 16
    crop_frames: int = 64
    channels: int = 96
    learning_rate: float = 3e-3
    critic: float = 0.1
    """Weight of the critic's cross-entropy, from a quarter of the steps on; 0: none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "crop_frames", "channels", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"synthesiser: {name} must be positive, not {getattr(self, name)}")
        if self.critic < 0:
            raise UserError(f"synthesiser: critic must not be negative, not {self.critic}")


class _Block(nn.Module):
    """A convolution over time whose channels the speaker vector scales and shifts, with a shortcut."""

    def __init__(self, channels: int, voice: int, dilation: int) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(channels, channels, 5, padding=2 * dilation, dilation=dilation)
        self.voice = nn.Linear(voice, 2 * channels)

    def forward(self, frames: Tensor, voice: Tensor) -> Tensor:
        scale, shift = self.voice(voice)[:, :, None].chunk(2, dim=1)
        found: Tensor = frames + torch.relu(self.over_time(frames) * (1 + scale) + shift)
        return found


class _Decoder(nn.Module):
    """Normalised log-mel frames and a speaker vector in, log-mel frames out."""

    def __init__(self, mels: int, voice: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(mels, channels, 1)
        self.blocks = nn.ModuleList([_Block(channels, voice, dilation) for dilation in (1, 2, 4)])
        self.last = nn.Conv1d(channels, mels, 1)
        # What normalisation took away, mean and spread of each band, comes back from the speaker vector alone.
        self.colour = nn.Linear(voice, 2 * mels)

    def forward(self, content: Tensor, voice: Tensor) -> Tensor:
        frames = self.first(content)
        for block in self.blocks:
            frames = block(frames, voice)
        mean, spread = self.colour(voice)[:, :, None].chunk(2, dim=1)
        found: Tensor = (content + self.last(frames)) * torch.exp(0.5 * spread) + mean
        return found


class _Critic(nn.Module):
    """Names the speaker of log-mel frames by statistics over time."""

    def __init__(self, mels: int, speakers: int, channels: int = 64) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            nn.Conv1d(mels, channels, 5, padding=2),
            nn.ReLU(),
            nn.BatchNorm1d(channels),
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm1d(channels),
        )
        self.last = nn.Linear(2 * channels, speakers)

    def forward(self, frames: Tensor) -> Tensor:
        found = self.frames(frames - frames.mean(dim=2, keepdim=True))
        scores: Tensor = self.last(torch.cat([found.mean(dim=2), found.std(dim=2)], dim=1))
        return scores


class ReferenceSynthesiser:
    """A small voice converter: content of a fixed recording, voice of a vector, Griffin-Lim; see the module.

    Parameters
    ----------
    training : SynthesiserTraining
    """

    def __init__(self, training: SynthesiserTraining | None = None) -> None:
        self.training = training or SynthesiserTraining()
        self.mels = MelSpectra()
        self._network: _Decoder | None = None
        self._level = (0.0, 1.0)
        self._content: tuple[Tensor, ...] = ()

    def fit(
        self,
        waves: Waves,
        vectors: ArrayLike,
        speakers: Sequence[str],
        seed: int,
        told: Callable[[int], None] | None = None,
    ) -> ReferenceSynthesiser:
        """Learn to make recordings again from their normalised frames and a vector of their speaker.

        Parameters
        ----------
        waves : sequence of ndarray, each (samples,)
            16 kHz, of auxiliary speakers.
        vectors : array_like, shape (waves, d)
            Speaker vector of each: best of *other* recordings of the speaker, so that it holds no content.
        speakers : sequence of str
            Of each; two at least.
        seed : int
        told : callable, optional
            Told the number of steps done.

        Raises
        ------
        UserError
            Where numbers do not match, or training diverges.
        """
        voices = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
        if not len(waves) == len(voices) == len(speakers) or len(set(speakers)) < 2:
            raise UserError(
                f"a synthesiser learns from two speakers at least; got {len(waves)} recordings, {len(voices)} vectors "
                f"and {len(set(speakers))} speakers"
            )
        how = self.training
        codes = torch.from_numpy(np.unique(np.asarray(speakers), return_inverse=True)[1].astype(np.int64))
        with one_thread(), own_randomness("reference synthesiser", seed):
            spectra = [self._long(self.mels.of(wave)) for wave in waves]
            everything = torch.cat(spectra, dim=1)
            self._level = float(everything.mean()), float(everything.std())
            spectra = [(frames - self._level[0]) / self._level[1] for frames in spectra]
            contents = [_normalised(frames) for frames in spectra]
            network = _Decoder(self.mels.bands, voices.shape[1], how.channels)
            critic = _Critic(self.mels.bands, int(codes.max()) + 1)
            optimiser = torch.optim.Adam(network.parameters(), lr=how.learning_rate)
            critical = torch.optim.Adam(critic.parameters(), lr=0.5 * how.learning_rate)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.learning_rate, total_steps=how.steps)
            rng = np.random.default_rng([seed, 3])
            for step in range(how.steps):
                chosen = rng.integers(len(waves), size=how.batch_size)
                starts = [int(rng.integers(spectra[i].shape[1] - how.crop_frames + 1)) for i in chosen]
                cut = [slice(start, start + how.crop_frames) for start in starts]
                wanted = torch.stack([spectra[i][:, c] for i, c in zip(chosen, cut, strict=True)])
                content = torch.stack([contents[i][:, c] for i, c in zip(chosen, cut, strict=True)])
                rows = torch.from_numpy(chosen)
                loss = (network(content, voices[rows]) - wanted).abs().mean()
                if how.critic:
                    critical.zero_grad()
                    torch.autograd.backward(functional.cross_entropy(critic(wanted), codes[rows]))
                    critical.step()
                    others = torch.from_numpy(rng.integers(len(waves), size=how.batch_size))
                    if step >= how.steps // 4:
                        converted = critic(network(content, voices[others]))
                        loss = loss + how.critic * functional.cross_entropy(converted, codes[others])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
                if told is not None:
                    told(step + 1)
            if not torch.isfinite(loss):
                raise UserError("training the reference synthesiser diverged; lower learning_rate")
            self._network = network.eval()
        return self

    def saying(self, waves: Waves) -> list[Synthesiser]:
        """Return a synthesiser for each of some recordings, whose content it says in whatever voice it is given.

        Parameters
        ----------
        waves : sequence of ndarray, each (samples,)
            Of speakers whom nobody tries to imitate.

        Raises
        ------
        UserError
            Before `fit`.
        """
        if self._network is None:
            raise UserError("the reference synthesiser is not fitted")
        contents = [_normalised((self.mels.of(wave) - self._level[0]) / self._level[1]) for wave in waves]
        return [lambda vector, content=content: self._say(content, vector) for content in contents]  # type: ignore[misc]

    @torch.no_grad()
    def _say(self, content: Tensor, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self._network is not None
        with one_thread():
            voice = torch.from_numpy(np.asarray(vector, dtype=np.float32))[None]
            frames = self._network(content[None], voice)[0] * self._level[1] + self._level[0]
            return self.mels.wave(frames)

    def _long(self, frames: Tensor) -> Tensor:
        repeats = -(-self.training.crop_frames // frames.shape[1])
        return frames.repeat(1, repeats)


def _normalised(frames: Tensor) -> Tensor:
    """Each band less its mean over the recording, in units of its spread."""
    mean, spread = frames.mean(dim=1, keepdim=True), frames.std(dim=1, keepdim=True)
    return (frames - mean) / (spread + 1e-3)


def checked(synthesiser: Synthesiser, vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a synthesiser says, refused where it is no wave.

    Raises
    ------
    UserError
        For another shape, an empty answer, or values that are not finite.
    """
    wave = np.asarray(synthesiser(vector), dtype=np.float32)
    if wave.ndim != 1 or wave.size < HOP or not np.isfinite(wave).all():
        raise UserError(f"the synthesiser gave {wave.shape}; expected a finite waveform of {HOP} samples at least")
    return wave
