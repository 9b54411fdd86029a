"""Mesh clean-up, holes: closed, as dense as what is around, no edge twice. Judged by trimesh."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.worker.geometry.cleanup import holes, repair, topology

from cleanup_checks import assert_closed, judged
from cleanup_shapes import sphere, without

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("edge", [8, 12, 16])
def test_a_hole_is_closed(edge: int, refine: bool) -> None:
    ball = sphere(edge)
    open_ = topology.compact(*(without(ball, np.arange(len(ball.faces)) < 2 * edge).vertices, ball.faces[2 * edge :]))[:2]
    made = holes.fill_holes(*open_, 2 * edge, refine)
    mesh = assert_closed(made.vertices, made.faces, 1)
    assert made.closed == (2 * edge,) and made.left == ()
    assert mesh.volume == pytest.approx(judged(ball.vertices, ball.faces).volume, rel=0.02)
    assert np.array_equal(made.faces[: len(open_[1])], open_[1])
    if not refine:
        assert len(made.faces) == len(open_[1]) + 2 * edge - 2 and len(made.vertices) == len(open_[0])


def test_a_hole_with_too_many_edges_stays() -> None:
    ball = sphere(8)
    made = holes.fill_holes(ball.vertices, ball.faces[16:], 15)
    assert made.left == (16,) and made.closed == () and len(made.faces) == len(ball.faces) - 16
    assert holes.fill_holes(ball.vertices, ball.faces[16:], 16).left == ()


def test_a_patch_is_as_dense_as_what_is_around() -> None:
    ball = sphere(24)
    gone = ball.vertices[ball.faces].max(axis=1)[:, 2] > 0.3
    made = holes.fill_holes(*topology.compact(ball.vertices, ball.faces[~gone])[:2], 48)
    patch = made.faces[-len(made.patch) :]
    longest = np.linalg.norm(made.vertices[patch] - made.vertices[np.roll(patch, 1, axis=1)], axis=2).max()
    around = np.linalg.norm(ball.vertices[ball.faces] - ball.vertices[np.roll(ball.faces, 1, axis=1)], axis=2).max()
    assert longest < 4 * around
    plain = holes.fill_holes(*topology.compact(ball.vertices, ball.faces[~gone])[:2], 48, refine=False)
    assert len(made.vertices) > len(plain.vertices)
    assert_closed(made.vertices, made.faces, 1)


def test_an_edge_that_is_there_already_is_no_diagonal() -> None:
    """A tetrahedron without two faces: the short diagonal of the hole is the edge that the other two share."""
    vertices = np.float32([[0, 0, 0.1], [0, 0, -0.1], [1, 1, 0], [1, -1, 0]])
    faces = np.int64([[0, 1, 3], [1, 0, 2]])
    made = holes.fill_holes(vertices, faces, 4, refine=False)
    assert_closed(made.vertices, made.faces, 1)


def test_two_holes_that_meet_in_a_vertex() -> None:
    ball = sphere(8)
    around = np.flatnonzero((ball.faces == 3 * 16 + 3).any(axis=1))
    first = around[0]
    second = next(f for f in around if len(set(ball.faces[f]) & set(ball.faces[first])) == 1)
    rows = without(ball, np.isin(np.arange(len(ball.faces)), [first, second]))
    vertices, faces, _, _ = repair.split_crowded(rows.vertices, rows.faces)
    made = holes.fill_holes(vertices, faces)
    mesh = assert_closed(made.vertices, made.faces, 1)
    assert mesh.volume == pytest.approx(judged(ball.vertices, ball.faces).volume, rel=0.003)


def test_a_swap_makes_no_edge_that_is_there() -> None:
    """Three faces around a vertex that leans over: the angles ask for a swap, but its edge exists."""
    points = [np.float64(p) for p in ((0, 0, 0), (1, 1, 0), (1, -1, 0), (3, 0, 1))]
    around = [(0, 1, 3), (1, 2, 3), (2, 0, 3)]
    assert holes._angle(points, 0, 2, 3) + holes._angle(points, 0, 1, 3) > np.pi
    swapped = list(around)
    holes._swap(points, swapped)
    assert swapped == around
