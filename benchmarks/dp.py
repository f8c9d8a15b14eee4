"""A client's DP-SGD step beside its plain one: Opacus by hooks, Opacus by ghost clipping, and ours.

The SER network (988 inputs, 286,596 parameters, dropout on) on random features of 200 examples, one thread. A step is
what a FedSGD client computes: draw a batch (of fixed size, or by Poisson sampling with the same expectation), gradient
of the cross-entropy, clipping and noise; no reply is made. The sides take turns of six steps each, of which the first
two are not counted: there they find the other sides' memory in the cache. Figures are medians of CPU time. The plain
step is the package's own, which is written out; the same step by automatic differentiation stands beside it. Opacus'
sides are modules, optimisers and criteria as `PrivacyEngine.make_private` gives them, made once for all steps.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._result import Result, Row
from fl_privacy.models.ser import SERNet
from fl_privacy.training.flat import Flat
from fl_privacy.training.local import batch_gradient
from fl_privacy.training.local_model import LocalModel
from fl_privacy.training.private import DPSGD, PrivateGradients, poisson, sample_rate

_INPUTS, _CLASSES, _EXAMPLES = 988, 4, 200
_AIMS = {20: 4.0, 64: None}
_DPSGD = DPSGD(clipping_norm=1.0, noise_multiplier=1.0)
_PRIVATE = ("ours", "ours, any network of linear layers", "Opacus, ghost clipping", "Opacus, hooks")
_PLAIN = {"plain": "plain step, written out", "autograd": "plain step, automatic differentiation"}


def run(full: bool) -> Result:
    """Measure; the long form repeats it more often."""
    rows = []
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus': of hooks, and of randomness that is not secure
        for batch_size, aim in _AIMS.items():
            seconds = _measured(batch_size, 40 if full else 8)
            for side in _PRIVATE:
                for plain, rival in _PLAIN.items():
                    rows.append(
                        Row(
                            case=f"batch {batch_size}: {side}, against {plain}",
                            ours=1000 * seconds[side],
                            rival=1000 * seconds[plain],
                            rival_name=rival,
                            unit="ms",
                            ratio=seconds[side] / seconds[plain],
                            aim=aim if (side, plain) == ("ours", "plain") else None,
                            aim_is="at_most",
                        )
                    )
    return Result("dp", tuple(rows))


def _measured(batch_size: int, repeats: int) -> dict[str, float]:
    """Return the median CPU time of a step of each side."""
    found: dict[str, list[float]] = {}
    with ExitStack() as hooked:
        steps = _steps(batch_size, hooked)
        for _ in range(repeats):
            for side, step in steps.items():
                for turn in range(6):
                    began = time.process_time()
                    step()
                    if turn >= 2:
                        found.setdefault(side, []).append(time.process_time() - began)
    return {side: statistics.median(times) for side, times in found.items()}


def _steps(batch_size: int, hooked: ExitStack) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    features = torch.randn(_EXAMPLES, _INPUTS, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(_EXAMPLES) % _CLASSES
    rate = sample_rate(_EXAMPLES, batch_size)
    networks = [SERNet(_INPUTS, _CLASSES) for _ in range(3)]
    model = LocalModel(networks[0])
    theta, out = Flat(model.shapes), Flat(model.shapes)
    theta.fill({name: p.detach().numpy() for name, p in networks[0].named_parameters()})
    gradients = hooked.enter_context(PrivateGradients(networks[2], "cross-entropy", _DPSGD))

    def any_network() -> object:
        batch = poisson(rng, _EXAMPLES, rate)
        return gradients(features[batch], labels[batch], rng=rng, expected=batch_size)

    return {
        "plain": lambda: model.gradient(theta, features, labels, batch_size, None, out),
        "autograd": lambda: batch_gradient(networks[1], features, labels, batch_size),
        "ours": lambda: model.private_gradient(theta, features, labels, batch_size, _DPSGD, rng, None, out),
        "ours, any network of linear layers": any_network,
        "Opacus, ghost clipping": _of_opacus(features, labels, batch_size, ghost=True),
        "Opacus, hooks": _of_opacus(features, labels, batch_size, ghost=False),
    }


def _of_opacus(features: Tensor, labels: Tensor, batch_size: int, *, ghost: bool) -> Callable[[], object]:
    """Return the step of Opacus' engine, up to the gradient that its optimiser would step along."""
    from opacus import PrivacyEngine

    network, rng = SERNet(_INPUTS, _CLASSES), np.random.default_rng(0)
    plain = nn.CrossEntropyLoss()
    kind: dict[str, Any] = {"grad_sample_mode": "ghost", "criterion": plain} if ghost else {}
    module, optimiser, *more = PrivacyEngine().make_private(
        module=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(features, labels), batch_size=batch_size),
        noise_multiplier=_DPSGD.noise_multiplier,
        max_grad_norm=_DPSGD.clipping_norm,
        **kind,
    )
    criterion = more[0] if ghost else plain

    def step() -> object:
        batch = poisson(rng, _EXAMPLES, batch_size / _EXAMPLES)
        optimiser.zero_grad()
        criterion(module(features[batch]), labels[batch]).backward()
        return optimiser.pre_step()

    return step


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
