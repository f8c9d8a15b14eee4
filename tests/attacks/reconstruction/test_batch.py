from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_privacy.attacks.reconstruction import batch_inputs
from fl_privacy.attacks.reconstruction._sparse import Rows
from fl_privacy.attacks.reconstruction.span import find_span
from fl_privacy.models.ser import SERNet


def real(seed: int, examples: int, *, inputs: int = 200, dropout: float = 0.2, sure: float = 0.0):
    """Gradient of the SER network's first layer, the inputs and the signals (by autograd's hook).

    `sure` scales the last layer, so that the losses of most examples all but vanish.
    """
    torch.manual_seed(seed)
    model = SERNet(inputs, 4, dropout)
    with torch.no_grad():
        model.fc3.weight *= 1 + sure
    x = torch.randn(examples, inputs)
    labels = model.eval()(x).argmax(1) if sure else torch.arange(examples) % 4
    model.train()
    reached: list[np.ndarray] = []
    model.fc1.register_full_backward_hook(lambda module, inward, outward: reached.append(outward[0].double().numpy()))
    functional.cross_entropy(model(x.requires_grad_()), labels).backward()
    return model.fc1.weight.grad.numpy(), model.fc1.bias.grad.numpy(), x.detach().double().numpy(), reached[0]


def matched(batch, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each recovered input: the number of the nearest true one, and the relative error."""
    distance = np.linalg.norm(batch.inputs[:, None] - x[None], axis=2) / np.linalg.norm(x, axis=1)
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.mark.parametrize(("examples", "seed"), [(1, 0), (2, 1), (3, 2), (7, 3), (20, 4), (20, 5)])
def test_every_input_of_a_batch_and_its_signal_come_back(examples, seed):
    weight, bias, x, signals = real(seed, examples)
    batch = batch_inputs(weight, bias)
    which, error = matched(batch, x)
    assert sorted(which) == list(range(examples))
    assert error.max() < 1e-4
    assert (error < batch.error).mean() > 0.9  # it says how good it is
    np.testing.assert_allclose(batch.signals, signals[which], atol=1e-5 * np.abs(signals).max())
    np.testing.assert_array_equal(batch.zeros, (signals[which] == 0).sum(axis=1))
    size = np.linalg.norm(batch.signals, axis=1)
    assert (np.diff(size) <= 0).all()  # largest signal first


def test_without_dropout_there_are_zeros_enough():
    weight, bias, x, _ = real(6, 12, dropout=0.0)
    batch = batch_inputs(weight, bias)
    which, error = matched(batch, x)
    assert len(set(which)) == 12
    assert error.max() < 1e-4


def test_examples_that_the_model_knows_already_are_found_down_to_rounding():
    """Their signals are thousands of times weaker: late rounds."""
    weight, bias, x, signals = real(7, 20, sure=50.0)
    size = np.linalg.norm(signals, axis=1)
    assert (size < 1e-2 * size.max()).sum() >= 5  # the case is what it should be
    batch = batch_inputs(weight, bias, examples=20)
    which, error = matched(batch, x)
    found = set(which[error < 1e-2].tolist())
    assert found >= set(np.flatnonzero(size > 1e-5 * size.max()).tolist())


@pytest.mark.parametrize("seed", range(7, 11))
def test_where_most_signals_are_rounding_what_is_returned_is_right(seed):
    weight, bias, x, signals = real(seed, 16, sure=150.0)
    size = np.linalg.norm(signals, axis=1)
    assert (size < 1e-9 * size.max()).sum() >= 2
    batch = batch_inputs(weight, bias, examples=16)
    assert (matched(batch, x)[1] < 0.2).all()


@pytest.mark.parametrize("scale", [1e-25, -0.1, 1e9])
def test_scale_and_sign_do_not_matter(scale):
    weight, bias, x, _ = real(8, 10)
    batch = batch_inputs((weight * np.float32(scale)).astype(np.float32), (bias * np.float32(scale)).astype(np.float32))
    which, error = matched(batch, x)
    assert len(set(which)) == 10
    assert error.max() < 1e-3


def test_the_same_update_gives_the_same_bytes():
    weight, bias, _, _ = real(9, 10)
    one, two = batch_inputs(weight, bias), batch_inputs(weight, bias)
    assert one.inputs.tobytes() == two.inputs.tobytes()


def test_signals_without_zeros_give_nothing():
    """Nothing tells an input of a tanh network from a combination; so none is claimed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 128), nn.Tanh(), nn.Linear(128, 4))
    functional.cross_entropy(model(torch.randn(8, 50)), torch.arange(8) % 4).backward()
    batch = batch_inputs(model[0].weight.grad.numpy(), model[0].bias.grad.numpy())
    assert batch.rank == 8
    assert batch.inputs.shape == (0, 50)


def test_noise_gives_nothing():
    rng = np.random.default_rng(0)
    for _ in range(3):
        columns, inputs = rng.normal(size=(128, 10)), rng.normal(size=(10, 60))
        batch = batch_inputs((columns @ inputs).astype(np.float32), columns.sum(axis=1).astype(np.float32))
        assert len(batch.inputs) == 0


@pytest.mark.parametrize("examples", [40, 60])
def test_a_batch_too_large_for_the_layer_gives_nothing_wrong(examples):
    weight, bias, x, _ = real(10, examples)
    layer = slice(0, 48)
    batch = batch_inputs(weight[layer], bias[layer], effort=3)
    assert len(batch.inputs) == 0 or matched(batch, x)[1].max() < 0.1


def test_zeros_and_one_layer_of_one_unit_give_nothing():
    assert len(batch_inputs(np.zeros((5, 3), np.float32), np.zeros(5, np.float32)).inputs) == 0
    assert len(batch_inputs(np.ones((1, 3), np.float32), np.ones(1, np.float32)).inputs) == 0


def test_a_missing_input_is_what_the_others_leave():
    """An example that reaches every unit has no zeros; the 5 others are found, and it with them."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 80))
    signals = rng.normal(size=(6, 128)) * (rng.random((6, 128)) < 0.4)
    signals[2] = rng.normal(size=128) * 1e-3
    batch = batch_inputs((signals.T @ x).astype(np.float32), signals.sum(axis=0).astype(np.float32))
    which, error = matched(batch, x)
    assert 2 in which[error < 1e-2]
    assert batch.zeros[list(which).index(2)] == 0


def test_isotropic_position():
    weight, bias, _, _ = real(11, 10, sure=50.0)
    rows = Rows.of(find_span(weight, bias), iterations=200)
    np.testing.assert_allclose(np.linalg.norm(rows.points, axis=1), 1)
    np.testing.assert_allclose(rows.points.T @ rows.points, np.eye(10) * len(rows.points) / 10, atol=1e-3)
