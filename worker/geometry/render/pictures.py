"""The pictures that go with a scene, most of them on a soft light ground with a contact shadow.

The preview comes from the splats where there are any (it shows what splat.ply holds), everything else from the meshes where there are any
(several times as fast, and edges stay sharp at a smaller size).
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from ....contract.scene import Camera, Scene
from ..files.mp4 import mp4
from ..files.png import png
from .camera import orbit_cameras, outline_points, project, to_camera
from .mesh import MeshRenderer
from .splats import render_splats

_YAW, _PITCH = 28.0, 14.0  # degrees: three-quarter view from the object's left, a little from above
_TURN_PITCH = 12.0
_TURN_SIZE = 384  # pixels at most of the WebP: 24 frames stay well under a megabyte
_TURN_SECONDS = 4.0
_SHEET = (  # of the contact sheet, row by row: name, yaw, pitch
    (("front", 0, 0), ("left", 90, 0), ("back", 180, 0), ("right", 270, 0)),
    (("front left", 40, 25), ("back left", 140, 25), ("above", 0, 89), ("below", 0, -89)),
)
_PAPER = np.array([[244, 243, 240], [214, 213, 210]], np.float32)  # the background's colour above and below
_INK = (90, 89, 86)
_OUTLINE = np.array([255, 45, 120], np.float32)  # of what was made, over the photo


def preview(scene: Scene, size: int = 512) -> bytes:
    """A three-quarter view, size x size, as PNG."""
    return Pictures(scene, size).preview()


def turntable(scene: Scene, size: int = 512, frames: int = 24, step: Callable[[], None] = lambda: None) -> bytes:
    """One full turn, looped, as animated WebP of at most 384 x 384 pixels; `step` is called after each frame (it may raise to stop)."""
    return Pictures(scene, size, frames).turntable(step)


class Pictures:
    """All pictures of one scene; what they share is made once. size: pixels of a side; frames: of a turn; photo: uint8 (H, W, 3), for `overlay`."""

    def __init__(self, scene: Scene, size: int = 512, frames: int = 24, photo: np.ndarray | None = None) -> None:
        self.scene, self.size, self.frames, self.photo = scene, size, frames, photo
        self.has_mesh = any(thing.mesh is not None for thing in scene.objects)
        self.has_splats = any(thing.splats is not None for thing in scene.objects)

    def make(self, kind: str, step: Callable[[], None]) -> bytes:
        """The file of a format among contract.request.PICTURES; `step` is called after each frame of a turn, or once."""
        if kind == "turntable":
            return self.turntable(step)
        if kind == "video":
            return self.video(step)
        data: bytes = getattr(self, kind)()
        step()
        return data

    def preview(self) -> bytes:
        camera = self._three_quarter
        return self._on_paper(self._splats(camera) if self.has_splats else self._mesh(camera), camera)

    def normals(self) -> bytes:
        camera = self._three_quarter
        return png(self._meshes.render_normals(camera, self.size, self.size, supersample=self._rays(self.size)))

    def wireframe(self) -> bytes:
        camera = self._three_quarter
        return self._on_paper(self._meshes.render_wireframe(camera, self.size, self.size, supersample=self._rays(self.size)), camera)

    def turntable(self, step: Callable[[], None]) -> bytes:
        from PIL import Image

        pictures = [Image.fromarray(frame) for frame in self._turn(min(self.size, _TURN_SIZE), step)]
        out = io.BytesIO()
        duration = round(1000 * _TURN_SECONDS / self.frames)
        # kmax=1: every frame whole. Frames that only patch the one before leave blocks in the soft shadow, for a tenth of the size.
        more = {"duration": duration, "loop": 0, "quality": 85, "method": 2, "kmin": 0, "kmax": 1}
        pictures[0].save(out, "WEBP", save_all=True, append_images=pictures[1:], **more)
        return out.getvalue()

    def video(self, step: Callable[[], None]) -> bytes:
        return mp4(self._turn(self.size // 2 * 2, step), Fraction(self.frames) / Fraction(_TURN_SECONDS))

    def contact_sheet(self) -> bytes:
        """Four views by two, each half of `size` and framed for itself, with its name."""
        cell, rows = self.size // 2, []
        for row in _SHEET:
            cells = []
            for name, yaw, pitch in row:
                camera = self._around([yaw], pitch, cell)[0]
                cells.append(_labelled(self._paper.under(self._view(camera), camera), name))
            rows.append(np.concatenate(cells, axis=1))
        return png(np.concatenate(rows))

    def overlay(self) -> bytes:
        """The photo, pale, with what was made over it as the photo's camera sees it, and its outline; at most twice `size` long."""
        from PIL import Image
        from scipy.ndimage import binary_dilation

        assert self.photo is not None and self.scene.camera is not None
        shrink = min(1.0, 2 * self.size / max(self.photo.shape[:2]))
        height, width = (max(1, round(side * shrink)) for side in self.photo.shape[:2])
        photo = np.asarray(Image.fromarray(np.ascontiguousarray(self.photo)).resize((width, height), Image.Resampling.BOX), np.float32)
        made = self._view(self.scene.camera, width, height).astype(np.float32)
        share = made[:, :, 3:] / 255
        pale = 0.5 * photo + 0.5 * (0.4 * photo.mean(axis=2, keepdims=True) + 140)
        mixed = pale * (1 - share) + (0.35 * photo + 0.65 * made[:, :, :3]) * share
        inside = made[:, :, 3] > 127
        mixed[binary_dilation(inside, iterations=max(1, round(max(height, width) / 500))) & ~inside] = _OUTLINE
        return png(np.clip(np.round(mixed), 0, 255).astype(np.uint8))

    @functools.cached_property
    def _meshes(self) -> MeshRenderer:
        return MeshRenderer(self.scene)

    @functools.cached_property
    def _paper(self) -> _Paper:
        return _Paper(self.scene)

    @functools.cached_property
    def _three_quarter(self) -> Camera:
        return self._around([_YAW], _PITCH, self.size)[0]

    def _around(self, yaws: list[float], pitch: float, size: int) -> list[Camera]:
        return orbit_cameras(self.scene, yaws, pitch, width=size, height=size, margin=0.1)

    def _turn(self, size: int, step: Callable[[], None]) -> Iterator[np.ndarray]:
        """Frames uint8 (size, size, 3) of one full turn."""
        for camera in self._around([360 * i / self.frames for i in range(self.frames)], _TURN_PITCH, size):
            yield self._paper.under(self._view(camera), camera)
            step()

    def _view(self, camera: Camera, width: int = 0, height: int = 0) -> np.ndarray:
        """uint8 (H, W, 4), from the meshes where there are any; of the camera's own size where none is given."""
        size = width or camera.width, height or camera.height
        return self._mesh(camera, *size) if self.has_mesh else render_splats(self.scene, camera, *size)

    def _mesh(self, camera: Camera, width: int = 0, height: int = 0) -> np.ndarray:
        width, height = width or camera.width, height or camera.height
        return self._meshes.render(camera, width, height, supersample=self._rays(max(width, height)))

    def _splats(self, camera: Camera) -> np.ndarray:
        return render_splats(self.scene, camera, camera.width, camera.height)

    def _rays(self, size: int) -> int:
        return 2 if size <= 1024 else 1  # memory

    def _on_paper(self, picture: np.ndarray, camera: Camera) -> bytes:
        return png(self._paper.under(picture, camera))


def _labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """With the text in its lower left corner."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    size = max(8, len(picture) // 16)
    ImageDraw.Draw(image).text((size * 0.7, len(picture) - 1.8 * size), text, fill=_INK, font=ImageFont.load_default(size))
    return np.asarray(image)


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
        paper = np.broadcast_to(_PAPER[0] * (1 - ramp) + _PAPER[1] * ramp, (height, width, 3))
        if camera.pose.rotation_matrix()[1, 2] >= -1e-6:  # from below there is no floor to see
            paper = paper * (1 - self._shadow(camera, width, height))[:, :, None]
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
