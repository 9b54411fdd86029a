"""The two pictures that go with a scene: `preview.png` and `turntable.webp`, both on a soft light ground with a contact shadow.

The preview comes from the splats where there are any (it shows what splat.ply holds), the turntable from the meshes where there are any
(several times as fast, and edges stay sharp at its smaller size).
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
        picture = MeshRenderer(scene).render(camera, size, size, supersample=2 if size <= 1024 else 1)  # memory
    return png(_Paper(scene).under(picture, camera))


def turntable(scene: Scene, size: int = 512, frames: int = 24, step: Callable[[], None] = lambda: None) -> bytes:
    """One full turn, looped, as animated WebP of at most 384 x 384 pixels; `step` is called after each frame (it may raise to stop)."""
    from PIL import Image

    size = min(size, _TURN_SIZE)
    yaws = [360 * i / frames for i in range(frames)]
    cameras = orbit_cameras(scene, yaws, _TURN_PITCH, width=size, height=size, margin=0.1)
    has_mesh = any(thing.mesh is not None for thing in scene.objects)
    renderer = MeshRenderer(scene) if has_mesh else None
    paper, pictures = _Paper(scene), []
    for camera in cameras:
        picture = renderer.render(camera, size, size) if renderer else render_splats(scene, camera, size, size)
        pictures.append(Image.fromarray(paper.under(picture, camera)))
        step()
    out = io.BytesIO()
    duration = round(1000 * _TURN_SECONDS / frames)
    # kmax=1: every frame whole. Frames that only patch the one before leave blocks in the soft shadow, for a tenth of the size.
    more = {"duration": duration, "loop": 0, "quality": 85, "method": 2, "kmin": 0, "kmax": 1}
    pictures[0].save(out, "WEBP", save_all=True, append_images=pictures[1:], **more)
    return out.getvalue()


class _Paper:
    """What lies behind a scene: a soft ramp of grey, and on the floor the scene's shadow. Made once for any number of cameras."""

    def __init__(self, scene: Scene) -> None:
        points = outline_points(scene)
        low, high = (points[:, 1].min(), points[:, 1].max()) if len(points) else (0.0, 0.0)
        self.floor = points * np.array([1, 0, 1], np.float32) + np.array([0, low, 0], np.float32)
        self.weight = np.exp(-4 * (points[:, 1] - low) / max(high - low, 1e-9))  # the lower a point is, the darker its shadow

    def under(self, picture: np.ndarray, camera: Camera) -> np.ndarray:
        """RGBA picture over this paper -> uint8 (H, W, 3)."""
        height, width = picture.shape[:2]
        ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        paper = (_PAPER[0] * (1 - ramp) + _PAPER[1] * ramp) * (1 - self._shadow(camera, width, height))[:, :, None]
        alpha = picture[:, :, 3:] * np.float32(1 / 255)
        return np.round(paper + (picture[:, :, :3] - paper) * alpha).astype(np.uint8)

    def _shadow(self, camera: Camera, width: int, height: int) -> np.ndarray:
        """(H, W) float32, 0..0.38, made at a quarter of the size: it's all blur."""
        from PIL import Image
        from scipy.ndimage import gaussian_filter

        w, h = max(width // 4, 1), max(height // 4, 1)
        xy, distance = project(camera, w, h, to_camera(camera, self.floor))
        seen = ((xy >= 0) & (xy < (w, h))).all(axis=1) & ((distance > camera.znear) | (camera.kind == "orthographic"))
        x, y = xy[seen].astype(np.int64).T
        spots = np.bincount(y * w + x, self.weight[seen], w * h).reshape(h, w).astype(np.float32)
        soft = gaussian_filter(spots, 0.014 * w) + gaussian_filter(spots, 0.04 * w)
        dark = 0.38 * np.sqrt(soft / max(float(soft.max()), 1e-9))
        return np.asarray(Image.fromarray(dark).resize((width, height), Image.Resampling.BICUBIC))
