"""Look at the environment, and say what would fail in it. Changes nothing, and asks nothing of the network."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from fl_privacy.sims.environment import data, flower, machine, versions
from fl_privacy.sims.environment.finding import Finding, State, summary, table
from fl_privacy.sims.environment.imports import ImportProbe

__all__ = ["Finding", "State", "check_environment", "summary", "table"]


def check_environment() -> list[Finding]:
    """Look at versions, machine, corpora and what trips Flower.

    Returns
    -------
    list of Finding
        One a thing looked at, or several; a problem is something that would fail.
    """
    import fl_privacy
    from fl_privacy._processes import cores
    from fl_privacy.features.cache import cache_folder

    environ, here, programs = os.environ, Path.cwd(), Path(sysconfig.get_path("scripts"))
    torch_side = ["torch", "torchaudio"]
    rest = [module for module in versions.SHOWN.values() if module and module not in torch_side]
    # The slow imports go on in two processes while everything else is looked at.
    with ImportProbe(torch_side) as first, ImportProbe(rest) as second:
        limits, available = machine.cgroup_limits(), machine.available_memory()
        running = [
            machine.check_cores(cores(), limits.cores),
            machine.check_threads(environ),
            machine.check_memory(available, limits.memory),
            *machine.check_shared_memory(machine.free_bytes(Path("/dev/shm")), available),
            machine.check_folder("run folder", here / "runs", machine.STORE_BYTES, "give --out another folder"),
            machine.check_folder("cache folder", cache_folder(), 10**8, "export FL_PRIVACY_CACHE=/another/folder"),
            machine.check_folder(
                "temporary folder", Path(tempfile.gettempdir()), 10**8, "export TMPDIR=/another/folder"
            ),
            data.check_cache(cache_folder() / "features"),
            *data.check_corpora(environ.get("FL_PRIVACY_DATA")),
            flower.check_home(environ, Path.home()),
            flower.check_installation(environ),
            flower.check_calls_home(environ),
            flower.check_port(environ, Path(sys.executable).parent),
            *flower.check_proxy(environ),
            flower.check_programs(environ.get("PATH"), programs),
            flower.check_ray_address(environ),
            *flower.check_app(here),
            flower.check_checkout(
                here,
                Path(fl_privacy.__file__),
                fl_privacy.__version__,
                versions.installed(versions.DISTRIBUTION),
            ),
        ]
        inner = _flower_faults()
        torch, others = first.result(), second.result()
    faults = {**torch.faults, **others.faults}
    version = versions.installed
    return [
        versions.check_python(),
        *versions.check_packages(versions.requirements(), faults),
        *versions.check_torch_pair(version("torch"), version("torchaudio"), torch.gpu, faults),
        *versions.check_flower(version("flwr"), inner),
        *running,
        *machine.check_gpu(torch.gpu),
    ]


def _flower_faults() -> list[str]:
    """Return which private parts of Flower are not as they were."""
    try:
        from fl_privacy import _flower
    except Exception as error:  # whatever a changed library raises
        return [f"{type(error).__name__}: {error}"]
    return _flower.faults()
