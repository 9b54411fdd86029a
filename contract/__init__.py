"""The vocabulary that crosses a process boundary: request, scene, messages, errors, and the mask parser.

Imports nothing of ours and nothing beyond the standard library and numpy (Pillow inside functions), so that every
other room - nodes, factory, client, worker - can speak it.

    from comfyui_sam3d.contract import ReconstructRequest, Scene, parse_masks

The names load when they are asked for: `contract.errors` or `contract.pairing` alone cost no numpy, and the command line starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import Backend, Cancelled, Done, Event, Failed, Log, Preview, Progress, Reconstruction
    from .errors import Sam3dError
    from .masks import parse_masks
    from .request import DraftOptions, ExportOptions, PrepareRequest, ReconstructRequest, Sam3dOptions
    from .scene import Camera, Mesh, Pose, Scene, SceneObject, Splats
    from .version import PROTOCOL, VERSION

__all__ = [
    "PROTOCOL",
    "VERSION",
    "Backend",
    "Camera",
    "Cancelled",
    "Done",
    "DraftOptions",
    "Event",
    "ExportOptions",
    "Failed",
    "Log",
    "Mesh",
    "Pose",
    "PrepareRequest",
    "Preview",
    "Progress",
    "ReconstructRequest",
    "Reconstruction",
    "Sam3dError",
    "Sam3dOptions",
    "Scene",
    "SceneObject",
    "Splats",
    "parse_masks",
]

_HOMES = {
    "backend": ("Backend", "Cancelled", "Done", "Event", "Failed", "Log", "Preview", "Progress", "Reconstruction"),
    "errors": ("Sam3dError",),
    "masks": ("parse_masks",),
    "request": ("DraftOptions", "ExportOptions", "PrepareRequest", "ReconstructRequest", "Sam3dOptions"),
    "scene": ("Camera", "Mesh", "Pose", "Scene", "SceneObject", "Splats"),
    "version": ("PROTOCOL", "VERSION"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value
