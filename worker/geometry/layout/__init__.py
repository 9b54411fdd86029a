"""Layout refinement: an object's pose, brought onto its mask and the point map. `refine` is the one call. Needs torch: the draft engine doesn't import it."""

from __future__ import annotations

from .refine import RELEASED, Refined, RefineOptions, refine

__all__ = ["RELEASED", "RefineOptions", "Refined", "refine"]
