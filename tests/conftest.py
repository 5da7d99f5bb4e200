"""Settings for every test: property tests have no time limits, since a busy machine is no failure."""

import os
import threading
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings

# As the command line does (`experiment.quiet.import_quietly`): trainings repeat to the last bit.
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


class _Patience:
    """Says every few seconds what pytest is at, so that a long test is not taken for a stopped one."""

    seconds = 8.0

    def __init__(self):
        self._output = os.dup(1)  # before a test's output is captured

    @contextmanager
    def _saying(self, what):
        ended = threading.Event()

        def tell():
            while not ended.wait(self.seconds):
                os.write(self._output, f"\nat work: {what}\n".encode())

        threading.Thread(target=tell, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self):
        with self._saying("collecting tests"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        with self._saying(item.nodeid):
            return (yield)


def pytest_configure(config):
    config.pluginmanager.register(_Patience(), "patience")


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch):
    """What a command prints depends on no machine's speed: the lines that say that it is still at work are left out."""
    monkeypatch.setattr("unmask_tf.progress._LINES", 3600.0)


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory):
    """A tiny run with an evaluated MobileNetV2 of cs3a and the shipped K of profile mini, and the M released from it.

    Returns the run, and the released file in a folder of its own.
    """
    from unmask_tf.experiment.grid import BENIGN, Grid
    from unmask_tf.experiment.release import release_m
    from unmask_tf.experiment.runner import InThisProcess
    from unmask_tf.experiment.runner import run as run_steps
    from unmask_tf.experiment.tiny import tiny_run

    folder = tmp_path_factory.mktemp("release")
    run = tiny_run(folder)
    run_steps([Grid(run).answer("cs3a", "mobilenet_v2", "algorithm1", *BENIGN)], run.folder, crew=InThisProcess())
    (path,) = release_m(run, folder / "weights")
    return run, path
