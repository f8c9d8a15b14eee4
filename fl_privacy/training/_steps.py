"""The forward and backward pass of the SER network written out, in memory that is used again.

At 20 examples of 988 features, automatic differentiation spends about as long on fresh memory and on its books as on
the products of matrices. The gradient here is the same to the bit (tested), from the same random numbers. A network
that a defense has changed goes through `fl_privacy.training.local` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from fl_privacy.models.ser import SERNet
from fl_privacy.training._clipping import clipping_factors
from fl_privacy.training.flat import Flat
from fl_privacy.training.local import ADAM, GradientHook
from fl_privacy.training.private import DPSGD, fill_noise, poisson, sample_rate, steps_of

_LAYERS = ("fc1", "fc2", "fc3")


_LEAST_STACKED = 8
"""Rows. Products of fewer take other paths in the libraries, which round differently."""

_STACK = 256
"""Rows that go through the network together, at most: more would not stay in the cache."""


class _Rows(NamedTuple):
    """Memory for examples, one row each.

    Inputs `x`, the hidden layers' values `a1` and `a2`, what dropout multiplies them with, the loss by what enters each
    layer's units (`d1`, `d2`, `d3`), the classes' log-probabilities, and the loss by these.
    """

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
        self._rows: dict[tuple[int, int], _Rows] = {}
        self._slopes: Flat | None = None
        self._moments = torch.empty(0), torch.empty(0), torch.zeros(())
        self._stackable: bool | None = None

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
        rows = self._at(0, len(batch))
        self._draw(rows, features, labels, batch)
        self._through(rows, theta.tensors)
        _slopes(rows, out.tensors)

    @torch.no_grad()
    def private_gradient(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        batch: Tensor,
        dpsgd: DPSGD,
        rng: np.random.Generator,
        expected: float,
        out: Flat,
    ) -> None:
        """Write the private mean gradient of the cross-entropy of a batch into `out`, dropout on.

        An example's gradient by a layer's weights is the product of two vectors, so that its norm is the product of
        theirs (Goodfellow, arXiv 1510.01799), and scaling one of them clips it.

        Parameters
        ----------
        theta, features, labels, batch, out
            See `gradient`; the batch may be empty.
        dpsgd, rng, expected
            See `fl_privacy.training.private.PrivateGradients`.
        """
        fill_noise(rng, dpsgd.deviation / expected, out.tensors.values())
        if len(batch) == 0:
            return
        rows = self._at(0, len(batch))
        self._draw(rows, features, labels, batch, share=1.0)
        self._through(rows, theta.tensors)
        pairs = ((rows.d1, rows.x), (rows.d2, rows.a1), (rows.d3, rows.a2))
        norms = sum(_squares(values).add_(1.0).mul_(_squares(after)) for after, values in pairs)
        factors = clipping_factors(norms, dpsgd.clipping_norm).div_(expected).unsqueeze(1)  # type: ignore[arg-type]
        for after, _ in pairs:
            after.mul_(factors)
        for layer, (after, values) in zip(_LAYERS, pairs, strict=True):
            out.tensors[f"{layer}.weight"].addmm_(after.t(), values)
            out.tensors[f"{layer}.bias"].add_(after.sum(0))

    @torch.no_grad()
    def gradients(
        self, theta: Flat, draws: Sequence[Callable[[], tuple[Tensor, Tensor, Tensor]]], outs: Sequence[Flat]
    ) -> list[int]:
        """Do what `gradient` does for several clients at the same parameters, in fewer and larger products.

        Equal to the bit: whether that is so with this machine's library is tried on the first clients, and where it is
        not, they go through one by one.

        Parameters
        ----------
        theta : Flat
        draws : sequence of callables
            Each seeds torch's default generator, draws a batch, and returns features, labels and the batch.
        outs : sequence of Flat

        Returns
        -------
        list of int
            Number of examples in each batch.
        """
        counts: list[int] = []
        while len(counts) < len(draws):
            counts += self._group(theta, draws[len(counts) :], outs[len(counts) :])
        return counts

    def _group(
        self, theta: Flat, draws: Sequence[Callable[[], tuple[Tensor, Tensor, Tensor]]], outs: Sequence[Flat]
    ) -> list[int]:
        """Do some of the first of these; return the numbers of their examples."""
        self._at(0, _STACK)
        counts: list[int] = []
        at = 0
        for draw in draws:
            features, labels, batch = draw()
            n = len(batch)
            if self._stackable is False or n < _LEAST_STACKED or at + n > _STACK:
                if counts:
                    break  # begins the next group, drawn again
                self.gradient(theta, features, labels, batch, outs[0])
                return [n]
            self._draw(self._at(at, n), features, labels, batch)
            counts.append(n)
            at += n
        self._through(self._at(0, at), theta.tensors)
        at = 0
        for n, out in zip(counts, outs, strict=False):
            _slopes(self._at(at, n), out.tensors)
            at += n
        if self._stackable is None and len(counts) > 1:
            self._stackable = True
            for draw, out in zip(draws, outs[: len(counts)], strict=False):
                together = out.whole.clone()
                self.gradient(theta, *draw(), out)
                self._stackable &= torch.equal(together, out.whole)
        return counts

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
        slopes = self._fresh(theta)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(features)), batch_size):
                self.gradient(theta, features, labels, batch, slopes)
                apply_hook(hook, slopes)
                self._step(theta, slopes, learning_rate)

    def private_train(
        self,
        theta: Flat,
        features: Tensor,
        labels: Tensor,
        dpsgd: DPSGD,
        rng: np.random.Generator,
        *,
        batch_size: int,
        learning_rate: float,
        epochs: int,
        hook: GradientHook | None,
    ) -> None:
        """Train `theta` in place with a fresh Adam; see `fl_privacy.training.private.train_privately`."""
        slopes, n = self._fresh(theta), len(features)
        rate = sample_rate(n, batch_size)
        for _ in range(steps_of(n, batch_size, epochs)):
            self.private_gradient(theta, features, labels, poisson(rng, n, rate), dpsgd, rng, rate * n, slopes)
            apply_hook(hook, slopes)
            self._step(theta, slopes, learning_rate)

    def _fresh(self, theta: Flat) -> Flat:
        """Set Adam back; return memory for gradients."""
        if self._slopes is None:
            self._slopes = Flat({name: tuple(tensor.shape) for name, tensor in theta.tensors.items()})
            self._moments = torch.empty_like(theta.whole), torch.empty_like(theta.whole), torch.zeros(())
        for moment in self._moments:
            moment.zero_()
        return self._slopes

    @torch.no_grad()
    def _step(self, theta: Flat, slopes: Flat, learning_rate: float) -> None:
        first, second, steps = self._moments
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

    def _at(self, start: int, n: int) -> _Rows:
        """Return the memory of some rows."""
        if start + n > len(self._memory[0]):
            self._memory = [torch.empty(start + n, width) for width in self._widths]
            self._rows.clear()
        if (start, n) not in self._rows:
            self._rows[start, n] = _Rows(*(memory[start : start + n] for memory in self._memory))
        return self._rows[start, n]

    def _draw(self, rows: _Rows, features: Tensor, labels: Tensor, batch: Tensor, share: float | None = None) -> None:
        """Bring in a batch, and draw what is dropped; each example has a share in the loss, by default of the mean."""
        torch.index_select(features, 0, batch, out=rows.x)
        for keep, kept in zip((rows.keep1, rows.keep2), self._kept, strict=True):
            if kept < 1.0:
                keep.bernoulli_(kept).div_(kept)
        right = torch.index_select(labels, 0, batch).unsqueeze(1)
        rows.wanted.zero_().scatter_(1, right, -1.0 / len(batch) if share is None else -share)

    def _through(self, rows: _Rows, w: Mapping[str, Tensor]) -> None:
        """Go forward and backward, to the loss by what enters each layer's units."""
        x, a1, a2, keep1, keep2, d1, d2, d3, logs, wanted = rows
        one, two = (kept < 1.0 for kept in self._kept)
        for values, layer, after, keep, drops in ((x, "fc1", a1, keep1, one), (a1, "fc2", a2, keep2, two)):
            torch.addmm(w[f"{layer}.bias"], values, w[f"{layer}.weight"].t(), out=after)
            after.relu_()
            if drops:
                after.mul_(keep)
        torch.addmm(w["fc3.bias"], a2, w["fc3.weight"].t(), out=d3)
        torch.log_softmax(d3, 1, out=logs)
        torch.ops.aten._log_softmax_backward_data.out(wanted, logs, 1, torch.float32, out=d3)
        for after, layer, values, keep, drops, before in (
            (d3, "fc3", a2, keep2, two, d2),
            (d2, "fc2", a1, keep1, one, d1),
        ):
            torch.mm(after, w[f"{layer}.weight"], out=before)
            if drops:
                before.mul_(keep)
            torch.ops.aten.threshold_backward.grad_input(before, values, 0, grad_input=before)


def _slopes(rows: _Rows, out: Mapping[str, Tensor]) -> None:
    """Write the loss by the weights and biases."""
    for layer, after, values in (("fc3", rows.d3, rows.a2), ("fc2", rows.d2, rows.a1), ("fc1", rows.d1, rows.x)):
        torch.mm(after.t(), values, out=out[f"{layer}.weight"])
        torch.sum(after, 0, out=out[f"{layer}.bias"])


def _squares(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square_()


def apply_hook(hook: GradientHook | None, gradient: Flat) -> None:
    """Let a defense change a gradient in place; it is handed a copy, which it may keep."""
    if hook is not None:
        changed = hook({name: tensor.clone() for name, tensor in gradient.tensors.items()})
        for name, tensor in gradient.tensors.items():
            tensor.copy_(changed[name])
