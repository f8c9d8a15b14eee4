"""Jobs over processes: order, errors, logs, and none that stays behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_privacy.errors import UserError
from fl_privacy.training._parallel import run_jobs


def square(job: int, told) -> tuple[int, int]:
    told(job)
    logging.getLogger("fl_privacy.toy").warning("job %d", job)
    logging.getLogger("fl_privacy.toy").debug("not so loud")
    return job * job, os.getpid()


def fail(job: int, told) -> None:
    if job == 0:
        raise UserError("job 0 cannot be done")
    time.sleep(100)


def die(job: int, told) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_stand_in_the_order_of_the_jobs(processes, caplog):
    told = []
    with caplog.at_level(logging.INFO):
        results = run_jobs(square, [3, 1, 2], processes, lambda *news: told.append(news))
    assert [square for square, _ in results] == [9, 1, 4]
    assert len({pid for _, pid in results}) == processes
    assert (os.getpid() in {pid for _, pid in results}) == (processes == 1)
    assert sorted(told) == [(0, 3), (1, 1), (2, 2)]
    assert sorted(record.message for record in caplog.records) == ["job 1", "job 2", "job 3"]


def test_what_a_job_raises_is_raised_here_and_the_others_stop():
    began = time.monotonic()
    with pytest.raises(UserError, match="job 0 cannot be done"):
        run_jobs(fail, [1, 0], 2)
    assert time.monotonic() - began < 60


def test_a_killed_worker_is_an_error_in_words():
    with pytest.raises(UserError, match="killed by SIGKILL; use fewer processes"):
        run_jobs(die, [1, 2], 2)


def test_no_processes_are_refused():
    with pytest.raises(UserError, match="processes must be at least 1"):
        run_jobs(square, [1], 0)


SCRIPT = """
import os, sys, time
from fl_privacy.training._parallel import run_jobs

def wait(job, told):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece, beside the other worker
    time.sleep(100)

if __name__ == "__main__":
    run_jobs(wait, [1, 2], 2)
"""


def alive(process: int) -> bool:
    try:  # a zombie has ended
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_killed_parent_takes_its_workers_along(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in workers)
        parent.kill()
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
