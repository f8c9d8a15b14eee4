from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_privacy.errors import UserError
from fl_privacy.models.ser import SERNet
from fl_privacy.training import (
    ClientData,
    batch_gradient,
    predict,
    read_client,
    read_federation,
    read_server,
    train_epochs,
    write_federation,
)


def problem(n: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, 6, generator=generator)
    return features, (features[:, 0] > 0).long()


def test_batch_gradient_of_a_large_batch_is_that_of_all_examples():
    features, labels = problem(8)
    model = nn.Linear(6, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradient, examples = batch_gradient(model, features, labels, batch_size=100)
    expected = torch.autograd.grad(functional.cross_entropy(model(features), labels), list(model.parameters()))
    assert examples == 8
    for found, wanted in zip(gradient.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_batches_are_drawn_without_replacement_and_differ():
    features = torch.eye(10)
    model = nn.Linear(10, 2)
    torch.manual_seed(0)
    seen = []
    for _ in range(20):
        gradient, examples = batch_gradient(model, features, torch.zeros(10, dtype=torch.long), 4)
        rows = tuple(gradient["weight"].abs().sum(0).nonzero().flatten().tolist())
        assert len(rows) == examples == 4
        seen.append(rows)
    assert len(set(seen)) > 10
    assert set().union(*seen) == set(range(10))


def test_dropout_is_on_in_training_and_off_in_prediction():
    features, labels = problem()
    model = SERNet(6, 2, dropout=0.5)
    torch.manual_seed(1)
    one, _ = batch_gradient(model, features, labels, 30)
    two, _ = batch_gradient(model, features, labels, 30)
    assert not torch.allclose(one["fc3.bias"], two["fc3.bias"])
    assert torch.equal(predict(model, features), predict(model, features))


def test_training_learns_and_the_hook_is_what_is_stepped_along():
    features, labels = problem()
    torch.manual_seed(0)
    model = SERNet(6, 2, dropout=0.0)
    settings = {"batch_size": 10, "learning_rate": 1e-2, "epochs": 30}
    train_epochs(model, features, labels, **settings)
    assert (predict(model, features) == labels).float().mean() > 0.95
    flat = SERNet(6, 2)
    before = [p.clone() for p in flat.parameters()]
    calls = []

    def ones(gradient):
        calls.append(set(gradient))
        return {name: torch.full_like(g, 1e3) for name, g in gradient.items()}

    train_epochs(flat, features, labels, batch_size=8, learning_rate=1e-3, epochs=3, hook=ones)
    assert calls == [{n for n, _ in flat.named_parameters()}] * 12
    for was, now in zip(before, flat.parameters(), strict=True):
        torch.testing.assert_close(now, was - 12 * 1e-3)  # Adam along a constant direction: a rate's worth a step


def make(folder, seed=0, clients=3):
    rng = np.random.default_rng(seed)

    def draw(n):
        return rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 2, n)

    made = [ClientData(*draw(5 + i), *draw(2), rng.integers(0, 2, 5 + i)) for i in range(clients)]
    test = draw(3)
    write_federation(folder, made, ("a", "b"), *test)
    return made, test


def test_shards_are_read_back(tmp_path):
    made, test = make(tmp_path / "f")
    facts = read_federation(tmp_path / "f")
    assert (facts.clients, facts.inputs, facts.classes) == (3, 4, ("a", "b"))
    for number, client in enumerate(made):
        found = read_client(str(tmp_path / "f"), number)
        for name, array in vars(client).items():
            np.testing.assert_array_equal(found[name].numpy(), array)
    np.testing.assert_array_equal(read_server(str(tmp_path / "f"))["test_features"].numpy(), test[0])


def test_shards_written_anew_are_read_anew(tmp_path):
    make(tmp_path / "f", seed=0)
    old = read_client(str(tmp_path / "f"), 0)["train_features"].clone(), read_server(str(tmp_path / "f"))
    made, test = make(tmp_path / "f", seed=1)
    assert old[0].shape == made[0].train_features.shape
    np.testing.assert_array_equal(read_client(str(tmp_path / "f"), 0)["train_features"], made[0].train_features)
    np.testing.assert_array_equal(read_server(str(tmp_path / "f"))["test_features"], test[0])


def test_missing_shards_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no federation's data"):
        read_federation(tmp_path)
    make(tmp_path / "f")
    with pytest.raises(UserError, match="no data for partition 3"):
        read_client(str(tmp_path / "f"), 3)
    (tmp_path / "f" / "federation.json").write_text("{")
    with pytest.raises(UserError, match="holds no federation's data"):
        read_federation(tmp_path / "f")
