"""Masks in, whatever their form: `parse_masks` turns them into bool (N, H, W), or says precisely why not. It never guesses.

| kind | forms | objects |
| --- | --- | --- |
| bitmap | array, nested lists or picture of brightness: (H, W), (H, W, 1), (N, H, W), or a list of (H, W) | 1 or N |
| alpha | array (H, W, 2) or (H, W, 4), Pillow picture with alpha | 1 |
| png | bytes, data URL or base64 of a picture file: its alpha if it has one, else its brightness; or a list of such | 1 or N |
| polygons | flat [x1, y1, x2, y2, ...], or a list of flats, one object each | 1 or N |
| points | [[x, y], ...] | 1 |
| annotation | COCO `segmentation`: a list of flats (parts of one object) or an RLE; a list of such | 1 or N |
| rle | {"size", "counts"}, or a list of such | 1 or N |
| coco, labelme | the whole JSON | N |
| detections | an object with `.mask`, as supervision's | N |

docs/masks.md tells more. mask_kinds.py tells which kind a value is; the pixel rules stand in mask_bitmaps.py, mask_polygons.py
and mask_rle.py.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import EmptyMaskError, FullMaskError, ImageError, MaskError, MaskKindError, MaskSizeError, OptionError
from .images import alpha_of, check_size, decoding, grey_of, is_pillow, opened, upright
from .mask_bitmaps import as_array, bitmaps, selected, to_size
from .mask_files import coco_objects, declared_size, labelme_objects
from .mask_kinds import KINDS, is_outlines, is_rle, named, nested, only, readings
from .mask_polygons import Budget, fill_rings
from .mask_rle import decode_counts, encode_rle, runs_to_mask
from .request import MAX_MASKS, MAX_SIDE

__all__ = ["KINDS", "encode_rle", "parse_masks"]

MAX_BYTES = 4 << 30  # of all masks together, one byte a pixel
_PICTURE = "Give a picture file's bytes, its base64, or a data URL of it."


def parse_masks(
    value: Any,
    size: Sequence[int],
    *,
    kind: str | None = None,
    resize: bool = False,
    image_id: int | str | None = None,
    allow_full: bool = False,
    most: int = MAX_BYTES,
    check_file: Callable[[bytes], None] | None = None,
) -> np.ndarray:
    """Masks of any known form -> bool (N, H, W), N >= 1, contiguous, in the order given.

    size: the picture's (H, W). kind: one of KINDS, or None to tell it from the value. resize: bring masks of another size to the
    picture's by nearest neighbour. image_id: which picture of a COCO file. allow_full: accept masks that select everything. most: bytes of all masks
    together, one a pixel; it bounds the work of drawing outlines, too. check_file: is shown each picture file before it is opened, and raises an ImageError for one that shan't be.

    Raises MaskError, or one of its kinds: MaskKindError (unknown form, or two readings), MaskSizeError, EmptyMaskError,
    FullMaskError; OptionError for a `size` or `kind` that is none.
    """
    checked = _checked_size(size)
    if kind is not None and kind not in KINDS:
        raise OptionError(f"{kind!r} is no kind of mask.", f"Choose among: {', '.join(KINDS)}.")
    try:
        possible = readings(value, checked, resize)
        chosen = only(value, possible, checked) if kind is None else named(value, possible, kind)
        return _sound(_Reader(checked, resize, image_id, most, check_file).read(value, chosen), allow_full, chosen)
    except ImageError as problem:
        raise MaskError(f"A mask's picture can't be read: {problem.message}", problem.hint, detail=problem.detail) from None
    except MemoryError:
        raise MaskError("There isn't enough memory for the masks.", "Give fewer at once, or a smaller picture.") from None


def _checked_size(size: Sequence[int]) -> tuple[int, int]:
    try:
        height, width = (int(n) for n in size)
        whole = (height, width) == tuple(size)
    except (TypeError, ValueError, OverflowError):
        whole, height, width = False, 0, 0
    if not (whole and 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise OptionError(f"{size!r} is no picture size.", f"Give (height, width), each 1 to {MAX_SIDE}.")
    return height, width


def _sound(masks: np.ndarray, allow_full: bool, kind: str) -> np.ndarray:
    count = len(masks)
    hint = (
        "If the brightness is meant, save the picture without alpha; if the object fills it, allow full masks."
        if kind in ("png", "alpha")
        else ""
    )
    for index, mask in enumerate(masks):
        which = "The mask" if count == 1 else f"Mask {index + 1} of {count}"
        if not mask.any():
            raise EmptyMaskError(f"{which} selects nothing.")
        if not allow_full and mask.all():
            raise FullMaskError(f"{which} selects the whole picture.", hint)
    return np.ascontiguousarray(masks)


class _Reader:
    """One call of parse_masks. Each `_kind` returns bool (N, H, W) of the picture's size."""

    def __init__(
        self, size: tuple[int, int], resize: bool, image_id: int | str | None, most: int, check_file: Callable[[bytes], None] | None
    ) -> None:
        self.size, self.resize, self.image_id = size, resize, image_id
        self.most, self.check_file = most, check_file
        self.budget = Budget(most)

    def read(self, value: Any, kind: str) -> np.ndarray:
        method: Callable[[Any], np.ndarray] = getattr(self, f"_{kind}")
        return method(value)

    def _stack(self, items: Iterable[Any], count: int, one: Callable[[Any], np.ndarray]) -> np.ndarray:
        """`one` (H, W) mask for each item, written straight into the result."""
        self._room(count)
        out = np.empty((count, *self.size), bool)
        for index, item in enumerate(items):
            out[index] = one(item)
        return out

    def _fit(self, mask: np.ndarray) -> np.ndarray:
        """One mask (h, w) at the picture's size."""
        fitted: np.ndarray = to_size(mask[None], self.size, self.resize)[0]
        return fitted

    def _room(self, count: int) -> None:
        if count == 0:
            raise EmptyMaskError("There is no mask.", "Give one mask for each object.")
        if count > MAX_MASKS:
            raise MaskError(f"{count} masks are too many.", f"Give at most {MAX_MASKS} at once.")
        if count * math.prod(self.size) > self.most:
            raise MaskError(
                f"{count} masks of this size need more than {self.most / (1 << 30):.3g} GiB.", "Give fewer at once, or a smaller picture."
            )

    # -- pixels

    def _bitmap(self, value: Any) -> np.ndarray:
        if is_pillow(value):
            return self._pillow(value)[None]
        if isinstance(value, (list, tuple)) and nested(value) is None:
            return self._stack(value, len(value), self._one_bitmap)
        array = np.array(value) if isinstance(value, (list, tuple)) else as_array(value)
        assert array is not None
        found = bitmaps(array, self.size)
        self._room(len(found))
        return to_size(found, self.size, self.resize)

    def _one_bitmap(self, item: Any) -> np.ndarray:
        if is_pillow(item):
            return self._pillow(item)
        array = as_array(item)
        if array is None or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 1):
            raise MaskError("A list of masks holds an array that isn't (H, W).", "Give one (H, W) array for each object.")
        return self._fit(selected(array.reshape(array.shape[:2])))

    def _alpha(self, value: Any) -> np.ndarray:
        if is_pillow(value):
            return self._pillow(value)[None]
        array = as_array(value)
        assert array is not None
        return to_size(selected(array[..., -1], "The alpha")[None], self.size, self.resize)

    def _detections(self, value: Any) -> np.ndarray:
        held = value.mask
        if held is None:
            raise EmptyMaskError("These detections carry no masks.", "Use a model that segments, or turn the boxes into masks first.")
        array = as_array(held)
        if array is None or array.ndim != 3:
            raise MaskError("The detections' masks aren't an array of (N, H, W).", "Give them as supervision.Detections has them.")
        self._room(len(array))
        return to_size(selected(array, "The detections' masks"), self.size, self.resize)

    # -- pictures

    def _png(self, value: Any) -> np.ndarray:
        items = value if isinstance(value, (list, tuple)) else [value]
        return self._stack(items, len(items), self._one_file)

    def _one_file(self, item: Any) -> np.ndarray:
        data = _file_bytes(item)
        if self.check_file is not None:
            self.check_file(data)
        with opened(data) as picture:
            pixels, what = _pixels(picture)
        return self._fit(selected(pixels, what))

    def _pillow(self, picture: Any) -> np.ndarray:
        with decoding():
            check_size(picture.width, picture.height)
            pixels, what = _pixels(picture)
        return self._fit(selected(pixels, what))

    # -- outlines

    def _polygons(self, value: Any) -> np.ndarray:
        flats = value if _is_list(value[0]) else [value]
        return self._stack(flats, len(flats), lambda flat: self._fill([flat], self.size))

    def _points(self, value: Any) -> np.ndarray:
        return self._fill([np.asarray(value).reshape(-1)], self.size)[None]

    def _annotation(self, value: Any) -> np.ndarray:
        items = [value] if is_outlines(value) or not isinstance(value, (list, tuple)) else value
        return self._stack(items, len(items), lambda item: self._segmentation(item, self.size))

    def _rle(self, value: Any) -> np.ndarray:
        items = [value] if isinstance(value, Mapping) else value
        return self._stack(items, len(items), self._one_rle)

    def _one_rle(self, item: Mapping[Any, Any]) -> np.ndarray:
        height, width = declared_size(item["size"], "An RLE's size")
        if (height, width) != self.size and not self.resize:
            raise MaskSizeError(
                f"An RLE is {width}x{height} pixels, the picture is {self.size[1]}x{self.size[0]}.",
                "An RLE's size is [height, width]. Allow other sizes with resize=True.",
            )
        return self._fit(runs_to_mask(decode_counts(item["counts"], height * width), height, width))

    def _fill(self, flats: Iterable[Any], size: tuple[int, int]) -> np.ndarray:
        """Rings as flat coordinates -> their union, bool (H, W)."""
        return fill_rings((_ring(flat) for flat in flats), *size, self.budget)

    def _segmentation(self, item: Any, size: tuple[int, int]) -> np.ndarray:
        """One object's COCO `segmentation`, drawn on a picture of `size`, brought to the picture's own."""
        if is_rle(item):
            return self._one_rle(item)
        if not _is_list(item):
            raise MaskError(
                f"A segmentation is a {type(item).__name__}, not an RLE or a list of polygons.", "Take COCO's `segmentation` as it is."
            )
        return self._fit(self._fill(item, size))

    # -- annotation files

    def _coco(self, value: Mapping[Any, Any]) -> np.ndarray:
        return self._file(*coco_objects(value, self.image_id))

    def _labelme(self, value: Mapping[Any, Any]) -> np.ndarray:
        return self._file(*labelme_objects(value))

    def _file(self, declared: tuple[int, int] | None, segmentations: list[Any]) -> np.ndarray:
        size = declared or self.size
        if size != self.size and not self.resize:
            raise MaskSizeError(
                f"The file is for a picture of {size[1]}x{size[0]} pixels, this one is {self.size[1]}x{self.size[0]}.",
                "Take the picture that it was made for, or allow other sizes with resize=True.",
            )
        return self._stack(segmentations, len(segmentations), lambda item: self._segmentation(item, size))


def _file_bytes(item: Any) -> bytes:
    """A picture file's bytes from bytes, a data URL or base64."""
    if not isinstance(item, str):
        return bytes(item)
    text = item.strip()
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise MaskError("A data URL isn't base64.", "It must begin like data:image/png;base64, and hold a picture file.")
    elif text[:1] in ("{", "["):
        raise MaskKindError("A text of JSON is no mask.", "Parse it first (json.loads) and give what it holds.")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
        if data:
            return data
    except (binascii.Error, ValueError):  # ValueError: letters that aren't ASCII
        pass
    if len(text) < 4096 and re.search(r"[/\\]|\.\w{1,5}$", text):
        raise MaskError("This text looks like a path, not like a picture.", "Open the file first and give its bytes.")
    raise MaskError("This text is no picture.", _PICTURE)


def _pixels(picture: Any) -> tuple[np.ndarray, str]:
    """A Pillow picture's alpha if it has one, else its brightness; numbers (H, W), and what they are."""
    turned = upright(picture)
    alpha = alpha_of(turned)
    return (grey_of(turned), "The picture") if alpha is None else (alpha, "The alpha")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _ring(flat: Any) -> np.ndarray:
    """Flat coordinates -> (K, 2) float64, K >= 3."""
    if not _is_list(flat) or not all(isinstance(n, (int, float, np.integer, np.floating)) and not isinstance(n, bool) for n in flat):
        raise MaskError("A polygon isn't a flat list of numbers.", "Give x1, y1, x2, y2, x3, y3, ...")
    if len(flat) % 2:
        raise MaskError(f"A polygon has {len(flat)} numbers: one x has no y.", "Give x1, y1, x2, y2, x3, y3, ...")
    if len(flat) < 6:
        raise MaskError(f"A polygon has {len(flat) // 2} points.", "It needs three or more.")
    try:
        return np.array([float(n) for n in flat]).reshape(-1, 2)
    except OverflowError:  # a whole number beyond floats
        raise MaskError("A polygon has a coordinate that is no pixel coordinate.", "Give pixel coordinates.") from None
