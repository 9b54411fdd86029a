"""Meshes for the tests and the benchmark of the clean-up: raw ones as the mesh decoder leaves them, small ones with one known fault.

A raw mesh comes from FlexiCubes on a band of active cubes around the surface of a known signed distance, as a network makes it: past the
inner edge of the band everything counts as outside, so there is a second, jagged surface within. Where the band has a gap, the two surfaces
are joined through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from comfyui_sam3d.worker.sam3d.flexicubes import extract_surface
from comfyui_sam3d.worker.sam3d.flexicubes_tables import CORNERS

SDF, COLOR = slice(0, 8), slice(53, 101)  # of a cube's 101 features
Distance = Callable[[np.ndarray], np.ndarray]  # (N, 3) -> (N,), negative inside


@dataclass(frozen=True)
class Raw:
    """vertices float32 (V, 3), faces int64 (F, 3), colors float32 (V, 3) sRGB in 0..1."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray


def ball(radius: float = 0.4, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Distance:
    return lambda p: np.linalg.norm(p - np.asarray(centre, p.dtype), axis=1) - np.float32(radius)


def torus(ring: float = 0.3, tube: float = 0.12) -> Distance:
    return lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]) - np.float32(ring), p[:, 2]) - np.float32(tube)


def union(*parts: Distance) -> Distance:
    return lambda p: np.minimum.reduce([part(p) for part in parts])


def bumpy(part: Distance, height: float = 0.006, waves: float = 40.0) -> Distance:
    return lambda p: part(p) + np.float32(height) * np.sin(waves * p[:, 0]) * np.sin(waves * p[:, 1] + 1) * np.sin(waves * p[:, 2] + 2)


def halves(points: np.ndarray) -> np.ndarray:
    """Red where x > 0, blue where it isn't, float32 (N, 3)."""
    return np.where(points[:, :1] > 0, np.float32([0.9, 0.1, 0.1]), np.float32([0.1, 0.1, 0.9])).astype(np.float32)


def raw_mesh(
    distance: Distance, resolution: int, *, band: float = 2.5, gaps: Distance | None = None, dust: int = 0, noise: float = 0.0,
    paint: Callable[[np.ndarray], np.ndarray] = halves, seed: int = 0,
) -> Raw:  # fmt: skip
    """FlexiCubes' surface at R = resolution of what is known of `distance` within `band` cubes of its zero.

    gaps: cubes where this is negative aren't active (a network that missed a spot). dust: that many floaters, specks anywhere.
    noise: standard deviation of the distance's error, in cubes.
    """
    rng = np.random.default_rng(seed)
    axis = np.arange(resolution, dtype=np.int32)
    cubes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    centre = ((cubes + 0.5) / resolution - 0.5).astype(np.float32)
    active = np.abs(distance(centre)) < band / resolution
    if gaps is not None:
        active &= gaps(centre) >= 0
    cubes = cubes[active]
    corners = cubes[:, None] + np.asarray(CORNERS, np.int32)
    points = (corners.reshape(-1, 3) / resolution - 0.5).astype(np.float32)
    sdf = distance(points)
    if noise:
        error = rng.normal(0, noise / resolution, (resolution + 1,) * 3).astype(np.float32)
        sdf = sdf + error[tuple(corners.reshape(-1, 3).T)]
    colors = np.clip(paint(points), 0.02, 0.98)
    features = torch.zeros(len(cubes), 101)
    features[:, SDF] = torch.from_numpy(sdf.reshape(-1, 8)).float() + 1 / resolution
    features[:, COLOR] = torch.from_numpy(np.concatenate([np.log(colors / (1 - colors)), 0 * colors], axis=1).reshape(-1, 48)).float()
    made = extract_surface(torch.from_numpy(cubes), features, resolution)
    parts = [Raw(made.vertices.numpy(), made.faces.numpy(), made.attributes[:, :3].numpy())]
    for _ in range(dust):
        speck = octahedron(float(rng.uniform(0.3, 1.2)) / resolution)
        at = rng.uniform(-0.48, 0.48, 3).astype(np.float32)
        parts.append(Raw(speck.vertices + at, speck.faces, speck.colors))
    return joined(*parts)


def octahedron(radius: float = 0.1) -> Raw:
    vertices = np.float32([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * np.float32(radius)
    faces = np.int64([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    return Raw(vertices, faces, np.full((6, 3), 0.5, np.float32))


def joined(*parts: Raw) -> Raw:
    """The meshes beside each other, nothing welded."""
    begin = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return Raw(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + at for part, at in zip(parts, begin)]),
        np.concatenate([part.colors for part in parts]),
    )


def box(low: tuple[float, float, float] = (0, 0, 0), high: tuple[float, float, float] = (1, 1, 1)) -> Raw:
    """12 faces, outwards."""
    corners = np.float32([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.int64([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    vertices = np.float32(low) + corners * (np.float32(high) - np.float32(low))
    return Raw(vertices, faces, np.full((8, 3), 0.5, np.float32))


def sphere(rings: int = 16, radius: float = 0.4, centre: tuple[float, float, float] = (0, 0, 0)) -> Raw:
    """A closed sphere of about 4 rings^2 faces, outwards, painted by `halves`."""
    columns = 2 * rings
    down, around = np.meshgrid(np.pi * np.arange(1, rings) / rings, 2 * np.pi * np.arange(columns) / columns, indexing="ij")
    body = np.stack([np.sin(down) * np.cos(around), np.sin(down) * np.sin(around), np.cos(down)], axis=-1).reshape(-1, 3)
    points = np.concatenate([body, [[0, 0, 1], [0, 0, -1]]])
    top, bottom, j = len(body), len(body) + 1, np.arange(columns)
    after, last = (j + 1) % columns, (rings - 2) * columns
    faces = [np.stack([np.full(columns, top), j, after], 1), np.stack([last + j, np.full(columns, bottom), last + after], 1)]
    for ring in range(rings - 2):
        a, b, c, d = ring * columns + j, (ring + 1) * columns + j, (ring + 1) * columns + after, ring * columns + after
        faces += [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    vertices = (points * radius + np.asarray(centre)).astype(np.float32)
    return Raw(vertices, np.concatenate(faces).astype(np.int64), halves(points))


def inside_out(mesh: Raw) -> Raw:
    return Raw(mesh.vertices, mesh.faces[:, ::-1], mesh.colors)


def without(mesh: Raw, gone: np.ndarray) -> Raw:
    """Without the faces of `gone` bool (F,); vertices stay."""
    return Raw(mesh.vertices, mesh.faces[~gone], mesh.colors)
