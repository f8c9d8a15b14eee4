"""Losses that can be private: those whose value for an example depends on that example alone.

DP-SGD bounds what one example does to a gradient by clipping that example's own gradient. Where an example also appears
in the loss of others, as their negative or in their centroid, it moves their gradients as well, and the bound is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fl_privacy.errors import UserError


@dataclass(frozen=True)
class Loss:
    """A loss, and whether it is separable by example.

    Attributes
    ----------
    name : str
    by_example : callable
        Of (outputs of the network, targets): the loss of each example, (n,).
    mixes : str
        How an example enters the loss of another; empty for a loss that is separable.
    """

    name: str
    by_example: Callable[[Any, Any], Tensor]
    mixes: str = ""

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of each example.

        Raises
        ------
        UserError
            If there is not one number for each example.
        """
        losses = self.by_example(outputs, targets)
        if losses.ndim != 1:
            raise UserError(
                f"loss {self.name!r} has the shape {tuple(losses.shape)}, not one number for each example: "
                "let it reduce each example alone (reduction='none')"
            )
        return losses


def aam_softmax(margin: float = 0.2, scale: float = 30.0) -> Loss:
    """Make the additive angular margin softmax (Deng et al., arXiv 1801.07698) of cosines, (n, classes)."""

    def by_example(cosines: Tensor, targets: Tensor) -> Tensor:
        own = targets.unsqueeze(1)
        angle = torch.acos(cosines.gather(1, own).clamp(-1 + 1e-7, 1 - 1e-7))
        return functional.cross_entropy(
            scale * cosines.scatter(1, own, torch.cos(angle + margin)), targets, reduction="none"
        )

    return Loss("aam-softmax", by_example)


def _absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().flatten(1).mean(1)


def _first_of_own(scores: Tensor, targets: Any) -> Tensor:
    return -functional.log_softmax(scores, -1)[..., 0].flatten(1).mean(1)


def _mixed(outputs: Any, targets: Any) -> Tensor:
    raise NotImplementedError("no loss of a single example")


CROSS_ENTROPY = Loss(
    "cross-entropy", lambda logits, targets: functional.cross_entropy(logits, targets, reduction="none")
)
"""Of logits, (n, classes), and class numbers, (n,)."""

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        CROSS_ENTROPY,
        aam_softmax(),
        Loss("tera", _absolute),  # mean absolute error of the frames that were altered, (n, frames, features)
        Loss("cpc", _first_of_own),  # scores, (n, frames, candidates): the true one first, all from the same utterance
        Loss(
            "ge2e", _mixed, "each speaker's centroid is a mean over utterances, and every utterance is held against it"
        ),
        Loss("contrastive", _mixed, "its negatives are other utterances of the batch"),
    )
}
"""Losses by name, those that cannot be private among them."""


def private_loss(loss: str | Loss) -> Loss:
    """Return a loss that is separable by example.

    Parameters
    ----------
    loss : str or Loss
        A name in `LOSSES`, or a loss of your own.

    Raises
    ------
    UserError
        For a name that is unknown, and for a loss in which examples meet.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise UserError(
                f"unknown loss {loss!r}. Known: {', '.join(LOSSES)}, or give a fl_privacy.training.losses.Loss"
            )
        loss = LOSSES[loss]
    if loss.mixes:
        fit = ", ".join(name for name, known in LOSSES.items() if not known.mixes)
        raise UserError(
            f"loss {loss.name!r} cannot be private example by example: {loss.mixes}. "
            f"Clipping one example's gradient does not bound what it does to the others'; take one of {fit}"
        )
    return loss
