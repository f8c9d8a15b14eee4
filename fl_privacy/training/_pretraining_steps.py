"""The steps of a pre-training, each of them a function of the seed and its number alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_privacy.errors import UserError
from fl_privacy.models.checkpoints import read_checkpoint, write_checkpoint
from fl_privacy.models.pretrained import Module
from fl_privacy.training._crops import Crops
from fl_privacy.training.pretraining_settings import Pretraining, learning_rate
from fl_privacy.training.ssl_objectives import Objective


class Run:
    """Steps of ordinary training."""

    def __init__(
        self,
        module: Module,
        objective: Objective,
        crops: Crops,
        speakers: Sequence[str],
        settings: Pretraining,
        seed: int,
    ) -> None:
        self.module: nn.Module = module
        self.plain, self.objective, self.crops, self.settings, self.seed = module, objective, crops, settings, seed
        self.draw = Batches(speakers, settings, seed)
        self.prepare()
        parameters, rate = list(self.module.parameters()), settings.rate
        self.optimiser: torch.optim.Optimizer
        if settings.model == "tera":
            self.optimiser = torch.optim.AdamW(parameters, rate, weight_decay=settings.weight_decay, fused=True)
        else:
            self.optimiser = torch.optim.Adam(parameters, rate, fused=True)
        self.loss = float("nan")
        self.module.train()

    def prepare(self) -> None:
        """Put another module in the place of the plain one, where that is needed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def step(self, step: int) -> None:
        rng = np.random.default_rng([self.seed, 1, step])
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, step)
        self.gradient(step, rng)
        self.optimiser.step()

    def gradient(self, step: int, rng: np.random.Generator) -> None:
        inputs, targets = self.objective.question(self.crops.cut(self.draw(step, rng), rng), rng)
        self.optimiser.zero_grad()
        loss = self.objective.loss(self.module(inputs), targets).mean()
        torch.autograd.backward(loss)
        if self.settings.cut:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.cut)
        self.noted(float(loss.detach()), step)

    def noted(self, loss: float, step: int) -> None:
        if not np.isfinite(loss):
            raise UserError(
                f"pre-training {self.settings.model} diverged at step {step + 1} of {self.settings.steps}; "
                "lower learning_rate"
            )
        self.loss = loss

    def keep(self, path: Path, known: str, done: int) -> None:
        held = {"state": self.module.state_dict(), "optimiser": self.optimiser.state_dict(), "loss": self.loss}
        write_checkpoint(path, {"format": 1, "pretraining": known, "step": done, **held})

    def resume(self, path: Path, known: str) -> int:
        held = read_checkpoint(path, "pre-training")
        if not isinstance(held, Mapping) or "pretraining" not in held:
            raise UserError(f"pre-training: {path} is no checkpoint of a pre-training; name another file")
        if held["pretraining"] != known:
            raise UserError(
                f"pre-training: {path} belongs to other waves, settings or another seed; remove it or name another file"
            )
        self.module.load_state_dict(held["state"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.loss = float(held["loss"])
        return int(held["step"])

    def finished(self) -> Module:
        self.plain.record = {
            "steps": self.settings.steps,
            "crop_seconds": self.settings.seconds,
            **self.facts(),
        }
        return self.plain.eval()

    def facts(self) -> dict[str, Any]:
        return {"loss": self.loss}


class Batches:
    """Which utterances are in the batch of a step: through all of them, in a new order each time."""

    def __init__(self, speakers: Sequence[str], settings: Pretraining, seed: int) -> None:
        self._count, self._size, self._seed = len(speakers), settings.batch_size, seed
        names = {name: number for number, name in enumerate(dict.fromkeys(speakers))}
        self._speaker = np.array([names[name] for name in speakers]) if settings.one_speaker else None
        self._epoch, self._order = -1, np.arange(0)

    def __call__(self, step: int, rng: np.random.Generator) -> NDArray[np.int64]:
        if self._speaker is not None:
            own = np.flatnonzero(self._speaker == self._speaker[rng.integers(self._count)])
            return np.resize(rng.permutation(own), self._size)
        places = np.arange(step * self._size, (step + 1) * self._size)
        epochs = places // self._count
        return np.array(
            [self._of(int(epoch))[place] for epoch, place in zip(epochs, places % self._count, strict=True)]
        )

    def _of(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, 2, epoch]).permutation(self._count)
        return self._order
