"""Shadow federations as plain loops: the attacker's own business needs no messages.

`train_shadow` takes the place of the local engine: the same run configuration, the same store to the bit.
`match_shadow` runs the attacker's clients from a victim store's own models.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fl_privacy.defenses import Defense, make_defenses
from fl_privacy.sims.run_config import store_of
from fl_privacy.training import write_utility
from fl_privacy.training.federation import FederationPlan, federate
from fl_privacy.training.matched import MatchedPlan, matched_updates
from fl_privacy.training.participation import ClientSettings
from fl_privacy.updates import ThreatModel, UpdateStore, observation

Trained = Callable[[int], None]


def train_shadow(folder: Path, clients: int, run_config: Mapping[str, Any], trained: Trained) -> None:
    """Run a shadow federation; an `fl_privacy.sims.engines.Engine`.

    Parameters
    ----------
    folder : Path
        Not used: the loop leaves nothing but the store and the utility file that the run configuration names.
    clients : int
        Number of clients, as the data has it.
    run_config : Mapping
        See `fl_privacy.sims.ser_server`. ``checkpoint`` is of no use: a killed loop starts again from its seed.
    trained : callable
        Told after each round how many updates there have been.

    Notes
    -----
    A defense that wraps the server's strategy needs Flower: then the local engine runs the federation.
    """
    settings = json.loads(str(run_config["defenses"]))
    if any(type(defense).strategy is not Defense.strategy for defense in make_defenses(settings)):
        from fl_privacy.sims.engines import local

        local(folder, clients, dict(run_config), trained)
        return
    store, observe = store_of(run_config), str(run_config["observe"])
    kept = store.settings
    seen = observation(observe, every=kept.every, clients=kept.clients, arrays=kept.arrays)  # type: ignore[arg-type]
    history = federate(
        plan_of(run_config),
        store,
        ThreatModel(observes=seen, owns=str(run_config["owns"])),
        observe,  # type: ignore[arg-type]
        make_hooks=functools.partial(make_defenses, settings),
        trained=trained,
    )
    write_utility(str(run_config["utility"]), history.classes, history.test, history.validation)


def plan_of(run_config: Mapping[str, Any]) -> FederationPlan:
    """Return the federation that a run configuration describes; see `train_shadow`."""
    return FederationPlan(
        data=Path(str(run_config["data"])),
        client=ClientSettings.read(run_config),
        rounds=int(run_config["num-server-rounds"]),
        clients_per_round=int(run_config["clients-per-round"]),
        dropout=float(run_config["dropout"]),
        fraction_evaluate=float(run_config["fraction-evaluate"]),
        initial_seed=int(run_config.get("initial-seed", run_config["seed"])),
        reply=str(run_config.get("reply", "gradient")),  # type: ignore[arg-type]
    )


def match_shadow(
    store: UpdateStore,
    run_config: Mapping[str, Any],
    *,
    rounds: Sequence[int] | None = None,
    clients_per_round: int | None = None,
    seed: int = 0,
    processes: int = 1,
    trained: Trained | None = None,
) -> UpdateStore:
    """Run the attacker's SER clients from the models of a victim store: `fl_privacy.shadow_updates` without messages.

    Parameters
    ----------
    store : UpdateStore
        The victims'.
    run_config : Mapping
        Of the attacker's clients, as `train_shadow` takes it: ``data`` (the attacker's own), ``store`` (for the new
        store), ``seed``, ``algorithm``, ``batch-size``, ``learning-rate``, ``local-epochs``, ``dropout``, ``defenses``.
    rounds, clients_per_round, seed, processes, trained
        See `fl_privacy.training.matched.matched_updates`.
    """
    settings = json.loads(str(run_config["defenses"]))
    plan = MatchedPlan(
        Path(str(run_config["data"])),
        ClientSettings.read(run_config),
        float(run_config["dropout"]),
        functools.partial(make_defenses, settings),
    )
    return matched_updates(
        store,
        plan,
        str(run_config["store"]),
        rounds=rounds,
        clients_per_round=clients_per_round,
        seed=seed,
        processes=processes,
        trained=trained,
    )
