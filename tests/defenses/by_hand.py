"""One client's work by `local_update`, on numbers that a test can redo."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fl_privacy.defenses import make_defenses
from fl_privacy.models.ser import SERNet
from fl_privacy.training.client import Answer, local_update
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel, initial_network
from fl_privacy.training.participation import ClientSettings, Participation

INPUTS, CLASSES = 6, 3
SGD = ClientSettings(5, "fedsgd", 8, 0.1, 1, participations=3)
AVG = ClientSettings(5, "fedavg", 8, 5e-3, 2, participations=3)


def participation(settings: ClientSettings = SGD, seed: int = 0, examples: int = 20, **more: Any) -> Participation:
    """A client that is asked for nothing but its hooks."""
    private = torch.full((examples,), -1)
    fields = {"server_round": 1, "partition": 0, "examples": examples, "private": private, "memory": {}}
    return Participation(settings, rng=np.random.default_rng(seed), **{**fields, **more})


def features_of(client: int, examples: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(client)
    x = torch.randn(examples, INPUTS, generator=generator)
    return x, torch.randint(0, CLASSES, (examples,), generator=generator)


class Work:
    """A client that answers, with its own memory, from the weights of one start."""

    def __init__(self, *entries: dict[str, Any], settings: ClientSettings = SGD, dropout: float = 0.3) -> None:
        self.entries, self.settings = list(entries), settings
        network = initial_network(INPUTS, CLASSES, dropout, make_defenses(self.entries), 1)
        self.model = LocalModel(network)
        self.start = Flat(self.model.shapes)
        self.start.fill({name: p.detach().numpy().copy() for name, p in network.named_parameters()})
        self.memories: dict[int, dict[str, Any]] = {}
        self.examples = 0

    def answer(self, client: int = 0, server_round: int = 1, sent: Flat | None = None, **more: Any) -> dict:
        sent, out = sent or self.start, Flat(self.model.shapes)
        given: Answer = local_update(
            self.model,
            sent,
            *more.pop("data", features_of(client)),
            self.settings,
            server_round=server_round,
            partition=client,
            out=out,
            defenses=make_defenses(self.entries),
            memory=self.memories.setdefault(client, {}),
            **more,
        )
        self.examples, self.kind = given.examples, given.kind
        return {name: array.copy() for name, array in out.arrays.items()}

    def update(self, *args: Any, **more: Any) -> dict:
        """What left the client: the gradient, or the difference between the weights and those it was sent."""
        sent = more.get("sent") or self.start
        arrays = self.answer(*args, **more)
        if self.kind == "gradient":
            return arrays
        return {name: array - sent.arrays[name] for name, array in arrays.items()}


def flat(arrays: dict) -> np.ndarray:
    return np.concatenate([np.asarray(a).ravel() for a in arrays.values()])


def plain_network(dropout: float = 0.3) -> SERNet:
    torch.manual_seed(0)
    return SERNet(INPUTS, CLASSES, dropout)
