"""Work on many files in several processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from unmask_tf.errors import InputError

T, R = TypeVar("T"), TypeVar("R")


def default_workers() -> int:
    """One process a core, at most four."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def in_processes(work: Callable[[T], R], items: Sequence[T], workers: int | None = None, chunk: int = 1) -> Iterator[R]:
    """`work` of every item, in order.

    Args:
        work: a function of a module, or a `functools.partial` of one.
        items: what it is called with.
        workers: processes; None: `default_workers()`; 0 or 1: this process alone.
        chunk: items that a process gets at a time.

    Raises:
        InputError: a process was killed.
    """
    workers = default_workers() if workers is None else workers
    if workers < 2 or len(items) < 2:
        yield from map(work, items)
        return
    # Started anew, not forked: this process may have threads.
    with ProcessPoolExecutor(
        min(workers, len(items)), mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent
    ) as pool:
        try:
            yield from pool.map(work, items, chunksize=chunk)
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps for want of memory. Run the same command again, with fewer "
                "workers if it happens again; finished work is kept."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
