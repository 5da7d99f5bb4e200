"""Thirteen faults planted in a sound attack on a small network, and which checks catch each.

As a script it rewrites the table of docs/attack_checks.md:

    PYTHONPATH=. .venv/bin/python tests/attacks/planted_faults.py
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from attack_modules import target_of
from attack_rows import row_set
from torch import nn

from unmask_tf.attacks import advertorch_bridge as bridge
from unmask_tf.attacks import module as evaluation
from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.checks import CHECKS, WARNINGS
from unmask_tf.attacks.evidence import check_attack
from unmask_tf.attacks.module import logits_of
from unmask_tf.attacks.protocol import AttackResult
from unmask_tf.attacks.threat_models import ThreatModel, threat_model
from unmask_tf.attacks.watched import Watched
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.soundness import BETWEEN_CELLS, unsound

DOCUMENT = Path(__file__).parents[2] / "docs" / "attack_checks.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"

EPSILON_255 = 40
SOUND = threat_model("pgd_linf", EPSILON_255, preset="strong")
CLASSES = 3


def waves(count: int, seed: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Noisy plane waves, float32 (N, S, S, 3) of grey levels k / 255, whose frequency is their class, int64 (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    y, x = np.mgrid[:size, :size] / size
    angle, phase = rng.uniform(0.0, np.pi, (count, 1, 1)), rng.uniform(0.0, 2.0 * np.pi, (count, 1, 1))
    frequency = (1.0 + labels)[:, None, None]
    wave = np.sin(2.0 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    signs, noise = rng.choice([-1.0, 1.0], (count, 1, 1, 3)), rng.standard_normal((count, size, size, 3))
    images = 0.5 + 0.2 * wave[..., None] * signs + 0.08 * noise
    return (np.floor(np.clip(images, 0.0, 1.0) * 255.0) / 255.0).astype(np.float32), labels


class Bands(nn.Module):
    """Tells the waves apart by the energy in each frequency band: sine and cosine filters at eight angles.

    Nothing in it is trained, so it is the same network on every machine, and it is far from linear: a step across the
    whole budget lands anywhere.
    """

    def __init__(self, size: int = 12, side: int = 8, angles: int = 8) -> None:
        super().__init__()
        y, x = np.mgrid[:side, :side] / size
        angle = (np.arange(angles) * np.pi / angles)[None, :, None, None, None]
        phase = np.array([0.0, np.pi / 2.0])[None, None, :, None, None]
        frequency = (1.0 + np.arange(CLASSES))[:, None, None, None, None]
        wave = np.sin(2.0 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
        wave -= wave.mean(axis=(3, 4), keepdims=True)
        wave /= np.sqrt((wave**2).sum(axis=(3, 4), keepdims=True))
        filters = torch.tensor(wave.reshape(-1, 1, side, side), dtype=torch.float32)
        self.filters = nn.Parameter(filters.repeat(3, 1, 1, 1))  # each colour is filtered by itself
        self.norm = nn.BatchNorm2d(3, affine=False, momentum=1.0)
        self.register_buffer("centre", torch.zeros(CLASSES))
        self.angles = angles

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = nn.functional.conv2d(self.norm(x) / 6.0, self.filters, groups=3)
        energy = (found**2).unflatten(1, (3, CLASSES, self.angles, 2)).sum(4).mean(dim=(1, 4, 5))
        band = torch.logsumexp(8.0 * torch.sqrt(energy + 1e-3), dim=2)
        return band - self.centre


@functools.cache
def network() -> nn.Module:
    """`Bands` with the statistics of 300 waves."""
    images, _ = waves(300, seed=1)
    module = Bands().train()
    with torch.no_grad():
        module.centre += module(torch.from_numpy(images).permute(0, 3, 1, 2)).mean(0)
    return module.eval()


@contextmanager
def _advertorch_with(**attributes: Any) -> Iterator[None]:
    """The Advertorch attack object gets other attributes than the threat model says."""
    build = bridge._advertorch

    def faulty(watched: Watched, threat: ThreatModel) -> Any:
        adversary = build(watched, threat)
        for name, value in attributes.items():
            setattr(adversary, name, value)
        return adversary

    with patch.object(bridge, "_advertorch", faulty):
        yield


def _negative_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -nn.functional.cross_entropy(logits, labels, reduction="sum")


class _NoGradient(nn.Module):
    """The same logits, but no gradient reaches the image."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x.detach()) + 0.0 * x.sum()


@contextmanager
def _training_mode() -> Iterator[None]:
    @contextmanager
    def training(module: nn.Module) -> Iterator[torch.device]:
        yield next(module.train().parameters()).device

    with patch.object(bridge, "inference", training), patch.object(evaluation, "inference", training):
        yield


class _LastKept(Watched):
    """Keeps the last iterate where the best was promised."""

    def _keep(self, rows: torch.Tensor, images: torch.Tensor, gain: torch.Tensor, fooled: torch.Tensor) -> None:
        if self.best is None:
            self.best = images.clone()
        self.best[rows] = images


@contextmanager
def _unclipped() -> Iterator[None]:
    nothing = patch.object(bridge, "project", lambda clean, adversarial, threat: adversarial)
    with nothing, _advertorch_with(clip_min=-9.0, clip_max=9.0):
        yield


def _with_nan(result: AttackResult) -> AttackResult:
    images = result.images.copy()
    images[0, 0, 0, 0] = np.nan
    return replace(result, images=images)


def _trained_on(module: nn.Module) -> nn.Module:
    """A copy whose weights are one in a hundred off, as after one more training step."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.01
    return other


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A sound attack with one thing wrong.

    Attributes:
        title: what is wrong.
        threat: the threat model that is claimed.
        used: the one that the attack really runs with; None: the same.
        module: the attacked module -> the faulty one.
        shown: the module -> its copy, which the attack sees.
        labels: true labels -> those that attack and checks are given.
        context: entered for the attack and the checks.
        result: the attack's result -> the faulty one.
    """

    title: str
    threat: ThreatModel = SOUND
    used: ThreatModel | None = None
    module: Callable[[nn.Module], nn.Module] = _same
    shown: Callable[[nn.Module], nn.Module] = _same
    labels: Callable[[np.ndarray], np.ndarray] = _same
    context: Callable[[], AbstractContextManager] = nullcontext
    result: Callable[[AttackResult], AttackResult] = _same


FAULTS: dict[str, Fault] = {
    "unscaled step": Fault(
        title="a step of 2.0 that was meant as 2/255 (the released attack)",
        threat=threat_model("pgd_linf", EPSILON_255, preset="released"),
    ),
    "short travel": Fault(
        title="20 steps that together cover a fifth of epsilon", threat=replace(SOUND, step=0.01 * SOUND.epsilon)
    ),
    "softmax": Fault(
        title="the network ends in a softmax", module=lambda module: nn.Sequential(module, nn.Softmax(dim=1))
    ),
    "flipped sign": Fault(title="the loss is minimised", context=lambda: _advertorch_with(loss_fn=_negative_loss)),
    "zeroed gradient": Fault(title="no gradient reaches the image", module=_NoGradient),
    "train-mode BN": Fault(title="batch normalisation by the batch's own statistics", context=_training_mode),
    # With the shorter steps of SOUND the last iterate of this network is its best, and nothing would be wrong.
    "last iterate": Fault(
        title="the last iterate where the best was promised, with steps of epsilon",
        threat=replace(SOUND, step=SOUND.epsilon),
        context=lambda: patch.object(bridge, "Watched", _LastKept),
    ),
    "unit of epsilon": Fault(
        title="epsilon divided by 255 twice", used=replace(SOUND, epsilon_255=EPSILON_255 / 255.0)
    ),
    "no clipping": Fault(title="pixels may leave [0, 1]", context=_unclipped),
    "wrong labels": Fault(title="the class folders in another order", labels=lambda labels: (labels + 1) % CLASSES),
    "frozen input": Fault(
        title="the steps are computed and not taken", context=lambda: _advertorch_with(eps_iter=0.0, rand_init=False)
    ),
    "NaN": Fault(title="a NaN in one pixel of one image", result=_with_nan),
    "other copy": Fault(
        title="the torch copy that is attacked is of other weights than the M that is scored", shown=_trained_on
    ),
}


def caught(fault: Fault) -> set[str]:
    """The checks that a fault fails, those between attacks included."""
    images, labels = waves(_IMAGES, seed=2)
    module, given = fault.module(copy.deepcopy(network())), fault.labels(labels)
    with fault.context():
        target = target_of(module, fault.shown(module))
        result = fault.result(attack(target.module, images, given, fault.used or fault.threat, seed=0))
        checks = check_attack(target, images, given, result, fault.threat)
    usable = np.isfinite(result.images).all(axis=(1, 2, 3))
    right = int(((result.predictions == labels) | ~usable).sum())
    failed = unsound([*_sound_records(), _record("pgd_linf", EPSILON_255, right, checks)])
    names = failed.get(("conv", "waves", "pgd_linf", EPSILON_255, "none"), ())
    return {name for name, holds in checks.items() if not holds} | set(names)


_IMAGES = 36


@functools.cache
def _sound_records() -> tuple[RowSet, ...]:
    """What the faulty PGD is compared with: no attack, MI, and PGD of a smaller budget."""
    images, labels = waves(_IMAGES, seed=2)
    records = [_record("none", 0, int((logits_of(network(), images).argmax(1) == labels).sum()), {})]
    for name, epsilon in (("mia_linf", EPSILON_255), ("pgd_linf", 0.8 * EPSILON_255)):
        result = attack(network(), images, labels, threat_model(name, epsilon, preset="strong"), seed=0)
        records.append(_record(name, epsilon, int((result.predictions == labels).sum()), {"loss_rises": True}))
    return tuple(records)


def _record(name: str, epsilon: float, correct: int, checks: dict[str, bool]) -> RowSet:
    return row_set("conv", name, epsilon, correct, _IMAGES, checks)


def table(found: Callable[[str], set[str]]) -> str:
    """The table of faults and checks, in Markdown; `found` gives the failed checks of a fault by its name."""
    failed = {name: found(name) for name in FAULTS}
    lines = ["| Fault | What is wrong |", "| --- | --- |"]
    lines += [f"| {i} {name} | {fault.title} |" for i, (name, fault) in enumerate(FAULTS.items(), 1)]
    numbers = [str(i) for i, _ in enumerate(FAULTS, 1)]
    lines += ["", f"| Check | {' | '.join(numbers)} |", f"| --- |{' :-: |' * len(numbers)}"]
    for check in (*CHECKS, *BETWEEN_CELLS):
        mark = "w" if check in WARNINGS else "x"
        lines.append(f"| {check} | " + " | ".join(mark if check in failed[name] else "" for name in FAULTS) + " |")
    return "\n".join(lines) + "\n"


def rewrite(document: str, found: Callable[[str], set[str]]) -> str:
    """The document with a fresh table in it."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + "\n" + table(found) + "\n" + END + tail


if __name__ == "__main__":
    torch.set_num_threads(1)
    written = rewrite(DOCUMENT.read_text(encoding="utf-8"), lambda name: caught(FAULTS[name]))
    DOCUMENT.write_text(written, encoding="utf-8")
    print(f"{DOCUMENT} is rewritten")
