"""Box charts of rough surfaces, and how charts are packed: few charts, none over another, time that doesn't grow with their number."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import EngineError  # noqa: E402
from comfyui_sam3d.worker.geometry.texture import boxes, packing  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.atlas import layers, shared  # noqa: E402

from texture_shapes import SHAPES  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, PADDING = 256, 4
SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def steps(cells: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The surface of the voxels of a ball, two triangles for each side; noise: of its vertices, in voxels."""
    axis = np.arange(cells) - (cells - 1) / 2
    solid = np.pad(np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0) < cells / 2, 1)
    quads = []
    for side in range(3):
        for sign in (1, -1):
            at = np.argwhere(solid & ~np.roll(solid, -sign, side))
            u, v = np.eye(3, dtype=np.int64)[[(side + 1) % 3, (side + 2) % 3]]
            first = at + (np.eye(3, dtype=np.int64)[side] if sign > 0 else 0)
            ring = [first, first + u, first + u + v, first + v]
            quads.append(np.stack(ring if sign > 0 else ring[::-1], axis=1))
    places, which = np.unique(np.concatenate(quads).reshape(-1, 3), axis=0, return_inverse=True)
    which = which.reshape(-1, 4)
    moved = places + np.random.default_rng(0).normal(0, noise, places.shape) if noise else places
    return (moved / cells).astype(np.float32), np.concatenate([which[:, [0, 1, 2]], which[:, [0, 2, 3]]])


@pytest.mark.parametrize(("noise", "most"), [(0.0, 40), (0.1, 200)], ids=["steps", "noisy steps"])
def test_steps_are_few_charts(noise: float, most: int) -> None:
    """Along a cube's sides, every step would be a chart."""
    vertices, faces = steps(20, noise)
    found = boxes._directions(*(arguments := (*boxes._normals(vertices, faces), boxes._neighbours(vertices, faces))), boxes.SIDES)
    assert boxes._components(found, arguments[2][0]).max() > 1.5 * most
    source, new, uvs, charts = boxes.box_charts(vertices, faces, size=SIZE, padding=PADDING)
    assert len(np.unique(charts)) < most
    assert np.array_equal(source[new], faces) and uvs.min() >= 0 and uvs.max() <= 1
    assert not bool(shared(torch.from_numpy(uvs[new]), SIZE, SIZE).any())


def test_a_smooth_surface_keeps_to_the_sides() -> None:
    vertices, faces = SHAPES["ball"].raw_mesh(16)
    axis, charts = boxes._grouped(*boxes._normals(vertices, faces), boxes._neighbours(vertices, faces))
    assert charts.max() < 12 and set(np.abs(axis).max(axis=1)) == {1.0}


@pytest.mark.parametrize("seed", range(3))
def test_crumpled_surfaces_share_no_texel(seed: int) -> None:
    """Noise of a face's own size: folds everywhere, which no projection shows side by side."""
    vertices, faces = SHAPES["blob"].raw_mesh(20)
    vertices = vertices + np.random.default_rng(seed).normal(0, 0.02, vertices.shape).astype(np.float32)
    source, new, uvs, _ = boxes.box_charts(vertices, faces, size=SIZE, padding=PADDING)
    assert np.array_equal(source[new], faces)
    assert not bool(shared(torch.from_numpy(uvs[new]), SIZE, SIZE).any())


def test_neighbours_are_found_by_place() -> None:
    """A mesh with every vertex split has the same as the one it was made of, as often as there are edges."""
    vertices, faces = SHAPES["ring"].raw_mesh(12)
    pairs, lengths = boxes._neighbours(vertices, faces)
    loose, alone = vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3)
    again, same = boxes._neighbours(loose, alone)
    assert len(pairs) == len(faces) * 3 // 2
    assert sorted(map(sorted, pairs.tolist())) == sorted(map(sorted, again.tolist()))
    assert lengths.sum() == pytest.approx(same.sum())


def test_layers_say_which_face_is_above() -> None:
    corners = torch.tensor(np.stack([SQUARE, SQUARE, 0.4 * SQUARE + 0.55]), dtype=torch.float32)
    over, under = layers(corners, torch.tensor([2, 0, 1]), 32, 32)
    assert over.tolist() == [True, False, False] and under.tolist() == [False, True, False]


# -- packing


def triangles(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One for each rectangle, far from the origin."""
    return SQUARE[None] * sizes[:, None] + 7.0, np.arange(len(sizes))


def assert_apart(uvs: np.ndarray, size: int, gap: float) -> None:
    """Rectangles around each chart's corners, in texels, keep their distance."""
    low, high = uvs.min(axis=1) * size, uvs.max(axis=1) * size
    apart = (low[:, None] - high[None] >= gap - 1e-3).any(axis=2) | (low[None] - high[:, None] >= gap - 1e-3).any(axis=2)
    np.fill_diagonal(apart, True)
    assert apart.all() and low.min() >= 0 and high.max() <= size


@pytest.mark.parametrize("count", [1, 5, 160, 161, 1200])
def test_packed_charts_keep_their_distance_at_one_scale(count: int) -> None:
    sizes = np.random.default_rng(count).uniform(0.1, 1.0, (count, 2))
    uvs = packing.packed(*triangles(sizes), 512, 2)
    assert_apart(uvs, 512, 2)
    scale = np.ptp(uvs, axis=1) * 512 / sizes
    assert np.ptp(scale) < 1e-3 * scale.mean()
    if count > 100:
        outer = np.ceil(sizes * scale.mean()) + 3
        assert outer.prod(axis=1).sum() > 0.72 * 512**2


def test_a_flat_chart_that_is_wider_than_a_strip() -> None:
    sizes = np.concatenate([np.full((200, 2), 0.5), [[8.0, 0.01]]])
    assert_apart(packing.packed(*triangles(sizes), 256, 1), 256, 1)


def test_too_many_charts_are_refused() -> None:
    with pytest.raises(EngineError) as caught:
        packing.packed(*triangles(np.ones((5000, 2))), 64, 4)
    assert "5000" in caught.value.message and caught.value.hint


def test_more_charts_mean_less_padding() -> None:
    assert_apart(packing.packed(*triangles(np.ones((900, 2))), 64, 4), 64, 0)


def test_a_loose_layout_has_its_scale_and_no_overlap() -> None:
    sizes = np.random.default_rng(0).uniform(0.1, 1.0, (300, 2))
    flat, charts = triangles(sizes)
    uvs, (height, width) = packing.loose(flat, 5 * charts + 3, 20.0)
    texels = uvs * (width, height)
    assert np.ptp(texels, axis=1) == pytest.approx(20 * sizes, abs=1e-2)
    assert_apart(texels, 1, 0) if width == height == 1 else assert_apart(texels / max(height, width), max(height, width), 0)
    assert packing.likely_scale(flat, charts, 512) == pytest.approx(512 / np.sqrt(sizes.prod(axis=1).sum() / packing.FILLED))


def plain_skyline(outer: np.ndarray, size: int) -> list[tuple[int, int]]:
    heights, places = [0] * size, []
    for width, tall in outer.tolist():
        tops = [max(heights[x : x + width]) for x in range(size - width + 1)]
        x = tops.index(min(tops))
        places.append((x, tops[x]))
        heights[x : x + width] = [tops[x] + tall] * width
    return places


def test_the_skyline_is_that_of_the_plain_way() -> None:
    outer = np.random.default_rng(1).integers(1, 20, (40, 2))
    outer = outer[np.lexsort((-outer[:, 0], -outer[:, 1]))]
    found = packing._skyline(outer, 64)
    assert found is None or found.tolist() == [list(place) for place in plain_skyline(outer, 64)]
    assert packing._skyline(np.array([[8, 8]] * 65), 64) is None and packing._skyline(np.array([[8, 8]] * 64), 64) is not None
