"""A plugin whose import replaces the science by results drawn from a seed, so that the engine can be tested in seconds.

Each step that is computed is noted in the file FAKE_LOG, one line each: kind, name, process. Rows are made by the real
kind; only M, attacks and K are drawn. With FAKE_PAUSE=n the n-th step (from 0) stops in the middle of writing its file,
creates log.paused beside it and waits to be killed. Steps of the kind FAKE_DIE kill their process; each takes FAKE_SLOW
seconds.
"""

import hashlib
import os
import signal
import time
from pathlib import Path

import h5py
import numpy as np

from unmask_tf.experiment.kinds import answer, attack, evaluate_k, extract, score_k, shared, train_k, train_m
from unmask_tf.files import write_json

CLASSES = ("car", "person", "train")


def rng(*key):
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def note(kind, resources, output):
    """Notes the step; then pauses, if it is this one's turn."""
    log = Path(os.environ["FAKE_LOG"])
    with open(log, "a") as file:
        file.write(f"{kind} {resources.workdir.name} {os.getpid()}\n")
    if str(len(log.read_text().splitlines()) - 1) == os.environ.get("FAKE_PAUSE"):
        output.write_bytes(b"half")
        (log.parent / "log.paused").touch()
        time.sleep(600)
    if kind == os.environ.get("FAKE_DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ.get("FAKE_SLOW", 0)))
    resources.progress(0.5)


def train(settings, inputs, output, resources):
    note("train_m", resources, output)
    output.write_bytes(resources.workdir.name.encode())
    training = {"recipe": settings.recipe, "epochs": 1, "best_epoch": 1, "stopped": "epochs", "seed": 5}
    if settings.adversarial is not None:
        training["epsilon_255"] = settings.adversarial.epsilon_255
        training |= {"step": settings.adversarial.step, "iterations": settings.adversarial.iterations}
    return {"training": training, "said": "trained"}


def attack_images(settings, inputs, output, resources):
    note("attack", resources, output)
    clean = shared.pixels(inputs["images"], settings.classes, settings.size)
    noise = rng(settings, resources.input_keys["model"]).uniform(-0.05, 0.05, clean.shape)
    with h5py.File(output, "w") as file:
        file["images"] = np.clip(clean + noise, 0, 1).astype(np.float32)
    threat = {"preset": settings.preset, "iterations": settings.threat.iterations, "iterations_asked": 20}
    return {"threat": threat, "checks": {"loss_rises": True}, "nan_images": 0, "seed": 7, "said": "attacked"}


class FakeM:
    """Right on most benign images, wrong on most attacked ones."""

    def logits(self, images):
        images = np.asarray(images)
        benign = images.dtype == np.uint8 or np.ptp(images, axis=(1, 2, 3)).max() == 0
        moved = 0 if benign else 1
        return np.stack([rng(x.tobytes()).random(3) + moved * np.eye(3)[i % 3] for i, x in enumerate(images)])


def extract_parts(settings, inputs, output, resources):
    note("extract", resources, output)
    draw = rng(settings, dict(resources.input_keys))
    seen = []
    for _ in range(settings.first, settings.last):
        chosen = [part for part in settings.parts if draw.random() < 0.2]
        seen.append({part: [0.9, [[0, 0, 4, 4]]] for part in chosen})
    write_json(output, seen)
    return {"said": "extracted"}


def evaluate(settings, inputs, output, resources):
    note("evaluate_k", resources, output)
    write_json(output, {"map50": 0.5, "map": 0.25, "per_part": {"wheel": 0.5}, "iou_type": "segm", "n_images": 1})
    return {"said": "scored"}


def train_detector(settings, inputs, output, resources):
    note("train_k", resources, output)
    output.write_bytes(b"weights of K " + resources.workdir.name.encode())
    return {"log": [{"epoch": 1}], "said": "trained"}


def score_detector(settings, inputs, output, resources):
    note("score_k", resources, output)
    output.write_bytes(inputs["weights"].path.read_bytes() + b", scored")
    return {"part_scores": {}, "said": "scored"}


REAL_ANSWER = answer.run


def answer_images(settings, inputs, output, resources):
    note("answer", resources, output)
    return REAL_ANSWER(settings, inputs, output, resources)


train_m.run, attack.run, extract.run, evaluate_k.run = train, attack_images, extract_parts, evaluate
train_k.run, score_k.run, answer.run = train_detector, score_detector, answer_images
answer.load_m = lambda *_: FakeM()
answer.quiet_and_deterministic = lambda _: None
