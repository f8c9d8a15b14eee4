"""What runs inside a worker of the local engine; light to import, so that threads are limited first."""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import signal
import sys
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from fl_privacy._processes import keep_freed_memory, prepare_worker

if TYPE_CHECKING:
    from fl_privacy.sims._wire import Region


def main(control: int, sentinel: int, first: int, second: int) -> None:
    """Serve messages until the engine closes the pipe.

    Parameters
    ----------
    control : int
        File descriptor of the pipe to the engine.
    sentinel : int
        See `fl_privacy._processes.prepare_worker`.
    first, second : int
        File descriptors of the regions, used in turn: message and reply share one.
    """
    atexit.register(_end_group)  # the first to be registered runs last
    prepare_worker(sentinel)
    keep_freed_memory()
    from fl_privacy import _flower
    from fl_privacy.sims._serve import RUN_ID
    from fl_privacy.sims._wire import Region, receive, send

    for descriptor in (control, sentinel, first, second):
        os.set_inheritable(descriptor, False)
    channel, regions = Connection(control), (Region(first), Region(second))
    worker: _Worker | None = None
    turn = 0
    with _flower.run_identity(RUN_ID):
        while True:
            try:
                told = channel.recv_bytes()
            except (EOFError, ConnectionResetError):
                return
            region = regions[turn % 2]
            region.begin()
            turn += 1
            if worker is None:
                worker = _Worker(*receive(region, told)[0])
                length = send(region, pickle.dumps(worker.trouble), [])
            else:
                length = send(region, *worker.serve(region, told))
            sys.stdout.flush()
            channel.send_bytes(length)


class _Worker:
    """A loaded app, and what was read of the current batch of messages.

    Parameters
    ----------
    app : str or bytes
        ``"package.module:name"``, or a pickled ClientApp.
    seed : int
    levels : dict
        Levels of loggers.

    Attributes
    ----------
    trouble : str or None
        Why the app cannot be used.
    """

    def __init__(self, app: str | bytes, seed: int, levels: dict[str, int]) -> None:
        from fl_privacy import _flower
        from fl_privacy._randomness import seed_streams

        self._seed = seed
        self._batch = -1
        self._shared: dict[int, bytes] = {}
        self._logs = _Logs(levels)
        self.trouble: str | None = None
        # What an app draws when it is imported is the same in every worker.
        seed_streams(seed, "import")
        try:
            self._app = pickle.loads(app) if isinstance(app, bytes) else _flower.load_app(app)
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"

    def serve(self, region: Region, told: bytes) -> tuple[bytes, list[bytes]]:
        """Answer the message in the region: pickled values and the array bytes that go with them."""
        try:
            values, pieces = self._answer(region, told)
            return pickle.dumps((values, self._logs.taken()), pickle.HIGHEST_PROTOCOL), pieces
        except Exception as error:  # what a client puts into a record need not be fit to travel
            reason = f"{type(error).__name__}: {error}"
            return pickle.dumps(((reason,), self._logs.taken())), []

    def _answer(self, region: Region, told: bytes) -> tuple[Any, list[bytes]]:
        from fl_privacy import _flower
        from fl_privacy.sims._serve import make_context, run_client
        from fl_privacy.sims._wire import Blobs, pack_records, receive, unpack_records

        (batch, turn, metadata, content, context, directory), start = receive(region, told)
        if batch != self._batch:
            self._batch, self._shared = batch, {}
        received: list[bytes] = []
        for token, length in directory:
            if length < 0:
                received.append(self._shared[token])
                continue
            received.append(region.read(start, length))
            start += length
            if token is not None:
                self._shared[token] = received[-1]
        node_id, node_config, run_config, state = context
        request = _flower.make_message(_flower.make_metadata(metadata), unpack_records(content, received))
        mine = make_context(node_id, node_config, run_config, unpack_records(state, received))
        reply = run_client(self._app, request, mine, self._seed, turn)
        if isinstance(reply, str):
            return (reply,), []
        blobs = Blobs()
        error = (reply.error.code, reply.error.reason) if reply.has_error() else None
        packed = pack_records(reply.content, blobs) if reply.has_content() else None
        left = pack_records(mine.state, blobs)
        # Bytes that came with the message go back by number.
        known = {id(data): -1 - number for number, data in enumerate(received)}
        numbers = [known.get(id(data), len(data)) for data in blobs.pieces]
        fresh = [data for data, number in zip(blobs.pieces, numbers, strict=True) if number >= 0]
        return (_flower.metadata_fields(reply.metadata), packed, error, left, numbers), fresh


class _Logs(logging.Handler):
    """Keeps what is logged here until the engine takes it."""

    def __init__(self, levels: dict[str, int]) -> None:
        super().__init__()
        self._records: list[dict[str, Any]] = []
        self._plain = QueueHandler(None)  # type: ignore[arg-type]  # prepares records, queues none
        for name, level in levels.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = ([] if name else [self]), True
            logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        plain = self._plain.prepare(record)
        names = ("name", "levelno", "levelname", "created", "pathname", "lineno", "funcName")
        self._records.append({**{name: getattr(plain, name) for name in names}, "msg": plain.getMessage()})

    def taken(self) -> list[dict[str, Any]]:
        """Hand out the records, each once."""
        taken, self._records = self._records, []
        return taken


def _end_group() -> None:
    """Leave none of this worker's own children behind."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
