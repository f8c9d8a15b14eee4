"""Feature extractors by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fl_privacy._registry import find_object
from fl_privacy.features._errors import FeatureError

EXTRACTORS: Mapping[str, str] = MappingProxyType(
    {
        "functionals": "fl_privacy.features.functionals:Functionals",
        "emobase": "fl_privacy.features.emobase:Emobase",
    }
)
"""The built-in extractors: name -> where its class is."""


@runtime_checkable
class Extractor(Protocol):
    """Turns an utterance into a vector.

    Attributes
    ----------
    name : str
        Part of the cache's key.
    version : str
        Part of the cache's key: change it whenever the numbers change.
    dimension : int
        Length of the vector.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102

    def __call__(self, wave: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return float32 (dimension,) for the samples float32 (n,), mono 16 kHz."""


def load_extractor(name: str) -> Extractor:
    """Make an extractor.

    Parameters
    ----------
    name : str
        One of `EXTRACTORS`, or ``package.module:object`` for one's own: an `Extractor`, or a class that makes one
        without arguments.

    Returns
    -------
    Extractor
        Ready to call.

    Raises
    ------
    FeatureError
        For an unknown name, an object that is no extractor, or an optional package that is not installed.
    """
    found = find_object(name, EXTRACTORS, "feature extractor", FeatureError)
    extractor = found() if isinstance(found, type) else found
    missing = [part for part in ("name", "version", "dimension") if not hasattr(extractor, part)]
    if missing or not callable(extractor):
        raise FeatureError(
            f"feature extractor {name!r}: {', '.join(missing) or '__call__'} missing; "
            "an extractor has name, version and dimension and is called with a wave"
        )
    checked: Extractor = extractor
    return checked
