"""From a cut-out sprite to a coloured, closed surface: the inflated way and the voxel way (spec draft_engine.md 2.2 to 2.7).

Everything here is in pixels of a *coarse* cut-out (voxels: of their own grid); `Surface.unit` tells what one is in the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from . import back as backs
from .field import Field, cell_size, sample_field
from .height import laplacian, poisson, puffball, saturate, wall_heights
from .mask import COARSE_SIDE, MARGIN, SMOOTH_SIDE, Sprite, resample
from .planar import Planar, marching_squares
from .presets import Parameters
from .solid import BACK, FRONT, WALL, Solid, close, voxels
from .texture import LUMINANCE, Palette, Rim, atlas, bleed, enlarge, find_rim, keep_outline, over, palette, without_shading

Steps = Callable[[str], AbstractContextManager[None]]  # `with steps(stage):` times a stage and reports its end


@dataclass(frozen=True)
class Surface:
    """solid: pixels. chart: int64 (F,), which picture of the atlas a face uses. uvs: float (F, 3, 2), one for each corner of each face.

    left, top: where pixel (0, 0) begins in the picture; unit: picture pixels per pixel here. normals: smooth over all, breaking where parts meet,
    or one for each face. facts: for an object's info.
    """

    solid: Solid
    chart: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray
    left: float
    top: float
    unit: float
    normals: Literal["smooth", "crisp", "flat"]
    sampler: Literal["linear", "nearest"]
    facts: dict[str, Any]


def smooth_surface(source: Sprite, p: Parameters, back_image: np.ndarray | None, steps: Steps) -> Surface:
    pixel_art = source.pixel_art
    with steps("mesh"):
        side = max(source.pixels)
        at_most = max(p.texture, COARSE_SIDE) - 2 * MARGIN
        enlarge_by = -(-SMOOTH_SIDE // side) | 1  # odd: the middles of old pixels are middles of new ones, so their colours stay exact
        if side > at_most:
            sprite = resample(source, at_most)
        elif side < SMOOTH_SIDE and side * enlarge_by <= at_most:
            sprite = resample(source, side * enlarge_by, nearest=pixel_art)
        else:
            sprite = source
        colours = palette(sprite, max(1, round(sprite.longest / COARSE_SIDE)))
        rim = find_rim(colours, pixel_art=pixel_art)
        field, planar = _mesh_plane(sprite, colours, p)
        points = planar.points * field.cell + field.origin
    with steps("heights"):
        front, behind = _heights(planar, points, field, colours, rim, p)
        solid = close(planar, points, front, behind, wall=p.rim == "wall")
    with steps("texture"):
        charts, chart_of = _charts(sprite, colours, rim, p, back_image)
        texture = atlas(charts, p.texture, exact=p.texture_fixed, nearest=pixel_art)
        size = np.array(sprite.mask.shape[::-1]) / colours.factor
        chart = np.array([chart_of[FRONT], chart_of[BACK], chart_of[WALL]])[solid.part]
        uvs = (solid.positions[solid.faces][..., :2] * (1, -1)) / size
        uvs[..., 0] = (uvs[..., 0] + chart[:, None]) / len(charts)
    unit = colours.factor * sprite.zoom
    return Surface(
        solid,
        chart,
        uvs,
        texture,
        left=sprite.left,
        top=sprite.top,
        unit=unit,
        normals="crisp" if p.rim == "wall" else "smooth",
        sampler="nearest" if pixel_art else "linear",
        facts={"cells": round(colours.side / field.cell), "rescued": field.rescued, "outline_px": round(rim.outline * unit, 2)},
    )


def _mesh_plane(sprite: Sprite, colours: Palette, p: Parameters) -> tuple[Field, Planar]:
    """The planar mesh, coarsened until twice its triangles (and a wall's) keep the face budget."""
    depth = np.where(colours.mask, colours.depth + np.float32(0.5), 0)
    cell = cell_size(depth, colours.mask, colours.side, p.grid, fixed=p.grid_fixed)
    if not p.grid_fixed:  # nothing finer than half a source pixel is known
        cell = max(cell, 0.5 / sprite.zoom / colours.factor)
    if p.face_budget:
        cell = float(np.sqrt(4 * colours.mask.sum() / p.face_budget))
    for _ in range(6):
        field = sample_field(colours.coverage, colours.mask, depth, sprite.threshold, cell)
        planar = marching_squares(field.values, smooth=p.smooth_outline)
        faces = 2 * len(planar.triangles) + (4 * len(planar.following) if p.rim == "wall" else 0)
        if not p.face_budget or faces <= p.face_budget:
            break
        cell *= max(1.02, 1.01 * float(np.sqrt(faces / p.face_budget)))
    return field, planar


def _heights(planar: Planar, points: np.ndarray, field: Field, colours: Palette, rim: Rim, p: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Heights (V,) of the front and the back sheet, pixels."""
    system = laplacian(planar, points)
    squared = np.zeros(len(points))
    if p.profile == "round":
        squared[: planar.interior] = poisson(planar, field.cell, p.flatten, system)
    else:
        squared[: planar.interior] = puffball(planar, points, field.depth, field.cell, system)
    if p.rim == "wall":
        squared += wall_heights(planar, points, field.cell, max(rim.inset, 1.5), system, p.flatten)
    limit = p.max_thickness * colours.side / 2
    heights = saturate(p.thickness * np.sqrt(squared), limit, p.saturation_power)
    front = heights
    if p.relief > 0:
        front = heights * (1 + p.relief * _relief(points, colours, field.cell))
    return front, heights * p.back_depth


def _relief(points: np.ndarray, colours: Palette, cell: float) -> np.ndarray:
    """Luminance detail (V,), -1..1: what differs from its surroundings (sigma 3 % of the side), without what the grid can't hold."""
    light = colours.rgb @ LUMINANCE
    inside = colours.mask.astype(np.float32)
    sigma = 0.03 * colours.side
    around = ndimage.gaussian_filter(light * inside, sigma) / np.maximum(ndimage.gaussian_filter(inside, sigma), 1e-3)
    detail = (light - around) * inside
    deviation = float(detail[colours.mask].std())
    detail = ndimage.gaussian_filter(np.clip(detail / max(2 * deviation, 1e-3), -1, 1), 0.5 * cell)
    return ndimage.map_coordinates(detail, [points[:, 1] - 0.5, points[:, 0] - 0.5], order=1, mode="constant").astype(float)


def _charts(
    sprite: Sprite, colours: Palette, rim: Rim, p: Parameters, back_image: np.ndarray | None
) -> tuple[list[np.ndarray], dict[int, int]]:
    """Pictures of the atlas, uint8, all of the cut-out's size; and which of them each part uses."""
    bled, weight = bleed(colours, rim)
    original = without_shading(sprite.rgb, colours) if p.remove_shading else sprite.rgb
    shape = sprite.mask.shape
    if p.rim == "wall":
        charts = [over(original, *keep_outline(colours), colours.factor)]
    else:
        charts = [over(original, bled, weight, colours.factor)]
    chart_of = {FRONT: 0, BACK: 0, WALL: 0}
    if p.back != "mirror":
        chart_of[BACK] = len(charts)
        charts.append(enlarge(backs.paint(p.back, colours, rim, bled, back_image), colours.factor, shape))
    if p.rim == "wall":
        chart_of[WALL] = len(charts)
        charts.append(enlarge(bled, colours.factor, shape))
    return charts, chart_of


def voxel_surface(source: Sprite, p: Parameters, back_image: np.ndarray | None, steps: Steps) -> Surface:
    with steps("mesh"):
        side = max(source.pixels)
        own = source.pixel_art and not p.grid_fixed
        cells = side // source.block if own else min(p.grid, side)
        sprite = source if cells == side else resample(source, cells, nearest=own)
        shorter = min(n / sprite.zoom for n in source.pixels)
        depth = p.max_thickness * sprite.longest if p.max_thickness > 0 else max(1.0, 0.5 * shorter * p.thickness / 0.9)
    with steps("heights"):
        solid, owner = voxels(sprite.mask, depth, p.back_depth)
    with steps("texture"):
        height, width = sprite.mask.shape
        pictures = [sprite.rgb]
        if p.back != "mirror":
            colours = palette(sprite, 1)
            rim = Rim(0.0, 0.0)
            bled, _ = bleed(colours, rim)
            pictures.append(enlarge(backs.paint(p.back, colours, rim, bled, back_image), 1, (height, width)))
        # Each pixel becomes a block, so that readers which interpolate show it plain as well; a quad covers the block's middle.
        block = max(1, -(-SMOOTH_SIDE // max(height, width)))
        texture = np.concatenate(pictures, axis=1).repeat(block, 0).repeat(block, 1)
        corner = np.tile(np.array([(-0.3, 0.3), (0.3, 0.3), (0.3, -0.3), (-0.3, 0.3), (0.3, -0.3), (-0.3, -0.3)]), (len(owner) // 2, 1))
        middle = np.stack([owner % width, owner // width], 1) + 0.5
        chart = np.where(solid.part == BACK, len(pictures) - 1, 0)
        middle[:, 0] += width * chart
        uvs = (np.repeat(middle, 3, 0) + corner) / (width * len(pictures), height)
    return Surface(
        solid,
        chart,
        uvs.reshape(-1, 3, 2),
        np.ascontiguousarray(texture),
        left=sprite.left,
        top=sprite.top,
        unit=sprite.zoom,
        normals="flat",
        sampler="nearest",
        facts={"cells": round(sprite.longest), "depth_cells": round(depth, 2)},
    )
