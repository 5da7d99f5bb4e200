"""`small_grid.py ROOT WORKERS` runs the tests' small grid below ROOT with the fake science; 0: without workers."""

import sys
from pathlib import Path

from small_runs import smaller
from test_runner import finish

from unmask_tf.experiment.runner import Workers
from unmask_tf.experiment.setup import prepare

if __name__ == "__main__":
    root, workers = Path(sys.argv[1]), int(sys.argv[2])
    a_run = prepare("mini", data=root / "data", results=root / "results", k_weights=root / "k.h5")
    if not workers:
        import fake_science  # noqa: F401
    finish(smaller(a_run), Workers(workers, threads=1) if workers else None)
