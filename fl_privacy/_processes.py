"""Worker processes: one thread each, and none that outlives its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def prepare_worker(sentinel: int | None = None) -> None:
    """Make this process a worker: die with the parent, use one thread.

    Contended threads cost 6 to 50 times the time of one thread a process at the sizes of this project.

    Parameters
    ----------
    sentinel : int, optional
        Reading end of a pipe whose other end the parent alone holds; by default that of `multiprocessing`.
    """
    threading.Thread(target=_follow_parent, args=(sentinel,), daemon=True).start()
    for setting in THREAD_SETTINGS:
        os.environ[setting] = "1"
    import torch

    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and BLAS use one thread in the block: sums over several would differ in the last bit."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB that it frees, instead of handing it back at once (glibc; elsewhere nothing).

    A simulation makes and frees the same megabyte-sized arrays in every message. By default glibc maps each afresh or
    trims the heap behind it, and fresh memory costs more than filling it.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, 32 * 2**20)
    mallopt(trim_threshold, 256 * 2**20)


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _follow_parent(sentinel: int | None) -> None:
    if sentinel is None and (parent := parent_process()) is not None:
        sentinel = parent.sentinel
    if sentinel is not None:
        # A killed parent cannot stop its workers; its end of this pipe closes all the same.
        connection.wait([sentinel])
        if os.name == "posix" and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # this worker has a process group to itself and its children
        os._exit(1)
