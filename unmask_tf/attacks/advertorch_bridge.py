"""Runs Advertorch's attacks on M's torch copy: NHWC float32 images in, NHWC float32 images out.

Advertorch holds no state that we rely on: it sees a function (`Watched`) that turns NCHW images into logits, and
everything around it (random starts, layout, best iterate, NaN repair, going on, final projection) is here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from unmask_tf.attacks.module import inference, nchw, nhwc, validated
from unmask_tf.attacks.pixels import project
from unmask_tf.attacks.protocol import AttackResult, Norm, Stop, pixel_ids, random_seed
from unmask_tf.attacks.results import continued
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.attacks.watched import Watched
from unmask_tf.errors import InputError


def attack(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    *,
    seed: int,
    ids: Sequence[str] | None = None,
    targeted: bool = False,
) -> AttackResult:
    """Attacks a batch of images with Advertorch (Section II-A, Equations 1 to 3; sum of cross-entropies, box [0, 1]).

    The module is attacked in inference mode; its training flags, its parameters' `requires_grad` and gradients and
    torch's global random state are left as they were. An image's random starts depend on (seed, its id, restart) alone.
    A budget below float32 resolution (2^-24) returns the images unchanged.

    NaN: Advertorch's L2 momentum attack projects by the factor eps * (delta / |delta|) / delta, taken per coordinate,
    which is 0 / 0 wherever a coordinate of delta is exactly 0 (its issue 105); such a coordinate turns the whole
    image into NaN one iteration later. Away from 0 that factor is the same for all coordinates, min(1, eps / |delta|),
    so an image that came back as NaN is attacked again by the same update with the factor taken per image. Nothing is
    invented (no noise, no small constant) and the other images keep Advertorch's own result.

    Args:
        module: torch module, NCHW float32 in [0, 1] -> logits (N, classes).
        images: floating (N, H, W, 3) in [0, 1].
        labels: integer (N,); true labels, or the targets if `targeted`.
        threat: an attack of Advertorch, its budget and effort.
        seed: >= 0.
        ids: one stable name per image; None: a digest of its pixels.
        targeted: minimise the loss of `labels` instead of maximising it.

    Raises:
        ValueError, TypeError: the arguments do not fit each other, or the module is not differentiable.
        InputError: images that are not floating or not in [0, 1]; the module returns NaN or infinity.
        RuntimeError: Advertorch left the budget or the box by more than rounding explains.
    """
    images, labels = validated(module, images, labels)
    ids = pixel_ids(images) if ids is None else ids
    if len(ids) != len(images):
        raise ValueError(f"there are {len(ids)} ids for {len(images)} images; give each image one.")

    def runs(batch: _Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, None]]:
        everything = torch.arange(len(images), device=batch.clean.device)
        if threat.keep_best:
            with torch.no_grad():
                batch.watched(batch.clean)
        for restart in range(threat.restarts):
            # A restart attacks again only what no run before it has fooled: more is not asked of a restart.
            rows = everything if restart == 0 else everything[~batch.watched.fooled]
            if not len(rows):
                return
            seeds = [random_seed(seed, ids[row], restart) for row in rows.tolist()]
            yield rows, batch.random_starts(rows, seeds), None

    return _attacked(module, images, labels, threat, targeted, runs)


def extend(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    result: AttackResult,
    *,
    targeted: bool = False,
) -> AttackResult:
    """The attack of `threat` with twice its iterations, from the result of its own: each run goes on where it stopped.

    With starts that do not depend on the iterations, twice the iterations follow the same path and then go on. So this
    is what running anew would give, but for one thing: where a later restart had fooled the model and now the first
    one does, the better of both is kept. PGD goes on by Advertorch's own code. Advertorch's momentum attack cannot
    start with a momentum, so it goes on by `_momentum_run`, the same update.

    Args:
        module, images, labels, targeted: as they were for `result`.
        threat: that of `result`.
        result: what `attack` or `extend` returned, with `stopped` in it.

    Raises:
        As `attack`; ValueError: the result does not say where the attack stopped, or is of other images.
    """
    images, labels = validated(module, images, labels)
    if not result.stopped or len(result.images) != len(images):
        raise ValueError(f"the result of {len(result.images)} images cannot go on, or not with {len(images)} images.")

    def runs(batch: _Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        device = batch.clean.device
        for stop in result.stopped:
            wanted = ~batch.watched.fooled.cpu().numpy()[stop.rows]
            if wanted.any():
                momentum = None if stop.momentum is None else nchw(stop.momentum[wanted], device)
                rows = torch.from_numpy(stop.rows[wanted]).to(device)
                yield rows, nchw(stop.delta[wanted], device), momentum

    then = _attacked(module, images, labels, threat, targeted, runs)
    return continued(result, then, labels, targeted=targeted, keep_best=threat.keep_best)


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


def _attacked(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    targeted: bool,
    runs: Callable[[_Batch], Iterator[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]]],
) -> AttackResult:
    """Makes the runs (rows, perturbations to start with, momentum) that a function yields, one after the other."""
    with inference(module) as device:
        watched = Watched(module, torch.from_numpy(labels).to(device), targeted, threat.keep_best)
        batch = _Batch(watched, nchw(images, device), threat)
        found, stopped = batch.clean, []
        if threat.epsilon >= _SMALLEST_BUDGET:
            for rows, start, momentum in runs(batch):
                found, stop = batch.run(rows, start, momentum)
                stopped += [] if stop is None else [stop]
        if watched.best is not None:
            found = watched.best
        adversarial = project(images, nhwc(found), threat)
        with torch.no_grad():
            logits = watched(nchw(adversarial, device)).cpu().numpy()
    return AttackResult(
        images=adversarial,
        logits=logits,
        fooled=watched.fooled.cpu().numpy(),
        peak_loss=watched.peak_loss.cpu().numpy(),
        nan=batch.nan.cpu().numpy(),
        iterations=watched.gradient_steps.cpu().numpy(),
        stopped=tuple(stopped),
    )


class _Batch:
    """Clean images (NCHW) under an attack."""

    def __init__(self, watched: Watched, clean: torch.Tensor, threat: ThreatModel) -> None:
        self.watched, self.clean, self.threat = watched, clean, threat
        self.nan = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)

    def random_starts(self, rows: torch.Tensor, seeds: list[int]) -> torch.Tensor | None:
        """Advertorch's own random perturbations, drawn for each image by itself (and on the CPU); None: it has none."""
        adversary = _advertorch(self.watched, self.threat)
        if not getattr(adversary, "rand_init", False):
            return None
        draw = importlib.import_module("advertorch.attacks.utils").rand_init_delta
        low, high = adversary.clip_min, adversary.clip_max
        clean, starts = self.clean[rows].cpu(), []
        with torch.random.fork_rng(devices=[]):
            for image, seed in zip(clean.split(1), seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                starts.append(draw(torch.zeros_like(image), image, adversary.ord, adversary.eps, low, high))
        start = torch.cat(starts)
        # Advertorch's classes cut to the box once more.
        return (torch.clamp(clean + start, low, high) - clean).to(self.clean.device)

    def run(
        self, rows: torch.Tensor, start: torch.Tensor | None, momentum: torch.Tensor | None
    ) -> tuple[torch.Tensor, Stop | None]:
        """One run of all iterations on some images, from given perturbations (None: as the attack begins).

        Returns their last iterates (NCHW), and where they stopped if the attack can go on.
        """
        attacks, adversary = advertorch_attacks(), _advertorch(self.watched, self.threat)
        clean, labels = self.clean[rows], self.watched.labels[rows]
        self.watched.rows = rows
        delta = None
        if isinstance(adversary, attacks.PGDAttack):
            adversarial, delta = _pgd(adversary, clean, labels, torch.zeros_like(clean) if start is None else start)
        elif momentum is not None:
            adversarial, delta, momentum = _momentum_run(self.watched, clean, self.threat, start, momentum)
        elif isinstance(adversary, attacks.MomentumIterativeAttack):
            adversarial, delta, momentum = self._momentum(adversary, clean, labels)
        else:
            adversarial = adversary.perturb(clean, labels)
        if not torch.isfinite(adversarial).all():
            raise RuntimeError(f"Advertorch returned NaN for {self.threat.attack}, which it is not known to do.")
        if self.threat.keep_best:
            with torch.no_grad():
                self.watched(adversarial)
        self.watched.rows = None
        if delta is None:
            return adversarial, None
        momentum = None if momentum is None else nhwc(momentum)
        return adversarial, Stop(rows.cpu().numpy(), nhwc(delta.detach()), momentum)

    def _momentum(
        self, adversary: Any, clean: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Advertorch's momentum attack from its beginning: last iterates, perturbations and momentum (NCHW)."""
        rows, utils = self.watched.rows, importlib.import_module("advertorch.utils")
        momentum = torch.zeros_like(clean)

        def accumulate(gradient: torch.Tensor) -> None:
            # As Advertorch does in its loop, where it cannot be got at.
            momentum.mul_(adversary.decay_factor).add_(utils.normalize_by_pnorm(gradient, p=1))

        self.watched.on_gradient = accumulate
        adversarial = adversary.perturb(clean, labels)
        self.watched.on_gradient = None
        delta = adversarial - clean
        broken = ~torch.isfinite(adversarial).flatten(1).all(1)
        if broken.any() and self.threat.norm is Norm.L2:
            self.watched.rows, nothing = rows[broken], torch.zeros_like(clean[broken])
            again = _momentum_run(self.watched, clean[broken], self.threat, nothing, nothing)
            adversarial[broken], delta[broken], momentum[broken] = again
            self.watched.rows = rows
            self.nan[rows[broken]] = True
        return adversarial, delta, momentum


def _advertorch(watched: Watched, threat: ThreatModel) -> Any:
    """The Advertorch attack object of a threat model; each class is given those arguments that it knows."""
    attack_class = getattr(advertorch_attacks(), _entry(threat).advertorch_class)
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


def _entry(threat: ThreatModel) -> Any:
    if not hasattr(threat.spec.run, "advertorch_class"):
        raise ValueError(f"{threat.attack} is no attack of Advertorch: run it by its entry in ATTACKS.")
    return threat.spec.run


def _pgd(
    adversary: Any, clean: torch.Tensor, labels: torch.Tensor, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """PGDAttack.perturb from a perturbation of our own; returns last iterates and perturbations (NCHW)."""
    iterate = importlib.import_module("advertorch.attacks.iterative_projected_gradient").perturb_iterative
    delta = torch.nn.Parameter(start)
    adversarial = iterate(
        clean,
        labels,
        adversary.predict,
        nb_iter=adversary.nb_iter,
        eps=adversary.eps,
        eps_iter=adversary.eps_iter,
        loss_fn=adversary.loss_fn,
        delta_init=delta,
        minimize=adversary.targeted,
        ord=adversary.ord,
        clip_min=adversary.clip_min,
        clip_max=adversary.clip_max,
        l1_sparsity=adversary.l1_sparsity,
    )
    return adversarial.data, delta.data


def _momentum_run(
    watched: Watched, clean: torch.Tensor, threat: ThreatModel, delta: torch.Tensor, momentum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Equations 2 and 3 with Advertorch's order: step, projection to the ball, clipping to the box.

    For images (NCHW) that Advertorch returned as NaN, and to go on from a perturbation and a momentum; `watched.rows`
    says which of the batch they are. Returns last iterates, perturbations and momentum.
    """
    utils, epsilon = importlib.import_module("advertorch.utils"), float(threat.epsilon)
    labels = watched.labels[watched.rows]
    for _ in range(threat.iterations):
        iterate = (clean + delta).requires_grad_(True)
        loss = _loss(watched(iterate), labels) * (-1.0 if watched.targeted else 1.0)
        gradient = torch.autograd.grad(loss, iterate)[0].contiguous()
        momentum = threat.decay * momentum + utils.normalize_by_pnorm(gradient, p=1)
        if threat.norm is Norm.LINF:
            delta = utils.batch_clamp(epsilon, delta + threat.step * torch.sign(momentum))
        else:
            delta = delta + threat.step * utils.normalize_by_pnorm(momentum, p=2)
            delta = utils.clamp_by_pnorm(delta, 2, epsilon)
        delta = torch.clamp(clean + delta, 0.0, 1.0) - clean
    return clean + delta, delta, momentum
