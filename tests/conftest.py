from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from fl_privacy.updates import ThreatModel, UpdateStore
from fl_privacy.updates.store import Reply

# How long an example takes says more about the machine than about the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

Arrays = Mapping[str, NDArray[Any]]
MakeStore = Callable[..., UpdateStore]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Write gradients into a store under `tmp_path`: one dict of client -> arrays a round."""

    def make(name: str, rounds: Sequence[Mapping[str, Arrays]], **settings: Any) -> UpdateStore:
        store = UpdateStore(tmp_path / name, **settings)
        store.begin(ThreatModel())
        for number, updates in enumerate(rounds, 1):
            model = {k: np.zeros_like(v) for k, v in next(iter(updates.values())).items()}
            replies = [Reply(client, 0, arrays, "gradient", 20.0) for client, arrays in updates.items()]
            store.append(number, [model], replies)
        store.close()
        return UpdateStore(tmp_path / name)

    return make
