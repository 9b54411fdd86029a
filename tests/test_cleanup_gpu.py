"""Mesh clean-up on a GPU against the CPU. Needs no trimesh: `python3 -m pytest tests/test_cleanup_gpu.py`."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from comfyui_sam3d.worker.geometry.cleanup import (  # noqa: E402
    CleanOptions,
    RawMesh,
    attributes,
    clean,
    collapse,
    decimate,
    error,
    nearest,
    topology,
    visibility,
)

from cleanup_shapes import ball, bumpy, raw_mesh, torus, union  # noqa: E402

BODY = bumpy(union(ball(0.28, (0.1, 0, 0)), torus(0.33, 0.1)))


@pytest.mark.parametrize("budget", [3000, 1000])
def test_parallel_collapses_are_as_good_as_the_library(budget: int) -> None:
    raw = raw_mesh(BODY, 64, noise=0.15)
    vertices, faces = collapse.thin(raw.vertices, raw.faces, budget, "cuda")
    before, after = topology.soundness(raw.vertices, raw.faces), topology.soundness(vertices, faces)
    assert after.closed and after.genus == before.genus and 0.9 * budget <= len(faces) <= budget
    plain = decimate.decimate(raw.vertices, raw.faces, budget)
    ours, theirs = (
        error.surface_error(made, (raw.vertices, raw.faces), 2000) for made in ((vertices, faces), (plain.vertices, plain.faces))
    )
    assert ours.rms < 1.2 * theirs.rms and ours.max < 2 * theirs.max and ours.turned < 0.01


def test_visibility_is_that_of_the_cpu() -> None:
    raw = raw_mesh(BODY, 32)
    few = decimate.decimate(raw.vertices, raw.faces, 3000)
    seen = [visibility.visibility(few.vertices, few.faces, 60, 128, device) for device in ("cpu", "cuda")]
    apart = np.abs(seen[0] - seen[1])
    assert (apart > 0).mean() < 0.01 and apart.max() < 2 / 60


def test_nearest_points_are_those_of_the_cpu() -> None:
    raw = raw_mesh(BODY, 96, noise=0.15)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, 3))
    here, there = (nearest.nearest_faces(points, raw.vertices, raw.faces, device) for device in ("cpu", "cuda"))
    assert np.abs(here.distance - there.distance).max() < 1e-9


def test_colours_are_those_of_the_cpu() -> None:
    raw = raw_mesh(BODY, 96, noise=0.15)
    few = decimate.decimate(raw.vertices, raw.faces, 3000)
    source, target = (raw.vertices, raw.faces), (few.vertices, few.faces)
    here, there = (attributes.carry(raw.colors, source, target, device) for device in ("cpu", "cuda"))
    assert np.quantile(np.abs(here - there), 0.99) < 1e-4 and np.abs(here - there).max() < 0.05


def test_the_whole_clean_up() -> None:
    raw = raw_mesh(BODY, 128, noise=0.15, dust=20, gaps=ball(0.05, (0.1, 0, 0.28)))
    made = clean(RawMesh(raw.vertices, raw.faces, raw.colors), CleanOptions(budget=5000), device="cuda")
    report = made.report
    assert report["closed"] and report["bodies_after"] == 1 and 4500 < report["faces_after"] <= 5000
    assert report["error"]["rms"] < 0.003
    again = clean(RawMesh(raw.vertices, raw.faces, raw.colors), CleanOptions(budget=5000), device="cuda").mesh
    for name in ("vertices", "faces", "vertex_colors"):
        assert np.array_equal(getattr(made.mesh, name), getattr(again, name)), f"{name} differ from run to run"
    assert np.quantile(np.abs(BODY(made.mesh.vertices)), 0.95) < 0.01
