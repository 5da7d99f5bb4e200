"""The same steps on Ray: the rows of the serial run, also when a node dies in the middle."""

import sys
import threading
import time
from collections import Counter

import pytest
from small_runs import smaller
from test_runner import PLUGINS, STEPS, kinds, rows_of
from test_runner import undisturbed as undisturbed

from unmask_tf.errors import InputError
from unmask_tf.experiment.publish import run_grid
from unmask_tf.experiment.ray_runner import RayCrew


@pytest.fixture
def cluster(home, monkeypatch):
    """A head that works on nothing and two nodes of one CPU each."""
    ray = pytest.importorskip("ray", reason="Ray is an optional extra: pip install -r requirements-ray.txt")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made, nodes
    ray.shutdown()
    made.shutdown()


def test_ray_gives_the_rows_of_the_serial_run_and_runs_each_step_once(make_run, cluster, computed, undisturbed):
    run = smaller(make_run())
    run_grid(run, RayCrew(cluster[0].address), PLUGINS)
    assert rows_of(run.folder) == undisturbed
    assert kinds(computed()) == STEPS
    run_grid(run, RayCrew(cluster[0].address), PLUGINS)
    assert kinds(computed()) == STEPS


def test_a_node_killed_in_the_middle_costs_no_more_than_its_own_step(
    make_run,
    cluster,
    computed,
    undisturbed,
    monkeypatch,
):
    monkeypatch.setenv("FAKE_SLOW", "0.2")
    run, (made, nodes) = smaller(make_run()), cluster

    def kill():
        while len(computed()) < 8:
            time.sleep(0.05)
        made.remove_node(nodes[1], allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    run_grid(run, RayCrew(made.address), PLUGINS)
    killer.join()
    assert rows_of(run.folder) == undisturbed
    twice = [step for step, times in Counter(line.rsplit(" ", 1)[0] for line in computed()).items() if times > 1]
    assert len(twice) <= 1, "only what the dead node had begun is begun again"
    assert len(computed()) == sum(STEPS.values()) + len(twice)


def test_an_error_of_a_step_arrives_as_one_clear_message(make_run, cluster, home):
    run = smaller(make_run())
    (home / "k.h5").write_bytes(b"weights of K")
    for path in (home / "data" / "classes" / "test" / "car").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="car"):
        run_grid(run, RayCrew(cluster[0].address), PLUGINS)


def test_a_cluster_that_does_not_answer_is_named():
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install -r requirements-ray.txt")
    with pytest.raises(InputError, match="ray start"):
        RayCrew("127.0.0.1:1")


def test_without_ray_installed_the_command_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"requirements-ray\.txt"):
        RayCrew("auto")
