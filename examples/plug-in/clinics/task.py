"""The model, the patients, and how they are dealt out to practices."""

from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PRACTICES = 24
"""On each side; half of them treat patients of one sex, half of the other."""
PATIENTS = 8
"""Of each practice."""

# Round numbers near what is usual for diabetes patients, the same for everyone: (centre, scale). `sex` is no input.
INPUTS = {
    "age": (50.0, 13.0),
    "bmi": (26.0, 4.5),
    "bp": (95.0, 14.0),
    "s1": (190.0, 35.0),
    "s2": (115.0, 30.0),
    "s3": (50.0, 13.0),
    "s4": (4.0, 1.3),
    "s5": (4.6, 0.5),
    "s6": (90.0, 11.0),
}
PROGRESSION = (150.0, 75.0)


class Net(nn.Module):
    """A small regression network."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(len(INPUTS), 16)
        self.fc2 = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the standardised progression, shape (n,)."""
        return self.fc2(torch.relu(self.fc1(x))).squeeze(-1)


class Practice(NamedTuple):
    """The patients of one practice."""

    x: torch.Tensor
    y: torch.Tensor
    sex: str  # "1" or "2", as the data set codes it


class People(NamedTuple):
    """Every patient, dealt out: no patient is in two places."""

    victim: tuple[Practice, ...]
    shadow: tuple[Practice, ...]
    held_out: Practice  # in neither federation, of both sexes: to test the model on


@lru_cache
def deal_out(seed: int) -> People:
    """Shuffle the patients and deal them out to the practices of both sides."""
    table = load_diabetes(scaled=False)
    columns = {name: table.data[:, i] for i, name in enumerate(table.feature_names)}
    inputs = np.stack([(columns[name] - centre) / scale for name, (centre, scale) in INPUTS.items()], axis=1)
    x = torch.tensor(inputs, dtype=torch.float32)
    y = torch.tensor((table.target - PROGRESSION[0]) / PROGRESSION[1], dtype=torch.float32)

    rng = np.random.default_rng(seed)
    waiting = {sex: rng.permutation(np.flatnonzero(columns["sex"] == sex)).tolist() for sex in (1, 2)}

    def practice(sex: int) -> Practice:
        chosen = [waiting[sex].pop() for _ in range(PATIENTS)]
        return Practice(x[chosen], y[chosen], str(sex))

    def side() -> tuple[Practice, ...]:
        # In random order, so that a practice's number says nothing.
        return tuple(practice(sex) for sex in rng.permutation([1, 2] * (PRACTICES // 2)).tolist())

    victim, shadow = side(), side()
    left = waiting[1] + waiting[2]
    return People(victim, shadow, Practice(x[left], y[left], "both"))


def load_data(people: str, seed: int, partition_id: int, batch_size: int) -> DataLoader:
    """Load one practice's patients; `people` is "victim" or "shadow"."""
    practice = getattr(deal_out(seed), people)[partition_id]
    return DataLoader(TensorDataset(practice.x, practice.y), batch_size=batch_size, shuffle=True)


def train(net: Net, loader: DataLoader, epochs: int, lr: float) -> float:
    """Train the model on a practice's patients; return the mean loss."""
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    losses = []
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def test(state_dict: OrderedDict[str, torch.Tensor], seed: int) -> float:
    """Return R squared on the patients of neither federation."""
    net = Net()
    net.load_state_dict(state_dict)
    net.eval()
    patients = deal_out(seed).held_out
    with torch.no_grad():
        residual = nn.functional.mse_loss(net(patients.x), patients.y)
    return 1.0 - (residual / patients.y.var(unbiased=False)).item()
