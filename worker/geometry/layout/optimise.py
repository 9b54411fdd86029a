"""Render and compare: rotation, translation and scale for which the silhouette is the mask (spec: postprocess.md section 8 step 4).

A small move about the object's own middle: v' = s * R(q) @ (v - c) + c + t, with column vectors (the pose's own quaternion turns rows). Stage A moves t and s, stage B
all three. The step itself (betas, bias correction, the drifting norm of q) is pinned by the golden kinds `layout_loss_grad` and `layout_steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .silhouette import RADIUS, SIGMA, Lens, soft_silhouette

MASK, TURN, SHIFT, SIZE = 200.0, 0.1, 0.05, 0.05  # weights of the loss
BETAS, EPSILON = (0.9, 0.999), 1e-8
SETTLED = 1e-5
STAGES = ((5, 1e-2, ("translation", "scale")), (25, 5e-3, ("quat", "translation", "scale")))  # steps, rate, what moves


class Move(NamedTuple):
    """quat: (4,) w first, of any length but 0; translation: (3,); scale: ()."""

    quat: Tensor
    translation: Tensor
    scale: Tensor

    @staticmethod
    def none(like: Tensor) -> Move:
        return Move(like.new_tensor([1.0, 0, 0, 0]), like.new_zeros(3), like.new_ones(()))

    def apply(self, points: Tensor, centre: Tensor) -> Tensor:
        """(N, 3) -> (N, 3), about `centre` (3,)."""
        return self.scale * (points - centre) @ rotation(self.quat).T + centre + self.translation


def rotation(quat: Tensor) -> Tensor:
    """(4,), w first, of any length -> (3, 3) for column vectors."""
    w, x, y, z = (quat / quat.norm()).unbind()
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries).view(3, 3)


@dataclass(frozen=True)
class View:
    """What is compared: vertices (V, 3) in camera axes, faces int64 (F, 3), the middle (3,), the mask (H, W) in [0, 1], and how it is drawn."""

    vertices: Tensor
    faces: Tensor
    centre: Tensor
    mask: Tensor
    lens: Lens
    radius: float
    sigma: float
    layers: int | None

    def silhouette(self, move: Move) -> Tensor:
        return soft_silhouette(move.apply(self.vertices, self.centre), self.faces, self.lens, self.radius, self.sigma, self.layers)

    @torch.no_grad()
    def iou(self, move: Move | None = None) -> float:
        """Of the hard silhouette and the mask, 0 where both are empty."""
        points = self.vertices if move is None else move.apply(self.vertices, self.centre)
        return iou(soft_silhouette(points, self.faces, self.lens, RADIUS, SIGMA), self.mask)


def iou(alpha: Tensor, mask: Tensor) -> float:
    """Intersection over union of what is above one half."""
    a, b = alpha > 0.5, mask > 0.5
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def terms(alpha: Tensor, mask: Tensor, move: Move) -> Tensor:
    """The loss's four parts, unweighted: mask, rotation, translation (a sum, whose gradient at 0 is 0), scale."""
    turned = move.quat / move.quat.norm() - move.quat.new_tensor([1.0, 0, 0, 0])
    return torch.stack([(alpha - mask).square().mean(), turned.square().mean(), move.translation.square().sum(), (move.scale - 1).square()])


def loss(alpha: Tensor, mask: Tensor, move: Move) -> Tensor:
    return (terms(alpha, mask, move) * alpha.new_tensor([MASK, TURN, SHIFT, SIZE])).sum()


class Adam:
    """Kingma and Ba (2015), as PyTorch has it. (torch.optim loads a compiler first: seconds.) first, second: its moments by name."""

    def __init__(self, rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}

    def step(self, values: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values that have a gradient, moved."""
        self.steps += 1
        (a, b), out = BETAS, dict(values)
        for name, gradient in gradients.items():
            self.first[name] = torch.lerp(self.first.get(name, torch.zeros_like(gradient)), gradient, 1 - a)
            self.second[name] = b * self.second.get(name, torch.zeros_like(gradient)) + (1 - b) * gradient * gradient
            spread = (self.second[name] / (1 - b**self.steps)).sqrt() + EPSILON
            out[name] = values[name] - self.rate / (1 - a**self.steps) * self.first[name] / spread
        return out


class Step(NamedTuple):
    """One step, for who watches: the loss before it, the gradients that it used, Adam's moments and the move after it, the rate."""

    loss: float
    gradients: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    move: Move
    rate: float


Watch = Callable[[Step], None]


def evaluate(view: View, move: Move, names: tuple[str, ...] = Move._fields) -> tuple[float, dict[str, Tensor]]:
    """The loss and its gradients with respect to the named parts of the move."""
    with torch.enable_grad():
        values = {name: value.detach().clone().requires_grad_(name in names) for name, value in move._asdict().items()}
        moved = Move(**values)
        total = loss(view.silhouette(moved), view.mask, moved)
        gradients = torch.autograd.grad(total, [values[name] for name in names])
    return float(total.detach()), dict(zip(names, gradients))


def optimise(view: View, watch: Watch = lambda step: None) -> tuple[Move, int]:
    """Both stages -> the move, how many steps it took. A stage ends early where the loss has settled."""
    move, before, taken = Move.none(view.vertices), float("inf"), 0
    for steps, rate, names in STAGES:
        move, before, count = stage(view, move, before, steps, rate, names, watch)
        taken += count
    return move, taken


def stage(
    view: View, move: Move, before: float, steps: int, rate: float, names: tuple[str, ...], watch: Watch = lambda step: None
) -> tuple[Move, float, int]:
    """One stage -> the move, the last loss, how many steps. before: the loss of the step before, which the first one is compared with."""
    adam = Adam(rate)
    for count in range(1, steps + 1):
        now, gradients = evaluate(view, move, names)
        move = Move(**adam.step(move._asdict(), gradients))
        watch(Step(now, gradients, dict(adam.first), dict(adam.second), move, rate))
        settled, before = abs(now - before) < SETTLED, now
        if settled:
            return move, before, count
    return move, before, steps
