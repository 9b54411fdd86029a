"""A z-buffer for textured triangles, vectorised: faces become rows of pixels, rows become pixels, the nearest wins, winners are shaded.

Spans are half open and every edge is walked from its upper end, so two faces that share an edge leave no gap and cover no pixel twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ....contract.scene import Camera, Mesh, Scene
from ..frames import place_mesh
from ..surfaces import sample, textured, unit_normals, vertex_colors
from .camera import expand, project, to_camera

_LIGHT = np.array([-0.35, 0.5, 0.79], np.float32)  # towards the light, in camera axes: a lamp above the viewer's left shoulder


@dataclass
class _Surface:
    """A placed mesh and its textures at half, quarter, ... size, made when first needed."""

    mesh: Mesh
    normals: np.ndarray
    levels: list[np.ndarray] = field(default_factory=list)

    def level(self, number: int) -> np.ndarray:
        while len(self.levels) <= number:
            last = self.levels[-1] if self.levels else None
            assert self.mesh.texture is not None
            self.levels.append(self.mesh.texture if last is None else _halved(last))
        return self.levels[number]


def _halved(texture: np.ndarray) -> np.ndarray:
    height, width = max(texture.shape[0] // 2, 1), max(texture.shape[1] // 2, 1)
    even = texture[: 2 * height, : 2 * width].astype(np.uint16)
    rows = even[0::2] + even[1::2] if even.shape[0] > 1 else 2 * even
    both = rows[:, 0::2] + rows[:, 1::2] if even.shape[1] > 1 else 2 * rows
    return ((both + 2) >> 2).astype(np.uint8)


class MeshRenderer:
    """Renders one scene (or mesh) from any number of cameras; what doesn't depend on the camera is done once."""

    def __init__(self, what: Scene | Mesh) -> None:
        things = [place_mesh(o.mesh, o.pose) for o in what.objects if o.mesh is not None] if isinstance(what, Scene) else [what]
        self.surfaces = [_Surface(mesh, unit_normals(mesh)) for mesh in things if len(mesh.faces)]
        counts = [len(s.mesh.vertices) for s in self.surfaces]
        starts = np.cumsum([0, *counts])
        self.first_face = np.cumsum([0, *(len(s.mesh.faces) for s in self.surfaces)])
        empty = [np.zeros((0, 3), np.float32)]
        self.vertices = np.concatenate([s.mesh.vertices for s in self.surfaces] or empty)
        self.normals = np.concatenate([s.normals for s in self.surfaces] or empty)
        self.faces = np.concatenate([s.mesh.faces.astype(np.int64) + start for s, start in zip(self.surfaces, starts)] or empty).astype(
            np.int64
        )
        self.first_vertex = starts

    def render(self, camera: Camera, width: int, height: int, *, shading: float = 0.4, supersample: int = 2) -> np.ndarray:
        """uint8 (height, width, 4), sRGB, straight alpha. shading: 0 shows the bare texture, 1 goes to black away from the lamp.
        supersample: rays per pixel side. Back faces aren't drawn; perspective drops faces that reach behind `znear`."""
        w, h = width * supersample, height * supersample
        points = to_camera(camera, self.vertices)
        xy, distance = project(camera, w, h, points)
        perspective = camera.kind == "perspective"
        corners = xy[self.faces].astype(np.float64)
        edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        area = edge1[:, 1] * edge2[:, 0] - edge1[:, 0] * edge2[:, 1]  # twice, positive for faces towards the camera (pixel y points down)
        visible = area > 1e-12
        if perspective:
            visible &= (distance[self.faces] > camera.znear).all(axis=1)
        shown = np.flatnonzero(visible)
        key = -1 / np.maximum(distance, camera.znear) if perspective else distance  # both affine in the picture, smaller is nearer
        winner, pixels = _nearest(corners[shown], key[self.faces[shown]].astype(np.float64), w, h)
        image = np.zeros((h * w, 4), np.float32)
        if len(pixels):
            face = shown[winner]
            image[pixels, :3] = self._shade(face, pixels, corners, area, distance if perspective else None, camera, w, shading)
            image[pixels, 3] = 1
        return _reduce(image.reshape(h, w, 4), supersample)

    def _shade(
        self,
        face: np.ndarray,
        pixels: np.ndarray,
        corners: np.ndarray,
        area: np.ndarray,
        distance: np.ndarray | None,
        camera: Camera,
        w: int,
        shading: float,
    ) -> np.ndarray:
        """(P, 3) float32 0..255: colour of `face` at each of `pixels`, lit."""
        weights = _barycentric(face, pixels, corners, area, w)
        index = self.faces[face]
        if distance is not None:  # perspective: what is linear on the surface is linear in the picture only after division by distance
            weights = weights / distance[index]
            weights /= weights.sum(axis=1, keepdims=True)
        colors = np.empty((len(pixels), 3), np.float32)
        owner = np.searchsorted(self.first_face, face, side="right") - 1
        for number, surface in enumerate(self.surfaces):
            mine = slice(None) if len(self.surfaces) == 1 else np.flatnonzero(owner == number)
            local = index[mine] - self.first_vertex[number]
            if textured(surface.mesh):
                uvs = _mix(surface.mesh.uvs, local, weights[mine])
                colors[mine] = self._texture(surface, uvs, face[mine], area)
            else:
                colors[mine] = _mix(vertex_colors(surface.mesh)[:, :3].astype(np.float32), local, weights[mine])
        if shading > 0:
            light = camera.pose.rotation_matrix() @ (_LIGHT / np.linalg.norm(_LIGHT))
            normal = _mix(self.normals, index, weights)
            lit = normal @ light.astype(np.float32) / np.maximum(np.linalg.norm(normal, axis=1), 1e-6)
            # Wrapped: the terminator lies beyond 90 degrees, so nothing turns black; full brightness a little before the lamp's direction.
            colors *= (1 - shading * (1 - np.clip((lit + 0.35) / 1.2, 0, 1)))[:, None]
        return colors

    def _texture(self, surface: _Surface, uvs: np.ndarray, face: np.ndarray, area: np.ndarray) -> np.ndarray:
        """The texture at uvs, from the level whose texels are about as large as pixels (one level for the whole surface)."""
        mesh = surface.mesh
        assert mesh.texture is not None and mesh.uvs is not None
        if mesh.sampler == "nearest":
            return sample(mesh.texture, uvs, nearest=True)
        seen = np.unique(face)
        uv = mesh.uvs[self.faces[seen] - self.first_vertex[np.searchsorted(self.first_face, seen[0], side="right") - 1]]
        size = np.array(mesh.texture.shape[1::-1])
        a, b = (uv[:, 1] - uv[:, 0]) * size, (uv[:, 2] - uv[:, 0]) * size
        texels, covered = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), area[seen].sum()
        level = round(0.5 * math.log2(max(texels / max(covered, 1e-9), 1)))
        return sample(surface.level(min(level, int(math.log2(size.min())))), uvs)


def _mix(values: np.ndarray, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Vertex values (V, C) at corners (P, 3), weighted -> (P, C)."""
    out = values[index[:, 0]] * weights[:, 0:1]
    out += values[index[:, 1]] * weights[:, 1:2]
    out += values[index[:, 2]] * weights[:, 2:3]
    return out


def _barycentric(face: np.ndarray, pixels: np.ndarray, corners: np.ndarray, area: np.ndarray, w: int) -> np.ndarray:
    """Weights (P, 3) float32 of the corners at pixel centres, kept inside the face."""
    p0, p1, p2 = (corners[:, i].astype(np.float32)[face] for i in range(3))
    x, y = (pixels % w + 0.5).astype(np.float32), (pixels // w + 0.5).astype(np.float32)
    scale = (1 / area).astype(np.float32)[face] if (area != 0).all() else (1 / np.where(area == 0, 1, area)).astype(np.float32)[face]
    second = np.clip(((y - p0[:, 1]) * (p2[:, 0] - p0[:, 0]) - (x - p0[:, 0]) * (p2[:, 1] - p0[:, 1])) * scale, 0, 1)
    third = np.clip(((p1[:, 1] - p0[:, 1]) * (x - p0[:, 0]) - (p1[:, 0] - p0[:, 0]) * (y - p0[:, 1])) * scale, 0, 1)
    first = np.clip(1 - second - third, 0, 1)
    weights = np.stack([first, second, third], axis=1)
    return weights / weights.sum(axis=1, keepdims=True)


def _nearest(corners: np.ndarray, key: np.ndarray, w: int, h: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces (F, 3, 2) in pixels with a depth key (F, 3) per corner -> (face of each covered pixel, its flat index), nearest only."""
    order = np.argsort(corners[:, :, 1], axis=1)[:, :, None]
    corner = np.take_along_axis(corners, order, axis=1)  # top to bottom: a, b, c
    xa, xb, xc, ya, yb, yc = (*corner[:, :, 0].T, *corner[:, :, 1].T)
    first = np.clip(np.ceil(ya - 0.5), 0, h).astype(np.int64)
    rows = np.maximum(np.clip(np.ceil(yc - 0.5), 0, h).astype(np.int64) - first, 0)
    face, step = expand(rows)
    y = (first[face] + step).astype(np.float64) + 0.5

    def slope(x0: np.ndarray, y0: np.ndarray, x1: np.ndarray, y1: np.ndarray) -> np.ndarray:
        return (x1 - x0) / np.where(y1 > y0, y1 - y0, 1)

    long = xa[face] + (y - ya[face]) * slope(xa, ya, xc, yc)[face]
    upper = y < yb[face]
    short = np.where(
        upper, xa[face] + (y - ya[face]) * slope(xa, ya, xb, yb)[face], xb[face] + (y - yb[face]) * slope(xb, yb, xc, yc)[face]
    )
    left = np.clip(np.ceil(np.minimum(long, short) - 0.5), 0, w).astype(np.int64)
    right = np.clip(np.ceil(np.maximum(long, short) - 0.5), 0, w).astype(np.int64)

    # The key as a plane over the picture: key = k0 + kx (x - x0) + ky (y - y0).
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    k1, k2 = key[:, 1] - key[:, 0], key[:, 2] - key[:, 0]
    area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    kx, ky = (k1 * e2[:, 1] - k2 * e1[:, 1]) / area, (k2 * e1[:, 0] - k1 * e2[:, 0]) / area
    start = key[face, 0] + kx[face] * (left + 0.5 - corners[face, 0, 0]) + ky[face] * (y - corners[face, 0, 1])
    # A face seen edge-on is steep: what rounding adds beyond its corners must not win over its neighbours.
    low, high = key.min(axis=1).astype(np.float32), key.max(axis=1).astype(np.float32)

    row, step = expand(np.maximum(right - left, 0))
    pixel = ((first[face] + _row_of(face, rows)) * w + left).astype(np.int32)[row] + step
    depth = start.astype(np.float32)[row] + kx[face].astype(np.float32)[row] * step.astype(np.float32)
    depth = np.clip(depth, low[face][row], high[face][row])
    nearest = np.full(w * h, np.inf, np.float32)
    np.minimum.at(nearest, pixel, depth)
    wins = depth == nearest[pixel]
    owner = np.full(w * h, -1, np.int32)
    owner[pixel[wins]] = face[row[wins]]
    covered = np.flatnonzero(owner >= 0)
    return owner[covered], covered


def _row_of(face: np.ndarray, rows: np.ndarray) -> np.ndarray:
    starts = np.cumsum(rows) - rows
    return np.arange(len(face)) - starts[face]


def _reduce(image: np.ndarray, factor: int) -> np.ndarray:
    """Premultiplied float (H f, W f, 4), colours 0..255 and alpha 0..1 -> uint8 (H, W, 4), straight alpha."""
    h, w = image.shape[0] // factor, image.shape[1] // factor
    mean = image.reshape(h, factor, w, factor, 4).mean(axis=(1, 3)) if factor > 1 else image
    alpha = mean[:, :, 3:]
    out = np.empty(mean.shape, np.uint8)
    out[:, :, :3] = np.clip(np.round(mean[:, :, :3] / np.maximum(alpha, 1e-6)), 0, 255)
    out[:, :, 3:] = np.round(alpha * 255)
    return out


def render_mesh(what: Scene | Mesh, camera: Camera, width: int, height: int, *, shading: float = 0.4, supersample: int = 2) -> np.ndarray:
    """One picture of a mesh, or of all meshes of a scene: uint8 (height, width, 4), sRGB, straight alpha. See MeshRenderer.render."""
    return MeshRenderer(what).render(camera, width, height, shading=shading, supersample=supersample)
