"""Our own self-supervised models by name, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fl_privacy._randomness import own_randomness
from fl_privacy.errors import UserError
from fl_privacy.models import cpc, tera
from fl_privacy.models.checkpoints import load_weights, read_checkpoint, write_checkpoint

Module = tera.TERA | cpc.CPC

IN_REPO = ("tera", "cpc")


def make_module(kind: str, size: Any = "small") -> Module:
    """Make a TERA or a CPC; initial weights come from torch's global generator.

    Parameters
    ----------
    kind : {"tera", "cpc"}
    size : str, TERASize or CPCSize
        "small", "published", or one of one's own.

    Raises
    ------
    UserError
        For another kind or size.
    """
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "tera": (tera.TERA, tera.TERASize, {"small": tera.SMALL, "published": tera.PUBLISHED}),
        "cpc": (cpc.CPC, cpc.CPCSize, {"small": cpc.SMALL, "published": cpc.PUBLISHED}),
    }
    if kind not in kinds:
        raise UserError(f"unknown self-supervised model {kind!r}. Known: {', '.join(kinds)}")
    make, own, sizes = kinds[kind]
    chosen = sizes.get(size) if isinstance(size, str) else own(**size) if isinstance(size, Mapping) else size
    if not isinstance(chosen, own):
        raise UserError(f"{kind}: size is {size!r}. Known: {', '.join(sizes)}, or a {own.__name__}")
    made: Module = make(chosen)
    return made


def untrained_module(kind: str, seed: int, size: Any = "small") -> Module:
    """Make a TERA or CPC with the initial weights of a seed, in evaluation mode; see `make_module`."""
    with own_randomness("untrained frame encoder", kind, seed):
        return make_module(kind, size).eval()


def save_module(module: Module, path: Path) -> None:
    """Write a TERA or CPC with its pre-training head, its sizes and its record, whole or not at all."""
    content = {"format": 1, "model": module.kind, "size": module.sizes, "record": module.record}
    write_checkpoint(path, {**content, "state": module.state_dict()})


def load_module(path: Path, kind: str | None = None) -> Module:
    """Read what `save_module` wrote; no code of the file is run.

    Parameters
    ----------
    path : Path
    kind : {"tera", "cpc"}, optional
        Which it must be.

    Raises
    ------
    UserError
        If it is something else, naming what differs.
    """
    who = f"frame encoder {kind or 'of ours'}"
    held = read_checkpoint(path, who)
    if isinstance(held, Mapping) and "pretraining" in held:
        raise UserError(
            f"{who}: {path} is a pre-training under way (step {held.get('step')}): give what it ends in, the file of "
            "save_module"
        )
    if not isinstance(held, Mapping) or held.get("format") != 1 or "state" not in held or "model" not in held:
        first = f"its first key is {next(iter(held), None)!r}" if isinstance(held, Mapping) else "it holds no table"
        raise UserError(
            f"{who}: {path} was not written by fl_privacy.training.pretraining ({first}): "
            "give such a file, or the architecture that it is of"
        )
    if kind is not None and held["model"] != kind:
        raise UserError(f"{who}: {path} holds a {held['model']}; give architecture = {held['model']!r}")
    with torch.device("meta"):
        module = make_module(held["model"], held["size"])
    if lacking := [name for name in module.state_dict() if name not in held["state"] and name.startswith(module.heads)]:
        raise UserError(
            f"{who}: {path} lacks the head of its pre-training ({lacking[0]}, {len(lacking)} arrays in all), without "
            "which there is no pre-training loss: give the whole file that save_module wrote"
        )
    load_weights(module, held["state"], f"{who}: {path} does not fit its own sizes")
    module.record = dict(held["record"])
    return module.eval()
