"""How a TERA or a CPC is pre-trained: every setting, as published unless said otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fl_privacy.errors import UserError
from fl_privacy.models.cpc import CPCSize
from fl_privacy.models.pretrained import IN_REPO
from fl_privacy.models.tera import TERASize
from fl_privacy.training.ssl_objectives import Objective, objective_of

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
        least = self.objective().least
        if self.seconds < least:
            raise UserError(
                f"pre-training: crop_seconds = {self.seconds:g} is too short for {self.model}, whose task takes "
                f"{math.ceil(1000 * least) / 1000:g} s at least"
            )
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


def learning_rate(settings: Pretraining, step: int) -> float:
    """Return the learning rate of a step, the first being 0."""
    if settings.model == "cpc":
        return settings.rate
    rising = settings.warm_up * settings.steps
    if step + 1 < rising:
        return settings.rate * (step + 1) / rising
    return settings.rate * min(1.0, (settings.steps - step) / (settings.steps - rising))
