"""Try imports in processes of their own: a broken binary can end the interpreter, and importing is slow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_MARK = "@fl-privacy-import@"
_CODE = """
import importlib, json, sys
mark, names = sys.argv[1], sys.argv[2:]
def tell(*what):
    print(mark + json.dumps(what), flush=True)
for name in names:
    try:
        importlib.import_module(name)
        tell(name, "")
    except BaseException as error:
        tell(name, f"{type(error).__name__}: {error}")
torch = sys.modules.get("torch")
if hasattr(torch, "cuda"):
    try:
        there = torch.cuda.is_available()
        tell("gpu", [torch.cuda.get_device_name(0) if there else "", torch.version.cuda or ""])
    except BaseException as error:
        tell("gpu", ["", f"{type(error).__name__}: {error}"])
"""


@dataclass(frozen=True)
class Gpu:
    """What torch says of the GPU: its name, "" for none; the CUDA version torch was built for, "" for none."""

    name: str = ""
    cuda: str = ""


@dataclass(frozen=True)
class Imported:
    """What came of the imports.

    Attributes
    ----------
    faults : dict of str
        Module -> what importing it raised; "" where it was imported. A module after a crash is not in it.
    gpu : Gpu or None
        None where torch was not imported.
    """

    faults: dict[str, str]
    gpu: Gpu | None = None


class ImportProbe:
    """A process that imports modules, one after the other; a context manager, so that none is left behind.

    Parameters
    ----------
    modules : sequence of str
        Their names.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = list(modules)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, _MARK, *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )

    def __enter__(self) -> ImportProbe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def result(self, seconds: float = 120.0) -> Imported:
        """Wait for the process and return what came of the imports."""
        try:
            printed, _ = self._process.communicate(timeout=seconds)
            end = f"the interpreter ended with status {self._process.returncode}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            printed, _ = self._process.communicate()
            end = f"not through after {seconds:g} seconds"
        told: dict[str, Any] = {}
        for line in printed.splitlines():
            # Libraries print as well, also without a line's end.
            _, mark, rest = line.partition(_MARK)
            if mark:
                name, value = json.loads(rest)
                told[name] = value
        gpu = Gpu(*told.pop("gpu")) if "gpu" in told else None
        broken = next((name for name in self._modules if name not in told), None)
        return Imported(told if broken is None else {**told, broken: end}, gpu)
