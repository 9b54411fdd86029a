"""Layout refinement, part by part: the gate, alignment, ICP, the optimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.worker.geometry.layout import gate, optimise  # noqa: E402
from comfyui_sam3d.worker.geometry.layout.align import align, depth_edges, target_points  # noqa: E402
from comfyui_sam3d.worker.geometry.layout.icp import icp  # noqa: E402

from golden import replay  # noqa: E402
from layout_shapes import LENSES, disc, scraps  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


# -- the gate


def test_the_gate_opens_for_a_whole_object() -> None:
    mask = disc()
    assert gate.occlusion(mask, np.where(mask, 2.0, 4.0)) == ""
    assert gate.occlusion(mask, np.where(mask, 2.0, np.nan)) == "" and gate.occlusion(mask, np.full(mask.shape, np.nan)) == ""


@pytest.mark.parametrize(("gap", "shut"), [(4, True), (5, False)])
@pytest.mark.parametrize("turns", range(4))
def test_it_shuts_where_the_mask_touches_the_border(gap, shut, turns) -> None:
    mask = np.zeros((64, 64), bool)
    mask[gap:40, 20:44] = True
    assert ("border" in gate.occlusion(np.rot90(mask, turns), np.ones((64, 64)))) is shut


@pytest.mark.parametrize(("length", "step", "shut"), [(30, 0.31, True), (30, 0.29, False), (1, 0.31, False), (30, -0.5, False)])
def test_it_shuts_where_something_nearer_lies_beside(length, step, shut) -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:32] = True
    depth = np.where(mask, 2.0, 4.0)
    depth[17 : 17 + length, 32:36] = 2.0 - step
    assert ("covers" in gate.occlusion(mask, depth)) is shut


def test_more_than_ten_covered_pixels_shut_it() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:32] = True
    depth = np.where(mask, 2.0, 4.0)
    depth[24, 32] = 1.0
    assert gate.covered(mask, depth) == 10 and gate.occlusion(mask, depth) == ""  # a ring 2 wide, a window 5 high
    depth[25, 33] = 1.0
    assert gate.covered(mask, depth) == 11 and gate.occlusion(mask, depth) != ""  # which reaches only one of the two
    depth[25, 34] = 1.0  # outside the outer ring
    assert gate.covered(mask, depth) == 11


def test_specks_are_dropped_and_pieces_shut_it() -> None:
    depth = np.ones((64, 64))
    for size, shut in ((4, False), (5, True)):  # 5 x 5 is 25 pixels
        mask = disc(10)
        mask[8 : 8 + size, 8:13] = True
        assert ("pieces" in gate.occlusion(mask, depth)) is shut, size
    assert not gate.clean_mask(np.eye(64, dtype=bool)).any()  # diagonal neighbours don't hold together


def test_large_holes_shut_it() -> None:
    for side, shut in ((9, False), (10, True)):
        mask = disc(20)
        mask[28 : 28 + side, 28:38] = False
        assert ("holes" in gate.occlusion(mask, np.ones((64, 64)))) is shut, side


# -- alignment, ICP


def test_points_at_jumps_in_depth_are_left_out() -> None:
    depth = np.full((9, 9), 2.0)
    depth[:, 5:] = 2.07
    points = np.stack([*np.meshgrid(np.arange(9.0), np.arange(9.0)), depth], -1)
    found = depth_edges(depth, np.ones((9, 9), bool), 0.03)
    assert found[:, 4:6].all() and found.sum() == 18
    points[3, 0] = np.nan
    mask = np.ones((9, 9), bool)
    assert np.isfinite(target_points(points, mask, "quantile")).all()
    large = np.repeat(np.repeat(points, 58, 0), 58, 1)  # 522 pixels: 3 %
    assert len(target_points(large, np.ones(large.shape[:2], bool), "depth_edges")) == large[..., 0].size - 2 * 522 - 58 * 58
    assert len(target_points(points, mask, "depth_edges")) == 80  # nine pixels across span much more depth


def test_a_depth_edge_is_relative() -> None:
    far, near = (np.repeat([[z, z * (1 + jump)]], 4, 0) for z, jump in ((10.0, 0.025), (0.5, 0.04)))
    known = np.ones((4, 2), bool)
    assert not depth_edges(far, known, 0.03).any() and depth_edges(near, known, 0.03).all()


def test_the_farthest_tenth_is_left_out() -> None:
    points = np.zeros((10, 10, 3))
    points[..., 2] = np.arange(1, 101).reshape(10, 10)
    assert sorted(target_points(points, np.ones((10, 10), bool), "quantile")[:, 2]) == list(range(1, 91))


def test_alignment_by_height_and_middle() -> None:
    source = np.random.default_rng(0).normal(size=(50, 3))
    scale, shift = align(source, 2.5 * source + [1, 2, 3])
    assert scale == pytest.approx(2.5) and shift == pytest.approx([1, 2, 3])
    assert align(source, np.zeros((0, 3))) is None and align(source, np.zeros((4, 3))) is None and align(np.zeros((4, 3)), source) is None


def test_icp_undoes_a_small_motion() -> None:
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (8000, 3)) + np.array([3, 0, 0])  # close enough together that the first pairs are wrong
    half = math.radians(1)
    c, s = math.cos(half), math.sin(half)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    middle = np.array([3, 0, 0])
    source = (target - middle - [0.01, -0.02, 0.01]) @ turn + middle  # turned back
    found = icp(source, target)
    assert found.matrix[:3, :3] == pytest.approx(turn, abs=1e-6) and found.matrix[:3, 3] == pytest.approx(
        middle - turn @ middle + [0.01, -0.02, 0.01], abs=1e-6
    )
    assert found.fitness == 1 and found.rmse < 1e-6
    far = icp(source + 10, target)
    assert np.array_equal(far.matrix, np.eye(4)) and far.fitness == 0


# -- the optimiser


def test_adam_is_that_of_the_paper() -> None:
    """Kingma and Ba (2015), algorithm 1, one number at a time."""
    theta, m, v, value, ours = 1.0, 0.0, 0.0, {"a": torch.tensor(1.0, dtype=torch.float64)}, optimise.Adam(0.01)
    for t in range(1, 6):
        g = math.cos(2 * t) * t
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta -= 0.01 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        value = ours.step(value, {"a": torch.tensor(g, dtype=torch.float64)})
        assert float(value["a"]) == pytest.approx(theta, abs=1e-12)


def test_a_quaternions_length_means_nothing() -> None:
    points, _ = scraps(2, 3)
    quat = torch.tensor([0.8, 0.2, -0.3, 0.1], dtype=torch.float64)
    one, other = (optimise.Move(length * quat, torch.zeros(3).double(), torch.tensor(1.5).double()) for length in (1.0, 1.7))
    replay.near(one.apply(points, points[0]), other.apply(points, points[0]), 1e-12)
    mask = torch.zeros(4, 4).double()
    replay.near(optimise.terms(mask, mask, one), optimise.terms(mask, mask, other), 1e-12)
    assert float((one.apply(points, points[0])[1] - points[0]).norm()) == pytest.approx(1.5 * float((points[1] - points[0]).norm()))


def test_a_stage_ends_where_the_loss_has_settled(monkeypatch) -> None:
    """Two stages; what the first one knew of the loss carries over."""
    losses = iter([3.0, 2.0, 1.5, 1.000001, 1.0, 1.0, 0.5, 0.4, 0.399995, 9.0])
    monkeypatch.setattr(optimise, "evaluate", lambda view, move, names: (next(losses), {name: torch.zeros(()) for name in ()}))
    view = optimise.View(*(torch.zeros(1, 3),) * 3, torch.zeros(4, 4), LENSES[0], 1e-3, 1e-4, None)
    _, taken = optimise.optimise(view)
    assert taken == 5 + 1  # all of A, and the first of B, whose loss is A's last
    _move, before, count = optimise.stage(view, optimise.Move.none(torch.zeros(1)), math.inf, 25, 0.1, ())
    assert (before, count) == (0.399995, 3)


def test_the_first_stage_does_not_turn() -> None:
    points, faces = scraps(4, 7, torch.float32)
    view = optimise.View(points, faces, points.mean(0), torch.ones(20, 20), LENSES[0], 1e-2, 1e-3, None)
    steps: list[optimise.Step] = []
    _move, taken = optimise.optimise(view, steps.append)
    assert taken == len(steps) == 30 and [step.rate for step in steps] == [1e-2] * 5 + [5e-3] * 25
    assert all(torch.equal(step.move.quat, torch.tensor([1.0, 0, 0, 0])) for step in steps[:5])
    assert not torch.equal(steps[6].move.quat, torch.tensor([1.0, 0, 0, 0])) and steps[-1].loss < steps[0].loss
    assert steps[0].move.translation.abs().max() == pytest.approx(0.01, rel=1e-4)
