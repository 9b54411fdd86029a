"""From a request's options to the numbers in effect: quality, then preset, then whatever was given explicitly.

A preset stands for what an outline can't tell: whether the disc in the picture is an apple or a steak. `auto` therefore guesses
only where the picture itself decides (pixel art by its size and hard edges, a card by filling its rectangle) and says what it took.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...contract.request import ReconstructRequest
from .mask import PIXEL_ART_SIDE

# profile, largest thickness as a share of the longest side (0: no limit), sharpness of that limit, back
PRESETS: dict[str, tuple[str, float, float, str]] = {
    "prop": ("puffball", 0.30, 4.0, "mirror"),
    "figure": ("puffball", 0.45, 4.0, "contour"),
    "slab": ("round", 0.14, 6.0, "mirror"),
    "ball": ("round", 0.0, 4.0, "mirror"),
    "pixel": ("voxel", 0.0, 4.0, "mirror"),
}

# grid cells along the longest side, texture pixels along a chart's longest side, sprite pixels that splats resolve
QUALITIES: dict[str, tuple[int, int, int]] = {"fast": (64, 512, 256), "standard": (96, 1024, 512), "best": (160, 2048, 768)}


@dataclass(frozen=True)
class Parameters:
    """Everything that decides one object's result. Lengths are shares of the object's longest side unless a name says otherwise."""

    preset: str
    preset_reason: str  # "chosen", or why `auto` took it
    profile: str  # puffball, round, voxel
    rim: str  # round, wall
    back: str  # mirror, contour, solid, image, detail
    grid: int  # cells along the longest side
    grid_fixed: bool  # given by the user: thin shapes don't refine it
    texture: int  # longest side of a chart, pixels
    texture_fixed: bool  # given by the user: small sprites are enlarged to it
    thickness: float
    max_thickness: float  # 0: no limit
    saturation_power: float
    flatten: float
    back_depth: float
    relief: float
    keep: str
    hole_min: float
    smooth_outline: bool
    remove_shading: bool
    face_budget: int | None
    splat_side: int
    splat_target: int
    size: float  # metres
    pivot: str

    def describe(self) -> dict[str, Any]:
        """As JSON values, for an object's `info`."""
        return asdict(self)


def guess_preset(mask: np.ndarray, pixel_art: bool) -> tuple[str, str]:
    """(preset, reason) for a mask, bool (h, w), cropped to its bounding box. pixel_art: as `Sprite.pixel_art` says."""
    height, width = mask.shape
    if pixel_art:
        return "pixel", f"hard-edged and smaller than {PIXEL_ART_SIDE} pixels"
    # A circle fills 79 % of its box and a rounded card 96 %. Long rectangles are more often logs and planks than cards.
    if mask.mean() > 0.94 and max(height, width) < 2.5 * min(height, width):
        return "slab", "it fills its rectangle like a card"
    return "prop", "nothing in the outline says otherwise"


def texture_side(request: ReconstructRequest) -> int:
    """Pixels along a chart's longest side, at most."""
    return request.texture_wanted or QUALITIES[request.quality][1]


def resolve(request: ReconstructRequest, mask: np.ndarray, pixel_art: bool) -> Parameters:
    """The parameters in effect for one object of `request`; mask and pixel_art as for `guess_preset`."""
    draft = request.draft
    preset, reason = (draft.preset, "chosen") if draft.preset != "auto" else guess_preset(mask, pixel_art)
    profile, max_thickness, power, back = PRESETS[preset]
    grid, _, splat_side = QUALITIES[request.quality]
    return Parameters(
        preset=preset,
        preset_reason=reason,
        profile=draft.profile or profile,
        rim=draft.rim,
        back=draft.back or back,
        grid=draft.grid or grid,
        grid_fixed=draft.grid is not None,
        texture=texture_side(request),
        texture_fixed=request.texture_size is not None,
        thickness=0.9 if draft.thickness is None else draft.thickness,
        max_thickness=max_thickness if draft.max_thickness is None else draft.max_thickness,
        saturation_power=power,
        flatten=draft.flatten,
        back_depth=draft.back_depth,
        relief=draft.relief,
        keep=draft.keep,
        hole_min=draft.hole_min,
        smooth_outline=draft.smooth_outline,
        remove_shading=draft.remove_shading,
        face_budget=request.faces_wanted,
        splat_side=splat_side,
        splat_target=draft.splat_target,
        size=request.size,
        pivot=draft.pivot,
    )
