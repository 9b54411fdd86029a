"""SAM3D Load Folder: the pictures and masks of a folder as lists, paired as the `batch` command pairs them."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from ..contract.errors import PairingError, Sam3dError
from ..contract.pairing import RULES, Pair, find_pairs
from . import _files, _host, _pictures
from .load_image_masks import labels, load

HERE = "."  # the input folder itself
_RULES = ["any", *(rule for rule in RULES if rule != "auto")]  # `auto` finds masks by itself: the batch's, not a node's
log = logging.getLogger("sam3d")


class LoadFolder:
    CATEGORY = "SAM 3D"
    DESCRIPTION = (
        "Loads every picture of a folder with its masks, as lists: the nodes behind it run once for each. "
        "For graphs that work through a folder; the command line's `batch` does the same with a journal and can be resumed."
    )
    SEARCH_ALIASES = ("batch", "load images", "folder", "directory")
    RETURN_TYPES = ("IMAGE", "MASK", "STRING", "STRING")
    RETURN_NAMES = ("image", "masks", "name", "filename_prefix")
    OUTPUT_IS_LIST = (True, True, True, True)
    OUTPUT_TOOLTIPS = (
        "The pictures, a list.",
        "For each picture its masks, white where the object is.",
        "The pictures' names, for the names of SAM3D Reconstruct.",
        "3d/ and each picture's name, for the filename_prefix of SAM3D Export.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "folder": (
                    [HERE, *_files.folders()],
                    {"default": HERE, "tooltip": "A folder inside ComfyUI's input folder; . is that folder itself."},
                ),
                "pairing": (
                    _RULES,
                    {
                        "default": "any",
                        "tooltip": "How masks are found. any: the first of these that fits - a table pairs.csv, a folder masks/, x_mask.png beside x.png, "
                        "image.png with 0.png, 1.png, ... (one object each), the picture's transparency.",
                    },
                ),
                "polarity": (
                    _pictures.POLARITIES,
                    {
                        "default": _pictures.WHITE,
                        "tooltip": "What the mask files mean. A picture's own transparency always means: opaque is the object.",
                    },
                ),
                "on_problem": (
                    ["stop", "skip"],
                    {
                        "default": "stop",
                        "tooltip": "A picture without a mask, or one that can't be read: stop, or leave it out and tell the log.",
                    },
                ),
                "skip": ("INT", {"default": 0, "min": 0, "max": 1_000_000, "tooltip": "Leave out this many at the beginning."}),
                "limit": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 1_000_000,
                        "tooltip": "Load at most this many, 0: all. They are all in memory together.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, folder: str | None = None) -> bool | str:
        """What is linked is None here: it is looked at when it is there."""
        try:
            if folder is not None:
                _pairs(folder, "any")
        except Sam3dError as problem:
            return str(problem)
        return True

    @classmethod
    def IS_CHANGED(cls, folder: str | None = None, pairing: str | None = None, **_: Any) -> Any:
        if folder is None or pairing is None:
            return math.nan
        return _files.fingerprint([path for pair in _pairs(folder, pairing) for path in (pair.image, *pair.masks)])

    def load(
        self, folder: str, pairing: str, polarity: str, on_problem: str, skip: int, limit: int
    ) -> tuple[list[Any], list[Any], list[str], list[str]]:
        chosen = _pairs(folder, pairing)[skip : skip + limit if limit else None]
        images, masks, names, prefixes, problems = [], [], [], [], []
        for pair in chosen:
            _host.check_interrupt()
            try:
                if pair.error is not None:
                    raise pair.error
                colours, found = load(_inside(pair.image), [_inside(mask) for mask in pair.masks], polarity)
                _pictures.check_masks(found)  # here it is one picture's problem; SAM3D Reconstruct would stop for all
            except Sam3dError as problem:
                problems.append(f"{pair.name}: {problem}")
                continue
            name, prefix = labels(pair.name)
            images.append(_host.tensor(colours[None]))
            masks.append(_host.tensor(found))
            names.append(name)
            prefixes.append(prefix)
        for text in problems:
            log.warning("%s", text)
        if problems and (on_problem == "stop" or not images):
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise PairingError(f"{problems[0]}{more}", "Correct it, or choose on_problem: skip.")
        if not images:
            raise PairingError(f"There is no picture to load in {folder!r}.", "Put pictures there, or choose another folder.")
        return images, masks, names, prefixes


def _pairs(folder: str, pairing: str) -> list[Pair]:
    base = _files.contained(folder or HERE, _host.input_dir())
    if not base.is_dir():
        raise PairingError(f"There is no folder {folder!r} in the input folder.", "Make it, or choose another one.")
    return find_pairs(base, pair=None if pairing == "any" else pairing)


def _inside(path: Path) -> Path:
    """A table or a link may name a file anywhere; a node reads only what lies in the input folder."""
    return _files.contained(str(path), _host.input_dir())
