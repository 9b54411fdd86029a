"""Picture, mask and point map -> the conditioning inputs of both stages (spec: stage1.md section 2).

Point maps here are (3, H, W) float32 in PyTorch3D camera axes (x left, y up, z forward), NaN where there is no point. Two views of each input
are made: a crop around the mask, and the whole picture letterboxed; both `size` x `size` (518 in the released model). A pixel of a mask counts for
the crop as soon as it isn't 0, for the normaliser above 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...contract.errors import EmptyMaskError, MaskError

SIZE = 518
BOX_FACTOR = 1.2  # side of the crop over the longer side of the mask


@dataclass(frozen=True)
class Conditions:
    """What the embedders read. Pictures in 0..1, masks too (soft edges stay), each with a batch axis of 1.

    image, rgb_image: (1, 3, S, S), crop and whole; mask, rgb_image_mask: (1, 1, S, S). pointmap, rgb_pointmap: (1, 3, S, S), normalised,
    NaN where invalid (None for stage 2, which doesn't read them). scale, shift: (1, 3) of the normaliser: metric = normalised * scale + shift.
    """

    image: Tensor
    rgb_image: Tensor
    mask: Tensor
    rgb_image_mask: Tensor
    pointmap: Tensor | None = None
    rgb_pointmap: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None

    def inputs(self) -> dict[str, Tensor]:
        """The tensors by the names that the fuser knows."""
        names = ("image", "rgb_image", "mask", "rgb_image_mask", "pointmap", "rgb_pointmap")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def preprocess(rgba: Tensor, pointmap: Tensor | None, *, size: int = SIZE, box_factor: float = BOX_FACTOR) -> Conditions:
    """One object: rgba uint8 (H, W, 4), the mask as alpha; the rest as for `preprocess_objects`."""
    return preprocess_objects(rgba[..., :3], rgba[..., 3][None], pointmap, size=size, box_factor=box_factor)[0]


def preprocess_objects(
    image: Tensor, alphas: Tensor, pointmap: Tensor | None, *, size: int = SIZE, box_factor: float = BOX_FACTOR
) -> list[Conditions]:
    """All objects of a picture; what depends on the picture alone is made once and shared.

    image: uint8 (H, W, 3). alphas: bool or uint8 (N, H, W), each object's mask, soft edges allowed. pointmap: float32 (3, h, w), of any size, or None
    (stage 2). Runs where its tensors are, on the CPU as a rule; nothing here is float64. Raises EmptyMaskError and MaskError (a mask less than 3
    pixels wide or high has no box).
    """
    picture = image.movedim(-1, 0)
    rgb_image = whole_picture(image, size)
    made = []
    for alpha in _alpha(alphas)[:, None]:
        # Crops are taken from the bytes: a large picture never becomes float32 for each of its objects.
        box = crop_box(alpha[0], box_factor)
        views = {
            "image": _smooth(_unit(crop(picture, box)), size)[None],
            "rgb_image": rgb_image,
            "mask": _unit(_nearest(crop(alpha, box), size))[None],
            "rgb_image_mask": _unit(_nearest(_letterbox(alpha), size))[None],
        }
        if pointmap is None:
            made.append(Conditions(**views))
            continue
        points, scale, shift = normalise(pointmap, _unit(alpha))
        matched = _match_size(points, picture.shape[1:])
        views["pointmap"] = _nearest(crop(matched, box, outside=0.0, square=torch.nan), size)[None]
        views["rgb_pointmap"] = _nearest(_letterbox(points), size)[None]
        made.append(Conditions(**views, scale=scale[None], shift=shift[None]))
    return made


def whole_picture(image: Tensor, size: int = SIZE) -> Tensor:
    """uint8 (H, W, 3) -> (1, 3, S, S): `rgb_image`, which is the same for all objects and both stages."""
    return _smooth(_unit(_letterbox(image.movedim(-1, 0))), size)[None]


def _unit(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in 0..1. (Dividing in float64, as the original does, gives the same 256 values.)"""
    return pixels.float() / 255


def with_alpha(image: Tensor, mask: Tensor) -> Tensor:
    """uint8 (H, W, 3 or 4) and bool or uint8 (H, W) -> RGBA uint8: the mask becomes alpha 255, an alpha of the picture is dropped."""
    return torch.cat([image[..., :3], _alpha(mask)[..., None]], dim=-1)


def _alpha(mask: Tensor) -> Tensor:
    return mask.to(torch.uint8) * 255 if mask.dtype == torch.bool else mask


def match_pointmap(pointmap: Tensor, size: tuple[int, int]) -> Tensor:
    """A point map from outside, (h, w, 3), nearest-resized to the picture's (H, W) -> (3, H, W)."""
    return F.interpolate(pointmap.permute(2, 0, 1)[None], size=size, mode="nearest")[0]


def opencv_to_pytorch3d(points: Tensor) -> Tensor:
    """(..., 3): x right, y down, z forward -> x left, y up, z forward. One coordinate that isn't finite makes the whole point NaN."""
    turned = points * points.new_tensor([-1.0, -1.0, 1.0])
    return torch.where(points.isfinite().all(-1, keepdim=True), turned, torch.nan)


# -- the object-centric normaliser (2.3)


def moments(pointmap: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(3, H, W) and (1, h, w) -> scale (3,), shift (3,): the masked points' median, and the median distance of all points from it.

    An infinite coordinate counts as a value, a NaN doesn't. A mask without a single valid coordinate gives 1 and 0. Raises EmptyMaskError.
    """
    selected = F.interpolate(mask[None].float(), size=pointmap.shape[1:], mode="nearest")[0, 0] > 0.5
    chosen = pointmap[:, selected]
    if chosen.shape[1] == 0:
        raise EmptyMaskError("The mask selects no point of the point map.")
    if not chosen.isfinite().any():
        return torch.ones_like(pointmap[:, 0, 0]), torch.zeros_like(pointmap[:, 0, 0])
    shift = chosen.nanmedian(dim=1).values  # the lower of two middle values, as torch does
    distance = (pointmap - shift[:, None, None]).abs().amax(dim=0)  # amax keeps NaN
    return distance.nanmedian().expand(3), shift


def normalise(pointmap: Tensor, mask: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(3, H, W) -> the same, centred on the object and scaled; with the scale (3,) and shift (3,) used. Given ones override."""
    own_scale, own_shift = moments(pointmap, mask)
    scale = own_scale if scale is None else scale
    shift = own_shift if shift is None else shift
    inverse = (1 / scale)[:, None, None]
    points = (pointmap * inverse).sub_(shift[:, None, None] * inverse)  # in place: maps may be large
    return points.masked_fill_(~pointmap.isfinite().all(0), torch.nan), scale, shift


# -- crops and resizing (2.4, 2.5)


def crop_box(mask: Tensor, factor: float = BOX_FACTOR) -> tuple[int, int, int, int]:
    """Mask (H, W) -> (x0, y0, x1, y1), a box around its non-zero pixels that may leave the picture. Rounds towards zero, on purpose."""
    ys, xs = mask.any(1).nonzero(), mask.any(0).nonzero()
    if len(xs) == 0:
        raise EmptyMaskError("The mask is empty.")
    x0, x1, y0, y1 = (int(v) for v in (xs.min(), xs.max(), ys.min(), ys.max()))
    width, height = x1 - x0, y1 - y0
    if width < 2 or height < 2:
        raise MaskError(
            f"The mask is {width + 1}x{height + 1} pixels; the smallest object is 3x3.", "Select more of it, or use a larger picture."
        )
    half = int(max(width, height, 2) * factor) // 2
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    return int(cx - half), int(cy - half), int(cx + half), int(cy + half)


def crop(picture: Tensor, box: tuple[int, int, int, int], *, outside: float = 0.0, square: float = 0.0) -> Tensor:
    """(C, H, W) -> (C, S, S). `outside` fills what lies beyond the picture, `square` what makes an uneven box square."""
    x0, y0, x1, y1 = box
    height, width = picture.shape[1:]
    inside = picture[:, max(y0, 0) : max(min(y1, height), 0), max(x0, 0) : max(min(x1, width), 0)]
    edges = (max(-x0, 0), max(x1 - width, 0), max(-y0, 0), max(y1 - height, 0))
    return _letterbox(F.pad(inside, edges, value=outside), square)


def _letterbox(picture: Tensor, value: float = 0.0) -> Tensor:
    """Pad the shorter side, as evenly as whole pixels allow."""
    height, width = picture.shape[1:]
    missing = abs(height - width)
    before, after = missing // 2, missing - missing // 2
    return F.pad(picture, (0, 0, before, after) if height < width else (before, after, 0, 0), value=value)


def _smooth(picture: Tensor, size: int) -> Tensor:
    return F.interpolate(picture[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def _nearest(picture: Tensor, size: int) -> Tensor:
    return F.interpolate(picture[None], size=(size, size), mode="nearest")[0]


def _match_size(points: Tensor, size: torch.Size) -> Tensor:
    """A point map of another size than the picture, resized with its holes; the released flow never needs it."""
    if points.shape[1:] == size:
        return points
    holes = F.interpolate(points.isnan().any(0)[None, None].float(), size=tuple(size), mode="nearest")[0] > 0.5
    filled = F.interpolate(points.nan_to_num(nan=0.0)[None], size=tuple(size), mode="bilinear", antialias=True, align_corners=False)[0]
    return filled.masked_fill(holes, torch.nan)
