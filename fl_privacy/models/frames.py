"""Frame encoders from disk, by name, untrained, and the log-mel control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_privacy._randomness import own_randomness
from fl_privacy._registry import find_object
from fl_privacy.errors import UserError
from fl_privacy.models import torchaudio_ssl as hub
from fl_privacy.models.frame_encoder import FrameEncoder, peak_normalised
from fl_privacy.models.log_mel import HOP, MELS, WINDOW, log_mel
from fl_privacy.models.pretrained import IN_REPO, Module, load_module, untrained_module

__all__ = [
    "FrameEncoder",
    "encoder_of",
    "load_frame_encoder",
    "log_mel_encoder",
    "peak_normalised",
    "untrained_frame_encoder",
]


def load_frame_encoder(
    checkpoint: str | Path | None,
    architecture: str,
    layer: int = -1,
    parameters: Mapping[str, Any] | None = None,
    normalise_waveform: bool | None = None,
    *,
    name: str | None = None,
) -> FrameEncoder:
    """Load an encoder from disk; nothing is downloaded.

    Parameters
    ----------
    checkpoint : str or Path, optional
        The file. For the name of a bundle it may be left out: the bundle's file in torch's hub cache is taken.
    architecture : str
        A function of ``torchaudio.models`` (``hubert_base``, ``wav2vec2_model``, ``wavlm_large``...), the name of a
        bundle of ``torchaudio.pipelines`` (``HUBERT_BASE``, ``WAVLM_BASE_PLUS``...), ``tera`` or ``cpc`` for what
        `fl_privacy.training.pretraining` trained; or ``package.module:function``, called with the checkpoint (and
        `parameters` as arguments), which returns a `FrameEncoder`.
    layer : int
        0 is the first, -1 the last. Of wav2vec 2.0, HuBERT, WavLM and TERA, transformer layers; of CPC, 0 are the
        frames of its convolutions, 1 the contexts.
    parameters : mapping, optional
        Sizes, for ``wav2vec2_model`` and ``wavlm_model``.
    normalise_waveform : bool, optional
        Whether a wave is first brought to mean 0 and variance 1; by default as the architecture's bundles do.
    name : str, optional
        By default the architecture.

    Returns
    -------
    FrameEncoder

    Raises
    ------
    UserError
        For an unknown architecture or layer, and for a checkpoint that is not there, cannot be read, or is another
        architecture's, naming the first array that differs.

    Notes
    -----
    torchaudio's models are read as its ``extract_features`` does; the last layer of a model that normalises before its
    layers is taken behind the final normalisation.
    """
    if architecture in hub.BUNDLES:
        kind = hub.BUNDLES[architecture][0]
        path = hub.cached_bundle(architecture) if checkpoint is None else Path(checkpoint).expanduser()
    elif checkpoint is None:
        raise UserError(
            f"frame encoder {architecture}: name a checkpoint, or one of the bundles {', '.join(hub.BUNDLES)}, whose "
            "file may lie in torch's hub cache"
        )
    else:
        kind, path = architecture, Path(checkpoint).expanduser()
    if kind in IN_REPO:
        if parameters is not None or normalise_waveform is not None:
            raise UserError(f"frame encoder {kind}: its sizes are in its checkpoint; leave out other settings")
        return encoder_of(load_module(path, kind), layer=layer, name=name)
    if ":" in kind:
        return _own(kind, path, layer, parameters, normalise_waveform, name)
    who = f"frame encoder {architecture}"
    _check_known(kind, who)
    model = hub.empty_model(kind, parameters, who)
    hub.load_state(model, path, kind, who)
    normalise = hub.ARCHITECTURES.get(kind, False) if normalise_waveform is None else normalise_waveform
    return _of_layers(hub.TorchaudioLayers(model, normalise), name or architecture, layer)


def untrained_frame_encoder(
    architecture: str,
    seed: int,
    layer: int = -1,
    parameters: Mapping[str, Any] | None = None,
    normalise_waveform: bool | None = None,
    *,
    size: Any = "small",
    name: str | None = None,
) -> FrameEncoder:
    """Make an encoder that was never trained: what an attack finds there is not membership.

    Parameters
    ----------
    architecture : str
        ``tera``, ``cpc``, or a function of ``torchaudio.models``.
    seed : int
        Of the initial weights.
    layer, parameters, normalise_waveform
        As for `load_frame_encoder`.
    size : str, TERASize or CPCSize
        Of ``tera`` and ``cpc``: "small", "published" or one of one's own.
    name : str, optional
        By default "architecture, untrained".

    Raises
    ------
    UserError
        For an unknown architecture, layer or size.
    """
    called = name or f"{architecture}, untrained"
    if architecture in IN_REPO:
        return encoder_of(untrained_module(architecture, seed, size), layer=layer, name=called)
    with own_randomness("untrained frame encoder", architecture, seed):
        who = f"frame encoder {architecture}"
        architecture = hub.BUNDLES.get(architecture, (architecture,))[0]
        _check_known(architecture, who)
        model = hub.make_model(architecture, parameters, who).eval()
        hub.start_weights(model)
    normalise = hub.ARCHITECTURES.get(architecture, False) if normalise_waveform is None else normalise_waveform
    return _of_layers(hub.TorchaudioLayers(model, normalise), called, layer)


def log_mel_encoder() -> FrameEncoder:
    """Make an "encoder" whose frames are 80 logarithms of mel energies, which no training ever touched: a control."""

    def read(wave: NDArray[np.float32], count: int) -> Sequence[Any]:
        return [log_mel(torch.from_numpy(wave)[None])[0]]

    return FrameEncoder(read, name="log-mel", dim=MELS, hop=HOP, shortest=WINDOW)


def encoder_of(module: Module, *, layer: int = -1, name: str | None = None) -> FrameEncoder:
    """Return the encoder that a module of ours is, in evaluation mode.

    Parameters
    ----------
    module : TERA or CPC
    layer : int
    name : str, optional
        By default "tera" or "cpc".
    """
    return _of_layers(module.eval(), name or module.kind, layer)


def _of_layers(module: Module | hub.TorchaudioLayers, name: str, layer: int) -> FrameEncoder:
    def read(wave: NDArray[np.float32], count: int) -> Sequence[Any]:
        with torch.inference_mode():
            layers = module.read(torch.from_numpy(wave), count)
        return layers

    return FrameEncoder(
        read,
        name=name,
        dim=module.dim,
        hop=module.hop,
        layers=module.depth,
        layer=layer,
        shortest=module.shortest,
    )


def _own(
    function: str,
    path: Path,
    layer: int,
    parameters: Mapping[str, Any] | None,
    normalise_waveform: bool | None,
    name: str | None,
) -> FrameEncoder:
    if normalise_waveform is not None:
        raise UserError(f"frame encoder {function}: normalise_waveform is for torchaudio's models")
    made = find_object(function, {}, "frame encoder")(path, **(parameters or {}))
    if not isinstance(made, FrameEncoder):
        raise UserError(f"frame encoder {function} returned a {type(made).__name__}, not a FrameEncoder")
    made = made.at(layer)
    return made.renamed(name) if name else made


def _check_known(architecture: str, who: str) -> None:
    if architecture not in (*hub.ARCHITECTURES, *hub.OWN_SIZES):
        known = ", ".join((*IN_REPO, *hub.ARCHITECTURES, *hub.OWN_SIZES, *hub.BUNDLES))
        raise UserError(f"{who}: unknown architecture. Known: {known}, or package.module:function for your own")
