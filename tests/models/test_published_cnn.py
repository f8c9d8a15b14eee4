from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fl_privacy.models.published_cnn import LayerCNN, pools


@pytest.mark.parametrize(
    ("units", "inputs", "parameters", "third"),
    [
        (256, 988, 1_146_626, 8),
        (256, 768, 950_018, 8),
        (256, 512, 982_786, 6),
        (128, 256, 655_106, 4),
        (4, 128, 361_218, None),
    ],
)
def test_published_layers_have_the_published_numbers_of_parameters(units, inputs, parameters, third):
    network = LayerCNN(units, inputs)
    assert sum(p.numel() for p in network.parameters()) == parameters
    if third:
        assert pools(units, inputs) == (((2, 2), (2, 2)), ((4, 4), (4, 4)), ((third, third), (third, third)))
    else:
        assert pools(units, inputs) == (None, ((2, 2), (1, 4)), ((2, 2), (1, 4)))


def by_hand(p, weight, bias, pooling):
    """The network of the specification in plain functions, dropout off."""
    x = functional.relu(
        functional.conv2d(weight[:, None], p["convolutions.0.weight"], p["convolutions.0.bias"], padding=2)
    )
    names = [name for name in p if name.startswith("convolutions") and p[name].ndim == 4]
    norm = next(name for name in p if name.endswith("running_mean")).removesuffix("running_mean")
    for number, pool in enumerate(pooling):
        if number:
            conv = names[number].removesuffix("weight")
            x = functional.conv2d(x, p[conv + "weight"], p[conv + "bias"], padding=2)
            if number == 2:
                shape = (1, -1, 1, 1)
                x = (x - p[norm + "running_mean"].view(shape)) / torch.sqrt(p[norm + "running_var"].view(shape) + 1e-5)
                x = x * p[norm + "weight"].view(shape) + p[norm + "bias"].view(shape)
            x = functional.relu(x)
        if pool:
            x = functional.max_pool2d(x, pool[0], pool[1])
    x = torch.cat([x.reshape(len(x), -1), bias], dim=1)
    for number in (0, 3, 6):
        x = x @ p[f"head.{number}.weight"].T + p[f"head.{number}.bias"]
        x = functional.relu(x) if number < 6 else x
    return x - torch.logsumexp(x, dim=1, keepdim=True)


@pytest.mark.parametrize(("units", "inputs"), [(256, 100), (64, 128), (4, 128)])
def test_forward_is_the_published_chain(units, inputs):
    torch.manual_seed(0)
    network = LayerCNN(units, inputs, classes=3)
    weight, bias = torch.randn(6, units, inputs), torch.randn(6, units)
    network(weight, bias)  # moves the running statistics away from 0 and 1
    network.eval()
    expected = by_hand(network.state_dict(), weight, bias, pools(units, inputs))
    torch.testing.assert_close(network(weight, bias), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(network(weight, bias), network(weight, bias * 0), atol=1e-3)  # the bias is looked at


def test_whole_channels_drop_out_behind_each_pool_and_units_in_the_head():
    network = LayerCNN(64, 64, dropout=0.5)
    kinds = [type(m).__name__ for m in network.modules()]
    assert kinds.count("Dropout2d") == 3
    assert kinds.count("Dropout") == 2
    assert all(m.p == 0.5 for m in network.modules() if "Dropout" in type(m).__name__)
    torch.manual_seed(0)
    x = torch.randn(1, 64, 64)
    dropped = network.convolutions[:4](x[:, None])
    per_channel = (dropped == 0).flatten(2).all(dim=2)
    assert 0 < int(per_channel.sum()) < 16


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 1100), st.booleans(), st.integers(2, 5))
def test_any_layer_has_a_network_that_fits_it(units, inputs, bias, classes):
    with torch.device("meta"):
        network = LayerCNN(units, inputs, bias=bias, classes=classes)
        given_bias = torch.zeros(3, units) if bias else None
        assert network(torch.zeros(3, units, inputs), given_bias).shape == (3, classes)
