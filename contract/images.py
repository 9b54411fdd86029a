"""Pictures in: bytes, a path, a Pillow picture or an array -> `Picture(image, alpha)`, or an ImageError that says why not.

Everything is checked on the file's header before a pixel is decoded: the format (a short list; no PSD, EPS, FITS and the
like), the size, that it is one picture and not an animation. EXIF orientation is applied, an embedded RGB or CMYK profile is turned
into sRGB, 16 bits become 8 (the high byte). Alpha is straight, and colours under zero alpha stay as stored.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ImageError, Sam3dError
from .request import MAX_SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 80_000_000  # below the size at which Pillow itself warns
MAX_BYTES = 512 << 20  # of a file
_STRIP = 4_000_000  # pixels turned into sRGB at once
_ORIENTATION = 0x0112  # the EXIF tag
_KINDS = "Give a PNG, JPEG, WebP, BMP, TIFF or still GIF."


@dataclass(frozen=True)
class Picture:
    """image: uint8 (H, W, 3), sRGB. alpha: uint8 (H, W), straight, or None where every pixel is opaque."""

    image: np.ndarray
    alpha: np.ndarray | None


def read_image(source: object, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """A picture from bytes of a file, a path (str or PathLike), a Pillow picture or an array.

    Arrays: uint8 (or float 0..1) of shape (H, W), (H, W, 1), (H, W, 2) with alpha, (H, W, 3) or (H, W, 4) with alpha.
    Raises ImageError.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        with opened(bytes(source), max_pixels=max_pixels) as found:
            return _picture(found)
    if isinstance(source, (str, os.PathLike)):
        with opened(_read_file(source), max_pixels=max_pixels) as found:
            return _picture(found)
    if is_pillow(source):
        with decoding():
            picture: Any = source
            check_size(picture.width, picture.height, max_pixels)
            return _picture(picture)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    raise ImageError(f"{type(source).__name__} is no picture.", "Give a file's bytes, a path, a Pillow picture or a uint8 array.")


def _read_file(source: str | os.PathLike[str]) -> bytes:
    try:
        path = Path(source)
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a folder, or a pipe that never ends
            raise ImageError(f"{path.name or path} is no file.", _KINDS)
        if found.st_size > MAX_BYTES:
            raise ImageError(f"{path.name} has {found.st_size >> 20} MiB.", f"Pictures may have {MAX_BYTES >> 20} MiB.")
        return path.read_bytes()
    except (OSError, ValueError, TypeError) as problem:  # ValueError: a null character in the name; TypeError: a PathLike of bytes
        reason = getattr(problem, "strerror", None) or problem
        raise ImageError(f"The picture {str(source)!r} can't be read: {reason}.", "Check the path and its permissions.") from None


def is_pillow(value: object) -> bool:
    """Whether this is a Pillow picture; doesn't import Pillow to find out."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


@contextmanager
def opened(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image]:
    """A file's picture, header checked, not yet decoded, with EXIF orientation still to be applied (`upright`).

    Whatever goes wrong inside the block is an ImageError.
    """
    with decoding():
        # Importing the plugins one by one registers them without loading Pillow's forty others.
        from PIL import (  # noqa: F401
            BmpImagePlugin,
            GifImagePlugin,
            Image,
            JpegImagePlugin,
            PngImagePlugin,
            TiffImagePlugin,
            UnidentifiedImageError,
            WebPImagePlugin,
        )

        if not data:
            raise ImageError("The picture has no bytes.", _KINDS)
        try:
            found = Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError:
            raise ImageError("These bytes are no picture of a known format.", _KINDS) from None
        with found:
            check_size(*found.size, max_pixels)
            # MPO is a JPEG with further pictures behind the main one (a thumbnail, a gain map), not an animation.
            if found.format != "MPO" and getattr(found, "n_frames", 1) > 1:
                raise ImageError("The picture is an animation, or has several pages.", "Save the one frame that you mean as a PNG.")
            yield found


class _Quiet:
    """No warnings while anybody reads. Python's filters are global: the first reader changes them, the last one puts them back; none waits for another."""

    def __init__(self) -> None:
        self._lock, self._readers = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._readers:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._before.__exit__(None, None, None)


_quiet = _Quiet()


@contextmanager
def decoding() -> Iterator[None]:
    """Around every use of Pillow: its warnings stay inside, and all its exceptions become ImageError."""
    with _quiet:
        try:
            yield
        except Sam3dError:
            raise
        except MemoryError:
            raise ImageError("There isn't enough memory to decode the picture.", "Make it smaller first.") from None
        except Exception as problem:  # Pillow raises nearly every builtin exception for broken files
            if type(problem).__name__ == "DecompressionBombError":
                raise ImageError("The picture is far too large.", f"Pictures may have {MAX_PIXELS // 1_000_000} megapixels.") from None
            raise ImageError("The picture is damaged, or cut off.", "Save it again, or copy it again.", detail=repr(problem)) from None


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raises ImageError for a picture without pixels, or one beyond the limits."""
    if width < 1 or height < 1:
        raise ImageError(f"The picture is {width}x{height} pixels.", "It needs at least one.")
    if max(width, height) > MAX_SIDE or width * height > max_pixels:
        raise ImageError(
            f"The picture is {width}x{height} pixels.",
            f"It may have {MAX_SIDE} a side and {max_pixels / 1e6:g} megapixels in all: make it smaller first.",
        )


def has_alpha(picture: Image) -> bool:
    """Whether a Pillow picture carries alpha: a channel of its own, or one transparent colour."""
    return "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def upright(picture: Image) -> Image:
    """With its EXIF orientation applied; the picture itself where there is none to apply, which saves a copy of all its pixels."""
    from PIL import ImageOps

    if picture.getexif().get(_ORIENTATION, 1) == 1:
        return picture
    turned = ImageOps.exif_transpose(picture)
    turned.format = picture.format
    return turned


def alpha_of(picture: Image) -> np.ndarray | None:
    """A Pillow picture's alpha, uint8 (H, W), or None if it has none."""
    if not has_alpha(picture):
        return None
    if picture.mode.startswith("I"):  # 16 bits of grey; older Pillows call them I
        return np.where(np.asarray(picture) == picture.info["transparency"], 0, 255).astype(np.uint8)
    if picture.mode in ("RGBA", "LA"):
        return np.array(picture.getchannel("A"), np.uint8)
    return np.array(picture.convert("RGBA").getchannel("A"), np.uint8)


def grey_of(picture: Image) -> np.ndarray:
    """A Pillow picture's brightness, uint8 (H, W) (16 bits: the high byte); modes I and F, whose range nobody knows, as they are."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        return (np.asarray(picture) >> 8).astype(np.uint8)
    if picture.mode in ("I", "F"):
        return np.array(picture)
    return np.array(picture.convert("RGB").convert("L") if picture.mode == "P" else picture.convert("L"), np.uint8)


def _picture(found: Image) -> Picture:
    found.load()
    profile = found.info.get("icc_profile")
    turned = upright(found)
    alpha = alpha_of(turned)
    if turned.mode.startswith("I;16") or turned.mode in ("I", "F"):
        grey = grey_of(turned)
        if grey.dtype != np.uint8:
            raise ImageError(f"The picture has {turned.mode} pixels, whose range is unknown.", "Convert it to 8 or 16 bits first.")
        colour = np.repeat(grey[..., None], 3, axis=2)
    else:
        colour = _colours(turned, profile)
    return Picture(colour, None if alpha is None or (alpha == 255).all() else alpha)


def _colours(picture: Image, profile: Any) -> np.ndarray:
    """uint8 (H, W, 3) in sRGB. Strip by strip: Pillow and numpy each hold copies on the way, together several times the picture."""
    out = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(1, _STRIP // picture.width)
    for top in range(0, picture.height, rows):
        end = min(top + rows, picture.height)
        strip = picture if end - top == picture.height else picture.crop((0, top, picture.width, end))
        out[top:end] = np.asarray(_in_srgb(strip, profile))
    return out


def _in_srgb(picture: Image, profile: Any) -> Image:
    """RGB, turned from the file's own profile into sRGB where it has another one; a profile that can't be used is ignored."""
    if picture.mode in ("RGBa", "La"):  # premultiplied, as some TIFFs are
        picture = picture.convert("RGBA")
    if profile and picture.mode in ("RGB", "RGBA", "CMYK"):
        from PIL import Image, ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                bare = picture if picture.mode == "CMYK" else Image.merge("RGB", picture.split()[:3])
                turned = ImageCms.profileToProfile(bare, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                if turned is not None:
                    return turned
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    if picture.mode == "RGBA":
        return picture.convert("RGB")
    # By way of RGBA where there is alpha, so that colours under zero alpha stay as stored.
    return (picture.convert("RGBA") if has_alpha(picture) else picture).convert("RGB")


def _from_array(source: np.ndarray, max_pixels: int) -> Picture:
    if source.ndim not in (2, 3) or (source.ndim == 3 and not 1 <= source.shape[2] <= 4):
        raise ImageError(f"An array of shape {source.shape} is no picture.", "Give (H, W, 3), or (H, W, 4) with alpha.")
    check_size(source.shape[1], source.shape[0], max_pixels)
    if source.dtype.kind == "f":
        if not (np.isfinite(source).all() and source.min() >= 0 and source.max() <= 1):
            raise ImageError("A float picture has values outside 0..1, or NaN.", "Scale it to 0..1, or give uint8.")
        source = np.rint(source.astype(np.float64) * 255).astype(np.uint8)
    if source.dtype != np.uint8:
        raise ImageError(f"The picture's array is {source.dtype}.", "Give uint8, or float 0..1.")
    pixels = source[..., None] if source.ndim == 2 else source
    colours = 3 if pixels.shape[2] >= 3 else 1
    colour = np.ascontiguousarray(np.broadcast_to(pixels[..., :colours], (*pixels.shape[:2], 3)))
    alpha = pixels[..., -1].copy() if pixels.shape[2] in (2, 4) else None
    return Picture(colour.copy() if np.shares_memory(colour, source) else colour, None if alpha is None or (alpha == 255).all() else alpha)
