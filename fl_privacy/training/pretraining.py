"""Pre-training of self-supervised encoders: TERA and CPC, on one core, resumable to the bit.

What is random in a step (crops, masks, negatives, dropout, noise) depends on the seed and the number of the step alone,
so that a run that was killed goes on from a checkpoint as if nothing had been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_privacy._processes import one_thread
from fl_privacy._randomness import own_randomness
from fl_privacy.errors import UserError
from fl_privacy.models.checkpoints import read_checkpoint, write_checkpoint
from fl_privacy.models.cpc import CPCSize
from fl_privacy.models.frames import encoder_of
from fl_privacy.models.pretrained import IN_REPO, Module, load_module, make_module, save_module
from fl_privacy.models.tera import TERASize
from fl_privacy.training._crops import Crops
from fl_privacy.training.ssl_objectives import Objective, checked_waves, objective_of

__all__ = [
    "DPPretraining",
    "Pretraining",
    "encoder_of",
    "load_module",
    "pretrain",
    "pretraining_losses",
    "published",
    "save_module",
]

Waves = Sequence[NDArray[np.float32]]

_SECONDS = {"tera": 3.0, "cpc": 1.28}
_RATES = {"tera": 2e-4, "cpc": 2e-4}


@dataclass(frozen=True, slots=True)
class DPPretraining:
    """DP-SGD that protects single utterances; see `fl_privacy.training.private`.

    Attributes
    ----------
    clipping_norm : float
        Largest norm of an utterance's gradient.
    noise_multiplier : float, optional
        Deviation of the noise in units of `clipping_norm`.
    target_epsilon : float, optional
        Instead of `noise_multiplier`: the least noise with which all steps stay within it.
    delta : float
        At which epsilon holds.

    Raises
    ------
    UserError
        Unless one of `noise_multiplier` and `target_epsilon` is given.
    """

    clipping_norm: float = 1.0
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    delta: float = 1e-5

    def __post_init__(self) -> None:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise UserError("private pre-training: give one of noise_multiplier and target_epsilon")


@dataclass(frozen=True, slots=True)
class Pretraining:
    """How an encoder is pre-trained.

    Attributes
    ----------
    model : {"tera", "cpc"}
    size : str, TERASize, CPCSize or mapping
        "small", "published", or one of one's own (a mapping holds its attributes).
    steps : int
    batch_size : int
        Crops, each of another utterance as long as there are enough; with `dp` on average.
    crop_seconds : float, optional
        By default 3 for TERA, 1.28 for CPC (as published). Shorter utterances are repeated.
    learning_rate : float, optional
        By default as published, 2e-4. TERA's rises over the first `warm_up` of the steps and then falls to 0 linearly;
        CPC's stays.
    warm_up : float
        Share of the steps, for TERA.
    clip : float, optional
        Norm that the gradient of a batch is cut to; 0: it is not. By default 5 for TERA, 0 for CPC.
    weight_decay : float
        Of TERA's AdamW; CPC has Adam.
    negatives : int
        Of CPC.
    negatives_among : {"batch", "utterance"}
        Of CPC: see `fl_privacy.training.ssl_objectives.Contrast`.
    batches : {"speaker", "mixed"}, optional
        Whether the utterances of a batch are one speaker's. By default as published: "speaker" for CPC, else "mixed".
    dp : DPPretraining, optional

    Raises
    ------
    UserError
        For values that are impossible or do not go together.
    """

    model: Literal["tera", "cpc"] = "tera"
    size: str | TERASize | CPCSize | Mapping[str, Any] = "small"
    steps: int = 1000
    batch_size: int = 16
    crop_seconds: float | None = None
    learning_rate: float | None = None
    warm_up: float = 0.07
    clip: float | None = None
    weight_decay: float = 0.01
    negatives: int = 128
    negatives_among: Literal["batch", "utterance"] = "batch"
    batches: Literal["speaker", "mixed"] | None = None
    dp: DPPretraining | None = None

    def __post_init__(self) -> None:
        if self.model not in IN_REPO:
            raise UserError(f"pre-training: model is {self.model!r}. Known: {', '.join(IN_REPO)}")
        positive: dict[str, float | None] = {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "crop_seconds": self.crop_seconds,
            "learning_rate": self.learning_rate,
            "negatives": self.negatives,
        }
        for name, value in positive.items():
            if value is not None and value <= 0:
                raise UserError(f"pre-training: {name} must be positive, not {value}")
        if not 0 <= self.warm_up < 1 or (self.clip or 0) < 0 or self.weight_decay < 0:
            raise UserError("pre-training: warm_up is from 0 to below 1, clip and weight_decay are not negative")
        if self.negatives_among not in ("batch", "utterance"):
            raise UserError(f"pre-training: negatives_among is {self.negatives_among!r}. Known: batch, utterance")
        if self.batches not in (None, "speaker", "mixed"):
            raise UserError(f"pre-training: batches is {self.batches!r}. Known: speaker, mixed")
        if self.dp is not None and self.batches == "speaker":
            raise UserError("private pre-training draws each utterance by itself: batches of one speaker are none")
        if self.dp is not None and self.model == "cpc" and self.negatives_among == "batch":
            raise UserError(
                "private pre-training of CPC: with negatives from the batch one utterance moves the others' gradients, "
                "which clipping does not bound; take negatives_among = 'utterance'"
            )

    @property
    def seconds(self) -> float:
        """Length of a crop."""
        return _SECONDS[self.model] if self.crop_seconds is None else self.crop_seconds

    @property
    def rate(self) -> float:
        """Highest learning rate."""
        return _RATES[self.model] if self.learning_rate is None else self.learning_rate

    @property
    def cut(self) -> float:
        """Norm that the gradient of a batch is cut to, or 0."""
        if self.clip is not None:
            return self.clip
        return 5.0 if self.model == "tera" and self.dp is None else 0.0

    @property
    def one_speaker(self) -> bool:
        """Whether a batch is one speaker's."""
        return self.batches == "speaker" or (self.batches is None and self.model == "cpc" and self.dp is None)

    def objective(self) -> Objective:
        """Return what the model is trained to do."""
        return objective_of(self.model, self.negatives, self.negatives_among)


def published(model: Literal["tera", "cpc"], hours: int = 100) -> Pretraining:
    """Return the published recipe: TERA on 100 or 960 hours of LibriSpeech, or CPC.

    Parameters
    ----------
    model : {"tera", "cpc"}
    hours : {100, 960}
        For TERA: 200,000 steps, or 1,000,000.

    Notes
    -----
    TERA's crops are 15 s (1,500 frames) in batches of 32. CPC is trained for epochs, whose number depends on the
    corpus: 100,000 steps of 8 stand here.
    """
    if model == "cpc":
        return Pretraining("cpc", "published", 100_000, 8)
    return Pretraining("tera", "published", {100: 200_000, 960: 1_000_000}[hours], 32, 15.0)


def pretrain(
    waves: Waves,
    speakers: Sequence[str],
    settings: Pretraining,
    seed: int,
    *,
    checkpoint: Path | None = None,
    told: Callable[[int], None] | None = None,
    checkpoint_every: int = 200,
) -> Module:
    """Pre-train an encoder on one thread; the same seed gives the same weights on one machine.

    Parameters
    ----------
    waves : sequence of ndarray, each (samples,)
        16 kHz; each is an utterance.
    speakers : sequence of str
        Of each wave.
    settings : Pretraining
    seed : int
        Of the initial weights and all that is drawn.
    checkpoint : Path, optional
        A file that is written every `checkpoint_every` steps and at the end, and from which training goes on.
    told : callable, optional
        Told the number of steps done.
    checkpoint_every : int

    Returns
    -------
    TERA or CPC
        In evaluation mode. Its ``record`` holds the crop's length, the loss of the last step and, after private
        training, the ledger and which layers were replaced meanwhile.

    Raises
    ------
    UserError
        For waves that are too short or not finite, a checkpoint of other waves or settings, and where training ends in
        numbers that are not finite.
    """
    if not waves or len(waves) != len(speakers):
        raise UserError(f"pre-training: {len(waves)} waves and {len(speakers)} speakers: give a speaker for each wave")
    objective = settings.objective()
    usable = checked_waves(waves, objective)
    tell = told or (lambda done: None)
    with one_thread(), own_randomness("pretraining", settings.model, seed):
        module = make_module(settings.model, settings.size)
        crops = Crops([objective.sequence(wave) for wave in usable], objective.moments(settings.seconds))
        run = _private_run if settings.dp is not None else _Run
        work = run(module, objective, crops, speakers, settings, seed)
        known = _fingerprint(usable, speakers, settings, seed) if checkpoint is not None else ""
        start = work.resume(checkpoint, known) if checkpoint is not None and checkpoint.exists() else 0
        with work:
            for step in range(start, settings.steps):
                work.step(step)
                if checkpoint is not None and ((step + 1) % checkpoint_every == 0 or step + 1 == settings.steps):
                    work.keep(checkpoint, known, step + 1)
                tell(step + 1)
        return work.finished()


class _Run:
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
        self.draw = _Batches(speakers, settings, seed)
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


class _Batches:
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


def learning_rate(settings: Pretraining, step: int) -> float:
    """Return the learning rate of a step, the first being 0."""
    if settings.model == "cpc":
        return settings.rate
    rising = settings.warm_up * settings.steps
    if step + 1 < rising:
        return settings.rate * (step + 1) / rising
    return settings.rate * min(1.0, (settings.steps - step) / (settings.steps - rising))


def _private_run(*arguments: Any) -> _Run:
    from fl_privacy.training._private_pretraining import PrivateRun

    return PrivateRun(*arguments)


def _fingerprint(waves: Waves, speakers: Sequence[str], settings: Pretraining, seed: int) -> str:
    digest = hashlib.sha256(repr((settings, seed, tuple(speakers))).encode())
    for wave in waves:
        digest.update(len(wave).to_bytes(8, "little") + wave.tobytes())
    return digest.hexdigest()


@torch.no_grad()
def pretraining_losses(
    module: Module,
    waves: Waves,
    *,
    crops: int,
    seed: int,
    full_length: bool = False,
    crop_seconds: float | None = None,
) -> NDArray[np.float64]:
    """Return how well a module does on each wave what it was pre-trained to do: what a grey-box attacker may ask.

    Which crops, masks and negatives a wave is asked with depends on the seed and the wave's own samples alone: neither
    on the module nor on the other waves. So losses of two modules can be subtracted, wave by wave. Dropout is off;
    CPC's negatives come from the same utterance.

    Parameters
    ----------
    module : TERA or CPC
    waves : sequence of ndarray, each (samples,)
        16 kHz.
    crops : int
        Crops, or masks and negatives for the whole, over which a wave's loss is averaged.
    seed : int
    full_length : bool
        Whether the whole wave is taken instead of crops.
    crop_seconds : float, optional
        Length of a crop; by default that of the module's training.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    UserError
        For waves that are too short or not finite, and without crops.
    """
    if crops < 1:
        raise UserError(f"pretraining_losses: crops must be positive, not {crops}")
    settings = Pretraining(module.kind, module.size, negatives_among="utterance", crop_seconds=crop_seconds)  # type: ignore[arg-type]
    if crop_seconds is None and "crop_seconds" in module.record:
        settings = replace(settings, crop_seconds=module.record["crop_seconds"])
    objective = settings.objective()
    length = objective.moments(settings.seconds)
    found = np.empty(len(waves))
    was_training = module.training
    module.eval()
    with one_thread():
        for number, wave in enumerate(checked_waves(waves, objective)):
            rng = np.random.default_rng([seed, *hashlib.sha256(wave.tobytes()).digest()])
            sequence = objective.sequence(wave)
            if full_length:
                asked = sequence[None].expand(crops, *sequence.shape)
            else:
                asked = Crops([sequence], length).cut(np.zeros(crops, dtype=np.int64), rng)
            found[number] = _mean_loss(module, objective, asked, rng)
    module.train(was_training)
    return found


def _mean_loss(module: nn.Module, objective: Objective, asked: Tensor, rng: np.random.Generator) -> float:
    inputs, targets = objective.question(asked, rng)
    return float(objective.loss(module(inputs), targets).double().mean())
