"""Speaker encoders: log-mel frames of a voice in, one embedding out.

x-vector (Snyder et al. 2018, ICASSP), ECAPA-TDNN (Desplanques et al. 2020, Interspeech, arXiv 2005.07143) and the LSTM
of GE2E (Wan et al. 2018, arXiv 1710.10467), each in its published size and in a small one that trains in a minute on a
CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_privacy.errors import UserError

SAMPLE_RATE = 16_000
"""Of the waves, in Hz."""

FRAMES_PER_SECOND = 100
"""Of the front end."""


class LogMel(nn.Module):
    """Logarithms of mel energies, less their mean over the utterance.

    Windows of 25 ms every 10 ms. The mean over the utterance holds the channel; without it, small recognisers learn
    microphones.

    Parameters
    ----------
    mels : int
        Number of bands from 0 to 8 kHz.
    """

    def __init__(self, mels: int = 40) -> None:
        super().__init__()
        import torchaudio

        self.mels = mels
        self.spectrogram = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=400, hop_length=SAMPLE_RATE // FRAMES_PER_SECOND, n_mels=mels, center=True
        )

    def forward(self, waves: Tensor) -> Tensor:
        """Return frames.

        Parameters
        ----------
        waves : Tensor, (n, samples)
            16 kHz, full scale 1, of one length.

        Returns
        -------
        Tensor, (n, frames, mels)
        """
        logarithms = self.logarithms(waves)
        return logarithms - logarithms.mean(dim=1, keepdim=True)

    def logarithms(self, waves: Tensor) -> Tensor:
        """Return the logarithms themselves (n, frames, mels)."""
        # Reflection at the ends needs more samples than half a window.
        lacking = max(0, 201 - waves.shape[-1])
        energies = self.spectrogram(functional.pad(waves, (0, lacking)))
        found: Tensor = torch.log(energies + 1e-6).transpose(1, 2)
        return found


class _TDNN(nn.Sequential):
    """Convolution over time, ReLU, batch normalisation; as many frames out as in."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2),
            nn.ReLU(),
            nn.BatchNorm1d(outputs),
        )


def _statistics(frames: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean and standard deviation over frames (n, channels, frames), weighted where there are weights that sum to 1."""
    if weights is None:
        mean, square = frames.mean(dim=2), frames.square().mean(dim=2)
    else:
        mean, square = (frames * weights).sum(dim=2), (frames.square() * weights).sum(dim=2)
    return torch.cat([mean, (square - mean.square()).clamp_min(1e-5).sqrt()], dim=1)


class XVector(nn.Module):
    """Time-delay network with statistics pooling.

    Parameters
    ----------
    channels : tuple of int
        Of the convolutions with contexts of 5, 3, 3 and 1 frames (dilated 1, 2, 3, 1); any further ones have context 1.
    embedding : int
        Length of an embedding.
    mels : int
        Bands of the front end.
    """

    def __init__(
        self, channels: tuple[int, ...] = (512, 512, 512, 512, 1500), embedding: int = 512, mels: int = 40
    ) -> None:
        super().__init__()
        contexts = [(5, 1), (3, 2), (3, 3)] + [(1, 1)] * (len(channels) - 3)
        self.frames = nn.Sequential(
            *(
                _TDNN(inputs, outputs, kernel, dilation)
                for inputs, outputs, (kernel, dilation) in zip((mels, *channels), channels, contexts, strict=False)
            )
        )
        self.embedding = nn.Linear(2 * channels[-1], embedding)
        self.dimension = embedding

    def forward(self, frames: Tensor) -> Tensor:
        """Return embeddings (n, dimension) of frames (n, frames, mels)."""
        embeddings: Tensor = self.embedding(_statistics(self.frames(frames.transpose(1, 2))))
        return embeddings


class _Res2(nn.Module):
    """SE-Res2Block: groups of channels that each see the one before, squeezed and excited, with a shortcut."""

    def __init__(self, channels: int, dilation: int, scale: int, bottleneck: int) -> None:
        super().__init__()
        width = channels // scale
        self.scale = scale
        self.before = _TDNN(channels, channels, 1)
        self.groups = nn.ModuleList([_TDNN(width, width, 3, dilation) for _ in range(scale - 1)])
        self.after = _TDNN(channels, channels, 1)
        self.excite = nn.Sequential(
            nn.Linear(channels, bottleneck), nn.ReLU(), nn.Linear(bottleneck, channels), nn.Sigmoid()
        )

    def forward(self, frames: Tensor) -> Tensor:
        first, *rest = torch.chunk(self.before(frames), self.scale, dim=1)
        parts, last = [first], None
        for group, part in zip(self.groups, rest, strict=True):
            last = group(part if last is None else part + last)
            parts.append(last)
        out = self.after(torch.cat(parts, dim=1))
        shortcut: Tensor = frames + out * self.excite(out.mean(dim=2)).unsqueeze(2)
        return shortcut


class ECAPA(nn.Module):
    """Squeeze-and-excitation blocks over several scales, their outputs joined, attentive statistics pooling.

    Parameters
    ----------
    channels : int
        Of each block.
    joined : int
        Channels of the frames that are pooled.
    embedding : int
        Length of an embedding.
    bottleneck : int
        Of squeeze and excitation, and of the attention.
    scale : int
        Groups of a block; it divides `channels`.
    mels : int
        Bands of the front end (80 as published).
    """

    def __init__(
        self,
        channels: int = 1024,
        joined: int = 1536,
        embedding: int = 192,
        bottleneck: int = 128,
        scale: int = 8,
        mels: int = 40,
    ) -> None:
        super().__init__()
        self.first = _TDNN(mels, channels, 5)
        self.blocks = nn.ModuleList([_Res2(channels, dilation, scale, bottleneck) for dilation in (2, 3, 4)])
        self.join = nn.Sequential(nn.Conv1d(3 * channels, joined, 1), nn.ReLU())
        self.attention = nn.Sequential(
            nn.Conv1d(3 * joined, bottleneck, 1),
            nn.ReLU(),
            nn.BatchNorm1d(bottleneck),
            nn.Tanh(),
            nn.Conv1d(bottleneck, joined, 1),
        )
        self.pooled = nn.BatchNorm1d(2 * joined)
        self.embedding = nn.Linear(2 * joined, embedding)
        self.dimension = embedding

    def forward(self, frames: Tensor) -> Tensor:
        """Return embeddings (n, dimension) of frames (n, frames, mels)."""
        x = self.first(frames.transpose(1, 2))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.join(torch.cat(outputs, dim=1))
        context = _statistics(x).unsqueeze(2).expand(-1, -1, x.shape[2])
        weights = torch.softmax(self.attention(torch.cat([x, context], dim=1)), dim=2)
        embeddings: Tensor = self.embedding(self.pooled(_statistics(x, weights)))
        return embeddings


class LSTMEncoder(nn.Module):
    """The recogniser that SLMIA-SR attacks: the last hidden state of an LSTM, through a layer with ReLU, of length 1.

    Parameters
    ----------
    hidden, layers : int
        Of the LSTM.
    embedding : int
        Length of an embedding; its numbers are not negative.
    mels : int
        Bands of the front end.
    """

    def __init__(self, hidden: int = 256, layers: int = 3, embedding: int = 256, mels: int = 40) -> None:
        super().__init__()
        self.lstm = nn.LSTM(mels, hidden, layers, batch_first=True)
        self.embedding = nn.Linear(hidden, embedding)
        self.dimension = embedding

    def forward(self, frames: Tensor) -> Tensor:
        """Return embeddings (n, dimension) of frames (n, frames, mels)."""
        _, (hidden, _) = self.lstm(frames)
        raw = torch.relu(self.embedding(hidden[-1]))
        unit: Tensor = raw / (raw.norm(dim=1, keepdim=True) + 1e-5)
        return unit


ENCODERS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "x-vector": lambda: XVector((64, 64, 64, 128), 64),
        "x-vector-published": lambda: XVector(),
        "ecapa": lambda: ECAPA(64, 96, 64, bottleneck=32, scale=4),
        "ecapa-published": lambda: ECAPA(mels=80),
        "lstm": lambda: LSTMEncoder(96, 2, 64),
        "lstm-published": lambda: LSTMEncoder(),
    }
)
"""The networks by name: small ones, and as published."""


class WaveEncoder(nn.Module):
    """A front end and a network: waves in, embeddings out.

    Parameters
    ----------
    network : Module
        Of frames (n, frames, mels) to embeddings.
    front_end : LogMel
    """

    def __init__(self, network: nn.Module, front_end: LogMel) -> None:
        super().__init__()
        self.front_end = front_end
        self.network = network

    def forward(self, waves: Tensor) -> Tensor:
        """Return embeddings (n, d) of waves (n, samples) of one length."""
        embeddings: Tensor = self.network(self.front_end(waves))
        return embeddings


def make_encoder(name: str) -> WaveEncoder:
    """Make a network by name, with its front end; initial weights come from torch's global generator.

    Raises
    ------
    UserError
        If the name is not in `ENCODERS`.
    """
    if name not in ENCODERS:
        raise UserError(f"unknown speaker encoder {name!r}. Known: {', '.join(ENCODERS)}")
    return WaveEncoder(ENCODERS[name](), LogMel(80 if name == "ecapa-published" else 40))
