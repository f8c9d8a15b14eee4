"""Each client's examples on disk: one safetensors file a client, so that a client reads its own and no other.

Layout of a federation's folder::

    federation.json              number of clients, of features, class names
    client-00000.safetensors     train_features, train_labels, validation_features, validation_labels, and where it is
                                 known train_private
    server.safetensors           the same of the held-out speakers (test_features, test_labels)
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl_privacy.errors import UserError


@dataclass(frozen=True)
class ClientData:
    """One client's examples.

    Attributes
    ----------
    train_features, validation_features : ndarray, (n, d), float32
    train_labels, validation_labels : ndarray, (n,), int64
    train_private : ndarray, (n,), int64, optional
        Class number of the private attribute, which clients know of themselves: for defenses that train against it.
    """

    train_features: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    validation_features: NDArray[np.float32]
    validation_labels: NDArray[np.int64]
    train_private: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Federation:
    """What a server knows of the data: counts, never examples of clients."""

    clients: int
    inputs: int
    classes: tuple[str, ...]


def write_federation(
    folder: Path,
    clients: Sequence[ClientData],
    classes: Sequence[str],
    test_features: NDArray[np.float32],
    test_labels: NDArray[np.int64],
) -> None:
    """Write a federation's data; `test_*` are the held-out speakers' examples (possibly none)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, client in enumerate(clients):
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array))
            for name, array in vars(client).items()
            if array is not None
        }
        save_file(tensors, folder / _client_file(number))
    test = {"test_features": torch.from_numpy(test_features), "test_labels": torch.from_numpy(test_labels)}
    save_file(test, folder / "server.safetensors")
    facts = {"clients": len(clients), "inputs": int(clients[0].train_features.shape[1]), "classes": list(classes)}
    (folder / "federation.json").write_text(json.dumps(facts), encoding="utf-8")


def read_federation(folder: str | Path) -> Federation:
    """Read the facts of a federation's folder."""
    path = Path(folder) / "federation.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no federation's data ({error})") from error
    return Federation(facts["clients"], facts["inputs"], tuple(facts["classes"]))


def read_client(folder: str | Path, number: int) -> dict[str, Tensor]:
    """Read one client's tensors: once a process, unless the file changes."""
    path = Path(folder) / _client_file(number)
    if not path.exists():
        raise UserError(f"{folder} has no data for partition {number}")
    return _read(path)


def read_server(folder: str | Path) -> dict[str, Tensor]:
    """Read the held-out speakers' tensors."""
    return _read(Path(folder) / "server.safetensors")


def _read(path: Path) -> dict[str, Tensor]:
    status = path.stat()
    return _loaded(str(path), status.st_ino, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=512)
def _loaded(path: str, *_version: int) -> dict[str, Tensor]:
    return load_file(path)


def _client_file(number: int) -> str:
    return f"client-{number:05d}.safetensors"
