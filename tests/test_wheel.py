"""The package as it is released: built, installed into an environment of its own, and run from any folder.

Dependencies come from the environment of the tests (5 GB would have to be copied otherwise): what is tested is that the
wheel holds all that the package needs of itself, not that its list of dependencies is complete. That is held against
the imports of the code, below.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def clean() -> dict[str, str]:
    """The environment without what names the working tree."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MAKE"))}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        env=clean(),
    )
    return folder


def tracked(under: str) -> set[str]:
    found = (ROOT / under).rglob("*")
    return {str(p.relative_to(ROOT)) for p in found if p.is_file() and "__pycache__" not in p.parts}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_data(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    inside = {name for name in names if name.startswith("fl_privacy/")}
    assert inside == tracked("fl_privacy")
    assert {Path(name).suffix for name in inside} >= {".toml", ".csv", ".j2", ".css", ".typed"}
    assert all(name.startswith("fl_privacy") for name in names)  # nothing else lands in the user's environment
    assert "License-Expression: Apache-2.0" in about
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "# fl-privacy" in about  # the readme


@pytest.mark.slow
def test_the_sdist_holds_what_it_takes_to_test_and_document(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert names >= {"README.md", "LICENSE", "SECURITY.md", "CITATION.cff", "mkdocs.yml", "constraints.txt"}
    assert names >= tracked("docs")
    assert not [name for name in names if re.match(r"(runs|\.venv|build)/", name)]


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo_from_another_folder(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=False)
    (site,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    ours = Path(metadata.distribution("numpy").locate_file("")).resolve()
    (wheel,) = built.glob("*.whl")
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--no-deps",
            "--no-index",
            "--quiet",
            str(wheel),
        ],
        check=True,
        env=clean(),
    )
    # Behind the environment's own packages: an editable install there has its path in a .pth file, which is not read.
    (site / "dependencies.pth").write_text(f"import sys; sys.path.append({str(ours)!r})\n")
    folder = tmp_path / "somewhere else"
    folder.mkdir()
    small = (
        "private.options.speakers=12 private.options.utterances=8 auxiliary.0.options.speakers=12 federation.rounds=8"
    )
    done = subprocess.run(
        [
            str(tmp_path / "env" / "bin" / "fl-privacy"), "run", "federated-ser", "--quiet", "--out", "run",
            "--set", "audit.permutations=5",
            *(word for setting in small.split() for word in ("--set", setting)),
        ],
        cwd=folder,
        env=clean() | {"FL_PRIVACY_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "input-reconstruction" in done.stdout
    assert "<svg" in (folder / "run" / "report.html").read_text()
    where = subprocess.run(
        [str(python), "-c", "import fl_privacy; print(fl_privacy.__file__)"],
        cwd=folder,
        env=clean(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(site)


def imported() -> set[str]:
    """Return the top-level names that the package imports, wherever it does."""
    found = set()
    for path in (ROOT / "fl_privacy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    return found - {"fl_privacy"} - sys.stdlib_module_names


def required(extra: str | None = None) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return {re.split(r"[\[<>=!~; ]", row)[0].lower() for row in rows}


# What a distribution that is asked for is sure to bring, by its own extras or as its own name.
BROUGHT = {
    "ray": "flwr",  # flwr[simulation]
    "dp_accounting": "flwr",  # flwr[dp]
    "click": "typer",
    "google": "flwr",  # protobuf
}


def test_what_is_imported_is_asked_for() -> None:
    asked = required() | required("emobase")
    names = {"sklearn": "scikit-learn", **BROUGHT}
    missing = {name for name in imported() if names.get(name, name).lower().replace("_", "-") not in asked}
    # Packages that only a user's own model brings are imported inside functions that say so.
    assert missing <= {"transformers"}, missing


def test_everything_that_is_asked_for_is_pinned() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert required() | required("dev") | required("docs") <= pinned


def test_the_citation_and_the_changelog_name_this_version() -> None:
    from fl_privacy import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_torch_and_torchaudio_are_asked_for_in_the_same_bounded_range() -> None:
    # pip would pair the newest of each: torch goes on, torchaudio ends with 2.11 and is not loaded beside a later torch.
    rows = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ranges = {(asked := Requirement(row)).name: asked.specifier for row in rows}
    assert ranges["torch"] == ranges["torchaudio"]
    assert not ranges["torch"].contains("2.12.0")
    assert ranges["torch"].contains("2.11.0")
