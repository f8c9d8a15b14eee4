"""How the improved attacks learn without members: what looks most like one is taken for one.

The attacker's own utterances, none of them a member, are sorted by the basic score. Those at either end train the
network, the next ones say when to stop (Tseng, Kao and Lee 2022, arXiv 2111.05113, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fl_privacy._processes import one_thread
from fl_privacy._randomness import own_randomness
from fl_privacy.attacks.membership.ssl.pooling import SpeakerNet, UtteranceNet
from fl_privacy.errors import UserError

Frames = Callable[[int], NDArray[np.float32]]
"""Frames (m, q) of an utterance by its number."""


@dataclass(frozen=True, slots=True)
class Learning:
    """How the improved attacks' networks are trained.

    Attributes
    ----------
    utterances : int
        At each end that train the utterance network; as many further ones validate. Fewer where the attacker owns
        fewer than four times as many.
    speakers : int
        At each end, for the speaker network.
    epochs : int
    patience : int
        Epochs without a better validation loss after which training stops.
    batch_size : int
    learning_rate : float
        Of Adam.
    dropout : float
    standardise : bool
        Frames by the attacker's own; the study does not.
    """

    utterances: int = 500
    speakers: int = 1
    epochs: int = 20
    patience: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    dropout: float = 0.2
    standardise: bool = True

    def __post_init__(self) -> None:
        for name in ("utterances", "speakers", "epochs", "patience", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"improved attack: {name} must be positive, not {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"improved attack: dropout must lie in [0, 1), not {self.dropout}")

    def as_published(self) -> Learning:
        """Return the study's own rates and frames."""
        return replace(self, learning_rate=1e-5, standardise=False)


@dataclass(frozen=True, slots=True)
class Ends:
    """Which of several things are taken for members and non-members.

    Attributes
    ----------
    train, validate : ndarray of int
        Numbers of the things.
    train_labels, validate_labels : ndarray of float
        1 where the thing looks like a member's.
    """

    train: NDArray[np.int64]
    train_labels: NDArray[np.float64]
    validate: NDArray[np.int64]
    validate_labels: NDArray[np.float64]


def both_ends(scores: ArrayLike, count: int, what: str = "utterances") -> Ends:
    """Label things by their basic scores.

    Parameters
    ----------
    scores : array_like, shape (n,)
        Higher for what looks like a member's.
    count : int
        At each end; fewer, a quarter of n, where there are not four times as many.
    what : str
        What they are, for the message.

    Raises
    ------
    UserError
        With fewer than four.
    """
    order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    count = min(count, len(order) // 4)
    if count < 1:
        raise UserError(f"the improved attack learns from four auxiliary {what} at least; got {len(order)}")
    labels = np.repeat([0.0, 1.0], count)
    train = np.concatenate([order[:count], order[len(order) - count :]])
    inner = order[count : len(order) - count]
    return Ends(train, labels, np.concatenate([inner[:count], inner[len(inner) - count :]]), labels)


def train_utterance_net(
    frames: Frames, scores: ArrayLike, dim: int, learning: Learning, seed: int, *, compat: bool = False
) -> UtteranceNet:
    """Train the network of the improved utterance attack.

    Parameters
    ----------
    frames : callable
        Frames of the attacker's own utterances, by number.
    scores : array_like, shape (n,)
        Their basic scores.
    dim : int
        Of a frame.
    learning : Learning
    seed : int
    compat : bool
        See `fl_privacy.attacks.membership.ssl.pooling.AttentionPooling`.

    Returns
    -------
    UtteranceNet
        In evaluation mode, with the weights of the best validation loss.
    """
    ends = both_ends(scores, learning.utterances)
    with one_thread(), own_randomness("improved utterance attack", seed):
        net = UtteranceNet(dim, learning.dropout, compat=compat)

        def logits(chosen: NDArray[np.int64]) -> Tensor:
            return torch.as_tensor(net([_tensor(frames(int(number))) for number in chosen]))

        examples = (ends.train, ends.train_labels), (ends.validate, ends.validate_labels)
        if learning.standardise:
            net.standardise([_tensor(frames(int(number))) for number in ends.train])
        _train(net, logits, *examples, learning, seed)
    return net.eval()


def train_speaker_net(
    frames: Frames,
    speakers: Sequence[Sequence[int]],
    scores: ArrayLike,
    dim: int,
    learning: Learning,
    seed: int,
    *,
    compat: bool = False,
    most_pairs: int = 1000,
) -> SpeakerNet:
    """Train the network of the improved speaker attack.

    Parameters
    ----------
    frames : callable
        As for `train_utterance_net`.
    speakers : sequence of sequence of int
        Numbers of each auxiliary speaker's utterances, two at least.
    scores : array_like, shape (speakers,)
        Their basic scores.
    dim, learning, seed, compat
        As for `train_utterance_net`.
    most_pairs : int
        Of a speaker's utterances; more are drawn from.
    """
    ends = both_ends(scores, learning.speakers, "speakers")
    rng = np.random.default_rng([seed, 1])

    def pairs(numbers: NDArray[np.int64], labels: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        found, told = [], []
        for number, label in zip(numbers, labels, strict=True):
            mine = np.array(speakers[number], dtype=np.int64)
            first, second = np.triu_indices(len(mine), k=1)
            kept = np.sort(rng.permutation(len(first))[:most_pairs])
            found.append(np.stack([mine[first[kept]], mine[second[kept]]], axis=1))
            told.append(np.full(len(kept), label))
        return np.concatenate(found), np.concatenate(told)

    with one_thread(), own_randomness("improved speaker attack", seed):
        net = SpeakerNet(dim, learning.dropout, compat=compat)

        def logits(chosen: NDArray[np.int64]) -> Tensor:
            first, second = (net([_tensor(frames(int(number))) for number in side]) for side in chosen.T)
            return torch.as_tensor((first * second).sum(dim=1))

        examples = pairs(ends.train, ends.train_labels), pairs(ends.validate, ends.validate_labels)
        if learning.standardise:
            net.standardise([_tensor(frames(int(number))) for number in np.unique(examples[0][0])])
        _train(net, logits, *examples, learning, seed)
    return net.eval()


@torch.no_grad()
def answer(net: UtteranceNet | SpeakerNet, frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a network's output for one utterance alone, so that no other utterance can change it."""
    found: NDArray[np.float64] = net([_tensor(frames)])[0].double().numpy()
    return found


Examples = tuple[NDArray[np.int64], NDArray[np.float64]]


def _train(
    net: nn.Module,
    logits: Callable[[NDArray[np.int64]], Tensor],
    train: Examples,
    validate: Examples,
    learning: Learning,
    seed: int,
) -> None:
    loss = nn.BCEWithLogitsLoss()
    optimiser = torch.optim.Adam(net.parameters(), lr=learning.learning_rate)
    rng, size = np.random.default_rng([seed, 2]), learning.batch_size
    best, waited = np.inf, 0
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(learning.epochs):
        net.train()
        order = rng.permutation(len(train[0]))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            optimiser.zero_grad()
            loss(logits(train[0][chosen]), torch.from_numpy(train[1][chosen]).float()).backward()
            optimiser.step()
        net.eval()
        with torch.no_grad():
            parts = [
                float(loss(logits(validate[0][s : s + size]), torch.from_numpy(validate[1][s : s + size]).float()))
                * len(validate[0][s : s + size])
                for s in range(0, len(validate[0]), size)
            ]
        value = sum(parts) / len(validate[0])
        if value < best:
            best, waited = value, 0
            kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        else:
            waited += 1
            if waited >= learning.patience:
                break
    net.load_state_dict(kept)


def _tensor(frames: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float32))
