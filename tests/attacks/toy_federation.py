"""Stores of real gradients of a small network, with a voice that may or may not tell the sex."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fl_privacy.updates import Labels, ThreatModel, UpdateStore
from fl_privacy.updates.store import Reply


def network(seed: int, inputs: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))


def gradients(model: nn.Module, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    model.zero_grad()
    functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters()}


def federation(
    folder: Path, seed: int, *, effect: float, speakers: int = 12, rounds: int = 3, name: str = "s", inputs: int = 10
) -> tuple[UpdateStore, Labels]:
    """Every speaker sends one gradient of ten examples a round; `effect` moves the voices of one sex."""
    rng, model = np.random.default_rng(seed), network(seed, inputs)
    male = rng.permutation(speakers) % 2 == 0
    voice = rng.normal(size=(speakers, inputs)) * 0.3 + effect * male[:, None] * np.linspace(-1, 1, inputs)
    store = UpdateStore(folder)
    store.begin(ThreatModel())
    zeros = {n: np.zeros(p.shape, np.float32) for n, p in model.named_parameters()}
    for number in range(1, rounds + 1):
        replies = []
        for s in range(speakers):
            x = (voice[s] + rng.normal(size=(10, inputs))).astype(np.float32)
            replies.append(Reply(str(s), 0, gradients(model, x, rng.integers(0, 4, 10)), "gradient", 10.0))
        store.append(number, [zeros], replies)
    store.close()
    rows = {
        str(s): {"speaker": f"{name}{s}", "gender": "male" if male[s] else "female", "examples": "10"}
        for s in range(speakers)
    }
    return UpdateStore(folder), Labels(rows)
