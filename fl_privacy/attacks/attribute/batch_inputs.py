"""The single inputs of the client's batch, and what each class of them says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.attribute._reconstructing import Reconstructing, dense, owned
from fl_privacy.attacks.base import Auxiliary
from fl_privacy.attacks.reconstruction.batch import Batch, batch_inputs
from fl_privacy.updates import Layer, Update

Floats = NDArray[np.float64]


class BatchInputs(Reconstructing):
    """Recover the single inputs of the client's batch and their labels, and classify the mean input of each class.

    The gradient of a dense layer that a ReLU follows tells the inputs of a batch one by one
    (`fl_privacy.attacks.reconstruction.batch_inputs`), each with the signal d that was back-propagated to the layer.
    The attacker knows the model that was sent: for each of the task's classes it computes the signal that this input
    would have with that label; the recovered signal says which it was. So it holds the client's examples of this batch,
    labels included, and reads off them what the attribute makes of each class.

    Parameters
    ----------
    layers : sequence of str
        The first layer (``"first"`` or its name).
    C, classifier
        See `LinearAttack`.

    Notes
    -----
    An update that is no gradient (FedAvg's weight difference) says nothing to it. Classes of which no example was
    recovered count as the mean of the attacker's own people.
    """

    needs = frozenset({"updates", "sent", "examples", "gradient"})
    why = ": it reads gradients (FedSGD) of batches smaller than the layer, behind which a ReLU stands"

    def __init__(self, layers: str | Sequence[str] = ("first",), C: float = 1e-3, classifier: str = "ridge") -> None:
        super().__init__(layers, C, classifier)

    def prepare(self, auxiliary: Auxiliary) -> None:
        """Take the examples' classes, and the architecture."""
        examples = owned(auxiliary, self)
        assert auxiliary.gradient is not None  # checked with `needs`
        self._gradient = auxiliary.gradient
        self._classes = np.unique(examples.labels)
        self._means = np.stack([examples.features[examples.labels == c].mean(axis=0) for c in self._classes])

    def read(self, update: Update, layer: Layer) -> Floats:
        """Return the sum over the recovered inputs of each class of how they differ from the attacker's mean."""
        if update.kind != "gradient":
            return np.full(self._means.size, np.nan)
        weight, bias = dense(update, layer, self)
        batch = batch_inputs(weight, bias)
        if not len(batch.inputs):
            return np.full(self._means.size, np.nan)
        labels = self.labels_of(batch, update, layer)
        away = np.zeros_like(self._means, dtype=np.float64)
        for number, c in enumerate(self._classes):
            mine = batch.inputs[labels == c]
            if len(mine):
                away[number] = mine.mean(axis=0) - self._means[number]
        return away.reshape(-1)

    def labels_of(self, batch: Batch, update: Update, layer: Layer) -> NDArray[Any]:
        """Return the class of each recovered input: that whose signal, at the model that was sent, is most like its."""
        assert layer.bias is not None
        sent = {name: np.asarray(array) for name, array in update.sent.items()}
        found = []
        for x, signal in zip(batch.inputs.astype(np.float32), batch.signals, strict=True):
            reached = signal != 0
            likeness: list[float] = []
            for c in self._classes:
                d = self._gradient(sent, x[None], np.array([c]))[layer.bias].astype(np.float64)
                size = np.linalg.norm(d[reached]) * np.linalg.norm(signal[reached])
                likeness.append(float(d[reached] @ signal[reached] / size) if size > 0 else 0.0)
            found.append(self._classes[int(np.argmax(np.array(likeness)))])
        return np.array(found)
