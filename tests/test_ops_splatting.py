"""The splatter: against closed forms, covariances worked out in float64, and the draft's renderer."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.scene import Camera, Pose  # noqa: E402
from comfyui_sam3d.worker.geometry import render  # noqa: E402
from comfyui_sam3d.worker.ops import splatting  # noqa: E402
from comfyui_sam3d.worker.ops.cameras import from_scene, orbit  # noqa: E402

from render_shapes import as_tensors, gaussians, looking_along_z, some_splats  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


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
