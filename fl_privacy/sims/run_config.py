"""What of a federation's run configuration is about the store; see `fl_privacy.sims.ser_server` for all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fl_privacy.updates import UpdateStore


def store_of(run_config: Mapping[str, Any]) -> UpdateStore:
    """Return the store that a run configuration describes, for a new capture."""
    return UpdateStore(
        str(run_config["store"]),
        arrays=json.loads(str(run_config["capture-arrays"])),
        clients=json.loads(str(run_config["capture-clients"])),
        every=int(run_config["capture-every"]),
        dtype=str(run_config["capture-dtype"]),  # type: ignore[arg-type]
    )
