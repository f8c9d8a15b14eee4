"""A speaker recogniser as its user sees it: waves in, embeddings or similarities out, every answer checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy._registry import find_object
from fl_privacy.errors import UserError
from fl_privacy.models.speaker import SAMPLE_RATE

Waves = Sequence[NDArray[np.float32]]
SILENCE = 1e-5
"""Root mean square, of full scale 1, below which a wave is silence."""
Embed = Callable[[list[NDArray[np.float32]]], ArrayLike]


class SpeakerEncoder:
    """A speaker encoder of one's own, or one of ours, with white-box access: its embeddings are seen.

    Parameters
    ----------
    embed : callable
        Takes a list of waves, float32 (samples,), full scale 1, of any lengths; returns embeddings (waves, d).
    sample_rate : int
        Rate in Hz that `embed` expects; waves are resampled to it from 16 kHz.
    name : str
        For messages and reports.
    batch_size : int
        Waves handed to `embed` at a time.

    Attributes
    ----------
    queries : int
        Waves embedded so far: what an attack costs.
    dimension : int or None
        Of an embedding; None before the first.

    Raises
    ------
    UserError
        If `embed` is not callable, or a rate or size is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> encoder = SpeakerEncoder(lambda waves: [[wave.mean(), wave.std()] for wave in waves])
    >>> encoder.embed([np.ones(16_000, dtype=np.float32)])
    array([[1., 0.]], dtype=float32)
    """

    def __init__(
        self, embed: Embed, sample_rate: int = SAMPLE_RATE, *, name: str = "encoder", batch_size: int = 32
    ) -> None:
        if not callable(embed):
            raise UserError(f"{name}: embed must be a function of a list of waves, not {type(embed).__name__}")
        if sample_rate < 1 or batch_size < 1:
            raise UserError(f"{name}: sample_rate and batch_size must be positive; got {sample_rate} and {batch_size}")
        self._embed = embed
        self.sample_rate, self.name, self.batch_size = sample_rate, name, batch_size
        self.queries = 0
        self.dimension: int | None = None

    def __repr__(self) -> str:
        return f"<SpeakerEncoder {self.name!r}: {self.sample_rate} Hz, {self.queries} queries>"

    @classmethod
    def of_module(cls, module: Any, *, name: str = "encoder", sample_rate: int = SAMPLE_RATE) -> SpeakerEncoder:
        """Wrap a torch module that takes one wave (1, samples) and gives its embedding (1, d).

        Parameters
        ----------
        module : callable
            Such as `fl_privacy.models.speaker.WaveEncoder`; called without gradients, in the mode that it is in.
        name : str
        sample_rate : int
        """
        import torch

        def embed(waves: list[NDArray[np.float32]]) -> ArrayLike:
            with torch.no_grad():
                found = [module(torch.from_numpy(wave)[None]).detach().cpu() for wave in waves]
            for wave, embedding in zip(waves, found, strict=True):
                if embedding.ndim != 2 or len(embedding) != 1:
                    shape = tuple(embedding.shape)
                    raise UserError(f"{name}: a wave (1, {len(wave)}) gave shape {shape}; expected (1, dimension)")
            return torch.cat(found).float().numpy()

        return cls(embed, sample_rate, name=name)

    @classmethod
    def from_file(cls, path: str | Path, *, sample_rate: int = SAMPLE_RATE) -> SpeakerEncoder:
        """Load a TorchScript file, or one of `torch.export` (``.pt2``).

        The module takes one wave, float32 (1, samples) of any length, and gives its embedding (1, d). The file is code:
        load none that you do not trust.

        Parameters
        ----------
        path : str or Path
        sample_rate : int
            That the module expects, in Hz.

        Raises
        ------
        UserError
            If there is no such file, or it is neither.
        """
        import torch

        path = Path(path)
        if not path.is_file():
            raise UserError(f"speaker encoder: there is no file {path}")
        try:
            if path.suffix == ".pt2":
                module: Any = torch.export.load(path).module()
            else:
                module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except Exception as error:
            # Loaders raise whatever they meet: RuntimeError, ValueError, BadZipFile, KeyError...
            raise UserError(
                f"speaker encoder: {path} is neither a TorchScript nor a torch.export file "
                f"({str(error).strip().splitlines()[0][:100]}); a plain checkpoint needs its code: give a callable"
            ) from error
        return cls.of_module(module, name=path.name, sample_rate=sample_rate)

    def embed(self, waves: Waves) -> NDArray[np.float32]:
        """Return the embeddings of waves.

        Parameters
        ----------
        waves : sequence of ndarray, each (samples,)
            16 kHz, full scale 1.

        Returns
        -------
        ndarray of float32, shape (n, d)

        Raises
        ------
        UserError
            If a wave is empty or not finite; if the encoder fails, gives other than one embedding for each wave, one of
            another length than before, or numbers that are not finite.
        """
        checked = [self._wave(wave, number) for number, wave in enumerate(waves)]
        parts = []
        for start in range(0, len(checked), self.batch_size):
            batch = checked[start : start + self.batch_size]
            parts.append(self._answer(batch, start))
            self.queries += len(batch)
        if not parts:
            return np.empty((0, self.dimension or 0), dtype=np.float32)
        return np.concatenate(parts)

    def embed_usable(self, waves: Waves) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return the embeddings of waves that have one, and why the others have none.

        Parameters
        ----------
        waves : sequence of ndarray, each (samples,)

        Returns
        -------
        ndarray of float32, shape (n - left out, d)
        dict of int to str
            Number of a wave left out, and the reason: silence is not asked about; the encoder failed, or gave NaN.

        Raises
        ------
        UserError
            If no wave of several that are not silent has an embedding: then it is the encoder.
        """
        left_out = {n: "silence" for n, wave in enumerate(waves) if is_silent(wave)}
        heard = [n for n in range(len(waves)) if n not in left_out]
        parts = []
        for start in range(0, len(heard), self.batch_size):
            numbers = heard[start : start + self.batch_size]
            try:
                parts.append(self.embed([waves[n] for n in numbers]))
            except UserError as error:
                if len(numbers) == 1:
                    left_out[numbers[0]] = str(error)
                    continue
                for n in numbers:
                    try:
                        parts.append(self.embed([waves[n]]))
                    except UserError as reason:
                        left_out[n] = str(reason)
        if heard and not parts:
            raise UserError(f"none of {len(heard)} voices has an embedding; the first: {left_out[heard[0]]}")
        return np.concatenate(parts) if parts else np.empty((0, self.dimension or 0), dtype=np.float32), left_out

    def _wave(self, wave: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        samples = np.ascontiguousarray(wave, dtype=np.float32)
        if samples.ndim != 1 or not samples.size:
            raise UserError(f"wave {number} has shape {samples.shape}; expected (samples,) with at least one")
        if not np.isfinite(samples).all():
            raise UserError(f"wave {number} holds samples that are not finite numbers")
        if self.sample_rate != SAMPLE_RATE:
            import torch
            import torchaudio

            resampled = torchaudio.functional.resample(torch.from_numpy(samples), SAMPLE_RATE, self.sample_rate)
            samples = np.ascontiguousarray(resampled.numpy())
        return samples

    def _answer(self, waves: list[NDArray[np.float32]], start: int) -> NDArray[np.float32]:
        try:
            found = self._embed(waves)
            embeddings = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found, dtype=np.float32)
        except UserError:
            raise
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{self.name} failed on waves {start} to {start + len(waves) - 1}: {type(error).__name__}: {first}"
            ) from error
        if embeddings.ndim != 2 or len(embeddings) != len(waves) or not embeddings.shape[1]:
            raise UserError(
                f"{self.name} gave an array of shape {embeddings.shape} for {len(waves)} waves; "
                f"expected ({len(waves)}, dimension)"
            )
        if self.dimension is not None and embeddings.shape[1] != self.dimension:
            raise UserError(f"{self.name} gave embeddings of {embeddings.shape[1]} numbers, before of {self.dimension}")
        bad = ~np.isfinite(embeddings).all(axis=1)
        if bad.any():
            number = int(np.argmax(bad))
            raise UserError(
                f"{self.name} gave NaN or infinity for {bad.sum()} of {len(waves)} waves, the first is wave "
                f"{start + number} ({len(waves[number]) / self.sample_rate:.2f} s)"
            )
        self.dimension = int(embeddings.shape[1])
        return embeddings


def load_encoder(model: str, sample_rate: int | None = None) -> SpeakerEncoder:
    """Load a recogniser of one's own.

    Parameters
    ----------
    model : str
        ``package.module:object``, where the object is a `SpeakerEncoder`, a torch module that takes one wave
        (1, samples), or a function of a list of waves; or a file, as for `SpeakerEncoder.from_file`.
    sample_rate : int, optional
        That a module or function expects, in Hz; by default 16000.

    Raises
    ------
    UserError
        If there is no such object or file, or it is none of these.
    """
    rate = sample_rate or SAMPLE_RATE
    if ":" not in model or Path(model).exists():
        return SpeakerEncoder.from_file(model, sample_rate=rate)
    found = find_object(model, {}, "speaker encoder")
    if isinstance(found, SpeakerEncoder):
        if rate not in (SAMPLE_RATE, found.sample_rate):
            raise UserError(f"speaker encoder {model!r} expects {found.sample_rate} Hz; leave out sample_rate")
        return found
    import torch

    if isinstance(found, torch.nn.Module):
        return SpeakerEncoder.of_module(found.eval(), name=model, sample_rate=rate)
    return SpeakerEncoder(found, rate, name=model)


def is_silent(wave: ArrayLike) -> bool:
    """Whether a wave holds nothing above 100 dB below full scale (root mean square)."""
    samples = np.asarray(wave, dtype=np.float64)
    return bool(samples.size == 0 or np.sqrt(np.mean(np.square(samples))) < SILENCE)


def vectors_of(similarities: ArrayLike) -> NDArray[np.float32]:
    """Return vectors with given cosine similarities.

    Cosines of all pairs tell embeddings up to a rotation and their lengths: whoever may ask for all of them has
    whatever is computed from cosines, such as every feature of `fl_privacy.attacks.membership`.

    Parameters
    ----------
    similarities : array_like, shape (n, n)
        Symmetric, with ones on the diagonal.

    Returns
    -------
    ndarray of float32, shape (n, k)
        Of as many numbers as the similarities have directions.

    Raises
    ------
    UserError
        If they are no such matrix.
    """
    gram = np.asarray(similarities, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.size:
        raise UserError(f"similarities of shape {gram.shape}; expected one number for each two voices (n, n)")
    if not np.isfinite(gram).all() or not np.allclose(gram, gram.T, atol=1e-4):
        raise UserError("similarities must be finite, and the same in either order")
    values, directions = np.linalg.eigh((gram + gram.T) / 2)
    if values[0] < -1e-3 * len(gram):
        raise UserError("these similarities are no cosines: no vectors have them")
    kept = values > 1e-6 * values[-1]
    return np.asarray(directions[:, kept] * np.sqrt(values[kept]), dtype=np.float32)
