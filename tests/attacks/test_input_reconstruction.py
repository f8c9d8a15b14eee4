from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from toy_federation import gradients, network

from fl_privacy.attacks import Auxiliary
from fl_privacy.attacks.attribute import InputReconstruction
from fl_privacy.errors import UserError
from fl_privacy.updates import Update


def update(arrays) -> Update:
    return Update(1, "0", "gradient", 1.0, arrays)


def reconstruct(arrays, **settings) -> np.ndarray:
    return InputReconstruction(**settings).reconstruct([update(arrays)])[0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    inputs=st.integers(1, 40),
    units=st.integers(2, 30),
    dropout=st.floats(0, 0.8),
    scale=st.floats(0.01, 100),
)
def test_one_example_is_recovered_exactly(seed, inputs, units, dropout, scale):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(dropout), nn.Linear(units, 8), nn.Tanh(), nn.Linear(8, 4)
    ).double()
    x = torch.randn(1, inputs, dtype=torch.float64) * scale
    functional.cross_entropy(model(x), torch.tensor([seed % 4])).backward()
    arrays = {n: p.grad.numpy().astype(np.float32) for n, p in model.named_parameters()}
    if not arrays["0.bias"].any():  # every unit dead or dropped: nothing of the input is in the gradient
        assert not reconstruct(arrays).any()
    else:
        np.testing.assert_allclose(reconstruct(arrays), x[0].numpy(), rtol=1e-3, atol=1e-3 * scale)


def test_a_batch_gives_a_weighted_mean_whose_weights_sum_to_one():
    """The weights are d_i . b / |b|^2, with d_i the signal that reaches the layer from example i."""
    rng, model = np.random.default_rng(0), network(0)
    x = torch.from_numpy(rng.normal(size=(6, 10)).astype(np.float32))
    reached = []
    model[0].register_full_backward_hook(lambda module, inward, outward: reached.append(outward[0].numpy()))
    functional.cross_entropy(model(x.requires_grad_()), torch.tensor([0, 1, 2, 3, 0, 1])).backward()
    signals = reached[0]
    bias = signals.sum(axis=0)
    weights = signals @ bias / (bias @ bias)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    arrays = {n: p.grad.numpy() for n, p in model.named_parameters()}
    np.testing.assert_allclose(reconstruct(arrays), weights @ x.detach().numpy(), atol=1e-4)


def test_shifting_all_inputs_shifts_the_reconstruction():
    """What "weights sum to one" means to a user: a constant microphone colour comes out as it is."""
    rng = np.random.default_rng(1)
    signals, x = rng.normal(size=(8, 5)), rng.normal(size=(8, 3))

    def of(inputs):
        weight, bias = signals.T @ inputs, signals.sum(axis=0)
        return reconstruct({"w.weight": weight.astype(np.float32), "w.bias": bias.astype(np.float32)})

    np.testing.assert_allclose(of(x + np.array([5, -2, 1])) - of(x), [5, -2, 1], atol=1e-4)


def test_transposed_and_square_layouts():
    x, model = np.arange(1, 11, dtype=np.float32)[None], network(3)
    model.eval()
    arrays = gradients(model, x, np.array([1]))
    keras = {"dense/kernel": arrays["0.weight"].T, "dense/bias": arrays["0.bias"]}
    np.testing.assert_allclose(reconstruct(keras), x[0], rtol=1e-4)
    torch.manual_seed(0)
    square = nn.Linear(10, 10)
    functional.cross_entropy(square(torch.from_numpy(x)), torch.tensor([1])).backward()
    np.testing.assert_allclose(
        reconstruct({"fc.weight": square.weight.grad.numpy(), "fc.bias": square.bias.grad.numpy()}), x[0], rtol=1e-4
    )


def test_a_layer_without_bias_behind_which_a_norm_stands_is_refused_not_misread():
    model = nn.Sequential(nn.Linear(10, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    arrays = gradients(model, np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32), np.arange(6) % 4)
    with pytest.raises(UserError, match="needs the bias"):
        reconstruct(arrays)


@pytest.mark.parametrize("scale", [1e-24, 1e-8, 1.0, 1e12, -0.1])
def test_the_scale_and_sign_of_an_update_do_not_matter(scale):
    """A well-trained model's gradients are tiny; a delta is minus a rate times a gradient."""
    arrays = gradients(network(0), np.ones((1, 10), np.float32), np.array([2]))
    scaled = {n: (a * scale).astype(np.float32) for n, a in arrays.items()}
    np.testing.assert_allclose(reconstruct(scaled), np.ones(10), rtol=1e-3)


def test_an_update_of_zeros_gives_zeros():
    assert not reconstruct({"w.weight": np.zeros((3, 2), np.float32), "w.bias": np.zeros(3, np.float32)}).any()


def test_several_layers_stand_side_by_side():
    arrays = gradients(network(0), np.ones((1, 10), np.float32), np.array([2]))
    both = reconstruct(arrays, layers=["first", "last"])
    assert both.shape == (10 + 16,)
    np.testing.assert_array_equal(both[:10], reconstruct(arrays))
    np.testing.assert_array_equal(both[10:], reconstruct(arrays, layers=["3"]))


def test_standardised_by_the_attackers_own_updates_alone():
    rng, model = np.random.default_rng(0), network(0)
    own = [update(gradients(model, rng.normal(size=(5, 10)).astype(np.float32), np.arange(5) % 4)) for _ in range(30)]
    attack = InputReconstruction()
    represented = attack.fit_transform(own, Auxiliary(("a",) * 30, ("f", "m")))
    np.testing.assert_allclose(represented.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(represented.std(axis=0), 1, atol=1e-9)
    before = attack.mean_.copy()
    np.testing.assert_array_equal(attack.transform(own), represented)
    attack.transform(own[:3])
    np.testing.assert_array_equal(attack.mean_, before)
    np.testing.assert_array_equal(attack.transform(own[:3]), represented[:3])


@pytest.mark.parametrize("wrong", [{"C": 0}, {"C": -1.0}, {"C": float("nan")}, {"layers": []}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError):
        InputReconstruction(**wrong)


def test_nothing_to_attack_is_refused():
    with pytest.raises(UserError, match="no update"):
        InputReconstruction().reconstruct([])
