"""The pictures that go with a scene, read again and looked into: where things must be, and in which colours."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import SetupError
from comfyui_sam3d.contract.request import ExportOptions
from comfyui_sam3d.contract.scene import Camera, Mesh, Pose, Scene, SceneObject
from comfyui_sam3d.worker.geometry import encode
from comfyui_sam3d.worker.geometry.files.mp4 import mp4
from comfyui_sam3d.worker.geometry.render.mesh import MeshRenderer

from geometry_shapes import cloud, globe, scene_of

FLAT = Camera("orthographic", 32, 32, Pose((1, 0, 0, 0), (0, 0, 5.0)), xmag=1, ymag=1)
DEEP = Camera("perspective", 32, 32, Pose((1, 0, 0, 0), (0, 0, 3.0)), yfov=2 * math.atan(1 / 3))


def picture(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


def triangle(corners: list[tuple[float, float, float]], color: tuple[int, int, int] = (0, 200, 0)) -> Mesh:
    return Mesh(np.float32(corners), np.uint32([[0, 1, 2]]), vertex_colors=np.tile(np.uint8([*color, 255]), (3, 1)))


def ball() -> Mesh:
    """A round one: normals are positions."""
    mesh = globe(64, 48)
    vertices = mesh.vertices / (1, 0.8, 0.5)
    return mesh.replace(vertices=(0.9 * vertices).astype(np.float32), normals=vertices.astype(np.float32))


# Normals and wires


@pytest.mark.parametrize("camera", [FLAT, DEEP], ids=["orthographic", "perspective"])
def test_normals_are_those_of_a_ball(camera: Camera) -> None:
    turned = camera.replace(
        pose=Pose((math.cos(0.4), 0, math.sin(0.4), 0), tuple(camera.pose.translation[2] * np.array([math.sin(0.8), 0, math.cos(0.8)])))
    )
    for view in (camera, turned):  # they are in camera axes: a ball looks the same from all sides
        image = MeshRenderer(ball()).render_normals(view, 32, 32, supersample=1).astype(float)
        rows, columns = np.nonzero(image[:, :, 3])
        if camera.kind == "orthographic":
            x, y = (columns + 0.5 - 16) / 16, (16 - rows - 0.5) / 16
            z = np.sqrt(np.maximum(0.81 - x**2 - y**2, 0))
        else:  # where the ray from (0, 0, 3) meets the ball
            dx, dy = (columns + 0.5 - 16) / 16 / 3, (16 - rows - 0.5) / 16 / 3
            a, b, c = dx**2 + dy**2 + 1, -3, 9 - 0.81
            t = (-b - np.sqrt(np.maximum(b * b - a * c, 0))) / a
            x, y, z = dx * t, dy * t, 3 - t
        wanted = (np.stack([x, y, z], 1) / 0.9 + 1) * 127.5
        inner = z > 0.3
        assert inner.sum() > 200 and np.abs(image[rows, columns, :3] - wanted)[inner].max() < 6


def test_wires_run_along_edges() -> None:
    """One large triangle: dark within a line's half width of an edge, clay inside, nothing outside."""
    corners = [(-0.9, -0.8, 0.0), (0.9, -0.7, 0.0), (-0.7, 0.4, 0.0)]  # no two sides alike
    image = MeshRenderer(triangle(corners)).render_wireframe(FLAT.replace(width=128, height=128), 128, 128, line=2.0, supersample=1)
    inside, brightness = image[:, :, 3] > 0, image[:, :, :3].sum(axis=2) / 3.0
    y, x = np.mgrid[0:128, 0:128] + 0.5
    places = np.array([(64 + 64 * cx, 64 - 64 * cy) for cx, cy, _ in corners])
    distance = np.full((128, 128), np.inf)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        along = places[b] - places[a]
        distance = np.minimum(distance, np.abs(along[0] * (y - places[a][1]) - along[1] * (x - places[a][0])) / np.linalg.norm(along))
    assert (brightness[inside & (distance < 0.45)] < 80).all() and (brightness[inside & (distance > 1.6)] > 110).all()
    assert (inside & (distance < 0.45)).sum() > 50 and (inside & (distance > 1.6)).sum() > 1500


@pytest.mark.parametrize("kind", ["normals", "wireframe"])
def test_views_of_the_surface_have_the_previews_view(kind: str) -> None:
    scene = scene_of(SceneObject("a", globe(), pose=Pose((1, 0, 0, 0), (2, 1, 0), 3.0)))
    files = encode(scene, [kind, "preview"], ExportOptions(preview_size=96))
    shown, plain = picture(files[f"{kind}.png"]), picture(files["preview.png"])
    assert shown.shape == (96, 96, 4 if kind == "normals" else 3)
    covered = shown[:, :, 3] > 127 if kind == "normals" else np.abs(shown - plain).sum(axis=2) > 40
    away = np.ptp(plain, axis=2) > 30  # the globe is colourful, the paper grey
    assert (covered & away).sum() > 0.9 * away.sum() and not covered[:3].any()


# The contact sheet


def test_contact_sheet_shows_each_side_where_its_name_stands() -> None:
    """A box with a colour for each side: front red, back green, left (+x) blue, right yellow, above cyan, below magenta."""
    sides = {
        (2, 1): (255, 0, 0),
        (2, -1): (0, 255, 0),
        (0, 1): (0, 0, 255),
        (0, -1): (255, 255, 0),
        (1, 1): (0, 255, 255),
        (1, -1): (255, 0, 255),
    }
    things = []
    for (axis, sign), color in sides.items():
        square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)][::sign], float)
        corners = np.insert(square, axis, sign, axis=1) if axis != 1 else np.insert(square[::-1], 1, sign, axis=1)
        mesh = Mesh(corners.astype(np.float32), np.uint32([[0, 1, 2], [0, 2, 3]]), vertex_colors=np.tile(np.uint8([*color, 255]), (4, 1)))
        things.append(SceneObject(f"{axis}{sign}", mesh))
    sheet = picture(encode(scene_of(*things), ["contact_sheet"], ExportOptions(preview_size=128))["contact_sheet.png"])
    assert sheet.shape == (128, 256, 3)
    middles = {name: sheet[32 + 64 * row, 32 + 64 * column] for name, row, column in (
        ("front", 0, 0), ("left", 0, 1), ("back", 0, 2), ("right", 0, 3), ("above", 1, 2), ("below", 1, 3))}  # fmt: skip
    wanted = dict(zip(("front", "back", "left", "right", "above", "below"), sides.values()))
    for name, color in middles.items():
        assert ((color > 90) == (np.array(wanted[name]) > 90)).all(), (name, color)
    left, right = sheet[64 + 32, :32], sheet[64 + 32, 32:64]  # the three-quarter view from the left shows front and left side
    assert (left[:, 0] > left[:, 2] + 60).any() and (right[:, 2] > right[:, 0] + 60).any()
    ink = np.abs(sheet[:64, :64].astype(int) - sheet[:64, 64:128]).sum(axis=2)
    assert ink[54:64, :40].max() > 60  # the two names differ


# The overlay


@pytest.mark.parametrize("camera", [FLAT, DEEP], ids=["orthographic", "perspective"])
def test_overlay_lies_where_the_camera_says(camera: Camera) -> None:
    """A square on the picture plane: green inside, a pink line around it, the paled photo outside."""
    photo = np.full((64, 64, 3), 40, np.uint8)
    photo[:, 32:] = 120
    corners = np.float32([(-0.5, -0.25, 0), (0.75, -0.25, 0), (0.75, 0.5, 0), (-0.5, 0.5, 0)])
    mesh = Mesh(corners, np.uint32([[0, 1, 2], [0, 2, 3]]), vertex_colors=np.tile(np.uint8([0, 255, 0, 255]), (4, 1)))
    scene = scene_of(SceneObject("a", mesh), camera=camera.replace(width=64, height=64))
    for size, scale in ((64, 1), (128, 1)):
        shown = picture(encode(scene, ["overlay"], ExportOptions(preview_size=size), photo=photo)["overlay.png"])
        assert shown.shape == (64 * scale, 64 * scale, 3)
        green = shown[:, :, 1] > shown[:, :, 0] + 40
        wanted = np.zeros((64, 64), bool)
        wanted[16:40, 16:56] = True
        assert np.array_equal(green, wanted)
        line = (shown == (255, 45, 120)).all(axis=2)
        assert line.sum() == 2 * (24 + 40) and line[15, 16:56].all() and line[16:40, 56].all()
        outside = ~green & ~line
        assert (shown[outside] > photo[outside]).all() and shown[2, 60].mean() > shown[2, 4].mean() + 15  # paler, and still the photo
    small = picture(
        encode(scene, ["overlay"], ExportOptions(preview_size=64), photo=np.repeat(np.repeat(photo, 4, 0), 4, 1))["overlay.png"]
    )
    assert small.shape == (128, 128, 3)  # twice preview_size at most


def test_overlay_of_splats_alone() -> None:
    photo = np.zeros((32, 48, 3), np.uint8)
    scene = scene_of(SceneObject("a", splats=cloud(200)), camera=FLAT.replace(width=48, height=32, xmag=3, ymag=2))
    assert picture(encode(scene, ["overlay"], ExportOptions(preview_size=64), photo=photo)["overlay.png"]).std() > 20


# The film


def test_film_is_the_turntable() -> None:
    av = pytest.importorskip("av", reason="the layer `video` isn't installed")
    scene = scene_of(SceneObject("a", globe()))
    ticks: list[int] = []

    class Job:
        def step(self, stage: str, step: int, total: int) -> None:
            ticks.append(total)

    files = encode(scene, ["video", "turntable"], ExportOptions(preview_size=97, turntable_frames=8), Job())
    assert len(ticks) == 1 + 8 + 8 and set(ticks) == {16}
    with av.open(io.BytesIO(files["turntable.mp4"])) as film:
        (stream,) = film.streams.video
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 2)
        assert len(frames) == 8 and frames[0].shape == (96, 96, 3) and float(film.duration / av.time_base) == pytest.approx(4, abs=0.01)
    from PIL import Image

    with Image.open(io.BytesIO(files["turntable.webp"])) as turn:
        for number in (0, 3):
            turn.seek(number)
            same = np.asarray(turn.convert("RGB").resize((96, 96))).astype(int)
            assert np.abs(same - frames[number]).mean() < 6 < np.abs(same - frames[number + 2]).mean()


def test_film_of_given_frames() -> None:
    av = pytest.importorskip("av", reason="the layer `video` isn't installed")
    frames = [np.full((32, 64, 3), (200, 10 * i, 30), np.uint8) for i in range(5)]
    data = mp4(iter(frames), Fraction(25, 2))
    assert data == mp4(frames, Fraction(25, 2))
    with av.open(io.BytesIO(data)) as film:
        back = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == Fraction(25, 2)
    assert len(back) == 5 and all(np.abs(a - b).max() < 12 for a, b in zip(back, frames))


def test_film_without_its_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(SetupError, match="--layers video"):
        mp4([np.zeros((2, 2, 3), np.uint8)], Fraction(1))


def test_pictures_show_the_scene_as_it_was_placed() -> None:
    """What files move (space, origin, target) pictures don't."""
    scene = Scene((SceneObject("a", globe(), pose=Pose((1, 0, 0, 0), (5, 1, 0), 2.0)),), "test", camera=FLAT)
    kinds = ["preview", "overlay"]
    photo = np.zeros((32, 32, 3), np.uint8)
    plain, moved = (
        encode(scene, kinds, options, photo=photo)
        for options in (ExportOptions(preview_size=64), ExportOptions(preview_size=64, target="unreal", space="floor"))
    )
    assert plain == moved


def test_the_engine_decodes_what_pictures_need() -> None:
    pytest.importorskip("torch", reason="the engine sam3d needs the layer `model`")
    from comfyui_sam3d.contract.request import PICTURES, ReconstructRequest
    from comfyui_sam3d.worker.engines.sam3d.settings import settings_of

    def wants(*outputs: str) -> tuple[bool, bool]:
        made = settings_of(ReconstructRequest(np.zeros((2, 2, 3), np.uint8), np.ones((1, 2, 2), bool), outputs=outputs))
        return made.want_mesh, made.want_splats

    assert all(wants(kind) == (True, False) for kind in PICTURES)
    assert wants("ply", "preview") == (False, True)  # the splats will do
    assert wants("ply", "wireframe") == wants("ply", "normals") == (True, True)


def test_the_turn_begins_at_the_front_and_goes_to_the_objects_left() -> None:
    from PIL import Image

    left = triangle([(0, -0.5, 0.5), (0, -0.5, -0.5), (0, 0.5, 0)])  # looks to +x
    with Image.open(
        io.BytesIO(encode(scene_of(SceneObject("a", left)), ["turntable"], ExportOptions(turntable_frames=4))["turntable.webp"])
    ) as film:
        green = []
        for number in range(4):
            film.seek(number)
            shown = np.asarray(film.convert("RGB")).astype(int)
            green.append(bool((shown[:, :, 1] > shown[:, :, 0] + 60).any()))
    assert green == [False, True, False, False]
