"""The software renderers against formulas written out pixel by pixel, and the pictures made of them."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import OptionError
from comfyui_sam3d.contract.rotations import rotation_matrices, rotation_quaternions
from comfyui_sam3d.contract.scene import SH_C0, Camera, Mesh, Pose, Scene, SceneObject, Splats
from comfyui_sam3d.worker.geometry.render import orbit_camera, orbit_cameras, preview, render_mesh, render_splats, turntable
from comfyui_sam3d.worker.geometry.render.camera import project, to_camera

FLAT = Camera("orthographic", 32, 32, Pose((1, 0, 0, 0), (0, 0, 5.0)), xmag=1, ymag=1)
DEEP = Camera("perspective", 32, 32, Pose((1, 0, 0, 0), (0, 0, 3.0)), yfov=2 * math.atan(1 / 3))  # sees 2 m at z = 0


def quad(corners: list[tuple[float, float, float]], color: tuple[int, int, int] = (255, 0, 0)) -> Mesh:
    """Counter-clockwise corners -> two faces of one colour."""
    colors = np.tile(np.uint8([*color, 255]), (4, 1))
    return Mesh(np.float32(corners), np.uint32([[0, 1, 2], [0, 2, 3]]), vertex_colors=colors)


def square(x0: float, y0: float, x1: float, y1: float, z: float = 0.0, color: tuple[int, int, int] = (255, 0, 0)) -> Mesh:
    return quad([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], color)


def scene_of(*things: Mesh | Splats) -> Scene:
    made = [SceneObject(str(i), *((t, None) if isinstance(t, Mesh) else (None, t))) for i, t in enumerate(things)]
    return Scene(tuple(made), "test")


def cloud(count: int, coefficients: int = 1, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    turns = rng.normal(size=(count, 4))
    return Splats(
        positions=rng.uniform(-0.8, 0.8, (count, 3)).astype(np.float32),
        scales=rng.uniform(0.01, 0.3, (count, 3)).astype(np.float32),
        rotations=(turns / np.linalg.norm(turns, axis=1, keepdims=True)).astype(np.float32),
        opacities=rng.uniform(0.1, 1, count).astype(np.float32),
        sh=rng.normal(0, 0.6, (count, coefficients, 3)).astype(np.float32),
    )


# Meshes


@pytest.mark.parametrize("camera", [FLAT, DEEP], ids=["orthographic", "perspective"])
def test_a_square_covers_exactly_its_pixels(camera: Camera) -> None:
    image = render_mesh(square(-0.5, -0.25, 0.75, 0.5), camera, 32, 32, shading=0, supersample=1)
    wanted = np.zeros((32, 32), np.uint8)
    wanted[8:20, 8:28] = 255  # y = 0.5 is row 8, y = -0.25 is row 20; x = -0.5 is column 8
    assert np.array_equal(image[:, :, 3], wanted) and (image[wanted > 0] == (255, 0, 0, 255)).all()


def test_edges_are_smooth() -> None:
    image = render_mesh(square(-0.5, -0.5, 0.5 + 1 / 32, 0.5), FLAT, 32, 32, shading=0, supersample=2)
    assert (image[8:24, 24, 3] == 128).all() and (image[8:24, 24, :3] == (255, 0, 0)).all()  # half covered, colour not darkened


def test_neighbours_leave_no_gap_and_cover_no_pixel_twice() -> None:
    """A random triangulation of the whole picture: each face rendered alone, coverages add up to exactly one."""
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(3)
    frame = [(x, y) for x in (-1.1, 0, 1.1) for y in (-1.1, 0, 1.1)]
    places = np.concatenate(
        [rng.uniform(-1, 1, (60, 2)), frame, np.round(rng.uniform(-1, 1, (40, 2)) * 16) / 16 + 1 / 32]
    )  # some on pixel centres
    faces = Delaunay(places).simplices
    vertices = np.concatenate([places, np.zeros((len(places), 1))], axis=1).astype(np.float32)
    e1, e2 = vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    backward = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0] < 0
    faces[backward] = faces[backward][:, ::-1]
    total = np.zeros((32, 32), int)
    for face in faces:
        alone = Mesh(vertices, face[None].astype(np.uint32))
        total += render_mesh(alone, FLAT, 32, 32, supersample=1)[:, :, 3] > 0
    assert (total == 1).all()


@pytest.mark.parametrize("camera", [FLAT, DEEP], ids=["orthographic", "perspective"])
def test_the_nearest_wins_also_where_faces_cross(camera: Camera) -> None:
    low, high = square(-0.5, -0.5, 0.5, 0.5, -0.3), square(-0.5, -0.5, 0.5, 0.5, 0.3, (0, 255, 0))
    for order in ((low, high), (high, low)):
        assert (render_mesh(scene_of(*order), camera, 32, 32, shading=0)[12:20, 12:20, :3] == (0, 255, 0)).all()
    tilted = quad([(-0.5, -0.5, -0.4), (0.5, -0.5, 0.4), (0.5, 0.5, 0.4), (-0.5, 0.5, -0.4)], (0, 0, 255))
    image = render_mesh(scene_of(square(-0.9, -0.9, 0.9, 0.9), tilted), camera, 32, 32, shading=0, supersample=1)
    assert (image[10:22, 10:16, :3] == (255, 0, 0)).all() and (image[10:22, 16:22, :3] == (0, 0, 255)).all()


def test_back_faces_are_not_drawn() -> None:
    behind = FLAT.replace(pose=Pose((0, 0, 1, 0), (0, 0, -5.0)))
    assert render_mesh(square(-0.5, -0.5, 0.5, 0.5), FLAT, 32, 32)[16, 16, 3] == 255
    assert not render_mesh(square(-0.5, -0.5, 0.5, 0.5), behind, 32, 32).any()


def test_textures_stand_upright_and_follow_perspective() -> None:
    """A tilted square whose texture is its own u and v: every pixel against the ray that it stands for."""
    ramp = (np.arange(256) + 0.5) / 256 * 255
    texture = np.stack([np.tile(ramp, (256, 1)), np.tile(ramp[:, None], (1, 256)), np.zeros((256, 256))], axis=-1).round().astype(np.uint8)
    corners = np.float32([(-1, -1, 0), (1, -1, -2), (1, 1, -2), (-1, 1, 0)])
    mesh = Mesh(corners, np.uint32([[0, 1, 2], [0, 2, 3]]), uvs=np.float32([(0, 1), (1, 1), (1, 0), (0, 0)]), texture=texture)
    image = render_mesh(mesh, DEEP, 64, 64, shading=0, supersample=1)
    checked = 0
    for row in range(0, 64, 3):
        for column in range(0, 64, 3):
            if image[row, column, 3]:
                x, y = (column + 0.5 - 32) / 32 / 3, (32 - row - 0.5) / 32 / 3  # the ray is (x, y, -1) from z = 3
                distance = 4 / (1 - x)  # where it meets the plane z = -1 - X
                u, v = (x * distance + 1) / 2, (1 - y * distance) / 2
                assert np.allclose(image[row, column, :2], (255 * u, 255 * v), atol=3), (row, column)
                checked += 1
    assert checked > 150


def test_small_pictures_of_large_textures_are_means() -> None:
    """A black and white texel checkerboard seen from afar is grey, not noise."""
    board = np.repeat((np.indices((512, 512)).sum(0) % 2 * 255)[:, :, None], 3, axis=2).astype(np.uint8)
    mesh = square(-0.5, -0.5, 0.5, 0.5).replace(vertex_colors=None, uvs=np.float32([(0, 1), (1, 1), (1, 0), (0, 0)]), texture=board)
    inside = render_mesh(mesh, FLAT, 32, 32, shading=0)[10:22, 10:22, 0].astype(int)
    assert np.abs(inside - 128).max() <= 2
    sharp = render_mesh(mesh.replace(sampler="nearest"), FLAT, 32, 32, shading=0, supersample=1)
    assert set(np.unique(sharp[10:22, 10:22, 0])) <= {0, 255}


def test_light_comes_from_above_the_viewers_left() -> None:
    def brightness(up: float) -> int:
        tilted = quad([(-0.5, -0.4, up), (0.5, -0.4, up), (0.5, 0.4, -up), (-0.5, 0.4, -up)], (200, 200, 200))
        return int(render_mesh(tilted, FLAT, 32, 32)[16, 16, 0])

    assert brightness(0.5) > brightness(0.0) > brightness(-0.5) > 80  # nothing turns black


def test_perspective_drops_what_reaches_behind_the_camera() -> None:
    mesh = square(-0.5, -0.5, 0.5, 0.5)
    through = Mesh(np.float32([(-1, -0.2, 4), (1, -0.2, 4), (0, -0.2, -4)]), np.uint32([[0, 1, 2]]))
    image = render_mesh(scene_of(mesh, through), DEEP, 32, 32, shading=0)
    assert np.array_equal(image, render_mesh(mesh, DEEP, 32, 32, shading=0))


def test_a_scene_without_meshes_or_splats_is_transparent() -> None:
    empty = Scene((SceneObject("a"),), "test")
    assert not render_mesh(empty, FLAT, 8, 8).any() and not render_splats(empty, FLAT, 8, 8).any()
    off = scene_of(square(10, 10, 11, 11), cloud(3).replace(positions=np.full((3, 3), 50, np.float32)))
    assert not render_mesh(off, FLAT, 8, 8).any() and not render_splats(off, FLAT, 8, 8).any()


# Splats


def reference(splats: Splats, camera: Camera, size: int) -> np.ndarray:
    """Premultiplied RGBA, float: one pixel and one splat at a time, from the textbook's formulas (full 3 x 3 covariances, a Jacobian)."""
    turn, eye = camera.pose.rotation_matrix(), np.array(camera.pose.translation)
    view = (splats.positions.astype(float) - eye) @ turn
    out = np.zeros((size, size, 4))
    for row in range(size):
        for column in range(size):
            light, color = 1.0, np.zeros(3)
            for i in np.argsort(-view[:, 2], kind="stable"):
                x, y, z = view[i]
                if camera.kind == "perspective":
                    f = size / 2 / math.tan(camera.yfov / 2)
                    jacobian = np.array([[f / -z, 0, f * x / z**2], [0, -f / -z, -f * y / z**2]])
                    centre = np.array([size / 2 + f * x / -z, size / 2 - f * y / -z])
                else:
                    fx, fy = size / 2 / camera.xmag, size / 2 / camera.ymag
                    jacobian, centre = np.array([[fx, 0, 0], [0, -fy, 0]]), np.array([size / 2 + fx * x, size / 2 - fy * y])
                own = (
                    rotation_matrices(splats.rotations[i].astype(float))
                    @ np.diag(splats.scales[i].astype(float) ** 2)
                    @ rotation_matrices(splats.rotations[i]).T
                )
                covariance = jacobian @ turn.T @ own @ turn @ jacobian.T + 0.3 * np.eye(2)
                offset = np.array([column + 0.5, row + 0.5]) - centre
                alpha = min(0.99, splats.opacities[i] * math.exp(-0.5 * offset @ np.linalg.inv(covariance) @ offset))
                if alpha < 1 / 255:
                    continue
                color += light * alpha * np.maximum(0.5 + SH_C0 * splats.sh[i, 0], 0)
                light *= 1 - alpha
            out[row, column] = [*color, 1 - light]
    return out


@pytest.mark.parametrize("kind", ["orthographic", "perspective"])
def test_splats_agree_with_the_textbook(kind: str) -> None:
    turn = rotation_quaternions(rotation_matrices(np.array([0.9, 0.1, 0.3, 0.3]) / 1.0))
    pose = Pose(tuple(turn), tuple(rotation_matrices(turn) @ (0, 0, 3.0)))
    camera = Camera(kind, 24, 24, pose, xmag=0.9, ymag=0.9, yfov=0.6)
    splats = cloud(30)
    wanted = reference(splats, camera, 24)
    image = render_splats(splats, camera, 24, 24).astype(float) / 255
    assert np.abs(image[:, :, 3] - wanted[:, :, 3]).max() < 0.006
    assert np.abs(image[:, :, :3] * image[:, :, 3:] - np.minimum(wanted[:, :, :3], wanted[:, :, 3:])).max() < 0.012
    assert wanted[:, :, 3].max() > 0.9 and wanted[0, 0, 3] < 0.9


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the work is cut, the picture is the same."""
    splats = cloud(300, seed=5)
    whole = render_splats(splats, DEEP, 48, 48)
    monkeypatch.setattr("comfyui_sam3d.worker.geometry.render.splats._BLOCK", 500)
    pieces = render_splats(splats, DEEP, 48, 48)
    assert np.abs(whole.astype(int) - pieces).max() <= 1


def test_colour_depends_on_the_view_where_it_should() -> None:
    sh = np.zeros((1, 4, 3), np.float32)
    sh[0, 2, 0] = 1  # red grows along +z
    ball = Splats(np.zeros((1, 3), np.float32), np.full((1, 3), 0.3, np.float32), np.float32([[1, 0, 0, 0]]), np.float32([0.9]), sh)
    behind = Pose((0, 0, 1, 0), (0, 0, -3.0))
    for camera in (FLAT, DEEP):
        front = render_splats(ball, camera, 32, 32)[16, 16]
        back = render_splats(ball, camera.replace(pose=behind), 32, 32)[16, 16]
        assert (
            abs(int(front[0]) - 255 * (0.5 - 0.4886)) <= 2 and abs(int(back[0]) - 255 * (0.5 + 0.4886)) <= 2
        )  # the direction is camera to splat


def test_broken_and_hidden_splats_do_no_harm() -> None:
    splats = cloud(20)
    bad = splats.replace(
        positions=np.where(np.arange(20)[:, None] == 1, np.nan, splats.positions).astype(np.float32),
        scales=np.where(np.arange(20)[:, None] == 2, np.inf, splats.scales).astype(np.float32),
        opacities=np.where(np.arange(20) == 3, np.nan, splats.opacities).astype(np.float32),
        sh=np.where(np.arange(20)[:, None, None] == 4, np.nan, splats.sh).astype(np.float32),
    )
    good = np.ones(20, bool)
    good[1:5] = False
    kept = Splats(splats.positions[good], splats.scales[good], splats.rotations[good], splats.opacities[good], splats.sh[good])
    for camera in (FLAT, DEEP):
        assert np.array_equal(render_splats(bad, camera, 32, 32), render_splats(kept, camera, 32, 32))
    near = splats.replace(positions=splats.positions + np.float32([0, 0, 4]))  # all behind the eye
    assert not render_splats(near, DEEP, 32, 32).any()


@pytest.mark.parametrize("camera", [FLAT, DEEP], ids=["orthographic", "perspective"])
def test_mesh_and_splats_of_one_thing_look_the_same(camera: Camera) -> None:
    """A posed square as two faces and as a carpet of splats: same place, same colour, in both renderers."""
    mesh = quad([(-0.5, -0.3, 0.1), (0.4, -0.3, 0.1), (0.4, 0.6, -0.2), (-0.5, 0.6, -0.2)], (200, 120, 40))
    u, v = np.meshgrid((np.arange(30) + 0.5) / 30, (np.arange(30) + 0.5) / 30)
    base, side, up = mesh.vertices[0], mesh.vertices[1] - mesh.vertices[0], mesh.vertices[3] - mesh.vertices[0]
    axes = np.stack([side / np.linalg.norm(side), up / np.linalg.norm(up), np.cross(side, up) / np.linalg.norm(np.cross(side, up))], axis=1)
    color = (np.float32([200, 120, 40]) / 255 - 0.5) / SH_C0
    splats = Splats(
        positions=(base + u.reshape(-1, 1) * side + v.reshape(-1, 1) * up).astype(np.float32),
        scales=np.tile(np.float32([0.018, 0.018, 0.001]), (900, 1)),
        rotations=np.tile(rotation_quaternions(axes).astype(np.float32), (900, 1)),
        opacities=np.full(900, 0.95, np.float32),
        sh=np.tile(color.astype(np.float32), (900, 1, 1)),
    )
    pose = Pose(tuple(rotation_quaternions(rotation_matrices(np.array([0.96, 0, 0, 0.28])))), (0.1, -0.1, 0.2), 0.9)
    a, b = (Scene((SceneObject("a", m, s, pose),), "test") for m, s in ((mesh, None), (None, splats)))
    one, two = render_mesh(a, camera, 128, 128, shading=0), render_splats(b, camera, 128, 128)
    both, either = (one[..., 3] > 127) & (two[..., 3] > 127), (one[..., 3] > 127) | (two[..., 3] > 127)
    assert both.sum() / either.sum() > 0.92  # a carpet's edge reaches a little beyond
    assert np.abs(one[both][:, :3].astype(int) - two[both][:, :3]).max() <= 2


# Views


@pytest.mark.parametrize("kind", ["orthographic", "perspective"])
def test_orbits_see_everything_tightly(kind: str) -> None:
    mesh = Mesh(np.random.default_rng(0).uniform((-0.2, 0, -0.1), (0.6, 2, 0.3), (200, 3)).astype(np.float32), np.uint32([[0, 1, 2]]))
    scene = Scene((SceneObject("a", mesh, pose=Pose((1, 0, 0, 0), (3, 0, 0), 2.0)),), "test")
    points = scene.objects[0].pose.apply(mesh.vertices)
    yaws = [0, 45, 90, 180, 300]
    largest = 0.0
    for camera, yaw in zip(orbit_cameras(scene, yaws, 20, width=300, height=200, kind=kind, margin=0.1), yaws):
        xy, distance = project(camera, 300, 200, to_camera(camera, points))
        off = np.abs(xy / (150, 100) - 1).max()
        largest = max(largest, float(off))
        assert off <= 0.8 + 1e-3 and (distance > camera.znear).all() and (distance < camera.zfar).all()
        backward = camera.pose.rotation_matrix()[:, 2]
        wanted = [math.sin(math.radians(yaw)) * math.cos(math.radians(20)), math.sin(math.radians(20))]
        assert np.allclose(backward[:2], wanted, atol=1e-6) and np.isclose(camera.pose.rotation_matrix()[1, 0], 0, atol=1e-9)
    assert largest > 0.79
    assert orbit_camera(Scene((), "test"), 30).yfov > 0  # nothing to see is no error


def test_front_left_and_up_are_where_they_should_be() -> None:
    """Red on the object's left (+x), green on top, blue in front: seen from the front and from its left."""
    things = (
        square(0.3, -0.1, 0.5, 0.1, 0.0),
        square(-0.1, 0.3, 0.1, 0.5, 0.0, (0, 255, 0)),
        quad([(0.2, -0.1, 0.5), (0.2, -0.1, 0.3), (0.2, 0.1, 0.3), (0.2, 0.1, 0.5)], (0, 0, 255)),  # looks to +x
    )
    scene = scene_of(*things)

    def middle(yaw: float, channel: int) -> np.ndarray:
        image = render_mesh(scene, orbit_camera(scene, yaw), 128, 128, shading=0)
        rows, columns = np.nonzero(image[:, :, channel] > 200)
        return np.array([columns.mean(), rows.mean()]) - 64

    assert middle(10, 0)[0] > 20 and middle(10, 1)[1] < -20
    assert middle(90, 2)[0] < -20  # from its left, the front is at the left


def test_cameras_that_make_no_picture_are_refused() -> None:
    with pytest.raises(OptionError, match="xmag"):
        render_mesh(square(0, 0, 1, 1), Camera("orthographic", 8, 8), 8, 8)
    with pytest.raises(OptionError, match="yfov"):
        render_splats(cloud(2), Camera("perspective", 8, 8), 8, 8)


# Pictures


@pytest.mark.parametrize("what", ["mesh", "splats"])
def test_preview_and_turntable(what: str) -> None:
    from PIL import Image

    thing = quad([(-0.5, 0, 0), (0.5, 0, 0), (0.5, 1, 0), (-0.5, 1, 0)]) if what == "mesh" else cloud(50)
    scene = scene_of(thing)
    with Image.open(io.BytesIO(preview(scene, 96))) as picture:
        assert picture.format == "PNG" and picture.size == (96, 96) and picture.mode == "RGB"
        pixels = np.asarray(picture).astype(int)
    assert (pixels[:3] > 200).all() and pixels.std() > 10  # paper at the top edge, something in the middle
    calls = []
    with Image.open(io.BytesIO(turntable(scene, 96, 6, lambda: calls.append(1)))) as film:
        assert film.format == "WEBP" and film.size == (96, 96) and film.n_frames == 6 and film.info["loop"] == 0 and len(calls) == 6
        frames = []
        for number in range(6):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")).astype(int))
    assert np.abs(frames[0] - frames[2]).mean() > 1  # it turns


def test_a_large_turntable_stays_small() -> None:
    film = turntable(scene_of(cloud(200)), 2048, 4)
    assert len(film) < 200_000
