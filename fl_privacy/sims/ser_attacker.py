"""The whole recipe as the ServerApp of a Flower app: the server runs the federation, and attacks what it saw.

Run configuration: ``out`` (the run folder) and ``data`` (where the clients' data is, or is written), both absolute;
``preset`` (a preset's name or a simulation file); ``settings`` (further changes of it, ``section.key=value``, with
``;`` between them); and what the clients are told too, which goes before what the preset says: see `_KEYS`. An empty
string, 0 or ``"null"`` stands for the default where there is one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_privacy._processes import one_thread
from fl_privacy.attacks.files import table
from fl_privacy.audit import Claim, Control
from fl_privacy.audit.files import read_result
from fl_privacy.config import FederatedSerFile, load, parse_setting
from fl_privacy.errors import UserError
from fl_privacy.sims.engines import on_grid
from fl_privacy.sims.run import run_file
from fl_privacy.sims.ser_recipe import FederatedSerRecipe

app = ServerApp()

_KEYS = {
    "seed": "simulation.seed",
    "algorithm": "federation.algorithm",
    "num-server-rounds": "federation.rounds",
    "clients-per-round": "federation.clients_per_round",
    "batch-size": "federation.batch_size",
    "learning-rate": "federation.learning_rate",
    "local-epochs": "federation.local_epochs",
    "dropout": "federation.dropout",
    "fraction-evaluate": "federation.fraction_evaluate",
    "defenses": "defense",
    "observe": "capture.observe",
    "capture-arrays": "capture.arrays",
    "capture-clients": "capture.clients",
    "capture-every": "capture.every",
    "capture-dtype": "capture.dtype",
}
"""Run configuration -> the simulation's setting."""

_ZERO_IS_DEFAULT = ("clients-per-round", "learning-rate")
_JSON = ("defenses", "capture-arrays", "capture-clients")
_SECONDS_BETWEEN_LINES = 5.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the victim federation on this grid; then shadows, attacks, audit and report, here."""
    told = context.run_config
    file = simulation(told)
    out, _ = (_absolute(told, key) for key in ("out", "data"))
    print(FederatedSerRecipe(file).threat_model.describe(), flush=True)
    with one_thread():
        run_file(file, out, _Lines(), engine=on_grid(grid, context))
    result = read_result(out / "result.json")
    claims = [Claim.from_dict(c) for c in result["claims"]]
    print(table(claims, [Control.from_dict(c) for c in result["controls"]]))
    print(f"report: {out / 'report.html'}", flush=True)


def simulation(run_config: Mapping[str, Any]) -> FederatedSerFile:
    """Return the simulation that a run configuration means.

    Raises
    ------
    UserError
        For what is no simulation.
    """
    own = {key: _value(key, run_config[key]) for key in _KEYS}
    settings = [text.strip() for text in str(run_config["settings"]).split(";") if text.strip()]
    for setting in settings:
        key, _ = parse_setting(setting)
        for name, taken in _KEYS.items():
            if f"{key}.".startswith(f"{taken}.") or taken.startswith(f"{key}."):
                raise UserError(f"run config settings: {key}: give {name} by --run-config, which clients read too")
    return load(
        str(run_config["preset"]),
        [*settings, *((_KEYS[key], value) for key, value in own.items()), ("simulation.engine", "grid")],
    )


def write_data(run_config: Mapping[str, Any], folder: Path) -> int:
    """Write the clients' data of a run ahead of it, to be brought to the nodes of a deployed federation.

    Parameters
    ----------
    run_config : mapping
        The app's.
    folder : Path
        New. A client needs ``federation.json`` and its own ``client-<partition>.safetensors`` of it.

    Returns
    -------
    int
        Number of clients.
    """
    return FederatedSerRecipe(simulation(run_config)).write_data(folder)


def _value(key: str, value: Any) -> Any:
    if key in _JSON:
        try:
            return json.loads(str(value))
        except ValueError:
            raise UserError(f"run config {key}: {value!r} is no JSON") from None
    return None if key in _ZERO_IS_DEFAULT and value == 0 else value


def _absolute(run_config: Mapping[str, Any], key: str) -> Path:
    path = Path(str(run_config[key]))
    if not path.is_absolute():
        raise UserError(
            f"run config {key} = {str(path) if run_config[key] else ''!r} must be an absolute path: "
            f"--run-config '{key}=\"/...\"' (the ServerApp's working directory is the SuperLink's, not yours)"
        )
    return path


class _Lines:
    """Progress as lines now and then: it is read in a log."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._said.get(what, 0.0) >= _SECONDS_BETWEEN_LINES:
            if self._said.get(what) == float("inf"):
                return
            self._said[what] = float("inf") if done >= total else now
            print(f"{what}: {done}/{total}", flush=True)
