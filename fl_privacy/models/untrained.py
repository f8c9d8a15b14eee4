"""An encoder of somebody's own with weights drawn anew: what an attack finds there is not membership."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy.errors import UserError

HOOK = "untrained"
"""Attribute of an encoder: a function of a seed that returns the same kind of encoder, never trained."""


def untrained_like(encoder: Callable[..., Any], seed: int, who: str) -> Callable[..., Any]:
    """Make what a function of a wave would be had its network never been trained.

    Parameters
    ----------
    encoder : callable
        With an attribute `HOOK`: what that returns. A torch module, or a method of one: a copy whose layers start anew
        by their own ``reset_parameters``, from torch's global generator.
    seed : int
        For the hook.
    who : str
        Stands first in messages.

    Raises
    ------
    UserError
        Where there is no such way, or a layer keeps arrays of its training.
    """
    made = getattr(encoder, HOOK, None)
    if callable(made):
        found: Callable[..., Any] = made(seed)
        if not callable(found):
            raise UserError(f"{who}: its {HOOK}({seed}) is a {type(found).__name__}, no function of a wave")
        return found
    if isinstance(encoder, nn.Module):
        return started_anew(encoder, who)
    owner = getattr(encoder, "__self__", None)
    if isinstance(owner, nn.Module):
        method: Callable[..., Any] = getattr(started_anew(owner, who), encoder.__name__)
        return method
    raise UserError(
        f"{who}: there is no network of its kind that was never trained: it is no torch module and has no attribute "
        f"`{HOOK}`, a function of a seed that makes one"
    )


def started_anew(module: nn.Module, who: str) -> nn.Module:
    """Return a copy of a module whose layers have all started anew; buffers that no layer starts stay as they are.

    Raises
    ------
    UserError
        Where that leaves weights as they were.
    """
    try:
        made = copy.deepcopy(module)
    except Exception as error:  # what cannot be copied fails in many ways
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{who}: no network of its kind that was never trained can be made of it: it cannot be copied ({first}); "
            f"give it an attribute `{HOOK}`, a function of a seed that makes one"
        ) from error
    with torch.no_grad():
        for place, layer in made.named_modules():
            start = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            own = list(layer.named_parameters(recurse=False))
            before = [tensor.clone() for _, tensor in own]
            if callable(start):
                start()
            for (name, tensor), old in zip(own, before, strict=True):
                if torch.equal(tensor, old) and not (callable(start) and _flat(tensor)):
                    raise UserError(
                        f"{who}: no network of its kind that was never trained can be made of it: "
                        f"{'.'.join(filter(None, (place, name)))} keeps its weights, for want of a reset_parameters; "
                        f"give the encoder an attribute `{HOOK}`, a function of a seed that makes one"
                    )
    return made


def _flat(tensor: Tensor) -> bool:
    """Whether all entries are the same, as those of a normalisation are before training."""
    return bool((tensor == tensor.flatten()[:1]).all())
