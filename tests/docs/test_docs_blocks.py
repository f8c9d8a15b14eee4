"""Every fenced block of docs/, run: in short form, and one page after the other as its reader would.

Sweeps, and commands on real corpora, take minutes: here their settings are checked to be those of simulations, and with
`slow` they are run, where the corpora are. What is not run at all says why in the page, or in `ELSEWHERE`.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from doc_blocks import ELSEWHERE, Block, blocks, pages, why_skipped

from fl_privacy import cli, config
from fl_privacy.config import FederatedSerFile, SweepSettings
from fl_privacy.corpora import Corpus, write
from fl_privacy.sims.grid import cells_of
from tests.test_readme import CLIENT, TASK

SMALL = "--set federation.rounds=2 --set audit.permutations=2 --set audit.canaries=0 --quiet"
"""For every simulation, and what it has of synthetic voices; a sweep has one seed besides."""

PART_OF = {page: page.removesuffix(".md") for page in ("speaker-membership.md", "ssl-membership.md")} | {
    "inversion.md": "speaker-inversion"
}
"""Presets in which a page's pieces of TOML may stand, where these are not of federations."""

VOICES = {"private": (10, 4), "auxiliary.0": (8, 4)}

SHELL = ("bash", "console")
NOT_RUN = ("text", "")
"""What is shown: output, the content of a file, a drawing."""


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that all pages, and all processes of one test run, share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "features-of-the-docs"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feature_cache: Path) -> Iterator[Path]:
    """The empty folder in which a page is read, and what its reader is said to have in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(feature_cache))
    monkeypatch.setenv("COLUMNS", "200")
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.split(".")[0].startswith("my_"):
            del sys.modules[name]


def folder_of_voices(path: Path) -> None:
    write(Corpus.load("synthetic", speakers=10, utterances=4, seed=5), path)


def an_app(desk: Path) -> None:
    """The app of somebody's own, and who its clients are."""
    (desk / "my_app").mkdir()
    (desk / "my_app" / "task.py").write_text(TASK)
    (desk / "my_app" / "client_app.py").write_text(CLIENT)
    for name, clients in [("victim", 24), ("shadow", 30)]:
        sexes = ["fm"[int(np.random.default_rng([7, len(name), i]).integers(0, 2))] for i in range(clients)]
        rows = [f"{i},{sex}" for i, sex in enumerate(sexes)]
        (desk / f"{name}.csv").write_text("\n".join(["client,gender", *rows]))


def recordings(desk: Path) -> None:
    """A folder with a manifest, and one whose file names say everything."""
    folder_of_voices(desk / "path/to/voices")
    (desk / "path/to/wavs").mkdir()
    for number, name in enumerate(["f01_angry_1", "f01_sad_2", "m02_angry_1"]):
        noise = 0.1 * np.random.default_rng(number).normal(size=16_000)
        soundfile.write(str(desk / "path/to/wavs" / f"{name}.wav"), noise, 16_000)


def people(desk: Path) -> None:
    """Recordings of one person, and of twenty others."""
    for number in range(20):
        folder = desk / "voices" / ("anna" if number == 0 else f"others/p{number}")
        folder.mkdir(parents=True)
        for voice in range(3):
            noise = 0.1 * np.random.default_rng([number, voice]).normal(size=16_000)
            soundfile.write(str(folder / f"{voice}.wav"), noise, 16_000)


def a_run(desk: Path) -> None:
    """What the tutorial has left."""
    call(shortened("fl-privacy run federated-ser --out runs/first"))


SETUP: dict[str, Callable[[Path], None]] = {
    "how-to/flower-app.md": an_app,
    "how-to/corpus.md": recordings,
    "how-to/model.md": people,
    "concepts/claims.md": a_run,
}


def call(line: str) -> None:
    """Run a command of ours in this process: torch is loaded once for all."""
    before = sys.argv
    sys.argv = shlex.split(line)
    try:
        cli.app(standalone_mode=False)
    finally:
        sys.argv = before


def commands(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.startswith("#")]


class Options(argparse.ArgumentParser):
    """The options of run and sweep that say what is simulated."""

    def __init__(self) -> None:
        super().__init__(exit_on_error=False)
        self.add_argument("source")
        self.add_argument("--set", action="append", default=[])
        self.add_argument("--vary", action="append")
        for name in ("--out", "--seeds", "--processes", "--workers", "--ray"):
            self.add_argument(name)
        self.add_argument("--quiet", action="store_true")


def simulated(line: str) -> list[Any]:
    """Return the simulations that a run or sweep command stands for, read and checked."""
    _, kind, *words = shlex.split(line, comments=True)
    options = Options().parse_args(words)
    file = config.load_any(options.source, options.set)
    if kind == "run" or not isinstance(file, FederatedSerFile):
        return [file]
    chosen = SweepSettings(vary=tuple(options.vary)) if options.vary else file.sweep or SweepSettings()
    return [f for cell in cells_of(options.source, options.set, chosen, Path("runs")) for f in cell.files]


def quick(line: str) -> bool:
    """Whether a command is one run, on synthetic voices or on a folder that the page has made; its settings are read."""
    file, *others = simulated(line)
    if others or not isinstance(file, FederatedSerFile) or not line.startswith("fl-privacy run "):
        return False
    return all(side.corpus in ("synthetic", "folder") for side in (file.private, *file.auxiliary))


def shortened(line: str, given: str = "") -> str:
    """Return a command of ours with what makes it short."""
    if line.startswith("fl-privacy attack "):
        return f"{line} --permutations 3"
    if not re.match(r"fl-privacy (run|sweep) ", line):
        return line
    line = line.replace("--workers 2", "--workers 1")  # (a process more has to load torch)
    small = SMALL
    file = simulated(line)[0]
    for (key, (speakers, utterances)), side in zip(VOICES.items(), (file.private, file.auxiliary[0]), strict=True):
        if side.corpus == "synthetic":
            small += f" --set {key}.options.speakers={speakers} --set {key}.options.utterances={utterances}"
    if line.startswith("fl-privacy sweep "):
        small += " --seeds 1 --processes 1"
    return f"{line} {given or small}"


def printed_by(line: str, block: Block, slow: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """Run a command, and return what it prints."""
    word, *rest = shlex.split(line, comments=True)
    capsys.readouterr()
    if word == "export":
        name, _, value = rest[0].partition("=")
        if name != "FL_PRIVACY_DATA":  # (a path of the reader's)
            monkeypatch.setenv(name, value)
    elif word == "fl-privacy" and rest[0] in ("run", "sweep") and not quick(line):
        if slow and isinstance(simulated(line)[0], FederatedSerFile):
            call(shortened(line, block.value))
    elif word == "fl-privacy":
        call(shortened(line, block.value))
    elif word == "python":
        # (Benchmarks are run in a checkout: they are no part of the package.)
        own = {"PYTHONPATH": str(Path(__file__).parents[2])} if rest[:2] == ["-m", "benchmarks"] else {}
        done = subprocess.run(
            [sys.executable, *rest], capture_output=True, text=True, check=False, env={**os.environ, **own}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    else:
        pytest.fail(f"nothing runs {line!r}; say so, and why: <!-- test: skip: ... -->")
    found: str = capsys.readouterr().out
    return found


def assert_shown(block: Block, printed: str) -> None:
    """Assert that what a console block shows of a command that is run as it stands is what it prints."""
    shown = [line for line in block.text.splitlines() if not line.startswith("$ ")]
    if block.kind == "short":  # other numbers; the same rows
        shown = [line.split("  ")[0] + "*" for line in shown if "  " in line]
    else:
        shown = [line.replace("...", "*") for line in shown]
    lines = [line.rstrip() for line in printed.splitlines()]
    for pattern in shown:
        escaped = pattern.rstrip().replace("[", "[[]")
        assert any(fnmatch.fnmatchcase(line, escaped) for line in lines), f"{pattern!r} is not in:\n{printed}"


def assert_settings(block: Block) -> None:
    """Assert that a block of TOML is a simulation file, or may stand in one."""
    content = tomllib.loads(block.text)
    if "simulation" in content:
        config.load_any(content)
        return
    config.load_any(PART_OF.get(block.page, "federated-ser"), list(content.items()))


def run_page(page: str, desk: Path, slow: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Do what a page says, from its beginning to its end."""
    SETUP.get(page, lambda desk: None)(desk)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        where = f"docs/{page}:{block.line}"
        if why_skipped(block) or block.language in NOT_RUN:
            continue
        try:
            if block.language == "python":
                file = re.match(r"# ([\w/]+\.py)\n", block.text)
                if file:
                    (desk / file[1]).write_text(block.text)
                exec(compile(block.text, where, "exec"), {"__name__": "file"} if file else names)
            elif block.language == "toml":
                assert_settings(block)
            elif block.language in SHELL:
                printed = [printed_by(line, block, slow, monkeypatch, capsys) for line in commands(block)]
                if block.language == "console":
                    assert_shown(block, "\n".join(printed))
            else:
                pytest.fail(f"a block of {block.language!r}, which nothing runs")
        except Exception as error:
            error.add_note(f"in {where}")
            raise


def with_blocks(language: tuple[str, ...]) -> list[str]:
    return [page for page in pages() if any(b.language in language and not why_skipped(b) for b in blocks(page))]


@pytest.mark.parametrize("page", with_blocks(("python", "toml", *SHELL)))
def test_a_page_does_what_it_says(
    page: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_page(page, desk, False, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif("FL_PRIVACY_DATA" not in os.environ, reason="needs RAVDESS and EmoDB under FL_PRIVACY_DATA")
@pytest.mark.parametrize(
    "page", [p for p in with_blocks(SHELL) if any(re.search("^fl-privacy sweep", b.text, re.M) for b in blocks(p))]
)
def test_a_page_on_real_speech(
    page: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FL_PRIVACY_DATA", str(Path(os.environ["FL_PRIVACY_DATA"]).resolve()))
    run_page(page, desk, True, monkeypatch, capsys)


def test_what_is_not_run_says_why() -> None:
    for page in pages():
        for block in blocks(page):
            assert block.kind in ("", "skip", "short"), f"docs/{page}:{block.line}: test: {block.kind}?"
            if block.kind == "skip":
                assert len(block.value.split()) >= 3, f"docs/{page}:{block.line}: skipped without a reason"


def test_a_block_that_another_test_runs_is_there() -> None:
    for page, start in ELSEWHERE:
        assert any(block.text.startswith(start) for block in blocks(page)), (page, start)
