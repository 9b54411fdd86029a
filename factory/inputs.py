"""Files -> a request: the picture, its masks in whatever form, or a mask that is found. Everything wrong is an InputError, before a worker is touched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.errors import EmptyMaskError, FullMaskError, ImageError, MaskError, MaskKindError, MaskSizeError, OptionError
from ..contract.images import Picture, read_image
from ..contract.masks import parse_masks
from ..contract.names import safe_filename, unique_filenames
from ..contract.pairing import IMAGE_SUFFIXES, natural_key, nfc_stem, pointmap_stem
from ..contract.request import ReconstructRequest
from . import automask
from .settings import request_fields


@dataclass(frozen=True)
class MaskOptions:
    """auto: the method that finds a mask where none is given, or None. always_auto: even where the picture has alpha.

    kind: how a JSON file's masks are meant, one of the mask parser's KINDS; None tells it from the value.
    """

    auto: str | None = None
    always_auto: bool = False
    invert: bool = False
    resize: bool = False
    allow_full: bool = False
    kind: str | None = None


# The mask parser's hints speak of its arguments; whoever types a command has options.
_HINTS: dict[type[MaskError], str] = {
    MaskSizeError: "Give a mask of the picture's size, or accept others with --resize-mask.",
    EmptyMaskError: "Select the object in the mask; --invert-mask if the mask selects the background.",
    FullMaskError: "Give a mask that leaves the background out, or accept full masks with --allow-full-mask.",
}


def make_request(
    image: Path,
    masks: Sequence[Path] = (),
    *,
    name: str,
    settings: Mapping[str, Any],
    options: MaskOptions = MaskOptions(),
    base: Path | None = None,
) -> ReconstructRequest:
    """masks: mask files or JSON files, in order; none: the picture's alpha, or else `options.auto`. name: what a single object is called.

    settings: see `settings.request_fields`. Raises InputError.
    """
    picture = read_image(image)
    fields = request_fields(settings, base=base, size=(picture.image.shape[0], picture.image.shape[1]))
    if masks:
        found, soft, names = _given(picture, image, masks, name, options)
    elif picture.alpha is not None and not options.always_auto:
        found, soft, names = _own_alpha(picture, image, options), picture.alpha[None], [name]
    elif options.auto is not None:
        found, soft, names = automask.find(picture.image, options.auto)[None], None, [name]
    else:
        raise MaskError(
            f"{image.name} has no transparency, and no mask was given.",
            "Give a mask (reconstruct: --mask FILE, batch: <name>_mask.png beside it), or let it be found: --auto-mask border (a plain background) "
            "or --auto-mask grabcut (a photograph).",
        )
    if options.invert:
        found, soft = ~found, None
    found = parse_masks(found, picture.image.shape[:2], kind="bitmap", allow_full=options.allow_full)
    if soft is not None and not ((soft > 0) & (soft < 255)).any():
        soft = None  # it says no more than the mask does
    return ReconstructRequest(image=picture.image, masks=found, alpha=soft, names=tuple(names), **fields)


def check_picture(image: Path) -> None:
    """Raises ImageError for what is no file at all, but often meant."""
    if image.is_dir():
        raise ImageError(f"{image} is a folder.", "Give one picture; a folder of them is for: python sam3d.py batch FOLDER")
    text = image.as_posix()
    if text.startswith(("http:/", "https:/")) and not image.exists():
        raise ImageError(f"{text.replace(':/', '://', 1)} is an address; nothing is fetched.", "Download the picture, and give the file.")


def mask_files(source: Path, image: Path) -> list[Path]:
    """--masks: a folder's pictures in natural order, or a JSON file. `image` itself, and its point map, are none of them. Raises MaskError."""
    if source.is_dir():
        files = [f for f in source.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".") and f.is_file()]
        files = [f for f in files if not (image.exists() and f.samefile(image)) and pointmap_stem(f) != nfc_stem(image)]
        if not files:
            raise MaskError(f"The folder {source} holds no masks.", "Put one picture for each object there, or name a JSON file.")
        return sorted(files, key=lambda f: natural_key(f.name))
    if not source.is_file():
        raise MaskError(f"There is no {source}.", "Name a folder of masks, or a JSON file (docs/masks.md says which forms).")
    return [source]


def _own_alpha(picture: Picture, image: Path, options: MaskOptions) -> np.ndarray:
    """Bool (1, H, W). A picture that is faint all over (smoke) counts from 5 % on; the engine looks at its alpha itself."""
    alpha = picture.alpha
    assert alpha is not None
    hard = alpha >= 128
    if not hard.any():
        hard = alpha > 12
    if not hard.any() and not options.invert:
        raise MaskError(f"{image.name} is transparent everywhere.", "Give a mask, or another picture.")
    return hard[None]


def _given(
    picture: Picture, image: Path, masks: Sequence[Path], name: str, options: MaskOptions
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Bool (N, H, W), uint8 (N, H, W) with soft edges or None, and N names."""
    size = picture.image.shape[:2]
    found, soft = [], []
    for path in masks:
        try:
            parts = _parsed(path, size, image, options)
        except MaskError as problem:
            hint = _HINTS.get(type(problem), problem.hint)
            if isinstance(problem, MaskKindError) and " can be read as kind=" in problem.message:
                hint = "Say which is meant, e.g. --mask-kind annotation."
            raise type(problem)(f"{path.name or path}: {problem.message}", hint, detail=problem.detail) from None
        found.append(parts)
        soft.append(_soft(path, parts))
    counts = [len(parts) for parts in found]
    total = sum(counts)
    if total == 1:
        names = [name]
    elif total == len(masks):
        names = unique_filenames(_object_name(nfc_stem(path), nfc_stem(image)) for path in masks)
    else:
        names = [f"object_{i + 1}" for i in range(total)]
    return np.concatenate(found), np.concatenate(soft), names


def _parsed(path: Path, size: tuple[int, ...], image: Path, options: MaskOptions) -> np.ndarray:
    allow_full = options.allow_full or options.invert  # an inverted mask is checked after it was turned
    if path.suffix.lower() != ".json":
        value, kind = _mask_picture(_bytes(path))
        return parse_masks(value, size, kind=kind, resize=options.resize, allow_full=allow_full)
    try:
        value = json.loads(_bytes(path).decode("utf-8-sig"))
    except ValueError as problem:
        raise MaskError(f"It is no JSON: {problem}.", "Save it again as UTF-8 JSON.") from None
    return parse_masks(value, size, kind=options.kind, resize=options.resize, image_id=_coco_image(value, image), allow_full=allow_full)


def _mask_picture(data: bytes) -> tuple[Any, str]:
    """A mask file for the parser. An alpha that is opaque everywhere says nothing (paint programs add one), so then it is the brightness."""
    try:
        picture = read_image(data)
    except ImageError:
        return data, "png"  # the parser says what is wrong with it
    if picture.alpha is not None:
        return picture.alpha, "bitmap"
    return _brightness(picture.image), "bitmap"


def _brightness(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (H, W), Rec. 601 luma as Pillow rounds it."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))


def _coco_image(value: Any, image: Path) -> Any:
    """The id under which a COCO file lists this picture's file name; None where it is another form, or lists one picture only. Raises MaskError."""
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list):
        return None
    ids = [
        i.get("id")
        for i in images
        if isinstance(i, dict) and str(i.get("file_name", "")).replace("\\", "/").rsplit("/", 1)[-1] == image.name
    ]
    if len(ids) != 1 and len(images) > 1:
        raise MaskError(
            f"It lists {len(images)} pictures, {len(ids) or 'none'} of them called {image.name}.", "Correct `file_name` in its `images`."
        )
    return ids[0] if len(ids) == 1 else None


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise MaskError("It is a folder.", "A folder of masks is given with --masks.")
    try:
        return path.read_bytes()
    except OSError as problem:
        raise MaskError(f"It can't be read: {problem.strerror or problem}.", "Check the path and its permissions.") from None


def _soft(path: Path, hard: np.ndarray) -> np.ndarray:
    """The grey values of a mask picture where they agree with the mask that was read from it, else the mask in black and white."""
    plain = hard.astype(np.uint8) * 255
    if path.suffix.lower() == ".json":
        return plain
    try:
        picture = read_image(path)
    except ImageError:
        return plain
    values = picture.alpha if picture.alpha is not None else _brightness(picture.image)
    return values[None] if values.shape == hard.shape[1:] and ((values >= 128) == hard[0]).all() else plain


def _object_name(mask: str, image: str) -> str:
    """`bbq_plate` of `bbq` is called `plate`; a bare number gets a word before it."""
    name = mask[len(image) :].lstrip("_-. ") if mask.startswith(image) and mask != image else mask
    name = name or mask
    return f"object_{name}" if name.isdigit() else safe_filename(name)


def check_name(name: str) -> str:
    """A name given by hand, which must be usable as it is. Raises OptionError."""
    safe = safe_filename(name)
    if safe != name:
        raise OptionError(f"{name!r} can't be the name of a folder.", f"Use e.g. {safe!r}.")
    return name
