"""A federation's run configuration, as a simulation file asks for it; see `fl_privacy.sims.ser_server`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl_privacy.config import FederatedSerFile
from fl_privacy.errors import UserError
from fl_privacy.updates import UpdateStore


def run_config_of(
    file: FederatedSerFile,
    folder: Path,
    clients: int,
    seed: int,
    *,
    private: bool,
    owns: str,
    defenses: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what a federation's server and clients are told.

    Parameters
    ----------
    file : FederatedSerFile
    folder : Path
        The federation's: it holds the data, and takes the store.
    clients : int
        How many there are.
    seed : int
        Of the federation.
    private : bool
        Whether it is the victims', or one of the attacker's own.
    owns : str
        What the attacker has, for the store's threat model.
    defenses : sequence of mapping
        Settings of each.

    Raises
    ------
    UserError
        Where a round would take more clients than there are.
    """
    settings, capture, shadow = file.federation, file.capture, file.shadow
    a_round = settings.a_round_of(clients)
    if a_round > clients:
        raise UserError(f"federation.clients_per_round = {a_round}, but {folder.name} has only {clients} clients")
    as_victim = private or shadow.initialisation == "victim"
    return {
        "data": str(folder / "data"),
        "store": str(folder / "updates"),
        "utility": str(folder / "utility.json"),
        "seed": seed,
        "initial-seed": file.simulation.seed if as_victim else seed,
        "algorithm": settings.algorithm,
        "num-server-rounds": settings.rounds if private else shadow.rounds or settings.rounds,
        "clients-per-round": a_round,
        "batch-size": settings.batch_size,
        "learning-rate": settings.learning_rate or 0.0,
        "local-epochs": settings.local_epochs,
        "dropout": settings.dropout,
        "fraction-evaluate": settings.fraction_evaluate,
        "reply": settings.reply,
        "defenses": json.dumps(defenses),
        "observe": capture.observe,
        "owns": owns,
        "capture-arrays": json.dumps(capture.arrays),
        "capture-clients": json.dumps(capture.clients if private else None),
        "capture-every": capture.every,
        "capture-dtype": capture.dtype,
    }


def store_of(run_config: Mapping[str, Any]) -> UpdateStore:
    """Return the store that a run configuration describes, for a new capture."""
    return UpdateStore(
        str(run_config["store"]),
        arrays=json.loads(str(run_config["capture-arrays"])),
        clients=json.loads(str(run_config["capture-clients"])),
        every=int(run_config["capture-every"]),
        dtype=str(run_config["capture-dtype"]),  # type: ignore[arg-type]
    )
