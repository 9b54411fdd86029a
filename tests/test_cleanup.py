"""Mesh clean-up as a whole: raw FlexiCubes meshes of known bodies, with inner shells, floaters, gaps and noise. trimesh judges the result."""

from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import InputError, JobCancelled, OptionError  # noqa: E402
from comfyui_sam3d.contract.scene import Mesh  # noqa: E402
from comfyui_sam3d.worker.geometry.cleanup import Cleaned, CleanOptions, RawMesh, clean  # noqa: E402
from comfyui_sam3d.worker.job import QuietJob  # noqa: E402

from cleanup_shapes import Raw, ball, bumpy, halves, inside_out, joined, octahedron, raw_mesh, sphere, torus, union, without  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = CleanOptions(budget=1500, views=40, view_size=128, samples=1500)


def cleaned(raw: Raw, options: CleanOptions = FEW) -> Cleaned:
    return clean(RawMesh(raw.vertices, raw.faces, raw.colors), options)


def judged(mesh: Mesh) -> trimesh.Trimesh:
    """Welded, as every reader of our files would."""
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).process(merge_tex=True, merge_norm=True)


def assert_good(result: Cleaned, budget: int, bodies: int) -> trimesh.Trimesh:
    mesh = judged(result.mesh)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert len(mesh.faces) == len(result.mesh.faces) <= budget
    assert mesh.body_count == bodies == result.report["bodies_after"]
    assert all(part.volume > 0 for part in mesh.split())
    report = result.report
    assert report["closed"] and report["budget_reached"] and report["faces_after"] == len(mesh.faces)
    assert report["volume"] == pytest.approx(mesh.volume, rel=1e-3)
    assert json.loads(json.dumps(report)) == report
    return mesh


def test_a_shell_inside_and_dust_go_whole() -> None:
    raw = raw_mesh(ball(0.4), 48, dust=10)
    result = cleaned(raw)
    mesh = assert_good(result, 1500, 1)
    assert (result.report["floaters"], result.report["inner_bodies"], result.report["bodies_before"]) == (10, 1, 12)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.4).max() < 0.01
    assert result.report["error"]["max"] < 0.01


def test_a_gap_in_the_wall_is_cut_and_closed() -> None:
    """The inner surface hangs together with the outer one through a gap: only the cut can tell them apart."""
    raw = raw_mesh(ball(0.4), 48, gaps=ball(0.06, (0, 0, 0.4)))
    assert trimesh.Trimesh(raw.vertices, raw.faces).body_count == 1
    assert trimesh.Trimesh(raw.vertices, raw.faces, process=False).volume < 0.15
    result = cleaned(raw)
    mesh = assert_good(result, 1500, 1)
    assert result.report["inner_faces"] > 100 and len(result.report["holes_closed"]) >= 1 and result.report["genus"] == 0
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.04)
    assert np.linalg.norm(mesh.vertices, axis=1).min() > 0.3
    assert result.report["error"]["mean"] < 0.003  # what was cut off isn't missing


def test_a_crumb_that_hangs_by_one_vertex_goes() -> None:
    crumb = octahedron(0.02)
    both = joined(sphere(16), Raw(crumb.vertices + np.float32([0, 0, 0.42]), crumb.faces, crumb.colors))
    at = [int(np.argmax(both.vertices[:-6, 2])), len(both.vertices) - 1]  # the sphere's pole, the crumb's lowest corner
    faces = np.where(both.faces == at[1], at[0], both.faces)
    result = cleaned(Raw(both.vertices, faces, both.colors))
    mesh = assert_good(result, 1500, 1)
    assert result.report["floaters"] == 1 and mesh.vertices[:, 2].max() < 0.41


def test_inner_surface_can_be_kept() -> None:
    result = cleaned(raw_mesh(ball(0.4), 48), FEW.replace(remove_inner=False))
    mesh = judged(result.mesh)
    assert mesh.is_watertight and mesh.body_count == 2 and sorted(np.sign(part.volume) for part in mesh.split()) == [-1, 1]


def test_an_opening_that_is_too_large_stays() -> None:
    """A bowl: its inside is seen, and the rim is far more than a small hole."""
    raw = raw_mesh(ball(0.4), 48, gaps=lambda p: np.float32(0.2) - p[:, 2])
    result = cleaned(raw)
    mesh = assert_good(result, 1500, 1)
    assert mesh.volume < 0.15 and np.linalg.norm(mesh.vertices, axis=1).min() < 0.36


@pytest.mark.parametrize("seed", range(3))
def test_noise_gaps_and_dust_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    body = bumpy(union(ball(0.28, (0.1, 0, 0)), torus(0.33, 0.1)), 0.004)
    hole = tuple(rng.normal(size=3) * 0.2)
    raw = raw_mesh(body, 64, noise=0.15, dust=20, gaps=ball(0.05, hole), seed=seed)
    result = cleaned(raw)
    mesh = assert_good(result, 1500, 1)
    outside = np.abs(body(mesh.vertices.astype(np.float32)))
    assert np.quantile(outside, 0.95) < 0.015
    assert result.report["error"]["rms"] < 0.01


def test_colours_stay_on_their_halves() -> None:
    result = cleaned(raw_mesh(ball(0.4), 48, noise=0.1))
    points, colors = result.mesh.vertices, result.mesh.vertex_colors
    far = np.abs(points[:, 0]) > 0.05
    assert colors.dtype == np.uint8 and (colors[:, 3] == 255).all()
    assert np.abs(colors[far, :3] / 255 - halves(points)[far]).max() < 0.1


def test_a_mesh_without_colours_gets_none() -> None:
    assert clean(RawMesh(sphere(8).vertices, sphere(8).faces), FEW).mesh.vertex_colors is None


def test_two_bodies_stay_two() -> None:
    raw = raw_mesh(union(ball(0.2, (-0.25, 0, 0)), ball(0.15, (0.25, 0, 0))), 48)
    result = cleaned(raw)
    assert_good(result, 1500, 2)
    assert result.report["inner_bodies"] == 2


def test_any_place_and_size_will_do() -> None:
    """Limits are shares of the object: the same result a thousand times as large, elsewhere."""
    raw = raw_mesh(ball(0.4), 40, gaps=ball(0.06, (0, 0, 0.4)))
    moved = Raw(raw.vertices * np.float32(1000) + np.float32([5000, -3000, 100]), raw.faces, raw.colors)
    here, there = cleaned(raw), cleaned(moved)
    for name in ("inner_bodies", "floaters", "closed", "genus"):
        assert here.report[name] == there.report[name]
    mesh = assert_good(there, 1500, 1)
    assert np.abs(mesh.bounds.mean(axis=0) - [5000, -3000, 100]).max() < 10
    assert there.report["volume"] == pytest.approx(1e9 * here.report["volume"], rel=0.02)
    assert there.report["error"]["mean"] == pytest.approx(here.report["error"]["mean"], rel=0.3)


def test_without_a_budget_nothing_is_thinned() -> None:
    raw = raw_mesh(ball(0.4), 32)
    result = cleaned(raw, FEW.replace(budget=None))
    outer = np.linalg.norm(raw.vertices[raw.faces].mean(axis=1), axis=1) > 0.37
    assert len(result.mesh.faces) == outer.sum()
    assert result.report["error"]["max"] < 1e-6


def test_pictures_too_small_for_the_faces_do_no_harm() -> None:
    """At 16 pixels nearly no face is seen, so all of it looks hidden: nothing may be cut."""
    raw = raw_mesh(ball(0.4), 40, gaps=ball(0.06, (0, 0, 0.4)))
    result = cleaned(raw, FEW.replace(budget=None, views=8, view_size=16))
    assert result.report["inner_faces"] == 0 and any("nothing was cut" in note for note in result.report["notes"])
    fine = cleaned(raw, CleanOptions(budget=None, views=25, samples=0))  # the size that fits is larger than the usual one
    assert_good(fine, len(raw.faces), 1)
    assert fine.report["volume"] == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.04)


def test_odd_colours_are_refused_or_made_good() -> None:
    raw = sphere(8)
    with pytest.raises(InputError, match="2 channels"):
        RawMesh(raw.vertices, raw.faces, np.zeros((len(raw.vertices), 2), np.float32))
    colors = np.full((len(raw.vertices), 4), np.nan, np.float32)
    assert (clean(RawMesh(raw.vertices, raw.faces, colors), FEW).mesh.vertex_colors == 0).all()


def test_a_sheet_stays_a_sheet() -> None:
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    result = clean(RawMesh(vertices, np.int64([[0, 1, 2], [0, 2, 3]])), FEW.replace(max_hole_edges=3, hull_vertices=8))
    assert len(result.mesh.faces) == 2 and result.report["boundary_edges"] == 4 and judged(result.hull).is_watertight


def test_a_device_without_float64_is_passed_over() -> None:
    ball = sphere(8)
    assert_good(clean(RawMesh(ball.vertices, ball.faces), FEW, device="mps"), 1500, 1)


def test_a_mesh_of_the_contract_will_do() -> None:
    raw = sphere(16)
    colors = np.full((len(raw.vertices), 4), 200, np.uint8)
    result = clean(Mesh(raw.vertices, raw.faces.astype(np.uint32), vertex_colors=colors), FEW)
    assert_good(result, 1500, 1)
    assert (result.mesh.vertex_colors == 200).all()


def test_bad_winding_and_loose_corners_are_put_right() -> None:
    raw = sphere(16)
    turned = np.random.default_rng(0).random(len(raw.faces)) < 0.7
    faces = np.where(turned[:, None], raw.faces[:, ::-1], raw.faces)
    loose = Raw(raw.vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3), raw.colors[faces].reshape(-1, 3))
    result = cleaned(loose)
    assert_good(result, 1500, 1)
    assert result.report["notes"] and "turned" in result.report["notes"][0]


def test_a_sphere_inside_out_is_turned() -> None:
    result = cleaned(inside_out(sphere(16)))
    assert_good(result, 1500, 1)
    assert result.report["turned_bodies"] == 1


def test_an_open_body_inside_out_is_turned_once_it_is_closed() -> None:
    ball = inside_out(sphere(16))
    result = cleaned(without(ball, ball.vertices[ball.faces].mean(axis=1)[:, 2] < 0.36))
    assert_good(result, 1500, 1)
    assert len(result.report["holes_closed"]) == 1 == result.report["turned_bodies"]


def balls(count: int) -> Raw:
    """count^3 small spheres on a grid."""
    ball = sphere(8)
    places = 2.0 * np.stack(np.meshgrid(*[np.arange(float(count))] * 3), axis=-1).reshape(-1, 1, 3)
    offsets = len(ball.vertices) * np.arange(len(places))[:, None, None]
    vertices = (ball.vertices + places).reshape(-1, 3).astype(np.float32)
    return Raw(vertices, (ball.faces + offsets).reshape(-1, 3), np.zeros_like(vertices))


@pytest.mark.parametrize("budget", [4, 60])
def test_bodies_that_the_budget_has_no_faces_for_are_missed_aloud(budget: int) -> None:
    result = cleaned(balls(3), FEW.replace(budget=budget))
    report = result.report
    assert judged(result.mesh).is_watertight and report["closed"]
    lost = report["bodies_before"] - report["bodies_after"]
    assert (lost > 0) == any(f"lost {lost} of 27" in note for note in report["notes"])
    assert report["budget_reached"] != any(f"not to {budget}" in note for note in report["notes"])
    assert lost or not report["budget_reached"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_tangle_of_faces_is_no_crash(seed: int) -> None:
    """Every edge crowded, no winding that fits: whatever can't be made good is said."""
    rng = np.random.default_rng(seed)
    result = clean(RawMesh(rng.uniform(-0.5, 0.5, (8, 3)).astype(np.float32), rng.integers(0, 8, (90, 3))), FEW)
    report = result.report
    assert report["closed"] == judged(result.mesh).is_watertight
    assert report["closed"] or report["notes"]


def test_what_cannot_be_closed_is_said() -> None:
    half = sphere(24)
    half = without(half, half.vertices[half.faces].max(axis=1)[:, 2] > 0.01)
    result = cleaned(half, FEW.replace(max_hole_edges=20))
    report = result.report
    assert not report["closed"] and report["holes_left"] == [48] == [report["boundary_edges"]] and report["genus"] is None
    assert any("stay open" in note for note in report["notes"])


def test_levels_and_hull() -> None:
    result = cleaned(raw_mesh(bumpy(ball(0.35)), 48), FEW.replace(lods=(600, 100), hull_vertices=24))
    assert [len(mesh.faces) for mesh in result.lods] == result.report["lods"]
    for mesh, budget in zip(result.lods, (600, 100)):
        own = judged(mesh)
        assert own.is_watertight and own.volume > 0 and 0.8 * budget < len(own.faces) <= budget
        assert mesh.vertex_colors is not None
    box = judged(result.hull)
    assert box.is_watertight and box.is_convex and len(box.vertices) <= 24
    assert box.volume == pytest.approx(judged(result.mesh).volume, rel=0.25)
    assert cleaned(sphere(8)).hull is None and cleaned(sphere(8)).lods == ()


def test_smoothing_is_measured_against_the_raw_surface() -> None:
    raw = raw_mesh(ball(0.4), 48, noise=0.3)
    plain, smooth = cleaned(raw, FEW.replace(budget=6000)), cleaned(raw, FEW.replace(budget=6000, smooth=10))
    spread = [np.linalg.norm(result.mesh.vertices, axis=1).std() for result in (plain, smooth)]
    assert spread[1] < 0.85 * spread[0]
    assert smooth.report["error"]["rms"] > plain.report["error"]["rms"]


def test_the_same_mesh_gives_the_same_bytes() -> None:
    raw = raw_mesh(bumpy(ball(0.4)), 40, noise=0.2, dust=3)
    first, second = cleaned(raw), cleaned(raw)
    assert np.array_equal(first.mesh.vertices, second.mesh.vertices) and np.array_equal(first.mesh.faces, second.mesh.faces)
    assert np.array_equal(first.mesh.vertex_colors, second.mesh.vertex_colors)


@pytest.mark.parametrize(
    ("vertices", "faces", "text"),
    [
        (np.zeros((3, 3)), np.zeros((0, 3)), "has no faces"),
        (np.zeros((3, 3)), [[0, 1, 3]], "beyond its vertices"),
        (np.zeros((3, 3)), [[0, 1, -1]], "beyond its vertices"),
        (np.full((3, 3), np.nan), [[0, 1, 2]], "finite"),
        (np.zeros((3, 3)), [[0, 1, 2]], "different"),
    ],
)
def test_no_mesh_is_refused(vertices: np.ndarray, faces: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        clean(RawMesh(np.float32(vertices), np.int64(faces)), FEW)


def test_bad_options_are_refused() -> None:
    for bad in ({"budget": 3}, {"views": 0}, {"smallest_body": 2.0}, {"hull_vertices": 3}, {"lods": (3,)}):
        with pytest.raises(OptionError):
            CleanOptions(**bad)


def test_a_job_hears_of_every_step_and_can_stop_it() -> None:
    class Listener(QuietJob):
        def __init__(self, stop: int) -> None:
            super().__init__()
            self.heard: list[tuple[str, int, int]] = []
            self.stop = stop

        def step(self, stage: str, step: int, total: int) -> None:
            self.heard.append((stage, step, total))
            if len(self.heard) == self.stop:
                raise JobCancelled("Stopped.")

    raw = raw_mesh(ball(0.4), 24, dust=1)
    mesh = RawMesh(raw.vertices, raw.faces, raw.colors)
    patient = Listener(0)
    clean(mesh, FEW, patient)
    steps = [step for _, step, _ in patient.heard]
    assert (
        steps == sorted(steps)
        and steps[0] == 0
        and patient.heard[-1][1] == patient.heard[-1][2]
        and len({stage for stage, _, _ in patient.heard}) == 1
    )
    torch.set_num_threads(2)
    with pytest.raises(JobCancelled):
        clean(mesh, FEW, Listener(4))
    assert torch.get_num_threads() == 2


def test_a_body_of_eight_faces_is_not_dust() -> None:
    alone = octahedron(0.3)
    result = cleaned(joined(alone))
    assert_good(result, 1500, 1)
    assert len(result.mesh.faces) == 8
