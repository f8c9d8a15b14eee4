from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture
def tone() -> Callable[[Path], Path]:
    """Writes a tenth of a second of a tone; the folder is made."""

    def write(path: Path, rate: int = 16_000, seconds: float = 0.1) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(int(rate * seconds)) / rate
        soundfile.write(str(path), 0.3 * np.sin(2 * np.pi * 440 * time), rate, format=path.suffix[1:].upper())
        return path

    return write


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real corpora."""
    folder = os.environ.get("FL_PRIVACY_DATA")
    if not folder:
        pytest.skip("FL_PRIVACY_DATA is not set")
    return Path(folder).resolve()
