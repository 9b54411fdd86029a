"""The two pictures that go with a scene: `preview.png` and `turntable.webp`, both on a soft light ground with a contact shadow.

The preview comes from the splats where there are any (it shows what splat.ply holds), the turntable from the meshes where there are any (several
times as fast, and edges stay sharp at its smaller size).
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from ....contract.scene import Camera, Scene
from ..files.png import png
from .camera import orbit_cameras, outline_points, project, to_camera
from .mesh import MeshRenderer
from .splats import render_splats

_YAW, _PITCH = 28.0, 14.0  # degrees: three-quarter view from the object's left, a little from above
_TURN_PITCH = 12.0
_TURN_SIZE = 384  # pixels at most: 24 frames stay well under a megabyte
_TURN_SECONDS = 4.0
_PAPER = np.array([[244, 243, 240], [214, 213, 210]], np.float32)  # the background's colour above and below


def preview(scene: Scene, size: int = 512) -> bytes:
    """A three-quarter view, size x size, as PNG."""
    camera = orbit_cameras(scene, [_YAW], _PITCH, width=size, height=size, margin=0.1)[0]
    if any(thing.splats is not None for thing in scene.objects):
        picture = render_splats(scene, camera, size, size)
    else:
        picture = MeshRenderer(scene).render(camera, size, size)
    return png(_on_paper(scene, camera, picture), level=6)


def turntable(scene: Scene, size: int = 512, frames: int = 24, step: Callable[[], None] = lambda: None) -> bytes:
    """One full turn, looped, as animated WebP of at most 384 x 384 pixels; `step` is called after each frame (it may raise to stop)."""
    from PIL import Image

    size = min(size, _TURN_SIZE)
    yaws = [360 * i / frames for i in range(frames)]
    cameras = orbit_cameras(scene, yaws, _TURN_PITCH, width=size, height=size, margin=0.1)
    has_mesh = any(thing.mesh is not None for thing in scene.objects)
    renderer = MeshRenderer(scene) if has_mesh else None
    pictures = []
    for camera in cameras:
        picture = renderer.render(camera, size, size) if renderer else render_splats(scene, camera, size, size)
        pictures.append(Image.fromarray(_on_paper(scene, camera, picture)))
        step()
    out = io.BytesIO()
    duration = round(1000 * _TURN_SECONDS / frames)
    pictures[0].save(out, "WEBP", save_all=True, append_images=pictures[1:], duration=duration, loop=0, quality=82, method=2)
    return out.getvalue()


def _on_paper(scene: Scene, camera: Camera, picture: np.ndarray) -> np.ndarray:
    """RGBA over the background and the shadow -> uint8 (H, W, 3)."""
    height, width = picture.shape[:2]
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    paper = (
        np.broadcast_to(_PAPER[0] * (1 - ramp) + _PAPER[1] * ramp, (height, width, 3))
        * (1 - _shadow(scene, camera, width, height))[:, :, None]
    )
    alpha = picture[:, :, 3:].astype(np.float32) / 255
    return np.round(picture[:, :, :3] * alpha + paper * (1 - alpha)).astype(np.uint8)


def _shadow(scene: Scene, camera: Camera, width: int, height: int) -> np.ndarray:
    """(H, W) float32, 0..0.4: how dark the floor under the scene is. Every point drops onto the floor, darker the lower it was."""
    from scipy.ndimage import gaussian_filter

    points = outline_points(scene)
    if len(points) == 0:
        return np.zeros((height, width), np.float32)
    low, high = points[:, 1].min(), points[:, 1].max()
    weight = np.exp(-4 * (points[:, 1] - low) / max(high - low, 1e-9))
    floor = points.copy()
    floor[:, 1] = low
    xy, distance = project(camera, width, height, to_camera(camera, floor))
    x, y = np.floor(xy).astype(np.int64).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & ((distance > camera.znear) | (camera.kind == "orthographic"))
    spots = np.bincount(y[inside] * width + x[inside], weight[inside], width * height).reshape(height, width).astype(np.float32)
    soft = gaussian_filter(spots, 0.012 * width) + gaussian_filter(spots, 0.04 * width)
    return 0.38 * np.sqrt(soft / max(float(soft.max()), 1e-9))
