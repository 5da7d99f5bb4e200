"""One contender of bench_attacks.py at work: gradient steps on a torch module, or PGD on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

# The module's layers read their settings from Keras layers when it is made, in another process; here Keras computes
# nothing, and its torch backend starts fastest.
os.environ["KERAS_BACKEND"] = "torch"

import k_served
import numpy as np
import torch
from pgd_of_others import OTHERS
from plain_resnet import PlainResNet50

from unmask_tf.memory import keep_freed_memory

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def build(settings: dict[str, Any]) -> Answer:
    """Answers {"steps": n} or {"attack": true} with the seconds that n gradient steps or one attack took.

    An attack is what a user's call costs: the images and the module's verdict on them.

    Settings: `module` (a saved module, or a state of PlainResNet50 where `plain`), `data` (.npz of images NCHW and
    labels), `contender` (`ours` or one of OTHERS; steps need none), `threads`, `frozen` (parameters need no gradients),
    `norm`, `epsilon_255`, `step_255`, `iterations`, `out` (.npy file for the attacked images or the gradient).
    """
    keep_freed_memory()
    torch.set_num_threads(settings["threads"])
    module = _module(settings)
    with np.load(settings["data"]) as data:
        images, labels = data["images"], data["labels"]
    attack = _attack(settings, module, images, labels)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        if "steps" in request:
            for _ in range(request["steps"]):
                result = _gradient(module, images, labels)
        else:
            result = attack()
        seconds = time.perf_counter() - start
        np.save(settings["out"], result)
        return {"seconds": seconds}

    return answer


def _module(settings: dict[str, Any]) -> torch.nn.Module:
    if settings["plain"]:
        module: torch.nn.Module = PlainResNet50(settings["classes"])
        module.load_state_dict(torch.load(settings["module"], weights_only=True))
    else:
        module = torch.load(settings["module"], weights_only=False)
    return module.eval().requires_grad_(not settings["frozen"])


def _gradient(module: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One bare step: the gradient of the summed cross-entropy by the image, and by nothing else."""
    x = torch.from_numpy(images).requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(module(x), torch.from_numpy(labels), reduction="sum")
    return torch.autograd.grad(loss, x)[0].numpy()


def _attack(
    settings: dict[str, Any], module: torch.nn.Module, images: np.ndarray, labels: np.ndarray
) -> Callable[[], np.ndarray]:
    name, epsilon_255, step = settings["contender"], settings["epsilon_255"], settings["step_255"] / 255
    if name in OTHERS:

        def theirs() -> np.ndarray:
            norm, iterations = settings["norm"], settings["iterations"]
            result = OTHERS[name](module, images, labels, norm, epsilon_255 / 255, step, iterations)
            if name == "torchattacks":  # the others' calls judge their result themselves
                with torch.no_grad():
                    module(torch.from_numpy(result))
            return result

        return theirs
    from unmask_tf.attacks.advertorch_bridge import attack
    from unmask_tf.attacks.threat_models import ThreatModel

    threat = ThreatModel(
        attack=f"pgd_{settings['norm']}", epsilon_255=epsilon_255, step=step, iterations=settings["iterations"]
    )
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def ours() -> np.ndarray:
        result = attack(module, pixels, labels, threat, seed=0)
        return result.images.transpose(0, 3, 1, 2)

    return ours


if __name__ == "__main__":
    k_served.serve(build)
