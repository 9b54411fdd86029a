"""Levels of detail: the same surface with fewer and fewer faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .decimate import decimate
from .topology import Array


@dataclass(frozen=True)
class Level:
    """One level: the budget that it was made for, vertices float64 (V, 3), faces int64 (F, 3), whether it keeps within the budget."""

    budget: int
    vertices: Array
    faces: Array
    reached: bool


def levels(vertices: Array, faces: Array, budgets: Sequence[int]) -> tuple[Level, ...]:
    """A level for each budget, in the order given, each made from the same mesh rather than from the level before: errors don't add up."""
    made = {}
    for budget in sorted(set(budgets), reverse=True):
        few = decimate(vertices, faces, budget)
        made[budget] = Level(budget, few.vertices, few.faces, few.reached)
    return tuple(made[budget] for budget in budgets)
