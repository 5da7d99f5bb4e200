"""An adversarial training to be killed: `killed_training.py WORKDIR FILE between|batch|never keras|torch`.

It stops after the checkpoint of the first epoch it trains (`between`), or in its second batch (`batch`), creates FILE
and waits. Never stopped, it writes its history, the number of its attacks and its weights to FILE, an `.npz`.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from test_adversarial_training import CLASSIFIER, GENTLE, bright_and_dark, small_model

from unmask_tf.attacks import adversarial_training
from unmask_tf.classifiers import train as training


def whole_training(workdir, trainer):
    """Three epochs of two batches; returns the history and the weights."""
    model = small_model()
    data = bright_and_dark(16, 0), bright_and_dark(8, 1)
    history = adversarial_training.adversarial_train(
        model, *data, replace(CLASSIFIER, trainer=trainer), GENTLE, workdir
    )
    return history, model.get_weights()


def pause(module, name, calls, before):
    """The call number `calls` of a function never returns, or is never made."""
    original, seen = getattr(module, name), iter(range(calls))

    def paused(*arguments, **keywords):
        last = next(seen) == calls - 1
        if not (last and before):
            result = original(*arguments, **keywords)
        if last:
            Path(sys.argv[2]).touch()
            time.sleep(600)
        return result

    setattr(module, name, paused)


def run(workdir, file, trainer):
    """The whole training; its outcome goes to a file."""
    original, attacks = adversarial_training.attack, []
    adversarial_training.attack = lambda *a, **k: (attacks.append(None), original(*a, **k))[1]
    history, weights = whole_training(workdir, trainer)
    np.savez(file, *weights, history=json.dumps(history), attacks=len(attacks))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[3] == "between":
        pause(training, "write_checkpoint", 1, before=False)
    elif sys.argv[3] == "batch":
        pause(adversarial_training, "attack", 2, before=True)
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[4])
