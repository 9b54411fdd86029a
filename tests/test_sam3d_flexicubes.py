"""FlexiCubes beyond the goldens: its tables, surfaces of known shapes, sparse and dense grids, sums over cubes, kernels against their twins."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

import numpy as np  # noqa: E402
from comfyui_sam3d.worker.ops import backends  # noqa: E402
from comfyui_sam3d.worker.sam3d import flexicubes  # noqa: E402
from comfyui_sam3d.worker.sam3d.flexicubes_tables import CORNERS, tables  # noqa: E402

from flexicubes_reference import reference  # noqa: E402
from voxel_shapes import scattered, source  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available() or not backends.has("triton"), reason="needs a CUDA device and Triton")


def cells(side: int, share: float, seed: int) -> torch.Tensor:
    """int32 (n, 3): a random share of a grid's cubes, in lexicographic order."""
    return scattered(side, share, seed)[:, 1:].contiguous()


def sphere(side: int, radius: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Cubes near a sphere, with its distance as sdf and the colour following x."""
    coords = torch.stack(torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    corners = coords[:, None] + torch.tensor(CORNERS)
    points = corners / side - 0.5
    sdf = points.norm(dim=-1) - radius
    features = torch.zeros(len(coords), 101)
    features[:, flexicubes.SDF] = sdf + 1 / side
    features[:, flexicubes.COLOR].unflatten(1, (8, 6)).copy_(points[..., :1].expand(-1, -1, 6) * 8)
    near = (sdf.abs() < 3 / side).any(1) | (sdf < 0).any(1)
    return coords[near].int(), features[near]


def test_tables_are_the_published_ones() -> None:
    known = tables()
    digests = {
        "dmc": "d704bd48b4b0d7a55a1d9f7647d739bc4b934c0983b877d5a4ccf5378fc515ce",
        "groups": "a3ce4604e8fbf815bec49308d77c46029af7fabfe5438aa56bb839c3510ac2ba",
        "check": "2619074d39d60bb57c9d30ae29239dfd5f40b324e8f63f488d6126d4f1e24198",
    }
    for name, digest in digests.items():
        assert hashlib.sha256(getattr(known, name).numpy().astype("<i2").tobytes()).hexdigest() == digest
    assert Counter(known.groups.tolist()) == {0: 2, 1: 162, 2: 82, 3: 8, 4: 2}
    assert int(known.check[:, 0].sum()) == 36


def test_a_sphere_is_closed_faces_outwards_and_carries_its_colour() -> None:
    mesh = flexicubes.extract_surface(*sphere(16), 16)
    edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert Counter(map(tuple, edges.tolist())) == Counter(map(tuple, edges.flip(1).tolist()))  # each edge once in either direction
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    volume = float((a * torch.linalg.cross(b, c)).sum()) / 6
    assert volume == pytest.approx(4 / 3 * torch.pi * 0.3**3, rel=0.05)
    assert torch.allclose(mesh.attributes[:, 0], torch.sigmoid(mesh.vertices[:, 0] * 8), atol=0.02)
    assert torch.equal(mesh.attributes[:, :1].expand(-1, 6), mesh.attributes)


def test_the_order_of_the_cubes_means_nothing() -> None:
    cubes, features = sphere(12)
    features = features + torch.randn(features.shape, generator=source()) * 0.05
    mixed = torch.randperm(len(cubes), generator=source(1))
    first, second = flexicubes.extract_surface(cubes, features, 12), flexicubes.extract_surface(cubes[mixed], features[mixed], 12)
    assert torch.equal(first.faces, second.faces) and torch.allclose(first.vertices, second.vertices, atol=1e-5)


def test_sparse_and_dense_grids_give_the_same_surface() -> None:
    """Few active cubes with random signs, at the grid's rim too: most of the surface lies in cubes that aren't active."""
    side, draw = 7, source(2)
    cubes = cells(side, 0.15, 3)
    features = torch.randn(len(cubes), 101, generator=draw)
    sparse = flexicubes.build_grid(cubes, features, side)
    lattice = flexicubes.build_lattice(torch.cartesian_prod(*[torch.arange(side)] * 3), side)
    sdf, values = torch.ones((side + 1) ** 3), torch.full(((side + 1) ** 3, 9), 0.5)
    values[:, :3] = flexicubes.vertex_positions(lattice.vertices, side)
    vertices, weights = sparse.lattice.vertices.long(), torch.zeros(side**3, 21)
    sdf[vertices], values[vertices] = sparse.sdf, sparse.values
    weights[(cubes[:, 0] * side + cubes[:, 1]) * side + cubes[:, 2]] = sparse.weights
    dense = flexicubes.Grid(lattice, sdf, values, torch.zeros_like(sdf, dtype=torch.bool), weights)
    got, wanted = flexicubes.surface(sparse), flexicubes.surface(dense)
    assert len(wanted.faces) > 100 and torch.equal(got.faces, wanted.faces)
    assert torch.equal(got.vertices, wanted.vertices) and torch.equal(got.attributes, wanted.attributes)


@pytest.mark.parametrize(("side", "share", "exact"), [(2, 1.0, True), (3, 0.6, False), (4, 1.0, True), (5, 0.3, False), (6, 0.8, False)])
def test_a_surface_is_its_definition(side: int, share: float, exact: bool) -> None:
    """Sparse and full grids in any order; with exact zeros among the signs, where means can hold them."""
    draw = source(side)
    cubes = cells(side, share, side)
    cubes = cubes[torch.randperm(len(cubes), generator=draw)]
    features = torch.randn(len(cubes), 101, generator=draw)
    if exact:
        features[:, flexicubes.SDF] = (2 * features[:, flexicubes.SDF]).round() / 4
    found = flexicubes.extract_surface(cubes, features, side)
    values, faces = reference(cubes, features, side)
    assert torch.equal(found.faces, faces)
    assert torch.allclose(torch.cat([found.vertices, found.attributes], dim=1).double(), values, atol=1e-5)


@pytest.mark.parametrize("side", [1024, 8192])
def test_memory_follows_the_active_cubes(side: int) -> None:
    """A small sphere in a corner of a grid that nobody could hold; of the first one, vertices can be numbered in 32 bits and edges can't."""
    cubes, features = sphere(16)
    offset = side - 16
    far = features.clone()
    far[:, flexicubes.SDF] += 1 / side - 1 / 16
    here, there = flexicubes.extract_surface(cubes, features, 16), flexicubes.extract_surface(cubes + offset, far, side)
    assert torch.equal(here.faces, there.faces)
    moved = ((there.vertices + 0.5) * side - offset) / 16 - 0.5
    assert torch.allclose(here.vertices, moved, atol=1e-3)


def test_a_vertex_is_the_mean_of_what_its_cubes_say() -> None:
    """Against a loop over cubes and corners, in float64."""
    draw, side = source(5), 4
    xyz = cells(side, 0.5, 6)
    xyz = xyz[torch.randperm(len(xyz), generator=draw)]
    features = torch.randn(len(xyz), 101, generator=draw)
    grid = flexicubes.build_grid(xyz, features, side)
    found: dict[tuple[int, ...], list[list[float]]] = {}
    for cell, row in zip(xyz.tolist(), features.double()):
        for index, offset in enumerate(CORNERS):
            colors, moved = row[53 + 6 * index : 59 + 6 * index], row[8 + 3 * index : 11 + 3 * index]
            place = tuple(a + b for a, b in zip(cell, offset))
            found.setdefault(place, []).append([row[index] - 1 / side, *moved, *colors])
    places = sorted(found)
    assert grid.lattice.vertices.tolist() == [(x * 5 + y) * 5 + z for x, y, z in places]
    assert grid.rim.tolist() == [len(found[place]) < 8 for place in places]
    mean = torch.tensor(np.array([np.mean(found[place], axis=0) for place in places]))
    wanted = torch.tensor(places) / side - 0.5 + torch.tanh(mean[:, 1:4]) / (2 * side)
    assert torch.allclose(grid.sdf.double(), mean[:, 0], atol=1e-6) and torch.allclose(grid.values[:, :3].double(), wanted, atol=1e-6)
    assert torch.allclose(grid.values[:, 3:].double(), torch.sigmoid(mean[:, 4:]), atol=1e-6)


@needs_gpu
def test_the_kernels_find_the_same_surface_as_their_twins() -> None:
    for side, share in ((9, 0.2), (24, 0.5), (40, 0.97)):
        xyz = cells(side, share, side)
        features = torch.randn(len(xyz), 101, generator=source(side))
        wanted = flexicubes.extract_surface(xyz, features, side)
        for name in ("triton", "torch"):
            with backends.force(name):
                first, second = (flexicubes.extract_surface(xyz.cuda(), features.cuda(), side) for _ in range(2))
            assert torch.equal(first.faces.cpu(), wanted.faces) and torch.equal(first.faces, second.faces)
            assert torch.equal(first.vertices, second.vertices) and torch.equal(first.attributes, second.attributes)
            assert torch.allclose(first.vertices.cpu(), wanted.vertices, atol=1e-5)
            assert torch.allclose(first.attributes.cpu(), wanted.attributes, atol=1e-5)
