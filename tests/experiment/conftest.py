"""A small data folder and runs on it, with the science replaced by `fake_science`."""

import sys

import pytest
from small_runs import HERE, make_data

from unmask_tf.experiment.setup import prepare
from unmask_tf.files import HashCache


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with data, K's weights and the log of computed steps; plugins are found beside the tests."""
    make_data(tmp_path / "data")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log.txt"))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{HERE.parents[1]}")
    monkeypatch.syspath_prepend(str(HERE))
    return tmp_path


@pytest.fixture
def make_run(home):
    """A run of profile `mini` on that data."""

    def make(**options):
        defaults = {"data": home / "data", "results": home / "results", "k_weights": home / "k.h5"}
        return prepare("mini", **(defaults | options))

    return make


@pytest.fixture
def fake(home, monkeypatch):
    """The fake science in this process; it goes with the test."""
    from unmask_tf.experiment.kinds import answer, attack, evaluate_k, extract, score_k, train_k, train_m

    for module in (answer, attack, evaluate_k, extract, score_k, train_k, train_m):
        monkeypatch.setattr(module, "run", module.run)
    monkeypatch.setattr(answer, "load_m", answer.load_m)
    monkeypatch.setattr(answer, "quiet_and_deterministic", answer.quiet_and_deterministic)
    sys.modules.pop("fake_science", None)
    import fake_science

    yield fake_science
    sys.modules.pop("fake_science", None)


@pytest.fixture
def computed(home):
    """The kinds of the steps computed so far, in order."""

    def lines():
        log = home / "log.txt"
        return log.read_text().splitlines() if log.exists() else []

    return lines


@pytest.fixture
def cache(tmp_path):
    return HashCache(tmp_path / "hashes.json")
