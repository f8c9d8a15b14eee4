"""A self-supervised speech encoder as its user sees it: a wave in, frames out, every answer checked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy._randomness import own_randomness
from fl_privacy.errors import UserError
from fl_privacy.models.log_mel import SAMPLE_RATE, WINDOW

Frames = NDArray[np.float32]
Reader = Callable[[NDArray[np.float32], int], Sequence[Any]]
"""Of a wave and a number n: what the first n layers make of it (or all, where it cannot stop early)."""


class FrameEncoder:
    """An encoder that turns a wave into frames, and of which some layers can be read.

    Utterances are asked about one by one, so that what is said of one cannot depend on others. `of_callable` wraps an
    encoder of one's own; `load_frame_encoder` loads one from disk.

    Parameters
    ----------
    read : callable
        See `Reader`.
    name : str
        For messages and reports.
    dim : int
        Numbers in a frame.
    hop : int
        Samples between frames, at 16 kHz.
    layers : int
        How many there are to read.
    layer : int
        Which one is read: 0 is the first, -1 the last.
    shortest : int
        Fewest samples of which there is a frame.
    untrained : callable, optional
        Of a seed: the same encoder with weights that were never trained, for `untrained`.

    Attributes
    ----------
    queries : int
        Waves that the encoder was asked about so far, by this object and all that `at` made of it.

    Raises
    ------
    UserError
        For sizes that are not positive, and a layer that is not there.
    """

    def __init__(
        self,
        read: Reader,
        *,
        name: str,
        dim: int,
        hop: int,
        layers: int = 1,
        layer: int = -1,
        shortest: int = 1,
        untrained: Callable[[int], FrameEncoder] | None = None,
    ) -> None:
        sizes = {"dim": dim, "hop": hop, "layers": layers, "shortest": shortest}
        for what, size in sizes.items():
            if size < 1:
                raise UserError(f"frame encoder {name}: {what} must be positive, not {size}")
        self._read, self._asked, self._untrained = read, [0], untrained
        self.name, self.dim, self.hop, self.layers, self.shortest = name, dim, hop, layers, shortest
        self.layer = self._there(layer)

    def __repr__(self) -> str:
        at = f"layer {self.layer % self.layers} of {self.layers}"
        return f"<FrameEncoder {self.name!r}: {self.dim} numbers every {self.hop} samples, {at}>"

    @property
    def queries(self) -> int:
        """Waves asked about so far."""
        return self._asked[0]

    @classmethod
    def of_callable(
        cls,
        fn: Callable[[NDArray[np.float32]], Any],
        *,
        name: str = "encoder",
        sample_rate: int = SAMPLE_RATE,
        dim: int | None = None,
        hop: int | None = None,
        layers: int = 1,
        layer: int = -1,
        shortest: int = WINDOW,
    ) -> FrameEncoder:
        """Wrap an encoder of one's own.

        Parameters
        ----------
        fn : callable
            Takes a wave, float32 (samples,), full scale 1; returns frames (m, q), an array or tensor; with `layers`
            above 1 a list of them, the first layer's first. Where it is a torch module or a method of one, or has an
            attribute ``untrained``, a function of a seed that returns another such function, `untrained` works.
        name : str
        sample_rate : int
            Rate in Hz that `fn` expects; waves are resampled to it from 16 kHz.
        dim, hop : int, optional
            Numbers in a frame, and samples (at 16 kHz) between frames; by default learnt by asking about two seconds
            of soft noise, which counts as a query.
        layers, layer, shortest : int
            As for `FrameEncoder`.

        Raises
        ------
        UserError
            If `fn` is not callable, or fails on the noise.

        Examples
        --------
        >>> import numpy as np
        >>> halves = FrameEncoder.of_callable(lambda wave: wave[: len(wave) // 2 * 2].reshape(-1, 2), shortest=2)
        >>> halves
        <FrameEncoder 'encoder': 2 numbers every 2 samples, layer 0 of 1>
        >>> halves(np.ones(5, dtype=np.float32)).shape
        (2, 2)
        """
        if not callable(fn):
            raise UserError(f"{name}: a frame encoder is a function of a wave, not a {type(fn).__name__}")
        if sample_rate < 1:
            raise UserError(f"{name}: sample_rate must be positive, not {sample_rate}")

        def read(wave: NDArray[np.float32], count: int) -> Sequence[Any]:
            found = fn(_resampled(wave, sample_rate))
            return [found] if layers == 1 and not isinstance(found, list | tuple) else found

        def untrained(seed: int) -> FrameEncoder:
            from fl_privacy.models.untrained import untrained_like

            found = untrained_like(fn, seed, name)
            sizes = {"dim": made.dim, "hop": made.hop, "layers": layers, "layer": layer, "shortest": shortest}
            return cls.of_callable(found, name=f"{name}, untrained", sample_rate=sample_rate, **sizes)

        learning = dim is None or hop is None
        made = cls(
            read,
            name=name,
            dim=1 if dim is None else dim,
            hop=1 if hop is None else hop,
            layers=layers,
            layer=layer,
            shortest=shortest,
            untrained=untrained,
        )
        if learning:
            samples = max(2 * SAMPLE_RATE, shortest)
            noise = np.random.default_rng(0).normal(0, 0.01, samples).astype(np.float32)
            made.dim = dim or 0
            first = made.all_layers(noise)[0]
            made.dim, made.hop = first.shape[1], hop or max(1, round(samples / len(first)))
        return made

    def at(self, layer: int) -> FrameEncoder:
        """Return the same encoder, read at another layer; both count the same queries.

        Raises
        ------
        UserError
            If there is no such layer.
        """
        made = copy.copy(self)
        made.layer = self._there(layer)
        return made

    def renamed(self, name: str) -> FrameEncoder:
        """Return the same encoder under another name; both count the same queries."""
        made = copy.copy(self)
        made.name = name
        return made

    def untrained(self, seed: int) -> FrameEncoder:
        """Return the same encoder with weights that were never trained: what an attack finds there is not membership.

        Parameters
        ----------
        seed : int
            Of the weights.

        Raises
        ------
        UserError
            Where there is no way to make it, or what was given for that fails.
        """
        if self._untrained is None:
            raise UserError(
                f"{self.name}: there is no network of its kind that was never trained: its FrameEncoder was made "
                "without `untrained`, a function of a seed that makes one"
            )
        with own_randomness("untrained frame encoder", self.name, seed):
            found = self._untrained(seed)
        if not isinstance(found, FrameEncoder):
            raise UserError(f"{self.name}: its `untrained` returned a {type(found).__name__}, not a FrameEncoder")
        return found

    def __call__(self, wave: ArrayLike) -> Frames:
        """Return the frames of a wave.

        Parameters
        ----------
        wave : array_like, shape (samples,)
            Mono, 16 kHz, full scale 1.

        Returns
        -------
        ndarray of float32, shape (m, q)

        Raises
        ------
        UserError
            If the wave is empty, shorter than `shortest`, not one channel, or not finite; if the encoder fails, or its
            answer is no array (m, q) of finite numbers.
        """
        number = self.layer % self.layers
        samples = self._checked(wave)
        return self._answer(self._ask(samples, number + 1)[number], samples, number)

    def all_layers(self, wave: ArrayLike) -> list[Frames]:
        """Return the frames of every layer, each (m, q), from one pass; one query."""
        samples = self._checked(wave)
        return [self._answer(found, samples, at) for at, found in enumerate(self._ask(samples, self.layers))]

    def _ask(self, samples: NDArray[np.float32], count: int) -> Sequence[Any]:
        self._asked[0] += 1
        try:
            found = self._read(samples, count)
        except UserError:
            raise
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{self.name} failed on a wave of {len(samples)} samples: {type(error).__name__}: {first}"
            ) from error
        if not isinstance(found, Sequence) or not count <= len(found) <= self.layers:
            got = f"{len(found)} layers" if isinstance(found, Sequence) else f"a {type(found).__name__}"
            raise UserError(f"{self.name} gave {got}; expected {self.layers}")
        return found

    def _there(self, layer: int) -> int:
        if isinstance(layer, bool) or not isinstance(layer, int) or not -self.layers <= layer < self.layers:
            raise UserError(
                f"frame encoder {self.name}: layer must be a whole number from {-self.layers} to {self.layers - 1}, "
                f"not {layer!r}"
            )
        return layer

    def _checked(self, wave: ArrayLike) -> NDArray[np.float32]:
        samples = np.asarray(wave)
        if samples.ndim != 1:
            hint = "; average the channels first" if samples.ndim == 2 and min(samples.shape) <= 8 else ""
            raise UserError(f"{self.name}: a wave has the shape (samples,), not {samples.shape}{hint}")
        if samples.dtype.kind not in "f":
            raise UserError(f"{self.name}: a wave holds floating-point samples of full scale 1, not {samples.dtype}")
        if len(samples) < self.shortest:
            what = "an empty wave" if not len(samples) else f"a wave of {len(samples)} samples"
            raise UserError(f"{self.name}: {what} has no frame: one needs {self.shortest} samples at 16 kHz")
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        if not np.isfinite(samples).all():
            raise UserError(f"{self.name}: a wave holds samples that are not finite numbers")
        return samples

    def _answer(self, found: Any, samples: NDArray[np.float32], layer: int) -> Frames:
        try:
            frames = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name}, layer {layer}: an answer that is no array of numbers ({error})") from error
        if frames.ndim != 2 or not frames.size or self.dim not in (0, frames.shape[1]):
            raise UserError(
                f"{self.name}, layer {layer}: an answer of shape {frames.shape} to {len(samples)} samples; expected "
                f"frames (m, {self.dim or 'q'})"
            )
        if not np.isfinite(frames).all():
            raise UserError(
                f"{self.name}, layer {layer}: NaN or infinity in the frames of a wave of {len(samples)} samples"
            )
        return frames


def peak_normalised(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a wave with its largest sample at full scale, as the published attack prepares its input.

    Silence stays as it is.

    Parameters
    ----------
    wave : ndarray, shape (samples,)

    Returns
    -------
    ndarray of float32, shape (samples,)
    """
    peak = float(np.abs(wave).max(initial=0.0))
    return np.asarray(wave / peak if peak > 0 else wave, dtype=np.float32)


def _resampled(wave: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    if rate == SAMPLE_RATE:
        return wave
    import torch
    import torchaudio

    found = torchaudio.functional.resample(torch.from_numpy(wave), SAMPLE_RATE, rate).numpy()
    return np.ascontiguousarray(found)
