"""Audio files: what is wrong with one, and its samples as mono 16 kHz float32."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fl_privacy.corpora._errors import AudioError

if TYPE_CHECKING:
    from fl_privacy.corpora.base import Utterance

SAMPLE_RATE = 16_000
"""Rate in Hz of every wave that a corpus hands out."""

_SUFFIXES = (".wav", ".flac")
_LFS_HEAD = b"version https://git-lfs"


def is_audio(path: Path) -> bool:
    """Say whether a file is named like a recording (wav or flac, any case) and is not hidden."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def fault(path: Path) -> str | None:
    """Say why a file's header cannot be used, or None where it can.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    str or None
        A reason such as "empty file", "git-lfs pointer, not audio" or "not readable as audio".
    """
    import soundfile

    try:
        frames = soundfile.info(str(path)).frames
    except (RuntimeError, OSError):
        return _unreadable(path)
    return None if frames > 0 else "no samples"


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_HEAD))
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not head:
        return "empty file"
    return "git-lfs pointer, not audio" if head == _LFS_HEAD else "not readable as audio"


def read(path: Path) -> NDArray[np.float32]:
    """Read a recording as mono 16 kHz samples; channels are averaged, other rates resampled.

    Parameters
    ----------
    path : Path
        A wav or flac file of any rate and number of channels.

    Returns
    -------
    ndarray of float32, shape (n,)
        Samples, full scale 1.

    Raises
    ------
    AudioError
        If the file cannot be decoded, is empty or holds NaN or infinity.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise AudioError(f"{path}: {_unreadable(path)}") from error
    if len(samples) == 0:
        raise AudioError(f"{path}: no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: holds samples that are not finite numbers")
    wave = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    return wave if rate == SAMPLE_RATE else _resample(wave, rate)


def _resample(wave: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    import torch
    import torchaudio

    resampled: NDArray[np.float32] = torchaudio.functional.resample(torch.from_numpy(wave), rate, SAMPLE_RATE).numpy()
    return resampled


class FileAudio:
    """The `AudioSource` of corpora on disk."""

    def wave(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return the samples of the utterance's file, float32 (n,), mono 16 kHz."""
        return read(_path(utterance))

    def fingerprint(self, utterance: Utterance) -> str:
        """Return the SHA-256 of the file's bytes, in hexadecimal."""
        try:
            return hashlib.sha256(_path(utterance).read_bytes()).hexdigest()
        except OSError as error:
            raise AudioError(f"{utterance.path}: cannot be opened ({error.strerror})") from error

    def seconds(self, utterance: Utterance) -> float:
        """Return the duration in seconds, from the file's header."""
        import soundfile

        try:
            return float(soundfile.info(str(_path(utterance))).duration)
        except (RuntimeError, OSError) as error:
            raise AudioError(f"{utterance.path}: {_unreadable(_path(utterance))}") from error


def _path(utterance: Utterance) -> Path:
    if utterance.path is None:
        raise AudioError(f"utterance {utterance.id!r} has no audio file")
    return utterance.path
