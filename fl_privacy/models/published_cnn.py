"""The attack network of Feng et al. (arXiv 2112.13416): a CNN that looks at one layer's update as at an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CHANNELS = (1, 16, 32, 64)
_LAST_ROWS = 16
_PLACES = 48

Pool = tuple[tuple[int, int], tuple[int, int]]
"""Kernel and stride of a max-pool, each (rows, columns)."""


def pools(units: int, inputs: int) -> tuple[Pool | None, ...]:
    """Return the max-pools behind the three convolutions.

    The study gives them for five layers; what follows from none of them is our rule, which reproduces the five:

    - Pools of 2, 4 and a third, kernel and stride alike. The third is the largest of 8, 6 and 4 that leaves a map of at
      least 48 places (so 8 for 256 x 988 and 256 x 768, 6 for 256 x 512, 4 for 128 x 256).
    - A layer of fewer than 16 units, such as the classes of the last one, has too few rows for that: none, then twice
      kernel 2 with stride (1, 4).
    - A pool is never larger than the map it stands on.

    Parameters
    ----------
    units, inputs : int
        Rows and columns of the layer's weights.

    Returns
    -------
    tuple of three
        Kernel and stride, or None where there is no pool.
    """
    if units < _LAST_ROWS:
        wanted: list[Pool | None] = [None, ((2, 2), (1, 4)), ((2, 2), (1, 4))]
    else:
        third = next((k for k in (8, 6) if (units // 8 // k) * (inputs // 8 // k) >= _PLACES), 4)
        wanted = [((k, k), (k, k)) for k in (2, 4, third)]
    rows, columns = units, inputs
    found: list[Pool | None] = []
    for pool in wanted:
        if pool is not None:
            (high, wide), (down, across) = pool
            pool = (min(high, rows), min(wide, columns)), (min(down, rows), min(across, columns))
            rows, columns = _pooled(rows, columns, pool)
        found.append(pool)
    return tuple(found)


def _pooled(rows: int, columns: int, pool: Pool) -> tuple[int, int]:
    """Return the size of a map behind a pool."""
    (high, wide), (down, across) = pool
    return (rows - high) // down + 1, (columns - wide) // across + 1


class LayerCNN(nn.Module):
    """Three convolutions over the gradient of a layer's weights, and two hidden layers over that and its bias.

    Parameters
    ----------
    units, inputs : int
        Shape of the layer's weights.
    bias : bool
        Whether the layer has a bias.
    classes : int
        How many values the attribute has.
    dropout : float
        Of whole channels behind each pool, and of units in the hidden layers.

    Notes
    -----
    Feng et al., public code: 5 x 5 convolutions with 16, 32 and 64 channels, each with ReLU, max-pool and channel
    dropout, batch normalisation before the third ReLU only; flattened, joined with the bias, 256 - 128 - classes.
    Initialised by PyTorch's defaults. For the study's layers of 256 x 988, 256 x 768, 256 x 512, 128 x 256 and 4 x 128
    it has 1,146,626, 950,018, 982,786, 655,106 and 361,218 parameters, as there.
    """

    def __init__(self, units: int, inputs: int, *, bias: bool = True, classes: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        rows, columns = units, inputs
        for number, pool in enumerate(pools(units, inputs)):
            blocks.append(nn.Conv2d(_CHANNELS[number], _CHANNELS[number + 1], 5, padding=2))
            if number == 2:
                blocks.append(nn.BatchNorm2d(_CHANNELS[3]))
            blocks.append(nn.ReLU())
            if pool is not None:
                blocks.append(nn.MaxPool2d(*pool))
                rows, columns = _pooled(rows, columns, pool)
            blocks.append(nn.Dropout2d(dropout))
        self.convolutions = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Linear(_CHANNELS[3] * rows * columns + (units if bias else 0), 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, classes),
        )

    def forward(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return log-probabilities.

        Parameters
        ----------
        weight : Tensor, (n, units, inputs)
            Standardised updates of the weights.
        bias : Tensor, (n, units), optional
            The same of the bias, where the layer has one.

        Returns
        -------
        Tensor, (n, classes)
        """
        flat = self.convolutions(weight.unsqueeze(1)).flatten(1)
        if bias is not None:
            flat = torch.cat([flat, bias], dim=1)
        logits: Tensor = self.head(flat)
        return torch.log_softmax(logits, dim=1)
