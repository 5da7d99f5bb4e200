"""The same steps as Ray tasks: same keys, same files. Every node needs the results and data folders under one path."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.experiment.runner import Bar, thread_settings
from unmask_tf.experiment.step import Task, execute, kind_module

RETRIES = 3
"""How often Ray begins a step again whose node or worker died."""


class RayCrew:
    """Runs tasks on a Ray cluster.

    Args:
        address: `auto` for the running cluster, its address, or `local` for one on this machine.
        cpus: of one task; its number of threads.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str, cpus: int = 1) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "Ray is not installed. Run: make ray-env (or pip install -r requirements-ray.txt)."
            ) from error
        self.cpus, path = cpus, os.environ.get("PYTHONPATH", "")
        environment = {**thread_settings(cpus), "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}
        try:
            _reach(address)
            ray.init(
                address=None if address == "local" else address,
                runtime_env={"env_vars": environment},
                log_to_driver=False,
                logging_level="ERROR",
                ignore_reinit_error=True,
            )
        except OSError as error:
            raise InputError(
                f"no Ray cluster answers at '{address}' ({error}). Start one: ray start --head."
            ) from error

    def run(self, tasks: Sequence[Task], bar: Bar) -> Iterator[tuple[Task, str]]:
        """See `runner.Crew`."""
        import ray

        gpus = ray.cluster_resources().get("GPU", 0) > 0
        # A worker that keeps K and M serves many steps; one that has trained ends, since its graphs are never freed.
        kinds = {fresh: ray.remote(max_calls=int(fresh))(_execute) for fresh in (False, True)}
        begun: dict[str, Any] = {}
        for task in tasks:
            module = kind_module(task.kind)
            after = [begun[key] for key in task.input_keys.values() if key in begun]
            begun[task.output.key] = (
                kinds[module.FRESH]
                .options(
                    name=f"{task.kind} {task.name}",
                    num_cpus=self.cpus,
                    num_gpus=1 if gpus and module.GPU else 0,
                    max_retries=RETRIES,
                )
                .remote(task, *after)
            )
            bar.progress(task, 0.0)
        left = {reference: task for task, reference in zip(tasks, begun.values(), strict=True)}
        try:
            while left:
                for reference in ray.wait(list(left), num_returns=1)[0]:
                    task = left.pop(reference)
                    yield task, _said(ray, reference, task)
        finally:
            for reference in left:
                ray.cancel(reference, force=True)


def _reach(address: str) -> None:
    """Finds out within seconds whether anybody listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _execute(task: Task, *after: str) -> str:
    """Runs a task on a node; `after` are the results of the tasks before it, which Ray waits for."""
    return execute(task)


def _said(ray: Any, reference: Any, task: Task) -> str:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        if isinstance(cause, InputError):
            raise InputError(str(cause.args[0]) if cause.args else str(cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"{task.kind} {task.name} could not be run on the cluster ({type(error).__name__}: {error}). What is "
            "finished is kept: run the same command again."
        ) from error
