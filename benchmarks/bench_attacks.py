"""Gradient steps and PGD on the torch port of M, beside a plain torch ResNet-50, ART, Foolbox and torchattacks.

    make bench-attacks EXTRA="--architecture resnet50 --size 150 --batch 32"

Each contender runs in its own process with the same treatment: same threads, same allocator settings, parameters
frozen (--trainable leaves them as `to_torch` and torch.nn make them). They take turns; the medians over the rounds are
compared. All attacks see the same torch module, images, budget and step, and end with a verdict on their images. The
record is written after every round; a
round that began is finished, and the same command adds rounds to a record of the same settings.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from turns import Worker

from unmask_tf.errors import InputError
from unmask_tf.experiment.quiet import import_quietly
from unmask_tf.files import read_json, write_json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CLASSES = 3
PLAIN, STEP, OURS = "plain torch step", "port step", "ours"
OTHERS = ("art", "foolbox", "torchattacks")
PACKAGES = {"art": "adversarial-robustness-toolbox", "foolbox": "foolbox", "torchattacks": "torchattacks"}
NEAR = 1e-5


def prepare(arguments: argparse.Namespace, work: Path) -> None:
    """Writes the port, the plain model's weights and the images into the work folder."""
    import keras
    import torch
    from plain_resnet import weights_of_keras

    from unmask_tf.classifiers.build import build_classifier
    from unmask_tf.classifiers.torch_port import to_torch

    work.mkdir(parents=True, exist_ok=True)
    model = build_classifier(arguments.architecture, CLASSES, input_size=arguments.size, weights="random")
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0.0, 0.2, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))
            layer.gamma.assign(rng.uniform(0.2, 0.6, shape))
    torch.save(to_torch(model, fold_batch_norm=True), work / "port.pt")
    if arguments.architecture == "resnet50":
        torch.save(weights_of_keras(model), work / "plain.pt")
    images = rng.random((arguments.batch, 3, arguments.size, arguments.size), np.float32)
    np.savez(work / "data.npz", images=images, labels=np.arange(arguments.batch, dtype=np.int64) % CLASSES)


def open_record(arguments: argparse.Namespace, others: list[str]) -> dict[str, Any]:
    """The record to fill.

    Raises:
        InputError: the record's file was measured with other settings.
    """
    settings = {
        name: getattr(arguments, name)
        for name in ("architecture", "size", "batch", "threads", "norm", "epsilon_255", "step_255", "iterations")
    }
    versions = {name: version(PACKAGES[name]) for name in others}
    identity = {**settings, "frozen": not arguments.trainable, "versions": {"torch": version("torch"), **versions}}
    record = read_json(arguments.record) if arguments.record.is_file() else {"identity": identity, "rounds": []}
    if record.get("identity") != identity:
        raise InputError(f"{arguments.record} was measured with other settings. Delete it, or name another (--record).")
    record["machine"] = {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}
    return record


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Adds rounds to the record, writes it after each, and returns it."""
    work = ROOT / ".cache" / "bench_attacks"
    others = [name for name in OTHERS if name in arguments.others and _installed(name)]
    record = open_record(arguments, others)
    prepare(arguments, work)
    settings = {
        **{key: value for key, value in record["identity"].items() if key not in ("architecture", "versions")},
        "data": str(work / "data.npz"),
        "classes": CLASSES,
    }
    workers: dict[str, Worker] = {}

    def start(name: str) -> None:
        own = {"contender": name, "plain": name == PLAIN, "out": str(work / f"{name.replace(' ', '_')}.npy")}
        file = work / ("plain.pt" if own["plain"] else "port.pt")
        command = [sys.executable, HERE / "attack_served.py"]
        workers[name] = Worker(command, {**settings, **own, "module": str(file)}, work / f"{name.split()[0]}.log")

    try:
        for name in ([PLAIN] if arguments.architecture == "resnet50" else []) + [OURS, *others]:
            start(name)
        for done in range(-1, arguments.rounds):
            turn: dict[str, float] = {}
            order = list(workers)
            for name in order[done % len(order) :] + order[: done % len(order)]:  # each takes each place
                worker = workers[name]
                if name in (PLAIN, OURS):
                    answer = worker.ask({"steps": arguments.bare_steps})
                    turn[PLAIN if name == PLAIN else STEP] = answer["seconds"] / arguments.bare_steps
                    if done == -1:
                        (work / f"{name.replace(' ', '_')}.npy").replace(work / f"{name.replace(' ', '_')}_step.npy")
                if name != PLAIN:
                    turn[name] = worker.ask({"attack": True})["seconds"] if done >= 0 else 0.0
            if done == -1:  # its first steps grow the heap and choose the kernels
                continue
            record["rounds"].append(turn)
            record["summary"] = summary(record, work)
            write_json(arguments.record, record)
            print(f"[bench-attacks] round {done + 1} of {arguments.rounds}", flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    return record


def summary(record: dict[str, Any], work: Path) -> dict[str, Any]:
    """Medians in seconds, the ratios that matter, and how far the results agree."""
    rounds, iterations = record["rounds"], record["identity"]["iterations"]
    seconds = {name: statistics.median(turn[name] for turn in rounds) for name in rounds[-1]}
    ratios: dict[str, float] = {"ours / bare steps": seconds[OURS] / (iterations * seconds[STEP])}
    agreement: dict[str, float] = {}
    if PLAIN in seconds:
        ratios["plain step / port step"] = seconds[PLAIN] / seconds[STEP]
        plain, port = (np.load(work / f"{name.replace(' ', '_')}_step.npy") for name in (PLAIN, OURS))
        agreement["relative difference of the plain gradient"] = float(
            np.linalg.norm(plain - port) / np.linalg.norm(port)
        )
    for name in OTHERS:
        if name in seconds:
            ratios[f"{name} / ours"] = seconds[name] / seconds[OURS]
            gap = np.abs(np.load(work / f"{name}.npy") - np.load(work / f"{OURS}.npy"))
            agreement[f"pixels of {name} equal to ours"] = float(np.mean(gap <= NEAR))
    return {"rounds": len(rounds), "seconds": seconds, "ratios": ratios, "agreement": agreement}


def show(record: dict[str, Any]) -> None:
    """Prints the summary as a table."""
    of, found = record["identity"], record["summary"]
    print(f"{of['architecture']}, {of['size']}x{of['size']}, batch {of['batch']}, {of['threads']} threads, "
          f"{found['rounds']} rounds")  # fmt: skip
    for name, value in found["seconds"].items():
        what = name if name.endswith("step") else f"{name}: PGD-{of['iterations']} {of['norm']}"
        print(f"  {what:32} {value:8.3f} s")
    for name, value in found["ratios"].items():
        print(f"  {name:32} {value:8.2f} x")
    for name, value in found["agreement"].items():
        print(f"  {name:32} {value:8.2g}")


def _installed(name: str) -> bool:
    try:
        version(PACKAGES[name])
    except PackageNotFoundError:
        print(f"[bench-attacks] {PACKAGES[name]} is not installed, so it is left out")
        return False
    return True


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> int:
    import_quietly()
    from unmask_tf.classifiers import CLASSIFIERS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architecture", default="resnet50", choices=list(CLASSIFIERS))
    parser.add_argument("--size", type=int, default=150, help="side of the images, pixels (default 150)")
    parser.add_argument("--batch", type=int, default=32, help="images attacked together (default 32)")
    parser.add_argument("--norm", default="linf", choices=("linf", "l2"))
    parser.add_argument("--epsilon-255", type=float, default=8.0, help="budget in units of 1/255 (default 8)")
    parser.add_argument("--step-255", type=float, default=2.0, help="step in units of 1/255 (default 2)")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender (default 5)")
    parser.add_argument("--bare-steps", type=int, default=5, help="gradient steps a turn (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--others", nargs="*", default=list(OTHERS), choices=OTHERS, help="which to compare with")
    parser.add_argument("--trainable", action="store_true", help="do not freeze the modules' parameters")
    parser.add_argument("--record", type=Path, default=ROOT / "results" / "bench_attacks.json", help="JSON file")
    arguments = parser.parse_args()
    try:
        for name in ("size", "batch", "iterations", "rounds", "bare_steps", "threads"):
            if getattr(arguments, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: give at least 1.")
        record = measure(arguments)
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(record)
    print(f"[bench-attacks] {arguments.record}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
