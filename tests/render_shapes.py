"""Corners, surfaces, Gaussians and cameras for the tests of the renderers in worker/ops."""

from __future__ import annotations

import numpy as np
import torch
from comfyui_sam3d.contract.scene import Splats
from comfyui_sam3d.worker.ops import rasterise
from comfyui_sam3d.worker.ops.cameras import Cameras

from geometry_shapes import globe


def corners(*points: tuple[float, ...]) -> torch.Tensor:
    """One view's corners: (x, y) or (x, y, depth)."""
    return torch.tensor([[*p, 1.0][:3] for p in points])[None]


def draw(screen: torch.Tensor, faces: object, size: int = 16, **options: object) -> rasterise.Fragments:
    return rasterise.rasterise(screen, torch.as_tensor(faces), size, size, **options)


def sphere(radius: float = 0.5, rows: int = 40, columns: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    mesh = globe(columns, rows)
    points = torch.tensor(mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True) * radius)
    return points.float(), torch.tensor(mesh.faces.astype(np.int64))


def looking_along_z(size: int = 21, focal: float = 30.0, **more: object) -> Cameras:
    """One camera at the origin of a world that has its axes."""
    return Cameras(torch.eye(4)[None], torch.full((1, 2), focal), torch.full((1, 2), size / 2), size, size, **more)


def gaussians(*rows: tuple[float, ...]) -> tuple[torch.Tensor, ...]:
    """(x, y, z, sigma, opacity, red, green, blue) each, round."""
    table = torch.tensor(rows, dtype=torch.float32)
    turn = torch.tensor([1.0, 0, 0, 0]).repeat(len(table), 1)
    return table[:, :3], table[:, 3:4].repeat(1, 3), turn, table[:, 4], table[:, 5:]


def some_splats(count: int = 300, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    turns = rng.normal(size=(count, 4))
    return Splats(
        positions=rng.uniform(-0.5, 0.5, (count, 3)).astype(np.float32),
        scales=rng.uniform(0.01, 0.08, (count, 3)).astype(np.float32),
        rotations=(turns / np.linalg.norm(turns, axis=1, keepdims=True)).astype(np.float32),
        opacities=rng.uniform(0.05, 0.99, count).astype(np.float32),
        sh=rng.uniform(-1.5, 1.5, (count, 1, 3)).astype(np.float32),
    )


def as_tensors(splats: Splats) -> tuple[torch.Tensor, ...]:
    colors = np.maximum(splats.colors(), 0)
    return tuple(torch.tensor(np.array(a)) for a in (splats.positions, splats.scales, splats.rotations, splats.opacities, colors))
