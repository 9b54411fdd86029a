"""Point maps from outside -> `PointMap`, or an OptionError that says why not (docs/pointmaps.md). It never guesses a frame or a scale.

A point map has a point for each pixel, in the axes of the camera that took the picture. It comes as points whose frame is named, as depth with
intrinsics, as ComfyUI's MOGE_GEOMETRY, or as a file of one of these. Whatever is no point (NaN, infinite, not before the camera, masked out) becomes NaN;
nothing else is changed: no scale, no shift. A map of another size than the picture's is brought to it by the nearest pixel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ImageError, OptionError
from .images import opened
from .request import MAX_SIDE

Size = tuple[int, int]  # height, width

# frame -> what to multiply (x, y, z) with to get PyTorch3D's axes
FRAMES = {"pytorch3d": (1, 1, 1), "opencv": (-1, -1, 1), "opengl": (-1, 1, -1)}
_FRAME_HINT = "Frames: opencv (x right, y down, z forward; what MoGe and ComfyUI have), pytorch3d (x left, y up, z forward), opengl (x right, y up, z backward)."
_SUFFIXES = (".npy", ".npz", ".png", ".tif", ".tiff")
_LOPSIDED = 0.05  # how far the shapes of map and picture may differ: maps are made at whole numbers of patches
_MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class PointMap:
    """points: float32 (H, W, 3) in PyTorch3D camera axes (x left, y up, z forward), all three NaN where there is no point.

    intrinsics: float32 (3, 3) for a picture of width and height 1, or None. source: who made it, for people. metric: whether the unit is a metre.
    """

    points: np.ndarray
    intrinsics: np.ndarray | None
    source: str
    metric: bool

    def resized(self, size: Size) -> PointMap:
        """At (H, W), by the nearest pixel: the one that PyTorch's `nearest` takes."""
        if self.points.shape[:2] == tuple(size):
            return self
        rows, columns = (_nearest(have, want) for have, want in zip(self.points.shape[:2], size))
        return replace(self, points=self.points[rows[:, None], columns])

    def options(self) -> dict[str, Any]:
        """As keywords of Sam3dOptions."""
        return {"pointmap": self.points, "pointmap_frame": "pytorch3d", "intrinsics": self.intrinsics}


def from_points(
    points: object,
    frame: str,
    size: Size | None = None,
    *,
    mask: object = None,
    intrinsics: object = None,
    metric: bool = True,
    source: str = "point map",
) -> PointMap:
    """Points (h, w, 3), any kind of number, in the named frame; size: the picture's (H, W), None keeps the map's own.

    mask: (h, w), 0 where there is no point. intrinsics: (3, 3), for a picture of size 1 x 1 or in pixels of the map. Raises OptionError.
    """
    if frame not in FRAMES:
        raise OptionError(f"The point map's frame is {frame!r}." if frame else "The point map's frame isn't named.", _FRAME_HINT)
    values = _numbers(points, "The point map")
    if values.ndim != 3 or values.shape[2] != 3:
        raise OptionError(f"The point map has shape {values.shape}.", "Give (H, W, 3): x, y, z for each pixel.")
    _check_sides(values.shape[:2], "The point map")
    turned = values * np.array(FRAMES[frame], np.float32)
    valid = np.isfinite(turned).all(-1) & (turned[..., 2] > 0)
    if not valid.any() and (np.isfinite(turned).all(-1) & (turned[..., 2] < 0)).any():
        raise OptionError(f"Taken as {frame}, every point lies behind the camera.", f"Name the frame that the points are in. {_FRAME_HINT}")
    made = _made(turned, valid & _valid(mask, values.shape[:2]), intrinsics, source, metric)
    _check_axes(made.points, frame)
    return _fitted(made, size)


def from_depth(
    depth: object,
    intrinsics: object,
    size: Size | None = None,
    *,
    mask: object = None,
    scale: float = 1.0,
    metric: bool = True,
    source: str = "depth map",
) -> PointMap:
    """Depth (h, w) along the optical axis, `scale` metres a unit; intrinsics as for `from_points`. No disparity, no distance along the ray.

    Raises OptionError.
    """
    if not (isinstance(scale, (int, float)) and math.isfinite(scale) and scale > 0):
        raise OptionError(f"The depth map's scale is {scale!r}.", "Give metres per unit: 0.001 for millimetres.")
    values = _numbers(depth, "The depth map")
    if values.ndim != 2:
        raise OptionError(f"The depth map has shape {values.shape}.", "Give (H, W): one depth for each pixel.")
    _check_sides(values.shape, "The depth map")
    if intrinsics is None:
        raise OptionError("A depth map needs the camera's intrinsics.", "Give the 3x3 matrix, or a horizontal field of view.")
    height, width = values.shape
    matrix = _intrinsics(intrinsics, (height, width))
    z = values.astype(np.float64) * scale
    x = ((np.arange(width) + 0.5) / width - matrix[0, 2]) / matrix[0, 0]
    y = ((np.arange(height) + 0.5) / height - matrix[1, 2]) / matrix[1, 1]
    with np.errstate(invalid="ignore", over="ignore"):
        points = np.stack([-x * z, -y[:, None] * z, z], axis=-1).astype(np.float32)
    valid = np.isfinite(points).all(-1) & (points[..., 2] > 0) & _valid(mask, (height, width))
    return _fitted(_made(points, valid, matrix, source, metric), size)


def from_geometry(geometry: object, size: Size | None = None, *, index: int | None = None, metric: bool = False) -> PointMap:
    """ComfyUI's MOGE_GEOMETRY: a dict of `points` (B, H, W, 3) in OpenCV axes (or `depth` (B, H, W)), `intrinsics` (B, 3, 3), `mask` (B, H, W).

    Arrays or tensors; other entries are left alone. index: which picture of the batch, needed where there are several. metric: MoGe 2 and later
    give metres, MoGe 1 doesn't, and the dict doesn't say which it was. Raises OptionError.
    """
    if not isinstance(geometry, Mapping) or (geometry.get("points") is None and geometry.get("depth") is None):
        raise OptionError("This is no MOGE_GEOMETRY: it has no points and no depth.", "Connect the output of ComfyUI's MoGe node.")
    parts = {name: _numbers(value, f"{name} of the MOGE_GEOMETRY") for name in _RANKS if (value := geometry.get(name)) is not None}
    ranks = {name: part.ndim - _RANKS[name] for name, part in parts.items()}
    if set(ranks.values()) == {1}:
        counts = {len(part) for part in parts.values()}
        if len(counts) > 1:
            raise OptionError(
                f"The parts of the MOGE_GEOMETRY are for {sorted(counts)} pictures.", "Connect the MoGe node's output unchanged."
            )
        [count] = counts
        if count != 1 and index is None:
            raise OptionError(f"The MOGE_GEOMETRY holds {count} pictures.", "Choose one by its index.")
        at = index or 0
        if not 0 <= at < count:
            raise OptionError(f"The MOGE_GEOMETRY holds {count} pictures, and {at} was asked for.", f"Choose 0 to {count - 1}.")
        parts = {name: part[at] for name, part in parts.items()}
    elif set(ranks.values()) != {0}:
        shapes = ", ".join(f"{name} {part.shape}" for name, part in parts.items())
        raise OptionError(f"The MOGE_GEOMETRY has parts of unfit shapes: {shapes}.", "Connect the MoGe node's output unchanged.")
    common: dict[str, Any] = {"mask": parts.get("mask"), "metric": metric, "source": "MOGE_GEOMETRY"}
    if "points" in parts:
        return from_points(parts["points"], "opencv", size, intrinsics=parts.get("intrinsics"), **common)
    return from_depth(parts["depth"], parts.get("intrinsics"), size, **common)


_RANKS = {"points": 3, "depth": 2, "intrinsics": 2, "mask": 2}


def read_pointmap(
    path: str | os.PathLike[str],
    size: Size | None = None,
    *,
    frame: str | None = None,
    intrinsics: object = None,
    fov_x: float | None = None,
    depth_scale: float | None = None,
) -> PointMap:
    """A file: .npy with points (H, W, 3) or depth (H, W); .npz with `points` (or `pointmap`) or `depth`, and `intrinsics`, `mask`; a 16-bit PNG or TIFF of depth.

    frame: of points. intrinsics, or fov_x in degrees: of depth, where the file has none. depth_scale: metres per unit of depth, needed for whole
    numbers. Raises OptionError.
    """
    file = Path(path)
    if file.suffix.lower() not in _SUFFIXES:
        raise OptionError(f"{file.name} is no point map.", f"Give a file that ends with {', '.join(_SUFFIXES)}.")
    arrays = _arrays(file)
    points, depth = arrays.get("points"), arrays.get("depth")
    shown = points if points is not None else depth
    if shown is None:
        raise OptionError(f"{file.name} has no points and no depth.", "Name the array `points`, (H, W, 3), or `depth`, (H, W).")
    matrix = arrays.get("intrinsics") if intrinsics is None else intrinsics
    if matrix is None and fov_x is not None and shown.ndim >= 2:
        matrix = fov_intrinsics(fov_x, (shown.shape[0], shown.shape[1]))
    mask = arrays.get("mask")
    if points is not None:
        return from_points(points, frame or "", size, mask=mask, intrinsics=matrix, source=file.name)
    if depth_scale is None and shown.dtype.kind != "f":
        raise OptionError(f"{file.name} holds depth in whole numbers, whose unit nobody knows.", "Name the scale: 0.001 for millimetres.")
    return from_depth(shown, matrix, size, mask=mask, scale=1.0 if depth_scale is None else depth_scale, source=file.name)


def fov_intrinsics(fov_x: float, size: Size) -> np.ndarray:
    """A horizontal field of view in degrees, of a picture of (H, W) square pixels -> intrinsics (3, 3) float32 for width and height 1."""
    if not (isinstance(fov_x, (int, float)) and 0 < fov_x < 180):
        raise OptionError(f"The field of view is {fov_x!r}.", "Give degrees between 0 and 180.")
    focal = 0.5 / math.tan(math.radians(fov_x) / 2)
    return np.array([[focal, 0, 0.5], [0, focal * size[1] / size[0], 0.5], [0, 0, 1]], np.float32)


# -- parts


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """What a file holds, under the names points, depth, intrinsics and mask."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise OptionError(f"{file.name} has {file.stat().st_size >> 20} MiB.", f"Point maps may have {_MAX_BYTES >> 20} MiB.")
        if file.suffix.lower() not in (".npy", ".npz"):
            return {"depth": _picture_of_depth(file)}
        with file.open("rb") as stream:  # closed here: numpy forgets to where an archive is broken
            loaded = np.load(stream, allow_pickle=False)
            found = {file.stem: loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except OptionError:
        raise
    except OSError as problem:
        raise OptionError(f"{file.name} can't be read: {problem.strerror or problem}.", "Check the path and its permissions.") from None
    except Exception as problem:  # numpy raises nearly everything for broken files, and ValueError for pickled objects
        raise OptionError(f"{file.name} can't be read: {problem}.", "Give plain numbers, saved by numpy without pickled objects.") from None
    if len(found) == 1:  # one array needs no name: its shape says what it is
        [array] = found.values()
        return {"points" if array.ndim == 3 else "depth": array}
    if "pointmap" in found:
        found.setdefault("points", found["pointmap"])
    return found


def _picture_of_depth(file: Path) -> np.ndarray:
    try:
        with opened(file.read_bytes()) as picture:
            if picture.mode != "F" and not picture.mode.startswith("I"):
                raise OptionError(f"{file.name} has {picture.mode} pixels.", "Depth needs 16 bits of grey: 8 are for looking at.")
            return np.array(picture)
    except ImageError as problem:
        raise OptionError(f"{file.name}: {problem.message}", problem.hint) from None


def _numbers(value: object, what: str) -> np.ndarray:
    tensor: Any = value
    try:
        array = np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else tensor)
    except Exception as problem:  # ragged lists, tensors of a kind that numpy doesn't have
        raise OptionError(f"{what} can't be read as an array: {problem}.", "Give an array of numbers.") from None
    if array.dtype.kind not in "fiub":
        raise OptionError(f"{what} is an array of {array.dtype}.", "Give an array of real numbers.")
    with np.errstate(over="ignore"):  # what float32 can't hold is no point
        return array.astype(np.float32) if array.dtype.kind == "f" else array


def _check_sides(size: tuple[int, ...], what: str) -> None:
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise OptionError(f"{what} is {size[1]}x{size[0]}.", f"Each side must have 1 to {MAX_SIDE} pixels.")


def _valid(mask: object, size: tuple[int, ...]) -> np.ndarray:
    if mask is None:
        return np.ones(size, bool)
    kept = _numbers(mask, "The point map's mask")
    if kept.shape != size:
        raise OptionError(f"The point map's mask has shape {kept.shape}, the map {size}.", "Give one value for each point.")
    return kept > 0.5


def _the(source: str) -> str:
    """`The depth map`, but `photo.npy`."""
    return f"The {source}" if source.endswith(" map") else source


def _made(points: np.ndarray, valid: np.ndarray, intrinsics: object, source: str, metric: bool) -> PointMap:
    if not valid.any():
        raise OptionError(
            f"{_the(source)} has no valid point: all are masked, infinite, NaN or not before the camera.", "Check what made it."
        )
    matrix = None if intrinsics is None else _intrinsics(intrinsics, (points.shape[0], points.shape[1]))
    return PointMap(np.where(valid[..., None], points, np.float32(np.nan)).astype(np.float32), matrix, source, metric)


def _check_axes(points: np.ndarray, frame: str) -> None:
    """A camera sees what is to the right on the right: points that say otherwise are in another frame."""
    height, width = points.shape[:2]
    valid = np.isfinite(points[..., 2])
    with np.errstate(all="ignore"):
        rays = points[..., :2] / points[..., 2:]
    columns, rows = np.broadcast_arrays(np.arange(width), np.arange(height)[:, None])
    for axis, places, way in ((0, columns, "left and right"), (1, rows, "up and down")):
        if _correlation(-rays[..., axis][valid], places[valid]) < -0.5:
            raise OptionError(
                f"Taken as {frame}, the point map has {way} swapped.", f"Name the frame that the points are in. {_FRAME_HINT}"
            )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


def _intrinsics(value: object, size: Size) -> np.ndarray:
    """(3, 3) float32 for a picture of size 1 x 1. A principal point beyond 1 is counted in pixels of `size`, from the picture's corner."""
    matrix = _numbers(value, "The intrinsics' matrix").astype(np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise OptionError(f"The intrinsics have shape {matrix.shape}, or aren't finite.", "Give a 3x3 matrix.")
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    if fx <= 0 or fy <= 0 or abs(matrix[0, 1]) > 1e-6 * fx or matrix[1, 0] != 0 or not np.allclose(matrix[2], (0, 0, 1)):
        raise OptionError("The intrinsics are no camera's.", "Give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0 and no skew.")
    if 0 <= cx <= 1 and 0 <= cy <= 1:
        per_pixel = (1.0, 1.0)
    elif 1 < cx <= size[1] and 1 < cy <= size[0]:
        per_pixel = (1 / size[1], 1 / size[0])
    else:
        raise OptionError(
            f"The intrinsics' middle is ({cx:g}, {cy:g}), which is outside a map of {size[1]}x{size[0]}.",
            "Give intrinsics in pixels of the map, or for a picture of width and height 1.",
        )
    made = np.eye(3, dtype=np.float32)
    made[0, 0], made[0, 2], made[1, 1], made[1, 2] = fx * per_pixel[0], cx * per_pixel[0], fy * per_pixel[1], cy * per_pixel[1]
    return made


def _fitted(made: PointMap, size: Size | None) -> PointMap:
    """At the picture's size."""
    if size is None:
        return made
    height, width = made.points.shape[:2]
    if abs(math.log(width * size[0] / (height * size[1]))) > _LOPSIDED:
        raise OptionError(
            f"{_the(made.source)} is {width}x{height}, the picture {size[1]}x{size[0]}: not the same view.",
            "Give the map of this very picture.",
        )
    return made.resized(size)


def _nearest(have: int, want: int) -> np.ndarray:
    """In float32, as PyTorch counts: where pixels fall together the last bit decides."""
    index = np.floor(np.arange(want, dtype=np.float32) * (np.float32(have) / np.float32(want)))
    nearest: np.ndarray = np.minimum(index.astype(np.intp), have - 1)
    return nearest
