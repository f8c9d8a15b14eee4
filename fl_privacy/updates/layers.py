"""Which arrays of an update form a dense layer, told from names and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fl_privacy.errors import UserError

_PLACES = {
    "first": "the first dense layer",
    "second": "the second dense layer",
    "last": "the last dense layer",
    "all": "all dense layers",
}


@dataclass(frozen=True)
class Layer:
    """A dense layer: ``outputs = weight @ inputs + bias``.

    Attributes
    ----------
    name : str
        Common name of its two arrays, or the weight's own.
    weight : str
        Array of shape (units, inputs), or (inputs, units) where `transposed`.
    bias : str or None
        Array of shape (units,), if the layer has one.
    transposed : bool
        True for the Keras layout, in which the inputs come first.
    """

    name: str
    weight: str
    bias: str | None
    transposed: bool = False

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of its arrays."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def describe(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Say its name and the shapes of its arrays."""
        arrays = (f"{name} {' x '.join(map(str, shapes[name]))}" for name in self.arrays)
        return f"{self.name} ({', '.join(arrays)})"


def find_layers(shapes: Mapping[str, Sequence[int]]) -> tuple[Layer, ...]:
    """Find the dense layers among named arrays.

    A matrix is a weight. Its bias is the array of the same stem (``fc1.weight``, ``fc1.bias``) or, where names have no
    stems, the vector right behind it whose length fits one side of the matrix. (A square matrix is taken to be in
    torch's layout.)

    Parameters
    ----------
    shapes : Mapping[str, sequence of int]
        Shape of each array, in the model's order.

    Returns
    -------
    tuple of Layer
        In the model's order.
    """
    names = list(shapes)
    found = []
    for position, name in enumerate(names):
        shape = tuple(shapes[name])
        if len(shape) != 2:
            continue
        stem, separator, _ = name.rpartition(".")
        stem = stem or name
        # With stems, the vector behind a layer without bias belongs to something else (a norm's scale).
        candidates = [f"{stem}.bias"] if separator else names[position + 1 : position + 2]
        bias = next(
            (c for c in candidates if c in shapes and len(shapes[c]) == 1 and shapes[c][0] in shape),
            None,
        )
        transposed = bias is not None and shapes[bias][0] != shape[0]
        found.append(Layer(stem, name, bias, transposed))
    return tuple(found)


def resolve_layers(shapes: Mapping[str, Sequence[int]], wanted: str | Sequence[str]) -> tuple[Layer, ...]:
    """Turn layer names into layers.

    Parameters
    ----------
    shapes : Mapping[str, sequence of int]
        Shape of each array, in the model's order.
    wanted : sequence of str
        ``"first"``, ``"second"``, ``"last"``, ``"all"``, or a layer's own name such as ``"fc1"``.

    Raises
    ------
    UserError
        Where a name fits no layer.
    """
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    if not wanted:
        raise UserError("no layer is named: give at least one (first, second, last, all, or a layer's own name)")
    layers = find_layers(shapes)
    if not layers:
        raise UserError(f"no dense layer among the arrays {', '.join(shapes)}: this attack needs a matrix of weights")
    places = {"first": layers[:1], "second": layers[1:2], "last": layers[-1:], "all": layers}
    chosen: list[Layer] = []
    for name in wanted:
        hits = places.get(name) or tuple(layer for layer in layers if name in (layer.name, layer.weight))
        if not hits:
            known = ", ".join(layer.name for layer in layers)
            raise UserError(f"no layer {name!r} in the updates; there are: {known} (or first, second, last, all)")
        chosen.extend(layer for layer in hits if layer not in chosen)
    return tuple(chosen)


def describe_layers(shapes: Mapping[str, Sequence[int]], wanted: str | Sequence[str]) -> str:
    """Say which layers are meant, and whether that was told or guessed.

    Parameters
    ----------
    shapes, wanted
        See `resolve_layers`.

    Returns
    -------
    str
        For example ``"fc1 (fc1.weight 16 x 9, fc1.bias 16): the first dense layer, guessed from shapes"``.

    Raises
    ------
    UserError
        Where a name fits no layer.
    """
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    listed = " and ".join(layer.describe(shapes) for layer in resolve_layers(shapes, wanted))
    # A place wins over a layer that is called like it, in `resolve_layers` as here.
    guessed = " and ".join(_PLACES[name] for name in dict.fromkeys(wanted) if name in _PLACES)
    return f"{listed}: {guessed}, guessed from shapes" if guessed else f"{listed}, as named"
