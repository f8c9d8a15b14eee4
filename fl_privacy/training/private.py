"""Gradients that are private example by example: DP-SGD (Abadi et al., arXiv 1607.00133) for any module.

Each example's gradient is clipped, the clipped gradients are added up, Gaussian noise is added to the sum, and the sum
is divided by the number of examples that a batch has on average: the number that was drawn would be news of its own.
Batches are drawn by Poisson sampling, as the accountant (`fl_privacy.training.accounting`) assumes.

>>> from fl_privacy.training.accounting import Ledger
>>> dpsgd = DPSGD(clipping_norm=1.0, noise_multiplier=1.1)
>>> network = torch.nn.Linear(3, 2)
>>> optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
>>> rng = np.random.default_rng(0)
>>> inputs, targets = torch.randn(100, 3), torch.randint(2, (100,))
>>> often = {"batch_size": 10, "epochs": 2}
>>> taken = train_privately(network, "cross-entropy", inputs, targets, dpsgd, optimiser, rng=rng, **often)
>>> taken, round(Ledger("example").added(1.1, sample_rate(100, 10), taken).epsilon(1e-5), 2)
(20, 3.5)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from fl_privacy.errors import UserError
from fl_privacy.training._clipping import BookKeeping, ClippedSum, Ghost, Hooks
from fl_privacy.training.local import GradientHook
from fl_privacy.training.losses import Loss, private_loss

_SKIPPED = 2**13
"""Random numbers that are passed over at most. torch's CPU generator knows 2^32 seeds: in a long run two would meet."""


@dataclass(frozen=True)
class DPSGD:
    """What is done to each example's gradient.

    Attributes
    ----------
    clipping_norm : float
        Largest L2 norm of an example's gradient, over all parameters.
    noise_multiplier : float
        Standard deviation of the noise on the sum of the clipped gradients, in units of `clipping_norm`.
    engine : {"auto", "hooks", "ghost"}
        How the clipped sum is computed: by Opacus' gradients of single examples ("hooks"), by Opacus' fast gradient
        clipping ("ghost"), or in one backward pass of our own where a network's parameters all belong to linear layers,
        by hooks elsewhere ("auto"). It is the same sum.

    Raises
    ------
    UserError
        For values that are impossible.
    """

    clipping_norm: float
    noise_multiplier: float
    engine: Literal["auto", "hooks", "ghost"] = "auto"

    def __post_init__(self) -> None:
        if not 0.0 < self.clipping_norm < math.inf:
            raise UserError(f"clipping_norm is {self.clipping_norm}: it must be a number above 0")
        if not 0.0 <= self.noise_multiplier < math.inf:
            raise UserError(f"noise_multiplier is {self.noise_multiplier}: it must be a number, 0 or above")
        if self.engine not in ("auto", "hooks", "ghost"):
            raise UserError(f"engine is {self.engine!r}. Known: auto, hooks, ghost")

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on the sum."""
        return self.noise_multiplier * self.clipping_norm


class PrivateGradients:
    """The private gradients of a module, for as many batches as one likes; a context manager.

    Parameters
    ----------
    module : Module
        Inside the ``with`` block it carries hooks; behind it, it is as it was.
    loss : str or Loss
        Of its outputs and the targets; see `fl_privacy.training.losses`.
    dpsgd : DPSGD

    Raises
    ------
    UserError
        Before any training: if there are layers that cannot be private (see `obstacles`), or examples meet in the loss.
    """

    def __init__(self, module: nn.Module, loss: str | Loss, dpsgd: DPSGD) -> None:
        self._module, self._loss, self._dpsgd = module, private_loss(loss), dpsgd
        check(module, dpsgd)
        self._engine: ClippedSum | None = None

    def __enter__(self) -> Self:
        own = self._dpsgd.engine == "auto" and BookKeeping.takes(self._module)
        engine = BookKeeping if own else Ghost if self._dpsgd.engine == "ghost" else Hooks
        self._engine = engine(self._module, self._loss, self._dpsgd.clipping_norm)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __call__(
        self, inputs: Tensor, targets: Tensor, *, rng: np.random.Generator, expected: float
    ) -> dict[str, Tensor]:
        """Return the private mean gradient of a batch, by the name of the parameter, in training mode.

        Parameters
        ----------
        inputs, targets : Tensor, (n, ...)
            The batch, examples first; none of them at all gives noise alone.
        rng : Generator
            Seeds the noise.
        expected : float
            How many examples a batch has on average.
        """
        assert self._engine is not None, "use it in a with statement"
        trained = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        if len(inputs):
            self._module.train()
            gradient = self._engine(inputs, targets)
        else:
            gradient = {name: torch.zeros_like(p) for name, p in trained.items()}
        noise = {name: torch.empty_like(p, requires_grad=False) for name, p in trained.items()}
        fill_noise(rng, self._dpsgd.deviation / expected, noise.values())
        return {name: noise[name].add_(gradient[name], alpha=1.0 / expected) for name in trained}


def private_gradient(
    module: nn.Module,
    loss: str | Loss,
    inputs: Tensor,
    targets: Tensor,
    dpsgd: DPSGD,
    *,
    rng: np.random.Generator,
    expected: float,
) -> dict[str, Tensor]:
    """Return the private mean gradient of one batch; see `PrivateGradients`."""
    with PrivateGradients(module, loss, dpsgd) as gradients:
        return gradients(inputs, targets, rng=rng, expected=expected)


def train_privately(
    module: nn.Module,
    loss: str | Loss,
    inputs: Tensor,
    targets: Tensor,
    dpsgd: DPSGD,
    optimiser: torch.optim.Optimizer,
    *,
    rng: np.random.Generator,
    batch_size: int,
    epochs: int = 1,
    hook: GradientHook | None = None,
) -> int:
    """Train a module in place by private gradients of Poisson batches.

    Parameters
    ----------
    module, loss, dpsgd
        See `PrivateGradients`.
    inputs, targets : Tensor, (n, ...)
        All examples.
    optimiser : Optimizer
        Of the module's parameters; what it does with private gradients costs no privacy.
    rng : Generator
        Draws the batches and seeds the noise.
    batch_size : int
        Examples in a batch, on average.
    epochs : int
        Of ``ceil(n / batch_size)`` steps.
    hook : callable, optional
        What a defense does to each gradient.

    Returns
    -------
    int
        Number of steps, for the accountant.
    """
    n = len(inputs)
    rate, steps = sample_rate(n, batch_size), steps_of(n, batch_size, epochs)
    parameters = dict(module.named_parameters())
    with PrivateGradients(module, loss, dpsgd) as gradients:
        for _ in range(steps):
            batch = poisson(rng, n, rate)
            gradient = gradients(inputs[batch], targets[batch], rng=rng, expected=rate * n)
            for name, slope in (hook(gradient) if hook else gradient).items():
                parameters[name].grad = slope
            optimiser.step()
    return steps


def sample_rate(examples: int, batch_size: int) -> float:
    """Return the probability with which an example is in a batch.

    Raises
    ------
    UserError
        Where there is no example: nothing can be drawn, and noise alone would be sent in the name of nobody.
    """
    if examples < 1 or batch_size < 1:
        raise UserError(
            f"DP-SGD with {examples} examples and batches of {batch_size}: there must be at least one of each. "
            "Leave clients without training examples out of the federation"
        )
    return min(1.0, batch_size / examples)


def steps_of(examples: int, batch_size: int, epochs: int) -> int:
    """Return how many Poisson batches make up so many epochs."""
    return -(-examples // batch_size) * epochs


def poisson(rng: np.random.Generator, examples: int, rate: float) -> Tensor:
    """Draw each example with a probability; return the numbers of those drawn, possibly none."""
    return torch.from_numpy(np.flatnonzero(rng.random(examples) < rate))


def fill_noise(rng: np.random.Generator, deviation: float, tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by independent Gaussian noise.

    Parameters
    ----------
    rng : Generator
        Seeds it.
    deviation : float
        Its standard deviation; 0 gives zeros.
    tensors : iterable of Tensor

    Notes
    -----
    It is drawn as Opacus draws it, by torch's own generator in single precision, which takes a third of NumPy's time.
    Neither is meant for cryptography: who guesses the seed removes the noise, and the tails end at 5.8 standard
    deviations. A deployment needs secure randomness; a simulation needs the same noise from the same seed.
    """
    if deviation == 0.0:
        for tensor in tensors:
            tensor.zero_()
        return
    generator = torch.Generator().manual_seed(int(rng.integers(2**32)))
    torch.empty(int(rng.integers(_SKIPPED))).uniform_(generator=generator)
    for tensor in tensors:
        if tensor.device.type == "cpu":
            tensor.normal_(0.0, deviation, generator=generator)
        else:
            tensor.copy_(torch.empty(tensor.shape, dtype=tensor.dtype).normal_(0.0, deviation, generator=generator))


def obstacles(module: nn.Module, engine: str = "hooks") -> dict[str, str]:
    """Say which layers of a module cannot be trained privately.

    Parameters
    ----------
    module : Module
    engine : {"auto", "hooks", "ghost"}

    Returns
    -------
    dict of str to str
        The reason, by the layer's name and type.
    """
    found = {
        name: "it normalises each example by the others of its batch, so that one example moves every gradient"
        for name, layer in _layers(module)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    }
    if engine == "auto" and BookKeeping.takes(module):
        return found
    from opacus.grad_sample import GradSampleModule
    from opacus.utils.module_utils import trainable_modules
    from opacus.validators import ModuleValidator

    trained = {id(layer) for _, layer in trainable_modules(module)}
    tied = len(dict(module.named_parameters(remove_duplicate=False))) > len(dict(module.named_parameters()))
    if tied and engine == "ghost":
        found[f"the module ({type(module).__name__})"] = "layers share parameters, which ghost clipping cannot take"
    for name, layer in _layers(module):
        if name in found:
            continue
        if getattr(layer, "inplace", False):
            found[name] = "it overwrites its input, which the hooks still need"
        elif id(layer) in trained and (wrong := ModuleValidator.VALIDATORS.get(type(layer), lambda _: [])(layer)):
            found[name] = " ".join(str(wrong[0]).split()).split(". ")[0]
        elif id(layer) in trained and len(list(layer.buffers(recurse=False))) > 0:
            found[name] = "it has buffers, which are updated without noise"
        elif isinstance(layer, nn.RNN):
            found[name] = "its gradients cannot be taken example by example"
    if not found:  # what Opacus itself would refuse to wrap
        found = {f"the module ({type(module).__name__})": str(e) for e in GradSampleModule.validate(module)}
    return found


def check(module: nn.Module, dpsgd: DPSGD) -> None:
    """Refuse a module that cannot be trained privately, before it is.

    Raises
    ------
    UserError
        Naming the layers, the reasons, and what mends them.
    """
    if not any(p.requires_grad for p in module.parameters()):
        raise UserError("DP-SGD: the module has no parameter to train (requires_grad is False for all)")
    if wrong := obstacles(module, dpsgd.engine):
        layers = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
        raise UserError(
            f"DP-SGD cannot train {layers}. fl_privacy.training.private.replaced(module) puts layers in their place "
            "that it can, where there are such (replace_batch_norm=True: GroupNorm for BatchNorm)"
        )


def replaced(module: nn.Module, *, replace_batch_norm: bool = False) -> tuple[nn.Module, dict[str, str]]:
    """Put layers that can be trained privately in the place of those that cannot, in a copy.

    Parameters
    ----------
    module : Module
        Left as it is.
    replace_batch_norm : bool
        Whether BatchNorm may become GroupNorm: that is another network, which has to be trained anew.

    Returns
    -------
    tuple of (Module, dict of str to str)
        The copy, and by each layer's name what it became. Recurrent and attention layers become Opacus' own, which
        compute the same.

    Raises
    ------
    UserError
        If BatchNorm is there and may not be replaced, or something remains that cannot be private.
    """
    from opacus.validators import ModuleValidator

    norms = [name for name, layer in _layers(module) if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if norms and not replace_batch_norm:
        raise UserError(
            f"DP-SGD cannot train {', '.join(norms)}: BatchNorm normalises each example by the others of its batch. "
            "replace_batch_norm=True puts GroupNorm there, which is another network"
        )
    copy = ModuleValidator.fix(module)
    for layer in copy.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False
    if remaining := obstacles(copy):
        layers = "; ".join(f"{name}: {reason}" for name, reason in remaining.items())
        raise UserError(f"nothing can be put in the place of {layers}. Change the network")
    after = dict(copy.named_modules())
    both = [(name, layer, after[name]) for name, layer in module.named_modules() if name in after]
    return copy, {name or "the module": str(new).split("\n")[0] for name, old, new in both if _differs(old, new)}


def _differs(before: nn.Module, after: nn.Module) -> bool:
    return type(before) is not type(after) or getattr(before, "inplace", None) != getattr(after, "inplace", None)


def _layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(f"{name or 'the module'} ({type(layer).__name__})", layer) for name, layer in module.named_modules()]
