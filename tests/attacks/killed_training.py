"""An adversarial training to be killed: `killed_training.py WORKDIR PAUSED between|batch`.

It stops after the checkpoint of the first epoch it trains (`between`), or in its second batch (`batch`), creates the
file PAUSED and waits.
"""

import sys
import time
from pathlib import Path

import torch
from test_adversarial_training import CLASSIFIER, GENTLE, bright_and_dark, small_model

from unmask_tf.attacks import adversarial_training
from unmask_tf.classifiers import train as training


def whole_training(workdir):
    """Three epochs of two batches; returns the history and the weights."""
    model = small_model()
    data = bright_and_dark(16, 0), bright_and_dark(8, 1)
    history = adversarial_training.adversarial_train(model, *data, CLASSIFIER, GENTLE, workdir)
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[3] == "between":
        pause(training, "write_checkpoint", 1, before=False)
    else:
        pause(adversarial_training, "attack", 2, before=True)
    whole_training(Path(sys.argv[1]))
