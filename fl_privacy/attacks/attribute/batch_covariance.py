"""How the features of a client's inputs go together, as the single inputs of its batch show it."""

from __future__ import annotations

import numpy as np

from fl_privacy.attacks.attribute._reconstructing import dense
from fl_privacy.attacks.attribute.input_covariance import Floats, InputCovariance
from fl_privacy.attacks.reconstruction.batch import batch_inputs
from fl_privacy.updates import Layer, Update


class BatchCovariance(InputCovariance):
    """Recover the single inputs of the client's batch, and classify their second moments.

    As `InputCovariance`, of the inputs themselves instead of combinations of them
    (`fl_privacy.attacks.reconstruction.batch_inputs`): each counts alike, however well the model knows it. It needs
    neither the model nor labels. An update that is no gradient tells it nothing.

    Parameters
    ----------
    layers, rank, C, classifier
        See `InputCovariance`.
    """

    why = ": it reads gradients (FedSGD) of batches smaller than the layer, behind which a ReLU stands"

    def rows(self, update: Update, layer: Layer) -> Floats:
        """Return the inputs recovered."""
        if update.kind != "gradient":
            return np.zeros((0, len(self.axes_)))
        return batch_inputs(*dense(update, layer, self)).inputs
