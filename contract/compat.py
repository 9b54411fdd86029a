"""The words of Roboflow's guide to SAM 3D, for whoever answers in them: the job server's JSON shape, and client/roboflow.py.

There a request is {image, mask_input, ...}, and an object's metadata holds its pose in the original's convention (contract/original.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .mask_kinds import is_flats, readings
from .masks import MAX_BYTES, parse_masks
from .original import to_sam3d_pose
from .scene import Pose


def mask_input(
    value: Any,
    size: Sequence[int],
    *,
    kind: str | None = None,
    most: int = MAX_BYTES,
    check_file: Callable[[bytes], None] | None = None,
) -> np.ndarray:
    """`mask_input` in every form -> bool (N, H, W). A list of flat polygons is one object each there; COCO's own lists (three deep) stay parts of one.

    most, check_file: as of `parse_masks`. Raises a MaskError.
    """
    if kind is None and is_flats(value) and set(_natural(value, size)) == {"polygons", "annotation"}:
        kind = "polygons"
    elif kind is None and _is_annotations(value):
        kind = "annotation"
    return parse_masks(value, size, kind=kind, most=most, check_file=check_file)


def _natural(value: Any, size: Sequence[int]) -> list[str]:
    """What it could be; rows of exactly the picture's size may be pixels, too, and then the kind must be named."""
    return [kind for kind, taken in readings(value, (int(size[0]), int(size[1])), False).items() if taken]


def _is_annotations(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, (list, tuple)) and is_flats(item) for item in value)


def metadata(pose: Pose) -> dict[str, list[float]]:
    """rotation: quaternion w, x, y, z, the inverse of the column-vector rotation; translation: PyTorch3D camera axes; scale: three equal numbers."""
    rotation, translation, scale = to_sam3d_pose(pose)
    return {"rotation": rotation.tolist(), "translation": translation.tolist(), "scale": [float(scale)] * 3}


def parameters(*, with_mesh_postprocess: bool, with_texture_baking: bool, use_distillations: bool) -> dict[str, Any]:
    """The original's switches as settings of ours; what is as usual is left out."""
    switched = {
        "mesh": None if with_mesh_postprocess else "raw",
        "texture": None if with_texture_baking else "colors",
        "few_step": True if use_distillations else None,
    }
    return {name: value for name, value in switched.items() if value is not None}
