"""MoGe's camera - focal length and shift from a point map, intrinsics - and the point map that the worker makes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import OptionError  # noqa: E402
from comfyui_sam3d.contract.pointmaps import PointMap  # noqa: E402
from comfyui_sam3d.contract.request import ReconstructRequest, Sam3dOptions  # noqa: E402
from comfyui_sam3d.vendor.moge import focal, layers  # noqa: E402
from comfyui_sam3d.vendor.moge import infer as infer_module  # noqa: E402
from comfyui_sam3d.vendor.moge.infer import infer, unproject  # noqa: E402
from comfyui_sam3d.worker.pointmap import estimate_intrinsics, from_picture, from_request  # noqa: E402
from comfyui_sam3d.worker.sam3d import preprocess  # noqa: E402

from golden.replay import near  # noqa: E402
from moge_models import V1, V2, picture, tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

# -- focal length and shift


def scene(height: int, width: int, true_focal: float, shift: float, seed: int = 0) -> np.ndarray:
    """What a camera with this focal length sees, its depth measured from `shift` too far."""
    random = np.random.default_rng(seed)
    depth = 2 + random.random((height, width))
    return np.concatenate([focal.places(height, width) / true_focal * depth[..., None], (depth - shift)[..., None]], axis=-1).astype(
        np.float32
    )


@pytest.mark.parametrize("size", [(96, 96), (48, 120), (200, 61), (20, 30)])
@pytest.mark.parametrize(("true_focal", "shift"), [(0.6, 0.0), (1.3, 0.9), (3.0, -2.0)])
def test_a_known_camera_is_found(size, true_focal: float, shift: float) -> None:
    found = focal.recover(scene(*size, true_focal, shift))
    assert found == pytest.approx((true_focal, shift), rel=2e-3, abs=2e-3)
    given = focal.recover(scene(*size, true_focal, shift), focal=true_focal)
    assert given == pytest.approx((true_focal, shift), rel=2e-3, abs=2e-3) and given[0] == true_focal


def test_mirrored_axes_give_a_negative_focal_length() -> None:
    right = scene(64, 64, 1.3, 0.9)
    assert focal.recover(right * np.float32([-1, -1, 1])) == pytest.approx((-1.3, 0.9), rel=2e-3)


def test_points_outside_the_mask_or_not_finite_do_not_count() -> None:
    points, mask = scene(64, 80, 1.1, 0.3), np.ones((64, 80), bool)
    points[:32], mask[:32] = 7.0, False
    assert focal.recover(points, mask) == pytest.approx((1.1, 0.3), rel=2e-3)
    assert focal.recover(points) != pytest.approx((1.1, 0.3), rel=2e-2)
    points[:32], points[0] = np.inf, np.nan
    points[40, :, 2] = 0  # would divide by zero
    assert focal.recover(points) == pytest.approx((1.1, 0.3), rel=2e-3)


def test_too_few_points_tell_nothing() -> None:
    points, mask = scene(64, 64, 1.1, 0.3), np.zeros((64, 64), bool)
    assert focal.recover(points, mask) == (1.0, 0.0) and focal.recover(points, mask, 2.5) == (2.5, 0.0)
    mask[5, 6] = True
    assert focal.recover(points, mask) == (1.0, 0.0)
    points[..., :2] = 0
    assert focal.recover(points) == (1.0, 0.0)


def test_places_and_intrinsics() -> None:
    wide = focal.places(2, 4)
    assert wide.shape == (2, 4, 2)
    np.testing.assert_allclose(wide[0, 0], np.array([-1.5, -0.5]) / np.hypot(2, 1), rtol=1e-6)
    assert (wide[1] - wide[0])[0, 1] > 0 and (wide[:, 1] - wide[:, 0])[0, 0] > 0
    np.testing.assert_allclose(layers.uv_map(2, 4, 2.0, torch.zeros(1, 1))[0].permute(1, 2, 0).numpy(), wide, rtol=1e-6)
    for height, width in ((30, 40), (40, 30), (64, 64)):
        matrix = focal.intrinsics(1.3, width / height)
        # A place (u, v) on the ray (u, v, focal) is seen there: the picture's corners are at 0 and 1.
        corner = matrix @ np.array([width, height, 1.3 * np.hypot(width, height)]) / (1.3 * np.hypot(width, height))
        np.testing.assert_allclose(corner, [1, 1, 1], rtol=1e-6)
        assert matrix[0, 0] * width == pytest.approx(matrix[1, 1] * height)


def test_unproject() -> None:
    depth = torch.full((1, 2, 4), 3.0)
    matrix = torch.tensor([[[0.8, 0, 0.5], [0, 1.6, 0.4], [0, 0, 1]]])
    points = unproject(depth, matrix)
    seen = points @ matrix[0].T / 3
    near(seen[0, :, :, 0], (torch.arange(4) / 4 + 0.125).expand(2, 4))
    near(seen[0, :, :, 1], (torch.arange(2) / 2 + 0.25)[:, None].expand(2, 4))


# -- the worker's point map


def test_the_map_of_a_picture() -> None:
    model = tiny(V1)
    model.mask_threshold = float(model(picture()[None], 16).mask.median())
    image = (picture() * 255).byte().permute(1, 2, 0).numpy()
    made = from_picture(model, image, num_tokens=16)
    found = infer(model, torch.from_numpy(image).permute(2, 0, 1) / 255, num_tokens=16)
    assert made.points.shape == (40, 56, 3) and made.points.dtype == np.float32 and not made.metric and made.source == "MoGe"
    assert 0 < np.isnan(made.points).all(-1).sum() < 40 * 56
    near(torch.from_numpy(made.points).nan_to_num(7), preprocess.opencv_to_pytorch3d(found.points).nan_to_num(7))
    near(torch.from_numpy(made.intrinsics), found.intrinsics)
    again = from_picture(tiny(V2), image, num_tokens=16)
    assert again.metric and again.source == "MoGe 2"


def test_one_coordinate_that_is_not_finite_makes_no_point(monkeypatch) -> None:
    points = torch.ones(2, 3, 3)
    points[0, 1, 0], points[1, 2, 2] = torch.nan, torch.inf
    whole = infer_module.Geometry(points, points[..., 2], torch.ones(2, 3, dtype=torch.bool), torch.eye(3))
    monkeypatch.setattr(infer_module, "infer", lambda model, image: whole)
    made = from_picture(tiny(V1), np.zeros((2, 3, 3), np.uint8))
    assert np.isnan(made.points).sum(-1).tolist() == [[0, 3, 0], [0, 0, 3]]


def request(size=(48, 64), **options) -> ReconstructRequest:
    masks = np.zeros((1, *size), bool)
    masks[0, 10:20, 10:20] = True
    return ReconstructRequest(image=np.zeros((*size, 3), np.uint8), masks=masks, engine="sam3d", sam3d=Sam3dOptions(**options))


def test_the_map_of_a_request() -> None:
    assert from_request(request()) is None
    points = scene(48, 64, 1.3, 0.0)
    made = from_request(request(pointmap=points, pointmap_frame="opencv"))
    assert isinstance(made, PointMap)
    np.testing.assert_allclose(made.intrinsics, focal.intrinsics(1.3, 64 / 48), rtol=2e-3)
    np.testing.assert_array_equal(made.points, points * np.float32([-1, -1, 1]))
    matrix = np.array([[2, 0, 0.5], [0, 3, 0.5], [0, 0, 1]], np.float32)
    np.testing.assert_array_equal(from_request(request(pointmap=points, intrinsics=matrix)).intrinsics, matrix)
    larger = from_request(request((96, 128), pointmap=points))
    assert larger.points.shape == (96, 128, 3)
    with pytest.raises(OptionError, match="Taken as opengl"):
        from_request(request(pointmap=points, pointmap_frame="opengl"))


def test_estimated_intrinsics_are_of_the_true_focal_not_the_shift() -> None:
    """The original swaps the two and forgets the axes; the result must be the same as the camera's that saw the scene."""
    points = scene(30, 40, 1.3, 0.4) * np.float32([-1, -1, 1])
    points[:5] = np.nan
    np.testing.assert_allclose(estimate_intrinsics(points), [[1.3 * 0.625, 0, 0.5], [0, 1.3 * 0.625 * 4 / 3, 0.5], [0, 0, 1]], rtol=2e-3)
    assert estimate_intrinsics(points * np.nan) is None
    assert estimate_intrinsics(points * np.float32([-1, -1, 1])) is None


@pytest.mark.parametrize("size", [(5, 7), (64, 48), (31, 100), (480, 640), (366, 245)])
def test_resizing_takes_the_pixels_that_torch_takes(size) -> None:
    for have in ((32, 24), (60, 60), (37, 50), (48, 20)):  # 48 to 366, 20 to 245: float64 would take others
        points = np.random.default_rng(0).random((*have, 3)).astype(np.float32)
        made = PointMap(points, None, "", True).resized(size)
        wanted = preprocess.match_pointmap(torch.from_numpy(points), size)
        assert torch.equal(torch.from_numpy(made.points).permute(2, 0, 1), wanted)
