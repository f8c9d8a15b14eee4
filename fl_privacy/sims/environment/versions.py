"""Packages: which versions are there, which are asked for, and whether they can be imported."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from fl_privacy.sims.environment.finding import Finding
from fl_privacy.sims.environment.imports import Gpu

DISTRIBUTION = "fl-privacy"
TESTED_FLOWER = "1.41"
SHOWN = {
    "flwr": "",
    "ray": "ray",
    "torch": "torch",
    "torchaudio": "torchaudio",
    "opacus": "",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "soundfile": "soundfile",
}
"""Packages that have a row of their own -> the module whose import is tried.

Flower is imported in this process; Opacus is pure Python and takes seconds.
"""


def installed(package: str) -> str | None:
    """Return a package's installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements(
    package: str = DISTRIBUTION, requires: Callable[[str], Iterable[str] | None] = metadata.requires
) -> list[Requirement] | None:
    """Return what an installed package asks for, with what its extras ask for; None where it is not installed.

    Parameters
    ----------
    package : str
        Its name.
    requires : callable
        Package -> its requirements, as `importlib.metadata.requires`.
    """
    try:
        lines = requires(package) or ()
    except metadata.PackageNotFoundError:
        return None
    own = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [*own, *(part for requirement in own for part in _of_extras(requirement, requires))]


def _of_extras(requirement: Requirement, requires: Callable[[str], Iterable[str] | None]) -> Iterator[Requirement]:
    try:
        lines = list(requires(requirement.name) or ()) if requirement.extras else []
    except metadata.PackageNotFoundError:
        return
    for part in map(Requirement, lines):
        marker = part.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue  # what it asks for without the extra is for pip to see to
        if any(marker.evaluate({"extra": extra}) for extra in requirement.extras):
            yield part


def check_python(version: str | None = None, asked: str | None = None) -> Finding:
    """Compare Python's version with the range that this package asks for."""
    version = version or platform.python_version()
    if asked is None:
        try:
            asked = metadata.metadata(DISTRIBUTION)["Requires-Python"]
        except metadata.PackageNotFoundError:
            asked = ""
    if asked and not Requirement(f"python{asked}").specifier.contains(version, prereleases=True):
        return Finding("python", "problem", f"{version}; {DISTRIBUTION} asks for {asked}", "make a new environment")
    return Finding("python", "ok", version)


def check_packages(
    asked: list[Requirement] | None,
    faults: Mapping[str, str],
    version_of: Callable[[str], str | None] = installed,
) -> list[Finding]:
    """Compare what is installed with what is asked for, and say which imports failed.

    Parameters
    ----------
    asked : list of Requirement or None
        See `requirements`.
    faults : mapping
        Module -> why its import failed, "" where it did not; see `imports.Imported`.
    version_of : callable
        Package -> installed version or None.
    """
    findings = []
    if asked is None:
        todo = "pip install -e . in the checkout; until then its version ranges are not checked"
        findings.append(Finding(DISTRIBUTION, "note", "not installed, run from its source", todo))
        asked = [Requirement(name) for name in SHOWN]
    by_name: dict[str, Requirement] = {canonicalize_name(r.name): r for r in asked}
    others = [name for name in by_name if name not in SHOWN]
    wrong = 0
    for name in [*(name for name in SHOWN if name in by_name), *others]:
        finding = _check_package(by_name[name], faults.get(SHOWN.get(name, ""), ""), version_of(name))
        if name in SHOWN or finding.state != "ok":
            findings.append(finding)
        wrong += name in others and finding.state != "ok"
    if others and not wrong:
        findings.append(Finding("other packages", "ok", f"{len(others)}, all within the ranges asked for"))
    return findings


def _check_package(asked: Requirement, fault: str, version: str | None) -> Finding:
    name, wanted = canonicalize_name(asked.name), f"{asked.name}{asked.specifier}"
    install = f"pip install '{wanted}'"
    if version is None:
        return Finding(name, "problem", "not installed", install)
    if not asked.specifier.contains(version, prereleases=True):
        return Finding(name, "problem", f"{version}; {asked.specifier} is asked for", install)
    if fault:
        return Finding(name, "problem", f"{version}, import fails: {_line(fault)}", f"reinstall: {install}")
    return Finding(name, "ok", version)


def check_torch_pair(
    torch: str | None, torchaudio: str | None, gpu: Gpu | None, faults: Mapping[str, str]
) -> list[Finding]:
    """Say whether torch and torchaudio are of one release and of one build (CPU or CUDA), where both are installed."""
    if torch is None or torchaudio is None:
        return []
    try:
        pair = Version(torch), Version(torchaudio)
    except InvalidVersion:
        return []
    name, both = "torch + torchaudio", f"torch {torch}, torchaudio {torchaudio}"
    release = min(pair).public  # torch goes on where torchaudio has ended, not the other way round
    todo = f"both from one package index: pip install torch=={release} torchaudio=={release}"
    if faults.get("torchaudio") and not faults.get("torch"):
        build = "built for the CPU" if gpu is not None and not gpu.cuda else "built for CUDA"
        found = f"{both} ({build}): torchaudio cannot be imported beside this torch"
        return [Finding(name, "problem", found, todo)]
    if pair[0].release[:2] != pair[1].release[:2]:
        return [Finding(name, "note", f"{both}: not of one release", todo)]
    return []


def check_flower(version: str | None, faults: list[str]) -> list[Finding]:
    """Say whether this Flower is the tested one, and whether its private parts that the engine uses are as they were.

    Parameters
    ----------
    version : str or None
        Installed version.
    faults : list of str
        What is no longer as it was; see `fl_privacy._flower.faults`.
    """
    if version is None:
        return []
    todo = f"pip install 'flwr[simulation,dp]=={TESTED_FLOWER}.*'"
    if faults:
        found = f"flwr {version}: the local engine cannot run ({_line('; '.join(faults))})"
        return [Finding("Flower's inner parts", "problem", found, todo)]
    if Version(version).release[:2] != Version(TESTED_FLOWER).release[:2]:
        found = f"flwr {version}; tested with {TESTED_FLOWER}. What the local engine needs of it is there"
        return [Finding("Flower's inner parts", "note", found, f"if something is odd: {todo}")]
    return [Finding("Flower's inner parts", "ok", "those that the local engine uses are as expected")]


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:157] + "..."
