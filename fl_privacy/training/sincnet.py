"""Training of speaker classifiers on random chunks of 200 ms, as SincNet's (Ravanelli and Bengio 2018, public code).

Without privacy, or by DP-SGD whose unit is one utterance: an utterance is in a step's batch with a fixed probability,
and then gives one chunk, so that a step's clipped sum holds each utterance at most once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fl_privacy._processes import one_thread
from fl_privacy._randomness import own_randomness, seed_streams
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier
from fl_privacy.models.sincnet import MIDDLE, PUBLISHED, SincNet, SincNetSize
from fl_privacy.training.accounting import Ledger, noise_multiplier_for
from fl_privacy.training.private import DPSGD, PrivateGradients, poisson, sample_rate

Waves = Sequence[NDArray[np.float32]]

UNIT = "utterance"
"""What differential privacy protects here."""


@dataclass(frozen=True, slots=True)
class PrivateTraining:
    """How a classifier is trained with differential privacy.

    Attributes
    ----------
    target_epsilon : float
        For all steps together; infinity clips without noise.
    delta : float
    clipping_norm : float
        Largest norm of an utterance's gradient in a step.
    """

    target_epsilon: float
    delta: float = 1e-5
    clipping_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class SincNetTraining:
    """How a speaker classifier is trained.

    Attributes
    ----------
    size : SincNetSize
        See `fl_privacy.models.sincnet.SIZES`.
    steps, batch_size : int
        Batches, and chunks in each; with privacy, chunks in each on average.
    learning_rate : float
    decay : {"linear", "none"}
        Whether the learning rate falls to zero over the steps, or stays, as published.
    optimiser : {"rmsprop", "adam"}
        RMSprop has a smoothing of .95 and an epsilon of 1e-8, as published.
    gain : tuple of float
        Chunks are multiplied with a number between these.
    shift : int
        Samples between the windows of a sentence, when it is decided on.
    checkpoint_every : int
        Steps between checkpoints.
    private : PrivateTraining or None
        Batch normalisation becomes group normalisation.
    label_smoothing : float
        Share of the target spread over all classes; below zero it is taken from them, which hinders inversion
        (Struppek, Hintersdorf and Kersting 2024, arXiv 2310.06549). Not with privacy.

    Raises
    ------
    UserError
        For numbers that are impossible.
    """

    size: SincNetSize = MIDDLE
    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-3
    decay: Literal["linear", "none"] = "linear"
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    gain: tuple[float, float] = (0.8, 1.2)
    shift: int = 160
    checkpoint_every: int = 200
    private: PrivateTraining | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "shift", "checkpoint_every"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"SincNet training: {name} must be positive, not {getattr(self, name)}")
        if self.optimiser not in ("rmsprop", "adam"):
            raise UserError(f"SincNet training: optimiser is {self.optimiser!r}. Known: rmsprop, adam")
        if self.decay not in ("linear", "none"):
            raise UserError(f"SincNet training: decay is {self.decay!r}. Known: linear, none")
        if not 0 < self.gain[0] <= self.gain[1]:
            raise UserError(f"SincNet training: gain is {self.gain}; give a smaller and a larger number above 0")
        if not -1 < self.label_smoothing < 1 or (self.label_smoothing and self.private is not None):
            raise UserError("SincNet training: label_smoothing must lie between -1 and 1, and be 0 with privacy")
        if self.private is not None and self.size.normalisation == "batch":
            # Examples meet in batch normalisation: one of them would move the gradients of all others.
            object.__setattr__(self, "size", replace(self.size, normalisation="group"))


AS_PUBLISHED = SincNetTraining(PUBLISHED, steps=288_000, batch_size=128, decay="none", checkpoint_every=800)
"""360 epochs of 800 batches: a day on the GPU of the study."""


class Chunks:
    """Utterances from which windows are cut at random.

    Parameters
    ----------
    waves : sequence of ndarray, each (samples,)
    speakers : sequence of str
        Of each wave.
    window : int
        Samples of a chunk.

    Attributes
    ----------
    names : tuple of str
        Of the classes: the speakers as they first appear.

    Raises
    ------
    UserError
        With fewer than two speakers, a wave shorter than a window, or one that is silent or not finite.
    """

    def __init__(self, waves: Waves, speakers: Sequence[str], window: int) -> None:
        if len(waves) != len(speakers):
            raise UserError(f"{len(waves)} waves, but {len(speakers)} speakers: give one for each wave")
        self.names = tuple(dict.fromkeys(speakers))
        if len(self.names) < 2:
            raise UserError("a speaker classifier is trained on two speakers at least")
        for number, wave in enumerate(waves):
            if len(wave) < window:
                raise UserError(
                    f"wave {number} (speaker {speakers[number]!r}) has {len(wave)} samples, fewer than a window's "
                    f"{window}: leave it out"
                )
            if not np.isfinite(wave).all() or not np.abs(wave).max() > 0:
                raise UserError(f"wave {number} (speaker {speakers[number]!r}) is silent or not finite: leave it out")
        codes = {name: code for code, name in enumerate(self.names)}
        self.window = window
        self._codes = np.array([codes[name] for name in speakers])
        sizes = np.array([len(wave) for wave in waves])
        self._starts, self._spare = np.cumsum(sizes) - sizes, sizes - window + 1
        self._samples = torch.from_numpy(np.concatenate([wave / np.abs(wave).max() for wave in waves])).float()

    def __len__(self) -> int:
        return len(self._codes)

    def cut(
        self, utterances: NDArray[np.int64], gain: tuple[float, float], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Cut one chunk of each of some utterances, at a random place and with a random gain.

        Returns
        -------
        Tensor, (n, window)
        Tensor, (n,)
            The speakers' numbers.
        """
        starts = self._starts[utterances] + rng.integers(self._spare[utterances])
        gains = torch.from_numpy(rng.uniform(*gain, size=(len(utterances), 1))).float()
        chunks = self._samples[torch.from_numpy(starts[:, None] + np.arange(self.window))]
        return chunks * gains, torch.from_numpy(self._codes[utterances])

    def fingerprint(self) -> str:
        """Return a digest of the samples and of who speaks."""
        digest = hashlib.sha256(json.dumps([self.names, self._codes.tolist(), self._starts.tolist()]).encode())
        digest.update(self._samples.numpy().tobytes())
        return digest.hexdigest()


def train_classifier(
    waves: Waves,
    speakers: Sequence[str],
    settings: SincNetTraining,
    seed: int,
    *,
    checkpoint: Path | None = None,
    told: Callable[[int], None] | None = None,
) -> SpeakerClassifier:
    """Train a speaker classifier on one thread; the same seed gives the same one on one machine.

    Parameters
    ----------
    waves : sequence of ndarray, each (samples,)
        At the rate of ``settings.size``.
    speakers : sequence of str
        Of each wave; two at least.
    settings : SincNetTraining
    seed : int
        Of the initial weights and the chunks.
    checkpoint : Path, optional
        Where training goes on from, and writes to as it goes; the end is the same as without interruption.
    told : callable, optional
        Told the number of steps done.

    Returns
    -------
    SpeakerClassifier

    Raises
    ------
    UserError
        For waves that cannot be used (see `Chunks`), a checkpoint of another training, and where training ends in
        numbers that are not finite.
    """
    chunks = Chunks(waves, speakers, settings.size.window)
    with one_thread(), own_randomness("speaker classifier", seed):
        network = SincNet(settings.size, len(chunks.names))
        optimiser = _optimiser(network, settings)
        identity = ""
        done = 0
        if checkpoint is not None:
            asked = asdict(settings) | {"checkpoint_every": 0}
            identity = json.dumps([asked, seed, chunks.fingerprint()], sort_keys=True)
            if checkpoint.exists():
                done = _resume(checkpoint, identity, network, optimiser)
        advance = _private_steps if settings.private is not None else _plain_steps
        for step in advance(network, optimiser, chunks, settings, seed, done):
            if checkpoint is not None and (step % settings.checkpoint_every == 0 or step == settings.steps):
                _keep(checkpoint, identity, network, optimiser, step)
            if told is not None:
                told(step)
    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise UserError("training the speaker classifier diverged; lower learning_rate")
    size = settings.size
    return SpeakerClassifier(network, chunks.names, size.sample_rate, size.window, settings.shift)


def sentence_error(classifier: SpeakerClassifier, waves: Waves, speakers: Sequence[str]) -> float:
    """Return the share of sentences that are given to another than their speaker.

    Parameters
    ----------
    classifier : SpeakerClassifier
    waves : sequence of ndarray, each (samples,)
    speakers : sequence of str

    Raises
    ------
    UserError
        If there is no sentence, or a speaker is none of the classes.
    """
    if not len(waves) or len(waves) != len(speakers):
        raise UserError(f"{len(waves)} sentences of {len(speakers)} speakers: give one speaker for each")
    wrong = [classifier.decide(wave)[0] != classifier.number(name) for wave, name in zip(waves, speakers, strict=True)]
    return float(np.mean(wrong))


def privacy_spent(settings: SincNetTraining, utterances: int) -> dict[str, float | str]:
    """Say what a private training costs.

    Parameters
    ----------
    settings : SincNetTraining
        With ``private``.
    utterances : int
        Trained on.

    Returns
    -------
    dict
        ``unit`` (one utterance: a speaker has several, for whom epsilon is larger), ``epsilon``, ``delta``,
        ``noise_multiplier``, ``sample_rate``, ``steps``.

    Raises
    ------
    UserError
        Without ``private``, or for an epsilon that cannot be reached.
    """
    if settings.private is None:
        raise UserError("this training is not private: give it private=PrivateTraining(...)")
    rate = sample_rate(utterances, settings.batch_size)
    noise = noise_multiplier_for(settings.private.target_epsilon, settings.private.delta, rate, settings.steps)
    spent = Ledger("example").added(noise, rate, settings.steps).epsilon(settings.private.delta)
    return {
        "unit": UNIT, "epsilon": spent, "delta": settings.private.delta,
        "noise_multiplier": noise, "sample_rate": rate, "steps": settings.steps,
    }  # fmt: skip


def _optimiser(network: SincNet, settings: SincNetTraining) -> torch.optim.Optimizer:
    if settings.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    return torch.optim.RMSprop(network.parameters(), lr=settings.learning_rate, alpha=0.95, eps=1e-8)


def _plain_steps(
    network: SincNet, optimiser: torch.optim.Optimizer, chunks: Chunks, settings: SincNetTraining, seed: int, done: int
) -> Iterator[int]:
    network.train()
    for step in range(done, settings.steps):
        rng = _begin(optimiser, settings, seed, step)
        windows, codes = chunks.cut(rng.integers(len(chunks), size=settings.batch_size), settings.gain, rng)
        optimiser.zero_grad()
        _smoothed(network(windows), codes, settings.label_smoothing).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield step + 1


def _smoothed(logits: Tensor, codes: Tensor, share: float) -> Tensor:
    """Cross-entropy to targets of which a share, maybe a negative one, is spread over all classes."""
    own = functional.cross_entropy(logits, codes)
    return own if not share else (1 - share) * own - share * torch.log_softmax(logits, dim=1).mean()


def _private_steps(
    network: SincNet, optimiser: torch.optim.Optimizer, chunks: Chunks, settings: SincNetTraining, seed: int, done: int
) -> Iterator[int]:
    assert settings.private is not None
    count = len(chunks)
    noise = privacy_spent(settings, count)["noise_multiplier"]
    rate = sample_rate(count, settings.batch_size)
    dpsgd = DPSGD(settings.private.clipping_norm, float(noise), engine="hooks")
    parameters = dict(network.named_parameters())
    with PrivateGradients(network, "cross-entropy", dpsgd) as gradients:
        for step in range(done, settings.steps):
            rng = _begin(optimiser, settings, seed, step)
            drawn = poisson(rng, count, rate).numpy()
            batch = chunks.cut(drawn, settings.gain, rng)
            for name, slope in gradients(*batch, rng=rng, expected=rate * count).items():
                parameters[name].grad = slope
            optimiser.step()
            yield step + 1


def _begin(optimiser: torch.optim.Optimizer, settings: SincNetTraining, seed: int, step: int) -> np.random.Generator:
    """Set a step's learning rate; return its randomness, the same in a run that goes on, and seed the network's own."""
    left = 1.0 - step / settings.steps if settings.decay == "linear" else 1.0
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * left
    seed_streams("speaker classifier", seed, step)
    return np.random.default_rng([seed, step])


def _keep(path: Path, identity: str, network: SincNet, optimiser: torch.optim.Optimizer, step: int) -> None:
    from safetensors.torch import save_file

    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor.contiguous() for name, tensor in state.items()}
    part = path.with_name(f".{path.name}.part")
    save_file(tensors, str(part), {"training": identity, "step": str(step)})
    os.replace(part, path)


def _resume(path: Path, identity: str, network: SincNet, optimiser: torch.optim.Optimizer) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as held:
            about = held.metadata() or {}
            tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}); remove it to train anew") from error
    if about.get("training") != identity:
        raise UserError(
            f"checkpoint {path} is of another training (settings, seed or voices); remove it, or name another"
        )
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            number, _, what = rest.partition(".")
            state.setdefault(int(number), {})[what] = tensor
    network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    return int(about["step"])
