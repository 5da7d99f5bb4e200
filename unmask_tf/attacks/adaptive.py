"""Attacks that know K: M is to be wrong, and K is to see the parts that M's wrong answer should have.

Every image is attacked towards every other class of the set, and the worst result is kept. M's gradients come from its
torch copy and K's from Keras; they meet in pixel space. Iterates are images of 8 bits, because that is what K sees
and what a file holds: the perturbation is kept as it is, rounded where M and K look at it, and the gradients pass the
rounding straight through. Whether an iterate is better than the best one so far is judged by the detector itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask_tf.attacks.pixels import grey_levels, inside, whole_levels
from unmask_tf.attacks.protocol import ATTACKS, Attack, AttackResult, Norm, Target, TargetParts, random_seed
from unmask_tf.attacks.results import gain
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.errors import InputError

SEARCHES = {"joint": 3, "margin": 3, "selective": 2, "orthogonal": 2, "parts": 2, "square": 2}
"""Which search an attack's is; it stands in the settings of steps, and is raised where attacked images change."""
M_SLACK = 1.0
"""By how much the target's logit must lead before M has no weight any more."""
M_WEIGHT = 4.0
"""How much longer M's gradient is than K's as long as it has weight: at small budgets M is what resists. Chosen among
1, 2, 4, 8 and 16 on validation images of two M's."""
MOMENTUM = 0.75
"""Share of the directions so far that a step keeps: the proposals, and with them the gradients, change from step to
step, and what they have in common is what counts."""


@dataclass(frozen=True)
class Gradients:
    """What a rule of descent is given, for L lanes (an image on its way to a target).

    Attributes:
        of_m, of_k: float32 (L, H, W, 3) of unit length in L2; zero where there is none.
        m_done: bool (L,), M answers the target, by `M_SLACK`.
    """

    of_m: np.ndarray
    of_k: np.ndarray
    m_done: np.ndarray


Rule = Callable[[Gradients], np.ndarray]


def joint(g: Gradients) -> np.ndarray:
    """The sum of both gradients, M's by `M_WEIGHT` the longer one; M has no weight once it answers the target."""
    return np.where(_each(g.m_done), 0.0, np.float32(M_WEIGHT) * g.of_m) + g.of_k


def selective(g: Gradients) -> np.ndarray:
    """M's gradient until it answers the target, then K's (Bryniarski et al., ICLR 2022, selective PGD)."""
    return np.where(_each(g.m_done), g.of_k, g.of_m)


def orthogonal(g: Gradients) -> np.ndarray:
    """As `selective`, less what would work against, or for, the other of the two (ibid., orthogonal PGD)."""
    along = (g.of_m * g.of_k).sum(axis=(1, 2, 3), keepdims=True)
    return np.where(_each(g.m_done), g.of_k - along * g.of_m, g.of_m - along * g.of_k)


def parts_alone(g: Gradients) -> np.ndarray:
    """K's gradient."""
    return g.of_k


@dataclass(frozen=True)
class Adaptive:
    """An attack along a rule of descent.

    Attributes:
        rule: from both gradients to a direction of descent.
        losses: names of functions of `part_losses`; the runs of an attack take turns.
        by_margin: what is kept is what a detector by the margin between the classes believes most
            (`alignment.margin_scores`), not one by the distance d.
    """

    rule: Rule
    losses: tuple[str, ...] = ("soft_jaccard", "hinges")
    by_margin: bool = False

    def __call__(
        self, target: Target, images: np.ndarray, labels: np.ndarray, budget: ThreatModel, seed: int, ids: Sequence[str]
    ) -> np.ndarray | AttackResult:
        """Raises: InputError: the target has no K, or the images are not of 8 bits; ValueError: a single class."""
        from unmask_tf.attacks import part_losses

        parts = target.parts
        if parts is None:
            raise InputError(f"{budget.attack} knows K, but the system under attack has none. Name its weights.")
        if len(parts.expected) < 2:
            raise ValueError("an attack on a class set needs at least two classes.")
        losses = [getattr(part_losses, name) for name in self.losses]
        module = None if self.rule is parts_alone else target.module
        return _Search(parts, module, images, labels, budget, self.rule, losses, self.by_margin).run(seed, ids)


def adaptive_attack(
    rule: Rule, norm: Norm, losses: tuple[str, ...] = ("soft_jaccard", "hinges"), by_margin: bool = False
) -> Attack:
    """An entry for a rule of descent."""
    knows = frozenset({"K"} if rule is parts_alone else {"M", "K"})
    return Attack(norm=norm, knows=knows, run=Adaptive(rule, losses, by_margin), gradient=True, random_start=True)


ATTACKS.update(
    {
        f"{name}_{norm.value}": adaptive_attack(rule, norm, by_margin=name == "margin")
        for name, rule in (
            ("joint", joint),
            ("margin", joint),
            ("selective", selective),
            ("orthogonal", orthogonal),
            ("parts", parts_alone),
        )
        for norm in (Norm.LINF, Norm.L2)
    }
)


class _Search:
    """The best attacked form of each of N images so far, and the descent that looks for better ones."""

    def __init__(
        self,
        parts: TargetParts,
        module: Any,
        images: np.ndarray,
        labels: np.ndarray,
        budget: ThreatModel,
        rule: Rule,
        losses: Sequence[Callable[..., Any]],
        by_margin: bool,
    ) -> None:
        self.parts, self.module, self.budget, self.rule, self.losses = parts, module, budget, rule, losses
        self.by_margin = by_margin
        self.clean, self.labels = images, np.asarray(labels)
        self.levels = whole_levels(images)
        n, classes = len(images), len(parts.expected)
        # Of every image a lane to each other class; -1: no part is to be seen.
        goals = [*range(classes)] if module is not None else [-1, *range(classes)]
        lanes = np.array([(row, goal) for row in range(n) for goal in goals if goal != labels[row]])
        self.rows, self.goals = lanes[:, 0], lanes[:, 1]
        self.wanted = np.where((self.goals >= 0)[:, None], np.where(parts.expected[self.goals], 1.0, -1.0), -1.0)
        self.wanted = self.wanted.astype(np.float32)
        self.best, self.best_value = images.copy(), np.full(n, -np.inf)
        self.best_logits = np.zeros((n, classes), np.float32)
        self.best_iteration, self.iterations = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.fooled, self.perfect = np.zeros(n, bool), np.zeros(n, bool)

    def run(self, seed: int, ids: Sequence[str]) -> np.ndarray | AttackResult:
        """Descends from the images themselves, then from random points of the budget; what is perfect is left alone."""
        for restart in range(self.budget.restarts):
            delta = np.zeros((len(self.rows), *self.clean.shape[1:]), np.float32)
            self.momentum = np.zeros_like(delta)
            if restart:
                for lane, (row, goal) in enumerate(zip(self.rows, self.goals, strict=True)):
                    delta[lane] = self._random(random_seed(seed, f"{ids[row]}\n{goal}", restart))
            for iteration in range(self.budget.iterations + 1):
                lanes = np.flatnonzero(~self.perfect[self.rows])
                if not len(lanes):
                    break
                loss = self.losses[restart % len(self.losses)]
                delta[lanes] = self._step(lanes, delta[lanes], loss, restart * self.budget.iterations + iteration)
            if self.budget.epsilon_255 == 0:
                break
        if self.module is None:
            return self.best
        return AttackResult(
            images=self.best,
            logits=self.best_logits,
            fooled=self.fooled,
            peak_loss=gain(self.best_logits, self.labels).astype(np.float32),
            nan=np.zeros(len(self.best), bool),
            iterations=self.iterations,
            best_iteration=self.best_iteration,
        )

    def _random(self, seed: int) -> np.ndarray:
        rng, shape = np.random.default_rng(seed), self.clean.shape[1:]
        if self.budget.norm is Norm.LINF:
            return rng.uniform(-1.0, 1.0, shape).astype(np.float32) * np.float32(self.budget.epsilon)
        direction = rng.standard_normal(shape)
        length = self.budget.epsilon * rng.uniform() / np.sqrt((direction**2).sum())
        return (direction * length).astype(np.float32)

    def _step(self, lanes: np.ndarray, delta: np.ndarray, loss: Callable[..., Any], iteration: int) -> np.ndarray:
        """Looks at the present images of some lanes and moves their perturbations one step on."""
        rows, clean = self.rows[lanes], self.clean[self.rows[lanes]]
        levels = grey_levels(self.levels[rows], delta, self.budget)
        images = levels.astype(np.float32) / np.float32(255)
        _, of_k, strongest = self.parts.gradients(images, loss, self.wanted[lanes])
        if self.module is None:
            logits, of_m, lead = None, np.zeros_like(of_k), np.zeros(len(lanes))
        else:
            logits, lead, of_m = _m_gradients(self.module, images, self.goals[lanes])
        self._keep(lanes, levels, images, logits, lead, strongest > 0, iteration)
        np.add.at(self.iterations, np.unique(rows), 1)
        self.momentum[lanes] *= np.float32(MOMENTUM)
        self.momentum[lanes] += self.rule(Gradients(_unit(of_m), _unit(of_k), lead >= M_SLACK)).astype(np.float32)
        down = self.momentum[lanes]
        down = np.sign(down) if self.budget.norm is Norm.LINF else _unit(down)
        return inside(clean, delta - np.float32(self.budget.step) * down, self.budget)

    def _keep(
        self,
        lanes: np.ndarray,
        levels: np.ndarray,
        images: np.ndarray,
        logits: np.ndarray | None,
        lead: np.ndarray,
        seen: np.ndarray,
        iteration: int,
    ) -> None:
        """Keeps what is better than an image's best so far; what looks so is shown to the detector itself."""
        rows = self.rows[lanes]
        promising = np.flatnonzero(self._values(rows, logits, lead, seen)[0] > self.best_value[rows])
        if logits is not None:
            self.fooled[rows[logits.argmax(axis=1) != self.labels[rows]]] = True
        if not len(promising):
            return
        some = None if logits is None else logits[promising]
        values, perfect = self._values(rows[promising], some, lead[promising], self.parts.seen(levels[promising]))
        for k in np.argsort(values, kind="stable"):
            row, lane = rows[promising[k]], promising[k]
            if values[k] > self.best_value[row]:
                self.best[row], self.best_value[row], self.perfect[row] = images[lane], values[k], perfect[k]
                self.best_iteration[row] = iteration
                if logits is not None:
                    self.best_logits[row] = logits[lane]

    def _values(
        self, rows: np.ndarray, logits: np.ndarray | None, lead: np.ndarray, seen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How good iterates are, higher is better, and whether nothing is left to gain.

        Of those that M gets wrong, the one with the lowest distance d, or the lowest margin, counts most; M right
        counts less than any. Where only K is attacked, UnMask's own answer takes the place of M's.
        """
        distances, labels = self.parts.distances(seen), self.labels[rows]
        if logits is None:
            further = _margins(distances, labels)
            return np.where(self.parts.best_fit(seen) != labels, 2.0, 0.0) + further, further >= 1.0
        answers = logits.argmax(axis=1)
        wrong, distance = answers != labels, distances[np.arange(len(rows)), answers]
        score = _margins(distances, answers) if self.by_margin else distance
        return np.where(wrong, 1.0 - score, -1.0 + np.tanh(0.1 * np.minimum(lead, 0.0))), wrong & (distance == 0.0)


def _margins(distances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """By how much a class's distance is above the least of another's: (N, C), (N,) -> float64 (N,)."""
    at, rest = np.arange(len(classes)), distances.copy()
    rest[at, classes] = np.inf
    return distances[at, classes] - rest.min(axis=1)


def _each(values: np.ndarray) -> np.ndarray:
    return values[:, None, None, None]


def _unit(gradients: np.ndarray) -> np.ndarray:
    """Each of unit L2 length, or zero."""
    lengths = np.sqrt(np.einsum("nhwc,nhwc->n", gradients, gradients))
    return gradients / _each(np.maximum(lengths, np.float32(1e-30)))


def _m_gradients(module: Any, images: np.ndarray, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """M's logits (L, C), the lead of the target's logit (L,), and the gradient of minus that by the image.

    Raises:
        InputError: M returns NaN or infinity.
    """
    import torch

    from unmask_tf.attacks.module import inference, nchw, nhwc

    found = []
    with inference(module) as device:
        for start in range(0, len(images), 32):
            part = slice(start, start + 32)
            pixels = nchw(images[part], device).requires_grad_(True)
            logits = module(pixels.contiguous(memory_format=torch.channels_last))
            if not torch.isfinite(logits).all():
                raise InputError("M returned NaN or infinity for finite images. Train or load it again.")
            goal = torch.from_numpy(goals[part]).to(device)[:, None]
            others = logits.scatter(1, goal, -torch.inf).amax(dim=1)
            lead = logits.gather(1, goal)[:, 0] - others
            (gradient,) = torch.autograd.grad(-lead.sum(), pixels)
            found.append((logits.detach().cpu().numpy(), lead.detach().cpu().numpy(), nhwc(gradient)))
    return tuple(np.concatenate(values) for values in zip(*found, strict=True))  # type: ignore[return-value]
