"""Uploaded pictures and masks: looked at before they are decoded, decoded once, kept as PNGs of our own making.

What is kept holds pixels and nothing else: no EXIF, no place, no text chunks, no profile (it has been applied). Its id is the sha256 of the pixels, so
the same picture in another file format is the same picture.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...contract.errors import ImageError, MaskSizeError
from ...contract.images import Picture, grey_of, opened, read_image
from ...contract.masks import parse_masks
from .limits import Limits
from .vault import Vault

PER_PIXEL = 10  # bytes while a PNG or JPEG is read, or a PNG is written: Pillow's pixels, ours, and the file
WEBP_PER_PIXEL = 17
RECENT = 64_000_000  # bytes of decoded pictures that stay in memory
WIDTHS = (128, 256, 512, 1024)  # of thumbnails
_HINT = "Send a PNG, a JPEG or a WebP."


@dataclass(frozen=True)
class Kept:
    """A picture in the vault. fresh: it wasn't there before. bounds: of a mask, x0, y0, x1, y1 in pixels, the ends exclusive; area: its pixels."""

    id: str
    width: int
    height: int
    fresh: bool
    has_alpha: bool = False
    bounds: tuple[int, int, int, int] = (0, 0, 0, 0)
    area: int = 0


def sniff(head: bytes) -> None:
    """Only three decoders ever see what a stranger sends; a name and a declared content type count for nothing. Raises ImageError."""
    if not (head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")):
        raise ImageError("These bytes are no PNG, JPEG or WebP.", _HINT)


def most(head: bytes, limits: Limits) -> int:
    """Bytes that a file with this beginning takes at most while it is decoded and kept."""
    return limits.max_pixels * (WEBP_PER_PIXEL if head[:4] == b"RIFF" else PER_PIXEL)


def check_file(data: bytes, limits: Limits) -> None:
    """By its first bytes and its header, before anything is decoded. Raises ImageError."""
    sniff(data[:16])
    with opened(data, max_pixels=limits.max_pixels):
        pass


def decode(data: bytes, limits: Limits) -> tuple[np.ndarray, np.ndarray | None]:
    """A file's bytes -> uint8 (H, W, 3) and alpha uint8 (H, W) or None. Raises ImageError."""
    sniff(data[:16])
    found = read_image(data, max_pixels=limits.max_pixels)
    height, width = found.image.shape[:2]
    if max(height, width) > limits.max_side:
        raise ImageError(f"The picture is {width}x{height} pixels.", f"It may have {limits.max_side} a side.")
    return found.image, found.alpha


def keep_image(vault: Vault, image: np.ndarray, alpha: np.ndarray | None) -> Kept:
    height, width = image.shape[:2]
    id = _digest("image", image, alpha)
    meta = {"width": width, "height": height, "has_alpha": alpha is not None}
    fresh = not vault.has("image", id) and vault.put("image", id, _png(image, alpha), meta)
    return Kept(id, width, height, fresh, alpha is not None)


def mask_of(data: bytes, size: tuple[int, int], limits: Limits) -> np.ndarray:
    """A mask's file -> uint8 (H, W), soft where the file was; 128 and more is selected. An alpha that is opaque everywhere says nothing: then it is
    the brightness. Raises ImageError or a MaskError."""
    image, alpha = decode(data, limits)
    if image.shape[:2] != size:
        raise MaskSizeError(
            f"The mask is {image.shape[1]}x{image.shape[0]} pixels, the picture is {size[1]}x{size[0]}.",
            "Make the mask on this very picture; EXIF turns are applied to both.",
        )
    return soften(alpha if alpha is not None else _grey(image))


def soften(values: np.ndarray, *, allow_full: bool = True) -> np.ndarray:
    """Brightness uint8 (H, W) -> the same where 128 cuts it as the mask parser does, else black and white. Raises a MaskError for an empty one."""
    hard = parse_masks(values, values.shape, kind="bitmap", allow_full=allow_full)[0]
    return values if np.array_equal(values >= 128, hard) else hard.astype(np.uint8) * 255


def keep_mask(vault: Vault, mask: np.ndarray, image: str) -> Kept:
    """mask: uint8 (H, W). image: the id of the picture that it was made for."""
    id = _digest("mask", mask, None)
    rows, columns = np.flatnonzero((mask >= 128).any(axis=1)), np.flatnonzero((mask >= 128).any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else (0, 0, 0, 0)
    area = int((mask >= 128).sum())
    meta = {"width": mask.shape[1], "height": mask.shape[0], "image": image, "bounds": box, "area": area}
    fresh = not vault.has("mask", id) and vault.put("mask", id, _png(mask), meta)
    return Kept(id, mask.shape[1], mask.shape[0], fresh, bounds=box, area=area)


class _Recent:
    """The pictures decoded last, up to `limit` bytes: several seeds, masks and clicks follow one another on the same one. From any thread."""

    def __init__(self, limit: int) -> None:
        self.limit, self._size = limit, 0
        self._kept: OrderedDict[Path, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path) -> Picture:
        with self._lock:
            if path in self._kept and path.is_file():
                self._kept.move_to_end(path)
                return self._kept[path]
        found = read_image(path)
        if _bytes(found) <= self.limit // 2:
            for array in (found.image, found.alpha):
                if array is not None:
                    array.setflags(write=False)
            with self._lock:
                self._drop(path)
                self._kept[path] = found
                self._size += _bytes(found)
                while self._size > self.limit:
                    self._drop(next(iter(self._kept)))
        return found

    def _drop(self, path: Path) -> None:
        if (found := self._kept.pop(path, None)) is not None:
            self._size -= _bytes(found)


def _bytes(picture: Picture) -> int:
    return picture.image.nbytes + (0 if picture.alpha is None else picture.alpha.nbytes)


_recent = _Recent(RECENT)


def load_image(vault: Vault, id: str) -> tuple[np.ndarray, np.ndarray | None]:
    """From the vault: uint8 (H, W, 3), and alpha uint8 (H, W) or None; not to be written to."""
    found = _recent.read(vault.path("image", id))
    return found.image, found.alpha


def load_mask(vault: Vault, id: str) -> np.ndarray:
    """From the vault, where masks are grey PNGs of our own: uint8 (H, W). Raises ImageError."""
    try:
        data = vault.path("mask", id).read_bytes()
    except OSError:
        raise ImageError("The mask's file is gone.", "Send the mask again.") from None
    with opened(data) as found:
        return grey_of(found)


def thumbnail(vault: Vault, id: str, width: int) -> Path:
    """A WebP of this width, or of the picture's own if that is less; made once."""
    from PIL import Image

    name = f"{id}-{width}"
    if not vault.has("thumb", name):
        image, alpha = load_image(vault, id)
        small = Image.fromarray(image if alpha is None else np.dstack([image, alpha]))
        small.thumbnail((width, width * 4), Image.Resampling.BOX)
        out = io.BytesIO()
        small.save(out, format="WEBP", quality=82)
        vault.put("thumb", name, out.getvalue(), {})
    return vault.path("thumb", name)


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (H, W)."""
    if np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2]):
        return np.ascontiguousarray(image[..., 0])
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))


def _digest(kind: str, pixels: np.ndarray, alpha: np.ndarray | None) -> str:
    digest = hashlib.sha256(f"{kind} {pixels.shape} {alpha is not None}".encode())
    for part in (pixels, alpha):
        if part is not None:
            digest.update(np.ascontiguousarray(part).reshape(-1).data)
    return digest.hexdigest()


def _png(pixels: np.ndarray, alpha: np.ndarray | None = None) -> bytes:
    from PIL import Image

    picture = Image.fromarray(pixels if alpha is None else np.dstack([pixels, alpha]))  # four channels are taken as they lie there
    out = io.BytesIO()
    picture.save(out, format="PNG", compress_level=1)
    return out.getvalue()
