"""Software renderers: good enough to show a scene to people and to test it, on any machine. Not real-time."""

from __future__ import annotations

from .camera import orbit_camera, orbit_cameras
from .mesh import MeshRenderer, render_mesh
from .pictures import preview, turntable
from .splats import render_splats

__all__ = ["MeshRenderer", "orbit_camera", "orbit_cameras", "preview", "render_mesh", "render_splats", "turntable"]
