"""The written-out pass of the SER network, against automatic differentiation and torch's own Adam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from fl_privacy.models.ser import SERNet
from fl_privacy.training import batch_gradient
from fl_privacy.training._steps import Steps
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel, seed_torch
from fl_privacy.training.participation import ClientSettings


def problem(inputs: int, n: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, inputs, generator=generator), torch.randint(classes, (n,), generator=generator)


def flat_of(network: nn.Module) -> Flat:
    flat = Flat({name: tuple(p.shape) for name, p in network.named_parameters()})
    flat.fill({name: p.detach().numpy() for name, p in network.named_parameters()})
    return flat


def seeded(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.sampled_from([1, 12, 37, 988]),
    classes=st.integers(2, 7),
    n=st.integers(1, 30),
    batch_size=st.integers(1, 25),
    dropout=st.sampled_from([0.0, 0.2, 0.6]),
)
def test_the_gradient_is_that_of_autograd_to_the_bit(inputs, classes, n, batch_size, dropout):
    seeded(n)
    network, (features, labels) = SERNet(inputs, classes, dropout), problem(inputs, n, classes)
    model, out = LocalModel(network), flat_of(network)
    out.whole.fill_(float("nan"))
    seeded(1)
    expected, examples = batch_gradient(network, features, labels, batch_size)
    # In between, other batches pass through the same memory.
    model.gradient(flat_of(network), features, labels, n, None, flat_of(network))
    seeded(1)
    assert model.gradient(flat_of(network), features, labels, batch_size, None, out) == examples
    assert list(out.tensors) == list(expected)
    for name, gradient in expected.items():
        assert torch.equal(out.tensors[name], gradient), name


@settings(max_examples=30, deadline=None)
@given(
    inputs=st.sampled_from([12, 37, 988]),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    batch_size=st.integers(1, 25),
    dropout=st.sampled_from([0.0, 0.3]),
)
def test_several_clients_together_are_the_same_to_the_bit(inputs, sizes, batch_size, dropout):
    network = SERNet(inputs, 4, dropout)
    model, theta = LocalModel(network), flat_of(network)
    clients = [(np.random.SeedSequence([3, i]), *problem(inputs, n)) for i, n in enumerate(sizes)]
    outs, alone = ([flat_of(network) for _ in sizes] for _ in range(2))
    for _ in range(2):  # the first time it is tried whether the library allows it
        for out in outs:
            for tensor in out.tensors.values():
                tensor.fill_(float("nan"))
        counts = model.gradients(theta, clients, batch_size, outs)
        assert counts == [min(n, batch_size) for n in sizes]
        for (seed, features, labels), out, expected in zip(clients, outs, alone, strict=True):
            seed_torch(seed)
            model.gradient(theta, features, labels, batch_size, None, expected)
            assert torch.equal(out.whole, expected.whole)


def test_where_the_library_rounds_otherwise_they_go_one_by_one(monkeypatch):
    """A library whose larger products differ in the last bit from its smaller ones."""
    network = SERNet(12, 4, 0.0)
    model, theta = LocalModel(network), flat_of(network)
    clients = [(np.random.SeedSequence([3, i]), *problem(12, 10)) for i in range(4)]
    outs, expected = ([flat_of(network) for _ in clients] for _ in range(2))
    for (seed, features, labels), out in zip(clients, expected, strict=True):
        seed_torch(seed)
        model.gradient(theta, features, labels, 10, None, out)
    exact = torch.addmm

    def rounded(bias, values, weights, *, out):
        exact(bias, values, weights, out=out)
        return out.mul_(1 + 1e-6 * (len(values) > 10))

    monkeypatch.setattr(torch, "addmm", rounded)
    for _ in range(2):
        model.gradients(theta, clients, 10, outs)
        assert all(torch.equal(out.whole, wanted.whole) for out, wanted in zip(outs, expected, strict=True))


def test_as_many_random_numbers_are_drawn_as_by_autograd():
    network, (features, labels) = SERNet(12, 4, 0.3), problem(12, 18)
    ends = []
    for draw in (
        lambda: batch_gradient(network, features, labels, 7),
        lambda: LocalModel(network).gradient(flat_of(network), features, labels, 7, None, flat_of(network)),
    ):
        seeded(2)
        draw()
        ends.append(torch.rand(4))
    assert torch.equal(*ends)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_is_adam_along_those_gradients(dropout):
    network, (features, labels) = SERNet(37, 4, dropout), problem(37, 45)
    theta, told = flat_of(network), ClientSettings(0, "fedavg", 20, 5e-4, 3)
    model = LocalModel(SERNet(37, 4, dropout))
    seeded(4)
    model.train(theta, features, labels, told, None)
    seeded(4)
    network.train()
    optimiser = torch.optim.Adam(
        network.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4, foreach=False
    )
    for _ in range(3):
        for batch in torch.split(torch.randperm(45), 20):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(features[batch]), labels[batch]).backward()
            optimiser.step()
    for name, parameter in network.named_parameters():  # a step has the size of the rate, 5e-4
        torch.testing.assert_close(theta.tensors[name], parameter.detach(), rtol=1e-6, atol=5e-8)


def test_a_hook_may_keep_and_change_what_it_is_given():
    network, (features, labels) = SERNet(12, 4, 0.0), problem(12, 9)
    kept = []

    def hook(gradient):
        kept.append(gradient)
        return {name: 2 * g for name, g in gradient.items()}

    model, out = LocalModel(network), [flat_of(network) for _ in range(2)]
    for flat in out:
        seeded(3)
        model.gradient(flat_of(network), features, labels, 9, hook, flat)
    seeded(3)
    plain, _ = batch_gradient(network, features, labels, 9)
    for name, gradient in plain.items():
        for flat, seen in zip(out, kept, strict=True):
            torch.testing.assert_close(flat.tensors[name], 2 * gradient)
            torch.testing.assert_close(seen[name], gradient)


def frozen(network):
    network.fc1.requires_grad_(False)


def without_bias(network):
    network.fc2.bias = None


def parametrised(network):
    parametrizations.weight_norm(network.fc2)


def double(network):
    network.double()


def watched(network):
    network.fc1.register_forward_hook(lambda module, inputs, output: 2 * output)


def grown(network):
    network.extra = nn.Linear(2, 2)


def other_dropout(network):
    network.dropout1 = nn.AlphaDropout(0.2)


class Child(SERNet):
    def forward(self, features):
        return -super().forward(features)


@pytest.mark.parametrize("change", [frozen, without_bias, parametrised, double, watched, grown, other_dropout])
def test_a_changed_network_is_left_to_autograd(change):
    assert Steps.of(SERNet(12)) is not None
    network = SERNet(12)
    change(network)
    assert Steps.of(network) is None


def test_other_networks_are_left_to_autograd():
    assert Steps.of(Child(12)) is None
    assert Steps.of(nn.Linear(3, 4)) is None
    network, (features, labels) = Child(12, 4, 0.3), problem(12, 9)
    out = flat_of(network)
    seeded(1)
    LocalModel(network).gradient(flat_of(network), features, labels, 5, None, out)
    seeded(1)
    expected, _ = batch_gradient(network, features, labels, 5)
    assert all(torch.equal(out.tensors[name], gradient) for name, gradient in expected.items())


def test_broken_values_are_found_wherever_they_are():
    flat = Flat({"a": (3,), "b": (2, 5)})
    assert flat.broken == []
    flat.arrays["b"][1, 2] = 1e30  # its square is too large, it is not
    assert flat.broken == []
    flat.arrays["b"][1, 2] = float("nan")
    assert flat.broken == ["b"]
    flat.arrays["a"][0] = float("-inf")
    assert flat.broken == ["a", "b"]


def test_arrays_of_another_shape_are_refused():
    flat = Flat({"a": (3,)})
    with pytest.raises(ValueError, match=r"a has shape \(1,\), the model's is \(3,\)"):
        flat.fill({"a": torch.ones(1).numpy()})
