"""Runs Advertorch's attacks on M's torch copy: NHWC float32 images in, NHWC float32 images out.

Advertorch holds no state that we rely on: it sees a function (`Watched`) that turns NCHW images into logits, and
everything around it (seeds, layout, best iterate, NaN repair, final projection) is here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from unmask_tf.attacks.pixels import project
from unmask_tf.attacks.threat_models import Norm, ThreatModel
from unmask_tf.attacks.watched import Watched
from unmask_tf.data.pixels import checked_pixels
from unmask_tf.errors import InputError

__all__ = ["AttackResult", "advertorch_attacks", "attack", "inference", "logits_and_gradients", "logits_of"]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What an attack returned.

    Attributes:
        images: float32 (N, H, W, 3) in [0, 1], within the budget.
        logits: float32 (N, classes), the attack's own evaluation of `images`.
        fooled: bool (N,), some iterate was misclassified (or hit its target), whether it is the one returned or not.
        peak_loss: float32 (N,), the highest loss of an iterate: of those that fooled the model where any did
            (targeted: the highest negative loss of the target).
        nan_images: images for which Advertorch returned NaN and which were attacked again (see `attack`).
        iterations: int64 (N,), gradient steps that each image received, all restarts together (0 where epsilon is 0).
    """

    images: np.ndarray
    logits: np.ndarray
    fooled: np.ndarray
    peak_loss: np.ndarray
    nan_images: int
    iterations: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """int64 (N,), argmax of the logits."""
        return self.logits.argmax(axis=1)


def attack(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    *,
    seed: int,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    targeted: bool = False,
) -> AttackResult:
    """Attacks every image with Advertorch (Section II-A, Equations 1 to 3; sum of cross-entropies, box [0, 1]).

    The module is attacked in inference mode; its training flags, its parameters' `requires_grad` and gradients and
    torch's global random state are left as they were. A batch's random start depends on (seed, index of its first
    image, restart) alone. A budget below float32 resolution (2^-24) returns the images unchanged.

    NaN: Advertorch's L2 momentum attack projects by the factor eps * (delta / |delta|) / delta, taken per coordinate,
    which is 0 / 0 wherever a coordinate of delta is exactly 0 (its issue 105); such a coordinate turns the whole
    image into NaN one iteration later. Away from 0 that factor is the same for all coordinates, min(1, eps / |delta|),
    so an image that came back as NaN is attacked again by the same update with the factor taken per image. Nothing is
    invented (no noise, no small constant) and the other images keep Advertorch's own result.

    Args:
        module: torch module, NCHW float32 in [0, 1] -> logits (N, classes).
        images: floating (N, H, W, 3) in [0, 1].
        labels: integer (N,); true labels, or the targets if `targeted`.
        threat: attack, budget and effort.
        seed: >= 0.
        batch_size: images attacked together.
        progress: called with (images done, images in all) after each batch.
        targeted: minimise the loss of `labels` instead of maximising it.

    Raises:
        InputError: images that are not floating, not (N, H, W, 3), empty or outside [0, 1]; labels that are not
            integer, not (N,) or not a class of the module; non-finite or ill-shaped outputs or gradients.
        RuntimeError: Advertorch left the budget or the box by more than rounding explains.
    """
    images, labels = _validated(module, images, labels, seed, batch_size)
    attacked = np.empty_like(images)
    seen: dict[str, list[np.ndarray]] = {"logits": [], "fooled": [], "peak_loss": [], "iterations": []}
    nan_images = 0
    with inference(module) as device:
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            clean = torch.from_numpy(images[part]).permute(0, 3, 1, 2).contiguous().to(device)
            watched = Watched(module, torch.from_numpy(labels[part]).to(device), targeted, threat.keep_best)
            if threat.epsilon < _SMALLEST_BUDGET:
                result = images[part]
            else:
                with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                    adversarial, repaired = _attack_batch(watched, clean, threat, seed, start)
                nan_images += repaired
                result = adversarial.permute(0, 2, 3, 1).cpu().numpy()
            attacked[part] = project(images[part], result, threat)
            final = torch.from_numpy(attacked[part]).permute(0, 3, 1, 2).to(device)
            with torch.no_grad():
                seen["logits"].append(watched(final).cpu().numpy())
            seen["fooled"].append(watched.fooled.cpu().numpy())
            seen["peak_loss"].append(watched.peak_loss.cpu().numpy())
            seen["iterations"].append(watched.gradient_steps.cpu().numpy())
            if progress is not None:
                progress(min(start + batch_size, len(images)), len(images))
    joined = {name: np.concatenate(batches) for name, batches in seen.items()}
    return AttackResult(images=attacked, **joined, nan_images=nan_images)


@contextmanager
def inference(module: torch.nn.Module) -> Iterator[torch.device]:
    """Inference mode without parameter gradients; yields the module's device and restores every flag at the end."""
    training = [(child, child.training) for child in module.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    tensor = next(iter([*module.parameters(), *module.buffers()]), torch.empty(0))
    try:
        module.eval()
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        yield tensor.device
    finally:
        for child, flag in training:
            child.training = flag
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)


def logits_and_gradients(
    module: torch.nn.Module, images: np.ndarray, labels: np.ndarray, *, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, classes) and the gradient of the cross-entropy by the image, float32 (N, H, W, 3).

    Raises:
        InputError: as `attack`.
    """
    images, labels = _validated(module, images, labels, 0, batch_size)
    logits, gradients = [], []
    with inference(module) as device:
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            wanted = torch.from_numpy(labels[part]).to(device)
            pixels = torch.from_numpy(images[part]).permute(0, 3, 1, 2).contiguous().to(device).requires_grad_(True)
            outputs = Watched(module, wanted, False, False)(pixels)
            (gradient,) = torch.autograd.grad(_loss(outputs, wanted), pixels)
            logits.append(outputs.detach().cpu().numpy())
            gradients.append(gradient.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(logits), np.concatenate(gradients)


def logits_of(module: torch.nn.Module, images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
    """Logits (N, classes) of floating images (N, H, W, 3) in [0, 1], in inference mode.

    Raises:
        InputError: as `attack`.
    """
    images, labels = _validated(module, images, np.zeros(len(images), np.int64), 0, batch_size)
    logits = []
    with inference(module) as device, torch.no_grad():
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            watched = Watched(module, torch.from_numpy(labels[part]).to(device), False, False)
            logits.append(watched(torch.from_numpy(images[part]).permute(0, 3, 1, 2).to(device)).cpu().numpy())
    return np.concatenate(logits)


@functools.cache
def advertorch_attacks() -> types.ModuleType:
    """`advertorch.attacks` of Advertorch 0.2.3, which predates torch 1.9.

    Raises:
        InputError: Advertorch is not installed.
    """
    # By importlib: as an attribute, torch.autograd.gradcheck is the function of that name, not the module.
    gradcheck = importlib.import_module("torch.autograd.gradcheck")
    if not hasattr(gradcheck, "zero_gradients"):
        gradcheck.zero_gradients = _zero_gradients
    # Its package imports its defences, which need torchvision for one JPEG filter; no attack uses them.
    stand_in = importlib.util.find_spec("torchvision") is None and "advertorch.defenses" not in sys.modules
    if stand_in:
        sys.modules["advertorch.defenses"] = types.ModuleType("advertorch.defenses")
    try:
        return importlib.import_module("advertorch.attacks")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed; the attacks need it. Run: pip install advertorch==0.2.3."
        ) from error
    finally:
        if stand_in:
            del sys.modules["advertorch.defenses"]


def _zero_gradients(tensor: torch.Tensor) -> None:
    tensor.grad = None


_SMALLEST_BUDGET = 2.0**-24  # float32 cannot tell pixels apart that are closer
_loss = torch.nn.CrossEntropyLoss(reduction="sum")


def _attack_batch(
    watched: Watched, clean: torch.Tensor, threat: ThreatModel, seed: int, start: int
) -> tuple[torch.Tensor, int]:
    """Runs all restarts on one batch. Returns the iterate to report (NCHW) and the number of images repaired.

    A restart attacks again only what no run before it has fooled: more is not asked of a restart.
    """
    repaired = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    if threat.keep_best:
        with torch.no_grad():
            watched(clean)
    for restart in range(threat.restarts):
        torch.manual_seed(int(np.random.SeedSequence((seed, start, restart)).generate_state(1, np.uint64)[0]))
        rows = torch.arange(len(clean), device=clean.device) if restart == 0 else (~watched.fooled).nonzero().flatten()
        if not len(rows):
            break
        watched.rows = rows
        adversarial = _advertorch(watched, threat).perturb(clean[rows], watched.labels[rows])
        broken = ~torch.isfinite(adversarial).flatten(1).all(1)
        if broken.any():
            watched.rows = rows[broken]
            adversarial[broken] = _run_again(watched, clean[watched.rows], threat)
            repaired[watched.rows] = True
            watched.rows = rows
        if threat.keep_best:
            with torch.no_grad():
                watched(adversarial)
        watched.rows = None
    return (watched.best if threat.keep_best else adversarial), int(repaired.sum())


def _advertorch(watched: Watched, threat: ThreatModel):
    """The Advertorch attack object of a threat model; each class is given those arguments that it knows."""
    attack_class = getattr(advertorch_attacks(), threat.spec.advertorch_class)
    arguments = {
        "loss_fn": _loss,
        "eps": float(threat.epsilon),
        "eps_iter": float(threat.step),
        "nb_iter": threat.iterations,
        "rand_init": threat.random_start,
        "decay_factor": float(threat.decay),
        "clip_min": 0.0,
        "clip_max": 1.0,
        "targeted": watched.targeted,
    }
    known = inspect.signature(attack_class).parameters
    return attack_class(watched, **{name: value for name, value in arguments.items() if name in known})


def _run_again(watched: Watched, clean: torch.Tensor, threat: ThreatModel) -> torch.Tensor:
    """Attacks images (NCHW) that Advertorch returned as NaN; `watched.rows` says which of the batch they are.

    Equations 2 and 3 in L2 with Advertorch's order: step, projection to the ball, clipping to the box.
    """
    if not (threat.spec.momentum and threat.norm is Norm.L2):
        raise RuntimeError(f"Advertorch returned NaN for {threat.attack}, which it is not known to do.")
    utils = importlib.import_module("advertorch.utils")
    labels = watched.labels[watched.rows]
    delta, momentum = torch.zeros_like(clean), torch.zeros_like(clean)
    for _ in range(threat.iterations):
        iterate = (clean + delta).requires_grad_(True)
        loss = _loss(watched(iterate), labels) * (-1.0 if watched.targeted else 1.0)
        gradient = torch.autograd.grad(loss, iterate)[0].contiguous()
        momentum = threat.decay * momentum + utils.normalize_by_pnorm(gradient, p=1)
        delta = delta + threat.step * utils.normalize_by_pnorm(momentum, p=2)
        delta = utils.clamp_by_pnorm(delta, 2, float(threat.epsilon))
        delta = torch.clamp(clean + delta, 0.0, 1.0) - clean
    return clean + delta


def _validated(
    module: torch.nn.Module, images: np.ndarray, labels: np.ndarray, seed: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"the attacked model is a {type(module).__name__}; expected a torch module. Convert it by to_torch."
        )
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(f"images have shape {images.shape}; expected (N, H, W, 3), channels last.")
    if images.size == 0:
        raise InputError(f"images have shape {images.shape}: there is nothing to attack. Give at least one image.")
    images = np.ascontiguousarray(checked_pixels(images))
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; expected integers of shape ({len(images)},)."
        )
    if labels.min() < 0:
        raise InputError(f"label {labels.min()} is out of range; labels are class positions from 0.")
    for name, value, least in (("seed", seed, 0), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(f"{name} must be an integer >= {least}, got {value!r}.")
    return images, labels.astype(np.int64)
