"""Writes pgd_of_others.npz: what ART's and Foolbox's PGD (no random start) make of the small network below.

    make bench-attacks EXTRA=--help                      # installs them into .cache/bench
    .cache/bench/bin/python tests/golden/generate_pgd.py

test_pgd_of_others.py runs Advertorch through our bridge on the same network, images and settings.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "pgd_of_others.npz"
IMAGES, SIDE, CLASSES, ITERATIONS = 32, 10, 4, 20
EPSILON_255 = {"linf": 8.0, "l2": 100.0}
"""On 10x10 pixels an L2 budget of 100/255 is 300/255 scaled by less than the image: the box still cuts some steps."""


def steps(norm: str) -> dict[str, float]:
    """Preset -> step in pixel units, as threat_models.PRESETS has it."""
    epsilon = EPSILON_255[norm] / 255
    return {"released": 2.0, "written": 2 / 255, "eq1": epsilon, "strong": 2.5 * epsilon / ITERATIONS}


def network() -> nn.Module:
    """Two convolutions and a linear layer with seeded weights."""
    module = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (SIDE // 2) ** 2, CLASSES),
    )
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1.0 / np.sqrt(max(parameter[0].numel(), 4))
            parameter.copy_(torch.from_numpy(rng.normal(0.0, scale, tuple(parameter.shape))))
    return module.eval()


def images() -> np.ndarray:
    """float32 (32, 10, 10, 3) of grey levels k/255, black and white among them."""
    levels = np.random.default_rng(11).integers(-40, 296, (IMAGES, SIDE, SIDE, 3))
    return (levels.clip(0, 255) / 255.0).astype(np.float32)


def labels() -> np.ndarray:
    """int64 (32,)."""
    return np.arange(IMAGES, dtype=np.int64) % CLASSES


def others():
    """benchmarks/pgd_of_others.py."""
    spec = importlib.util.spec_from_file_location("pgd_of_others", HERE.parents[1] / "benchmarks" / "pgd_of_others.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def attacked(library: str, norm: str, step: float, module: nn.Module | None = None) -> np.ndarray:
    """The library's PGD on the network (or another module on the same images): float32 (32, 10, 10, 3)."""
    pixels = np.ascontiguousarray(images().transpose(0, 3, 1, 2))
    attack = others().OTHERS[library]
    found = attack(module or network(), pixels, labels(), norm, EPSILON_255[norm] / 255, step, ITERATIONS)
    return found.transpose(0, 2, 3, 1)


def main() -> None:
    torch.set_num_threads(1)
    arrays = {}
    for norm in EPSILON_255:
        for preset, step in steps(norm).items():
            arrays[f"art_{norm}_{preset}"] = attacked("art", norm, step)
    for preset, step in steps("linf").items():  # in L2 Foolbox clips to the box after the ball, the others before
        gap = np.abs(attacked("foolbox", "linf", step) - arrays[f"art_linf_{preset}"])
        print(f"Foolbox equals ART, {preset}: {np.mean(gap <= 1e-5):.4%} of the pixels")
    packages = ("adversarial-robustness-toolbox", "foolbox", "torch")
    np.savez_compressed(GOLDEN, versions=np.array([f"{name}=={version(name)}" for name in packages]), **arrays)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
