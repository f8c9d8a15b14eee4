"""Inversions and synthesised voices as audio files, each marked as what it is."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fl_privacy.errors import UserError

MARK = "synthetic: made by fl-privacy"
"""Stands in the file, as the comment of its INFO list."""


def write_synthetic(path: Path, wave: ArrayLike, sample_rate: int = 16_000) -> Path:
    """Write a wave as a 16-bit WAV file that says that it is synthetic, in its name and in itself.

    Parameters
    ----------
    path : Path
        Ends in ``.wav``; the file is named ``<stem>.synthetic.wav``.
    wave : array_like, shape (samples,)
        Scaled to a peak of .9.
    sample_rate : int

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    UserError
        For another name, or a wave that is empty or not finite.
    """
    values = np.asarray(wave, dtype=np.float64)
    if path.suffix != ".wav":
        raise UserError(f"{path}: audio is written as .wav")
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise UserError(f"{path}: a wave must be a list of finite numbers, not {values.shape}")
    peak = max(float(np.abs(values).max()), 1e-9)
    samples = np.round(values / peak * 0.9 * 32767).astype("<i2").tobytes()
    comment = MARK.encode() + b"\0"
    comment += b"\0" * (len(comment) % 2)
    info = b"INFO" + _chunk(b"ICMT", comment) + _chunk(b"ISFT", b"fl-privacy\0\0")
    form = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    body = b"WAVE" + _chunk(b"fmt ", form) + _chunk(b"LIST", info) + _chunk(b"data", samples)
    marked = path.with_name(f"{path.stem}.synthetic.wav")
    partial = marked.with_name(f".{marked.name}.partial")
    partial.write_bytes(_chunk(b"RIFF", body))
    os.replace(partial, marked)
    return marked


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content
