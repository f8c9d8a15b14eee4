"""Jobs over processes: one thread each, none that outlives its parent, progress while they run."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from logging.handlers import QueueHandler
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from fl_privacy._processes import prepare_worker
from fl_privacy.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

Told = Callable[[int], None]
"""Told how much of a job is done."""


def run_jobs(
    work: Callable[[Job, Told], Result],
    jobs: Sequence[Job],
    processes: int = 1,
    told: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Do jobs, here or each in one of several spawned processes.

    Parameters
    ----------
    work : callable
        Does a job; a function of a module, and results that can be pickled, where there are several processes.
    jobs : sequence
    processes : int
        1: in this process, one after another. The results are the same for any number.
    told : callable, optional
        Told the number of a job and how much of it is done.

    Returns
    -------
    list
        What `work` returned for each job.

    Raises
    ------
    UserError
        If `processes` is not positive, or a process was killed. What a job raises is raised here, and the other
        processes are stopped.
    """
    if processes < 1:
        raise UserError(f"processes must be at least 1, not {processes}")
    tell = told or (lambda job, done: None)
    processes = min(processes, len(jobs))
    if processes <= 1 or multiprocessing.current_process().daemon:  # which may have no children
        return [work(job, lambda done, number=number: tell(number, done)) for number, job in enumerate(jobs)]  # type: ignore[misc]
    workers = [_Worker(work) for _ in range(processes)]
    try:
        return _handed_out(jobs, workers, tell)
    finally:
        for worker in workers:
            worker.stop()


def _handed_out(jobs: Sequence[Any], workers: Sequence[_Worker], tell: Callable[[int, int], None]) -> list[Any]:
    results: dict[int, Any] = {}
    waiting = list(enumerate(jobs))[::-1]
    busy: dict[Connection, tuple[_Worker, int]] = {}
    idle = list(workers)
    while len(results) < len(jobs):
        while idle and waiting:
            worker, (number, job) = idle.pop(), waiting.pop()
            worker.send(job)
            busy[worker.channel] = worker, number
        for channel in connection.wait(list(busy)):
            worker, number = busy[channel]  # type: ignore[index]
            what, value = worker.hear()
            if what == "done":
                tell(number, value)
            elif what == "raised":
                raise value
            elif what == "logged":
                if (logger := logging.getLogger(value.name)).isEnabledFor(value.levelno):
                    logger.handle(value)
            else:
                results[number] = value
                del busy[worker.channel]
                idle.append(worker)
    return [results[number] for number in range(len(jobs))]


class _Worker:
    """A process that does jobs."""

    def __init__(self, work: Callable[[Any, Told], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.channel, theirs = context.Pipe()
        level = logging.getLogger("fl_privacy").getEffectiveLevel()
        self._process = context.Process(target=_serve, args=(theirs, work, level), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, job: Any) -> None:
        """Send a job."""
        try:
            self.channel.send(job)
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def hear(self) -> tuple[str, Any]:
        """Return what it has to say."""
        try:
            said: tuple[str, Any] = self.channel.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        return said

    def stop(self) -> None:
        """End the process."""
        self.channel.close()
        self._process.terminate()
        self._process.join()

    def _ended(self) -> UserError:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        advice = "use fewer processes" if code < 0 else "a script needs `if __name__ == '__main__':`"
        return UserError(f"a worker process {how}; {advice}, or processes=1")


def _serve(channel: Connection, work: Callable[[Any, Told], Any], level: int) -> None:
    prepare_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which stops its workers
    one_at_a_time = threading.Lock()

    def say(what: str, value: Any) -> None:
        with one_at_a_time:
            channel.send((what, value))

    logging.root.addHandler(_Logs(say))
    logging.root.setLevel(level)
    while True:
        try:
            job = channel.recv()
        except EOFError:
            return
        try:
            say("result", work(job, lambda done: say("done", done)))
        except Exception as error:
            say("raised", _portable(error))


class _Logs(QueueHandler):
    """Tells the parent what is logged here."""

    def __init__(self, say: Callable[[str, Any], None]) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # prepares records, queues none
        self._say = say

    def enqueue(self, record: logging.LogRecord) -> None:
        self._say("logged", record)


def _portable(error: Exception) -> Exception:
    """Return an error that can be read in another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
