"""Three ways to the sum of clipped gradients."""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from fl_privacy.errors import UserError
from fl_privacy.training.losses import Loss

_TINY = 1e-6
"""Is added to norms, as in Opacus."""


_UNSEEN = "DP-SGD: {} is used past its layer's own call, where no example's share can be told. Call the layer itself"


_MIXED = (
    "DP-SGD: {} is used on {} rows for {} examples, and which row is whose cannot be told. "
    "Keep examples first, in every layer"
)


def clipping_factors(squared_norms: Tensor, clipping_norm: float) -> Tensor:
    """Return what each example's gradient is multiplied with: Opacus' min(1, C / (norm + 1e-6))."""
    return squared_norms.sqrt().add_(_TINY).reciprocal_().mul_(clipping_norm).clamp_(max=1.0)


class ClippedSum(ABC):
    """Computes sums of clipped gradients of one module.

    Parameters
    ----------
    module : Module
    loss : Loss
    clipping_norm : float
    """

    def __init__(self, module: nn.Module, loss: Loss, clipping_norm: float) -> None:
        self._module, self._loss, self._norm = module, loss, clipping_norm

    @abstractmethod
    def __call__(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the sum over a batch's examples, by the name of the parameter."""

    def close(self) -> None:  # noqa: B027 - most leave something behind, not all
        """Leave the module as it was."""

    @property
    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._module.named_parameters() if p.requires_grad}


class Hooks(ClippedSum):
    """Opacus' `GradSampleModule`: the gradient of every single example."""

    def __init__(self, module: nn.Module, loss: Loss, clipping_norm: float) -> None:
        from opacus import GradSampleModule

        super().__init__(module, loss, clipping_norm)
        self._wrapped = GradSampleModule(module, loss_reduction="sum")
        self._handles = _in_order(module)

    def __call__(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the sum."""
        trained = self._trained
        for parameter in trained.values():
            parameter.grad = None  # what is there belongs to others: it must not be added to
        with _no_warnings():
            torch.autograd.backward(self._loss(self._wrapped(inputs), targets).sum(), inputs=list(trained.values()))
        single = {}
        for name, parameter in trained.items():
            gradients: Any = parameter.grad_sample  # type: ignore[attr-defined]
            if gradients is None and parameter.grad is not None:
                raise UserError(_UNSEEN.format(name))
            if gradients is not None and len(gradients) != len(inputs):
                raise UserError(_MIXED.format(name, len(gradients), len(inputs)))
            # A layer that this batch did not go through has none.
            single[name] = (
                parameter.new_zeros(len(inputs), *parameter.shape) if gradients is None else gradients.detach()
            )
            parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]
        norms = torch.stack([gradients.flatten(1).square().sum(1) for gradients in single.values()]).sum(0)
        factors = clipping_factors(norms, self._norm)
        return {name: torch.einsum("n,n...->...", factors, gradients) for name, gradients in single.items()}

    def close(self) -> None:
        """Take Opacus' hooks off."""
        for handle in self._handles:
            handle.remove()
        _unwrap(self._wrapped, self._module)


class Ghost(ClippedSum):
    """Opacus' fast gradient clipping: the norms alone, then a second backward pass through weighted losses."""

    def __init__(self, module: nn.Module, loss: Loss, clipping_norm: float) -> None:
        from opacus import GradSampleModuleFastGradientClipping

        super().__init__(module, loss, clipping_norm)
        self._wrapped = GradSampleModuleFastGradientClipping(
            module, loss_reduction="sum", max_grad_norm=clipping_norm, use_ghost_clipping=True
        )
        self._handles = _in_order(module)

    def __call__(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the sum."""
        trained = self._trained
        for parameter in trained.values():
            parameter.grad = None  # what is there belongs to others: it must not be added to
        with _no_warnings():
            losses = self._loss(self._wrapped(inputs), targets)
            torch.autograd.backward(losses.sum(), inputs=list(trained.values()), retain_graph=True)
            if unseen := [name for name, p in trained.items() if not hasattr(p, "_norm_sample")]:
                raise UserError(_UNSEEN.format(unseen[0]))
            rows = {name: len(p._norm_sample) for name, p in trained.items()}  # type: ignore[attr-defined]
            for name, count in rows.items():
                if count != len(losses):
                    raise UserError(_MIXED.format(name, count, len(losses)))
            factors = self._wrapped.get_clipping_coef().detach()
            self._wrapped.disable_hooks()
            sums = torch.autograd.grad((factors * losses).sum(), list(trained.values()))
            self._wrapped.enable_hooks()
        for parameter in trained.values():
            parameter.grad = None
            del parameter._norm_sample  # type: ignore[attr-defined]
        return dict(zip(trained, sums, strict=True))

    def close(self) -> None:
        """Take Opacus' hooks off."""
        for handle in self._handles:
            handle.remove()
        _unwrap(self._wrapped, self._module)


@dataclass(frozen=True)
class _Call:
    """One call of a linear layer: what went in, and where the loss by what came out will arrive."""

    layer: str
    values: Tensor
    version: int
    out: Tensor
    out_version: int
    edge: GradientEdge


class BookKeeping(ClippedSum):
    """One backward pass for networks of linear layers (Bu et al., arXiv 2210.00038).

    The loss by what a layer puts out, and what goes into it, give both the norm of an example's gradient and, once
    scaled, the clipped sum: no example's gradient is ever there by itself.
    """

    def __init__(self, module: nn.Module, loss: Loss, clipping_norm: float) -> None:
        super().__init__(module, loss, clipping_norm)
        self._linear = {
            name: layer
            for name, layer in module.named_modules()
            if type(layer) is nn.Linear and any(p.requires_grad for p in layer.parameters())
        }

    @staticmethod
    def takes(module: nn.Module) -> bool:
        """Whether all of a module's trained parameters belong to linear layers of their own."""
        trained = [p for p in module.parameters() if p.requires_grad]
        owners = [p for m in module.modules() if type(m) is nn.Linear for p in m.parameters() if p.requires_grad]
        return len(trained) == len(owners) and {*map(id, trained)} == {*map(id, owners)}

    def __call__(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the sum."""
        calls: list[_Call] = []

        def note(name: str, layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            if out.requires_grad:
                values = given[0].detach()
                # Where several places were put through together, the output is a view; who overwrites it (a later
                # activation, in place) cuts the view out of the graph, not what it looks at.
                whole = out if out._base is None else out._base
                calls.append(_Call(name, values, values._version, out, out._version, get_gradient_edge(whole)))

        # First in line: before any other hook changes what came out.
        handles = [m.register_forward_hook(functools.partial(note, n), prepend=True) for n, m in self._linear.items()]
        try:
            losses = self._loss(self._module(inputs), targets)
        finally:
            for handle in handles:
                handle.remove()
        self._check_unseen(losses, {call.layer for call in calls})
        signals = torch.autograd.grad(losses.sum(), [call.edge for call in calls], allow_unused=True) if calls else ()
        layers: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        for call, signal in zip(calls, signals, strict=True):
            self._check(call, len(losses), unused=signal is None)
            if signal is not None:
                values, arrived = layers.setdefault(call.layer, ([], []))
                values.append(call.values.reshape(len(losses), -1, call.values.shape[-1]))
                arrived.append(signal.reshape(len(losses), -1, signal.shape[-1]))
        return self._sums({name: (_joined(values), _joined(arrived)) for name, (values, arrived) in layers.items()})

    def _check_unseen(self, losses: Tensor, seen: set[str]) -> None:
        silent = {name: p for name, p in self._trained.items() if name.rpartition(".")[0] not in seen}
        if silent and losses.requires_grad:
            slopes = torch.autograd.grad(losses.sum(), list(silent.values()), retain_graph=True, allow_unused=True)
            for name, slope in zip(silent, slopes, strict=True):
                if slope is not None:
                    raise UserError(_UNSEEN.format(name))

    def _check(self, call: _Call, examples: int, unused: bool) -> None:
        if call.values.ndim < 2 or len(call.values) != examples:
            raise UserError(_MIXED.format(call.layer, len(call.values), examples))
        if call.values._version != call.version or (unused and call.out._version != call.out_version):
            raise UserError(
                f"DP-SGD: what layer {call.layer!r} was given, or gave, is overwritten; compute in new memory"
            )

    def _sums(self, layers: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Clip and add up: of each layer (values, signals), (n, t, width) each, t places where it was applied."""
        sums = {name: torch.zeros_like(p, requires_grad=False) for name, p in self._trained.items()}
        if not layers:
            return sums
        norms = sum(
            _squared_norms(values, signals, f"{name}.weight" in sums, f"{name}.bias" in sums)
            for name, (values, signals) in layers.items()
        )
        factors = clipping_factors(norms, self._norm)  # type: ignore[arg-type]
        for name, (values, signals) in layers.items():
            scaled = (signals * factors[:, None, None]).flatten(0, 1)
            if (weight := f"{name}.weight") in sums:
                torch.mm(scaled.t(), values.flatten(0, 1), out=sums[weight])
            if (bias := f"{name}.bias") in sums:
                torch.sum(scaled, 0, out=sums[bias])
        return sums


def _squared_norms(values: Tensor, signals: Tensor, weight: bool, bias: bool) -> Tensor:
    """Return each example's squared norm of a linear layer's gradient."""
    _, places, wide = values.shape
    total = torch.zeros(len(values), dtype=signals.dtype, device=signals.device)
    if weight and places == 1:
        total += signals.square().sum((1, 2)) * values.square().sum((1, 2))
    elif weight and places * places <= wide * signals.shape[-1]:
        total += ((values @ values.mT) * (signals @ signals.mT)).sum((1, 2)).clamp_(min=0.0)
    elif weight:
        total += (signals.mT @ values).square().sum((1, 2))
    if bias:
        total += signals.sum(1).square().sum(1)
    return total


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _no_warnings() -> warnings.catch_warnings[None]:
    """Opacus' hooks make torch warn that the inputs have no gradient, of every batch."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def _in_order(module: nn.Module) -> list[RemovableHandle]:
    """Hand two-dimensional convolutions their input row by row in memory.

    Opacus (1.6.0) takes it to lie so; in any other order (``torch.channels_last``) its gradients are wrong, silently.
    """

    def ordered(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return given[0].contiguous(), *given[1:]

    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return [layer.register_forward_pre_hook(ordered) for layer in convolutions]


def _unwrap(wrapped: Any, module: nn.Module) -> None:
    wrapped.remove_hooks()
    for layer in module.modules():
        for name in ("activations", "max_batch_len"):
            vars(layer).pop(name, None)
    for parameter in module.parameters():
        for name in ("grad_sample", "_forward_counter", "_current_grad_sample", "_norm_sample"):
            vars(parameter).pop(name, None)
