"""Random streams of one's own, for a block of somebody else's code that draws from the global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def own_randomness(*key: Any) -> Iterator[None]:
    """Give the block global random streams derived from the key (`random`, NumPy, torch), and put back the caller's.

    The key's parts are told apart by their `repr`: numbers and strings. Equal keys give equal streams in any process.
    """
    import torch

    saved = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    digest = hashlib.sha256(repr(key).encode()).digest()
    random.seed(digest)
    np.random.seed(np.frombuffer(digest[:16], dtype=np.uint32))  # noqa: NPY002
    torch.default_generator.manual_seed(int.from_bytes(digest[16:23], "little"))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(int.from_bytes(digest[16:23], "little"))
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        torch.random.set_rng_state(saved[2])
