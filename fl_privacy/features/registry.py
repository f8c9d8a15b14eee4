"""Feature extractors by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fl_privacy._registry import find_object
from fl_privacy.features._errors import FeatureError

EXTRACTORS: Mapping[str, str] = MappingProxyType(
    {
        "functionals": "fl_privacy.features.functionals:Functionals",
        "emobase": "fl_privacy.features.emobase:Emobase",
        "ssl": "fl_privacy.features.ssl:SSL",
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


def load_extractor(name: str, /, **options: Any) -> Extractor:
    """Make an extractor.

    Parameters
    ----------
    name : str
        One of `EXTRACTORS`, or ``package.module:object`` for one's own: an `Extractor`, or a class that makes one.
    **options
        Arguments of the class.

    Returns
    -------
    Extractor
        Ready to call.

    Raises
    ------
    FeatureError
        For an unknown name or option, an object that is no extractor, or an optional package that is not installed.
    """
    found = find_object(name, EXTRACTORS, "feature extractor", FeatureError)
    extractor = _make(name, found, options)
    missing = [part for part in ("name", "version", "dimension") if not hasattr(extractor, part)]
    if missing or not callable(extractor):
        raise FeatureError(
            f"feature extractor {name!r}: {', '.join(missing) or '__call__'} missing; "
            "an extractor has name, version and dimension and is called with a wave"
        )
    checked: Extractor = extractor
    return checked


def _make(name: str, found: Any, options: Mapping[str, Any]) -> Any:
    if not isinstance(found, type):
        if options:
            raise FeatureError(f"feature extractor {name!r} is ready made: it takes no options")
        return found
    signature = inspect.signature(found)
    try:
        signature.bind(**options)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise FeatureError(
            f"feature extractor {name!r}: {error}. {f'Its options: {known}' if known else 'It takes no options'}"
        ) from None
    return found(**options)
