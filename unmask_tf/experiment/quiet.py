"""TensorFlow and Keras, imported without their log lines and set to repeat themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext


def import_quietly() -> None:
    """Imports Keras without what TensorFlow prints on its way, whatever TF_CPP_MIN_LOG_LEVEL says; 0 or 1 shows it."""
    # With two operations at a time the last bits of DenseNet's training differ from run to run, despite op determinism.
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    loud = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")
    with nullcontext() if loud or "tensorflow" in sys.modules else _no_standard_error():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices()  # the search for a GPU prints too


@contextmanager
def _no_standard_error() -> Iterator[None]:
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quiet_and_deterministic(seed: int) -> None:
    """Prepares TensorFlow and Keras: no log noise, deterministic operations, every global seed set."""
    import_quietly()
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
