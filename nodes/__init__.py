"""Skin 1, the canvas: the six node classes and the mappings that ComfyUI asks for. Imports neither torch nor ComfyUI.

The ids are an API: graphs that people saved refer to them. They are never renamed; a node that goes gets DEPRECATED.
"""

from __future__ import annotations

from typing import Any

from .export import Export
from .load_folder import LoadFolder
from .load_image_masks import LoadImageMasks
from .options import Options
from .preview import Preview
from .reconstruct import Reconstruct

NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {
    "SAM3DLoadImageMasks": LoadImageMasks,
    "SAM3DLoadFolder": LoadFolder,
    "SAM3DReconstruct": Reconstruct,
    "SAM3DOptions": Options,
    "SAM3DExport": Export,
    "SAM3DPreview": Preview,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "SAM3DLoadImageMasks": "SAM3D Load Image & Masks",
    "SAM3DLoadFolder": "SAM3D Load Folder",
    "SAM3DReconstruct": "SAM3D Reconstruct",
    "SAM3DOptions": "SAM3D Options",
    "SAM3DExport": "SAM3D Export",
    "SAM3DPreview": "SAM3D Preview 3D",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
