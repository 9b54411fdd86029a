"""The vocabulary that crosses a process boundary: request, scene, messages, errors, and the mask parser.

Imports nothing of ours and nothing beyond the standard library and numpy (Pillow inside functions), so that every
other room - nodes, factory, client, worker - can speak it.

    from comfyui_sam3d.contract import ReconstructRequest, Scene, parse_masks
"""

from .backend import Backend, Cancelled, Done, Event, Failed, Log, Preview, Progress, Reconstruction
from .errors import Sam3dError
from .masks import parse_masks
from .request import DraftOptions, ExportOptions, ReconstructRequest
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
    "Preview",
    "Progress",
    "ReconstructRequest",
    "Reconstruction",
    "Sam3dError",
    "Scene",
    "SceneObject",
    "Splats",
    "parse_masks",
]
