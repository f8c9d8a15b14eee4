"""Files of weights: read with no code run, and held against the network that they are for."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy.errors import UserError


def open_checkpoint(path: Path, who: str, error: type[UserError] = UserError) -> BufferedReader:
    """Open a file of weights.

    Parameters
    ----------
    path : Path
    who : str
        Stands first in messages.
    error : type of UserError
        What to raise.

    Raises
    ------
    UserError
        If it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as wrong:
        raise error(
            f"{who}: the checkpoint {path} cannot be read ({wrong.strerror}); "
            "give the path of a file: nothing is downloaded"
        ) from wrong


def digest_of(path: Path, who: str, error: type[UserError] = UserError) -> str:
    """Return the SHA-256 of a file of weights, in hexadecimal."""
    with open_checkpoint(path, who, error) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(path: Path, who: str, error: type[UserError] = UserError, digest: str | None = None) -> Any:
    """Return what ``torch.save`` wrote, as long as it is tensors and plain values: no code of the file is run.

    Parameters
    ----------
    path : Path
    who : str
        Stands first in messages.
    error : type of UserError
        What to raise.
    digest : str, optional
        What `digest_of` said of it before.

    Raises
    ------
    UserError
        If it cannot be read, is something else, or has another digest.
    """
    with open_checkpoint(path, who, error) as file:
        if digest is not None and hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise error(f"{who}: the checkpoint {path} was changed while in use; start again")
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as wrong:  # what a file that is no checkpoint makes of it has many types
            raise error(
                f"{who}: the checkpoint {path} is no state dict: give what "
                f"torch.save(model.state_dict(), path) writes ({_fault(file)})"
            ) from wrong


def _fault(file: BufferedReader) -> str:
    """Say why torch did not read a file; torch's own words recommend to run the code in it."""
    file.seek(0)
    start = file.read(2)
    if not start:
        return "it is empty"
    if zipfile.is_zipfile(file):
        return "it holds objects, such as a whole model, that could run code when they are read"
    return "it was cut off" if start == b"PK" else "it is no such file, or holds objects that could run code"


def write_checkpoint(path: Path, content: Any) -> None:
    """Write tensors and plain values whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        torch.save(content, file)
    os.replace(temporary, path)


def first_difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Say where named arrays first differ from those that a network has, or None where they fit.

    Parameters
    ----------
    wanted : mapping of str to Tensor
        The network's, in its order.
    found : mapping of str to Tensor
        The file's.
    """
    for name, tensor in wanted.items():
        if name not in found:
            lacking = sum(other not in found for other in wanted)
            return f"it lacks {_arrays(lacking)}, such as {name}"
        if found[name].shape != tensor.shape:
            return f"{name}: of shape {list(found[name].shape)} in the file, of {list(tensor.shape)} in the model"
    if surplus := [name for name in found if name not in wanted]:
        return f"it has, beyond the model, {_arrays(len(surplus))}, such as {surplus[0]}"
    return None


def _arrays(count: int) -> str:
    return "1 array" if count == 1 else f"{count} arrays"


def load_weights(
    module: nn.Module, found: Mapping[str, Tensor], whose: str, error: type[UserError] = UserError
) -> None:
    """Give a module the weights of a file, in single precision.

    Parameters
    ----------
    module : Module
        It may be without memory (on torch's "meta" device).
    found : mapping of str to Tensor
    whose : str
        Which file and which model, for the message.
    error : type of UserError

    Raises
    ------
    UserError
        Naming the first array that differs.
    """
    wanted = module.state_dict()
    state = {_name(name, wanted): value for name, value in found.items()}
    if difference := first_difference(wanted, state):
        raise error(f"{whose}: {difference}")
    module.load_state_dict(state, assign=True)
    module.float()


def _name(name: str, wanted: Mapping[str, Tensor]) -> str:
    """Return a name as the model has it: weight normalisation has one set of names in older torch and one in newer."""
    for old, new in (
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
    ):
        for one, other in ((old, new), (new, old)):
            if name not in wanted and name.endswith(f".{one}"):
                changed = name.removesuffix(one) + other
                if changed in wanted:
                    return changed
    return name
