"""Textures from splats: the atlas, the search for neighbours, the fill, both ways to colour, and the whole bake measured against a known
truth."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import InputError, JobCancelled, OptionError, Sam3dError  # noqa: E402
from comfyui_sam3d.contract.scene import Mesh, Splats  # noqa: E402
from comfyui_sam3d.worker.geometry.texture import BakeOptions, bake  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.atlas import covered, nearest_points, texels  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.direct import Gaussians, blend, direct_colors  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.fit import bilinear, fit, scatter  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.multiview import EDGE, Rig, _unhidden, view_colors  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.nearest import Grid, Tree  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.padding import exact_nearest_known, fill, nearest_known  # noqa: E402
from comfyui_sam3d.worker.job import QuietJob  # noqa: E402

from texture_shapes import SHAPES, Shape, inside, lookup, mesh_pictures, psnr, splat_pictures, ssim, views  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))]
pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"per_voxel": 32, "voxels": 24}  # splats: a seventh of the real number


@pytest.fixture(scope="module")
def ball() -> tuple[Shape, Mesh, Splats]:
    shape = SHAPES["ball"]
    return shape, shape.colored(*shape.raw_mesh(24)), shape.splats(**SMALL)


# -- the atlas


def brute_nearest(corners: np.ndarray, point: np.ndarray) -> float:
    """Distance from a point to a triangle, by trying many of its points."""
    s, t = np.meshgrid(np.linspace(0, 1, 60), np.linspace(0, 1, 60))
    u, v = s.ravel() * (1 - t.ravel()), t.ravel()
    inner = corners[0] + u[:, None] * (corners[1] - corners[0]) + v[:, None] * (corners[2] - corners[0])
    return float(np.linalg.norm(inner - point, axis=1).min())


def test_nearest_points_of_triangles() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 16, (40, 3, 2)).astype(np.float32)
    corners[0, 2] = corners[0, 1]  # a segment
    corners[1, 1:] = corners[1, 0]  # a point
    face, texel = torch.arange(40).repeat_interleave(8), torch.from_numpy(rng.integers(0, 256, 320))
    squared, bary = nearest_points(torch.from_numpy(corners), face, texel, 16)
    assert float(bary.min()) >= 0 and torch.allclose(bary.sum(1), torch.ones(320), atol=1e-5)
    points = (torch.from_numpy(corners)[face] * bary[..., None]).sum(1)
    centres = torch.stack([texel % 16, texel // 16], 1).float()
    assert torch.allclose((points - centres).norm(dim=1), squared.sqrt(), atol=2e-3)
    brute = [brute_nearest(corners[f], c) for f, c in zip(face, centres.numpy())]
    assert np.abs(np.array(brute) - squared.sqrt().numpy()).max() < 0.3  # the brute force is coarse, never too near
    assert (np.array(brute) > squared.sqrt().numpy() - 1e-3).all()


@pytest.mark.parametrize("device", DEVICES)
def test_every_face_has_texels_however_thin(device: str) -> None:
    rng = np.random.default_rng(1)
    start, along = rng.uniform(0.1, 0.9, (200, 2)), rng.normal(size=(200, 2)) * 0.02
    across = np.stack([-along[:, 1], along[:, 0]], 1) * 1e-3  # far thinner than a texel
    corners = torch.tensor(np.stack([start, start + along, start + across], 1).astype(np.float32), device=device)
    alone = [texels(corners[i : i + 1], 64, 64) for i in range(200)]
    assert min(len(found.index) for found in alone) >= 4
    assert sum(int(found.inside.sum()) for found in alone) < 20  # looking at centres alone would miss nearly all


def test_texels_belong_to_the_face_that_holds_them() -> None:
    corners = torch.tensor([[[0.0, 0], [0.5, 0], [0, 0.5]], [[0.5, 0], [0.5, 0.5], [0, 0.5]], [[0.75, 0.75], [1, 0.75], [0.75, 1]]])
    found = texels(corners, 32, 32)
    x, y = found.index % 32, found.index // 32
    square = (x < 16) & (y < 16)
    assert int(square.sum()) == 256 and bool(found.inside[square].all())
    upper = (x + y < 15)[square]
    assert bool((found.face[square][upper] == 0).all())
    assert int(covered(corners, 32, 32)[:16, :16].sum()) == 256
    # Outside, a texel takes the nearest point, and no face reaches further than two texels.
    place = (corners[found.face] * found.bary[..., None]).sum(1) * 32 - 0.5
    away = (place - torch.stack([x, y], 1)).norm(dim=1)
    assert float(away.max()) <= 2.001 and bool((away[~found.inside] > 0).all())
    assert not ((x >= 19) & (x < 21) & (y >= 19) & (y < 21)).any()


def test_a_texel_beside_two_faces_takes_the_nearer_one() -> None:
    """Two squares with three texels between them: the one in the middle lies nearer to the second, by a quarter of one."""
    left = torch.tensor([[[0.0, 0], [4, 0], [4, 8]], [[0.0, 0], [4, 8], [0, 8]]])
    right = torch.tensor([[[6.75, 0], [12, 0], [12, 8]], [[6.75, 0], [12, 8], [6.75, 8]]])
    found = texels(torch.cat([left, right]) / 16, 16, 16)
    owner = dict(zip(found.index.tolist(), found.face.tolist()))
    assert [owner[4 * 16 + column] < 2 for column in (3, 4, 5, 6)] == [True, True, False, False]


def test_faces_can_be_left_out() -> None:
    corners = torch.tensor([[[0.0, 0], [1, 0], [0, 1]], [[1.0, 0], [1, 1], [0, 1]]])
    assert set(texels(corners, 8, 8, usable=torch.tensor([True, False])).face.tolist()) == {0}


# -- neighbours and the fill


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("radius", [0.05, 0.4, 10.0])
def test_the_grid_finds_what_the_tree_finds(device: str, radius: float) -> None:
    rng = np.random.default_rng(2)
    points = torch.from_numpy(np.concatenate([rng.normal(size=(3000, 3)), np.full((5, 3), 0.25)]).astype(np.float32))
    queries = torch.from_numpy(np.concatenate([rng.normal(size=(500, 3)), [[50, 0, 0]]]).astype(np.float32))
    tree, grid = Tree(points).nearest(queries, 12, radius), Grid(points.to(device)).nearest(queries.to(device), 12, radius).cpu()
    assert torch.equal(tree >= 0, grid >= 0)

    def distances(who: torch.Tensor) -> torch.Tensor:
        return torch.where(who >= 0, (points[who.clamp_min(0)] - queries[:, None]).norm(dim=2), -1)

    assert torch.allclose(distances(tree), distances(grid), atol=1e-5)  # equally near ones may change places
    near, far = Tree(points).distance(queries, 12), Grid(points.to(device)).distance(queries.to(device), 12).cpu()
    assert torch.allclose(near, far, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_fill_by_flooding_is_as_good_as_exact(device: str) -> None:
    rng = np.random.default_rng(3)
    known = torch.from_numpy(rng.random((61, 97)) < 0.01)
    known[10:20, 30:50] = True
    y, x = torch.meshgrid(torch.arange(61), torch.arange(97), indexing="ij")

    def away(places: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        row, column = (place.cpu() for place in places)
        assert bool(known[row, column].all())
        return ((row - y) ** 2 + (column - x) ** 2).sqrt()

    exact, flooded = away(exact_nearest_known(known)), away(nearest_known(known.to(device)))
    assert float((flooded - exact).max()) < 1 and float((flooded - exact).mean()) < 0.01
    image = torch.rand(61, 97, 3)
    filled = fill(image.to(device), known.to(device)).cpu()
    assert torch.equal(filled[known], image[known])


# -- direct


def one_of_each(opacity: float, heights: list[float], colors: list[list[float]]) -> Gaussians:
    count = len(heights)
    positions = torch.tensor([[0.0, 0, height] for height in heights])
    turn = torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1)
    return Gaussians(positions, torch.full((count, 3), 0.01), turn, torch.full((count,), opacity), torch.tensor(colors))


def test_what_lies_in_front_hides_what_lies_behind() -> None:
    g = one_of_each(0.9, [-0.01, 0.01, 0.0], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    who = torch.tensor([[0, 1, 2, -1]])
    color, opacity = blend(torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]), who, g, g.precision(0.0))
    assert torch.allclose(opacity, torch.tensor([0.999]), atol=1e-4)
    assert color[0, 1] > 0.99  # blended alone it would be 0.9, and what shines through is held back further
    turned, _ = blend(torch.zeros(1, 3), torch.tensor([[0.0, 0, -1]]), who, g, g.precision(0.0))
    assert turned[0, 0] > 0.99


def test_what_stands_above_the_surface_counts_whole() -> None:
    """Only what lies below what is mostly seen is held back."""
    g = one_of_each(0.2, [0.02, *[0.0] * 6], [[1, 0, 0], *[[0, 1, 0]] * 6])
    color, opacity = blend(torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]), torch.arange(7)[None], g, g.precision(0.0))
    assert float(opacity) == pytest.approx(1 - 0.8**7, abs=1e-4)
    assert 0.3 < float(color[0, 0]) < 0.5  # blended alone it would be 0.25


def test_side_by_side_gaussians_share_as_they_are_blended() -> None:
    """Of one height, so that the depth has no say: by opacity, the front one first."""
    g = one_of_each(0.5, [0.0, 1e-6], [[1, 0, 0], [0, 1, 0]])
    color, opacity = blend(torch.tensor([[0.0, 0, 0.01]]), torch.tensor([[0.0, 0, 1]]), torch.tensor([[0, 1]]), g, g.precision(0.0))
    assert torch.allclose(opacity, torch.tensor([0.75])) and torch.allclose(color[0], torch.tensor([1 / 3, 2 / 3, 0]), atol=1e-3)


def test_a_footprint_is_that_of_the_projected_gaussian() -> None:
    """Against the covariance projected by hand: along a normal, the 2 x 2 block of the other two axes."""
    rng = np.random.default_rng(4)
    turn = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(1, 4)).astype(np.float32)), dim=1)
    g = Gaussians(torch.zeros(1, 3), torch.tensor([[0.3, 0.1, 0.02]]), turn, torch.tensor([0.7]), torch.ones(1, 3))
    covariance = torch.linalg.inv(g.precision(0.01)[0].double())
    assert torch.allclose(torch.linalg.eigvalsh(covariance), torch.tensor([0.02**2, 0.1**2, 0.3**2]).double() + 0.01, rtol=1e-4)
    point = torch.tensor([[0.1, -0.2, 5.0]])
    _, opacity = blend(point, torch.tensor([[0.0, 0, 1]]), torch.tensor([[0]]), g, g.precision(0.01))
    flat = point[0, :2].double()
    assert float(opacity) == pytest.approx(0.7 * float(torch.exp(-0.5 * flat @ torch.linalg.inv(covariance[:2, :2]) @ flat)), rel=1e-3)


def test_far_from_all_splats_the_nearest_count() -> None:
    g = one_of_each(0.5, [0.0, 1.0], [[1, 0, 0], [0, 1, 0]])
    colors, opacity = direct_colors(torch.tensor([[9.0, 0, 0], [0, 0, 8]]), torch.tensor([[1.0, 0, 0], [0, 0, 1]]), g, 0.001, QuietJob())
    assert bool((colors.sum(1) > 0.9).all()) and float(opacity[0]) == 0
    assert colors[1, 1] > 0.4
    away = one_of_each(0.5, [1e20, 1e20], [[1, 0, 0], [0, 1, 0]])  # so far that squares are infinite
    colors, _ = direct_colors(torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]), away, 0.001, QuietJob())
    assert torch.allclose(colors, torch.tensor([[0.5, 0.5, 0]]))


def test_gaussians_are_widened_by_a_texels_share() -> None:
    g = one_of_each(0.9, [0.0], [[1, 0, 0]])
    for texel in (1e-6, 0.05):
        _, opacity = direct_colors(torch.tensor([[0.02, 0, 0]]), torch.tensor([[0.0, 0, 1]]), g, texel, QuietJob())
        assert float(opacity) == pytest.approx(0.9 * np.exp(-0.5 * 0.02**2 / (0.01**2 + 0.3 * texel**2)), rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_direct_colors_on_the_surface(ball: tuple[Shape, Mesh, Splats], device: str) -> None:
    shape, mesh, splats = ball
    points = shape.onto(mesh.vertices)
    arrays = (torch.tensor(a.astype(np.float32), device=device) for a in (points, shape.normals(points)))
    colors, opacity = direct_colors(*arrays, Gaussians.of(splats, device), 0.005, QuietJob())
    error = colors.cpu() - torch.from_numpy(shape.color(points)).float()
    assert float(opacity.median()) > 0.9 and -10 * torch.log10(error.square().mean()) > 21


# -- views


@pytest.mark.parametrize("device", DEVICES)
def test_views_see_what_isnt_hidden(device: str) -> None:
    """Two walls, one before the other: the back of the front one and the front of the back one are hidden from most sides, never painted
    wrong."""
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41)), -1).reshape(-1, 2)
    front, back = (np.column_stack([grid, np.full(len(grid), z)]) for z in (0.3, -0.3))
    positions = torch.tensor(np.concatenate([front, back]), dtype=torch.float32, device=device)
    colors = torch.tensor([[1.0, 0, 0]] * len(grid) + [[0, 0, 1.0]] * len(grid), device=device)
    count = len(positions)
    scales = torch.tensor([[0.05, 0.05, 0.005]], device=device).repeat(count, 1)
    g = Gaussians(
        positions, scales, torch.tensor([[1.0, 0, 0, 0]], device=device).repeat(count, 1), torch.full((count,), 0.95, device=device), colors
    )
    corner = [[-1, -1], [1, -1], [1, 1], [-1, 1]]
    vertices = torch.tensor([[x, y, z] for z in (0.3, -0.3) for x, y in corner], dtype=torch.float32, device=device)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], device=device)
    points = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, -0.3]], device=device)
    normals = torch.tensor([[0.0, 0, 1], [0, 0, 1]], device=device)
    colors, weight = view_colors(points, normals, vertices, faces, g, Rig.around(vertices, 48, 96), QuietJob())
    assert bool((weight > 0).all()) and weight[0] > 2 * weight[1]
    assert torch.allclose(colors.cpu(), torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), atol=0.12)
    enclosed = view_colors(points * 0, normals[:1].expand(2, 3), vertices[:4], faces[:2], g, Rig.around(vertices, 4, 32), QuietJob())
    assert enclosed[1].shape == (2,)


def test_a_view_counts_the_more_the_straighter_it_looks() -> None:
    """By the fourth power of the cosine, and not at all from the side. One Gaussian, and a mesh that hides nothing."""
    vertices = torch.tensor([[1.0, 1, 1], [-1, -1, -1]])
    rig = Rig.around(vertices, 4, 64)
    rig = Rig(rig.cameras[2:3], rig.middle)
    towards = torch.nn.functional.normalize(rig.cameras.position[0], dim=0)
    aside = torch.nn.functional.normalize(torch.linalg.cross(towards, torch.tensor([1.0, 0.3, 0.2])), dim=0)
    angles = torch.tensor([0.0, 45, 60, 85]).deg2rad()[:, None]
    g = one_of_each(0.9, [0.0], [[1, 0.5, 0]])
    g = Gaussians(g.positions, g.scales * 30, g.rotations, g.opacities, g.colors)
    faces = torch.tensor([[0, 1, 0]])
    colors, weight = view_colors(torch.zeros(4, 3), angles.cos() * towards + angles.sin() * aside, vertices, faces, g, rig, QuietJob())
    assert torch.allclose(weight / weight[0], torch.tensor([1, 1 / 4, 1 / 16, 0]), atol=1e-3)
    assert torch.allclose(colors[:3], g.colors.expand(3, 3), atol=1e-3) and not colors[3].any()


def test_a_point_takes_its_own_pixel() -> None:
    """Pictures whose colour is the place on them, far off their middle too."""

    class Ramp(Rig):
        def pictures(self, gaussians: Gaussians, views: slice) -> tuple[torch.Tensor, torch.Tensor]:
            y, x = torch.meshgrid(*[(torch.arange(32) + 0.5) / 32] * 2, indexing="ij")
            return torch.stack([x, y, x], dim=2)[None], torch.ones(1, 32, 32)

    vertices = torch.tensor([[1.0, 1, 1], [-1, -1, -1]])
    rig = Rig.around(vertices, 4, 32)
    rig = Ramp(rig.cameras[1:2], rig.middle)
    points = 2 * torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 1
    towards = torch.nn.functional.normalize(rig.cameras.position - points, dim=1)
    g = one_of_each(0.9, [0.0], [[1, 1, 1]])
    colors, _ = view_colors(points, towards, vertices, torch.tensor([[0, 1, 0]]), g, rig, QuietJob())
    places = rig.cameras.project(points)[0, :, :2] / 32
    assert float(places.min()) < 0.25 and torch.allclose(colors[:, :2], places, atol=1e-4)


def test_what_hides_a_part_hides_a_little_more_than_itself() -> None:
    """A plate at depth 1 covers the left half, a wall at depth 2 the rest: splats on the plate's edge overhang it, onto the wall's picture."""
    depth = torch.full((32, 32), 2.0)
    depth[:, :16] = 1.0
    nearest = -torch.nn.functional.max_pool2d(-depth[None, None], 2 * EDGE, stride=1)[0, 0]
    columns = torch.tensor([8.5, 15.5, 16.5, 16.5 + EDGE - 2, 16.5 + EDGE - 1, 24.5])
    screen = torch.stack([columns, torch.full((6,), 16.0), torch.tensor([1.0, 1, 2, 2, 2, 2])], dim=1)
    assert _unhidden(screen, nearest, torch.ones(6), focal=40.0).tolist() == [True, True, False, False, True, True]
    behind = screen + torch.tensor([0, 0, 0.5])
    assert _unhidden(behind, nearest, torch.ones(6), focal=400.0).tolist() == [False] * 6


# -- fitting


def test_lookups_and_scatter() -> None:
    texture = torch.rand(5, 7, 3)
    places = torch.tensor([[2.0, 3.0], [2.5, 3.0], [-4.0, 9.0]])
    found = bilinear(places, 5, 7)(texture)
    assert torch.allclose(found, torch.stack([texture[3, 2], (texture[3, 2] + texture[3, 3]) / 2, texture[4, 0]]))
    texture, known = scatter(torch.tensor([[1.4, 0.6], [0.6, 1.4], [3.0, 0.0]]), torch.tensor([[1.0], [0.0], [0.25]]), 2, 4)
    assert texture[1, 1, 0] == 0.5 and texture[0, 3, 0] == 0.25 and known.sum() == 2


def test_fitting_finds_the_texture_again_and_agrees_with_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(6, 6, 3, generator=generator)
    lookups = [bilinear(torch.rand(200, 2, generator=generator) * 5, 6, 6) for _ in range(3)]
    colors = [lookup(truth) for lookup in lookups]
    order = [step % 3 for step in range(700)]
    fitted = fit(torch.zeros(6, 6, 3), lookups, colors, order, 700, smoothness=0.0)
    assert float((fitted - truth).abs().max()) < 0.02

    start = torch.rand(6, 6, 3, generator=generator)
    few = fit(start, lookups, colors, order, 5)
    plain, first, second = start.clone().requires_grad_(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(5):  # Adam in its textbook form (torch.optim takes seconds to import)
        variation = (plain[1:] - plain[:-1]).abs().mean() + (plain[:, 1:] - plain[:, :-1]).abs().mean()
        loss = (lookups[order[step]](plain) - colors[order[step]]).abs().mean() + 0.01 * variation
        (gradient,) = torch.autograd.grad(loss, plain)
        first, second = 0.5 * first + 0.5 * gradient, 0.9 * second + 0.1 * gradient**2
        rate = 1e-5 + 0.5 * (1e-2 - 1e-5) * (1 + np.cos(np.pi * step / 5))
        change = rate * first / (1 - 0.5 ** (step + 1)) / ((second / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        plain = (plain - change).detach().requires_grad_()
    assert torch.allclose(few, plain.detach(), atol=1e-5)


# -- the whole


def test_a_baked_ball_looks_like_the_ball(ball: tuple[Shape, Mesh, Splats]) -> None:
    """A small version of benchmarks/texture_quality.py: a seventh of the splats, so that edges are softer and the figure lower."""
    shape, _, splats = ball
    mesh = shape.colored(*shape.raw_mesh(32))
    cameras = views(2, 128)
    truth = shape.pictures(cameras, 64)
    worse = psnr(mesh_pictures(mesh, cameras), truth)
    for mode, least in (("direct", 23.0), ("vertex", 17.0)):
        baked = bake(mesh, splats, QuietJob(), BakeOptions(size=512, mode=mode, unwrap="box"), "cpu")
        pictures = mesh_pictures(baked.mesh, cameras)
        found = psnr(pictures, truth)
        assert found > least and baked.report["mode"] == mode, (mode, found)
        assert abs(found - worse) < 1 if mode == "vertex" else found > worse + 3  # coarse vertices show the checker badly
        assert ssim(pictures, truth) > 0.7
    assert baked.mesh.uvs is not None and baked.mesh.texture is not None and baked.mesh.normals is not None
    assert np.allclose(np.linalg.norm(baked.mesh.normals, axis=1), 1, atol=1e-5)
    assert np.array_equal(
        np.sort(mesh.vertices[mesh.faces].reshape(-1, 9), axis=0), np.sort(baked.mesh.vertices[baked.mesh.faces].reshape(-1, 9), axis=0)
    )


@pytest.mark.parametrize("mode", ["views", "fit"])
def test_baked_from_views(mode: str) -> None:
    shape = SHAPES["ball"]
    mesh, splats = shape.colored(*shape.raw_mesh(16)), shape.splats(voxels=12, hidden=0.1)
    options = BakeOptions(size=256, mode=mode, unwrap="box", views=12, view_size=96, steps=60)
    baked = bake(mesh, splats, QuietJob(), options)
    cameras = views(2, 96)
    pictures, shown = mesh_pictures(baked.mesh, cameras), splat_pictures(splats, cameras)
    assert baked.report["views"] == 12 and baked.report["unseen"] < 100
    assert psnr(pictures, shown, inside(pictures, shown)) > 20


@pytest.mark.parametrize("unwrap", ["xatlas", "box"])
def test_no_seam_is_black_however_small_the_texture_gets(unwrap: str) -> None:
    """A white object: whatever is sampled on the surface must be white, at every mip level, whatever stood between the charts."""
    if unwrap == "xatlas":
        pytest.importorskip("xatlas")
    shape = SHAPES["blob"]
    vertices, faces = shape.raw_mesh(28)
    mesh = Mesh(vertices, faces.astype(np.uint32), vertex_colors=np.full((len(vertices), 4), 255, np.uint8))
    baked = bake(mesh, None, QuietJob(), BakeOptions(size=256, mode="vertex", unwrap=unwrap))
    assert baked.mesh.texture is not None and baked.mesh.uvs is not None
    assert int(baked.mesh.texture.min()) == 255
    # The same with a colour that differs at every point: at a seam both sides show the same.
    ramp = np.full((len(vertices), 4), 255, np.uint8)
    ramp[:, :3] = np.round((vertices + 0.5).clip(0, 1) * 255)
    baked = bake(mesh.replace(vertex_colors=ramp), None, QuietJob(), BakeOptions(size=512, mode="vertex", unwrap=unwrap))
    assert baked.mesh.texture is not None and baked.mesh.uvs is not None
    rng = np.random.default_rng(0)
    corners = baked.mesh.faces.astype(np.int64)
    edges = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
    share = torch.from_numpy(rng.random((len(edges), 1)).astype(np.float32))
    uvs, places = torch.tensor(baked.mesh.uvs)[edges], torch.tensor(baked.mesh.vertices)[edges]
    true = (places[:, 0] * (1 - share) + places[:, 1] * share + 0.5).clamp(0, 1)
    level = torch.tensor(baked.mesh.texture).float()
    for mip, allowed in enumerate((0.012, 0.02, 0.05, 0.12)):
        found = lookup(level.round().to(torch.uint8).numpy(), uvs[:, 0] * (1 - share) + uvs[:, 1] * share)
        error = (found - true).abs().amax(1)
        assert float(error.quantile(0.999)) < allowed, f"mip level {mip}: {float(error.quantile(0.999)):.3f}"
        level = torch.nn.functional.avg_pool2d(level.permute(2, 0, 1), 2).permute(1, 2, 0)


def test_a_face_thinner_than_a_texel_has_its_colour() -> None:
    """A green triangle, and a red sliver that no texel's centre lies in."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [2, 1, 0], [2.00001, 0, 0]], np.float32)
    colors = np.array([[0, 200, 0, 255]] * 3 + [[200, 0, 0, 255]] * 3, np.uint8)
    mesh = Mesh(vertices, np.arange(6, dtype=np.uint32).reshape(2, 3), vertex_colors=colors)
    options = BakeOptions(size=256, mode="vertex", unwrap="box", padding=3)  # charts then begin between two centres
    baked = bake(mesh, None, QuietJob(), options).mesh
    assert baked.texture is not None and baked.uvs is not None
    found = lookup(baked.texture, torch.tensor(baked.uvs[baked.faces.astype(np.int64)].mean(axis=1)))
    assert torch.allclose(found * 255, torch.tensor([[0.0, 200, 0], [200, 0, 0]]), atol=1)


def test_wrong_calls_are_refused_in_words(ball: tuple[Shape, Mesh, Splats]) -> None:
    _, mesh, splats = ball
    for options in ({"size": 100}, {"mode": "photo"}, {"padding": -1}, {"neighbours": 0}):
        with pytest.raises((OptionError, InputError)) as caught:
            BakeOptions(**options)
        assert caught.value.hint
    for bad, rest in ((mesh.replace(vertex_colors=None), ("vertex", None)), (mesh, ("direct", None))):
        with pytest.raises(InputError) as caught:
            bake(bad, rest[1], QuietJob(), BakeOptions(mode=rest[0]))
        assert caught.value.hint
    with pytest.raises(Sam3dError):
        bake(Mesh(mesh.vertices, mesh.faces[:0]), splats, QuietJob())


def test_a_cancelled_bake_stops(ball: tuple[Shape, Mesh, Splats]) -> None:
    _, mesh, splats = ball

    class Impatient(QuietJob):
        def step(self, stage: str, step: int, total: int) -> None:
            if stage == "texture":
                raise JobCancelled("The job was cancelled.")

    with pytest.raises(JobCancelled):
        bake(mesh, splats, Impatient(), BakeOptions(size=256, unwrap="box"))
