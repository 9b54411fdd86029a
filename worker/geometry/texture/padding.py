"""What lies between the charts: the colour of the nearest texel that belongs to one, so that neither bilinear lookups nor mip levels
bring in a background."""

from __future__ import annotations

import torch


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
    far = 1 << 14
    y = torch.arange(height, device=known.device)[:, None].expand(height, width)
    x = torch.arange(width, device=known.device).expand(height, width)
    row, column = torch.where(known, y, -far), torch.where(known, x, -far)
    step = 1 << (max(height, width) - 1).bit_length()
    steps = [1]
    while step > 1:
        step //= 2
        steps.append(step)
    for step in [*steps, 1]:
        distance = (row - y).square() + (column - x).square()
        before_row, before_column = row, column
        for dy in (-step, 0, step):
            for dx in (-step, 0, step):
                there_y, there_x = (y + dy).clamp(0, height - 1), (x + dx).clamp(0, width - 1)
                other_row, other_column = before_row[there_y, there_x], before_column[there_y, there_x]
                other = (other_row - y).square() + (other_column - x).square()
                closer = other < distance
                row, column = torch.where(closer, other_row, row), torch.where(closer, other_column, column)
                distance = torch.minimum(distance, other)
    return row, column
