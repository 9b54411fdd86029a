"""Call the worker from anywhere: nodes, command line, server, a script.

from comfyui_sam3d.client import open_backend, reconstruct

scene = reconstruct(image, masks)                      # one call: starts a worker, waits, stops it

with open_backend() as backend:                        # many: one worker, kept
    for event in backend.reconstruct(request): ...

    backend.prepare(PrepareRequest(image)).result()    # one picture, its masks one after another: what they share is made first
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contract.request import ReconstructRequest
from ..contract.scene import Scene
from .local import LocalBackend, State

if TYPE_CHECKING:
    from .remote import RemoteBackend

__all__ = ["LocalBackend", "State", "open_backend", "reconstruct"]


def open_backend(**options: Any) -> LocalBackend | RemoteBackend:
    """The backend that this process's environment names: the job server of SAM3D_SERVER, else a local worker, to which the options belong (`LocalBackend`)."""
    if os.environ.get("SAM3D_SERVER", "").strip():
        from .remote import from_environment  # here: a local worker needs no HTTP

        if (server := from_environment()) is not None:
            return server
    return LocalBackend(**options)


def reconstruct(image: np.ndarray, masks: np.ndarray, **fields: Any) -> Scene:
    """One picture, uint8 (H, W, 3), and its masks, bool (N, H, W) -> Scene. `fields` are those of ReconstructRequest.

    Starts a worker and stops it again; raises a Sam3dError.
    """
    request = ReconstructRequest(image=image, masks=masks, **fields)
    with open_backend() as backend:
        return backend.reconstruct(request).result()
