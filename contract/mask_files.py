"""Annotation files - COCO's and labelme's JSON - reduced to what both hold: a picture size and one `segmentation` for each object."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import MaskError
from .images import MAX_PIXELS
from .mask_polygons import FURTHEST
from .request import MAX_SIDE

Size = tuple[int, int]
_RIM = 0.1  # pixels by which the polygon of a circle may miss it


def declared_size(value: Any, what: str) -> Size:
    """A (height, width) that a file or an RLE declares, within the limits. Raises MaskError."""
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    height, width = (_side(n) for n in plain) if isinstance(plain, (list, tuple)) and len(plain) == 2 else (0, 0)
    if not 1 <= height * width <= MAX_PIXELS:
        raise MaskError(f"{what} is {str(value)[:60]}.", f"It must be two whole numbers, height and width, 1 to {MAX_SIDE} each.")
    return height, width


def _side(number: Any) -> int:
    """A whole number from 1 to MAX_SIDE, or 0."""
    if isinstance(number, bool) or not isinstance(number, (int, float, np.integer, np.floating)):
        return 0
    return int(number) if 1 <= number <= MAX_SIDE and number == int(number) else 0


def coco_objects(value: Mapping[Any, Any], image_id: int | str | None) -> tuple[Size | None, list[Any]]:
    """A whole COCO JSON -> the chosen picture's size (None if the file doesn't say) and its annotations' segmentations, in their order."""
    images = _mappings(value["images"], "images")
    chosen = images if image_id is None else [image for image in images if _same(image.get("id"), image_id)]
    if len(chosen) != 1:
        known = [repr(image.get("id"))[:40] for image in images[:8]] + ["..."] * (len(images) > 8)
        count = f"{len(chosen)} pictures" if chosen or image_id is None else f"no picture {image_id!r}"
        raise MaskError(f"The COCO file has {count}.", f"Name one with image_id, of: {', '.join(known) or 'none'}.")
    image = chosen[0]
    found = [item for item in _mappings(value["annotations"], "annotations") if _same(item.get("image_id"), image.get("id"))]
    segmentations = [item.get("segmentation") for item in found]
    for index, item in enumerate(segmentations):
        if item is None or (isinstance(item, (list, tuple)) and not item):
            raise MaskError(f"Annotation {index + 1} of {len(found)} has no segmentation.", "Leave out annotations that are only boxes.")
    return _size(image.get("height"), image.get("width"), "The COCO picture's size"), segmentations


def labelme_objects(value: Mapping[Any, Any]) -> tuple[Size | None, list[Any]]:
    """A whole labelme JSON -> the picture's size (None if it doesn't say) and the objects' rings, in the order of their first shape.

    Shapes of one label and one group_id are parts of one object, as in labelme's own converters; others are objects of their own.
    """
    objects: dict[Any, list[list[float]]] = {}
    for index, shape in enumerate(_mappings(value["shapes"], "shapes")):
        group = shape.get("group_id")
        key = index if group is None else (str(shape.get("label")), str(group))
        objects.setdefault(key, []).append(_labelme_ring(shape))
    return _size(value.get("imageHeight"), value.get("imageWidth"), "The labelme picture's size"), list(objects.values())


def _size(height: Any, width: Any, what: str) -> Size | None:
    return None if height is None and width is None else declared_size((height, width), what)


def _same(one: Any, other: Any) -> bool:
    """Ids are compared as texts: a command line can't tell 7 from "7"."""
    return str(one) == str(other)


def _mappings(value: Any, name: str) -> Sequence[Mapping[Any, Any]]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, Mapping) for item in value):
        raise MaskError(f"The file's {name!r} isn't a list of objects.", "Give the whole JSON as the tool wrote it.")
    return value


def _labelme_ring(shape: Mapping[Any, Any]) -> list[float]:
    """A shape's outline as flat coordinates."""
    kind = "polygon" if shape.get("shape_type") is None else str(shape["shape_type"])
    points = _points(shape.get("points"))
    if kind == "polygon":
        return [n for point in points for n in point]
    if kind in ("rectangle", "circle") and len(points) != 2:
        raise MaskError(f"A labelme {kind} has {len(points)} points.", "It has two.")
    if kind == "rectangle":  # two opposite corners
        (x0, y0), (x1, y1) = points
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    if kind == "circle":  # its centre, and a point on its rim
        (x0, y0), (x1, y1) = points
        radius = math.hypot(x1 - x0, y1 - y0)
        count = max(12, math.ceil(math.pi / math.acos(1 - min(_RIM / radius, 1.0)))) if radius > 0 else 12
        angles = [2 * math.pi * i / count for i in range(count)]
        return [n for a in angles for n in (x0 + radius * math.cos(a), y0 + radius * math.sin(a))]
    raise MaskError(f"A labelme shape is a {kind[:40]!r}, which encloses nothing that we read.", "Use polygons, rectangles or circles.")


def _points(value: Any) -> list[tuple[float, float]]:
    if not isinstance(value, (list, tuple)):
        raise MaskError("A labelme shape has no points.", "Give the whole JSON as the tool wrote it.")
    for point in value:
        if not isinstance(point, (list, tuple)) or len(point) != 2 or not all(_is_coordinate(n) for n in point):
            raise MaskError("A labelme shape has a point that isn't [x, y] in pixels.", "Give the whole JSON as the tool wrote it.")
    return [(float(x), float(y)) for x, y in value]


def _is_coordinate(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= FURTHEST  # NaN isn't either
