"""How the command starts: what it loads before it has to, and what a shell asks of it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from fl_privacy import cli

HEAVY = (
    "torch",
    "torchaudio",
    "flwr",
    "ray",
    "matplotlib",
    "sklearn",
    "scipy",
    "pydantic",
    "numpy",
    "opacus",
    "jinja2",
)


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages that are loaded after a fresh interpreter has run some code."""
    asked = f"{code}\nimport sys\nprint('loaded:', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import fl_privacy; dir(fl_privacy); fl_privacy.__version__",
        "from fl_privacy.cli import app; app(['--help'], standalone_mode=False)",
        "from fl_privacy.cli import app; app(['run', '--help'], standalone_mode=False)",
        "from fl_privacy.cli import app; app(['--version'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code: str) -> None:
    assert loaded_by(code) == set()


def test_that_would_be_seen() -> None:
    assert "numpy" in loaded_by("from fl_privacy import Audit")


def test_listing_presets_loads_no_torch() -> None:
    code = "from fl_privacy.cli import app; app(['presets'], standalone_mode=False)"
    assert not loaded_by(code) & {"torch", "torchaudio", "flwr", "ray", "matplotlib", "sklearn", "opacus"}


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fl_privacy", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fl-privacy 0.")


def test_help_says_what_arguments_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        shown = CliRunner().invoke(cli.app, [name, "--help"]).stdout
        for kind, what in get_type_hints(command.callback, include_extras=True).items():
            told = getattr(what, "__metadata__", (None,))[0]
            if isinstance(told, typer.models.ArgumentInfo):
                assert told.help, f"{name}: {kind}"
                assert " ".join(told.help.split()[:3]) in shown, f"{name}: {kind}"
    assert "A preset's name or a TOML file." in CliRunner().invoke(cli.app, ["run", "--help"]).stdout


@pytest.mark.parametrize(
    ("shell", "asked", "offered"),
    [
        ("bash", {"COMP_WORDS": "fl-privacy pre", "COMP_CWORD": "1"}, "presets"),
        ("bash", {"COMP_WORDS": "fl-privacy run --wor", "COMP_CWORD": "2"}, "--workers"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "fl-privacy audit"}, "audit-speaker"),
        ("fish", {"_TYPER_COMPLETE_ARGS": "fl-privacy cor", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "corpus"),
    ],
)
def test_a_shell_is_told_what_fits(shell: str, asked: dict[str, str], offered: str) -> None:
    code = "from fl_privacy.cli import app; app(prog_name='fl-privacy')"
    env = {**os.environ, **asked, "_FL_PRIVACY_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert offered in done.stdout
    assert "sweep" not in done.stdout


def test_the_completion_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    shown = CliRunner().invoke(cli.app, ["--show-completion"], prog_name="fl-privacy")
    assert shown.exit_code == 0
    assert "complete -o default -F _fl_privacy_completion fl-privacy" in shown.stdout
