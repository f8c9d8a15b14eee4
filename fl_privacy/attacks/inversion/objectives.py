"""What an inversion makes small: costs of scores for an identity, one for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from fl_privacy.errors import UserError

Objective = Callable[[Tensor, Tensor], Tensor]
"""Of scores before the softmax (n, classes) and identities (n,): costs (n,)."""


def miss(logits: Tensor, identities: Tensor) -> Tensor:
    """Return one minus the identities' probabilities, exact also where they are close to one.

    The objective of the published attack (Pizzi et al. 2023, arXiv 2301.03206). Its gradient is proportional to the
    probability itself: from a start that the classifier gives to others, it hardly moves.
    """
    return -torch.expm1(-cross_entropy(logits, identities))


def cross_entropy(logits: Tensor, identities: Tensor) -> Tensor:
    """Return minus the logarithms of the identities' probabilities."""
    return -torch.log_softmax(logits, dim=1).gather(1, identities[:, None])[:, 0]


def margin(logits: Tensor, identities: Tensor) -> Tensor:
    """Return by how much the best other score exceeds the identities' own: below 0 where they win.

    Scores before the softmax do not saturate (Nguyen et al. 2023, arXiv 2304.01669; Yuan et al. 2023, arXiv
    2302.09814).
    """
    own = identities[:, None]
    others = logits.scatter(1, own, float("-inf")).amax(dim=1)
    return others - logits.gather(1, own)[:, 0]


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {"cross-entropy": cross_entropy, "one-minus-p": miss, "margin": margin}
)
"""The objectives by name; "one-minus-p" is the published one."""


def objective(name: str) -> Objective:
    """Return an objective by name.

    Raises
    ------
    UserError
        If there is none.
    """
    if name not in OBJECTIVES:
        raise UserError(f"unknown objective {name!r}. Known: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
