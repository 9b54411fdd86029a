"""client/roboflow.py: the guide's example as it stands there, and every form of its picture and mask."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trimesh
from comfyui_sam3d.client import LocalBackend, roboflow
from comfyui_sam3d.client.roboflow import (
    Sam3_3D_Objects_InferenceRequest,
    Sam3_3D_Objects_Response,
    SegmentAnything3_3D_Objects,
    get_model,
)
from comfyui_sam3d.contract import compat
from comfyui_sam3d.contract.errors import ImageError, MaskError, OptionError
from comfyui_sam3d.contract.mask_rle import encode_rle
from comfyui_sam3d.contract.scene import Pose
from PIL import Image

from .factory_cli import STUB

SIZE = (20, 24)
FLAT = [5.0, 5.0, 19.0, 5.0, 19.0, 15.0, 5.0, 15.0]
OTHER = [1.0, 1.0, 4.0, 1.0, 4.0, 4.0, 1.0, 4.0]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(roboflow, "open_backend", lambda: LocalBackend(shlex.split(STUB)))
    found = get_model("sam3-3d-objects", api_key="nobody looks at this")
    yield found
    found.close()


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, format="PNG")
    return out.getvalue()


def test_the_guides_example_runs(model: SegmentAnything3_3D_Objects, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(pixels()))
    coco = {
        "annotations": [
            {"image_id": 0, "segmentation": [FLAT]},
            {"image_id": 0, "segmentation": [OTHER]},
            {"image_id": 1, "segmentation": [FLAT]},
        ]
    }
    masks = [ann["segmentation"] for ann in coco["annotations"] if ann["image_id"] == 0]
    request = Sam3_3D_Objects_InferenceRequest(image={"type": "file", "value": str(tmp_path / "x.png")}, mask_input=masks)
    response: Sam3_3D_Objects_Response = model.infer_from_request(request)
    assert response.mesh_glb is not None and response.gaussian_ply is not None and response.time > 0
    assert len(trimesh.load(io.BytesIO(response.mesh_glb), file_type="glb").geometry) == 2
    found = []
    for i, item in enumerate(response.objects):
        assert (
            item.mesh_glb is not None and item.mesh_glb[:4] == b"glTF" and item.gaussian_ply is not None and item.gaussian_ply[:3] == b"ply"
        )
        found.append(
            {"object_index": i, "rotation": item.metadata.rotation, "translation": item.metadata.translation, "scale": item.metadata.scale}
        )
    assert len(json.loads(json.dumps({"objects": found}))["objects"]) == 2


def expected() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[5:15, 5:19] = True
    return mask


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (expected(), 1),
        (np.stack([expected(), ~expected()]), 2),
        ([expected(), ~expected()], 2),
        (FLAT, 1),
        ([FLAT, OTHER], 2),
        ([[5, 5], [19, 5], [19, 15], [5, 15]], 1),
        (encode_rle(expected()), 1),
        ([encode_rle(expected()), encode_rle(~expected())], 2),
        ([[FLAT]], 1),
        ([[FLAT, OTHER]], 1),
        ([[FLAT], [OTHER]], 2),
        (SimpleNamespace(mask=np.stack([expected(), ~expected()])), 2),
        (png(expected().astype(np.uint8) * 255), 1),
        (base64.b64encode(png(expected().astype(np.uint8) * 255)).decode(), 1),
        (Image.fromarray(expected().astype(np.uint8) * 255), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_of_mask(value: Any, count: int) -> None:
    found = compat.mask_input(value, SIZE)
    assert found.shape == (count, *SIZE)
    assert np.array_equal(found[0], expected()) or (count == 1 and (found[0] >= expected()).all())


def test_every_form_of_picture(tmp_path: Path) -> None:
    array = pixels()
    path = tmp_path / "x.png"
    path.write_bytes(png(array))
    forms = [
        {"type": "file", "value": str(path)},
        {"type": "base64", "value": base64.b64encode(path.read_bytes()).decode()},
        {"type": "base64", "value": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()},
        {"type": "pil", "value": Image.fromarray(array)},
        {"type": "numpy", "value": array},
        {"type": "numpy_object", "value": array[..., ::-1]},
        Image.fromarray(array),
        array,
        str(path),
        path.read_bytes(),
    ]
    for form in forms:
        assert np.array_equal(roboflow._picture(form).image, array), form if isinstance(form, dict) else type(form)
    for wrong in ({"type": "url", "value": "https://example.com/x.png"}, {"type": "base64", "value": "%"}, {}, 7, None):
        with pytest.raises(ImageError):
            roboflow._picture(wrong)


def test_rotation_follows_the_original() -> None:
    """p_cam = (p_obj * s) @ R(q) + t, with canonical points (z up) and PyTorch3D camera axes, is our pose seen from there."""
    rng = np.random.default_rng(3)
    q = rng.normal(size=4)
    pose = Pose(tuple(q / np.linalg.norm(q)), (0.3, -0.2, -2.0), 0.7)
    told = compat.metadata(pose)
    w, x, y, z = told["rotation"]
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    ours = rng.normal(size=(5, 3))
    canonical = np.stack([ours[:, 0], -ours[:, 2], ours[:, 1]], axis=1)
    camera = canonical * told["scale"] @ turn + told["translation"]
    assert np.allclose(camera * [-1, 1, -1], pose.apply(ours))


def test_switches_become_options() -> None:
    request = Sam3_3D_Objects_InferenceRequest(
        image=pixels(),
        mask_input=FLAT,
        with_mesh_postprocess=False,
        with_texture_baking=False,
        use_distillations=True,
        settings={"seed": 4},
    )
    made = roboflow._request(request)
    assert (made.sam3d.mesh, made.sam3d.texture, made.sam3d.few_step, made.seed) == ("raw", "colors", True, 4)
    plain = roboflow._request(dataclasses.replace(request, with_mesh_postprocess=True, with_texture_baking=True, use_distillations=False))
    assert (plain.sam3d.mesh, plain.sam3d.texture, plain.sam3d.few_step) == ("clean", None, None)


def test_what_is_not_wanted_is_left_out(model: SegmentAnything3_3D_Objects) -> None:
    response = model.infer(pixels(), FLAT, output_meshes=False, output_scene=False, unknown_of_theirs=1)
    assert response.mesh_glb is None and response.gaussian_ply is None
    assert response.objects[0].mesh_glb is None and response.objects[0].gaussian_ply is not None


def test_wrong_input() -> None:
    with pytest.raises(OptionError):
        get_model("yolov8n-640")
    for mask in (None, [], "nonsense"):
        with pytest.raises((MaskError, OptionError)):
            roboflow._request(Sam3_3D_Objects_InferenceRequest(image=pixels(), mask_input=mask))
