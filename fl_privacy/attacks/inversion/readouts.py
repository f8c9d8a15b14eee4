"""Where a slid inversion is read: five answers to "was it recognised?", which differ far more than attacks do.

A window that was optimised is recognised where it was optimised and hardly a few milliseconds beside it, since its
features are aligned to the window. Pizzi et al. (2023) do not say where their trimmed vectors were read, so that no
single number of ours is *the* accuracy of sliding inversion: all five stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.audit.metrics import Floats
from fl_privacy.errors import UserError

Wave = NDArray[np.float32]
Posteriors = Callable[[Wave, int], Floats]
"""Log-posteriors (windows, classes) of a wave's windows, one every so many samples: `SpeakerClassifier.posteriors`."""

READOUTS: Mapping[str, str] = MappingProxyType(
    {
        "last_window": "the window that was optimised last",
        "grid_any": "any window on the grid of the optimisation (a best of several)",
        "grid_all": "every window on the grid",
        "trim": "what is left without half a window at either end, as a sentence",
        "sentence": "the whole vector as a sentence: summed log-posteriors every 10 ms",
    }
)
"""The read-outs and what is heard in each."""


def read_out(
    posteriors: Posteriors, waves: ArrayLike, identities: Sequence[int], window: int, step: int, shift: int
) -> dict[str, Floats]:
    """Read inversions of one length in all five ways.

    Parameters
    ----------
    posteriors : callable
        Of the attacked classifier.
    waves : array_like, shape (n, length)
    identities : sequence of int
        Whom each was made for.
    window : int
        Samples that the classifier hears.
    step : int
        By which the optimisation slid.
    shift : int
        Between the windows of a sentence.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        1 for recognised. A vector of one window is read alike in all ways; one too short to trim is not trimmed.

    Raises
    ------
    UserError
        For waves shorter than a window.
    """
    held = np.asarray(waves, dtype=np.float32)
    if held.ndim != 2 or held.shape[1] < window:
        raise UserError(f"read-outs need waves (n, {window} or more samples); got {held.shape}")
    length, half = held.shape[1], window // 2
    inner = slice(half, length - half) if length - 2 * half >= window else slice(None)
    found: dict[str, list[bool]] = {name: [] for name in READOUTS}
    for wave, identity in zip(held, identities, strict=True):
        on_grid = np.argmax(posteriors(wave, step), axis=1) == identity
        found["last_window"].append(bool(on_grid[-1]))
        found["grid_any"].append(bool(on_grid.any()))
        found["grid_all"].append(bool(on_grid.all()))
        for name, part in (("trim", wave[inner]), ("sentence", wave)):
            found[name].append(int(np.argmax(posteriors(part, shift).sum(axis=0))) == identity)
    return {name: np.array(hits, dtype=np.float64) for name, hits in found.items()}
