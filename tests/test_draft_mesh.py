"""Draft engine, geometry: the quality gates of spec draft_engine.md section 3 on the shapes it names and on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_sam3d.worker.draft.field import cell_size, sample_field
from comfyui_sam3d.worker.draft.height import laplacian, poisson, puffball, saturate
from comfyui_sam3d.worker.draft.mask import cut, distance_inside
from comfyui_sam3d.worker.draft.planar import Planar, marching_squares
from comfyui_sam3d.worker.draft.solid import Solid, close, voxels
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from draft_shapes import SHAPES, assert_closed, edge_counts, enlarged, fans, iou, not_thin, picture, shape, silhouette, solve, welded

EIGHT = np.ones((3, 3), bool)


def expected_euler(inside: np.ndarray) -> int:
    """2 for each body, minus 2 for each hole: bodies meet by sides, holes by corners too (gate 2)."""
    bodies = ndimage.label(inside)[1]
    holes = ndimage.label(np.pad(~inside, 1, constant_values=True), EIGHT)[1] - 1
    return 2 * (bodies - holes)


def check_solid(solid: Solid, euler: int) -> None:
    assert solid.is_closed()
    assert solid.euler() == euler
    assert (edge_counts(solid.faces)[1] == 2).all()
    assert fans(solid.faces) == len(solid.positions) == len(np.unique(solid.faces))
    a, b, c = (solid.positions[solid.faces[:, i]] for i in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() > 0  # six times the volume


def flat(mask: np.ndarray, grid: int = 96) -> tuple[Planar, np.ndarray, float, np.ndarray]:
    """Planar mesh, its points in pixels, the cell size and the depth, as the engine makes them."""
    sprite = cut(picture(mask), mask, None, "it")
    depth = distance_inside(sprite.mask)
    cell = cell_size(depth, sprite.mask, sprite.longest, grid, fixed=True)
    field = sample_field(sprite.coverage, sprite.mask, depth, sprite.threshold, cell)
    planar = marching_squares(field.values)
    return planar, planar.points * cell + field.origin, cell, field.depth


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.integers(2, 14), st.floats(0.1, 0.95), st.booleans(), st.booleans())
def test_any_field_gives_a_closed_oriented_manifold(seed: int, rows: int, columns: int, share: float, wall: bool, smooth: bool) -> None:
    rng = np.random.default_rng(seed)
    field = np.full((rows + 2, columns + 2), -1.0)
    field[1:-1, 1:-1] = np.where(rng.random((rows, columns)) < share, 1, -1) * rng.uniform(1e-6, 1, (rows, columns))
    if not (field > 0).any():
        return
    planar = marching_squares(field, smooth=smooth)
    heights = np.zeros(len(planar.points))
    heights[: planar.interior] = 1
    heights += 0.3 if wall else 0
    check_solid(close(planar, planar.points, heights, heights * 0.5, wall=wall), expected_euler(field > 0))
    a, b, c = (planar.points[planar.triangles[:, i]].T for i in range(3))
    area = ((c - a)[0] * (b - a)[1] - (c - a)[1] * (b - a)[0]) / 2
    assert (area > 1e-6).all()  # gate 1, in cells; counter-clockwise on the screen, where y points down
    contour = planar.triangles >= planar.interior
    assert not contour.all(1).any()  # no triangle, and so no chord, on the contour alone
    along = np.abs(planar.points[planar.interior :] - np.round(planar.points[planar.interior :]))
    assert (np.minimum(along[:, 0], along[:, 1]) < 1e-9).all()  # contour vertices lie on grid edges


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(0.05, 0.95))
def test_any_pixels_give_closed_voxels(seed: int, rows: int, columns: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < share
    if mask.any():
        solid, pixel = voxels(mask, 3.0)
        check_solid(solid, expected_euler(mask))
        assert mask.ravel()[pixel].all() and set(pixel) == set(np.flatnonzero(mask))
        volume = np.einsum(
            "ij,ij->i", solid.positions[solid.faces[:, 0]], np.cross(*(solid.positions[solid.faces[:, i]] for i in (1, 2)))
        ).sum()
        assert volume / 6 == pytest.approx(3.0 * mask.sum(), rel=0.05)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.8, 6),
    st.floats(-0.5, 1.2),
    st.sampled_from(["puffball", "round"]),
    st.sampled_from(["round", "wall"]),
)
def test_any_mask_gives_a_watertight_mesh(seed: int, grain: float, level: float, profile: str, rim: str) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((56, 48)), grain)
    mask = np.zeros((64, 64), bool)
    mask[4:60, 8:56] = noise > level * noise.std()
    labels, _ = ndimage.label(mask, EIGHT)
    if not mask.any() or np.bincount(labels.ravel())[1:].max() < 12:
        return
    scene = solve(mask, profile=profile, rim=rim, quality="fast")
    body = assert_closed(scene.objects[0].mesh)
    assert body.euler_number == scene.objects[0].info["gates"]["euler"]


@pytest.mark.parametrize("rim", ["round", "wall"])
@pytest.mark.parametrize("profile", ["puffball", "round"])
@pytest.mark.parametrize("name", SHAPES)
def test_named_shapes_are_closed_and_keep_their_topology(name: str, profile: str, rim: str) -> None:
    mask = shape(name, 160)
    scene = solve(mask, profile=profile, rim=rim, quality="fast")
    body = assert_closed(scene.objects[0].mesh)
    if name in ("disc", "ring", "star", "cross", "ladder", "sword"):
        assert body.euler_number == {"ring": 0, "ladder": expected_euler(shape("ladder", 160))}.get(name, 2)
    if name in ("disc", "ring", "ladder", "checkerboard", "sword"):
        assert not scene.objects[0].info["facts"]["rescued"], "only what is thinner than the grid is thickened"


@pytest.mark.parametrize("grid", [64, 128])
@pytest.mark.parametrize("name", SHAPES)
def test_euler_number_is_that_of_the_field(name: str, grid: int) -> None:
    mask = shape(name)
    sprite = cut(picture(mask), mask, None, "it")
    depth = distance_inside(sprite.mask)
    field = sample_field(sprite.coverage, sprite.mask, depth, sprite.threshold, sprite.longest / grid)
    planar = marching_squares(field.values)
    ones = np.where(np.arange(len(planar.points)) < planar.interior, 1.0, 0.0)
    check_solid(close(planar, planar.points, ones, ones, wall=False), expected_euler(field.values > 0))


@pytest.mark.parametrize("grid", [64, 40])
def test_thin_lines_are_thickened_to_what_the_grid_holds(grid: int) -> None:
    mask = shape("cross")
    scene = solve(mask, grid=grid)
    item = scene.objects[0]
    assert item.info["facts"]["rescued"] and any("thickened" in text for text in scene.warnings)
    assert assert_closed(item.mesh).euler_number == 2
    seen = silhouette(scene, item)
    cell = 4 * 0.9 * 256 / grid
    across = seen[:, round(0.3 * 1024)].sum() / cell  # a nearly level line, in cells
    assert 2.2 < across < 3.2
    assert seen[enlarged(mask, None)].mean() > 0.99


@pytest.mark.parametrize("name", SHAPES)
def test_the_front_is_the_mask(name: str) -> None:
    """Gate 4 at both grids, on shapes of any width; lines too thin for the grid, or for pixels (6 px), are left out. Gates 3 and 6 beside it."""
    side = 640 if name == "blobs" else 320  # dozens of small bodies need their pixels
    mask = shape(name, side)
    for options, limit in (({}, 0.98), ({"grid": 192}, 0.99)):
        scene = solve(mask, **options)
        item = scene.objects[0]
        where = not_thin(mask, max(1.6 * side / item.info["facts"]["cells"], 3.0), 2)
        seen, wanted = silhouette(scene, item, 2), enlarged(mask, None, 2)
        assert iou(seen, wanted) > (0.7 if name == "cross" else 0.96)
        if (wanted & where).any():
            assert iou(seen, wanted, where) >= limit
        body = welded(item.mesh)
        assert (body.face_angles.min(1) < np.radians(5)).mean() < 0.02
        inner = np.abs(item.mesh.vertices[:, 2]) > 1e-7
        assert (item.mesh.vertices[inner & (item.mesh.normals[:, 2] > 0.7), 2] > 0).all()
        assert (item.mesh.vertices[inner & (item.mesh.normals[:, 2] < -0.7), 2] < 0).all()


def test_exact_heights_of_disc_ring_and_strip() -> None:
    disc, ring, strip = shape("disc", 512), shape("ring", 512), np.zeros((256, 512), bool)
    strip[98:158, 30:480] = True  # half-width 30
    for mask, profile, height in ((disc, "round", 204.8), (ring, "round", 51.2 * 2**0.5), (strip, "round", 30 * 2**0.5), (disc, "puffball", 204.8),
                                  (ring, "puffball", 51.2), (strip, "puffball", 30)):  # fmt: skip
        planar, points, cell, depth = flat(mask)
        system = laplacian(planar, points)
        squared = poisson(planar, cell, 0.0, system) if profile == "round" else puffball(planar, points, depth, cell, system)
        assert (squared > 0).all()
        assert squared.max() ** 0.5 == pytest.approx(height, rel=0.02 if profile == "round" else 0.12), profile


def test_puffball_keeps_a_thin_stick_and_saturation_keeps_the_rim() -> None:
    mask = np.zeros((128, 256), bool)
    mask[60:68, 10:246] = True
    mask[24:104, 100:160] = True
    planar, points, cell, depth = flat(mask, 128)
    heights = np.sqrt(puffball(planar, points, depth, cell, laplacian(planar, points)))
    on_stick = np.abs(points[: planar.interior, 0] - 40) < 8
    assert 3.0 < heights[on_stick].max() < 5.0
    low, high = np.array([0.5]), np.array([1000.0])
    assert saturate(low, 10, 4) == pytest.approx(0.5, rel=1e-4)
    assert saturate(high, 10, 4) == pytest.approx(10, rel=1e-4)
    assert saturate(high, 0, 4) == 1000


def test_flatten_levels_a_large_area() -> None:
    planar, points, cell, _ = flat(shape("disc"))
    system = laplacian(planar, points)
    domed, plate = (poisson(planar, cell, k, system) for k in (0.0, 12.0))
    side = np.sqrt(np.pi) * 0.4 * 256
    assert np.sqrt(plate.max()) == pytest.approx(2 * side / 12, rel=0.03)
    assert np.sqrt(domed.max()) > 3 * np.sqrt(plate.max())


@pytest.mark.parametrize("size", [0.02, 1.0, 250.0])
def test_size_and_pivot(size: float) -> None:
    mask = np.zeros((100, 160), bool)
    mask[30:70, 20:150] = True
    for pivot, low in (("bottom", 0.0), ("center", -0.5 * size * 40 / 130)):
        mesh = solve(mask, size=size, pivot=pivot, quality="fast").objects[0].mesh
        assert np.ptp(mesh.vertices[:, 0]) == pytest.approx(size, rel=1e-5)
        assert mesh.vertices[:, 1].min() == pytest.approx(low, abs=0.01 * size)
        assert mesh.vertices[:, 0].min() == pytest.approx(-size / 2, rel=1e-5)


@pytest.mark.parametrize("budget", [500, 3000, 40000])
@pytest.mark.parametrize("rim", ["round", "wall"])
def test_face_budget_is_kept(budget: int, rim: str) -> None:
    for name in ("star", "ladder") if budget < 40000 else ("disc",):
        scene = solve(shape(name), face_budget=budget, rim=rim)
        faces = len(scene.objects[0].mesh.faces)
        assert faces <= budget, name
        assert faces >= 0.35 * budget, name
        assert_closed(scene.objects[0].mesh)


def test_thickness_options() -> None:
    mask = shape("disc", 128)
    thick = {k: np.ptp(solve(mask, quality="fast", **o).objects[0].mesh.vertices[:, 2]) for k, o in {
        "prop": {"preset": "prop"}, "slab": {"preset": "slab"}, "figure": {"preset": "figure"}, "ball": {"preset": "ball"},
        "own": {"preset": "prop", "max_thickness": 0.2}, "off": {"preset": "prop", "max_thickness": 0.0}, "thin": {"preset": "ball", "thickness": 0.1},
    }.items()}  # fmt: skip
    assert 0.13 < thick["slab"] <= 0.14 < thick["own"] <= 0.2 < thick["prop"] <= 0.3 < thick["figure"] <= 0.45 < thick["ball"] <= 0.92
    assert thick["off"] == pytest.approx(0.9, abs=0.03) and thick["thin"] == pytest.approx(0.1, abs=0.01)


def test_back_depth_and_relief_change_one_side_alone() -> None:
    mask = shape("disc")
    plain, shallow, carved = (
        solve(mask, quality="fast", preset="prop", **o).objects[0].mesh for o in ({}, {"back_depth": 0.3}, {"relief": 0.15})
    )
    assert shallow.vertices[:, 2].min() == pytest.approx(0.3 * plain.vertices[:, 2].min(), rel=1e-3)
    assert shallow.vertices[:, 2].max() == plain.vertices[:, 2].max()
    behind = plain.vertices[:, 2] <= 0
    assert np.array_equal(carved.vertices[behind], plain.vertices[behind])
    ratio = carved.vertices[~behind, 2] / plain.vertices[~behind, 2]
    assert 0.85 <= ratio.min() < 0.95 and 1.05 < ratio.max() <= 1.15


def test_smooth_outline_shortens_the_contour() -> None:
    mask = shape("star") & (np.random.default_rng(3).random((256, 256)) > 0.0)
    mask = ndimage.binary_dilation(mask ^ (np.indices(mask.shape).sum(0) % 7 == 0) & shape("disc"), EIGHT)
    planar, smooth = (
        marching_squares(np.pad(np.where(mask[::4, ::4], 1.0, -0.6), 2, constant_values=-1.0), smooth=s) for s in (False, True)
    )

    def length(p: Planar) -> float:
        ring = p.points[p.interior :]
        return float(np.linalg.norm(ring[p.following - p.interior] - ring, axis=1).sum())

    assert length(smooth) < 0.99 * length(planar)
    assert_closed(solve(mask, smooth_outline=True, quality="fast").objects[0].mesh)
