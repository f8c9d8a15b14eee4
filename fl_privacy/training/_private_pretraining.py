"""Private pre-training: DP-SGD over utterances."""

from __future__ import annotations

import re
from typing import Any, Self

import numpy as np
import torch

from fl_privacy.training._pretraining_steps import Run
from fl_privacy.training.accounting import Ledger, noise_multiplier_for
from fl_privacy.training.private import DPSGD, PrivateGradients, poisson, replaced, sample_rate


class PrivateRun(Run):
    """Steps of private training: each utterance is drawn by itself and gives one crop at most."""

    def prepare(self) -> None:
        """Put layers that can be private in the place of those that cannot; work out the noise."""
        dp = self.settings.dp
        assert dp is not None
        self.module, self.replaced = replaced(self.plain)
        self.sampling = sample_rate(len(self.crops), self.settings.batch_size)
        noise = dp.noise_multiplier
        if noise is None:
            assert dp.target_epsilon is not None
            noise = noise_multiplier_for(dp.target_epsilon, dp.delta, self.sampling, self.settings.steps)
        self.noise = noise
        self.private = PrivateGradients(self.module, self.objective.loss, DPSGD(dp.clipping_norm, noise))

    def __enter__(self) -> Self:
        self.private.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.private.__exit__(*error)

    def gradient(self, step: int, rng: np.random.Generator) -> None:
        """Leave the private gradient of a Poisson batch with the parameters."""
        drawn = poisson(rng, len(self.crops), self.sampling).numpy()
        inputs, targets = self.objective.question(self.crops.cut(drawn, rng), rng)
        found = self.private(inputs, targets, rng=rng, expected=self.sampling * len(self.crops))
        finite = True
        for name, parameter in self.module.named_parameters():
            parameter.grad = found[name]
            finite = finite and bool(torch.isfinite(found[name]).all())
        self.noted(0.0 if finite else float("nan"), step)

    def facts(self) -> dict[str, Any]:
        """Give the plain module its weights; return what was spent on them."""
        self.plain.load_state_dict({_plain_name(name): value for name, value in self.module.state_dict().items()})
        ledger = Ledger("example").added(self.noise, self.sampling, self.settings.steps)
        dp = self.settings.dp
        assert dp is not None
        spent = {
            "unit": "utterance",
            "clipping_norm": dp.clipping_norm,
            "noise_multiplier": self.noise,
            "sample_rate": self.sampling,
            "steps": self.settings.steps,
            "delta": dp.delta,
            "epsilon": ledger.epsilon(dp.delta),
        }
        return {"privacy": spent, "replaced": {name: kind.partition("(")[0] for name, kind in self.replaced.items()}}


def _plain_name(name: str) -> str:
    """Return torch's name of a parameter of Opacus' LSTM: ``recurrent.l0.ih.weight`` is ``recurrent.weight_ih_l0``."""
    return re.sub(r"\b(l\d+)\.(ih|hh)\.(weight|bias)$", r"\3_\2_\1", name)
