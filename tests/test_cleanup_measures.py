"""Mesh clean-up, what is measured and carried: nearest points, errors, visibility, colours, smoothing, decimation, hulls."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import OptionError  # noqa: E402
from comfyui_sam3d.worker.geometry.cleanup import (  # noqa: E402
    attributes,
    collapse,
    decimate,
    error,
    hull,
    lods,
    nearest,
    smooth,
    topology,
    visibility,
)

from cleanup_shapes import Raw, box, bumpy, halves, joined, octahedron, raw_mesh, sphere, torus  # noqa: E402
from cleanup_shapes import ball as ball_distance  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# nearest


def plain_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """float64 (P,): to the nearest of the triangles, every pair tried: the foot on its plane where that lies inside, else its sides."""
    best = np.full(len(points), np.inf)
    for a, b, c in corners:
        normal = np.cross(b - a, c - a)
        size = np.linalg.norm(normal)
        if size > 1e-12:
            unit = normal / size
            foot = points - ((points - a) @ unit)[:, None] * unit
            inside = np.ones(len(points), bool)
            for p, q in ((a, b), (b, c), (c, a)):
                inside &= np.cross(q - p, foot - p) @ unit >= 0
            best = np.where(inside, np.minimum(best, np.abs((points - a) @ unit)), best)
        for p, q in ((a, b), (b, c), (c, a)):
            along = q - p
            t = np.clip((points - p) @ along / max(along @ along, 1e-300), 0, 1)
            best = np.minimum(best, np.linalg.norm(points - p - t[:, None] * along, axis=1))
    return best


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_point_is_exact_among_slivers_of_all_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.normal(size=(150, 1, 3)) + rng.normal(size=(150, 3, 3)) * 10 ** rng.uniform(-3, 0.7, (150, 1, 1)) * rng.uniform(
        0.001, 1, (150, 1, 3)
    )
    corners[0, 2] = corners[0, 1]  # without area
    vertices, faces = corners.reshape(-1, 3), np.arange(450).reshape(-1, 3)
    points = rng.normal(size=(300, 3)) * 2
    wanted = plain_distance(points, corners)
    for hit in (nearest.NearestFaces(vertices, faces)(points), nearest.nearest_by_blocks(points, vertices, faces, "cpu")):
        assert hit.distance == pytest.approx(wanted, abs=1e-9)
        foot = np.einsum("pk,pkx->px", hit.weights, vertices[faces[hit.face]])
        assert np.linalg.norm(points - foot, axis=1) == pytest.approx(hit.distance, abs=1e-12)
        assert (hit.weights >= -1e-9).all() and hit.weights.sum(axis=1) == pytest.approx(np.ones(300))


def test_the_nearest_point_is_exact_where_many_large_faces_cross() -> None:
    """The face that is nearest may have one of the furthest centres."""
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(size=(900, 3)), np.arange(900).reshape(-1, 3)
    points = rng.normal(size=(100, 3))
    wanted = plain_distance(points, vertices[faces])
    assert nearest.NearestFaces(vertices, faces)(points).distance == pytest.approx(wanted, abs=1e-9)
    assert nearest.nearest_by_blocks(points + 100, vertices + 100, faces, "cpu").distance == pytest.approx(wanted, abs=1e-9)


def test_samples_are_even_over_the_area() -> None:
    mesh = box(high=(4, 1, 0.5))
    points, face = nearest.sample_surface(mesh.vertices, mesh.faces, 6000)
    areas = np.linalg.norm(topology.area_vectors(mesh.vertices, mesh.faces), axis=1)
    assert np.abs(np.bincount(face, minlength=12) - 6000 * areas / areas.sum()).max() <= 1.01
    assert points[face < 4].min() >= 0 and nearest.NearestFaces(mesh.vertices, mesh.faces)(points).distance.max() < 1e-9
    top = points[np.isclose(points[:, 2], 0.5)]
    assert np.histogram2d(top[:, 0], top[:, 1], bins=(4, 2), range=((0, 4), (0, 1)))[0].std() < 0.15 * len(top) / 8


# error


def test_the_error_of_a_shell_is_its_distance() -> None:
    small, large = sphere(48, 1.0), sphere(48, 1.1)
    found = error.surface_error((large.vertices, large.faces), (small.vertices, small.faces), 2000)
    diagonal = np.sqrt(12)
    for value in (found.mean, found.rms, found.p95, found.max, found.to_reference, found.from_reference):
        assert value * diagonal == pytest.approx(0.1, abs=0.004)
    assert found.turned == 0 and found.samples == 4000
    assert error.surface_error((large.vertices, large.faces[:, ::-1]), (small.vertices, small.faces), 500).turned == 1


def test_the_error_has_two_sides() -> None:
    ball, pair = sphere(16), joined(sphere(16), sphere(16, centre=(2, 0, 0)))
    grown = error.surface_error((pair.vertices, pair.faces), (ball.vertices, ball.faces), 1000)
    lost = error.surface_error((ball.vertices, ball.faces), (pair.vertices, pair.faces), 1000)
    assert grown.to_reference > 1 and grown.from_reference < 1e-3
    assert lost.from_reference > 0.4 and lost.to_reference < 1e-3
    assert grown.max == grown.to_reference and lost.max == lost.from_reference


# visibility


def test_pictures_fit_the_faces() -> None:
    sizes = []
    for rings in (40, 80, 160):
        ball = sphere(rings, 0.5)
        sizes.append(visibility.fitting_size(ball.vertices, ball.faces))
        covered = np.pi * 0.5**2 * (sizes[-1] * 0.687) ** 2 * 2  # pixels, front and back
        assert sizes[-1] == 256 or 0.9 < covered / len(ball.faces) < 1.4
    assert sizes == sorted(sizes) and sizes[-1] > 300 and sizes[0] == 256


def test_what_lies_inside_is_never_seen() -> None:
    nest = joined(sphere(16, 0.4), sphere(8, 0.3))
    nest.vertices.setflags(write=False)  # as the contract's arrays are
    seen = visibility.visibility(nest.vertices, nest.faces, 60, 96)
    outer = np.arange(len(nest.faces)) < len(sphere(16).faces)
    assert (seen[~outer] == 0).all() and (seen[outer] > 0.2).mean() > 0.95
    assert seen.max() < 0.55 and np.allclose(seen * 60, np.rint(seen * 60), atol=1e-4)  # never from more than half of all directions


# colours


def test_colours_stay_on_their_halves() -> None:
    fine, coarse = sphere(48), sphere(12)
    noise = np.random.default_rng(0).normal(0, 0.1, fine.colors.shape).astype(np.float32)
    got = attributes.carry(fine.colors + noise, (fine.vertices, fine.faces), (coarse.vertices, coarse.faces))
    far = np.abs(coarse.vertices[:, 0]) > 0.06
    assert got.dtype == np.float32
    assert (
        np.abs(got - halves(coarse.vertices))[far].max() < 0.15 and np.abs(got - halves(coarse.vertices))[far].mean() < 0.03
    )  # noise of 0.1 averaged


def test_the_back_of_a_thin_wall_does_not_shine_through() -> None:
    fine = sphere(40, 0.4)
    inner = Raw(fine.vertices * np.float32(0.97), fine.faces[:, ::-1], np.zeros_like(fine.colors))
    wall = joined(fine, inner)
    coarse = sphere(10, 0.4)
    got = attributes.carry(wall.colors, (wall.vertices, wall.faces), (coarse.vertices, coarse.faces))
    far = np.abs(coarse.vertices[:, 0]) > 0.08
    assert np.abs(got - halves(coarse.vertices))[far].max() < 0.02


def test_gathering_on_tensors_is_the_same() -> None:
    fine, coarse = sphere(24), sphere(7)
    gather = (attributes._gathered, attributes._gathered_on_tensors)
    surfaces = (fine.vertices, fine.faces), (coarse.vertices, coarse.faces)
    (first, weight), (second, other) = (one(fine.vertices, *surfaces, torch.device("cpu")) for one in gather)
    assert np.abs(first - second).max() < 1e-4 and np.abs(weight - other).max() < 1e-6


def test_a_finer_target_takes_the_nearest_point() -> None:
    coarse, fine = sphere(6), sphere(24)
    values = coarse.vertices.copy()  # a value that is linear over the surface
    got = attributes.carry(values, (coarse.vertices, coarse.faces), (fine.vertices, fine.faces))
    assert np.abs(got - fine.vertices).max() < 0.06


# smoothing


def test_smoothing_takes_noise_and_leaves_the_volume() -> None:
    ball = sphere(32)
    noisy = (ball.vertices * (1 + np.random.default_rng(0).normal(0, 0.01, (len(ball.vertices), 1)))).astype(np.float32)
    rough = np.abs(np.linalg.norm(noisy, axis=1) - 0.4).mean()
    smooth_ = smooth.taubin(noisy, ball.faces, 10)
    assert smooth_.dtype == np.float32
    assert np.abs(np.linalg.norm(smooth_, axis=1) - 0.4).mean() < 0.5 * rough
    before, after = (topology.signed_volumes(v, ball.faces)[0] for v in (noisy, smooth_))
    assert after == pytest.approx(before, rel=0.01)
    assert smooth.taubin(noisy, ball.faces, 0) is noisy


def test_smoothing_keeps_a_boundary() -> None:
    ball = sphere(12)
    open_ = ball.faces[24:]
    moved = smooth.taubin(ball.vertices, open_, 5)
    [rim] = topology.boundary_loops(open_)
    assert np.array_equal(moved[rim], ball.vertices[rim]) and not np.array_equal(moved, ball.vertices)


# decimation


@pytest.mark.parametrize("budget", [2000, 500, 60])
def test_decimation_keeps_the_budget_and_stays_closed(budget: int) -> None:
    raw = raw_mesh(bumpy(torus()), 48, noise=0.2)
    made = decimate.decimate(raw.vertices, raw.faces, budget)
    assert made.reached and len(made.faces) <= budget
    mesh = trimesh.Trimesh(made.vertices, made.faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


@pytest.mark.parametrize("budget", [3000, 1000])
def test_parallel_collapses_are_as_good_as_the_library(budget: int) -> None:
    raw = raw_mesh(bumpy(torus()), 64, noise=0.15)
    vertices, faces = collapse.thin(raw.vertices, raw.faces, budget, "cpu")
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and 0.9 * budget <= len(faces) <= budget
    assert topology.soundness(vertices, faces).genus == topology.soundness(raw.vertices, raw.faces).genus
    plain = decimate.decimate(raw.vertices, raw.faces, budget)
    ours, theirs = (
        error.surface_error(made, (raw.vertices, raw.faces), 2000) for made in ((vertices, faces), (plain.vertices, plain.faces))
    )
    assert ours.rms < 1.2 * theirs.rms and ours.max < 2 * theirs.max and ours.turned < 0.01


def test_a_collapse_that_turns_a_face_over_is_left_out() -> None:
    x, y = np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij")
    points = torch.tensor(np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3))
    corner = (5 * np.arange(4)[:, None] + np.arange(4)).ravel()
    faces = np.concatenate([np.stack([corner, corner + 5, corner + 6], 1), np.stack([corner, corner + 6, corner + 1], 1)])
    mesh = collapse._Mesh.of(points, torch.tensor(faces))
    edge = torch.tensor([[12, 17]])  # (2, 2) and (3, 2), in the middle
    for place, sound in (((2.5, 2, 0), True), ((2.5, 2, 0.3), True), ((4.5, 2, 0), False), ((2.5, -1, 0), False)):
        assert mesh._unturned(edge, torch.tensor([place], dtype=torch.float64)).tolist() == [sound], place


def test_parallel_collapses_stop_where_none_is_sound() -> None:
    """A tetrahedron can't lose a face, and a torus can't lose its hole."""
    ball, ring = sphere(8), raw_mesh(torus(), 32)
    assert len(collapse.thin(ball.vertices, ball.faces, 0, "cpu")[1]) == 4
    vertices, faces = collapse.thin(ring.vertices, ring.faces, 0, "cpu")
    before, after = topology.soundness(ring.vertices, ring.faces), topology.soundness(vertices, faces)
    assert after.closed and (after.bodies, after.genus) == (before.bodies, before.genus) and before.genus == 1
    assert len(faces) >= 14 + 4 * (after.bodies - 1)


def test_decimation_of_few_faces_changes_nothing() -> None:
    ball = sphere(8)
    made = decimate.decimate(ball.vertices, ball.faces, len(ball.faces))
    assert made.tries == 0 and np.array_equal(made.faces, ball.faces)


def test_decimation_keeps_a_border_while_it_can() -> None:
    ball = sphere(24)
    rim = ball.vertices[ball.faces[48:]]
    made = decimate.decimate(ball.vertices, ball.faces[48:], 600)
    [before], [after] = topology.boundary_loops(ball.faces[48:]), topology.boundary_loops(made.faces)
    assert len(rim) and len(before) == len(after) == 48
    assert made.vertices[after][:, 2] == pytest.approx(np.full(48, ball.vertices[before[0], 2]), abs=1e-6)


def test_sheets_that_collapse_onto_each_other_stay_closed() -> None:
    """Thin walls and few faces: the library's collapses make edges of four faces here."""
    raw = raw_mesh(ball_distance(0.4), 32, band=1.2, noise=0.6)
    split = 0
    for budget in (2000, 1000, 400, 200, 50):
        made = decimate.decimate(raw.vertices, raw.faces, budget)
        split += made.split
        mesh = trimesh.Trimesh(made.vertices, made.faces, process=False).process(merge_tex=True)
        assert mesh.is_watertight and mesh.is_winding_consistent and len(made.faces) <= budget
    assert split > 0


def test_levels_keep_their_budgets_and_order() -> None:
    ball = sphere(32)
    got = lods.levels(ball.vertices, ball.faces, (200, 1000, 50))
    assert [level.budget for level in got] == [200, 1000, 50]
    assert all(level.reached and 0.8 * level.budget < len(level.faces) <= level.budget for level in got)
    sizes = [error.surface_error((level.vertices, level.faces), (ball.vertices, ball.faces), 500).rms for level in got]
    assert sizes[1] < sizes[0] < sizes[2]


# hulls


@pytest.mark.parametrize("most", [4, 8, 32, 1000])
def test_a_hull_is_convex_closed_and_small(most: int) -> None:
    raw = raw_mesh(torus(), 32)
    vertices, faces = hull.collision_hull(raw.vertices, most)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert len(vertices) <= most and mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0 and mesh.is_convex
    exact = trimesh.convex.convex_hull(raw.vertices).volume
    assert mesh.volume <= exact * (1 + 1e-6)
    if most >= 32:
        assert mesh.volume > 0.8 * exact
    if most == 1000:
        assert mesh.volume == pytest.approx(exact, rel=1e-3)


def test_a_hull_of_a_sheet_or_of_little_is_a_slab() -> None:
    for points in (
        np.float32([[0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 2, 0], [0.5, 0.5, 0]]),
        np.float32([[0, 0, 0], [1, 0, 0]]),
        np.float32([[3, 3, 3]]),
    ):
        vertices, faces = hull.collision_hull(points, 32)
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        assert mesh.is_watertight and mesh.volume > 0
        assert np.abs(mesh.bounds - [points.min(axis=0), points.max(axis=0)]).max() < 2e-2


def test_a_hull_of_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 4"):
        hull.collision_hull(octahedron().vertices, 3)
    with pytest.raises(OptionError, match="no mesh"):
        hull.collision_hull(np.zeros((0, 3), np.float32))
