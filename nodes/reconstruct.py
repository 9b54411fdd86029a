"""SAM3D Reconstruct: a picture and its masks -> a scene with one object for each mask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..contract.errors import OptionError
from ..contract.request import ENGINES, PRESETS, QUALITIES, DraftOptions, ReconstructRequest, Sam3dOptions
from ..contract.scene import Scene
from . import _host, _pictures, _values
from ._backend import shared


class Reconstruct:
    CATEGORY = "SAM 3D"
    DESCRIPTION = (
        "Turns each masked object of a picture into a textured mesh and Gaussian splats, placed together in one scene. "
        "Several pictures with as many masks give as many scenes."
    )
    SEARCH_ALIASES = ("image to 3d", "sprite to 3d", "mesh", "gaussian splat", "sam 3d objects")
    RETURN_TYPES = ("SAM3D_SCENE", "MESH", "SPLAT")
    RETURN_NAMES = ("scene", "mesh", "splat")
    OUTPUT_IS_LIST = (True, True, True)
    OUTPUT_TOOLTIPS = (
        "The objects with their meshes, splats and places: for SAM3D Export and SAM3D Preview 3D.",
        "The meshes as core's 3D nodes take them, one batch item for each object.",
        "The splats as core's splat nodes take them, one batch item for each object.",
    )
    FUNCTION = "reconstruct"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "One picture, or as many as there are masks (then each picture has its own)."}),
                "masks": ("MASK", {"tooltip": "One mask for each object. Masks of another size are stretched to the picture's."}),
                "polarity": (
                    _pictures.POLARITIES,
                    {
                        "default": _pictures.WHITE,
                        "tooltip": "White is the object: SAM3D Load Image & Masks and segmentation nodes. Black is the object: core's Load Image, "
                        "whose mask is white where the picture is transparent.",
                    },
                ),
                "engine": (
                    list(ENGINES),
                    {
                        "default": "auto",
                        "tooltip": "draft: inflates the outline, on the CPU, in about a second. sam3d: Meta's SAM 3D Objects, on a GPU. "
                        "auto: sam3d where it is ready, else draft. The result names the engine that made it.",
                    },
                ),
                "preset": (
                    list(PRESETS),
                    {
                        "default": "auto",
                        "tooltip": "What the draft engine takes the object for: a prop, a figure, something flat (slab), something round (ball), pixel art. "
                        "auto looks at the outline.",
                    },
                ),
                "quality": (
                    list(QUALITIES),
                    {"default": "standard", "tooltip": "How much time, detail and texture the objects get."},
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "control_after_generate": True,
                        "tooltip": "The same seed gives the same result, byte for byte. The draft engine has nothing to draw lots for.",
                    },
                ),
            },
            "optional": {
                "names": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "The objects' names in the files, separated by commas. One name for several objects is numbered; empty: object_1, object_2, ...",
                    },
                ),
                "options": ("SAM3D_OPTIONS", {"tooltip": "From SAM3D Options. Not linked: all as the quality says."}),
                "moge_geometry": (
                    "MOGE_GEOMETRY",
                    {
                        "tooltip": "From core's Run MoGe Inference, of the same picture: the sam3d engine then places the objects by these points "
                        "instead of making its own. Not linked: it makes them."
                    },
                ),
            },
        }

    def reconstruct(
        self,
        image: Any,
        masks: Any,
        polarity: str,
        engine: str,
        preset: str,
        quality: str,
        seed: int,
        names: str = "",
        options: dict[str, Any] | None = None,
        moge_geometry: Any = None,
    ) -> tuple[list[Scene], list[Any], list[Any]]:
        found = _pictures.objects(_host.array(image), _host.array(masks), polarity)
        labels = _names(names, sum(len(hard) for _, hard, _ in found))
        # No outputs: meshes and splats, but no files. Those are the Export node's: other formats mustn't reconstruct again.
        given: dict[str, Any] = {"outputs": (), **(options or {})}
        engines_own = given.pop("sam3d", Sam3dOptions())
        requests = []
        for index, (picture, hard, alpha) in enumerate(found):
            mine, labels = labels[: len(hard)], labels[len(hard) :]
            points = _points(moge_geometry, (picture.shape[0], picture.shape[1]), index, len(found))
            requests.append(
                ReconstructRequest(
                    image=picture,
                    masks=hard,
                    alpha=alpha,
                    names=mine,
                    engine=engine,  # type: ignore[arg-type]  # the request checks it
                    seed=seed,
                    quality=quality,  # type: ignore[arg-type]
                    draft=DraftOptions(preset=preset),  # type: ignore[arg-type]
                    sam3d=engines_own.replace(**points),
                    **given,
                )
            )
        bar = _host.Progress()
        scenes: list[Scene] = []
        for index, request in enumerate(requests):

            def progress(fraction: float, picture: np.ndarray | None, done: int = index) -> None:
                bar.update((done + fraction) / len(requests), picture)

            scenes.append(shared.reconstruct(request, progress).replace(files={}))
        bar.update(1.0)
        _host.say(_summary(scenes))
        return scenes, [_values.mesh_of(scene) for scene in scenes], [_values.splat_of(scene) for scene in scenes]


def _points(geometry: Any, size: tuple[int, int], index: int, count: int) -> dict[str, Any]:
    """Core's MOGE_GEOMETRY for picture `index` of `count` -> keywords of Sam3dOptions; none where nothing is linked. Raises OptionError."""
    if geometry is None:
        return {}
    from ..contract.pointmaps import from_geometry

    parts: Mapping[str, Any] = geometry if isinstance(geometry, Mapping) else {}
    held = [len(parts[name]) for name, rank in (("points", 4), ("depth", 3)) if getattr(parts.get(name), "ndim", 0) == rank]
    if held and held[0] != count:
        raise OptionError(
            f"{count} picture{'s' if count > 1 else ''} and a MOGE_GEOMETRY of {held[0]} don't fit together.",
            "Link the same pictures to MoGe and to SAM3D Reconstruct.",
        )
    if parts and parts.get("intrinsics") is None:  # core gives them for everything but panoramas, whose points lie all around
        raise OptionError("The MOGE_GEOMETRY has no intrinsics: it is a panorama's.", "Link core's Run MoGe Inference.")
    return from_geometry(geometry, size, index=None if count == 1 else index).options()


def _names(text: str, count: int) -> tuple[str, ...]:
    """The widget's names, one for each object; () where it is empty."""
    given = [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]
    if len(given) == 1 and count > 1:
        return tuple(f"{given[0]}_{i + 1}" for i in range(count))
    if given and len(given) != count:
        raise OptionError(f"{len(given)} names were given for {count} objects.", "Name each object once, or give one name, or none.")
    return tuple(given)


def _summary(scenes: list[Scene]) -> str:
    """What the node says when it is done: who made how many objects, and what should be known about them."""
    count = sum(len(scene.objects) for scene in scenes)
    head = f"{scenes[0].engine}: {count} object{'s' if count != 1 else ''}"
    warnings = dict.fromkeys(text for scene in scenes for text in scene.warnings)
    return "\n".join([head, *warnings])
