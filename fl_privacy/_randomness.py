"""Random streams of one's own, for a block of somebody else's code that draws from the global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def seed_streams(*key: Any) -> None:
    """Seed the global random streams (`random`, NumPy, torch) by a key.

    Its parts are told apart by their `repr`: numbers and strings. Equal keys give equal streams in any process.
    """
    import torch

    digest = _digest(key)
    random.seed(digest)
    np.random.seed(np.frombuffer(digest[:16], dtype=np.uint32))  # noqa: NPY002
    # torch.manual_seed would also visit every accelerator, which costs more than all else here.
    torch.default_generator.manual_seed(int.from_bytes(digest[16:23], "little"))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(int.from_bytes(digest[16:23], "little"))


def python_stream(*key: Any) -> random.Random:
    """Return a stream that gives what `random` would after `seed_streams`, and leaves the global ones alone."""
    return random.Random(_digest(key))


def _digest(key: tuple[Any, ...]) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()


@contextmanager
def kept_streams() -> Iterator[None]:
    """Put back the global random streams after the block."""
    import torch

    saved = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        torch.random.set_rng_state(saved[2])


@contextmanager
def own_randomness(*key: Any) -> Iterator[None]:
    """Give the block streams derived from the key, and put back the caller's."""
    with kept_streams():
        seed_streams(*key)
        yield
