"""SAM3D Preview 3D: a scene -> a picture that turns, on the node itself, on every host."""

from __future__ import annotations

import os
from typing import Any

from ..contract.request import FORMATS, ExportOptions
from ..contract.scene import Scene
from . import _files, _host
from ._backend import shared


class Preview:
    CATEGORY = "SAM 3D"
    DESCRIPTION = "Shows a scene as an animated turn (or a still picture) rendered on the CPU. Writes only temporary files."
    SEARCH_ALIASES = ("preview 3d", "turntable", "view mesh", "view splat")
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    RETURN_NAMES = ()
    OUTPUT_TOOLTIPS = ()
    FUNCTION = "preview"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "scene": ("SAM3D_SCENE", {"tooltip": "What SAM3D Reconstruct made."}),
                "view": (
                    ["turntable", "still", "contact_sheet", "normals", "wireframe"],
                    {"default": "turntable", "tooltip": "An animated turn, or one picture: faster. contact_sheet: eight views."},
                ),
                "size": (
                    "INT",
                    {"default": 384, "min": 64, "max": 2048, "step": 32, "tooltip": "Width and height of the picture in pixels."},
                ),
                "frames": ("INT", {"default": 24, "min": 4, "max": 120, "tooltip": "Pictures in one turn; more turn more smoothly."}),
            }
        }

    def preview(self, scene: Scene, view: str, size: int, frames: int) -> dict[str, Any]:
        turning = view == "turntable"
        form = "preview" if view == "still" else view
        files = shared.export(scene, [form], ExportOptions(preview_size=size, turntable_frames=frames, objects=False))
        name = FORMATS[form][0]
        base = _host.temp_dir()
        # A name of its own each time: browsers would show the last picture of an equal name.
        (path,) = _files.save(f"sam3d_preview_{os.urandom(4).hex()}", base, {name[name.rindex(".") :]: files[name]})
        return {"ui": {"images": [_files.ui_entry(path, base, "temp")], "animated": (turning,)}}
