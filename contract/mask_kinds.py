"""Which kinds of mask a value could be, told from its form alone.

`readings` gives every kind that can read the value, each with whether it is *natural*: taken into account when nobody named the
kind. An array, for instance, is naturally pixels, but may be named points; so is a list of lists of exactly the picture's size.
`only` picks the one natural reading, or refuses and names them all. Nothing is guessed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import EmptyMaskError, MaskError, MaskKindError, MaskSizeError
from .images import has_alpha, is_pillow
from .mask_bitmaps import array_kinds, as_array

KINDS = ("bitmap", "alpha", "png", "polygons", "points", "annotation", "rle", "coco", "labelme", "detections")
MOST_NUMBERS = 20_000_000  # in nested lists: a bitmap of 4096x4096
_FORMS = "Give an array, a picture, polygons, an RLE, a COCO or labelme JSON, or detections."
_POLYGON = "A polygon has x and y of 3 points or more: an even number of 6 or more."

Readings = dict[str, bool]


def only(value: Any, readings: Readings, size: tuple[int, int]) -> str:
    """The one natural kind. Raises MaskKindError that names all where there are several, MaskError or MaskSizeError where there is none."""
    natural = [kind for kind, taken in readings.items() if taken]
    if not natural:
        raise _misfit(value, size)
    if len(natural) > 1:
        what = {"polygons": "one object each", "annotation": "parts of one object", "points": "one outline", "bitmap": "pixels"}
        names = [f"kind='{kind}'" + (f" ({what[kind]})" if kind in what else "") for kind in natural]
        raise MaskKindError(f"{describe(value)} can be read as {' or as '.join(names)}.", "Name the kind.")
    return natural[0]


def named(value: Any, readings: Readings, kind: str) -> str:
    """`kind`, if the value can be read as it. Raises MaskKindError."""
    if kind not in readings:
        raise MaskKindError(f"{describe(value)} can't be read as kind='{kind}'.", f"It can be read as {', '.join(readings)}.")
    return kind


def readings(value: Any, size: tuple[int, int], resize: bool) -> Readings:
    """kind -> whether it is natural, at least one natural for a value that kind=None accepts. Raises for what no kind reads."""
    if value is None:
        raise MaskError("There is no mask: the value is None.", "Give a mask, e.g. an array of the picture's size.")
    if isinstance(value, (bytes, bytearray, memoryview, str)):
        return {"png": True}
    if isinstance(value, os.PathLike):
        raise MaskKindError("A path is no mask.", "Open the file first: its bytes for a picture, json.load for JSON.")
    if is_pillow(value):
        return {"alpha": True} if has_alpha(value) else {"bitmap": True}
    if isinstance(value, Mapping):
        return _of_mapping(value)
    if isinstance(value, (list, tuple)):
        return _of_list(value, size)
    if is_detections(value):
        return {"detections": True}
    array = as_array(value)
    if array is None:
        raise MaskKindError(f"{describe(value)} is no mask.", _FORMS)
    return _of_array(array, size, resize)


def describe(value: Any) -> str:
    """What a value is, in words for an error."""
    if isinstance(value, (list, tuple)):
        inner = nested(value)
        return (
            {1: "A list of numbers", 2: "A list of lists of numbers", 3: "A list of lists of lists of numbers"}.get(inner.depth, "A list")
            if inner
            else "A list"
        )
    if isinstance(value, np.ndarray):
        return f"An array of shape {value.shape}"
    return {"str": "A text", "bytes": "A file's bytes", "dict": "A mapping"}.get(
        type(value).__name__, f"A value of type {type(value).__name__}"
    )


def is_detections(value: Any) -> bool:
    """Whether it has a `.mask` that holds something, as supervision.Detections does (and pandas' and numpy's own `.mask` don't)."""
    if isinstance(value, (np.ndarray, type)):
        return False
    try:
        return hasattr(value, "mask") and not callable(value.mask)
    except Exception:  # a property of foreign code
        return False


def is_rle(value: Any) -> bool:
    return isinstance(value, Mapping) and "counts" in value and "size" in value


def is_flats(value: Any) -> bool:
    """A list of flat polygons: lists of an even number of coordinates, 6 or more."""
    inner = nested(value) if isinstance(value, (list, tuple)) and value else None
    return inner is not None and inner.depth == 2 and not inner.bools and all(len(row) >= 6 and len(row) % 2 == 0 for row in value)


def is_outlines(value: Any) -> bool:
    """What COCO's `segmentation` of one object may hold."""
    return is_rle(value) or is_flats(value)


@dataclass(frozen=True)
class Nested:
    """Lists of lists of numbers. shape: None where they are ragged. bools: whether there are bools among the numbers."""

    depth: int
    shape: tuple[int, ...] | None
    bools: bool


def nested(value: Any) -> Nested | None:
    """What a list is, if it holds numbers at one depth of 1 to 3; else None. Raises MaskError for more numbers than a mask needs."""
    level, shape = [value], []
    for depth in (1, 2, 3):
        lengths = {len(item) for item in level}
        shape.append(lengths)
        if sum(len(item) for item in level) > MOST_NUMBERS:
            raise MaskError(f"The lists hold more than {MOST_NUMBERS} numbers.", "Give an array.")
        items = list(itertools.chain.from_iterable(level))
        types = set(map(type, items))
        if all(issubclass(kind, (int, float, np.integer, np.floating, np.bool_)) for kind in types):
            even = all(len(found) == 1 for found in shape)
            return Nested(
                depth, tuple(found.pop() for found in shape) if even else None, any(issubclass(k, (bool, np.bool_)) for k in types)
            )
        if not all(isinstance(item, (list, tuple)) or (isinstance(item, np.ndarray) and item.ndim == 1) for item in items):
            return None
        level = items
    return None


def _of_mapping(value: Mapping[Any, Any]) -> Readings:
    if is_rle(value):
        return {"rle": True, "annotation": False}  # the same mask both ways
    if "annotations" in value and "images" in value:
        return {"coco": True}
    if "shapes" in value:
        return {"labelme": True}
    hint = "Give an RLE {size, counts}, a whole COCO JSON {images, annotations}, or a labelme JSON {shapes}."
    if "segmentation" in value:
        hint = "Give its 'segmentation', with kind='annotation'."
    keys = ", ".join(repr(key)[:40] for key in itertools.islice(value, 5)) or "none"
    raise MaskKindError(f"A mapping is no known form of mask (its keys: {keys}).", hint)


def _of_array(array: np.ndarray, size: tuple[int, int], resize: bool) -> Readings:
    numbers = array.dtype.kind in "uif" and array.size > 0
    if array.ndim == 1 and numbers:
        return {"polygons": True}
    if array.ndim not in (2, 3):
        raise MaskError(f"An array of shape {array.shape} is no mask.", "Give (H, W), (N, H, W), or (H, W, 4) with alpha.")
    pixels = array_kinds(array.shape, size, resize)
    found: Readings = dict.fromkeys(pixels, True)
    for kind in ("bitmap", *(["alpha"] if array.ndim == 3 and array.shape[2] in (2, 4) else [])):
        found.setdefault(kind, False)
    if numbers and array.ndim == 2:
        found |= {"points": False} if array.shape[1] == 2 else {"polygons": False, "annotation": False}
    return found


def _of_list(value: Sequence[Any], size: tuple[int, int]) -> Readings:
    if not value:
        raise EmptyMaskError("The list of masks is empty.", "Give one mask for each object.")
    if any(isinstance(item, (list, tuple)) and not item for item in value):
        raise EmptyMaskError("A list of masks holds an empty list.", "Give one mask for each object.")
    inner = nested(value)
    if inner is not None:
        return _of_numbers(value, inner, size)
    if all(is_rle(item) for item in value):
        return {"rle": True, "annotation": False}  # the same masks both ways
    if all(isinstance(item, (bytes, bytearray, memoryview, str)) for item in value):
        return {"png": True}
    if all(is_outlines(item) for item in value):
        return {"annotation": True}
    if all(is_pillow(item) or _is_pixels(item) for item in value):
        return {"bitmap": True}
    for item in value:
        if item is None:
            raise MaskError("A list of masks holds None.", "Give one mask for each object.")
        if isinstance(item, Mapping) and not is_rle(item):
            _of_mapping(item)
            raise MaskKindError("A list of whole JSON files is no mask.", "Give one file at a time.")
    held = sorted({describe(item).lower() for item in value[:100]})[:4]
    raise MaskKindError(f"A list that holds {', '.join(held)} is no known form of mask.", _FORMS)


def _is_pixels(value: Any) -> bool:
    array = as_array(value)
    return array is not None and array.ndim >= 2


def _of_numbers(value: Sequence[Any], inner: Nested, size: tuple[int, int]) -> Readings:
    """Nested lists: a flat polygon; points, flats, or a bitmap's rows; annotations, or a stack of bitmaps."""
    if inner.depth == 1:
        return {} if inner.bools else {"polygons": True}
    found: Readings = {}
    outlines = not inner.bools
    if inner.shape is not None:
        fits = size in (inner.shape, inner.shape[1:]) or inner.shape == (*size, 1)
        pixels, coordinates = _told_by_values(value) if fits else (False, True)
        found["bitmap"] = pixels  # by name, any shape: then `resize` decides
        outlines = outlines and coordinates
    if inner.depth == 2 and not inner.bools:
        if all(len(row) == 2 for row in value):
            found["points"] = outlines
        if is_flats(value):
            # One flat is one object with one part: the same mask both ways.
            found |= {"polygons": outlines, "annotation": outlines and len(value) > 1}
    if inner.depth == 3 and not inner.bools and all(is_flats(item) for item in value):
        found["annotation"] = outlines
    return found


def _told_by_values(value: Sequence[Any]) -> tuple[bool, bool]:
    """Whether lists of exactly the picture's size may be pixels (all in 0..255), and whether they may be coordinates.

    An outline of nothing but 0..1, or of 0 and 255, encloses no shape: such numbers are pixels only. So are NaN, for `selected` to refuse.
    """
    numbers = np.array(value)
    if numbers.dtype.kind not in "buif":
        return False, True
    if not np.isfinite(numbers).all():
        return True, False
    black_and_white = (numbers <= 1).all() or ((numbers == 0) | (numbers == 255)).all()
    pixels = bool(numbers.min() >= 0 and numbers.max() <= 255)
    return pixels, not (pixels and black_and_white)


def _misfit(value: Any, size: tuple[int, int]) -> MaskError:
    """Why an array or nested lists of numbers are no mask of any kind for a picture of `size`."""
    height, width = size
    if isinstance(value, (list, tuple)):
        inner = nested(value)
        shape: Any = inner.shape if inner else None
        if inner is not None and shape is None and inner.depth > 1:
            rows = value if inner.depth == 2 else [row for item in value for row in item]
            odd = next((len(row) for row in rows if len(row) % 2), 0)
            what = f"A list of {odd} numbers is no polygon." if odd else "Ragged lists of numbers are no mask."
            return MaskError(what, _POLYGON)
        hint = f"As bitmap it must have exactly the picture's size. {_POLYGON}"
    else:
        array = as_array(value)
        shape, hint = getattr(array, "shape", None), "Resize it first; for coordinates name the kind, e.g. kind='points'."
    return MaskSizeError(
        f"{'Lists' if isinstance(value, (list, tuple)) else 'An array'} of shape {shape} can't be a mask of a picture of {width}x{height}.",
        hint,
    )
