"""Self-supervised speech models: the mean over time of a layer of wav2vec 2.0, HuBERT or WavLM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora.base import AudioError
from fl_privacy.features._errors import FeatureError
from fl_privacy.models.checkpoints import digest_of
from fl_privacy.models.torchaudio_ssl import ARCHITECTURES, empty_model, load_state, shortest_wave

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

_WHO = "features 'ssl'"
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
        if normalise_waveform is not None and not isinstance(normalise_waveform, bool):
            raise FeatureError(f"features 'ssl': normalise_waveform must be true or false, not {normalise_waveform!r}")
        self._path = Path(checkpoint).expanduser()
        self._architecture = architecture
        self._empty = empty_model(architecture, parameters, _WHO, FeatureError)
        self._layer = _layer_number(layer, len(self._empty.encoder.transformer.layers))
        usual = ARCHITECTURES.get(architecture, False)
        self._normalise = usual if normalise_waveform is None else normalise_waveform
        self._shortest = shortest_wave(self._empty)
        self._digest = digest_of(self._path, _WHO, FeatureError)
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
        load_state(self._empty, self._path, self._architecture, _WHO, FeatureError, self._digest)
        return self._empty


def _layer_number(layer: int, layers: int) -> int:
    if isinstance(layer, bool) or not isinstance(layer, int) or not -layers <= layer < layers:
        raise FeatureError(
            f"features 'ssl': layer must be a whole number from {-layers} to {layers - 1}, not {layer!r}"
        )
    return layer % layers
