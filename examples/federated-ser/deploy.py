"""The app of this folder on a deployed federation, all on this machine: a SuperLink, and a SuperNode for each client.

A check that the app runs where nothing is simulated, with synthetic voices and few of them: each message starts a
process of its own, which makes a round take many seconds. Everything that it starts is stopped at its end, and its
exit status is 0 only if the run was completed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from fl_privacy.errors import UserError
from fl_privacy.sims.ser_attacker import write_data
from fl_privacy.sims.superlink import SuperLink

APP = Path(__file__).resolve().parent


def main() -> int:
    """Deploy, run, stop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=4, help="SuperNodes, one a client (default: 4)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/deployed"), help="run folder (default: runs/deployed)")
    asked = parser.parse_args()
    out = asked.out.resolve()
    settings = {
        # Half of the speakers are held out for the test; one speaker is one client.
        "federation.folds": 2,
        "private.options.speakers": 2 * asked.clients,
        "private.options.utterances": 6,
        "auxiliary.0.options.speakers": 8,
        "auxiliary.0.options.utterances": 6,
        "audit.permutations": 5,
    }
    told = {
        "out": str(out),
        "settings": "; ".join(f"{key}={value}" for key, value in settings.items()),
        "num-server-rounds": asked.rounds,
        "clients-per-round": asked.clients,
    }
    defaults = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    try:
        with tempfile.TemporaryDirectory(prefix="federated-ser-") as place:
            data = Path(place) / "data"
            clients = write_data(defaults | told, data)
            log = out.with_name(f"{out.name}-flower.log")
            with SuperLink(Path(place), simulation=False, log=log) as superlink:
                print(f"SuperLink: {superlink.address}; log: {log}", flush=True)
                for number in range(clients):
                    # A node has its own client's file, and no other's.
                    own = Path(place) / f"client-{number}"
                    own.mkdir()
                    for name in ("federation.json", f"client-{number:05d}.safetensors"):
                        shutil.copy(data / name, own)
                    superlink.supernode(number, clients, {"data": str(own)})
                print(f"SuperNodes: {clients}; running {asked.rounds} rounds", flush=True)
                superlink.run(APP, told | {"data": str(data)})
    except UserError as error:
        print(f"deploy.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("deploy.py: stopped; nothing is left running", file=sys.stderr)
        return 130
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
