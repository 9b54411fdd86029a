"""For code that was written for Roboflow's guide to SAM 3D: the same names, with this pack behind them.

    from comfyui_sam3d.client.roboflow import Sam3_3D_Objects_InferenceRequest, Sam3_3D_Objects_Response, get_model

    model = get_model("sam3-3d-objects", api_key="...")                       # the key is ignored
    response = model.infer_from_request(Sam3_3D_Objects_InferenceRequest(image=image, mask_input=masks))
    open("mesh.glb", "wb").write(response.mesh_glb)

`metadata.rotation` and its neighbours follow the original's convention (docs/frames.md). SAM3D_SERVER, if set, says where it is computed. Their Workflows block
isn't offered.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..contract import compat
from ..contract.errors import ImageError, OptionError
from ..contract.images import Picture, is_pillow, read_image
from ..contract.names import safe_filename
from ..contract.request import ReconstructRequest, Sam3dOptions
from ..contract.scene import Scene
from . import open_backend

MODEL = "sam3-3d-objects"
_KINDS = ("file", "base64", "numpy", "numpy_object", "pil")


@dataclass
class Sam3_3D_Objects_InferenceRequest:
    """image: {"type": "file" | "base64" | "numpy" | "pil", "value": ...}, a Pillow picture, or an array. An array is RGB; as {"type": "numpy_object", ...} it is BGR,
    as OpenCV has it and as their guide means it. mask_input: any form of docs/masks.md; a list of flat polygons is one object each.

    settings: further parameters of ReconstructRequest (engine, seed, quality, ...). api_key and what else the guide's servers want: accepted and ignored.
    """

    image: Any
    mask_input: Any = None
    model_id: str | None = MODEL
    api_key: str | None = None
    output_meshes: bool = True
    output_scene: bool = True
    with_mesh_postprocess: bool = True
    with_texture_baking: bool = True
    use_distillations: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    source: str | None = None
    source_info: str | None = None
    disable_model_monitoring: bool | None = None


@dataclass(frozen=True)
class Sam3_3D_Objects_Metadata:
    """In the original's convention: quaternion w, x, y, z of row vectors; PyTorch3D camera axes; three equal numbers."""

    rotation: list[float]
    translation: list[float]
    scale: list[float]


@dataclass(frozen=True)
class Sam3_3D_Object_Item:
    mesh_glb: bytes | None
    gaussian_ply: bytes | None
    metadata: Sam3_3D_Objects_Metadata


@dataclass(frozen=True)
class Sam3_3D_Objects_Response:
    """Files as bytes. time: seconds."""

    mesh_glb: bytes | None
    gaussian_ply: bytes | None
    objects: list[Sam3_3D_Object_Item]
    time: float


class SegmentAnything3_3D_Objects:
    """The model. `close` stops its worker; what isn't closed is closed when the interpreter ends."""

    def __init__(self, model_id: str = MODEL, api_key: str | None = None, **_: Any) -> None:
        if model_id.split("/")[0] != MODEL:
            raise OptionError(f"There is no model {model_id!r} here.", f"There is: {MODEL}.")
        self._backend = open_backend()

    def infer_from_request(self, request: Sam3_3D_Objects_InferenceRequest) -> Sam3_3D_Objects_Response:
        """Raises a Sam3dError."""
        began = time.perf_counter()
        scene = self._backend.reconstruct(_request(request)).result()
        return _response(scene, request, time.perf_counter() - began)

    def infer(self, image: Any, mask_input: Any = None, **options: Any) -> Sam3_3D_Objects_Response:
        """The same without a request; `options` are its fields."""
        known = {item.name for item in fields(Sam3_3D_Objects_InferenceRequest)}
        return self.infer_from_request(
            Sam3_3D_Objects_InferenceRequest(image, mask_input, **{name: value for name, value in options.items() if name in known})
        )

    def close(self) -> None:
        self._backend.close()


def get_model(model_id: str = MODEL, api_key: str | None = None, **_: Any) -> SegmentAnything3_3D_Objects:
    return SegmentAnything3_3D_Objects(model_id, api_key)


def _request(given: Sam3_3D_Objects_InferenceRequest) -> ReconstructRequest:
    picture = _picture(given.image)
    size = picture.image.shape[:2]
    if given.mask_input is not None:
        masks = compat.mask_input(given.mask_input, size)
    elif picture.alpha is not None:
        masks = (picture.alpha >= 128)[None]
    else:
        raise OptionError("There is no mask_input, and the picture has no transparency.", "Give a mask.")
    switches = {name: getattr(given, name) for name in ("with_mesh_postprocess", "with_texture_baking", "use_distillations")}
    rest: dict[str, Any] = {"sam3d": Sam3dOptions(**compat.parameters(**switches)), "outputs": ("glb", "ply"), **given.settings}
    return ReconstructRequest(image=picture.image, masks=masks, **rest)


def _picture(image: Any) -> Picture:
    """Raises ImageError. What is downloaded elsewhere isn't downloaded here: an address is refused."""
    if isinstance(image, Mapping):
        kind, value = image.get("type"), image.get("value")
        if kind == "base64" and isinstance(value, str):
            head, comma, rest = value.partition(",")
            try:
                return read_image(base64.b64decode(rest if comma and head.startswith("data:") else value))
            except (binascii.Error, ValueError):
                raise ImageError("The picture's base64 can't be read.", "Give a file's bytes in base64.") from None
        if kind == "numpy_object" and isinstance(value, np.ndarray):
            return read_image(_turned(value))
        if kind in _KINDS:
            return read_image(value)
        raise ImageError(f"A picture of type {kind!r} isn't read here.", f"Give one of: {', '.join(_KINDS)}; download it yourself first.")
    if isinstance(image, (str, np.ndarray)) or is_pillow(image) or isinstance(image, (bytes, bytearray)):
        return read_image(image)
    raise ImageError(f"{type(image).__name__} is no picture.", 'Give {"type": ..., "value": ...}, a Pillow picture or an array.')


def _turned(image: np.ndarray) -> np.ndarray:
    """BGR or BGRA -> RGB or RGBA."""
    if image.ndim != 3 or image.shape[2] < 3:
        return image
    return np.concatenate([image[..., 2::-1], image[..., 3:]], axis=2)


def _response(scene: Scene, given: Sam3_3D_Objects_InferenceRequest, seconds: float) -> Sam3_3D_Objects_Response:
    def bytes_of(wanted: bool, name: str) -> bytes | None:
        return scene.files[name].tobytes() if wanted and name in scene.files else None

    def of_object(name: str, suffix: str) -> str:
        alone = len(scene.objects) == 1
        return {"glb": "model.glb", "ply": "splat.ply"}[suffix] if alone else f"objects/{safe_filename(name)}.{suffix}"

    items = [
        Sam3_3D_Object_Item(
            bytes_of(given.output_meshes, of_object(item.name, "glb")),
            bytes_of(True, of_object(item.name, "ply")),
            Sam3_3D_Objects_Metadata(**compat.metadata(item.pose)),
        )
        for item in scene.objects
    ]
    return Sam3_3D_Objects_Response(
        bytes_of(given.output_scene and given.output_meshes, "model.glb"), bytes_of(given.output_scene, "splat.ply"), items, seconds
    )
