"""Arrays of pixels to bool masks: which ranges of values are known, where the threshold lies, how sizes are changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import EmptyMaskError, MaskError, MaskSizeError

_RANGES = "Known are bool, 0/1, 0..255 (selected from 128 on) and float 0..1 (selected above 0.5)."


def selected(values: np.ndarray, what: str = "A mask") -> np.ndarray:
    """An array of numbers in one of the known ranges -> bool, same shape.

    bool: as it is. Whole numbers (also as floats): 0/1 selects 1; else 0..255 selects 128 and more. Floats in 0..1 select what is
    above 0.5. All else is refused with a MaskError: NaN, negative values (logits), label maps (several small whole numbers).
    """
    if values.size == 0:
        raise EmptyMaskError(f"{what} has no pixels: its shape is {values.shape}.", "Give at least one mask of the picture's size.")
    kind = values.dtype.kind
    if kind == "b":
        return values
    if kind not in "uif":
        raise MaskError(f"{what} holds {_holds(values)}, no pixel values.", _RANGES)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN spreads to both
        raise MaskError(f"{what} holds NaN or infinite values.", "Replace them, e.g. numpy.nan_to_num.")
    if low < 0:
        raise MaskError(f"{what} holds negative values (down to {low:g}).", "For logits give `logits > 0`. " + _RANGES)
    if high <= 1:
        return values > 0.5 if kind == "f" else values > 0
    if high > 255 or (kind == "f" and (values != np.rint(values)).any()):
        raise MaskError(f"{what} holds values up to {high:g}, in no known range.", _RANGES)
    if high < 128:
        raise MaskError(
            f"{what} holds whole numbers from {low:g} to {high:g} (dark grey, or a map of labels?).",
            "For labels give one mask for each: [labels == i for i in ...]. " + _RANGES,
        )
    return values >= 128


def _holds(values: np.ndarray) -> str:
    return {"c": "complex numbers", "O": "Python objects"}.get(values.dtype.kind, f"{values.dtype} values")


def array_kinds(shape: tuple[int, ...], size: tuple[int, int], resize: bool) -> list[str]:
    """Which kinds - bitmap, alpha - an array of this shape is for a picture of `size`; none if it fits neither way.

    (H, W), (H, W, 1) and (N, H, W) are bitmaps, (H, W, 2) and (H, W, 4) carry alpha. Where both readings of three axes are possible,
    both are named: the caller must ask. With `resize` any H and W are.
    """
    if len(shape) == 2:
        return ["bitmap"]
    if len(shape) != 3:
        return []
    layered, stacked, last = shape[:2] == size, shape[1:] == size, shape[2]
    if last not in (2, 4):
        return ["bitmap"]
    if layered or stacked:
        return ["alpha"] * layered + ["bitmap"] * stacked
    return ["alpha", "bitmap"] if resize else []


def bitmaps(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An array (H, W), (H, W, 1) or (N, H, W) -> bool (N, h, w), not yet resized. A last axis of 1 is a channel, unless the picture is 1 wide."""
    if array.ndim == 2:
        return selected(array)[None]
    if array.ndim != 3:
        raise MaskError(f"A mask array of {array.ndim} axes is no mask.", "Give (H, W), (N, H, W), or (H, W, 4) with alpha.")
    if array.shape[2] == 1 and array.shape[1:] != size:
        return selected(array[..., 0])[None]
    if array.shape[:2] == size and array.shape[2] == 3 and array.shape[1:] != size:
        raise MaskSizeError(
            f"An array of shape {array.shape} is a colour picture, not a mask.", "Give one channel of it, or (H, W, 4) with alpha."
        )
    return selected(array, "A stack of masks")


def to_size(masks: np.ndarray, size: tuple[int, int], resize: bool) -> np.ndarray:
    """Bool (N, h, w) -> bool (N, H, W): as it is, or by nearest neighbour if `resize`. Raises MaskSizeError."""
    height, width = size
    if masks.shape[1:] == (height, width):
        return masks
    if not resize:
        raise MaskSizeError(
            f"The mask is {masks.shape[2]}x{masks.shape[1]} pixels, the picture is {width}x{height}.",
            "Resize the mask (nearest neighbour), or allow it with resize=True.",
        )
    # The source pixel under each target pixel's centre.
    rows = ((2 * np.arange(height) + 1) * masks.shape[1]) // (2 * height)
    columns = ((2 * np.arange(width) + 1) * masks.shape[2]) // (2 * width)
    return masks[:, rows[:, None], columns[None, :]]


def as_array(value: Any) -> np.ndarray | None:
    """Whatever says that it is an array (numpy, torch, ...) as numpy; None if it doesn't say so. Raises MaskError if it fails."""
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # also strips subclasses
    if isinstance(value, (type, str, bytes, list, tuple, dict)):
        return None
    try:
        if callable(getattr(value, "detach", None)):  # torch, wherever it lives and whether or not it wants gradients
            return np.asarray(value.detach().cpu().numpy())
        if callable(getattr(value, "__array__", None)) or hasattr(value, "__array_interface__"):
            return np.asarray(value)
        if callable(getattr(value, "numpy", None)):
            return np.asarray(value.numpy())
    except Exception as problem:  # foreign code
        raise MaskError(
            f"A {type(value).__name__} can't be turned into a numpy array.",
            "Convert it first, e.g. tensor.float().cpu().numpy().",
            detail=repr(problem),
        ) from None
    return None
