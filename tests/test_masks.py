"""parse_masks: every form of the table gives the same mask; every bad input gives one clear error of ours."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from comfyui_sam3d.contract import parse_masks
from comfyui_sam3d.contract.errors import (
    EmptyMaskError,
    FullMaskError,
    MaskError,
    MaskKindError,
    MaskSizeError,
    OptionError,
)
from comfyui_sam3d.contract.masks import KINDS, encode_rle
from hypothesis import given, settings
from PIL import Image

from mask_samples import Hostile, png

SIZE = (20, 30)
BOX = np.zeros(SIZE, bool)
BOX[5:12, 3:20] = True
FLAT = [3, 5, 20, 5, 20, 12, 3, 12]
PAIRS = [[3, 5], [20, 5], [20, 12], [3, 12]]
OTHER = np.zeros(SIZE, bool)
OTHER[15:19, 22:28] = True
OTHER_FLAT = [22.0, 15.0, 28.0, 15.0, 28.0, 19.0, 22.0, 19.0]


def rgba(mask: np.ndarray) -> np.ndarray:
    return np.dstack([np.full((*mask.shape, 3), 77, np.uint8), np.uint8(255) * mask])


def coco(*segmentations: Any, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "height": size[0], "width": size[1]}],
        "annotations": [{"id": i, "image_id": 7, "segmentation": s} for i, s in enumerate(segmentations)],
    }


def labelme(*shapes: dict[str, Any], size: tuple[int, int] | None = SIZE) -> dict[str, Any]:
    declared = {"imageHeight": size[0], "imageWidth": size[1]} if size else {}
    return {"version": "5.4.1", "imageData": None, "shapes": list(shapes), **declared}


# form -> (kind, a function of two masks that gives the value, how many of them it holds)
FORMS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], Any], int]] = {
    "bool": ("bitmap", lambda a, b: a, 1),
    "0/1": ("bitmap", lambda a, b: a.astype(np.int64), 1),
    "0/255": ("bitmap", lambda a, b: np.uint8(255) * a, 1),
    "0/255 as float": ("bitmap", lambda a, b: 255.0 * a, 1),
    "float 0..1": ("bitmap", lambda a, b: np.where(a, 0.51, 0.5).astype(np.float32), 1),
    "float16": ("bitmap", lambda a, b: a.astype(np.float16), 1),
    "grey edge": ("bitmap", lambda a, b: np.where(a, 128, 127).astype(np.uint8), 1),
    "channel": ("bitmap", lambda a, b: a[..., None], 1),
    "stack": ("bitmap", lambda a, b: np.stack([a, b]), 2),
    "list of arrays": ("bitmap", lambda a, b: [a, np.uint8(255) * b[..., None]], 2),
    "list of pictures": ("bitmap", lambda a, b: [Image.fromarray(a), Image.fromarray(rgba(b))], 2),
    "nested bool": ("bitmap", lambda a, b: a.tolist(), 1),
    "nested 0/1": ("bitmap", lambda a, b: a.astype(int).tolist(), 1),
    "nested 0/255": ("bitmap", lambda a, b: (255 * a).tolist(), 1),
    "nested stack": ("bitmap", lambda a, b: np.stack([a, b]).astype(float).tolist(), 2),
    "list of rows": ("bitmap", lambda a, b: list(a), 1),
    "Fortran order": ("bitmap", lambda a, b: np.asfortranarray(a), 1),
    "strided view": ("bitmap", lambda a, b: np.repeat(a, 3, axis=1)[:, ::3], 1),
    "big endian": ("bitmap", lambda a, b: a.astype(">u2"), 1),
    "rgba array": ("alpha", lambda a, b: rgba(a), 1),
    "la array": ("alpha", lambda a, b: rgba(a)[..., 2:], 1),
    "rgba float": ("alpha", lambda a, b: rgba(a) / 255, 1),
    "rgba picture": ("alpha", lambda a, b: Image.fromarray(rgba(a)), 1),
    "la picture": ("alpha", lambda a, b: Image.fromarray(rgba(a)).convert("LA"), 1),
    "grey picture": ("bitmap", lambda a, b: Image.fromarray(np.uint8(255) * a), 1),
    "colour picture": ("bitmap", lambda a, b: Image.fromarray(np.repeat(np.uint8(255) * a[..., None], 3, axis=2)), 1),
    "palette picture": ("bitmap", lambda a, b: Image.fromarray(np.uint8(255) * a).convert("P"), 1),
    "png with alpha": ("png", lambda a, b: png(rgba(a)), 1),
    "png of brightness": ("png", lambda a, b: png(np.uint8(255) * a), 1),
    "png of one bit": ("png", lambda a, b: png(a), 1),
    "png of 16 bits": ("png", lambda a, b: png(np.where(a, 65535, 0).astype(np.uint16)), 1),
    "png with a transparent colour": ("png", lambda a, b: png(np.where(a, 200, 9).astype(np.uint8), transparency=9), 1),
    "bytearray": ("png", lambda a, b: bytearray(png(rgba(a))), 1),
    "memoryview": ("png", lambda a, b: memoryview(png(rgba(a))), 1),
    "base64": ("png", lambda a, b: base64.b64encode(png(rgba(a))).decode(), 1),
    "base64 in lines": ("png", lambda a, b: base64.encodebytes(png(rgba(a))).decode(), 1),
    "data URL": ("png", lambda a, b: "data:image/png;base64," + base64.b64encode(png(rgba(a))).decode(), 1),
    "list of png": ("png", lambda a, b: [png(rgba(a)), base64.b64encode(png(rgba(b))).decode()], 2),
    "rle": ("rle", lambda a, b: encode_rle(a), 1),
    "rle, counts as bytes": ("rle", lambda a, b: {**encode_rle(a), "counts": str(encode_rle(a)["counts"]).encode()}, 1),
    "rle, not compressed": ("rle", lambda a, b: encode_rle(a, compressed=False), 1),
    "rle of numpy numbers": (
        "rle",
        lambda a, b: {"size": np.array(SIZE), "counts": np.array(encode_rle(a, compressed=False)["counts"])},
        1,
    ),
    "list of rle": ("rle", lambda a, b: [encode_rle(a), encode_rle(b, compressed=False)], 2),
    "annotation rle": ("annotation", lambda a, b: encode_rle(a), 1),
    "annotations rle": ("annotation", lambda a, b: [encode_rle(a), encode_rle(b)], 2),
    "coco rle": ("coco", lambda a, b: coco(encode_rle(a), encode_rle(b, compressed=False)), 2),
    "detections": ("detections", lambda a, b: SimpleNamespace(mask=np.stack([a, b]), xyxy=np.zeros((2, 4))), 2),
}
# the same for outlines, which can't hold any mask: of BOX and OTHER
OUTLINES: dict[str, tuple[str, Any, int]] = {
    "flat": ("polygons", FLAT, 1),
    "flat array": ("polygons", np.array(FLAT, np.float32), 1),
    "one flat in a list": ("polygons", [FLAT], 1),
    "flats": ("polygons", [FLAT, OTHER_FLAT], 2),
    "array of flats": ("polygons", np.array([FLAT, OTHER_FLAT]), 2),
    "closed flat": ("polygons", [*FLAT, *FLAT[:2]], 1),
    "points": ("points", PAIRS, 1),
    "points as tuples": ("points", [tuple(p) for p in PAIRS], 1),
    "array of points": ("points", np.array(PAIRS), 1),
    "annotation of one part": ("annotation", [FLAT], 1),
    "annotations": ("annotation", [[FLAT], [OTHER_FLAT]], 2),
    "annotations, mixed": ("annotation", [[FLAT], encode_rle(OTHER)], 2),
    "coco": ("coco", coco([FLAT], [OTHER_FLAT]), 2),
    "labelme": ("labelme", labelme({"points": PAIRS}, {"points": [[28, 19], [22, 15]], "shape_type": "rectangle"}), 2),
    "labelme without a size": ("labelme", labelme({"points": PAIRS, "shape_type": "polygon"}, size=None), 1),
}
# forms that can only be read when their kind is named
MUST_NAME = {"flats", "array of flats", "array of points", "annotation rle", "annotations rle"}


def expected(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    return np.stack([a, b][:count])


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    def one() -> np.ndarray:
        mask = draw(hnp.arrays(bool, SIZE, elements=st.booleans(), fill=st.just(False)))
        mask[draw(st.integers(0, 19)), draw(st.integers(0, 29))] ^= True
        mask[0, 0], mask[-1, -1] = True, False  # neither empty nor full
        return mask

    return one(), one()


@pytest.mark.parametrize("form", FORMS)
@given(masks=two_masks())
@settings(max_examples=5, deadline=None)
def test_every_form_holds_every_mask(form: str, masks: tuple[np.ndarray, np.ndarray]) -> None:
    kind, make, count = FORMS[form]
    value, want = make(*masks), expected(*masks, count)
    for named in (kind, None):
        found = parse_masks(value, SIZE, kind=named)
        assert found.dtype == bool and found.flags.c_contiguous
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("form", OUTLINES)
def test_outlines(form: str) -> None:
    kind, value, count = OUTLINES[form]
    np.testing.assert_array_equal(parse_masks(value, SIZE, kind=kind), expected(BOX, OTHER, count))
    if form not in MUST_NAME:
        np.testing.assert_array_equal(parse_masks(value, SIZE), expected(BOX, OTHER, count))


def test_a_torch_tensor_wherever_it_comes_from() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.from_numpy(BOX), torch.from_numpy(BOX).float().requires_grad_(), torch.from_numpy(BOX)[None].half()):
        np.testing.assert_array_equal(parse_masks(tensor, SIZE)[0], BOX)
    np.testing.assert_array_equal(parse_masks([torch.from_numpy(BOX)] * 2, SIZE), [BOX, BOX])
    with pytest.raises(MaskError, match="numpy array"):  # numpy has no bfloat16
        parse_masks(torch.from_numpy(BOX).bfloat16(), SIZE)


def test_the_documentation_names_every_kind() -> None:
    text = (Path(__file__).parent.parent / "docs" / "masks.md").read_text("utf-8")
    for kind in KINDS:
        assert f"| `{kind}` |" in text


# -- what is ambiguous is refused, and both readings are named

FOUR = np.ones((4, 4, 4), bool)
FOUR[0] = FOUR[:, 0] = FOUR[..., 0] = False


@pytest.mark.parametrize(
    ("value", "size", "named"),
    [
        ([FLAT, OTHER_FLAT], SIZE, ("polygons", "annotation")),
        (FOUR, (4, 4), ("alpha", "bitmap")),
        ([[10, 0], [0, 200], [128, 7]], (3, 2), ("bitmap", "points")),
        ([[10, 0, 3, 4, 200, 6], [128, 7, 1, 2, 3, 4]], (2, 6), ("bitmap", "polygons", "annotation")),
    ],
)
def test_two_readings_are_named(value: Any, size: tuple[int, int], named: tuple[str, ...]) -> None:
    with pytest.raises(MaskKindError) as caught:
        parse_masks(value, size)
    for kind in named:
        assert f"kind='{kind}'" in caught.value.message
    for kind in named:  # and each of them is then accepted, or refused for another reason
        try:
            parse_masks(value, size, kind=kind)
        except MaskError as problem:
            assert not isinstance(problem, MaskKindError)


def test_naming_the_kind_decides() -> None:
    flats = [FLAT, OTHER_FLAT]
    np.testing.assert_array_equal(parse_masks(flats, SIZE, kind="polygons"), [BOX, OTHER])
    np.testing.assert_array_equal(parse_masks(flats, SIZE, kind="annotation"), [BOX | OTHER])
    np.testing.assert_array_equal(parse_masks(FOUR[1:], (4, 4)), FOUR[1:])
    np.testing.assert_array_equal(parse_masks(FOUR, (4, 4), kind="alpha"), FOUR[None, ..., -1])


def test_resizing_an_array_of_four_channels_asks_for_its_kind() -> None:
    big = rgba(np.kron(BOX, np.ones((2, 2), bool)))
    with pytest.raises(MaskSizeError):
        parse_masks(big, SIZE)
    with pytest.raises(MaskKindError, match="alpha"):
        parse_masks(big, SIZE, resize=True)
    np.testing.assert_array_equal(parse_masks(big, SIZE, resize=True, kind="alpha"), [BOX])


# -- what is refused


def coco_of_two() -> dict[str, Any]:
    both = coco([FLAT], [OTHER_FLAT])
    both["images"].append({"id": "b", "height": 20, "width": 30})
    both["annotations"][1]["image_id"] = "b"
    return both


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def loop() -> list[Any]:
    value: list[Any] = []
    value.extend([value] * 1000)
    return value


REFUSED: dict[str, tuple[Any, type[MaskError]]] = {
    "None": (None, MaskError),
    "a number": (3, MaskKindError),
    "a class": (Image.Image, MaskKindError),
    "a function": (len, MaskKindError),
    "an iterator": (iter([BOX]), MaskKindError),
    "a hostile object": (Hostile(), MaskError),
    "empty list": ([], EmptyMaskError),
    "list of an empty list": ([[]], EmptyMaskError),
    "list of None": ([None], MaskError),
    "empty mapping": ({}, MaskKindError),
    "unknown mapping": ({"mask": 1}, MaskKindError),
    "one COCO annotation": (coco([FLAT])["annotations"][0], MaskKindError),
    "deep list": (deep(), MaskKindError),
    "list that holds itself": (loop(), MaskError),
    "empty text": ("", MaskError),
    "text": ("steak", MaskError),
    "text that is base64 of no picture": (base64.b64encode(b"hello there").decode(), MaskError),
    "text beyond ASCII": ("ステーキ", MaskError),
    "path": ("masks/steak.png", MaskError),
    "Windows path": ("C:\\masks\\steak", MaskError),
    "Path": (Path("steak.png"), MaskKindError),
    "JSON text": (json.dumps(coco([FLAT])), MaskKindError),
    "data URL that isn't base64": ("data:image/svg+xml,<svg/>", MaskError),
    "data URL of nothing": ("data:image/png;base64,", MaskError),
    "no bytes": (b"", MaskError),
    "bytes of no picture": (b"GIF89a but no more", MaskError),
    "half a png": (png(rgba(BOX))[:-40], MaskError),
    "all zero": (BOX & False, EmptyMaskError),
    "full": (BOX | True, FullMaskError),
    "full png": (png(rgba(BOX | True)), FullMaskError),
    "second is empty": (np.stack([BOX, BOX & False]), EmptyMaskError),
    "no masks": (np.zeros((0, *SIZE), bool), EmptyMaskError),
    "another size": (BOX[:-1], MaskSizeError),
    "turned": (BOX.T, MaskSizeError),
    "png of another size": (png(rgba(BOX[:-1])), MaskSizeError),
    "picture of another size": (Image.fromarray(BOX[:-1]), MaskSizeError),
    "colour array": (rgba(BOX)[..., :3], MaskSizeError),
    "NaN": (np.where(BOX, 1.0, np.nan), MaskError),
    "infinite": (np.where(BOX, np.inf, 0.0), MaskError),
    "NaN, nested": (np.where(BOX, 1.0, np.nan).tolist(), MaskError),
    "negative": (np.where(BOX, 4.5, -2.5), MaskError),
    "labels": (BOX + 2 * OTHER, MaskError),
    "beyond 255": (BOX * 256, MaskError),
    "mixed ranges": (np.where(BOX, 255.0, 0.5), MaskError),
    "complex": (BOX.astype(complex), MaskError),
    "objects": (BOX.astype(object), MaskError),
    "texts": (BOX.astype(str), MaskError),
    "dates": (BOX.astype("datetime64[s]"), MaskError),
    "rank 0": (np.array(1.0), MaskError),
    "rank 1 of bools": (BOX[0], MaskError),
    "rank 4": (BOX[None, None], MaskError),
    "list of stacks": ([BOX[None]], MaskError),
    "list of two sizes": ([BOX, BOX[:-1]], MaskSizeError),
    "ragged": ([[0, 1], [0, 1, 1]], MaskError),
    "lists of another shape": ([[0, 1, 1], [0, 1, 0]], MaskSizeError),
    "odd polygon": ([1, 2, 3, 4, 5, 6, 7], MaskError),
    "odd polygon in a list": ([FLAT, FLAT[:-1]], MaskError),
    "odd polygon in annotations": ([[FLAT], [FLAT[:-1]]], MaskError),
    "two points": ([[1, 2], [3, 4]], MaskError),
    "two points, flat": ([1, 2, 3, 4], MaskError),
    "list of points lists": ([PAIRS, PAIRS], MaskSizeError),
    "polygon without area": ([1, 2, 1, 2, 1, 2], EmptyMaskError),
    "polygon off the picture": ([n + 100 for n in FLAT], EmptyMaskError),
    "polygon of everything": ([-5, -5, 50, -5, 50, 50, -5, 50], FullMaskError),
    "polygon with NaN": ([*FLAT[:-1], float("nan")], MaskError),
    "polygon far away": ([*FLAT[:-1], 1e300], MaskError),
    "polygon of huge whole numbers": ([*FLAT[:-1], 10**400], MaskError),
    "polygon of bools": ([True] * 8, MaskSizeError),
    "rle of another size": (encode_rle(BOX[:-1]), MaskSizeError),
    "rle turned": ({**encode_rle(BOX), "size": [30, 20]}, MaskSizeError),
    "rle too short": ({"size": SIZE, "counts": [10, 20]}, MaskError),
    "rle negative": ({"size": SIZE, "counts": [700, -100]}, MaskError),
    "rle of fractions": ({"size": SIZE, "counts": [300.0, 300.0]}, MaskError),
    "rle of bools": ({"size": SIZE, "counts": [True, 599]}, MaskError),
    "rle of nothing": ({"size": SIZE, "counts": None}, MaskError),
    "rle of a wild text": ({"size": SIZE, "counts": "~~~"}, MaskError),
    "rle cut off": ({"size": SIZE, "counts": "P"}, MaskError),
    "rle overflowing": ({"size": SIZE, "counts": "o" * 30 + "0"}, MaskError),
    "rle huge": ({"size": [10**5, 10**5], "counts": [10**10]}, MaskError),
    "rle beyond memory": ({"size": [16384, 16384], "counts": [16384**2]}, MaskError),
    "rle, size of texts": ({"size": ["20", "30"], "counts": []}, MaskError),
    "rle, size is NaN": ({"size": [float("nan"), 30], "counts": []}, MaskError),
    "coco of two pictures": (coco_of_two(), MaskError),
    "coco of no picture": ({"images": [], "annotations": []}, MaskError),
    "coco without annotations": (coco(), EmptyMaskError),
    "coco of boxes": (coco([]), MaskError),
    "coco of another size": (coco([FLAT], size=(21, 30)), MaskSizeError),
    "coco of nonsense": ({"images": 3, "annotations": None}, MaskError),
    "coco of a text": (coco("steak"), MaskError),
    "labelme line": (labelme({"points": PAIRS, "shape_type": "linestrip"}), MaskError),
    "labelme without points": (labelme({"label": "steak"}), MaskError),
    "labelme rectangle of three": (labelme({"points": PAIRS[:3], "shape_type": "rectangle"}), MaskError),
    "labelme of nothing": (labelme(), EmptyMaskError),
    "labelme of another size": (labelme({"points": PAIRS}, size=(21, 30)), MaskSizeError),
    "detections without masks": (SimpleNamespace(mask=None), EmptyMaskError),
    "no detections": (SimpleNamespace(mask=np.zeros((0, *SIZE), bool)), EmptyMaskError),
    "detections of one axis too few": (SimpleNamespace(mask=BOX), MaskError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    value, kind = REFUSED[name]
    with pytest.raises(MaskError) as caught:
        parse_masks(value, SIZE)
    problem = caught.value
    assert type(problem) is kind
    assert problem.message.endswith(".") and len(problem.message) < 250
    assert problem.hint.endswith((".", ", ...")) and len(problem.hint) < 300


def test_the_error_says_which_mask() -> None:
    with pytest.raises(EmptyMaskError, match="Mask 2 of 3"):
        parse_masks([BOX, BOX & False, BOX], SIZE)


def test_a_path_is_named_as_such() -> None:
    with pytest.raises(MaskError, match="looks like a path"):
        parse_masks("masks/steak.png", SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_kind_must_fit(kind: str) -> None:
    misfit = PAIRS if kind in ("png", "alpha", "coco", "labelme", "detections", "rle") else b"bytes"
    with pytest.raises(MaskKindError, match=f"kind='{kind}'"):
        parse_masks(misfit, SIZE, kind=kind)


def test_unknown_kind_and_size() -> None:
    with pytest.raises(OptionError, match="'mask'"):
        parse_masks(BOX, SIZE, kind="mask")
    for size in (None, 5, (5,), (0, 5), (5, 10**9), (1.5, 2), ("a", "b"), (float("nan"), 1), (float("inf"), 1)):
        with pytest.raises(OptionError, match="picture size"):
            parse_masks(BOX, size)  # type: ignore[arg-type]


def test_too_many() -> None:
    with pytest.raises(MaskError, match="too many"):
        parse_masks(np.broadcast_to(BOX, (257, *SIZE)), SIZE)
    with pytest.raises(MaskError, match="GiB"):  # nothing is allocated before it is refused
        parse_masks([FLAT] * 256, (16384, 16384), kind="polygons")


# -- options


def test_full_masks_when_allowed() -> None:
    assert parse_masks(BOX | True, SIZE, allow_full=True).all()
    assert parse_masks(png(rgba(BOX | True)), SIZE, allow_full=True).all()


@pytest.mark.parametrize("factor", [2, 3])
def test_resize_by_nearest_neighbour(factor: int) -> None:
    big = np.kron(BOX, np.ones((factor, factor), bool))
    size = big.shape
    for value in (
        big,
        [big],
        Image.fromarray(big),
        png(rgba(big)),
        encode_rle(big),
        coco(encode_rle(big), size=size),
        SimpleNamespace(mask=big[None]),
    ):
        np.testing.assert_array_equal(parse_masks(value, SIZE, resize=True), [BOX])
    # and the other way round
    np.testing.assert_array_equal(parse_masks(BOX, size, resize=True), [big])
    flat = [n * factor for n in FLAT]
    np.testing.assert_array_equal(parse_masks(coco([flat], size=size), SIZE, resize=True), [BOX])
    shape = {"points": [[n * factor for n in p] for p in PAIRS]}
    np.testing.assert_array_equal(parse_masks(labelme(shape, size=size), SIZE, resize=True), [BOX])


@given(st.integers(1, 40), st.integers(1, 40))
def test_nearest_neighbour_takes_the_pixel_under_the_centre(old: int, new: int) -> None:
    row = np.arange(old) % 2 == 0
    want = [row[math.floor(Fraction(2 * i + 1, 2) * old / new)] for i in range(new)]
    if any(want):
        np.testing.assert_array_equal(parse_masks(row[None], (1, new), resize=True, allow_full=True), [[want]])
        np.testing.assert_array_equal(parse_masks(row[:, None], (new, 1), resize=True, allow_full=True)[0, :, 0], want)


def test_image_id() -> None:
    both = coco_of_two()
    np.testing.assert_array_equal(parse_masks(both, SIZE, image_id=7), [BOX])
    np.testing.assert_array_equal(parse_masks(both, SIZE, image_id="7"), [BOX])
    np.testing.assert_array_equal(parse_masks(both, SIZE, image_id="b"), [OTHER])
    with pytest.raises(MaskError, match="no picture 'c'") as caught:
        parse_masks(both, SIZE, image_id="c")
    assert "7, 'b'" in caught.value.hint


def test_labelme_groups_are_one_object() -> None:
    parts = [
        {"points": PAIRS, "label": "log", "group_id": 1},
        {"points": [[22, 15], [28, 19]], "shape_type": "rectangle", "label": "log", "group_id": 1},
    ]
    np.testing.assert_array_equal(parse_masks(labelme(*parts), SIZE), [BOX | OTHER])


def test_labelme_circle() -> None:
    found = parse_masks(labelme({"points": [[15, 10], [15, 17]], "shape_type": "circle"}), SIZE)[0]
    y, x = np.mgrid[:20, :30] + 0.5
    distance = np.hypot(x - 15, y - 10)
    assert found[distance < 6].all() and not found[distance > 8].any()
    with pytest.raises(EmptyMaskError):
        parse_masks(labelme({"points": [[15, 10], [15, 10]], "shape_type": "circle"}), SIZE)


def test_only_its_shape_makes_a_list_pixels() -> None:
    """Lists of black and white that have the picture's size can be nothing else; the same numbers in another shape are no mask."""
    size = (4, 6)
    value = [[0, 0, 1, 1, 1, 0]] * 4
    assert parse_masks(value, size).sum() == 12
    with pytest.raises(MaskKindError):  # flats, for a picture of another size
        parse_masks(value, (5, 6))
