"""comfyui-sam3d: one picture and its masks in, textured meshes and Gaussian splats out.

ComfyUI imports this file. It imports nothing by itself: the node classes load when the host asks for the mappings, so that
`python -m comfyui_sam3d.worker` and the tests never pay for, or depend on, the canvas.
"""

from typing import Any

WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]


def __getattr__(name: str) -> Any:
    if name in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"):
        from . import nodes

        return getattr(nodes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
