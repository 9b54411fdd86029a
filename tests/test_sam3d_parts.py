"""Stage 1's parts without a network: crops, the normaliser, voxels, poses; at their edges, against other ways to compute them."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import EmptyMaskError, EngineError, MaskError  # noqa: E402
from comfyui_sam3d.worker.sam3d import occupancy, pose, preprocess  # noqa: E402

from golden.replay import near  # noqa: E402


def picture(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (H, W, 3) and a float32 point map (3, H, W)."""
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=source), torch.randn(3, height, width, generator=source)


def test_a_byte_becomes_the_same_float_as_in_the_original() -> None:
    """The original divides in float64 and rounds once more; all 256 values agree."""
    image = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(-1, -1, 3)
    made = preprocess.preprocess(preprocess.with_alpha(image, torch.ones(16, 16, dtype=torch.bool)), None, size=16)
    wanted = (torch.arange(256, dtype=torch.float64) / 255).float().view(16, 16)
    near(made.rgb_image[0, 1], wanted, atol=1e-7, rtol=0)


def test_a_soft_edge_counts_for_the_crop_and_stays_soft() -> None:
    image, pointmap = picture(40, 60)
    alpha = torch.zeros(40, 60, dtype=torch.uint8)
    alpha[10:20, 20:30] = 255
    hard = preprocess.crop_box(alpha)
    alpha[5, 12] = 1  # hardly visible
    soft = preprocess.crop_box(alpha)
    assert soft != hard and soft[0] < 12
    alpha[25:35, 35:50] = 100  # below one half: in the crop, but not among the points that place the object
    made = preprocess.preprocess_objects(image, alpha[None], pointmap, size=60)[0]
    assert torch.equal(made.shift[0], pointmap[:, 10:20, 20:30].flatten(1).median(1).values)
    assert float((made.mask * 255).round().unique().sum()) == 0 + 1 + 100 + 255


@pytest.mark.parametrize("value, counts", [(127, False), (128, True)])
def test_half_a_mask_is_where_points_begin_to_count(value: int, counts: bool) -> None:
    image, pointmap = picture(20, 20)
    alpha = torch.full((1, 20, 20), value, dtype=torch.uint8)
    if counts:
        preprocess.preprocess_objects(image, alpha, pointmap, size=16)
    else:
        with pytest.raises(EmptyMaskError):
            preprocess.preprocess_objects(image, alpha, pointmap, size=16)
    with pytest.raises(EmptyMaskError):
        preprocess.moments(pointmap, torch.full((1, 20, 20), 0.5))


@pytest.mark.parametrize("rows, columns, fits", [(3, 3, True), (2, 9, False), (9, 2, False), (1, 1, False)])
def test_the_smallest_object(rows: int, columns: int, fits: bool) -> None:
    mask = torch.zeros(20, 20, dtype=torch.uint8)
    mask[4 : 4 + rows, 5 : 5 + columns] = 255
    if fits:
        assert preprocess.crop_box(mask) == (5, 4, 7, 6)
    else:
        with pytest.raises(MaskError, match=f"{columns}x{rows} pixels"):
            preprocess.crop_box(mask)


def test_a_large_picture_is_not_copied_for_each_object() -> None:
    """Sixteen megapixels, four small objects: what is made for an object is of the size of its crop."""
    side, seen = 4096, []
    image, alphas = torch.zeros(side, side, 3, dtype=torch.uint8), torch.zeros(4, side, side, dtype=torch.bool)
    alphas[:, 2000:2040, 1000:1100] = True
    unit = preprocess._unit
    preprocess._unit = lambda pixels: (seen.append(pixels.numel()), unit(pixels))[1]
    try:
        made = preprocess.preprocess_objects(image, alphas, None, size=32)
    finally:
        preprocess._unit = unit
    assert len(made) == 4 and sum(n > 1_000_000 for n in seen) == 1  # the whole picture, once


def test_the_normaliser_centres_the_object_and_can_be_undone() -> None:
    _, pointmap = picture(30, 40)
    pointmap[:, 3, 4] = torch.nan
    pointmap[1, 8, 9] = torch.inf
    before, mask = pointmap.clone(), torch.zeros(1, 30, 40)
    mask[:, 5:20, 5:20] = 1
    points, scale, shift = preprocess.normalise(pointmap, mask)
    assert torch.equal(pointmap.isnan(), before.isnan()) and torch.equal(pointmap.nan_to_num(), before.nan_to_num())  # untouched
    assert points[:, 3, 4].isnan().all() and points[:, 8, 9].isnan().all() and int(points.isnan().sum()) == 6
    keep = ~points.isnan()
    near((points * scale[:, None, None] + shift[:, None, None])[keep], pointmap[keep], atol=1e-5, rtol=1e-5)
    assert points[:, 5:20, 5:20].flatten(1).nanmedian(1).values.abs().max() < 0.1


# -- voxels


def cube(*ranges: range) -> torch.Tensor:
    return torch.tensor([(0, i, j, k) for i in ranges[0] for j in ranges[1] for k in ranges[2]], dtype=torch.int32)


def brute_prune(coords: torch.Tensor) -> list[tuple[int, ...]]:
    have = {tuple(row) for row in coords[:, 1:].tolist()}
    around = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    return [
        row for row in map(tuple, coords[:, 1:].tolist()) if not all((row[0] + a, row[1] + b, row[2] + c) in have for a, b, c in around)
    ]


@pytest.mark.parametrize("fill", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 5), (3, 3, 3), (4, 1, 1), (6, 5, 7)])
def test_pruning_equals_counting_neighbours(size: tuple[int, int, int], fill: float) -> None:
    grid = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(sum(size))) < fill
    grid[0, 0, 0, 0, 0] = True
    coords = occupancy.occupied(grid.float())
    coords[:, 1:] += 20  # somewhere in the grid
    assert [tuple(row) for row in occupancy.prune(coords)[:, 1:].tolist()] == brute_prune(coords)


def test_no_voxel_is_an_error_and_flat_sets_are_none() -> None:
    assert len(occupancy.occupied(torch.zeros(1, 1, 2, 2, 2))) == 0  # a logit of 0 is none
    with pytest.raises(EngineError, match="no occupied voxel"):
        occupancy.prune(torch.zeros(0, 4, dtype=torch.int32))
    flat = cube(range(7, 8), range(10), range(10))
    halved, factor = occupancy.halve(flat, limit=50)
    assert factor == 2 and (halved[:, 1] == 7).all() and len(halved) == 25
    line, _ = occupancy.halve(cube(range(1, 7), range(3, 4), range(3, 4)), limit=2)
    assert line[:, 1].tolist() == [2, 3, 4]  # 1..6 -> 2, 3, 3, 4, 4, 4: half to even
    dot, factor = occupancy.halve(cube(range(5, 6), range(5, 6), range(5, 6)), limit=0)
    assert factor == 2 and len(dot) == 1


def test_the_limit_itself_is_not_halved() -> None:
    coords = cube(range(8), range(8), range(2))
    assert occupancy.halve(coords, limit=128) == (coords, 1)
    assert occupancy.halve(coords, limit=127)[1] == 2
    assert occupancy.MAX_VOXELS == 42000


# -- poses


@pytest.mark.parametrize("scene", [[0.7, 0.7, 0.7], [0.4, 1.5, 0.9]], ids=["uniform", "uneven"])
def test_a_pose_takes_points_where_both_transforms_take_them(scene: list[float]) -> None:
    source = torch.Generator().manual_seed(4)
    latents = {"6drotation_normalized": torch.randn(6, 1, 6, generator=source), "translation": torch.randn(6, 1, 3, generator=source)}
    latents["scale"] = torch.randn(6, 1, 1, generator=source).expand(-1, -1, 3)
    scale, shift = torch.tensor([scene]), torch.tensor([[0.1, -0.4, 2.0]])
    got = pose.decode_pose(latents, scale, shift)
    six = latents["6drotation_normalized"][:, 0] * torch.tensor(pose.ROTATION_STD) + torch.tensor(pose.ROTATION_MEAN)
    affine = latents["scale"][:, 0].exp()[:, :, None] * pose.rot6d_to_matrix(six) * scale[:, None]
    near(got.translation, latents["translation"][:, 0] * scale + shift)
    near(got.scale, affine.norm(dim=-1).mean(-1, keepdim=True).expand(-1, 3))
    near(got.rotation, pose.matrix_to_quat(affine / affine.norm(dim=-1, keepdim=True)))
    if len(set(scene)) == 1:
        points = torch.randn(6, 9, 3, generator=source)
        moved = pose.transform_points(points, got.rotation, got.translation, got.scale)
        near(moved, points @ affine + got.translation[:, None], atol=1e-5, rtol=1e-5)


def test_quaternions_are_wxyz_column_rotations_with_w_never_negative() -> None:
    third = math.sqrt(0.5)
    quarter_about_z = torch.tensor([[third, 0.0, 0.0, third]])
    near(pose.quat_to_matrix(quarter_about_z)[0] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
    # half turns and nearly so: each of the four candidates is the best one for some of these
    quats = torch.cat([torch.eye(4), torch.randn(60, 4, generator=torch.Generator().manual_seed(0))])
    quats = quats / quats.norm(dim=1, keepdim=True)
    back = pose.matrix_to_quat(pose.quat_to_matrix(quats))
    assert (back[:, 0] >= 0).all()
    near((back * quats).sum(1).abs(), torch.ones(64), atol=1e-5, rtol=0)
