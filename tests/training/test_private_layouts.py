"""Private gradients of convolutions, in whatever order their input lies in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fl_privacy.training.losses import Loss
from fl_privacy.training.private import DPSGD, PrivateGradients


class Folded(nn.Module):
    """A convolution of an input whose channels lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, (1, 5), (1, 2), (0, 1))
        self.second = nn.Conv2d(4, 3, (1, 4), (1, 2), (0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)).contiguous(memory_format=torch.channels_last)).flatten(1)


@pytest.mark.parametrize("engine", ["hooks", "ghost"])
def test_channels_that_lie_side_by_side_make_no_difference(engine: str) -> None:
    torch.manual_seed(0)
    network, inputs = Folded(), torch.randn(5, 1, 1, 40)
    loss = Loss("squares", lambda out, y: out.square().sum(1))
    with PrivateGradients(network, loss, DPSGD(2.0, 0.0, engine)) as gradients:  # type: ignore[arg-type]
        found = gradients(inputs, inputs, rng=np.random.default_rng(0), expected=1.0)
    expected = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for one in inputs.split(1):
        slopes = torch.autograd.grad(network(one).square().sum(), list(network.parameters()))
        scale = min(1.0, 2.0 / float(torch.cat([slope.flatten() for slope in slopes]).norm()))
        for name, slope in zip(expected, slopes, strict=True):
            expected[name] += scale * slope
    for name, slope in expected.items():
        torch.testing.assert_close(found[name], slope, rtol=1e-4, atol=1e-5)
    assert not network.second._forward_pre_hooks
