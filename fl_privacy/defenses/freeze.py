"""Frozen layers: what is not trained has no update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.defenses.base import Defense
from fl_privacy.errors import UserError
from fl_privacy.updates import resolve_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fl_privacy.training.participation import Participation

_NAME = "freeze"


class Freeze(Defense):
    """Keep layers at their first weights, or at public ones: no gradient, no update, the same bytes for ever.

    Takes hold in the model, and on the update, where it takes off what another defense adds to these layers. Keeps
    what the frozen layers' updates tell from the server: from a frozen first layer the inputs cannot be read off. It
    guarantees nothing about the layers behind, whose inputs are functions of the same voices. Costs: what these layers
    would have learned; from random weights that is much, from a public front end little.

    Parameters
    ----------
    layers : sequence of str
        ``"first"``, ``"second"``, ``"last"`` or a layer's own name.
    checkpoint : str, optional
        A safetensors file with public weights of these layers under the model's names (others in it are not looked at).
        The federation begins with them. Clients need the file too.

    Raises
    ------
    UserError
        If no layer is named or there is no such file; later, if a layer is not in the model, nothing is left to train,
        or the file lacks an array or has it in another shape.
    """

    def __init__(self, layers: str | Sequence[str] = ("first",), checkpoint: str | None = None) -> None:
        self.layers = layer_names(_NAME, layers)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise UserError(f"{_NAME}: there is no file {checkpoint} (a safetensors file of public weights)")

    def model(self, model: nn.Module) -> nn.Module:
        """Freeze, after loading what is public."""
        import torch

        parameters = dict(model.named_parameters())
        names = arrays_of(self.layers, {name: tuple(p.shape) for name, p in parameters.items()})
        public = {} if self.checkpoint is None else self._read(names, parameters)
        for name in names:
            if name in public:
                with torch.no_grad():
                    parameters[name].copy_(public[name])
            parameters[name].requires_grad_(False)
        if not any(p.requires_grad for p in parameters.values()):
            raise UserError(f"{_NAME}: layers {', '.join(self.layers)} are all there are: nothing is left to train")
        return model

    def update(self, update: dict[str, NDArray[Any]], client: Participation) -> dict[str, NDArray[Any]]:
        """Nothing moves the frozen layers, noise of a defense before this one included."""
        frozen = arrays_of(self.layers, {name: array.shape for name, array in update.items()})
        return {name: np.zeros_like(array) if name in frozen else array for name, array in update.items()}

    def _read(self, names: Sequence[str], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.checkpoint, framework="pt") as file:
                held = {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{_NAME}: {self.checkpoint} cannot be read as safetensors: {error}") from error
        for name in names:
            if name not in held:
                raise UserError(f"{_NAME}: {self.checkpoint} has no array {name!r}")
            if held[name].shape != parameters[name].shape:
                has, wanted = (" x ".join(map(str, t.shape)) for t in (held[name], parameters[name]))
                raise UserError(f"{_NAME}: {self.checkpoint} has {name} of {has}, the model's is {wanted}")
        return held


def layer_names(defense: str, layers: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple; refuse none at all, and what is no name."""
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{defense}: layers must name at least one layer, not {layers!r}")
    return names


def arrays_of(layers: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Return the names of the arrays of some layers."""
    return tuple(name for layer in resolve_layers(shapes, layers) for name in layer.arrays)
