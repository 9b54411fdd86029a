"""SAM3D Options: what the sam3d engine can be told beyond its quality. Not linked, or left as it is, it changes nothing."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from ..contract.record import field_types
from ..contract.request import SPLATS_PER_VOXEL, ReconstructRequest, Sam3dOptions

AUTO = "auto"  # of a list: as the quality says
_TEXTURES = ("512", "1024", "2048", "4096")
# What is made -> outputs of the request: none of them means both, else the cheapest file of the kind. Files that last are SAM3D Export's.
_OUTPUTS: dict[str, tuple[str, ...]] = {"meshes and splats": (), "meshes": ("stl",), "splats": ("splat",)}


def _limits(name: str, record: type[Any] = Sam3dOptions) -> tuple[Any, Any]:
    """What the contract allows for a number."""
    low, high = next(item.metadata["limits"] for item in dataclasses.fields(record) if item.name == name)
    return low, high


def _words(name: str) -> list[str]:
    """What the contract allows for a word."""
    hint = field_types(Sam3dOptions)[name]
    literal = next((part for part in typing.get_args(hint) if typing.get_origin(part) is typing.Literal), hint)
    return list(typing.get_args(literal))


class Options:
    CATEGORY = "SAM 3D"
    DESCRIPTION = (
        "Settings of the sam3d engine, for SAM3D Reconstruct. What is left at its first value goes as the quality says; quality standard with all of "
        "them so samples as the released model does. The draft engine takes only texture_size, face_budget and size."
    )
    SEARCH_ALIASES = ("sam 3d settings", "steps", "cfg", "guidance", "texture size", "face budget", "vram", "low memory")
    RETURN_TYPES = ("SAM3D_OPTIONS",)
    RETURN_NAMES = ("options",)
    OUTPUT_TOOLTIPS = ("Link it to the options of SAM3D Reconstruct.",)
    FUNCTION = "options"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def whole(name: str, off: int, tooltip: str, **more: Any) -> tuple[str, dict[str, Any]]:
            return ("INT", {"default": off, "min": off, "max": _limits(name)[1], "tooltip": tooltip, **more})

        def guidance(name: str, tooltip: str) -> tuple[str, dict[str, Any]]:
            return ("FLOAT", {"default": -1.0, "min": -1.0, "max": _limits(name)[1], "step": 0.1, "round": 0.01, "tooltip": tooltip})

        def words(values: list[str], tooltip: str, **more: Any) -> tuple[list[str], dict[str, Any]]:
            return (values, {"default": values[0], "tooltip": tooltip, **more})

        least, most = _limits("size", ReconstructRequest)
        return {
            "required": {},  # an API graph names only what it changes
            "optional": {
                "steps": whole("steps", 0, "Sampling steps of stage 1, the voxels and the pose. 0: as the quality says."),
                "guidance": guidance(
                    "guidance", "How closely stage 1 follows the picture (CFG); 0 is none. -1: the model's own, 7. The shortcut has none."
                ),
                "few_step": words(
                    [AUTO, "on", "off"],
                    "The model's own shortcut for stage 1: 4 steps, without guidance. auto: on for quality fast.",
                    advanced=True,
                ),
                "latent_steps": whole(
                    "latent_steps", 0, "Sampling steps of stage 2, shape and colours of the voxels. 0: as the quality says."
                ),
                "latent_guidance": guidance(
                    "latent_guidance", "The same of stage 2. -1: the model's own, 1. 0: none, and a third quicker."
                ),
                "latent_seed": whole(
                    "latent_seed",
                    -1,
                    "Another seed for stage 2 alone: the same voxels and places, another surface. -1: the seed of SAM3D Reconstruct.",
                    advanced=True,
                ),
                "splats_per_voxel": words(
                    [AUTO, *map(str, SPLATS_PER_VOXEL)],
                    "Gaussian splats of each voxel: 4 are small files, 32 are detail. auto: as the quality says.",
                ),
                "mesh": words(
                    _words("mesh"), "clean: closed, without floaters and inner shell, within the face budget. raw: as the model makes it."
                ),
                "smooth": whole("smooth", 0, "Rounds of smoothing of a clean mesh. 0: none, as the model has it.", advanced=True),
                "face_budget": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": _limits("face_budget", ReconstructRequest)[1],
                        "step": 500,
                        "tooltip": "The most triangles an object may have, 500 or more. 0: as the quality says.",
                    },
                ),
                "texture": words(
                    [AUTO, *_words("texture")],
                    "direct: gathered from the nearby splats, quick. views: what the splats show from many sides, slower. colors: no image, a "
                    "colour for each vertex. auto: as the quality says, so far always direct.",
                ),
                "texture_size": words(
                    [AUTO, *_TEXTURES], "Width and height of each object's texture in pixels. auto: as the quality says."
                ),
                "frame": words(
                    _words("frame"),
                    "camera: each object where it stood before the camera. object: each for itself, upright, at the origin.",
                ),
                "size": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": least,
                        "max": most,
                        "step": 0.01,
                        "round": 0.001,
                        "tooltip": "Metres of an object's longest side, with frame object and for the draft engine.",
                    },
                ),
                "layout": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Move each object so that its outline fits its mask better. Kept only where it does."},
                ),
                "memory": words(
                    _words("memory"),
                    "Where the networks stay between their uses. resident: on the GPU. swapped: in main memory. staged: in their files, for small "
                    "GPUs. auto: by what is free.",
                    advanced=True,
                ),
                "outputs": words(
                    list(_OUTPUTS),
                    "What is made; the rest isn't computed. splats alone come without clean-up and texture, in seconds less: then switch glb off in "
                    "SAM3D Export. The draft engine makes both.",
                ),
            },
        }

    def options(
        self,
        steps: int = 0,
        guidance: float = -1.0,
        few_step: str = AUTO,
        latent_steps: int = 0,
        latent_guidance: float = -1.0,
        latent_seed: int = -1,
        splats_per_voxel: str = AUTO,
        mesh: str = "clean",
        smooth: int = 0,
        face_budget: int = 0,
        texture: str = AUTO,
        texture_size: str = AUTO,
        frame: str = "camera",
        size: float = 1.0,
        layout: bool = False,
        memory: str = AUTO,
        outputs: str = "meshes and splats",
    ) -> tuple[dict[str, Any]]:
        """-> (keywords of ReconstructRequest,)."""
        sam3d = Sam3dOptions(
            steps=steps or None,
            guidance=None if guidance < 0 else guidance,
            few_step=None if few_step == AUTO else few_step == "on",
            latent_steps=latent_steps or None,
            latent_guidance=None if latent_guidance < 0 else latent_guidance,
            latent_seed=None if latent_seed < 0 else latent_seed,
            splats_per_voxel=None if splats_per_voxel == AUTO else int(splats_per_voxel),
            mesh=mesh,  # type: ignore[arg-type]  # the record checks the words
            texture=None if texture == AUTO else texture,  # type: ignore[arg-type]
            smooth=smooth,
            layout=layout,
            frame=frame,  # type: ignore[arg-type]
            memory=memory,  # type: ignore[arg-type]
        )
        texture_pixels = None if texture_size == AUTO else int(texture_size)
        made = _OUTPUTS[outputs]
        return ({"sam3d": sam3d, "outputs": made, "texture_size": texture_pixels, "face_budget": face_budget or None, "size": size},)
