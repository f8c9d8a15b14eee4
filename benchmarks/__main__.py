"""List the benchmarks, or run one."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import benchmarks
from benchmarks._result import Result


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 whatever the figures say, 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Without a name: list the benchmarks.")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--full", action="store_true", help="the long form")
    chosen = parser.parse_args(arguments)
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    if chosen.name is None:
        for name in names:
            summary = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip().split("\n")[0]
            print(f"{name:<16}{summary}")
        return 0
    if chosen.name not in names:
        print(f"No benchmark is called {chosen.name!r}; there are: {', '.join(names)}.", file=sys.stderr)
        return 2
    result: Result = importlib.import_module(f"benchmarks.{chosen.name}").run(chosen.full)
    print(result.table())
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
