"""The local engine's worker processes, seen from the engine."""

from __future__ import annotations

import collections
import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

import cloudpickle
from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy import _flower
from fl_privacy.errors import UserError
from fl_privacy.sims._serve import Answered, Task
from fl_privacy.sims._wire import Blobs, Region, pack_records, receive, send, unpack_records

_AT_ONCE = 2
"""Messages that a worker has: one at work, and the next, so that it need not wait for the engine."""
_PATIENCE_SECONDS = 5.0
_LOGGERS = ("", "flwr", "fl_privacy")


class WorkerPool:
    """Runs clients in worker processes; any worker serves any client.

    Parameters
    ----------
    app : ClientApp or "package.module:name"
        An object is sent as cloudpickle writes it; a name is loaded in each worker.
    workers : int
        Number of processes. They are started with the first messages.
    seed : int

    Raises
    ------
    UserError
        If the app cannot be sent.

    Notes
    -----
    A worker is a fresh interpreter that never imports the calling script. It leads a process group of its own: Ctrl-C
    reaches the engine alone, and what a client started ends with its worker. Workers follow a killed engine.
    """

    def __init__(self, app: ClientApp | str, workers: int, seed: int) -> None:
        if os.name != "posix":
            raise UserError("workers > 1 needs Linux or macOS; use workers=1 here")
        sent: str | bytes
        if isinstance(app, str):
            sent = app
        else:
            try:
                sent = cloudpickle.dumps(app)
            except Exception as error:
                raise UserError(
                    f"the ClientApp cannot be sent to worker processes ({type(error).__name__}: {error}); "
                    'give it as "package.module:name", or use workers=1'
                ) from error
        self._app = sent
        self._seed = seed
        self._most = workers
        self._workers: list[_Worker] = []
        self._batch = 0

    def serve(self, tasks: list[Task], answered: Answered) -> None:
        """Run the clients, each in the first worker that is free."""
        self._batch += 1
        shared = _shared(tasks)
        waiting = collections.deque(tasks)
        try:
            while waiting or any(worker.sent for worker in self._workers):
                unanswered = len(waiting) + sum(len(list(worker.tasks)) for worker in self._workers)
                while len(self._workers) < min(self._most, unanswered):
                    self._workers.append(_Worker(self._app, self._seed))
                self._hand_out(waiting, shared)
                for worker in self._with_news():
                    self._hear(worker, waiting, answered)
        except BaseException:
            self._stop(patience=0.0)
            raise

    def close(self) -> None:
        """Stop the workers, and whatever they started."""
        self._stop(_PATIENCE_SECONDS)

    def _hand_out(self, waiting: collections.deque[Task], shared: set[int]) -> None:
        """Give each worker something to do, then each a message ahead while there are plenty."""
        busy = {task.client.node_id for worker in self._workers for task in worker.tasks}
        for ahead in range(_AT_ONCE):
            if ahead and len(waiting) < self._most:
                return  # the last ones go to whoever is free first
            for number, worker in enumerate(self._workers):
                if len(worker.sent) > ahead:
                    continue
                task = next((task for task in waiting if task.client.node_id not in busy), None)
                if task is None:
                    return
                if not worker.sent and worker.ended():  # killed while it had nothing to do
                    worker.stop(0.0)
                    worker = self._workers[number] = _Worker(self._app, self._seed)
                waiting.remove(task)
                busy.add(task.client.node_id)
                worker.send(task, self._batch, shared)

    def _with_news(self) -> list[_Worker]:
        """Wait for workers that have answered or are gone."""
        by_channel: dict[Any, _Worker] = {worker.channel: worker for worker in self._workers if worker.sent}
        while True:
            if ready := connection.wait(list(by_channel), timeout=1.0):
                return [by_channel[channel] for channel in ready]
            # A client's own child may hold the pipe of a dead worker open.
            if gone := [worker for worker in by_channel.values() if worker.ended()]:
                return gone

    def _hear(self, worker: _Worker, waiting: collections.deque[Task], answered: Answered) -> None:
        try:
            heard = worker.hear()
        except (EOFError, OSError):
            self._workers.remove(worker)
            begun, unanswered = worker.sent[0].region.begun, list(worker.tasks)
            starting = worker.sent[0].task is None
            ending = worker.stop(patience=1.0)
            if starting:
                raise UserError(
                    f"a worker process {ending} while it started; use fewer workers, or workers=1"
                ) from None
            held = unanswered.pop(0) if begun else None
            waiting.extendleft(reversed(unanswered))
            if held is not None:
                answered(held, f"the worker process {ending} while it served this client", held.client.state)
            return
        if heard is not None:
            answered(*heard)

    def _stop(self, patience: float) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.channel.close()  # tells it to end; all end at the same time
        for worker in workers:
            worker.stop(patience)


@dataclass
class _Sent:
    """What a worker was sent and has not answered: a task, or the app (no task)."""

    region: Region
    task: Task | None = None
    pieces: list[bytes] = field(default_factory=list)


class _Worker:
    """One process."""

    def __init__(self, app: str | bytes, seed: int) -> None:
        self.sent: collections.deque[_Sent] = collections.deque()
        self._held: set[int] = set()
        self._batch = -1
        self._turn = 0
        self._regions = (Region(), Region())
        self.channel, theirs = multiprocessing.Pipe()
        sentinel, self._lifeline = os.pipe()
        passed = [theirs.fileno(), sentinel, *(region.descriptor for region in self._regions)]
        code = (
            f"import sys; sys.path[:] = {[str(place) for place in sys.path]!r}; "
            f"from fl_privacy.sims._worker import main; main{tuple(passed)!r}"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=passed, process_group=0
        )
        theirs.close()
        os.close(sentinel)
        levels = {name: logging.getLogger(name).getEffectiveLevel() for name in _LOGGERS}
        self._write(_Sent(self._next_region()), pickle.dumps((app, seed, levels)))

    @property
    def tasks(self) -> Iterable[Task]:
        """Tasks it has not answered."""
        return (sent.task for sent in self.sent if sent.task is not None)

    def ended(self) -> bool:
        """Whether the process has ended; it may have answered before."""
        return self._process.poll() is not None

    def send(self, task: Task, batch: int, shared: set[int]) -> None:
        """Send a task; array bytes in `shared` once a batch."""
        if batch != self._batch:
            self._batch, self._held = batch, set()
        message, client = task.message, task.client
        blobs = Blobs()
        content = pack_records(message.content, blobs)
        context = (client.node_id, client.node_config, client.run_config, pack_records(client.state, blobs))
        directory: list[tuple[int | None, int]] = []
        fresh = []
        for data in blobs.pieces:
            token = id(data) if id(data) in shared else None
            if token in self._held:
                directory.append((token, -1))
                continue
            directory.append((token, len(data)))
            fresh.append(data)
            if token is not None:
                self._held.add(token)
        metadata = _flower.metadata_fields(message.metadata)
        values = (batch, task.turn, metadata, content, context, directory)
        sent = _Sent(self._next_region(), task, blobs.pieces)
        self._write(sent, pickle.dumps(values, pickle.HIGHEST_PROTOCOL), fresh)

    def hear(self) -> tuple[Task, Message | str, RecordDict] | None:
        """Read the answer to the oldest task; None for the app.

        Raises
        ------
        EOFError, OSError
            If the process has ended without.
        UserError
            If it cannot load the app.
        """
        if self.ended() and not self.channel.poll(0):
            raise EOFError
        told = self.channel.recv_bytes()
        sent = self.sent.popleft()
        if sent.task is None:
            trouble, _ = receive(sent.region, told)
            if trouble is not None:
                raise UserError(
                    f"a worker process cannot load the ClientApp ({trouble}); "
                    'give it as "package.module:name" of an importable module, or use workers=1'
                )
            return None
        (values, logs), start = receive(sent.region, told)
        for record in logs:
            logger = logging.getLogger(record["name"])
            if logger.isEnabledFor(record["levelno"]):
                logger.handle(logging.makeLogRecord(record))
        if len(values) == 1:
            return sent.task, values[0], sent.task.client.state
        metadata, content, error, state, numbers = values
        pieces = []
        for number in numbers:
            if number < 0:
                pieces.append(sent.pieces[-1 - number])
            else:
                pieces.append(sent.region.read(start, number))
                start += number
        reply = _flower.make_message(
            _flower.make_metadata(metadata),
            None if content is None else unpack_records(content, pieces),
            None if error is None else Error(*error),
        )
        return sent.task, reply, unpack_records(state, pieces)

    def stop(self, patience: float) -> str:
        """End the process and what it started; return how it ended."""
        self.channel.close()
        if patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        os.close(self._lifeline)
        for region in self._regions:
            region.close()
        if code >= 0:
            return f"ended with exit status {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def _next_region(self) -> Region:
        # Message and reply n share region n mod 2: a worker has two messages at most, and reads one before it answers.
        region = self._regions[self._turn % 2]
        self._turn += 1
        return region

    def _write(self, sent: _Sent, pickled: bytes, pieces: Iterable[bytes] = ()) -> None:
        told = send(sent.region, pickled, list(pieces))
        self.sent.append(sent)
        # A worker that has just ended is noticed when it is listened to.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.channel.send_bytes(told)


def _shared(tasks: list[Task]) -> set[int]:
    """Return the identities of array bytes that several of the messages have."""
    counts = collections.Counter(
        identity
        for task in tasks
        for identity in {
            id(array.data) for record in task.message.content.array_records.values() for array in record.values()
        }
    )
    return {identity for identity, count in counts.items() if count > 1}
