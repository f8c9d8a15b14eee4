"""openSMILE's emobase set: 988 functionals, as used by Feng et al. 2021 (arXiv 2112.13416)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_privacy.features._errors import FeatureError

_SAMPLE_RATE = 16_000


class Emobase:
    """The emobase functionals through the optional package ``opensmile``.

    Raises
    ------
    FeatureError
        On construction, if the package is not installed.
    """

    name = "emobase"
    dimension = 988

    def __init__(self) -> None:
        try:
            import opensmile
        except ImportError as error:
            raise FeatureError("the features 'emobase' need openSMILE: pip install 'fl-privacy[emobase]'") from error
        self.version = f"1-opensmile-{opensmile.__version__}"
        self._smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.emobase, feature_level=opensmile.FeatureLevel.Functionals
        )

    def __call__(self, wave: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Compute the functionals of an utterance.

        Parameters
        ----------
        wave : ndarray of float32, shape (n,)
            Mono 16 kHz; openSMILE gives NaN for less than a frame.

        Returns
        -------
        ndarray of float32, shape (988,)
            In openSMILE's order.
        """
        values: NDArray[np.float32] = self._smile.process_signal(wave, _SAMPLE_RATE).to_numpy(dtype=np.float32).ravel()
        return values
