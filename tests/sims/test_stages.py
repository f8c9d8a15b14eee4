from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fl_privacy.errors import UserError
from fl_privacy.sims.stages import RunFolder, remove

SETTINGS = {"seed": 1}


def hold(path: Path, settings=SETTINGS):
    return RunFolder(path, settings).held()


def test_a_done_stage_is_not_done_again(tmp_path):
    calls = []

    def work(folder: Path) -> None:
        calls.append(folder)
        (folder / "out").write_text("x")

    for _ in range(2):
        with hold(tmp_path / "run") as run:
            assert run.stage("attacks/a", work) == tmp_path / "run" / "attacks" / "a"
            assert run.done("attacks/a")
            assert not run.done("attacks/b")
    assert len(calls) == 1
    assert (tmp_path / "run" / "attacks" / "a" / "out").read_text() == "x"
    assert set(json.loads((tmp_path / "run" / "timings.json").read_text())) == {"attacks/a"}


def test_a_stage_that_failed_starts_again_from_nothing(tmp_path):
    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError), hold(tmp_path / "run") as run:
        run.stage("victim", fails)
    with hold(tmp_path / "run") as run:
        assert not run.done("victim")
        run.stage("victim", lambda folder: (folder / "whole").write_text("y"))
    assert [p.name for p in (tmp_path / "run" / "victim").iterdir()] == ["whole"]


def test_a_killed_stage_starts_again_from_nothing_and_its_lock_is_gone(tmp_path):
    code = """
import os, sys
from pathlib import Path
from fl_privacy.sims.stages import RunFolder
def die(folder):
    (folder / "half").write_text("x")
    os.kill(os.getpid(), 9)
with RunFolder(Path(sys.argv[1]), {"seed": 1}).held() as run:
    run.stage("first", lambda folder: (folder / "out").write_text("1"))
    run.stage("second", die)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert killed.returncode == -9
    seen = []
    with hold(tmp_path / "run") as run:
        run.stage("first", seen.append)
        run.stage("second", lambda folder: seen.append([p.name for p in folder.iterdir()]))
    assert seen == [[]]
    assert (tmp_path / "run" / "first" / "out").read_text() == "1"


def test_other_settings_are_refused_and_equal_ones_in_another_order_are_not(tmp_path):
    with hold(tmp_path / "run", {"a": 1, "b": {"c": 2}}):
        pass
    with hold(tmp_path / "run", {"b": {"c": 2}, "a": 1}) as run:
        run.stage("first", lambda folder: (folder / "out").write_text("1"))
    with pytest.raises(UserError) as refused, hold(tmp_path / "run", {"a": 1, "b": {"c": 3}}):
        pass
    assert str(refused.value).splitlines() == [
        f"{tmp_path / 'run'} holds a run with other settings:",
        "  b.c: there 2, here 3",
        "Name another folder (--out), or delete it",
    ]


def test_a_run_that_was_refused_at_its_start_keeps_its_folder_from_nobody(tmp_path):
    def refuse(folder: Path) -> None:
        raise UserError("no such corpus")

    with pytest.raises(UserError, match="no such corpus"), hold(tmp_path / "run", {"a": 1}) as run:
        run.stage("first", refuse)
    with hold(tmp_path / "run", {"a": 2}) as run:
        run.stage("first", lambda folder: (folder / "out").write_text("1"))
    with pytest.raises(UserError, match="other settings"), hold(tmp_path / "run", {"a": 1}):
        pass


def test_the_log_says_what_was_done_and_goes_on_behind_what_it_holds(tmp_path, capfd):
    def fails(folder: Path) -> None:
        logging.getLogger("fl_privacy.somewhere").warning("a voice is left out")
        raise RuntimeError

    with pytest.raises(RuntimeError), hold(tmp_path / "run") as run:
        run.stage("first", lambda folder: None)
        run.stage("second", fails)
    with hold(tmp_path / "run") as run:
        run.stage("first", lambda folder: None)
        run.stage("second", lambda folder: None)
    logging.getLogger("fl_privacy.somewhere").warning("after the run")
    told = [line.split(" ", 4)[-1] for line in (tmp_path / "run" / "log.txt").read_text().splitlines()]
    assert [re.sub(r"[\d.]+ s", "x s", line) for line in told] == [
        "first: begins",
        "first: done in x s",
        "second: begins",
        "a voice is left out",
        "second was cut off before: it starts again",
        "second: begins",
        "second: done in x s",
    ]
    assert "left out" not in capfd.readouterr().err


def test_one_process_at_a_time(tmp_path):
    with hold(tmp_path / "run"), pytest.raises(UserError, match="in use by another run"), hold(tmp_path / "run"):
        pass
    with hold(tmp_path / "run"):
        pass


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds other files"), hold(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write to the run folder"), hold(tmp_path / "file" / "run"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    (tmp_path / "ro").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write to the run folder"), hold(tmp_path / "ro"):
        pass


@pytest.mark.parametrize("name", ["..", "../victim", "attacks/..", "attacks/../victim", ""])
def test_a_stage_cannot_remove_what_is_not_its_own(tmp_path, name):
    """Names of stages come from names of attacks, and those from a file."""
    with hold(tmp_path / "runs" / "run") as run:
        run.stage("victim", lambda folder: (folder / "updates").write_text("x"))
        run.stage("attacks/first", lambda folder: (folder / "scores").write_text("x"))
        with contextlib.suppress(UserError):
            run.stage(name, lambda folder: None)
    for kept in ("victim/updates", "attacks/first/scores", "simulation.json"):
        assert (tmp_path / "runs" / "run" / kept).exists()
    assert not (tmp_path / "runs" / "victim").exists()


def test_remove_leaves_nothing_and_survives_leftovers(tmp_path):
    for name in ("updates", ".updates.removed"):
        (tmp_path / name / "deep").mkdir(parents=True)
    remove(tmp_path / "updates")
    remove(tmp_path / "updates")
    assert list(tmp_path.iterdir()) == []
