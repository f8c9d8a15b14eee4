"""The speech emotion recognition network of Feng et al. (arXiv 2112.13416)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SERNet(nn.Module):
    """A multi-layer perceptron over utterance-level features: ``inputs - 256 - 128 - classes``.

    Parameters
    ----------
    inputs : int
        Number of features.
    classes : int
        Number of emotions.
    dropout : float
        Dropout behind the first hidden layer; behind the second it is 0.2 as published.

    Notes
    -----
    Initialised by PyTorch's default for linear layers, as the published code in effect was. Unlike there, the second
    dropout is switched off in evaluation.
    """

    def __init__(self, inputs: int, classes: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, 256)
        self.fc2 = nn.Linear(256, 128)
        self.fc3 = nn.Linear(128, classes)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(0.2)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits.

        Parameters
        ----------
        features : Tensor, (n, inputs)
            Normalised features.

        Returns
        -------
        Tensor, (n, classes)
        """
        hidden = self.dropout1(torch.relu(self.fc1(features)))
        hidden = self.dropout2(torch.relu(self.fc2(hidden)))
        logits: Tensor = self.fc3(hidden)
        return logits
