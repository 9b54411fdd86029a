"""Draft engine, splats: their form, and the gates of spec draft_engine.md section 5 seen through a renderer that knows nothing of the engine."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_sam3d.contract.rotations import rotation_matrices
from comfyui_sam3d.contract.scene import Scene, Splats
from comfyui_sam3d.worker.draft.splats import pieces, splat_surface
from comfyui_sam3d.worker.geometry.render import render_mesh, render_splats
from scipy import ndimage

from draft_shapes import examples, iou, picture, shape, solve

SPRITES = examples()


def matrices(q: np.ndarray) -> np.ndarray:
    w, x, y, z = q.T.astype(float)
    return np.stack([
        np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
        np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
        np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
    ], 1)  # fmt: skip


def test_pieces_tile_the_triangle() -> None:
    for n in range(4):
        split = pieces(n)
        assert split.shape == (4**n, 3, 3)
        flat = split[..., :2]
        one, two = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
        area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
        assert np.allclose(area, area[0]) and area.sum() == pytest.approx(1.0)
        assert np.allclose(split.sum(2), 1)


@pytest.mark.parametrize("seed", range(6))
def test_one_triangle_becomes_its_own_moments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.standard_normal((3, 3))
    texture = np.full((4, 4, 3), 77, np.uint8)
    splats = splat_surface(corners, np.array([[0, 1, 2]]), np.zeros(3, bool), np.full((1, 3, 2), 0.5), texture, 0, 1.0)
    edges = corners[[1, 2, 0]] - corners
    normal = np.cross(edges[0], edges[1])
    area = np.linalg.norm(normal) / 2
    normal /= 2 * area
    rotation = matrices(splats.rotations)[0]
    assert np.linalg.det(rotation) == pytest.approx(1.0) and rotation[:, 2] == pytest.approx(normal, abs=1e-5)
    thick = 0.1 * area**0.5
    covariance = rotation @ np.diag(splats.scales[0].astype(float) ** 2) @ rotation.T
    wanted = 1.5**2 * (edges.T @ edges) / 36 + thick**2 * np.outer(normal, normal)
    if splats.scales[0, 1] > 0.0501 * splats.scales[0, 0]:  # not floored
        assert covariance == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert splats.positions[0] == pytest.approx(corners.mean(0) - thick * normal, abs=1e-5)
    assert splats.colors()[0] == pytest.approx(77 / 255, abs=1e-5)
    assert splats.opacities[0] == pytest.approx(0.95)


def test_the_rim_is_narrower() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
    split = splat_surface(
        corners, np.array([[0, 1, 2]]), np.array([True, True, False]), np.zeros((1, 3, 2)), np.zeros((1, 1, 3), np.uint8), 1, 1.0
    )
    assert len(split.positions) == 4  # a triangle that faces the front has no layer below at the silhouette
    ratio = split.scales[:, 0] / split.scales[:, 0].max()
    # Corner pieces 0 and 1 and the middle one touch the edge that lies on the rim (its midpoint counts), the third corner doesn't.
    assert sorted(np.round(ratio, 3)) == [0.667, 0.667, 0.667, 1.0]


def test_splats_are_plain_values() -> None:
    scene = solve(shape("ring"), preset="figure")
    splats = scene.objects[0].splats
    assert isinstance(splats, Splats) and len(splats.positions) >= 20000
    assert np.abs(np.linalg.norm(splats.rotations, axis=1) - 1).max() < 1e-5
    assert (splats.scales > 0).all() and splats.scales.max() < 0.1
    assert splats.colors().min() > -1e-5 and splats.colors().max() < 1 + 1e-5
    many = solve(shape("ring"), preset="figure", splat_target=200000).objects[0].splats
    assert len(many.positions) >= 200000


def views(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The front at sprite resolution: unlit mesh and splats, RGBA float 0..1."""
    camera = scene.camera
    mesh = render_mesh(scene, camera, camera.width, camera.height, shading=0.0)
    splats = render_splats(scene, camera, camera.width, camera.height)
    return mesh / 255.0, splats / 255.0


@pytest.mark.parametrize(("name", "decibels"), [("lobes", 30), ("steak", 27), ("camper", 27), ("pixel_log", 27)])
def test_the_front_view_shows_the_sprite(name: str, decibels: float) -> None:
    if name == "lobes":
        y, x = (np.mgrid[:256, :256] + 0.5) / 256 - 0.5
        mask = np.hypot(x, y) < 0.33 + 0.08 * np.cos(5 * np.arctan2(y, x))
        scene = solve(mask, picture(mask))
    elif name == "pixel_log":
        image, mask, alpha = SPRITES[name]
        scene = solve(mask, image, alpha=alpha[None])
        scene = scene.replace(camera=scene.camera.replace(width=10 * mask.shape[1], height=10 * mask.shape[0]))
        mask = mask.repeat(10, 0).repeat(10, 1)
    else:
        image, mask, alpha = SPRITES[name]
        scene = solve(mask, image, alpha=alpha[None])
    mesh, splats = views(scene)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    deep = inside > 4
    assert splats[..., 3][deep].min() >= 0.9
    assert splats[..., 3][outside > 4].max() <= 0.05
    assert iou(splats[..., 3] >= 0.5, mask) >= 0.95
    noise = ((splats[deep][:, :3] - mesh[deep][:, :3]) ** 2).mean()
    assert 10 * np.log10(1 / noise) >= decibels


def test_pixel_art_keeps_its_depth() -> None:
    """A wall is cut into about square pieces first: no splat sticks out in front or behind."""
    image, mask, alpha = SPRITES["pixel_log"]
    thing = solve(mask, image, alpha=alpha[None]).objects[0]
    assert thing.mesh is not None and thing.splats is not None
    depth = np.abs(thing.mesh.vertices[:, 2]).max()
    pixel = np.ptp(thing.mesh.vertices[:, 0]) / np.ptp(np.nonzero(mask)[1])
    along = np.abs(rotation_matrices(thing.splats.rotations)[:, 2, :] * thing.splats.scales).max(1)
    assert (np.abs(thing.splats.positions[:, 2]) + along).max() < depth + 0.5 * pixel
