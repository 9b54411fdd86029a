"""What lies between the charts: the colour of the nearest texel that belongs to one, so that neither bilinear lookups nor mip levels
bring in a background."""

from __future__ import annotations

import torch

_FAR = -(1 << 14)  # the place of a known pixel where none is known yet
_AROUND = [(0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
_AT_ONCE = 1 << 20  # pixels: 0.3 GB


def fill(image: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Image (H, W, C), known bool (H, W), at least one -> every other pixel as the nearest known one (of equally near ones, any)."""
    row, column = nearest_known(known) if known.device.type != "cpu" else exact_nearest_known(known)
    return image[row, column]


def exact_nearest_known(known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of the nearest known pixel, int64 (H, W) each."""
    from scipy.ndimage import distance_transform_edt

    row, column = torch.from_numpy(distance_transform_edt(~known.numpy(), return_distances=False, return_indices=True)).long()
    return row, column


def nearest_known(known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same on any device by jump flooding (Rong and Tan 2006), with two more passes of step 1: where pixels are nearly equally near,
    it may choose the further one, by a fraction of a pixel."""
    height, width = known.shape
    y = torch.arange(height, dtype=torch.int32, device=known.device)[:, None]
    x = torch.arange(width, dtype=torch.int32, device=known.device)
    found = torch.stack([torch.where(known, y, _FAR), torch.where(known, x, _FAR)])  # row and column
    around = found.new_tensor(_AROUND)[:, :, None, None]
    step = 1 << (max(height, width) - 1).bit_length()
    steps = [1]
    while step > 1:
        step //= 2
        steps.append(step)
    for step in [*steps, 1]:
        columns = (x + step * around[:, 1]).clamp(0, width - 1)
        found = torch.cat([_nearer(found, some, columns, step * around[:, 0], x) for some in y.split(max(1, _AT_ONCE // width))], dim=1)
    row, column = found.long()
    return row, column


def _nearer(found: torch.Tensor, y: torch.Tensor, columns: torch.Tensor, down: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What is nearest of the pixels' own and eight others' knowledge, int32 (2, rows, W). All nine at once: the launches are what takes time."""
    rows = (y + down).clamp(0, found.shape[1] - 1)
    offered = found[:, rows, columns]
    distance = (offered[0] - y).square_() + (offered[1] - x).square_()
    rank = distance.long() * 16 + torch.arange(len(_AROUND), device=found.device)[:, None, None]  # of equally near ones the first
    which = rank.amin(0) & 15
    return offered.gather(1, which.expand(2, 1, *which.shape))[:, 0]
