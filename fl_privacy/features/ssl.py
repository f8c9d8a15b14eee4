"""Self-supervised speech models: the mean over time of a layer of wav2vec 2.0, HuBERT or WavLM."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora.base import AudioError
from fl_privacy.features._errors import FeatureError

if TYPE_CHECKING:
    from torch import Tensor
    from torchaudio.models import Wav2Vec2Model

# Architecture -> whether its published weights were trained on waves of mean 0 and variance 1.
_ARCHITECTURES = {
    "wav2vec2_base": False,
    "wav2vec2_large": False,
    "wav2vec2_large_lv60k": True,
    "wav2vec2_xlsr_300m": True,
    "wav2vec2_xlsr_1b": True,
    "wav2vec2_xlsr_2b": True,
    "hubert_base": False,
    "hubert_large": True,
    "hubert_xlarge": True,
    "wavlm_base": False,
    "wavlm_large": True,
}
_OWN_SIZES = ("wav2vec2_model", "wavlm_model")
# What means nothing in evaluation need not be given.
_UNUSED = {
    "encoder_projection_dropout": 0.0,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_drop": 0.0,
    "aux_num_out": None,
}
_ALGORITHM = 1  # raise whenever the numbers change: features are cached under it


class SSL:
    """Mean over time of a transformer layer's frames, by torchaudio, from a checkpoint on disk: nothing is downloaded.

    The frames are those of torchaudio's ``extract_features``, in evaluation mode, one utterance at a time, unpadded, on
    the CPU. (Feng et al. 2021, arXiv 2112.13416, take the mean of the last hidden state of other models the same way.)

    Parameters
    ----------
    checkpoint : str or Path
        A state dict with torchaudio's names, such as ``torch.save(bundle.get_model().state_dict(), path)`` writes for a
        bundle of ``torchaudio.pipelines``, or the file that the bundle fetches. It is read with ``weights_only=True``.
    architecture : str
        The function of ``torchaudio.models`` that makes the model, such as ``wav2vec2_base``, ``hubert_base``,
        ``wavlm_large``; ``wav2vec2_model`` or ``wavlm_model`` for sizes of one's own.
    layer : int
        Which transformer layer: 0 is the first, -1 the last.
    parameters : mapping, optional
        Arguments of ``wav2vec2_model`` or ``wavlm_model``; dropouts, ``aux_num_out`` and (where it is the usual one)
        ``extractor_conv_layer_config`` may be left out.
    normalise_waveform : bool, optional
        Whether a wave is first brought to mean 0 and variance 1. By default as the architecture's bundles do; no for
        sizes of one's own.

    Raises
    ------
    FeatureError
        For an unknown architecture or layer, wrong parameters, or a checkpoint that cannot be read; on the first call,
        if the checkpoint's names or shapes are not the architecture's.
    """

    name = "ssl"

    def __init__(
        self,
        checkpoint: str | Path,
        architecture: str,
        layer: int = -1,
        parameters: Mapping[str, Any] | None = None,
        normalise_waveform: bool | None = None,
    ) -> None:
        if not isinstance(checkpoint, str | Path):
            raise FeatureError(f"features 'ssl': checkpoint must be the path of a file, not {checkpoint!r}")
        if architecture not in (*_ARCHITECTURES, *_OWN_SIZES):
            known = ", ".join((*_ARCHITECTURES, *_OWN_SIZES))
            raise FeatureError(f"features 'ssl': unknown architecture {architecture!r}. Known: {known}")
        if normalise_waveform is not None and not isinstance(normalise_waveform, bool):
            raise FeatureError(f"features 'ssl': normalise_waveform must be true or false, not {normalise_waveform!r}")
        self._path = Path(checkpoint).expanduser()
        self._architecture = architecture
        self._empty = _empty_model(architecture, parameters)
        self._layer = _layer_number(layer, len(self._empty.encoder.transformer.layers))
        usual = _ARCHITECTURES.get(architecture, False)
        self._normalise = usual if normalise_waveform is None else normalise_waveform
        self._shortest = _shortest_wave(self._empty)
        self._digest = _digest(self._path)
        self.dimension = int(self._empty.encoder.feature_projection.projection.out_features)
        facts = [_ALGORITHM, self._digest, architecture, parameters, self._layer, self._normalise]
        whole = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        self.version = f"{_ALGORITHM}-{whole[:16]}"

    def __call__(self, wave: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Compute the features of an utterance.

        Parameters
        ----------
        wave : ndarray of float32, shape (n,)
            Mono 16 kHz.

        Returns
        -------
        ndarray of float32, shape (dimension,)
            The mean of the layer's frames.

        Raises
        ------
        AudioError
            If the wave is shorter than the model's receptive field: 400 samples where that is the usual one.
        """
        import torch

        if len(wave) < self._shortest:
            raise AudioError(
                f"{len(wave)} samples, fewer than the {self._shortest} that a frame of {self._architecture} needs"
            )
        with torch.inference_mode():
            batch = torch.tensor(wave, dtype=torch.float32)[None]
            if self._normalise:
                batch = torch.nn.functional.layer_norm(batch, batch.shape)
            layers, _ = self._model.extract_features(batch, None, self._layer + 1)
            values: NDArray[np.float32] = layers[-1][0].mean(dim=0).numpy()
        return values

    @cached_property
    def _model(self) -> Wav2Vec2Model:
        """The model with its weights: loaded when first used, since features are often all in the cache."""
        model = self._empty
        try:
            found = model.load_state_dict(_read(self._path, self._digest), strict=False, assign=True)
        except RuntimeError as error:
            wrong = re.search(r"size mismatch for ([^\n]*)", str(error))
            raise self._misfit(wrong[1].rstrip(".") if wrong else str(error)) from None
        for kind, names in [("lacks", found.missing_keys), ("has, beyond the model,", found.unexpected_keys)]:
            if names:
                raise self._misfit(f"it {kind} {len(names)} arrays, such as {names[0]}")
        return model.float().eval()

    def _misfit(self, what: str) -> FeatureError:
        return FeatureError(f"features 'ssl': {self._path} is no state dict of {self._architecture}: {what}")


def _empty_model(architecture: str, parameters: Mapping[str, Any] | None) -> Wav2Vec2Model:
    """Make the model without memory for its weights, and without a touch on torch's random state."""
    import torch
    import torchaudio

    if parameters is not None and not isinstance(parameters, Mapping):
        raise FeatureError(f"features 'ssl': parameters must be a table of names and values, not {parameters!r}")
    factory = getattr(torchaudio.models, architecture)
    arguments: dict[str, Any] = {}
    if architecture in _OWN_SIZES:
        arguments = {**_UNUSED, "extractor_conv_layer_config": None, **(parameters or {})}
        wanted = inspect.signature(factory).parameters
        for what, names in [("lack", wanted.keys() - arguments), ("do not go with", arguments.keys() - wanted)]:
            if names:
                raise FeatureError(f"features 'ssl': the parameters {what} {architecture}'s {', '.join(sorted(names))}")
    elif parameters is not None:
        raise FeatureError(f"features 'ssl': parameters go with {' and '.join(_OWN_SIZES)}, not with {architecture}")
    try:
        with torch.device("meta"):
            model: Wav2Vec2Model = factory(**arguments)
    except Exception as error:  # torch refuses sizes in many ways
        raise FeatureError(f"features 'ssl': {architecture} cannot be made of these parameters: {error}") from error
    return model


def _layer_number(layer: int, layers: int) -> int:
    if isinstance(layer, bool) or not isinstance(layer, int) or not -layers <= layer < layers:
        raise FeatureError(
            f"features 'ssl': layer must be a whole number from {-layers} to {layers - 1}, not {layer!r}"
        )
    return layer % layers


def _shortest_wave(model: Wav2Vec2Model) -> int:
    """Return the receptive field of a frame, and at least two steps of the first layer, over which it normalises."""
    convolutions = [layer.conv for layer in model.feature_extractor.conv_layers]
    sizes: list[tuple[int, int]] = [(conv.kernel_size[0], conv.stride[0]) for conv in convolutions]
    field = 1
    for kernel, stride in reversed(sizes):
        field = (field - 1) * stride + kernel
    return max(field, sum(sizes[0]))


def _open(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise FeatureError(
            f"features 'ssl': the checkpoint {path} cannot be read ({error.strerror}); "
            "give the path of a file: nothing is downloaded"
        ) from error


def _digest(path: Path) -> str:
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, digest: str) -> dict[str, Tensor]:
    """Read the arrays of the file with this digest."""
    import torch

    with _open(path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise FeatureError(f"features 'ssl': the checkpoint {path} was changed while in use; start again")
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # what a file that is no checkpoint makes of it has many types
            reason = str(error).strip().partition("\n")[0]
            raise FeatureError(
                f"features 'ssl': the checkpoint {path} is no state dict: give what "
                f"torch.save(model.state_dict(), path) writes ({reason})"
            ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise FeatureError(
            f"features 'ssl': the checkpoint {path} holds something other than named arrays: give what "
            "torch.save(model.state_dict(), path) writes"
        )
    # The bundles that normalise the wave wrap their model; models with a head for recognition have one array more.
    plain = {str(name).removeprefix("model."): value for name, value in state.items()}
    return {name: value for name, value in plain.items() if not name.startswith("aux.")}
