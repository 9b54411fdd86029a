"""Cameras and the rasteriser: against what can be worked out by hand, scipy, the draft's renderer and the goldens."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import OptionError  # noqa: E402
from comfyui_sam3d.contract.scene import Camera, Mesh, Pose  # noqa: E402
from comfyui_sam3d.worker.geometry import render  # noqa: E402
from comfyui_sam3d.worker.ops import rasterise  # noqa: E402
from comfyui_sam3d.worker.ops.cameras import Cameras, from_scene, orbit, spherical_hammersley  # noqa: E402

from geometry_shapes import globe  # noqa: E402
from golden import replay  # noqa: E402
from render_shapes import corners, draw, sphere  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_cameras_see_what_they_look_at() -> None:
    cameras = orbit([0.3, 2.0, 4.0], [0.4, -0.2, 1.2], 3.0, math.radians(50), (40, 60))
    eye = torch.tensor([math.sin(2.0) * math.cos(-0.2), math.cos(2.0) * math.cos(-0.2), math.sin(-0.2)]) * 3
    assert torch.allclose(cameras.position[1], eye, atol=1e-5)
    assert torch.allclose(cameras.project(torch.zeros(1, 3))[:, 0], torch.tensor([30.0, 20.0, 3.0]), atol=1e-4)
    above = cameras.project(torch.tensor([[0.0, 0.0, 0.1]]))[:, 0]
    assert torch.allclose(above[:, 0], torch.tensor(30.0), atol=1e-3) and (above[:, 1] < 20).all()  # z is up, and up is a smaller y
    rim = cameras.to_camera(torch.tensor([[0.3, -0.2, 0.1]]))[0, 0]
    assert cameras.focal[0, 0] == pytest.approx(20 / math.tan(math.radians(25)))
    assert cameras.project(torch.tensor([[0.3, -0.2, 0.1]]))[0, 0, 0] == pytest.approx(
        float(30 + cameras.focal[0, 0] * rim[0] / rim[2]), abs=1e-3
    )


def test_some_of_the_cameras_and_other_sizes() -> None:
    cameras = orbit([0.0, 1.0, 2.0], 0.1, size=32)
    assert len(cameras[1]) == 1 and torch.equal(cameras[-1].view, cameras.view[2:]) and len(cameras[1:]) == 2
    assert torch.equal(cameras[torch.tensor([True, False, True])].view, cameras.view[[0, 2]])
    points = torch.randn(5, 3) * 0.3
    large = cameras.resized(64, 96).project(points)
    assert torch.allclose(large, cameras.project(points) * torch.tensor([3.0, 2.0, 1.0]), atol=1e-4)
    with pytest.raises(OptionError):
        from_scene([], 8, 8)


def test_a_quad_covers_its_pixels_once() -> None:
    found = draw(corners((2, 3), (7, 3), (7, 9), (2, 9)), [[0, 1, 2], [0, 2, 3]])
    wanted = torch.zeros(1, 16, 16, dtype=torch.bool)
    wanted[:, 3:9, 2:7] = True
    assert torch.equal(found.covered, wanted)
    assert (found.depth[wanted] == 1).all() and torch.isinf(found.depth[~wanted]).all()
    assert (found.bary[~wanted] == 0).all() and (found.face[~wanted] == -1).all()
    assert set(found.face[wanted].tolist()) == {0, 1}


def test_corners_on_pixel_centres_belong_to_one_quad_of_four() -> None:
    """Four quads that meet at a pixel's centre, with edges through centres: each pixel has one owner."""
    grid = corners(*[(x, y) for y in (0.5, 4.5, 8.5) for x in (0.5, 4.5, 8.5)])
    owners = torch.zeros(16, 16)
    for a in (0, 1, 3, 4):
        for face in ([a, a + 1, a + 4], [a, a + 4, a + 3]):
            owners += draw(grid, [face]).covered[0]
    assert owners.max() == 1 and owners.sum() == 64


@pytest.mark.parametrize("seed", range(8))
def test_shared_edges_leave_no_gap_and_no_pixel_twice(seed: int) -> None:
    """A triangulated square, larger than the picture, with corners on coarse positions so that edges often run through pixel centres."""
    rng, grain = np.random.default_rng(seed), 1 + seed % 4
    side, size = 5, 16
    line = np.linspace(-2, size + 2, side)
    points = np.stack(np.meshgrid(line, line), axis=-1)
    points[1:-1, 1:-1] += rng.uniform(-1.4, 1.4, (side - 2, side - 2, 2))
    points = np.round(points * grain) / grain + (0.5 if grain < 3 else 0.0)
    points[0, :, 1], points[-1, :, 1], points[:, 0, 0], points[:, -1, 0] = -2, size + 2, -2, size + 2
    screen = corners(*points.reshape(-1, 2).tolist())
    faces = []
    for a in (r * side + c for r in range(side - 1) for c in range(side - 1)):
        cut = rng.integers(2)
        faces += (
            [[a, a + 1, a + side + cut], [a + 1 - cut, a + side + 1, a + side]]
            if cut
            else [[a, a + 1, a + side], [a + 1, a + side + 1, a + side]]
        )
    faces = [f if rng.integers(2) else f[::-1] for f in faces]
    owners = sum(draw(screen, [face], size).covered[0].int() for face in faces)
    assert (owners == 1).all()
    assert draw(screen, faces, size).covered.all()


def test_weights_and_depth_of_a_known_triangle() -> None:
    """A pixel's ray meets the plane where the weights say, worked out in float64 from the camera alone."""
    cameras = orbit([0.3, 2.0], [0.4, -0.2], 2.0, math.radians(40), (24, 32))
    triangle = torch.tensor([[0.4, 0.1, 0.3], [-0.5, 0.3, -0.2], [0.1, -0.5, -0.4]])
    found = rasterise.rasterise(cameras.project(triangle), torch.tensor([[0, 1, 2]]), 24, 32)
    assert found.covered.flatten(1).sum(dim=1).min() > 20
    for view, row, column in found.covered.nonzero().tolist():
        rotation, shift = cameras.view[view, :3, :3].double(), cameras.view[view, :3, 3].double()
        pixel = torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64)
        ray = torch.cat([(pixel - cameras.centre[view]) / cameras.focal[view], torch.ones(1, dtype=torch.float64)])
        seen = triangle.double() @ rotation.T + shift
        weights = torch.linalg.solve(seen.T, ray)  # sums to 1 / depth
        assert found.depth[view, row, column] == pytest.approx(float(1 / weights.sum()), rel=1e-4)
        assert found.bary[view, row, column].tolist() == pytest.approx((weights / weights.sum()).tolist(), abs=2e-3)
    points = rasterise.interpolate(triangle, torch.tensor([[0, 1, 2]]), found)
    at = found.covered[0].nonzero().flip(1) + 0.5
    assert torch.allclose(cameras[0].project(points[0][found.covered[0]])[0, :, :2], at, atol=2e-3)
    assert (points[~found.covered] == 0).all()


def test_without_perspective_weights_are_affine_and_depth_may_be_negative() -> None:
    found = draw(corners((0, 0, -3), (16, 0, 5), (0, 16, 1)), [[0, 1, 2]], perspective=False)
    rows, columns = found.covered[0].nonzero().T
    x, y = (columns + 0.5) / 16, (rows + 0.5) / 16
    wanted = torch.stack([1 - x - y, x, y], dim=1)
    assert torch.allclose(found.bary[0][rows, columns], wanted, atol=1e-6)
    assert torch.allclose(found.depth[0][rows, columns], wanted @ torch.tensor([-3.0, 5.0, 1.0]), atol=1e-5)


def test_the_nearer_wins_and_then_the_first() -> None:
    square = [(1, 1), (9, 1), (9, 9), (1, 9)]
    screen = corners(*[(x, y, 2.0) for x, y in square], *[(x + 3, y + 3, 1.0) for x, y in square], *[(x, y, 2.0) for x, y in square])
    faces = [[0, 1, 2], [0, 2, 3], [8, 9, 10], [8, 10, 11], [4, 5, 6], [4, 6, 7]]
    found = draw(screen, faces)
    assert set(found.face[0, 4:12, 4:12].flatten().tolist()) == {4, 5} and (found.depth[0, 4:12, 4:12] == 1).all()
    assert set(found.face[0, 1:4, 1:9].flatten().tolist()) == {0, 1}


def test_what_is_dropped() -> None:
    good = [(1, 1, 2.0), (9, 1, 2.0), (9, 9, 2.0)]
    assert draw(corners(*good), [[0, 1, 2]]).covered.any()
    for bad in [
        (9, 9, 0.0),
        (9, 9, -1.0),
        (9, 9, math.nan),
        (math.nan, 9, 2.0),
        (9, math.inf, 2.0),
        (9, 200_000, 2.0),
        (9, 1, 2.0),
        (17, 1, 2.0),
    ]:
        assert not draw(corners(*good[:2], bad), [[0, 1, 2]]).covered.any(), bad
    assert not draw(corners(*good), [[0, 1, 2]], near=2.0).covered.any()
    assert draw(corners(*good), [[0, 1, 2]], near=1.9).covered.any()
    assert not draw(corners(*good), torch.zeros(0, 3, dtype=torch.int32)).covered.any()
    assert draw(torch.zeros(0, 3, 3), [[0, 1, 2]]).face.shape == (0, 16, 16)
    assert draw(corners(*good), [[0, 1, 2]], bary=False).bary is None


def test_culling_goes_by_what_the_camera_sees() -> None:
    ball, cameras = sphere(), orbit([0.5], [0.2], size=64)
    screen = cameras.project(ball[0])
    front, back = draw(screen, ball[1], 64, cull="back"), draw(screen, ball[1], 64, cull="front")
    assert torch.equal(front.face, draw(screen, ball[1], 64).face)  # a closed surface shows no backs
    assert torch.equal(front.covered, back.covered) and (back.depth > front.depth)[front.covered].all()


@pytest.mark.parametrize("orthographic", [False, True])
def test_a_sphere_covers_a_disc(orthographic: bool) -> None:
    ball, cameras = sphere(rows=150, columns=300), orbit(*spherical_hammersley(5), size=128)[1:]
    radius = cameras.focal[0, 0] * 0.5 / math.sqrt(4 - 0.25)
    if orthographic:
        cameras = dataclasses.replace(cameras, focal=cameras.focal / 2, orthographic=True)
        radius = cameras.focal[0, 0] * 0.5
    found = rasterise.rasterise(cameras.project(ball[0]), ball[1], 128, 128, perspective=not orthographic)
    at = torch.arange(128) + 0.5 - 64
    distance = (at[:, None] ** 2 + at**2).sqrt().expand(len(cameras), -1, -1)
    assert found.covered[distance < radius - 0.1].all() and not found.covered[distance > radius + 0.01].any()


def test_against_scipy() -> None:
    """Face and weights of pixels in a Delaunay triangulation, against scipy's own search."""
    spatial = pytest.importorskip("scipy.spatial")
    points = np.random.default_rng(0).uniform(0, 48, (60, 2)).astype(np.float32)
    mesh = spatial.Delaunay(points)
    found = draw(corners(*points.tolist()), mesh.simplices, 48, perspective=False)
    at = np.stack(np.meshgrid(np.arange(48) + 0.5, np.arange(48) + 0.5), axis=-1)
    face = mesh.find_simplex(at)
    linear = mesh.transform[face, :2] @ (at - mesh.transform[face, 2])[..., None]
    weights = np.concatenate([linear[..., 0], 1 - linear.sum(axis=(-1, -2))[..., None]], axis=-1)
    clear = weights.min(axis=-1) > 1e-3  # not next to an edge
    assert np.array_equal(found.face[0].numpy()[clear], face[clear]) and 0.7 < found.covered.float().mean() < 1
    assert np.array_equal(found.covered[0].numpy()[clear | (face < 0)], face[clear | (face < 0)] >= 0)
    assert np.abs(found.bary[0].numpy() - weights)[clear & (face >= 0)].max() < 1e-3


def test_against_the_draft_renderer() -> None:
    """The software renderer of the layer `base` shares no code with this one."""
    shape = globe(24, 16)
    paint = np.random.default_rng(1).integers(0, 256, (len(shape.vertices), 4), dtype=np.uint8)
    paint[:, 3] = 255
    mesh = Mesh(shape.vertices, shape.faces, vertex_colors=paint)
    camera = Camera("perspective", 96, 80, Pose(translation=(0.1, 0.0, 3.0)), yfov=math.radians(50))
    image = render.render_mesh(mesh, camera, 96, 80, shading=0.0, supersample=1)
    cameras = from_scene([camera], 80, 96)
    faces = torch.tensor(mesh.faces.astype(np.int64))
    found = rasterise.rasterise(cameras.project(torch.tensor(mesh.vertices)), faces, 80, 96, cull="back")
    colors = rasterise.interpolate(torch.tensor(paint[:, :3].astype(np.float32)), faces, found)[0]
    assert (found.covered[0].numpy() != (image[..., 3] > 0)).sum() <= 2
    both = found.covered[0].numpy() & (image[..., 3] > 0)
    assert np.abs(colors.numpy() - image[..., :3])[both].max() < 2


def test_an_orthographic_camera_of_the_contract() -> None:
    shape = globe(24, 16)
    mesh = Mesh(shape.vertices, shape.faces)
    turn = (0.9, 0.1, 0.1, math.sqrt(1 - 0.83))
    camera = Camera("orthographic", 64, 48, Pose(turn, (0.3, 0.5, 3.0)), xmag=1.3, ymag=1.1)
    image = render.render_mesh(mesh, camera, 64, 48, supersample=1)
    faces = torch.tensor(mesh.faces.astype(np.int64))
    found = rasterise.rasterise(from_scene([camera], 48, 64).project(torch.tensor(mesh.vertices)), faces, 48, 64, perspective=False)
    assert (found.covered[0].numpy() != (image[..., 3] > 0)).sum() <= 2 and found.covered.any()


def test_visible_faces_counts_views() -> None:
    ball, cameras = sphere(rows=8, columns=12), orbit(*spherical_hammersley(7), size=48)
    counts = rasterise.visible_faces(*ball, cameras)
    faces = rasterise.rasterise(cameras.project(ball[0]), ball[1], 48, 48).face
    wanted = sum(torch.bincount(view[view >= 0].unique(), minlength=len(ball[1])) for view in faces)
    assert torch.equal(counts, wanted) and counts.min() >= 1
    assert rasterise.visible_faces(*ball, cameras, far=1.0).sum() == 0


@pytest.mark.parametrize("name, wrong", [("fill_holes_two_pockets", 0), ("fill_holes_two_tunnels", 1)])
def test_visibility_of_the_goldens(name: str, wrong: int) -> None:
    path = next((p for p in replay.files() if p.stem == name), None)
    if path is None:
        pytest.skip("no golden vectors on this machine")
    from safetensors.torch import load_file

    x = load_file(str(path))
    count = 80
    cameras = orbit(*spherical_hammersley(count, dtype=torch.float64), size=96)
    off = rasterise.visible_faces(x["in.vertices"], x["in.faces"], cameras, near=1, far=3) - x["mid.visibility"].double() * count
    assert (off.abs() > 0.5).sum() <= wrong and off.abs().max() < 1.5


def test_coverage_of_the_golden_bake() -> None:
    path = next((p for p in replay.files() if p.stem == "texture_bake_box"), None)
    if path is None:
        pytest.skip("no golden vectors on this machine")
    from safetensors.torch import load_file

    x = load_file(str(path))
    k = x["in.intrinsics"] * 64
    cameras = Cameras(x["in.extrinsics"], k[:, [0, 1], [0, 1]], k[:, :2, 2], 64, 64)
    assert torch.equal(draw(cameras.project(x["in.vertices"]), x["in.faces"], 64).covered, x["in.masks"])


def test_a_long_list_in_small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    ball, cameras = sphere(rows=12, columns=16), orbit([0.1, 2.0, 4.0], 0.3, size=32)
    whole = rasterise.rasterise(cameras.project(ball[0]), ball[1], 32, 32)
    for name in ("_PAIRS", "_FACES", "_PIXELS"):
        monkeypatch.setattr(rasterise, name, 50)
    parts = rasterise.rasterise(cameras.project(ball[0]), ball[1], 32, 32)
    assert torch.equal(whole.face, parts.face) and torch.equal(whole.bary, parts.bary) and torch.equal(whole.depth, parts.depth)
