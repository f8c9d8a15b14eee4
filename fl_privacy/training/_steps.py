"""The forward and backward pass of the SER network written out, in memory that is used again.

At 20 examples of 988 features, automatic differentiation spends about as long on fresh memory and on its books as on
the products of matrices. The gradient here is the same to the bit (tested), from the same random numbers. A network
that a defense has changed goes through `fl_privacy.training.local` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from fl_privacy.models.ser import SERNet
from fl_privacy.training.flat import Flat
from fl_privacy.training.local import ADAM, GradientHook

_LAYERS = ("fc1", "fc2", "fc3")


class _Rows(NamedTuple):
    """Memory for a batch, one row an example."""

    x: Tensor
    a1: Tensor
    a2: Tensor
    keep1: Tensor
    keep2: Tensor
    d1: Tensor
    d2: Tensor
    d3: Tensor
    logs: Tensor
    wanted: Tensor


class Steps:
    """Gradients and training steps of a plain `SERNet`.

    Parameters
    ----------
    network : SERNet
        Says the sizes and the dropout; its parameters are not looked at.
    """

    def __init__(self, network: SERNet) -> None:
        hidden = [network.fc1.out_features, network.fc2.out_features]
        self._widths = [network.fc1.in_features, *hidden * 3, *[network.fc3.out_features] * 3]
        self._kept = 1.0 - network.dropout1.p, 1.0 - network.dropout2.p
        self._memory = [torch.empty(0, width) for width in self._widths]
        self._rows: dict[int, _Rows] = {}
        self._slopes: Flat | None = None
        self._moments = torch.empty(0), torch.empty(0), torch.zeros(())

    @classmethod
    def of(cls, network: nn.Module) -> Steps | None:
        """Return the steps of a network; None where it is not exactly the one that is written out here."""
        if type(network) is not SERNet or len(list(network.modules())) != 6:
            return None
        kinds = {name: type(child) for name, child in network.named_children()}
        if kinds != dict.fromkeys(_LAYERS, nn.Linear) | dict.fromkeys(("dropout1", "dropout2"), nn.Dropout):
            return None
        hooked = any(held for m in network.modules() for name, held in vars(m).items() if name.endswith("_hooks"))
        parameters = dict(network.named_parameters())
        whole = set(parameters) == {f"{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias")}
        plain = all(
            p.requires_grad and p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters.values()
        )
        return cls(network) if whole and plain and not hooked else None

    @torch.no_grad()
    def gradient(self, theta: Flat, features: Tensor, labels: Tensor, batch: Tensor, out: Flat) -> None:
        """Write the gradient of the mean cross-entropy of a batch into `out`, dropout on.

        Parameters
        ----------
        theta : Flat
            The parameters.
        features : Tensor, (n, d)
        labels : Tensor, (n,)
        batch : Tensor
            Numbers of the batch's examples.
        out : Flat
        """
        w, g = theta.tensors, out.tensors
        rows = self._rows.get(len(batch)) or self._make(len(batch))
        x, a1, a2, keep1, keep2, d1, d2, d3, logs, wanted = rows
        torch.index_select(features, 0, batch, out=x)
        _forward(x, w, "fc1", a1, keep1, self._kept[0])
        _forward(a1, w, "fc2", a2, keep2, self._kept[1])
        torch.addmm(w["fc3.bias"], a2, w["fc3.weight"].t(), out=d3)
        torch.log_softmax(d3, 1, out=logs)
        wanted.zero_().scatter_(1, labels[batch].unsqueeze(1), -1.0 / len(batch))
        torch.ops.aten._log_softmax_backward_data.out(wanted, logs, 1, torch.float32, out=d3)
        _weights(d3, a2, g, "fc3")
        _backward(d3, w["fc3.weight"], a2, keep2, self._kept[1], d2)
        _weights(d2, a1, g, "fc2")
        _backward(d2, w["fc2.weight"], a1, keep1, self._kept[0], d1)
        _weights(d1, x, g, "fc1")

    @torch.no_grad()
    def train(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        learning_rate: float,
        epochs: int,
        hook: GradientHook | None,
    ) -> None:
        """Train `theta` in place with a fresh Adam; see `fl_privacy.training.train_epochs`."""
        if self._slopes is None:
            self._slopes = Flat({name: tuple(tensor.shape) for name, tensor in theta.tensors.items()})
            self._moments = torch.empty_like(theta.whole), torch.empty_like(theta.whole), torch.zeros(())
        slopes, (first, second, steps) = self._slopes, self._moments
        for moment in self._moments:
            moment.zero_()
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(features)), batch_size):
                self.gradient(theta, features, labels, batch, slopes)
                apply_hook(hook, slopes)
                adam(
                    [theta.whole],
                    [slopes.whole],
                    [first],
                    [second],
                    [],
                    [steps],
                    fused=True,
                    amsgrad=False,
                    lr=learning_rate,
                    beta1=ADAM["betas"][0],
                    beta2=ADAM["betas"][1],
                    eps=ADAM["eps"],
                    weight_decay=ADAM["weight_decay"],
                    maximize=False,
                )

    def _make(self, n: int) -> _Rows:
        if n > len(self._memory[0]):
            self._memory = [torch.empty(n, width) for width in self._widths]
            self._rows.clear()
        self._rows[n] = _Rows(*(memory[:n] for memory in self._memory))
        return self._rows[n]


def apply_hook(hook: GradientHook | None, gradient: Flat) -> None:
    """Let a defense change a gradient in place; it is handed a copy, which it may keep."""
    if hook is not None:
        changed = hook({name: tensor.clone() for name, tensor in gradient.tensors.items()})
        for name, tensor in gradient.tensors.items():
            tensor.copy_(changed[name])


def _forward(x: Tensor, w: Mapping[str, Tensor], layer: str, out: Tensor, keep: Tensor, kept: float) -> None:
    """A hidden layer; 0 where a unit is silent or dropped."""
    torch.addmm(w[f"{layer}.bias"], x, w[f"{layer}.weight"].t(), out=out)
    out.relu_()
    if kept < 1.0:
        out.mul_(keep.bernoulli_(kept).div_(kept))


def _backward(after: Tensor, weight: Tensor, values: Tensor, keep: Tensor, kept: float, out: Tensor) -> None:
    """The loss by what enters a hidden layer's units, from that by the next one's."""
    torch.mm(after, weight, out=out)
    if kept < 1.0:
        out.mul_(keep)
    torch.ops.aten.threshold_backward.grad_input(out, values, 0, grad_input=out)


def _weights(after: Tensor, values: Tensor, out: Mapping[str, Tensor], layer: str) -> None:
    """The loss by a layer's weights and biases."""
    torch.mm(after.t(), values, out=out[f"{layer}.weight"])
    torch.sum(after, 0, out=out[f"{layer}.bias"])
