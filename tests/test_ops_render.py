"""The rasteriser and the splatter: against what can be worked out by hand, against renderers that share no code with them, and the Triton kernels
against their twins.

On a machine with a CUDA device the kernels run there (python3 -m pytest tests/test_ops_render.py); where Triton is installed without one, in its
interpreter, on small pictures; elsewhere those tests are skipped.
"""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import OptionError, SetupError  # noqa: E402
from comfyui_sam3d.contract.scene import Camera, Mesh, Pose, Splats  # noqa: E402
from comfyui_sam3d.worker.geometry import render  # noqa: E402
from comfyui_sam3d.worker.ops import backends, rasterise, splatting  # noqa: E402
from comfyui_sam3d.worker.ops.cameras import Cameras, from_scene, orbit, spherical_hammersley  # noqa: E402

from geometry_shapes import globe  # noqa: E402
from golden import replay  # noqa: E402

CUDA = torch.cuda.is_available()
if backends.has("triton") and not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined
DEVICE = "cuda" if CUDA else "cpu"
needs_triton = pytest.mark.skipif(not backends.has("triton"), reason="needs Triton (and a CUDA device, or patience)")
needs_gpu = pytest.mark.skipif(not CUDA or not backends.has("triton"), reason="needs a CUDA device and Triton")

pytestmark = pytest.mark.usefixtures("one_thread")


def corners(*points: tuple[float, ...]) -> torch.Tensor:
    """One view's corners: (x, y) or (x, y, depth)."""
    return torch.tensor([[*p, 1.0][:3] for p in points])[None]


def draw(screen: torch.Tensor, faces: object, size: int = 16, **options: object) -> rasterise.Fragments:
    return rasterise.rasterise(screen, torch.as_tensor(faces), size, size, **options)


# --- cameras ---------------------------------------------------------------------------------------------------------------------------------


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


# --- the rasteriser --------------------------------------------------------------------------------------------------------------------------


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


def sphere(radius: float = 0.5, rows: int = 40, columns: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    mesh = globe(columns, rows)
    points = torch.tensor(mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True) * radius)
    return points.float(), torch.tensor(mesh.faces.astype(np.int64))


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


# --- the splatter ----------------------------------------------------------------------------------------------------------------------------


def looking_along_z(size: int = 21, focal: float = 30.0, **more: object) -> Cameras:
    """One camera at the origin of a world that has its axes."""
    return Cameras(torch.eye(4)[None], torch.full((1, 2), focal), torch.full((1, 2), size / 2), size, size, **more)


def gaussians(*rows: tuple[float, ...]) -> tuple[torch.Tensor, ...]:
    """(x, y, z, sigma, opacity, red, green, blue) each, round."""
    table = torch.tensor(rows, dtype=torch.float32)
    turn = torch.tensor([1.0, 0, 0, 0]).repeat(len(table), 1)
    return table[:, :3], table[:, 3:4].repeat(1, 3), turn, table[:, 4], table[:, 5:]


@pytest.mark.parametrize("orthographic", [False, True])
@pytest.mark.parametrize("compensate", [False, True])
def test_one_gaussian_in_closed_form(orthographic: bool, compensate: bool) -> None:
    cameras = looking_along_z(focal=15.0 if orthographic else 30.0, orthographic=orthographic)
    found = splatting.splat(*gaussians((0, 0, 2, 0.1, 0.8, 0.2, 0.4, 1.0)), cameras, low_pass=0.5, compensate=compensate, depth=True)
    plain, wide = 1.5**2, 1.5**2 + 0.5
    at = torch.arange(21) - 10.0
    alpha = 0.8 * (plain / wide if compensate else 1) * torch.exp(-(at[:, None] ** 2 + at**2) / (2 * wide))
    alpha = torch.where(alpha < 1 / 255, 0, alpha)
    assert torch.allclose(found.alpha[0], alpha, atol=1e-6)
    assert torch.allclose(found.image[0], alpha[..., None] * torch.tensor([0.2, 0.4, 1.0]), atol=1e-6)
    assert torch.equal(torch.isinf(found.depth[0]), alpha == 0) and torch.allclose(found.depth[0][alpha > 0], torch.tensor(2.0))


def test_an_ellipsoid_turned_and_off_the_axis() -> None:
    """Against the covariance worked out in float64 from its definition."""
    rng = np.random.default_rng(4)
    axes, turn = np.array([0.3, 0.1, 0.05]), rng.normal(size=4)
    w, x, y, z = turn / np.linalg.norm(turn)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + 2 * w * skew + 2 * skew @ skew
    place, focal = np.array([0.3, -0.2, 2.5]), 40.0
    derivative = focal * np.array([[1, 0, -place[0] / place[2]], [0, 1, -place[1] / place[2]]]) / place[2]
    spread = derivative @ rotation @ np.diag(axes**2) @ rotation.T @ derivative.T + 0.3 * np.eye(2)
    given_ = [torch.tensor(np.array(v)[None]).float() for v in (place, axes, turn * 3, [0.9, 0.5, 0.1])]
    found = splatting.splat(*given_[:3], torch.tensor([0.7]), given_[3], looking_along_z(32, focal))
    at = np.stack(np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5), axis=-1) - (focal * place[:2] / place[2] + 16)
    alpha = 0.7 * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", at, np.linalg.inv(spread), at))
    alpha[alpha < 1 / 255] = 0
    assert np.allclose(found.alpha[0], alpha, atol=1e-5) and (alpha > 0).sum() > 50


def test_order_opacity_and_background() -> None:
    near, far = (0, 0, 2, 0.2, 0.6, 1, 0, 0), (0, 0, 3, 0.3, 0.5, 0, 1, 0)
    for rows in ((near, far), (far, near)):
        found = splatting.splat(*gaussians(*rows), looking_along_z(), background=(0, 0, 1), depth=True)
        middle = found.image[0, 10, 10]
        assert middle.tolist() == pytest.approx([0.6, 0.2, 0.2], abs=1e-6)
        assert float(found.alpha[0, 10, 10]) == pytest.approx(0.8, abs=1e-6)
        assert float(found.depth[0, 10, 10]) == pytest.approx((0.6 * 2 + 0.2 * 3) / 0.8, abs=1e-5)
    assert found.image[0, 0, 0].tolist() == [0, 0, 1] and float(found.alpha[0, 0, 0]) == 0


def test_light_ends() -> None:
    """No splat covers more than 0.99; the one that would leave less than 1e-4 of the light, and all behind it, aren't drawn."""
    walls = [(0, 0, 2 + i, 50.0, 0.98, *(1.0 if c == i else 0.0 for c in range(3))) for i in range(3)]
    assert splatting.splat(*gaussians(*walls), looking_along_z(5)).image[0, 2, 2].tolist() == pytest.approx([0.98, 0.0196, 0], abs=1e-5)
    walls[0] = (0, 0, 2, 50.0, 1.0, 1.0, 0.0, 0.0)
    assert float(splatting.splat(*gaussians(*walls), looking_along_z(5)).image[0, 2, 2, 0]) == pytest.approx(0.99, abs=1e-6)


def test_what_is_left_out() -> None:
    good = (0, 0, 2, 0.1, 0.8, 1, 1, 1)
    alone = splatting.splat(*gaussians(good), looking_along_z()).image
    for change in ({2: 0.005}, {2: -2}, {0: math.nan}, {3: math.inf}, {4: math.nan}, {4: 0.003}, {5: math.nan}, {0: 50}):
        bad = [change.get(i, value) for i, value in enumerate(good)]
        assert torch.equal(splatting.splat(*gaussians(good, tuple(bad)), looking_along_z()).image, alone), change
    none = splatting.splat(*(t[:0] for t in gaussians(good)), looking_along_z(), depth=True)
    assert none.alpha.sum() == 0 and torch.isinf(none.depth).all()


def some_splats(count: int = 300, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    turns = rng.normal(size=(count, 4))
    return Splats(
        positions=rng.uniform(-0.5, 0.5, (count, 3)).astype(np.float32),
        scales=rng.uniform(0.01, 0.08, (count, 3)).astype(np.float32),
        rotations=(turns / np.linalg.norm(turns, axis=1, keepdims=True)).astype(np.float32),
        opacities=rng.uniform(0.05, 0.99, count).astype(np.float32),
        sh=rng.uniform(-1.5, 1.5, (count, 1, 3)).astype(np.float32),
    )


def as_tensors(splats: Splats) -> tuple[torch.Tensor, ...]:
    colors = np.maximum(splats.colors(), 0)
    return tuple(torch.tensor(np.array(a)) for a in (splats.positions, splats.scales, splats.rotations, splats.opacities, colors))


def test_splats_against_the_draft_renderer() -> None:
    splats = some_splats()
    camera = Camera("perspective", 64, 48, Pose(translation=(0.1, 0.0, 2.0)), yfov=math.radians(40))
    image = render.render_splats(splats, camera, 64, 48).astype(np.float32) / 255
    found = splatting.splat(*as_tensors(splats), from_scene([camera], 48, 64))
    assert np.abs(found.alpha[0].numpy() - image[..., 3]).max() < 0.004
    assert np.abs(found.image[0].numpy().clip(0, 1) - image[..., :3] * image[..., 3:]).max() < 0.02  # the draft clips its colours
    assert image[..., 3].mean() > 0.3


def test_the_twin_can_be_differentiated() -> None:
    """Opacities and colours against differences; a position against the closed form (the rim at 1/255 moves without a gradient)."""
    values = [t.requires_grad_() for t in as_tensors(some_splats(30))]
    cameras = orbit([0.4], [0.1], size=24)
    weight = torch.rand(1, 24, 24, 3, generator=torch.Generator().manual_seed(0))
    (splatting.splat(*values, cameras).image * weight).sum().backward()
    for i in (3, 4):
        step = torch.randn(values[i].shape, generator=torch.Generator().manual_seed(i)) * 1e-3
        with torch.no_grad():
            low, high = (
                (splatting.splat(*values[:i], values[i] + sign * step, *values[i + 1 :], cameras).image * weight).sum() for sign in (-1, 1)
            )
        assert float(high - low) / 2 == pytest.approx(float((values[i].grad * step).sum()), rel=0.05, abs=2e-3)

    one = gaussians((0.1, -0.2, 2, 0.1, 0.8, 1, 1, 1))
    place, share = one[0].requires_grad_(), weight[0, :21, :21, 0]
    splatting.splat(place, *one[1:], looking_along_z(focal=15.0, orthographic=True)).image[0, ..., 0].mul(share).sum().backward()
    moved = one[0].detach().clone().requires_grad_()
    at = torch.stack(torch.meshgrid(torch.arange(21.0) - 10, torch.arange(21.0) - 10, indexing="xy"), dim=-1) - moved[0, :2] * 15
    alpha = 0.8 * torch.exp(-(at**2).sum(dim=-1) / (2 * (1.5**2 + 0.3)))
    torch.where(alpha >= 1 / 255, alpha * share, 0.0).sum().backward()
    assert torch.allclose(place.grad, moved.grad, rtol=1e-3, atol=1e-4) and place.grad[0, :2].abs().min() > 1e-3


# --- backends --------------------------------------------------------------------------------------------------------------------------------


def test_wrong_shapes_are_refused() -> None:
    square, face = corners((0, 0), (1, 0), (0, 1)), torch.tensor([[0, 1, 2]])
    for call in (
        lambda: draw(square[0], face), lambda: draw(square, face.float()), lambda: draw(square, [[0, 1, 3]]), lambda: draw(square, [[0, 1, -1]]),
        lambda: draw(square, face, 0), lambda: draw(square, face, cull="both"),
        lambda: rasterise.interpolate(torch.ones(3, 1), face, draw(square, face, bary=False)),
        lambda: splatting.splat(*gaussians((0, 0, 2, 0.1, 0.8, 1, 1, 1))[:4], torch.ones(2, 3), looking_along_z()),
        lambda: Cameras(torch.eye(4), torch.ones(1, 2), torch.ones(1, 2), 4, 4),
    ):  # fmt: skip
        with pytest.raises(OptionError):
            call()


@pytest.mark.parametrize("name", ["pytorch3d", "nvdiffrast", "gsplat"])
def test_optional_backends(name: str) -> None:
    """Refused in words where they can't run; where they can, they draw what ours draw."""
    ball, cameras, splats = sphere(), orbit([0.5, 2.0], [0.2, 0.1], size=64).to(DEVICE), [t.to(DEVICE) for t in as_tensors(some_splats())]
    screen, faces = cameras.project(ball[0].to(DEVICE)), ball[1].to(DEVICE)
    call = (lambda: splatting.splat(*splats, cameras, depth=True)) if name == "gsplat" else (lambda: draw(screen, faces, 64, cull="back"))
    ours = call()
    if not backends.has(name) or (not CUDA and name != "pytorch3d"):
        with backends.force(name), pytest.raises(SetupError, match=name):
            call()
        return
    with backends.force(name):
        theirs = call()
    if name == "gsplat":
        assert (ours.image - theirs.image).abs().max() < 0.05 and (ours.image - theirs.image).abs().mean() < 2e-3
        assert (ours.alpha - theirs.alpha).abs().max() < 0.05
        return
    same = ours.face == theirs.face
    assert same.float().mean() > 0.99
    assert (ours.covered != theirs.covered).float().mean() < 0.002
    assert (ours.depth - theirs.depth)[same & ours.covered].abs().max() < 1e-3


def triton_fragments(
    screen: torch.Tensor, faces: torch.Tensor, height: int, width: int, perspective: bool, cull: str | None
) -> rasterise.Fragments:
    from comfyui_sam3d.worker.ops import rasterise_triton

    near = rasterise._limit(None, perspective)
    keys = rasterise_triton.nearest(screen, faces, height, width, perspective, cull, near)
    views = len(screen)
    out = (
        torch.empty(views, height, width, dtype=torch.int32, device=screen.device), torch.empty(views, height, width, device=screen.device),
        torch.empty(views, height, width, 3, device=screen.device),
    )  # fmt: skip
    rasterise_triton.resolve(keys, screen, faces, perspective, *out)
    return rasterise.Fragments(out[0], out[2], out[1])


@needs_triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter divides by zero in lanes that are masked
@pytest.mark.parametrize("perspective, cull", [(True, None), (True, "back"), (False, "front")])
def test_triton_rasteriser(perspective: bool, cull: str | None) -> None:
    """Random triangles, small and large, half of their corners on pixel centres, some behind the camera."""
    size, count = (200, 2000) if CUDA else (20, 24)
    generator = torch.Generator().manual_seed(3)
    middle = torch.rand(2, count, 1, 2, generator=generator) * (size + 8) - 4
    spread = torch.rand(1, count, 1, 1, generator=generator) * size + 3
    xy = middle + (torch.rand(2, count, 3, 2, generator=generator) - 0.5) * spread
    xy[:, ::2] = xy[:, ::2].floor() + 0.5
    depth = torch.rand(2, count, 3, 1, generator=generator) * 4 + (-0.1 if perspective else -2.0)
    screen = torch.cat([xy, depth], dim=3).view(2, -1, 3).to(DEVICE)
    faces = torch.arange(3 * count, device=DEVICE).view(-1, 3)
    got = triton_fragments(screen, faces, size, size + 3, perspective, cull)
    with backends.force("torch"):
        want = rasterise.rasterise(screen, faces, size, size + 3, perspective=perspective, cull=cull)
    assert torch.equal(got.covered, want.covered) and float(want.covered.float().mean()) > 0.15
    same = got.face == want.face
    assert same.float().mean() > 0.999
    assert torch.allclose(got.depth, want.depth, rtol=1e-5, atol=1e-5)
    assert torch.allclose(got.bary[same], want.bary[same], atol=1e-5)


@needs_triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("orthographic, compensate, portion", [(False, False, 1 << 24), (False, True, 60), (True, False, 1 << 24)])
def test_triton_splatter(orthographic: bool, compensate: bool, portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfyui_sam3d.worker.ops import splatting_triton

    monkeypatch.setattr(splatting_triton, "_PAIRS", portion)
    count, size = (3000, (150, 201)) if CUDA else (50, (20, 35))
    splats = [t.to(DEVICE) for t in as_tensors(some_splats(count))]
    splats[0][3] = math.nan
    splats[0][4] = 100.0
    splats[4][5] = math.inf
    splats[3][6:9] = 1.0
    cameras = orbit([0.3, 2.0], [0.2, -0.5], size=size).to(DEVICE)
    if orthographic:
        cameras = dataclasses.replace(cameras, focal=cameras.focal / 2, orthographic=True)
    with backends.force("torch"):
        want = splatting.splat(*splats, cameras, compensate=compensate, depth=True)
    image, alpha, far = splatting_triton.splat(splatting.Gaussians(*splats), cameras, 0.3, compensate, 0.01, True)
    assert want.alpha.mean() > 0.05
    # A share next to 1/255, or light next to 1e-4, may fall on either side.
    for got, wanted in ((image, want.image), (alpha, want.alpha), (far, torch.where(want.alpha > 0, want.depth * want.alpha, 0.0))):
        off = (got - wanted).abs()
        assert off.max() < 0.02 and (off > 1e-4).float().mean() < 2e-3


@needs_gpu
def test_the_gpu_path_is_the_default_and_keeps_to_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splats as large as the picture, whose whole list would take gigabytes."""
    from comfyui_sam3d.worker.ops import splatting_triton

    called = []
    monkeypatch.setattr(splatting_triton, "_view", lambda *a, _real=splatting_triton._view: (called.append(1), _real(*a))[1])
    count = 40_000
    table = torch.rand(count, 3, device=DEVICE)
    turn = torch.randn(count, 4, device=DEVICE)
    cameras = orbit([0.3], [0.2], size=1024).to(DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = splatting.splat(table - 0.5, table * 0 + 0.3, turn, table[:, 0] * 0.01 + 0.004, table, cameras)
    assert called and torch.cuda.max_memory_allocated() - before < 2e9
    assert found.alpha.max() > 0.99


@needs_gpu
def test_a_large_mesh_on_the_gpu() -> None:
    """Both sides of a closed surface of 100,000 small faces cover the same pixels, and the twin agrees on the same device."""
    points, faces = (t.to(DEVICE) for t in sphere(rows=223, columns=223))
    cameras = orbit(*spherical_hammersley(4), size=512).to(DEVICE)
    screen = cameras.project(points)
    front, back = (draw(screen, faces, 512, cull=cull) for cull in ("back", "front"))
    assert torch.equal(front.covered, back.covered) and 0.2 < front.covered.float().mean() < 0.9
    with backends.force("torch"):
        twin = draw(screen, faces, 512, cull="back")
    assert torch.equal(front.covered, twin.covered) and (front.face == twin.face).float().mean() > 0.999
    assert torch.equal(rasterise.visible_faces(points, faces, cameras, cull="back"), _seen(front.face, len(faces)))


def _seen(face: torch.Tensor, count: int) -> torch.Tensor:
    return sum(torch.bincount(view[view >= 0].unique(), minlength=count) for view in face)
