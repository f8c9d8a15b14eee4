"""wav2vec 2.0, HuBERT and WavLM through torchaudio, from weights on disk: nothing is downloaded."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fl_privacy.errors import UserError
from fl_privacy.models.checkpoints import load_weights, read_checkpoint

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

ARCHITECTURES: Mapping[str, bool] = MappingProxyType(
    {
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
)
"""Functions of ``torchaudio.models`` -> whether published weights were trained on waves of mean 0 and variance 1."""

OWN_SIZES = ("wav2vec2_model", "wavlm_model")
"""Functions of ``torchaudio.models`` that take sizes."""

BUNDLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "WAV2VEC2_BASE": ("wav2vec2_base", "wav2vec2_fairseq_base_ls960.pth"),
        "WAV2VEC2_LARGE": ("wav2vec2_large", "wav2vec2_fairseq_large_ls960.pth"),
        "WAV2VEC2_LARGE_LV60K": ("wav2vec2_large_lv60k", "wav2vec2_fairseq_large_lv60k.pth"),
        "WAV2VEC2_XLSR53": ("wav2vec2_large_lv60k", "wav2vec2_fairseq_large_xlsr53.pth"),
        "WAV2VEC2_XLSR_300M": ("wav2vec2_xlsr_300m", "wav2vec2_xlsr_300m.pth"),
        "WAV2VEC2_XLSR_1B": ("wav2vec2_xlsr_1b", "wav2vec2_xlsr_1b.pth"),
        "WAV2VEC2_XLSR_2B": ("wav2vec2_xlsr_2b", "wav2vec2_xlsr_2b.pth"),
        "HUBERT_BASE": ("hubert_base", "hubert_fairseq_base_ls960.pth"),
        "HUBERT_LARGE": ("hubert_large", "hubert_fairseq_large_ll60k.pth"),
        "HUBERT_XLARGE": ("hubert_xlarge", "hubert_fairseq_xlarge_ll60k.pth"),
        "WAVLM_BASE": ("wavlm_base", "wavlm_base.pth"),
        "WAVLM_BASE_PLUS": ("wavlm_base", "wavlm_base_plus.pth"),
        "WAVLM_LARGE": ("wavlm_large", "wavlm_large.pth"),
    }
)
"""Bundles of ``torchaudio.pipelines`` -> function of ``torchaudio.models`` and file in torch's hub cache."""

# What means nothing in evaluation need not be given.
_UNUSED = {
    "encoder_projection_dropout": 0.0,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_drop": 0.0,
    "aux_num_out": None,
}


def empty_model(
    architecture: str, parameters: Mapping[str, Any] | None, who: str, error: type[UserError] = UserError
) -> Wav2Vec2Model:
    """Make a model without memory for its weights, and without a touch on torch's random state.

    Parameters
    ----------
    architecture : str
        Of `ARCHITECTURES` or `OWN_SIZES`.
    parameters : mapping, optional
        Sizes. Dropouts, ``aux_num_out`` and the usual ``extractor_conv_layer_config`` may be left out.
    who : str
        Stands first in messages.
    error : type of UserError
        What to raise.

    Raises
    ------
    UserError
        For parameters that do not go with it.
    """
    with torch.device("meta"):
        return make_model(architecture, parameters, who, error)


def make_model(
    architecture: str, parameters: Mapping[str, Any] | None, who: str, error: type[UserError] = UserError
) -> Wav2Vec2Model:
    """Make a model with torch's own initial weights; arguments are as for `empty_model`."""
    import torchaudio

    if architecture not in (*ARCHITECTURES, *OWN_SIZES):
        raise error(f"{who}: unknown architecture {architecture!r}. Known: {', '.join((*ARCHITECTURES, *OWN_SIZES))}")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise error(f"{who}: parameters must be a table of names and values, not {parameters!r}")
    factory = getattr(torchaudio.models, architecture)
    arguments: dict[str, Any] = {}
    if architecture in OWN_SIZES:
        arguments = {**_UNUSED, "extractor_conv_layer_config": None, **(parameters or {})}
        wanted = inspect.signature(factory).parameters
        for what, names in [("lack", wanted.keys() - arguments), ("do not go with", arguments.keys() - wanted)]:
            if names:
                raise error(f"{who}: the parameters {what} {architecture}'s {', '.join(sorted(names))}")
    elif parameters is not None:
        raise error(f"{who}: parameters go with {' and '.join(OWN_SIZES)}, not with {architecture}")
    try:
        model: Wav2Vec2Model = factory(**arguments)
    except Exception as wrong:  # torch refuses sizes in many ways
        raise error(f"{who}: {architecture} cannot be made of these parameters: {wrong}") from wrong
    return model


def read_state(
    path: Path, who: str, error: type[UserError] = UserError, digest: str | None = None
) -> dict[str, Tensor]:
    """Return the named arrays of a file, with the names of a bare model; arguments are as for `read_checkpoint`.

    Raises
    ------
    UserError
        If there is something else in it.
    """
    state = read_checkpoint(path, who, error, digest)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        keys = ", ".join(map(str, list(state)[:4])) if isinstance(state, Mapping) else ""
        raise error(
            f"{who}: the checkpoint {path} holds something other than named arrays"
            f"{f' (its first keys: {keys})' if keys else ''}: give what torch.save(model.state_dict(), path) writes"
        )
    # The bundles that normalise the wave wrap their model; models with a head for recognition have one array more.
    plain = {str(name).removeprefix("model."): value for name, value in state.items()}
    return {name: value for name, value in plain.items() if not name.startswith("aux.")}


def load_state(
    model: nn.Module,
    path: Path,
    architecture: str,
    who: str,
    error: type[UserError] = UserError,
    digest: str | None = None,
) -> None:
    """Give a model the weights of a file, and put it into evaluation mode; see `read_state` and `load_weights`."""
    state = read_state(path, who, error, digest)
    load_weights(model, state, f"{who}: {path} is no state dict of {architecture}", error)
    model.eval()


def cached_bundle(name: str) -> Path:
    """Return where torch's hub cache has the weights of a bundle.

    Parameters
    ----------
    name : str
        Of `BUNDLES`.

    Raises
    ------
    UserError
        If they are not there, saying where they would have to lie: nothing is downloaded.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / BUNDLES[name][1]
    if not path.is_file():
        set_ = "TORCH_HOME" in os.environ
        raise UserError(
            f"frame encoder {name}: torch's hub cache holds no {path}; nothing is downloaded. Put the file there, "
            f"{'set TORCH_HOME elsewhere' if set_ else 'set TORCH_HOME'}, or name a checkpoint"
        )
    return path


def sizes_of(model: Wav2Vec2Model) -> list[tuple[int, int]]:
    """Return kernel and stride of each convolution that turns the wave into frames."""
    convolutions = [layer.conv for layer in model.feature_extractor.conv_layers]
    return [(conv.kernel_size[0], conv.stride[0]) for conv in convolutions]


def shortest_wave(model: Wav2Vec2Model) -> int:
    """Return the receptive field of a frame, and at least two steps of the first layer, over which it normalises."""
    sizes = sizes_of(model)
    field = 1
    for kernel, stride in reversed(sizes):
        field = (field - 1) * stride + kernel
    return max(field, sum(sizes[0]))


def hop_of(model: Wav2Vec2Model) -> int:
    """Return the samples between frames."""
    return math.prod(stride for _, stride in sizes_of(model))


class TorchaudioLayers(nn.Module):
    """A torchaudio model, of which every transformer layer can be read.

    The last layer of a model that normalises before its layers (the large ones but ``wav2vec2_large`` and
    ``wavlm_base``) is taken behind its final normalisation, as the published attack's toolkit does; torchaudio's own
    ``extract_features`` leaves that out.

    Parameters
    ----------
    model : Wav2Vec2Model
    normalise : bool
        Whether a wave is first brought to mean 0 and variance 1.
    """

    def __init__(self, model: Wav2Vec2Model, normalise: bool) -> None:
        super().__init__()
        self.model, self.normalise = model, normalise
        self.dim = int(model.encoder.feature_projection.projection.out_features)
        self.depth = len(model.encoder.transformer.layers)
        self.hop, self.shortest = hop_of(model), shortest_wave(model)

    def read(self, wave: Tensor, count: int) -> list[Tensor]:
        """Return what the first `count` layers make of one wave (samples,): each (frames, width)."""
        batch = wave[None]
        if self.normalise:
            batch = nn.functional.layer_norm(batch, batch.shape)
        layers, _ = self.model.extract_features(batch, None, count)
        transformer = self.model.encoder.transformer
        # torchaudio's flag of the whole transformer is the opposite of its layers'.
        if count == self.depth and not transformer.layer_norm_first:
            layers[-1] = transformer.layer_norm(layers[-1])
        return [layer[0] for layer in layers]


def start_weights(model: nn.Module) -> None:
    """Draw weights as pre-training starts from them: matrices N(0, .02), convolutions after He et al. (2015)."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif type(layer) is nn.Conv1d:
            nn.init.kaiming_normal_(layer.weight)
