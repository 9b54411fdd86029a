"""Draft engine, mask: cutting out, cleaning, soft edges, resampling, and the errors that name the object."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import EmptyMaskError, FullMaskError
from comfyui_sam3d.worker.draft.mask import MARGIN, cut, distance_inside, resample, shrink
from PIL import Image
from scipy import ndimage

from draft_shapes import picture, request, shape, solve


def disc(side: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side] + 0.5
    return np.hypot(x - centre[0], y - centre[1]) < radius


def area(scene_mask: np.ndarray, **options: object) -> float:
    """Pixels that the cleaned cut-out keeps."""
    return float(cut(picture(scene_mask), scene_mask, None, "it", **options).mask.sum())  # type: ignore[arg-type]


def test_specks_go_and_large_parts_stay() -> None:
    mask = disc(200, (70, 100), 40) | disc(200, (160, 100), 15)
    speckled = mask.copy()
    speckled[5:8, 5:8] = True
    assert area(speckled) == mask.sum()
    assert area(speckled, keep="largest") == disc(200, (70, 100), 40).sum()


def test_pinholes_are_filled_and_holes_stay() -> None:
    mask = disc(200, (100, 100), 80)
    full = mask.sum()
    mask[100, 60] = False
    mask[90:110, 90:110] = False
    assert area(mask) == full - 400
    assert area(mask, hole_min=0.0) == full - 401
    mask[100:106, 50:56] = False
    assert area(mask, hole_min=0.01) == full - 400


def test_the_cut_out_lies_where_it_was() -> None:
    mask = np.zeros((100, 140), bool)
    mask[0:40, 100:140] = True  # at the picture's corner
    image = picture(mask)
    sprite = cut(image, mask, None, "it")
    top, left = int(sprite.top), int(sprite.left)
    assert (top, left) == (-MARGIN, 100 - MARGIN) and sprite.pixels == (40, 40)
    assert np.array_equal(sprite.rgb[MARGIN:-MARGIN, MARGIN:-MARGIN], image[:40, 100:])
    assert sprite.mask.sum() == 1600 and not sprite.mask[:MARGIN].any()


@pytest.mark.parametrize("longest", [37, 80, 301])
def test_resampling_keeps_place_and_area(longest: int) -> None:
    mask = disc(120, (50.3, 61.7), 33.4)
    small = resample(cut(picture(mask), mask, None, "it"), longest)
    rows, columns = np.nonzero(small.mask)
    x = small.left + (columns.mean() + 0.5) * small.zoom
    y = small.top + (rows.mean() + 0.5) * small.zoom
    assert (x, y) == (pytest.approx(np.nonzero(mask)[1].mean() + 0.5, abs=0.25), pytest.approx(np.nonzero(mask)[0].mean() + 0.5, abs=0.25))
    assert small.mask.sum() * small.zoom**2 == pytest.approx(mask.sum(), rel=0.02)
    assert small.longest == pytest.approx(longest, rel=1e-6)


def test_lines_thinner_than_a_new_pixel_survive_shrinking() -> None:
    mask = np.zeros((900, 900), bool)
    mask[40:860, 450:452] = mask[450:452, 40:860] = True
    small = resample(cut(picture(mask), mask, None, "it"), 200)
    assert ndimage.label(small.mask, np.ones((3, 3)))[1] == 1
    assert np.ptp(np.nonzero(small.mask), axis=1).min() >= 195


def test_soft_edges_refine_the_mask() -> None:
    fine = disc(800, (400, 400), 301.5)
    alpha = np.round(shrink(fine.astype(np.float32), 4) * 255).astype(np.uint8)
    sprite = cut(picture(alpha > 0), alpha > 0, alpha, "it")
    assert not sprite.soft and not sprite.hard
    assert sprite.mask.sum() == pytest.approx(fine.sum() / 16, rel=0.005)
    hard = cut(picture(alpha > 0), alpha >= 128, None, "it")
    assert hard.hard


def test_a_neighbour_that_shares_the_alpha_is_left_out() -> None:
    """One alpha channel for two touching objects: what is opaque outside the mask belongs to the other."""
    both = disc(200, (70, 100), 40) | disc(200, (140, 100), 40)
    left = both & (np.arange(200) < 105)
    alpha = np.where(both, 255, 0).astype(np.uint8)
    assert (cut(picture(both), left, alpha, "it").mask.sum()) == left.sum()


def test_fire_is_told_and_keeps_its_size() -> None:
    core = disc(128, (64, 64), 26).astype(float)
    alpha = np.round(255 * ndimage.gaussian_filter(core, 10)).astype(np.uint8)
    sprite = cut(picture(core > 0), alpha >= 128, alpha, "fire")
    assert sprite.soft and sprite.threshold == 0.25
    assert sprite.mask.sum() > 1.2 * (alpha >= 128).sum()
    scene = solve(alpha >= 128, alpha=alpha[None], quality="fast")
    assert any("soft" in text for text in scene.warnings)


def test_distances_and_block_means() -> None:
    mask = shape("star", 96)
    assert np.allclose(distance_inside(mask), ndimage.distance_transform_edt(mask), atol=1e-4)
    values = np.random.default_rng(0).random((7, 10, 3)).astype(np.float32)
    assert shrink(values, 1) is values
    assert np.allclose(
        shrink(values, 2)[:3],
        np.asarray(Image.fromarray(np.zeros((1, 1), np.uint8))).sum() + values[:6].reshape(3, 2, 5, 2, 3).mean((1, 3)),
    )
    assert np.allclose(shrink(values, 2)[3], values[6].reshape(5, 2, 3).mean(1) / 2)


@pytest.mark.parametrize(("mask", "options", "error", "words"), [
    (np.ones((40, 40), bool), {}, FullMaskError, "whole picture"),
    (np.eye(60, dtype=bool)[:, :60] & (np.arange(60) < 8), {}, EmptyMaskError, "8 visible"),
    (np.pad(np.ones((3, 3), bool), 20), {}, EmptyMaskError, "9 visible"),
    (np.indices((60, 60)).sum(0) % 60 == 7, {"keep": "largest"}, None, ""),
    ((np.indices((64, 64)) % 8 < 2).all(0), {}, EmptyMaskError, "no part"),
])  # fmt: skip
def test_masks_that_cannot_be_inflated_are_refused_by_name(mask: np.ndarray, options: dict, error: type | None, words: str) -> None:
    asked = request(mask, names=("cup",), **options)
    from comfyui_sam3d.worker.engines.draft import reconstruct
    from comfyui_sam3d.worker.job import QuietJob

    if error is None:
        assert reconstruct(asked, QuietJob()).objects[0].mesh is not None
        return
    with pytest.raises(error) as caught:
        reconstruct(asked, QuietJob())
    assert "'cup'" in caught.value.message and words in caught.value.message and caught.value.hint


def test_a_full_picture_is_a_card_or_a_block_if_that_is_asked_for() -> None:
    full = np.ones((24, 32), bool)
    for options in ({"preset": "slab"}, {"preset": "pixel"}, {"rim": "wall"}, {"profile": "voxel"}):
        mesh = solve(full, quality="fast", **options).objects[0].mesh
        assert np.ptp(mesh.vertices[:, :2], axis=0) == pytest.approx([1, 0.75], rel=0.03)
