"""The clean-up's first steps as tensors, as a GPU takes them, against the plain ones: on the CPU, where both can be had. And several clean-ups
at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.worker.geometry.cleanup import (  # noqa: E402
    CleanOptions,
    RawMesh,
    attributes,
    clean,
    components,
    error,
    nearest,
    repair,
    tensors,
    topology,
)

from cleanup_shapes import (  # noqa: E402
    Raw,
    ball,
    box,
    bumpy,
    inside_out,
    joined,
    octahedron,
    raw_mesh,
    sphere,
    torus,
    union,
    without,
)

pytestmark = pytest.mark.usefixtures("one_thread")
module = sys.modules["comfyui_sam3d.worker.geometry.cleanup.clean"]


def on(mesh: Raw) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(mesh.vertices, dtype=torch.float64), torch.tensor(np.ascontiguousarray(mesh.faces))


def tangle(seed: int, vertices: int = 60, faces: int = 90) -> Raw:
    """Triangles at random between random points: crowded edges, unused vertices, all sizes of components."""
    rng = np.random.default_rng(seed)
    return Raw(
        rng.normal(size=(vertices, 3)).astype(np.float32),
        np.stack([rng.choice(vertices, 3, replace=False) for _ in range(faces)]),
        rng.random((vertices, 3)).astype(np.float32),
    )


SINGLE = Raw(np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.int64([[0, 1, 2]]), np.zeros((3, 3), np.float32))
MESHES: dict[str, Callable[[], Raw]] = {
    "doll": lambda: joined(sphere(8, 0.4), inside_out(sphere(8, 0.3)), sphere(8, 0.2), sphere(8, 0.1, (2, 0, 0))),
    "crumbs": lambda: joined(*(octahedron(0.01 * (i + 1)) for i in range(30)), without(sphere(8), np.arange(224) < 40)),
    "single": lambda: SINGLE,
    "tangle": lambda: tangle(0),
    "sparse tangle": lambda: tangle(1, 200, 60),
    "raw": lambda: raw_mesh(bumpy(union(ball(0.3), torus(0.33, 0.1))), 32, dust=5, noise=0.2),
}


@pytest.mark.parametrize("name", MESHES)
def test_parts_are_the_same(name: str) -> None:
    mesh = MESHES[name]()
    wanted, found = components.parts_of(mesh.vertices.astype(np.float64), mesh.faces), components.parts_of(*on(mesh))
    for field in ("label", "closed", "low", "high"):
        assert np.array_equal(getattr(wanted, field), getattr(found, field)), field
    assert found.area == pytest.approx(wanted.area, rel=1e-12) and found.volume == pytest.approx(wanted.volume, rel=1e-9, abs=1e-15)
    assert np.array_equal(components.depths(mesh.vertices, mesh.faces, wanted), components.depths(*on(mesh), found))
    turned, which = repair.face_outwards(mesh.faces, wanted, np.zeros(len(wanted), bool))
    again, same = repair.face_outwards(on(mesh)[1], found, np.zeros(len(found), bool))
    assert np.array_equal(turned, tensors.plain(again)) and np.array_equal(which, same)


def test_no_faces_have_no_parts() -> None:
    assert len(components.parts_of(np.zeros((3, 3)), np.zeros((0, 3), np.int64))) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "links"), [(1, 0), (50, 20), (1000, 900), (2000, 5000)])
def test_components_are_named_by_their_least_node(count: int, links: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, count, (links, 2))
    number, label = topology.connect(pairs, count)
    root = tensors.connect(*torch.from_numpy(pairs).unbind(1), count).numpy()
    assert len(np.unique(root)) == number
    first = np.unique(label, return_index=True)[1]
    assert np.array_equal(first[label], root)


@pytest.mark.parametrize("order", ["along", "against", "at random", "star"])
def test_a_long_chain_is_one_component(order: str) -> None:
    count = 5000
    names = {"along": np.arange(count), "against": np.arange(count)[::-1].copy(), "at random": np.random.default_rng(0).permutation(count)}
    ends = (np.full(count - 1, count - 1), np.arange(count - 1)) if order == "star" else (names[order][:-1], names[order][1:])
    assert not tensors.connect(*(torch.from_numpy(end.copy()) for end in ends), count).any()


def test_passes_are_the_same_numbers() -> None:
    mesh = MESHES["raw"]()
    assert np.array_equal(tensors.passes(on(mesh)[1]).numpy(), topology.passes(mesh.faces).view(np.int64))
    assert tensors.balanced(on(mesh)[1]) and not tensors.balanced(on(mesh)[1][1:])


def test_a_sound_mesh_and_every_fault() -> None:
    mesh = sphere(8)
    vertices, faces = torch.tensor(mesh.vertices), torch.tensor(mesh.faces)
    assert tensors.sound(vertices, faces)
    a, b, c = faces[5].tolist()
    nan = torch.cat([vertices, torch.full((1, 3), torch.nan)])
    apex = len(vertices)
    inner = torch.tensor([[a, b, apex], [b, c, apex], [c, a, apex]])
    faults = {
        "open": (vertices, faces[1:]),
        "turned": (vertices, torch.cat([faces[:5], faces[5:6].flip(1), faces[6:]])),
        "loose": (torch.cat([vertices, vertices[:1] * 2]), faces),
        "double": (torch.cat([vertices, vertices * -2]), torch.cat([faces, faces])),
        "unwelded": (vertices[faces].reshape(-1, 3), torch.arange(faces.numel()).view(-1, 3)),
        "twice": (torch.cat([vertices, vertices]), torch.cat([faces, faces + len(vertices)])),
        "not finite": (nan, torch.cat([faces[:5], inner, faces[6:]])),
        "degenerate": (vertices, torch.cat([faces, torch.tensor([[a, a, b]])])),
    }
    for name, fault in faults.items():
        assert not tensors.sound(*fault), name
    minus = vertices.clone()
    minus[minus == 0] = -0.0
    assert tensors.sound(minus, faces)


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_points_on_tensors(seed: int) -> None:
    """Of tangles with long slivers, and of a mesh of like faces."""
    mesh = tangle(seed, 80, 300) if seed else MESHES["raw"]()
    points = np.random.default_rng(seed).uniform(-1, 1, (700, 3))
    wanted = nearest.NearestFaces(mesh.vertices, mesh.faces)(points)
    found = nearest.nearest_by_blocks(points, *on(mesh), "cpu")
    assert np.abs(wanted.distance - found.distance).max() < 1e-12
    foot = np.einsum("pk,pkc->pc", found.weights, mesh.vertices.astype(np.float64)[mesh.faces[found.face]])
    assert np.linalg.norm(foot - points, axis=1) == pytest.approx(found.distance, abs=1e-12)


def test_in_small_portions_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, points = MESHES["raw"](), np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    whole = nearest.nearest_by_blocks(points, mesh.vertices, mesh.faces, "cpu")
    monkeypatch.setattr(nearest, "_PAIRS", 1000)
    monkeypatch.setattr(nearest, "_TRIED", 128)
    parts = nearest.nearest_by_blocks(points, mesh.vertices, mesh.faces, "cpu")
    assert np.array_equal(whole.face, parts.face) and np.array_equal(whole.distance, parts.distance)


def test_samples_the_error_and_colours_on_tensors() -> None:
    mesh, few = MESHES["raw"](), sphere(8, 0.35)
    plain, there = (mesh.vertices.astype(np.float64), mesh.faces), on(mesh)
    for wanted, found in zip(nearest.sample_surface(*plain, 500), nearest.sample_surface(*there, 500)):
        assert np.abs(wanted - found).max() < 1e-9
    target = (few.vertices.astype(np.float64), few.faces)
    assert error.surface_error(target, there, 300) == error.surface_error(target, plain, 300)
    assert np.array_equal(attributes.carry(mesh.colors, there, target), attributes.carry(mesh.colors, plain, target))


WHOLE = {
    "sound": lambda: raw_mesh(bumpy(union(ball(0.28, (0.1, 0, 0)), torus(0.33, 0.1))), 48, noise=0.15, gaps=ball(0.05, (0.1, 0, 0.28))),
    "with dust": lambda: raw_mesh(ball(0.4), 40, dust=12),
    "a box in a box": lambda: joined(box(), box((0.3, 0.3, 0.3), (0.6, 0.6, 0.6)), octahedron(0.001)),
    "unwelded": lambda: (lambda m: Raw(m.vertices[m.faces].reshape(-1, 3), np.arange(m.faces.size).reshape(-1, 3), m.colors[m.faces].reshape(-1, 3)))(sphere(8)),
    "inside out": lambda: inside_out(sphere(8)),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("smooth", [0, 2])
def test_the_whole_clean_up_with_the_raw_mesh_as_tensors(name: str, smooth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = WHOLE[name]()
    raw = RawMesh(mesh.vertices, mesh.faces, mesh.colors)
    options = CleanOptions(budget=1000, smooth=smooth, views=40, view_size=128, samples=300, lods=(100,), hull_vertices=12)
    wanted = clean(raw, options)
    monkeypatch.setattr(module, "_resident", lambda device: True)
    found = clean(raw, options)
    for field in ("vertices", "faces", "vertex_colors"):
        assert np.array_equal(getattr(wanted.mesh, field), getattr(found.mesh, field)), field
    assert {**wanted.report, "seconds": 0} == {**found.report, "seconds": 0}


def test_clean_ups_at_once_are_those_one_after_another() -> None:
    raws = [WHOLE["sound"](), WHOLE["with dust"](), WHOLE["a box in a box"]()] * 2
    options = CleanOptions(budget=800, views=30, view_size=128, samples=200)

    def one(mesh: Raw) -> object:
        return clean(RawMesh(mesh.vertices, mesh.faces, mesh.colors), options)

    torch.set_num_threads(2)
    alone = [one(mesh) for mesh in raws]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(one, raws))
        left = set(pool.map(lambda _: torch.get_num_threads(), range(20)))
    for wanted, found in zip(alone, together):
        assert np.array_equal(wanted.mesh.vertices, found.mesh.vertices) and np.array_equal(wanted.mesh.faces, found.mesh.faces)
        assert {**wanted.report, "seconds": 0} == {**found.report, "seconds": 0}
    assert left == {2} and torch.get_num_threads() == 2  # what a clean-up lowers, it raises again
