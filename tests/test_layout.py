"""Layout refinement: the soft silhouette and its gradient, and the verdict; the other parts: test_layout_parts.py. The published numbers: tests/golden/postprocess_layout.py."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import InputError, OptionError  # noqa: E402
from comfyui_sam3d.contract.rotations import quaternion_product  # noqa: E402
from comfyui_sam3d.contract.scene import Mesh, Pose  # noqa: E402
from comfyui_sam3d.worker.geometry.frames import P3D_TO_SCENE, from_sam3d_pose  # noqa: E402
from comfyui_sam3d.worker.geometry.layout import RELEASED, RefineOptions, optimise, refine  # noqa: E402
from comfyui_sam3d.worker.geometry.layout.align import visible_points  # noqa: E402
from comfyui_sam3d.worker.geometry.layout.icp import Registration, rigid  # noqa: E402
from comfyui_sam3d.worker.geometry.layout.refine import Picture, Refinement  # noqa: E402
from comfyui_sam3d.worker.geometry.layout.silhouette import Lens, soft_silhouette  # noqa: E402

from golden import replay  # noqa: E402
from layout_shapes import LENSES, disc, scraps  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


# -- shapes


def bumpy(rows: int = 20, columns: int = 30, seams: bool = False) -> Mesh:
    """A closed, lopsided blob about 0.8 wide, standing along y. seams: with a column of vertices twice, as a texture's seam has it."""
    down = np.linspace(0, np.pi, rows + 1)[1:-1, None]
    around = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    radius = 0.35 + 0.1 * np.sin(3 * down + 1) * np.cos(around) + 0.06 * np.sin(2 * around + 1)
    ring = np.stack(np.broadcast_arrays(np.sin(down) * np.cos(around), 0.8 * np.cos(down), 0.7 * np.sin(down) * np.sin(around)), -1)
    vertices = np.concatenate([(radius[..., None] * ring).reshape(-1, 3), [[0, 0.3, 0], [0, -0.3, 0]]]).astype(np.float32)
    i = np.arange((rows - 2) * columns)
    right = i // columns * columns + (i + 1) % columns
    sides = np.concatenate([np.stack([i, right, i + columns], 1), np.stack([right, right + columns, i + columns], 1)])
    a = np.arange(columns)
    b, top, bottom, last = (a + 1) % columns, len(vertices) - 2, len(vertices) - 1, (rows - 2) * columns
    caps = np.concatenate([np.stack([a * 0 + top, b, a], 1), np.stack([a * 0 + bottom, last + a, last + b], 1)])
    faces = np.concatenate([sides, caps])
    if seams:
        vertices, faces = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    return Mesh(vertices, faces.astype(np.uint32))


def turned(pose: Pose, degrees: float, axis: tuple[float, float, float]) -> Pose:
    half, unit = math.radians(degrees) / 2, np.array(axis) / np.linalg.norm(axis)
    turn = np.array([math.cos(half), *(math.sin(half) * unit)])
    return Pose(tuple(quaternion_product(turn, np.array(pose.rotation)).tolist()), pose.translation, pose.scale)


class Photo:
    """A mesh seen by a camera: the mask, the point map and the pose that made them; `start`, a wrong one."""

    def __init__(self, size: tuple[int, int] = (96, 96), unit: float = 1.0, intrinsics: np.ndarray | None = None) -> None:
        self.mesh, (height, width) = bumpy(), size
        self.intrinsics = np.array([[1.1, 0, 0.5], [0, 1.1 * width / height, 0.5], [0, 0, 1]]) if intrinsics is None else intrinsics
        self.truth = turned(Pose((1.0, 0, 0, 0), (0.1 * unit, 0.05 * unit, -2.2 * unit), unit), 30, (1, 2, 0.5))
        self.start = turned(
            dataclasses.replace(self.truth, translation=(0.2 * unit, 0.0, -2.5 * unit), scale=0.85 * unit), 6, (0.3, 1, 0.2)
        )
        lens = Lens.of(self.intrinsics, height, width)
        points = self.truth.apply(self.mesh.vertices.astype(np.float64)) @ P3D_TO_SCENE
        self.points = visible_points(points, self.mesh.faces.astype(np.int64), lens)
        self.mask = np.isfinite(self.points).all(-1)
        wall = np.stack(np.broadcast_arrays(*np.meshgrid(np.linspace(2, -2, width), np.linspace(2, -2, height)), 4.0), -1) * unit
        self.points = np.where(self.mask[..., None], self.points, wall).astype(np.float32)  # something far behind, as pictures have it

    def error(self, pose: Pose) -> float:
        """Mean distance of the vertices from where they should be."""
        vertices = self.mesh.vertices.astype(np.float64)
        return float(np.linalg.norm(pose.apply(vertices) - self.truth.apply(vertices), axis=1).mean())

    def refine(self, pose: Pose | None = None, options: RefineOptions | None = None, **changes):
        arguments = {"mask": self.mask, "pointmap": self.points, "intrinsics": self.intrinsics} | changes
        options = options or RefineOptions(size=max(self.mask.shape))
        return refine(self.mesh, pose or self.start, **arguments, options=options)


@pytest.fixture(scope="module")
def photo(one_thread) -> Photo:
    return Photo()


# -- the silhouette


def plain_silhouette(points, faces, lens, radius, sigma, layers=None):
    """The same, face by face and pixel by pixel, differentiated by torch: spec section 8 step 0 as it is written."""
    n = min(lens.height, lens.width) if lens.unit is None else lens.unit
    fx, fy = lens.focal
    flat = torch.stack([2 * fx / n * points[:, 0] / points[:, 2], 2 * fy / n * points[:, 1] / points[:, 2]], 1)
    flat = flat + points.new_tensor([(lens.width - 2 * lens.centre[0]) / n, (lens.height - 2 * lens.centre[1]) / n])
    x = (lens.width - 2 * torch.arange(lens.width, dtype=points.dtype) - 1) / n
    y = (lens.height - 2 * torch.arange(lens.height, dtype=points.dtype) - 1) / n
    place = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), -1)
    out = points.new_ones(lens.height, lens.width)
    far, shade = [], []
    for face in faces:
        a = flat[face]
        distances, sides = [], []
        for i in range(3):
            e, p = a[(i + 1) % 3] - a[i], place - a[i]
            share = ((p * e).sum(-1) / (e * e).sum()).clamp(0, 1)
            distances.append((p - share[..., None] * e).square().sum(-1))
            sides.append(e[0] * p[..., 1] - e[1] * p[..., 0])
        distance, side = torch.stack(distances).amin(0), torch.stack(sides)
        inside = (side > 0).all(0) | (side < 0).all(0)
        counts = inside | (distance < radius)
        shade.append(torch.where(counts, torch.sigmoid(torch.where(inside, distance, -distance) / sigma), 0.0))
        far.append(torch.where(counts, points[face, 2].mean(), math.inf))
    rank = torch.stack(far).argsort(dim=0, stable=True).argsort(dim=0)
    for k in range(len(faces)):
        out = out * (1 - torch.where(rank[k] < (layers or len(faces)), shade[k], 0.0))
    return 1 - out


@pytest.mark.parametrize("lens", LENSES, ids=["square", "wide", "tall"])
@pytest.mark.parametrize(("radius", "sigma"), [(1e-6, 1e-4), (1e-3, 1e-4), (0.05, 0.01)])
def test_the_silhouette_is_the_plain_one(lens, radius, sigma) -> None:
    points, faces = scraps()
    weight = torch.linspace(-1, 2, lens.height * lens.width, dtype=torch.float64).view(lens.height, lens.width)
    ours, plain = (points.clone().requires_grad_() for _ in range(2))
    alpha, wanted = soft_silhouette(ours, faces, lens, radius, sigma), plain_silhouette(plain, faces, lens, radius, sigma)
    assert wanted.max() > 0.9 and wanted.min() == 0
    replay.near(alpha.detach(), wanted.detach(), 1e-9)
    for out in (alpha, wanted):
        (out * weight).sum().backward()
    largest = float(plain.grad.abs().max())
    assert largest > 1
    replay.near(ours.grad, plain.grad, 1e-6 * largest)


def test_its_gradient_is_that_of_finite_differences() -> None:
    points, faces = scraps(6, 3)
    lens, weight = LENSES[1], torch.linspace(-1, 2, 18 * 27, dtype=torch.float64).view(18, 27)

    def value(at):
        return (soft_silhouette(at, faces, lens, 0.3, 0.01) * weight).sum()

    points.requires_grad_()
    (gradient,) = torch.autograd.grad(value(points), points)
    step = 1e-5
    with torch.no_grad():
        for i, axis in [(0, 0), (4, 1), (7, 2), (11, 0), (13, 1), (17, 2)]:
            nudge = torch.zeros_like(points)
            nudge[i, axis] = step
            slope = (value(points + nudge) - value(points - nudge)) / (2 * step)
            assert abs(float(slope - gradient[i, axis])) < 1e-4 * float(gradient.abs().max())


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_only_so_many_faces_count_the_nearest(layers) -> None:
    points, faces = scraps(14, 5)
    points[:, 2] = points[:, 2].view(-1, 3)[:, :1].expand(-1, 3).reshape(-1)  # flat ones, so that their order is plain
    points[:, :2] *= 0.3
    points[:, :2] -= points[:, :2].mean(0)
    alpha = soft_silhouette(points, faces, LENSES[0], 0.02, 0.01, layers)
    replay.near(alpha, plain_silhouette(points, faces, LENSES[0], 0.02, 0.01, layers), 1e-9)
    assert float((alpha - soft_silhouette(points, faces, LENSES[0], 0.02, 0.01, None)).abs().max()) > 0.01


def test_of_slanted_faces_the_nearest_at_the_pixel_counts() -> None:
    """Two that cross: the left half of the one lies before, the right half of the other."""
    points = torch.tensor([[1, -1, 1], [1, 1, 1], [-3, 0, 5.0], [-1, -1, 1], [-1, 1, 1], [3, 0, 5]], dtype=torch.float64)
    flat = points.clone()
    flat[:, :2] *= flat[:, 2:]
    faces = torch.arange(6).view(2, 3)
    lens = Lens((10.0, 10.0), (10.0, 10.0), 20, 20, 20)
    both = [soft_silhouette(flat, faces[i : i + 1], lens, 1e-3, 1e-2) for i in (0, 1)]
    front = soft_silhouette(flat, faces, lens, 1e-3, 1e-2, 1)
    assert torch.equal(front[10, 2], both[0][10, 2]) and torch.equal(front[10, 17], both[1][10, 17])
    assert both[0][10, 2] != both[1][10, 2] and both[1][10, 17] != both[0][10, 17]


def test_what_lies_behind_or_is_no_place_is_not_drawn() -> None:
    points, faces = scraps(6, 1, torch.float32)
    wanted = soft_silhouette(points, faces[2:], LENSES[0])
    points[0, 2], points[4, 1] = -0.1, math.nan
    flat = torch.cat([faces, torch.tensor([[6, 7, 6]])])  # and one without area
    points.requires_grad_()
    alpha = soft_silhouette(points, flat, LENSES[0])
    assert torch.equal(alpha, wanted)
    alpha.sum().backward()
    assert torch.isfinite(points.grad).all() and points.grad[:6].abs().max() == 0 and points.grad[6:].abs().max() > 0


def test_nothing_in_sight_is_nothing() -> None:
    points, faces = scraps()
    points[:, 0] += 50
    points.requires_grad_()
    alpha = soft_silhouette(points, faces, LENSES[0])
    alpha.sum().backward()
    assert alpha.max() == 0 and points.grad.abs().max() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_the_order_of_the_faces_changes_no_bit(device) -> None:
    mesh = bumpy()
    points = torch.tensor(mesh.vertices + np.float32([0, 0, 2])).to(device)
    faces = torch.tensor(mesh.faces.astype(np.int64)).to(device)
    lens = Lens((80.0, 80.0), (40.0, 40.0), 80, 80, 80)
    pictures = []
    for order in (torch.arange(len(faces)), torch.randperm(len(faces), generator=torch.Generator().manual_seed(1))):
        corners = points.clone().requires_grad_()
        alpha = soft_silhouette(corners, faces[order.to(device)], lens, 1e-3, 1e-4, None)
        alpha[:, :40].sum().backward()
        pictures.append((alpha, corners.grad))
    assert torch.equal(pictures[0][0], pictures[1][0])
    replay.near(pictures[0][1], pictures[1][1], 1e-5 * float(pictures[0][1].abs().max()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_what_the_cpu_gives(photo) -> None:
    points, faces = scraps(40, 2, torch.float32)
    values = []
    for device in ("cpu", "cuda", "cuda"):
        at = points.to(device).detach().clone().requires_grad_()
        alpha = soft_silhouette(at, faces.to(device), LENSES[1], 1e-3, 1e-4, None)
        alpha[:, ::2].sum().backward()
        values.append((alpha.detach().cpu(), at.grad.cpu()))
    assert torch.equal(values[1][0], values[2][0]) and torch.equal(values[1][1], values[2][1])
    replay.near(values[1][0], values[0][0], 1e-5)
    replay.near(values[1][1], values[0][1], 1e-3 * float(values[0][1].abs().max()))
    found = [
        photo.refine(options=RefineOptions(size=96)),
        refine(photo.mesh, photo.start, photo.mask, photo.points, photo.intrinsics, RefineOptions(size=96), "cuda"),
    ]
    assert found[1].accepted and abs(found[0].score - found[1].score) < 0.01


# -- the whole


def test_a_wrong_pose_is_brought_back(photo) -> None:
    made = photo.refine()
    scores = made.report["iou"]
    assert made.accepted and made.report["reason"] == "" and made.report["taken"] == "end"
    assert scores["start"] < 0.6 < scores["aligned"] < made.score == scores["end"] and made.score > 0.95
    assert photo.error(photo.start) > 0.3 and photo.error(made.pose) < 0.04
    assert made.report["faces"] == len(photo.mesh.faces)


def test_seen_in_a_picture_of_another_shape() -> None:
    """Wide, the optical axis off the middle; compared at fewer pixels than it has; vertices apart at every edge, and too many faces."""
    photo = Photo((100, 150), intrinsics=np.array([[0.9, 0, 0.46], [0, 1.35, 0.55], [0, 0, 1]]))
    photo.mesh = bumpy(seams=True)
    made = photo.refine(options=RefineOptions(size=110, faces=800))
    assert made.accepted and made.score > 0.95 and photo.error(made.pose) < 0.03
    assert 400 < made.report["faces"] <= 800


def test_the_unit_of_the_scene_does_not_matter(photo) -> None:
    small = Photo(unit=0.03)
    one, other = photo.refine(), small.refine()
    assert other.accepted and other.score == pytest.approx(one.score, abs=0.01)
    assert other.pose.scale == pytest.approx(0.03 * one.pose.scale, rel=5e-3)
    assert np.array(other.pose.translation) == pytest.approx(0.03 * np.array(one.pose.translation), rel=5e-3, abs=0.03 * 5e-3)


def test_it_is_the_same_every_time_and_in_inference_mode(photo) -> None:
    with torch.inference_mode():
        one = photo.refine()
    assert one == photo.refine()


def test_a_pose_that_fits_stays_bit_for_bit(photo) -> None:
    made = photo.refine(photo.truth)
    assert not made.accepted and made.pose is photo.truth and "no better" in made.report["reason"]
    assert made.score == made.report["iou"]["start"] > 0.98


@pytest.mark.parametrize("options", [RefineOptions(size=96), dataclasses.replace(RELEASED, size=96)], ids=["ours", "released"])
def test_what_the_data_does_not_allow_leaves_the_pose(photo, options) -> None:
    nothing = np.full_like(photo.points, np.nan)
    behind = np.where(photo.mask[..., None], -photo.points, photo.points)
    cases = {
        "empty": {"mask": np.zeros_like(photo.mask)},
        "border": {"mask": np.roll(photo.mask, 26, axis=1)},
        "points": {"pointmap": nothing},
        "points under": {"pointmap": behind},
        "covers": {"pointmap": np.where(photo.mask[..., None], photo.points, 0.5 * photo.points / photo.points[..., 2:])},
        "pieces": {"mask": photo.mask | disc(4, 96, (12, 12))},
        "holes": {"mask": photo.mask & ~disc(7, 96, (46, 46))},
    }
    for word, changes in cases.items():
        made = photo.refine(options=options, **changes)
        assert made.pose is photo.start and not made.accepted and word in made.report["reason"], (word, made.report)
    gone = refine(Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint32)), photo.start, photo.mask, photo.points, photo.intrinsics)
    assert gone.pose is photo.start and gone.score is None and "faces" in gone.report["reason"]


def test_holes_in_the_point_map_and_infinite_corners_do_no_harm(photo) -> None:
    points = photo.points.copy()
    points[::3, ::2] = np.nan
    points[1::7, 1::5, 0] = np.inf
    vertices = np.concatenate([photo.mesh.vertices, [[np.nan, 0, 0], [np.inf, 1, 1]]]).astype(np.float32)
    count = len(photo.mesh.vertices)
    faces = np.concatenate([photo.mesh.faces, [[0, 1, count], [2, 3, count + 1]]]).astype(np.uint32)
    made = refine(Mesh(vertices, faces), photo.start, photo.mask, points, photo.intrinsics, RefineOptions(size=96))
    assert made.accepted and photo.error(made.pose) < 0.05


def test_a_mask_of_something_else_is_no_reason_to_move(photo) -> None:
    """A thin bar where a blob should be: nothing fits it well, though all of it better than a pose outside the picture."""
    bar = np.zeros_like(photo.mask)
    bar[46:50, 10:86] = True
    away = dataclasses.replace(photo.start, translation=(2.0, 0.0, -2.5))
    made = photo.refine(away, RefineOptions(size=96, gate=False), mask=bar)
    assert not made.accepted and made.pose is away and "badly" in made.report["reason"]
    assert made.report["iou"]["start"] == made.score == 0 < max(made.report["iou"].values()) < 0.5


def test_the_best_motion_is_never_a_mirror() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    turn = rigid(points, points * [1, 1, -1])[:3, :3]
    assert np.linalg.det(turn) == pytest.approx(1) and turn @ turn.T == pytest.approx(np.eye(3), abs=1e-12)


def test_icp_counts_only_where_it_fits_better(photo, monkeypatch) -> None:
    picture = Picture.of(photo.mask, photo.points, photo.intrinsics, 96)
    vertices, faces = photo.mesh.vertices.astype(np.float64), photo.mesh.faces.astype(np.int64)
    for pose, shift, better in ((photo.truth, 0.3, False), (dataclasses.replace(photo.truth, translation=(0.4, 0.05, -2.2)), 0.3, True)):
        run = Refinement(pose, vertices, faces, picture, RELEASED, torch.device("cpu"))
        matrix = np.eye(4)
        matrix[0, 3] = shift  # x to the left
        monkeypatch.setattr(sys.modules[refine.__module__], "icp", lambda *_, matrix=matrix: Registration(matrix, 1.0, 0.0))
        run.report["iou"]["aligned"] = run.view(run.start).iou()
        state = run.start
        assert (run.registered(state, run.target) is not state) == run.report["icp"] == better


@pytest.mark.parametrize("verdict", ["best", "strict"])
def test_half_of_the_overlap_is_the_least(photo, verdict) -> None:
    picture = Picture.of(photo.mask, photo.points, photo.intrinsics, 96)
    options = RefineOptions(verdict=verdict)
    vertices, faces = photo.mesh.vertices.astype(np.float64), photo.mesh.faces.astype(np.int64)
    run = Refinement(photo.start, vertices, faces, picture, options, torch.device("cpu"))
    found = {"aligned": run.start, "end": run.start}
    run.report["iou"] = {"start": 0.1, "aligned": 0.3, "end": 0.49}
    with pytest.raises(Exception, match="badly"):
        run.verdict(found)
    run.report["iou"]["end"] = 0.5
    assert run.verdict(found)[1] == 0.5 and run.report["taken"] == "end"


def test_an_aligned_pose_is_taken_where_the_optimiser_spoils_it(photo, monkeypatch) -> None:
    def spoil(view, watch):
        return optimise.Move(torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.5, 0, 0]), torch.tensor(1.0)), 1

    monkeypatch.setattr(sys.modules[refine.__module__], "optimise", spoil)
    made = photo.refine()
    assert made.accepted and made.report["taken"] == "aligned" and made.score == made.report["iou"]["aligned"]
    assert photo.error(made.pose) < 0.1
    released = photo.refine(options=dataclasses.replace(RELEASED, size=96))
    assert not released.accepted and released.pose is photo.start


def test_the_released_way_stands_nearer_than_the_object(photo) -> None:
    """Its alignment takes the visible side for the whole."""
    released = photo.refine(options=dataclasses.replace(RELEASED, size=96, icp=False))
    assert released.accepted and photo.error(released.pose) > 3 * photo.error(photo.refine().pose)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": np.ones((96, 95), bool)}, {"mask": np.ones(96, bool)}, {"mask": np.full((96, 96), "a")}, {"pointmap": np.zeros((96, 96))},
        {"intrinsics": np.zeros((3, 3))}, {"intrinsics": np.full((3, 3), np.nan)}, {"intrinsics": np.eye(4)}, {"intrinsics": None},
        {"mask": np.zeros((0, 0), bool), "pointmap": np.zeros((0, 0, 3))},
    ],
)  # fmt: skip
def test_arrays_of_a_wrong_form_are_refused(photo, changes) -> None:
    with pytest.raises(InputError):
        photo.refine(**changes)


@pytest.mark.parametrize("options", [{"size": 0}, {"faces": 0}, {"sigma": 0.0}, {"layers": 0}, {"align": "all"}, {"verdict": "any"}])
def test_options_out_of_range_are_refused(options) -> None:
    with pytest.raises(OptionError):
        RefineOptions(**options)


GOLDEN = [path for path in replay.files() if path.stem.startswith("layout_post_opt")]


@pytest.mark.skipif(not GOLDEN, reason="no golden vectors on this machine")
def test_the_goldens_poses_get_better() -> None:
    from safetensors.numpy import load_file

    for path in GOLDEN:
        x = load_file(path)
        mesh = Mesh(x["in.glb_vertices"], x["in.glb_faces"].astype(np.uint32))
        start, truth = (from_sam3d_pose(*(x[f"{which}.{part}"][0] for part in ("quat", "translation", "scale"))) for which in ("in", "gt"))
        mask = x["in.mask"] > 0.5
        made = refine(mesh, start, mask, x["in.pointmap"], x["in.intrinsics_norm"], RefineOptions(size=max(mask.shape)))
        errors = [
            float(np.linalg.norm(pose.apply(mesh.vertices) - truth.apply(mesh.vertices), axis=1).mean()) for pose in (start, made.pose)
        ]
        assert made.score >= made.report["iou"]["start"] and errors[1] <= errors[0], (path.name, made.report, errors)
