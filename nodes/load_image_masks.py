"""SAM3D Load Image & Masks: one picture of the input folder and the masks that go with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.errors import MaskError, Sam3dError
from ..contract.names import safe_filename
from . import _files, _host, _pictures


class LoadImageMasks:
    CATEGORY = "SAM 3D"
    DESCRIPTION = (
        "Loads a picture and its masks, one mask for each object. Without mask files the picture's own transparency is the mask. "
        "The masks that come out are white where the object is."
    )
    SEARCH_ALIASES = ("load image", "load mask", "sprite", "cut-out", "alpha")
    RETURN_TYPES = ("IMAGE", "MASK", "STRING", "STRING")
    RETURN_NAMES = ("image", "masks", "name", "filename_prefix")
    OUTPUT_TOOLTIPS = (
        "The picture, a batch of one.",
        "One mask for each object, white where the object is.",
        "The picture's name, for the names of SAM3D Reconstruct.",
        "3d/ and the picture's name, for the filename_prefix of SAM3D Export.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": (_files.pictures(), {"image_upload": True, "tooltip": "A picture in ComfyUI's input folder."}),
                "masks": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "tooltip": "Empty: the picture's own transparency. Else the mask files in the input folder, one a line, in the order of "
                        "the objects. Patterns work: campsite/[0-9].png",
                    },
                ),
                "polarity": (
                    _pictures.POLARITIES,
                    {
                        "default": _pictures.WHITE,
                        "tooltip": "What the mask files mean. White, or opaque where a mask file is itself transparent. The picture's own "
                        "transparency always means: opaque is the object.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None = None, masks: str | None = None) -> bool | str:
        """What is linked is None here: it is looked at when it is there."""
        try:
            if image is not None:
                _files.picked(image)
            if masks is not None:
                _files.picked_many(masks)
        except Sam3dError as problem:
            return str(problem)
        return True

    @classmethod
    def IS_CHANGED(cls, image: str | None = None, masks: str | None = None, **_: Any) -> Any:
        if image is None or masks is None:
            return math.nan  # which files, only the linked node knows: look again each time
        return _files.fingerprint([_files.picked(image), *_files.picked_many(masks)])

    def load(self, image: str, masks: str, polarity: str) -> tuple[Any, Any, str, str]:
        path = _files.picked(image)
        colours, found = load(path, _files.picked_many(masks), polarity)
        return _host.tensor(colours[None]), _host.tensor(found), *labels(path.stem)


def load(path: Path, masks: Sequence[Path], polarity: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its mask files -> float32 (H, W, 3) and (N, H, W), 0..1, 1 where the object is. No files: the picture's alpha."""
    from ..contract.images import read_image

    picture = read_image(path)
    colours = picture.image.astype(np.float32) / 255
    if masks:
        found = np.stack([_pictures.read_mask(mask, picture.image.shape[:2]) for mask in masks])
        return colours, 1 - found if polarity == _pictures.BLACK else found
    if picture.alpha is None:
        raise MaskError(
            f"{path.name} has no transparency, and no mask files are named.",
            "Name its mask files, or use a picture with a transparent background.",
        )
    return colours, picture.alpha[None].astype(np.float32) / 255


def labels(name: str) -> tuple[str, str]:
    """A picture's name as an object's name (no commas: they separate names) and as the prefix of its files (no variables)."""
    return name.replace(",", "_"), f"3d/{safe_filename(name).replace('%', '_')}"
