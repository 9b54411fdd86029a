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

_LIGHT = np.array([-0.35, 0.5, 0.79]) / 0.9985  # unit, towards the light, in camera axes: a lamp above the viewer's left shoulder
_NONE = np.zeros((0, 3), np.float32)
_CLAY, _INK = np.array([222, 219, 214], np.float32), np.array([38, 58, 92], np.float32)  # of wireframes


class MeshRenderer:
    """Renders one scene (or mesh) from any number of cameras; what doesn't depend on the camera is done once."""

    def __init__(self, what: Scene | Mesh) -> None:
        things = [place_mesh(o.mesh, o.pose) for o in what.objects if o.mesh is not None] if isinstance(what, Scene) else [what]
        self.surfaces = [_Surface(mesh) for mesh in things if len(mesh.faces)]
        vertices, normals, values, faces, count = [_NONE], [_NONE], [_NONE], [_NONE.astype(np.int64)], 0
        for surface in self.surfaces:
            mesh = surface.mesh
            vertices.append(mesh.vertices)
            normals.append(unit_normals(mesh))
            values.append(np.pad(mesh.uvs, ((0, 0), (0, 1))) if textured(mesh) else vertex_colors(mesh)[:, :3].astype(np.float32))
            faces.append(mesh.faces.astype(np.int64) + count)
            count += len(mesh.vertices)
        self.vertices, self.normals, self.faces = np.concatenate(vertices), np.concatenate(normals), np.concatenate(faces)
        self.values = np.concatenate(values)  # per vertex: u, v, 0 where a texture gives the colour, else r, g, b
        self.owner = np.repeat(np.arange(len(self.surfaces)), [len(s.mesh.faces) for s in self.surfaces])  # of each face

    def render(self, camera: Camera, width: int, height: int, *, shading: float = 0.4, supersample: int = 2) -> np.ndarray:
        """uint8 (height, width, 4), sRGB, straight alpha. shading: 0 shows the bare texture, 1 goes to black away from the lamp.
        supersample: rays per pixel side. Back faces aren't drawn; perspective drops faces that reach behind `znear`."""
        seen = self._see(camera, width * supersample, height * supersample)
        mixed = seen.mix(np.column_stack([self.values, self._cosines(camera)]))
        return seen.picture(self._colors(mixed, seen) * _lit(mixed[:, 3:], shading), supersample)

    def render_normals(self, camera: Camera, width: int, height: int, *, supersample: int = 2) -> np.ndarray:
        """As `render`, the surface's direction in camera axes as a colour: red to the right, green up, blue towards the camera; -1..1 is 0..255."""
        seen = self._see(camera, width * supersample, height * supersample)
        mixed = seen.mix(self.normals @ camera.pose.rotation_matrix().astype(np.float32))
        mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9)
        return seen.picture((mixed + 1) * np.float32(127.5), supersample)

    def render_wireframe(self, camera: Camera, width: int, height: int, *, line: float = 0.8, supersample: int = 2) -> np.ndarray:
        """As `render`, in clay, with the edges of the faces that look this way; line: their width in pixels."""
        seen = self._see(camera, width * supersample, height * supersample)
        lit = _lit(seen.mix(self._cosines(camera)[:, None]), 0.45)
        ink = np.clip(0.5 * line * supersample + 0.5 - seen.edge_distance(), 0, 1)[:, None]
        return seen.picture(lit * _CLAY * (1 - ink) + _INK * ink, supersample)

    def _cosines(self, camera: Camera) -> np.ndarray:
        return self.normals @ (camera.pose.rotation_matrix() @ _LIGHT).astype(np.float32)

    def _see(self, camera: Camera, w: int, h: int) -> _Seen:
        """What is in front at each pixel of a w x h picture."""
        xy, distance = project(camera, w, h, to_camera(camera, self.vertices))
        corners = xy[self.faces].astype(np.float64)
        edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        area = edge1[:, 1] * edge2[:, 0] - edge1[:, 0] * edge2[:, 1]  # twice, positive for faces towards the camera (pixel y points down)
        visible = area > 1e-12
        if camera.kind == "perspective":
            visible &= (distance[self.faces] > camera.znear).all(axis=1)
            nearness = 1 / np.maximum(distance, camera.znear)  # affine in the picture, as the distance is without perspective
        else:
            nearness = -distance
        shown = np.flatnonzero(visible)
        corners, area, faces = corners[shown], area[shown], self.faces[shown]
        face, pixels = _nearest(corners, nearness[faces].astype(np.float64), w, h)
        return _Seen(w, h, faces, shown, corners, area, face, pixels, nearness if camera.kind == "perspective" else None)

    def _colors(self, mixed: np.ndarray, seen: _Seen) -> np.ndarray:
        """(P, 3) float32 0..255, unlit."""
        colors = np.ascontiguousarray(mixed[:, :3])
        owner = self.owner[seen.shown]
        for number, surface in enumerate(self.surfaces):
            if textured(surface.mesh):
                theirs = owner == number
                mine = np.flatnonzero(theirs[seen.face])
                if len(mine):
                    uvs = mixed[:, :2] if len(mine) == len(mixed) else mixed[mine, :2]
                    colors[mine] = surface.sample(self.values[self.faces[seen.shown[theirs]], :2], seen.area[theirs], uvs)
        return colors


@dataclass
class _Seen:
    """A picture before it has colours. faces (F, 3): those that look this way, rows `shown` of all; corners (F, 3, 2) px, area (F,) twice theirs; face (P,): which
    of them is in front at each covered pixel, pixels (P,): flat indices. nearness: of each vertex, where what is affine on the surface isn't so in the picture."""

    w: int
    h: int
    faces: np.ndarray
    shown: np.ndarray
    corners: np.ndarray
    area: np.ndarray
    face: np.ndarray
    pixels: np.ndarray
    nearness: np.ndarray | None

    def mix(self, table: np.ndarray) -> np.ndarray:
        """Values of vertices (V, C) -> of pixels (P, C) float32."""
        if self.nearness is None:
            return _interpolate(table[self.faces], self.corners, self.area, self.face, self.pixels, self.w)
        over = np.column_stack([table, np.ones(len(table), np.float32)]) * self.nearness[:, None]  # affine in the picture again
        mixed = _interpolate(over[self.faces], self.corners, self.area, self.face, self.pixels, self.w)
        return mixed[:, :-1] / mixed[:, -1:]

    def edge_distance(self) -> np.ndarray:
        """How far each pixel's centre lies from the nearest edge of its face, in pixels (P,)."""
        shares = _interpolate(
            np.broadcast_to(np.eye(3, dtype=np.float32), (len(self.faces), 3, 3)), self.corners, self.area, self.face, self.pixels, self.w
        )
        opposite = np.linalg.norm(self.corners[:, [2, 0, 1]] - self.corners[:, [1, 2, 0]], axis=2)  # of each corner
        heights = (self.area[:, None] / np.maximum(opposite, 1e-12)).astype(np.float32)
        return np.asarray((shares * heights[self.face]).min(axis=1))

    def picture(self, colors: np.ndarray, supersample: int) -> np.ndarray:
        """Colours of pixels (P, 3) 0..255 -> uint8 (h, w, 4) / supersample."""
        image = np.zeros((self.h * self.w, 4), np.float32)
        image[self.pixels, :3] = colors
        image[self.pixels, 3] = 1
        return _reduce(image.reshape(self.h, self.w, 4), supersample)


@dataclass
class _Surface:
    """A placed mesh and its texture at full, half, quarter, ... size, each made when first needed."""

    mesh: Mesh
    levels: list[np.ndarray] = field(default_factory=list)

    def sample(self, face_uvs: np.ndarray, face_areas: np.ndarray, uvs: np.ndarray) -> np.ndarray:
        """The texture at uvs (P, 2), from the level whose texels are about as large as pixels: one level for the whole surface,
        from the UVs (F, 3, 2) and twice the areas (F,) in pixels of the faces that look this way."""
        texture = self.mesh.texture
        assert texture is not None
        if self.mesh.sampler == "nearest":
            return sample(texture, uvs, nearest=True)
        size = np.array(texture.shape[1::-1])
        a, b = (face_uvs[:, 1] - face_uvs[:, 0]) * size, (face_uvs[:, 2] - face_uvs[:, 0]) * size
        texels = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
        level = round(0.5 * math.log2(max(texels / max(face_areas.sum(), 1e-9), 1)))
        self.levels = self.levels or [texture]
        while len(self.levels) <= min(level, int(math.log2(size.min()))):
            self.levels.append(_halved(self.levels[-1]))
        return sample(self.levels[min(level, len(self.levels) - 1)], uvs)


def _halved(texture: np.ndarray) -> np.ndarray:
    height, width = texture.shape[0] // 2, texture.shape[1] // 2
    even = texture[: 2 * height, : 2 * width].astype(np.uint16)
    rows = even[0::2] + even[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)


def _lit(cosine: np.ndarray, shading: float) -> np.ndarray:
    """Brightness from the cosine between normal and lamp. Wrapped: the shadow begins beyond 90 degrees, so nothing turns black, and full
    brightness is reached a little before the lamp's direction."""
    return 1 - np.float32(shading) * (1 - np.clip((cosine + np.float32(0.35)) / np.float32(1.2), 0, 1))


def _interpolate(table: np.ndarray, corners: np.ndarray, area: np.ndarray, face: np.ndarray, pixels: np.ndarray, w: int) -> np.ndarray:
    """Corner values (F, 3, C) at the pixel centres that the faces won -> (P, C) float32. Never outside the corners' values."""
    first, edge1, edge2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    planes = np.stack([edge1[:, 1], -edge1[:, 0], -edge2[:, 1], edge2[:, 0]], axis=1) / area[:, None]
    rows = np.concatenate([first, planes], axis=1).astype(np.float32).take(face, axis=0)
    dx = (pixels % w).astype(np.float32) + np.float32(0.5) - rows[:, 0]
    dy = (pixels // w).astype(np.float32) + np.float32(0.5) - rows[:, 1]
    third = np.clip(rows[:, 2] * dx + rows[:, 3] * dy, 0, 1)
    second = np.clip(rows[:, 4] * dx + rows[:, 5] * dy, 0, 1 - third)
    table = table.astype(np.float32)
    mixed = table[:, 0].take(face, axis=0)
    mixed += (table[:, 1] - table[:, 0]).take(face, axis=0) * second[:, None]
    mixed += (table[:, 2] - table[:, 0]).take(face, axis=0) * third[:, None]
    return mixed


def _nearest(corners: np.ndarray, key: np.ndarray, w: int, h: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces (F, 3, 2) in pixels with a nearness (F, 3) per corner -> (face of each covered pixel, its flat index), nearest only."""
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
    nearest = np.full(w * h, -np.inf, np.float32)
    np.maximum.at(nearest, pixel, depth)
    wins = depth == nearest[pixel]
    owner = np.full(w * h, -1, np.int32)
    owner[pixel[wins]] = face[row[wins]]
    covered = np.flatnonzero(owner >= 0)
    return owner[covered], covered


def _row_of(face: np.ndarray, rows: np.ndarray) -> np.ndarray:
    starts = np.cumsum(rows) - rows
    return np.arange(len(face)) - starts[face]


def _reduce(image: np.ndarray, factor: int) -> np.ndarray:
    """Premultiplied float32 (H f, W f, 4), colours 0..255 and alpha 0..1 -> uint8 (H, W, 4), straight alpha."""
    total = np.zeros((image.shape[0] // factor, image.shape[1] // factor, 4), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += image[row::factor, column::factor]
    covered = total[:, :, 3:]
    total[:, :, :3] /= np.maximum(covered, 1)
    total[:, :, 3:] = covered * np.float32(255 / factor**2)
    return np.clip(np.round(total), 0, 255).astype(np.uint8)


def render_mesh(what: Scene | Mesh, camera: Camera, width: int, height: int, *, shading: float = 0.4, supersample: int = 2) -> np.ndarray:
    """One picture of a mesh, or of all meshes of a scene: uint8 (height, width, 4), sRGB, straight alpha. See MeshRenderer.render."""
    return MeshRenderer(what).render(camera, width, height, shading=shading, supersample=supersample)
