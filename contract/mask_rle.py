"""COCO's run-length codes: runs of 0, 1, 0, 1, ... pixels down the columns, as a list of counts or as its compressed string.

The string writes each count in groups of five bits, low group first, each group as one character from code 48 on; bit 5 says
that more follow, and the last group's bit 4 is the sign. From the fourth count on the difference to the count two before
stands there. (Format: cocodataset/cocoapi, common/maskApi.)
"""

from __future__ import annotations

import numpy as np

from .errors import MaskError

_HINT = "Take the `counts` as pycocotools wrote them."
_LONGEST_GROUP = 7  # characters in one count: 35 bits, more than any picture needs, and sums of them stay far below 63


def runs_to_mask(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Runs (K,) int64, zeros first, summing to height * width -> bool (H, W)."""
    values = np.arange(len(runs)) % 2 == 1
    mask: np.ndarray = np.repeat(values, runs).reshape(width, height).T
    return mask


def mask_to_runs(mask: np.ndarray) -> np.ndarray:
    """Bool (H, W) -> runs (K,) int64, zeros first (0 if the first pixel is set)."""
    flat = np.asarray(mask, bool).ravel(order="F")
    if flat.size == 0:
        return np.zeros(0, np.int64)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0, 0] if flat[0] else [0], edges, [flat.size]))
    return np.diff(starts).astype(np.int64)


def encode_rle(mask: np.ndarray, *, compressed: bool = True) -> dict[str, object]:
    """Bool (H, W) -> {"size": [H, W], "counts": str or list of int}, as pycocotools writes it (the string as `str`, so that it is JSON)."""
    runs = mask_to_runs(mask).tolist()
    size = [int(n) for n in np.asarray(mask).shape]
    return {"size": size, "counts": _compress(runs) if compressed else runs}


def _compress(runs: list[int]) -> str:
    text = bytearray()
    for index, run in enumerate(runs):
        left = run - runs[index - 2] if index > 2 else run
        while True:
            group, left = left & 31, left >> 5
            done = left == (-1 if group & 16 else 0)
            text.append(48 + (group if done else group | 32))
            if done:
                break
    return text.decode("ascii")


def decode_counts(counts: object, pixels: int) -> np.ndarray:
    """`counts` (str, bytes, or a list of whole numbers) -> runs (K,) int64 that sum to `pixels`. Raises MaskError."""
    if isinstance(counts, (str, bytes, bytearray)):
        runs = _expand(counts)
    elif isinstance(counts, (list, tuple, np.ndarray)):
        runs = _whole(counts)
    else:
        raise MaskError(f"An RLE's counts are {type(counts).__name__}, not a string or a list of whole numbers.", _HINT)
    # Checked one by one before the sum, which could wrap around.
    if runs.size and not (runs.min() >= 0 and runs.max() <= pixels):
        raise MaskError("An RLE has a negative count, or one larger than its size.", _HINT)
    total = int(runs.sum()) if runs.size * max(pixels, 1) < 2**62 else sum(runs.tolist())
    if total != pixels:
        raise MaskError(
            f"An RLE's counts add up to {total} pixels, its size to {pixels}.", "Its `size` is [height, width]; " + _HINT.lower()
        )
    return runs


def _whole(counts: list[object] | tuple[object, ...] | np.ndarray) -> np.ndarray:
    plain = counts.tolist() if isinstance(counts, np.ndarray) else counts
    if not isinstance(plain, (list, tuple)):  # a 0-d array
        raise MaskError("An RLE's counts are a single number.", _HINT)
    for count in plain:
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not -(2**62) < count < 2**62:
            raise MaskError("An RLE's list of counts holds something else than whole numbers.", _HINT)
    return np.array(plain, np.int64)


def _expand(text: str | bytes | bytearray) -> np.ndarray:
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    codes: np.ndarray = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63:
        raise MaskError("An RLE's counts hold a character that compressed counts never have.", _HINT)
    if codes[-1] & 32:
        raise MaskError("An RLE's compressed counts are cut off.", _HINT)
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths: np.ndarray = ends - starts + 1
    if lengths.max() > _LONGEST_GROUP:
        raise MaskError("An RLE's compressed counts hold a number beyond any picture.", _HINT)
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    values: np.ndarray = np.add.reduceat((codes & 31) << (5 * place), starts)
    values -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)  # the sign, in two's complement
    values[1::2] = np.cumsum(values[1::2])  # differences to the count two before ...
    values[2::2] = np.cumsum(values[2::2])  # ... where the first three counts have none
    return values
