"""A federation in the published code's pattern of work: everything anew for each client.

A deep copy of the model, a data set read item by item, a loader, an optimiser, and copies of the state, for each client
in each round (Feng et al., arXiv 2112.13416, public code). The same clients, batches and dropout as everywhere.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from fl_privacy.training import read_client, read_federation
from fl_privacy.training.federation import FederationPlan
from fl_privacy.training.local_model import initial_network, seed_torch
from fl_privacy.updates import ThreatModel, UpdateStore
from fl_privacy.updates.store import Reply


class _Items(Dataset[Any]):
    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        return self.features[item], self.labels[item]


def rebuild(plan: FederationPlan, store: UpdateStore, threat_model: ThreatModel) -> None:
    """Run and capture a federation as `fl_privacy.training.federation.federate` does, everything anew each time."""
    torch.set_num_threads(1)
    facts, fedsgd = read_federation(plan.data), plan.client.algorithm == "fedsgd"
    model = initial_network(facts.inputs, len(facts.classes), plan.dropout, (), plan.client.seed)
    store.begin(threat_model)
    for server_round in range(1, plan.rounds + 1):
        sent = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
        replies, answers = [], []
        for client in plan.sample(server_round, "configure_train", facts.clients, plan.clients_per_round):
            answer, examples = _client(plan, copy.deepcopy(model), server_round, client)
            answers.append((answer, examples))
            arrays = {name: tensor.numpy() for name, tensor in answer.items()}
            replies.append(Reply(str(client), 0, arrays, "gradient" if fedsgd else "delta", float(examples)))
        store.append(server_round, [sent], replies, [plan.told(server_round)])
        total = sum(examples for _, examples in answers)
        mean: dict[str, Any] = {}
        for answer, examples in answers:
            for name, tensor in answer.items():
                mean[name] = mean.get(name, 0.0) + tensor * (examples / total)
        if fedsgd:
            mean = {name: torch.from_numpy(sent[name]) - plan.client.learning_rate * mean[name] for name in sent}
        model.load_state_dict(mean)
    store.close()


def _client(plan: FederationPlan, model: nn.Module, server_round: int, client: int) -> tuple[dict[str, Tensor], int]:
    settings, data = plan.client, read_client(plan.data, client)
    seed_torch(np.random.SeedSequence([settings.seed, server_round, client]))
    items = _Items(data["train_features"], data["train_labels"])
    optimiser = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4
    )
    model.train()
    for _ in range(settings.local_epochs):
        # The order is drawn here, and the loader's own numbers from elsewhere: the others draw none.
        order: Any = torch.randperm(len(items)).tolist()
        loader = DataLoader(items, plan.client.batch_size, sampler=order, generator=torch.Generator())
        for features, labels in loader:
            model.zero_grad()
            functional.cross_entropy(model(features), labels).backward()  # type: ignore[no-untyped-call]
            if settings.algorithm == "fedsgd":
                return {
                    name: copy.deepcopy(p.grad.detach()) for name, p in model.named_parameters() if p.grad is not None
                }, len(labels)
            optimiser.step()
    return copy.deepcopy(model.state_dict()), len(items) * settings.local_epochs
