"""Polygons and run lengths against pycocotools, pixel for pixel."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from comfyui_sam3d.contract import parse_masks
from comfyui_sam3d.contract.errors import EmptyMaskError, MaskError
from comfyui_sam3d.contract.mask_polygons import FURTHEST, Budget, fill_rings
from comfyui_sam3d.contract.mask_rle import decode_counts, encode_rle, mask_to_runs, runs_to_mask
from comfyui_sam3d.contract.masks import MAX_BYTES
from hypothesis import given, settings

coco = pytest.importorskip("pycocotools.mask")
# pycocotools 2.0 and numpy 2; not ours
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def reference(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """What pycocotools draws: each ring filled, all merged."""
    codes = coco.frPyObjects([np.asarray(ring, float).ravel().tolist() for ring in rings], height, width)
    return coco.decode(coco.merge(codes)).astype(bool)


def fill_ring(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    return fill_rings([ring], height, width, Budget(MAX_BYTES))


def random_ring(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Inside, outside, on the grid, on halves and tenths, degenerate, huge."""
    count, size = rng.integers(3, 12), np.array([width, height])
    kind = rng.integers(0, 7)
    if kind == 0:
        return rng.random((count, 2)) * size
    if kind == 1:
        return rng.uniform(-2, 3, (count, 2)) * size
    if kind == 2:
        return rng.integers(-5, max(size) + 5, (count, 2)).astype(float)
    if kind == 3:
        return np.round(rng.uniform(-1, 2, (count, 2)) * size * 2) / 2
    if kind == 4:
        return np.round(rng.uniform(-0.5, 1.5, (count, 2)) * size * 10) / 10
    if kind == 5:  # a smooth outline of many short edges
        angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        radius = rng.uniform(0.3, 0.7) + 0.1 * np.sin(rng.integers(1, 9) * angle)
        return np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] * size + size / 2
    ring = rng.integers(0, max(size) + 1, (count, 2)).astype(float)
    ring[1] = ring[-1] = ring[0]  # doubled vertices
    if rng.random() < 0.3:
        ring[:, rng.integers(0, 2)] = ring[0, 0]  # without area
    return ring * rng.choice([1, 1, 100, 1000])


def compare(count: int, largest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        height, width = (int(n) for n in rng.integers(1, largest, 2))
        rings = [random_ring(rng, height, width) for _ in range(rng.integers(1, 4))]
        want = reference(rings, height, width)
        found = np.logical_or.reduce([fill_ring(ring, height, width) for ring in rings])
        assert np.array_equal(found, want), (height, width, [ring.tolist() for ring in rings])


def test_thousands_of_polygons() -> None:
    compare(4000, 40, 1)


@pytest.mark.full
def test_fifty_thousand_polygons() -> None:
    compare(50_000, 40, 2)
    compare(500, 500, 3)


points = st.lists(st.tuples(st.floats(-50, 80), st.floats(-50, 80)), min_size=3, max_size=10)


@given(st.lists(points, min_size=1, max_size=3), st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None)
def test_annotations(rings: list[list[tuple[float, float]]], height: int, width: int) -> None:
    want = reference([np.array(ring) for ring in rings], height, width)
    flats = [[n for point in ring for n in point] for ring in rings]
    try:
        np.testing.assert_array_equal(parse_masks(flats, (height, width), kind="annotation", allow_full=True), [want])
    except EmptyMaskError:
        assert not want.any()


def test_a_large_picture() -> None:
    rng = np.random.default_rng(5)
    for _ in range(3):
        ring = rng.uniform(-500, 2500, (50, 2))
        np.testing.assert_array_equal(fill_ring(ring, 1500, 2000), reference([ring], 1500, 2000))


def test_the_bounds_of_a_polygon() -> None:
    fill_ring(np.array([[0, 0], [FURTHEST, 0], [0, FURTHEST]]), 4, 4)
    for bad in (np.nan, np.inf, 2 * FURTHEST):
        with pytest.raises(MaskError, match="coordinate"):
            fill_ring(np.array([[0, 0], [bad, 0], [0, 5]]), 4, 4)
    with pytest.raises(MaskError, match="intricate"):
        fill_ring(np.tile([[-1.0, 0], [20000, 5]], (10_000, 1)), 16384, 16384)


def test_the_outlines_of_one_call_have_one_budget() -> None:
    """Each alone is small work. Half of a gigabyte of masks, or a few kilobytes of JSON: what counts is the time for which they would be drawn."""
    dots, wide = [[5, 5, 8, 5, 8, 8]], [[0, 0, 2000, 0, 2000, 900, 0, 900]]
    most = 40_000_000
    drawn = parse_masks([dots * 500], (1000, 2000), kind="annotation", most=most)
    np.testing.assert_array_equal(drawn, parse_masks([dots], (1000, 2000), kind="annotation"))
    for many in ([dots * 2000], [wide * 100], [dots * 500] * 10, [[[0, y % 900, 2000, y % 800, 0, 900] for y in range(400)]]):
        with pytest.raises(MaskError, match="too many, or too intricate"):
            parse_masks(many, (1000, 2000), kind="annotation", most=most)
    with pytest.raises(MaskError, match="too many, or too intricate"):
        parse_masks([[x % 2 * 1999, x] for x in range(900)], (1000, 2000), kind="points", most=most)


def test_many_crossings_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import comfyui_sam3d.contract.mask_polygons as module

    rng = np.random.default_rng(6)
    rings = [random_ring(rng, 30, 30) for _ in range(200)]
    whole = [fill_ring(ring, 30, 30) for ring in rings]
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    for ring, want in zip(rings, whole):
        np.testing.assert_array_equal(fill_ring(ring, 30, 30), want)


# -- run lengths

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(masks)
@settings(deadline=None)
def test_codes_are_those_of_pycocotools(mask: np.ndarray) -> None:
    want = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    found = encode_rle(mask)
    assert found["size"] == want["size"] and found["counts"] == want["counts"].decode()
    back = runs_to_mask(decode_counts(want["counts"], mask.size), *mask.shape)
    np.testing.assert_array_equal(back, mask)
    np.testing.assert_array_equal(decode_counts(encode_rle(mask, compressed=False)["counts"], mask.size), mask_to_runs(mask))


def test_long_runs_use_several_groups() -> None:
    mask = np.zeros((3000, 3000), bool)
    mask[:, 1500] = mask[7, 7] = True
    want = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask)["counts"] == want["counts"].decode()
    np.testing.assert_array_equal(parse_masks({"size": [3000, 3000], "counts": want["counts"]}, mask.shape), [mask])


def test_zero_runs_are_read() -> None:
    """pycocotools never writes a zero but at the start; other tools do."""
    np.testing.assert_array_equal(
        parse_masks({"size": [2, 3], "counts": [1, 0, 2, 1, 0, 0, 2, 0]}, (2, 3))[0],
        coco.decode(coco.frPyObjects({"size": [2, 3], "counts": [1, 0, 2, 1, 0, 0, 2, 0]}, 2, 3)).astype(bool),
    )


@given(st.one_of(st.text(), st.binary(), st.text(alphabet="0123OPQRSTUVWXYZ_`abcdefghijklmno")), st.integers(0, 2000))
@settings(max_examples=500)
def test_any_text_decodes_or_is_refused(counts: str | bytes, pixels: int) -> None:
    try:
        runs = decode_counts(counts, pixels)
    except MaskError as problem:
        assert problem.hint
    else:
        assert runs.sum() == pixels and (runs >= 0).all()
