"""Runs steps: each after those it reads, none that is done; in this process, in worker processes, or as Ray tasks.

Where a step runs changes nothing of its output; but sums of floats may depend on the number of threads, so that runs
are compared at the same number of threads a worker.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from unmask_tf.errors import InputError
from unmask_tf.experiment.step import Keys, Output, Step, Task, execute, kind_module, resolve
from unmask_tf.files import HashCache
from unmask_tf.progress import NO_GPU, Progress

TRIES = 2
"""How often a step is begun whose worker died."""


def ordered(steps: Iterable[Step]) -> list[Step]:
    """The steps and all that they read, each after what it reads, else in the given order."""
    found: dict[int, Step] = {}

    def visit(step: Step) -> None:
        if id(step) not in found:
            for before in step.before():
                visit(before)
            found[id(step)] = step

    for step in steps:
        visit(step)
    return list(found.values())


class Crew(Protocol):
    """Who runs tasks."""

    def run(self, tasks: Sequence[Task], bar: Bar) -> Iterator[tuple[Task, str]]:
        """Yields each task as it is finished, with what to tell the user; a task waits for those it reads.

        Raises:
            InputError: from a step; what other workers have begun is finished first.
        """


def run(
    steps: Sequence[Step],
    results: Path,
    *,
    crew: Crew | None = None,
    plugins: Sequence[str] = (),
) -> dict[Step, Output]:
    """Runs what is not done of some steps and of all that they read.

    Args:
        steps: in the order in which they are wanted.
        results: results/<profile>.
        crew: who runs them; None: this process.
        plugins: modules that each worker imports first.

    Returns:
        Each of `steps` with its output.

    Raises:
        InputError: from any step; finished steps are kept.
    """
    with at_work(results):
        keys = Keys(HashCache(results / ".hashes.json"))
        by_key: dict[str, Task] = {}
        for step in Progress(ordered(steps), "comparing with what is finished", unit="step", leave=False):
            task = resolve(step, results, keys, plugins)
            by_key.setdefault(task.output.key, task)
        tasks = list(by_key.values())
        done = {task.output.key for task in tasks if task.output.done(keys.cache)}
        keys.cache.save()
        kept = Counter(task.kind for task in tasks if task.output.key in done)
        total = Counter(task.kind for task in tasks)
        for kind, number in kept.items():
            print(f"[{kind}] {number} of {total[kind]} finished before", flush=True)
        left = [task for task in tasks if task.output.key not in done]
        with Bar(left) as bar:
            number = Counter(kept)
            for task, said in (crew or InThisProcess()).run(left, bar):
                number[task.kind] += 1
                bar.finish(task)
                if said:
                    bar.say(f"[{task.kind} {number[task.kind]}/{total[task.kind]}] {task.name}: {said}")
        if left:
            print(f"[time] {_times(left)}", flush=True)
        return {step: by_key[keys.of(step)].output for step in steps}


def _times(tasks: Iterable[Task]) -> str:
    """How long the workers were at finished tasks of each kind, the longest first."""
    seconds: Counter[str] = Counter()
    for task in tasks:
        seconds[task.kind] += task.output.header()["seconds"]
    return ", ".join(f"{kind} {Progress.format_interval(spent)}" for kind, spent in seconds.most_common())


class Bar:
    """One progress bar over the relative costs of all tasks, with the remaining time."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._done, self._running = 0.0, dict[str, tuple[float, float]]()
        self._bar = Progress(
            total=sum(task.cost for task in tasks),
            disable=not tasks,
            bar_format="{percentage:3.0f} %|{bar}| {elapsed} gone, {remaining} to go, {desc}",
            log_format="{percentage:3.0f} %, {elapsed} gone, {remaining} to go, {desc}",
            smoothing=0.1,
            mininterval=0.2,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def progress(self, task: Task, fraction: float) -> None:
        """A task has got so far."""
        self._running[task.output.key] = task.cost, min(max(fraction, 0.0), 1.0)
        self._bar.set_description_str(f"{task.kind} {task.name}", refresh=False)
        self._show()

    def finish(self, task: Task) -> None:
        """A task is done."""
        self._running.pop(task.output.key, None)
        self._done += task.cost
        self._show()

    def _show(self) -> None:
        at = self._done + sum(cost * part for cost, part in self._running.values())
        self._bar.update(at - self._bar.n)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.tell(text)


class InThisProcess:
    """One step after the other, here."""

    def run(self, tasks: Sequence[Task], bar: Bar) -> Iterator[tuple[Task, str]]:
        """See `Crew`."""
        for task in tasks:
            bar.progress(task, 0.0)
            yield task, execute(task, lambda fraction, task=task: bar.progress(task, fraction))


class Workers:
    """Worker processes; a training gets a process that has trained nothing yet, since TensorFlow never frees a graph.

    Args:
        count: at most how many; no more than there are tasks.
        threads: threads of each; None: the machine's cores shared out.
    """

    def __init__(self, count: int, threads: int | None = None) -> None:
        if count < 1:
            raise InputError(f"{count} workers cannot work. Give a number of 1 or more (WORKERS=n).")
        self.most, self._threads = count, threads

    def run(self, tasks: Sequence[Task], bar: Bar) -> Iterator[tuple[Task, str]]:
        """See `Crew`."""
        self.count = min(self.most, max(1, len(tasks)))
        self.threads = self._threads or max(1, (os.cpu_count() or 1) // self.count)
        waiting, crew, failure = list(tasks), [], None
        unfinished = {task.output.key for task in tasks}
        tries: Counter[str] = Counter()
        try:
            while waiting or any(worker.task for worker in crew):
                if failure is None:
                    self._hand_out(waiting, crew, unfinished, bar)
                busy = {worker.connection: worker for worker in crew if worker.task}
                if not busy:
                    break
                for connection in wait(list(busy)):
                    worker = busy[connection]
                    task = worker.task
                    said, value = worker.receive()
                    if said == "progress":
                        bar.progress(task, value)
                        continue
                    worker.task = None
                    if said == "done":
                        unfinished.discard(task.output.key)
                        yield task, value
                    elif said == "died":
                        crew.remove(worker)
                        tries[task.output.key] += 1
                        if tries[task.output.key] < TRIES:
                            bar.say(f"[{task.kind}] {task.name}: its worker died ({value}); it is begun again")
                            waiting.insert(0, task)
                        else:
                            failure = failure or InputError(
                                f"the worker of {task.kind} {task.name} died {TRIES} times ({value}). Perhaps memory "
                                "ran out: run again with fewer workers (WORKERS=1). What is finished is kept."
                            )
                    else:
                        failure = failure or value
            if failure is not None:
                raise failure
        finally:
            for worker in crew:
                worker.stop()

    def _hand_out(self, waiting: list[Task], crew: list[_Worker], unfinished: set[str], bar: Bar) -> None:
        """Gives free workers what they can do, first what needs the model that they have loaded."""
        while True:
            ready = [task for task in waiting if not unfinished.intersection(task.input_keys.values())]
            free = [worker for worker in crew if worker.task is None]
            if not ready or (not free and len(crew) >= self.count):
                return
            pairs = [(w, t) for w in free for t in ready if w.has(t) and not (w.trained and kind_module(t.kind).FRESH)]
            if pairs:
                worker, task = pairs[0]
            else:
                task = ready[0]
                fresh = kind_module(task.kind).FRESH
                worker = next((w for w in free if not (fresh and w.trained)), None)
                if worker is None:
                    if len(crew) >= self.count:
                        crew.remove(free[0])
                        free[0].stop()
                    worker = _Worker(self.threads)
                    crew.append(worker)
            waiting.remove(task)
            bar.progress(task, 0.0)
            worker.give(task)


def default_workers() -> int:
    """A worker for each core, but at most four, since each needs some 2 GiB; one where there is an accelerator.

    One thread in each of two processes does more than two threads in one: tracing and much of a small network's work
    is single-threaded.
    """
    return 1 if shutil.which("nvidia-smi") else min(4, os.cpu_count() or 1)


class _Worker:
    """A spawned process and what it is doing."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, os.getpid()), daemon=True)
        with _environment({**thread_settings(threads), "PYTHONWARNINGS": f"ignore:{NO_GPU}"}):
            self.process.start()
        other.close()
        self.task: Task | None = None
        self.trained, self._models = False, frozenset[str]()

    def has(self, task: Task) -> bool:
        """Whether it worked with one of the task's models last."""
        return bool(self._models & _models(task))

    def give(self, task: Task) -> None:
        self.task, self._models = task, _models(task) or self._models
        self.trained = self.trained or kind_module(task.kind).FRESH
        with suppress(OSError):  # a dead worker is noticed when it is listened to
            self.connection.send(task)

    def receive(self) -> tuple[str, Any]:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            return "died", f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def stop(self) -> None:
        if self.task is not None:
            self.process.kill()
        self.connection.close()
        self.process.join()


def _models(task: Task) -> frozenset[str]:
    """Keys of the models that a task needs in memory; of its own, which a training leaves there, too."""
    return frozenset(task.input_keys[name] for name in ("model", "weights") if name in task.input_keys)


def _work(connection: Connection, driver: int) -> None:
    """A worker's life: runs what it is given until the driver goes."""
    import traceback

    _die_with_the_driver(driver)
    from unmask_tf.memory import keep_freed_memory

    keep_freed_memory()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            task = connection.recv()
            try:
                said = execute(task, lambda fraction: connection.send(("progress", fraction)))
                connection.send(("done", said))
            except InputError as error:
                connection.send(("failed", error))
            except Exception:
                text = f"{task.kind} {task.name} failed:\n{traceback.format_exc()}"
                connection.send(("failed", RuntimeError(text)))


def _die_with_the_driver(driver: int) -> None:
    """Asks Linux to kill this process when its parent dies, whatever it is computing at that moment."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
        if os.getppid() != driver:
            os._exit(1)  # it died before


def thread_settings(threads: int) -> dict[str, str]:
    """Environment variables by which TensorFlow, torch and the BLAS use so many threads."""
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "TF_NUM_INTEROP_THREADS": "1"}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """The environment with some variables set, for the processes started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Marks the folder as in use; what killed writes left there is removed when nobody else is at work.

    Raises:
        InputError: the folder cannot be written.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}. Choose another folder (--results).") from error
    with lock:
        # It fails where another run is at work, or the file system knows no locks.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in [*folder.rglob(".partial-*"), *folder.rglob(".lock-*")]:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
