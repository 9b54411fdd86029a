"""Three objects whose colour is known at every point, as surfaces, as splats and as pictures: what baked textures are measured against.

Splats are like those of the released decoder: 32 for each voxel of the 64^3 grid that the surface meets, flat, of mixed sizes and
opacities, with a little colour noise; and, as there, a share of them lies below the surface with colours that no picture ever showed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from comfyui_sam3d.contract.rotations import rotation_quaternions
from comfyui_sam3d.contract.scene import SH_C0, Mesh, Splats
from comfyui_sam3d.worker.ops.cameras import Cameras, orbit, spherical_hammersley
from comfyui_sam3d.worker.ops.rasterise import Fragments, interpolate, rasterise
from comfyui_sam3d.worker.ops.splatting import splat
from scipy.ndimage import map_coordinates

BACKGROUND = 0.5
OUTLINE = 4  # pixels
FOV = math.radians(30)
LETTERS = (
    " ###   ##  #   #       ###  ###  ",
    "#     #  # ## ##          # #  # ",
    " ##   #### # # #        ##  #  # ",
    "   #  #  # #   #          # #  # ",
    "###   #  # #   #       ###  ###  ",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """field: points (N, 3) -> (N,), negative inside, about a distance near the surface; color: points on the surface (N, 3) -> (N, 3),
    sRGB 0..1."""

    field: Callable[[np.ndarray], np.ndarray]
    color: Callable[[np.ndarray], np.ndarray]

    def normals(self, points: np.ndarray) -> np.ndarray:
        step = 1e-4
        points = points + 1e-9  # no slope in the very middle of a ball
        slope = np.stack([self.field(points + step * axis) - self.field(points - step * axis) for axis in np.eye(3)], axis=1)
        unit: np.ndarray = slope / np.linalg.norm(slope, axis=1, keepdims=True)
        return unit

    def onto(self, points: np.ndarray) -> np.ndarray:
        """The points moved to the surface."""
        points = points.astype(np.float64)
        for _ in range(3):
            points = points - self.normals(points) * self.field(points)[:, None]
        return points

    def raw_mesh(self, cells: int = 128) -> tuple[np.ndarray, np.ndarray]:
        """Marching cubes over a cube of side 1.1: vertices float32 (V, 3), faces int64 (F, 3)."""
        from skimage.measure import marching_cubes

        axis = np.linspace(-0.55, 0.55, cells + 1)
        grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
        values = self.field(grid.reshape(-1, 3)).reshape(grid.shape[:3])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy 2.5 has something to say about scikit-image's code
            vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=(axis[1] - axis[0],) * 3)
        return (vertices + axis[0]).astype(np.float32), faces.astype(np.int64)

    def decimated(self, count: int, cells: int = 128) -> tuple[np.ndarray, np.ndarray]:
        vertices, faces = self.raw_mesh(cells)
        import fast_simplification

        vertices, faces = fast_simplification.simplify(vertices, faces.astype(np.int32), target_count=count)
        return vertices.astype(np.float32), faces.astype(np.int64)

    def colored(self, vertices: np.ndarray, faces: np.ndarray) -> Mesh:
        """The mesh with the true colour at every vertex: the original's default, at its best."""
        colors = np.full((len(vertices), 4), 255, np.uint8)
        colors[:, :3] = np.round(255 * self.color(self.onto(vertices)))
        return Mesh(vertices, faces.astype(np.uint32), vertex_colors=colors)

    def splats(self, per_voxel: int = 32, voxels: int = 64, hidden: float = 0.25, noise: float = 0.02, seed: int = 0) -> Splats:
        rng = np.random.default_rng(seed)
        vertices, faces = self.raw_mesh(2 * voxels)
        corners = vertices[faces].astype(np.float64)
        areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
        met = len(np.unique(np.floor(vertices * voxels).astype(int), axis=0))
        count = per_voxel * met
        weights = rng.dirichlet((1, 1, 1), 6 * count)
        points = (corners[rng.choice(len(faces), 6 * count, p=areas / areas.sum())] * weights[:, :, None]).sum(axis=1)
        # One of each cell that the surface meets (about 1.5 for its area in cells): evenly spread, as a decoder's are, not in clumps and
        # gaps.
        cell = np.sqrt(1.5 * areas.sum() / count)
        points = self.onto(points[np.unique(np.floor(points / cell).astype(int) @ (1 << 40, 1 << 20, 1), return_index=True)[1]])
        count = len(points)
        normals = self.normals(points)
        below = rng.random(count) < hidden
        colors = self.color(points) + rng.normal(0, noise, (count, 3))
        colors[below] = rng.random((int(below.sum()), 3))
        height = np.where(below, -rng.uniform(0.006, 0.02, count), rng.normal(0, 0.0012, count))
        tangent = np.cross(normals, rng.normal(size=(count, 3)))
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        turn = np.stack([tangent, np.cross(normals, tangent), normals], axis=2)
        scale = 0.0022 * np.sqrt(32 / per_voxel) * 64 / voxels
        scales = np.stack(
            [scale * rng.lognormal(0, 0.35, count), scale * rng.lognormal(0, 0.35, count), 0.0012 * rng.lognormal(0, 0.35, count)], axis=1
        )
        return Splats(
            (points + normals * height[:, None]).astype(np.float32),
            scales.astype(np.float32),
            rotation_quaternions(turn).astype(np.float32),
            rng.uniform(0.4, 0.98, count).astype(np.float32),
            ((np.clip(colors, 0, 1) - 0.5) / SH_C0)[:, None].astype(np.float32),
        )

    def pictures(self, cameras: Cameras, cells: int = 128) -> torch.Tensor:
        """The truth, (V, H, W, 3) float32 0..1 before a grey background, four rays a pixel: each pixel's point of the surface asked for
        its colour."""
        vertices, faces = self.raw_mesh(cells)

        def shade(fragments: Fragments) -> torch.Tensor:
            points = interpolate(torch.from_numpy(vertices), torch.from_numpy(faces), fragments)
            return torch.from_numpy(self.color(self.onto(points.numpy().reshape(-1, 3)))).float().view(points.shape)

        return _render(torch.from_numpy(vertices), torch.from_numpy(faces), cameras, shade)


def views(count: int, size: int, offset: tuple[float, float] = (0.5, 0.31)) -> Cameras:
    """Cameras around the object; the offset keeps them away from those that a baker chooses."""
    return orbit(*spherical_hammersley(count, offset), radius=2.2, fov=FOV, size=size)


def mesh_pictures(mesh: Mesh, cameras: Cameras) -> torch.Tensor:
    """(V, H, W, 3) float32 0..1: the mesh with its texture, looked up as glTF's readers do (linear, repeated), or with its vertex
    colours."""
    faces = torch.from_numpy(mesh.faces.astype(np.int64))

    def shade(fragments: Fragments) -> torch.Tensor:
        if mesh.texture is None:
            assert mesh.vertex_colors is not None
            return interpolate(torch.from_numpy(mesh.vertex_colors[:, :3].astype(np.float32)) / 255, faces, fragments)
        assert mesh.uvs is not None
        return lookup(mesh.texture, interpolate(torch.tensor(mesh.uvs), faces, fragments))

    return _render(torch.tensor(mesh.vertices), faces, cameras, shade)


def splat_pictures(splats: Splats, cameras: Cameras) -> torch.Tensor:
    arrays = (splats.positions, splats.scales, splats.rotations, splats.opacities, splats.colors().clip(0))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pictures = [
        splat(*(torch.tensor(array, device=device) for array in arrays), cameras[view], background=(BACKGROUND,) * 3).image
        for view in range(len(cameras))
    ]
    return torch.cat(pictures).clamp(0, 1).cpu()


def lookup(texture: np.ndarray, uvs: torch.Tensor) -> torch.Tensor:
    """Texture uint8 (H, W, 3) at UVs (..., 2), bilinear -> (..., 3) float32 0..1."""
    picture = torch.tensor(texture).permute(2, 0, 1)[None].float() / 255
    found = torch.nn.functional.grid_sample(picture, (2 * uvs - 1).view(1, 1, -1, 2), align_corners=False, padding_mode="border")
    return found[0, :, 0].T.reshape(*uvs.shape[:-1], 3)


def _render(vertices: torch.Tensor, faces: torch.Tensor, cameras: Cameras, shade: Callable[[Fragments], torch.Tensor]) -> torch.Tensor:
    pictures = []
    fine = cameras.resized(2 * cameras.height, 2 * cameras.width)
    for view in range(len(cameras)):
        fragments = rasterise(fine[view].project(vertices), faces, fine.height, fine.width)
        picture = torch.where(fragments.covered[..., None], shade(fragments), BACKGROUND)
        pictures.append(torch.nn.functional.avg_pool2d(picture.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))
    return torch.cat(pictures)


def shown(pictures: torch.Tensor) -> torch.Tensor:
    """bool (V, H, W): not the background."""
    return (pictures - BACKGROUND).abs().amax(-1) > 1e-3


def inside(*every: torch.Tensor) -> torch.Tensor:
    """bool (V, H, W): pixels that show the object in all of the pictures (V, H, W, 3), and not its outline, where splats are a little
    larger than the mesh."""
    both = torch.stack([shown(pictures) for pictures in every]).all(0)
    return -torch.nn.functional.max_pool2d(-both.float(), 2 * OUTLINE + 1, 1, OUTLINE) > 0


def psnr(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """Over the pixels `where`; by default where either picture shows the object, so that the background doesn't flatter."""
    return float(-10 * torch.log10((a - b)[shown(a) | shown(b) if where is None else where].square().mean()))


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    from skimage.metrics import structural_similarity

    return float(np.mean([structural_similarity(x.numpy(), y.numpy(), channel_axis=2, data_range=1.0) for x, y in zip(a, b)]))


SOFT = 0.004  # metres: half the width of an edge between two colours; splats of this size can't show a sharper one


def _step(distance: np.ndarray) -> np.ndarray:
    """0 for points well below an edge, 1 well above; distance (N,) in metres -> (N, 1)."""
    return np.clip(0.5 + distance / (2 * SOFT), 0, 1)[:, None]


def _wave(turns: np.ndarray, metres: np.ndarray | float) -> np.ndarray:
    """A square wave with soft edges, -1..1, (N, 1). metres: the length of one turn."""
    return 2 * _step(np.sin(2 * math.pi * turns) * metres / (2 * math.pi)) - 1


def _mix(share: np.ndarray, first: tuple[float, ...], second: tuple[float, ...]) -> np.ndarray:
    return share * np.array(first) + (1 - share) * np.array(second)


def _ball_color(p: np.ndarray) -> np.ndarray:
    """A checker on the upper half, stripes on the lower."""
    around, rise = np.arctan2(p[:, 0], p[:, 2]) / (2 * math.pi), np.arcsin(np.clip(p[:, 1] / np.linalg.norm(p, axis=1), -1, 1)) / math.pi
    checker = _wave(around * 8, 2 * math.pi * 0.42 / 8 * np.cos(rise * math.pi)) * _wave(rise * 7, math.pi * 0.42 / 7)
    up = _mix((checker + 1) / 2, (0.9, 0.25, 0.15), (0.95, 0.9, 0.8))
    down = _mix((_wave(rise * 10, math.pi * 0.42 / 10) + 1) / 2, (0.1, 0.35, 0.6), (0.2, 0.75, 0.55))
    share = _step(p[:, 1])
    return share * up + (1 - share) * down


def _ring_color(p: np.ndarray) -> np.ndarray:
    """A smooth gradient with dark letters around it, each dot of them 12 mm by 12 mm or so."""
    around = np.arctan2(p[:, 0], p[:, 2]) / (2 * math.pi) + 0.5
    about = np.arctan2(p[:, 1], np.hypot(p[:, 0], p[:, 2]) - 0.32) / (2 * math.pi) + 0.5
    base = 0.5 + 0.4 * np.stack([np.sin(2 * math.pi * (around + s)) * np.cos(2 * math.pi * about) for s in (0, 1 / 3, 2 / 3)], axis=1)
    fine = 4  # so that a letter's edge is a quarter of its dots wide
    letters = np.kron([[float(c == "#") for c in row] for row in LETTERS], np.ones((fine, fine)))
    letters = np.pad(letters, ((2, 2), (0, 0)))
    row, column = (0.65 - about) / 0.3 * len(letters) - 0.5, around * 4 % 1 * letters.shape[1] - 0.5
    ink = map_coordinates(letters, [row, column], order=1, mode="grid-wrap")
    ink = np.where((row > 0) & (row < len(letters) - 1), ink, 0)[:, None]
    return base * (1 - ink) + 0.05 * ink


def _blob_color(p: np.ndarray) -> np.ndarray:
    """Clouds of colour with spots."""
    clouds = 0.5 + 0.35 * np.stack(
        [np.sin(9 * p[:, 0] + 3 * p[:, 1]), np.sin(8 * p[:, 1] - 4 * p[:, 2]), np.cos(7 * p[:, 2] + 5 * p[:, 0])], axis=1
    )
    inside = _step(0.05 - np.linalg.norm((p * 7 % 1 - 0.5) / 7, axis=1))
    return inside * (0.98, 0.95, 0.3) + (1 - inside) * clouds


SHAPES = {
    "ball": Shape(lambda p: np.linalg.norm(p, axis=1) - 0.42, _ball_color),
    "ring": Shape(lambda p: np.hypot(np.hypot(p[:, 0], p[:, 2]) - 0.32, p[:, 1]) - 0.13, _ring_color),
    "blob": Shape(
        lambda p: 0.75 * (np.linalg.norm(p, axis=1) - 0.38 - 0.05 * np.sin(11 * p[:, 0]) * np.sin(9 * p[:, 1] + 1) * np.sin(10 * p[:, 2])),
        _blob_color,
    ),
}
