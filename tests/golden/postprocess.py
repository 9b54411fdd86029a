"""How golden/postprocess is replayed. Its files have names of their own instead of `in.` and `out.`, and tolerances in the README beside them.

KINDS: {kind: function(tensors, metadata) -> what differs, in words; empty where nothing}. A part with many kinds may have a file of its own and
merge its table here.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from comfyui_sam3d.worker.ops.cameras import hammersley, orbit, spherical_hammersley
from safetensors import safe_open

from . import postprocess_bake, postprocess_layout, postprocess_scene, replay


def differences(path: Path) -> list[str]:
    with safe_open(str(path), "pt") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if not tensors:
        return ["a golden file without outputs checks nothing"]
    return KINDS[meta["kind"]](tensors, meta)


def views(x, meta):
    radius, fov = float(meta["r"]), math.radians(float(meta["fov_deg"]))
    bake = spherical_hammersley(len(x["bake.yaw_pitch"]))
    fill = spherical_hammersley(len(x["fill.yaw_pitch"]), dtype=torch.float64)
    baking, filling = orbit(*bake, radius, fov), orbit(*fill, radius, fov)
    got = {
        "bake.yaw_pitch": torch.stack(bake, dim=1), "bake.extrinsics": baking.view, "bake.intrinsics": baking.intrinsics(),
        "bake.gl_view": baking.opengl_view(), "bake.gl_projection_near0.1_far10": baking.projection(0.1, 10),
        "gauss.projection_near0.8_far1.6": baking[:3].projection(0.8, 1.6, "inria"),
        "fill.yaw_pitch": torch.stack(fill, dim=1).float(), "fill.gl_view_every25": filling.opengl_view()[::25],
        "fill.gl_projection": filling[0].projection(1, 3)[0],
        "hammersley.remap_n30_off": torch.stack(spherical_hammersley(30, (0.3, 0.2), remap=True), dim=1),
        "hammersley.seq3_n32": hammersley(32, 3).float(),
    }  # fmt: skip
    return replay.compare({name: value.to(x[name].dtype) for name, value in got.items()}, x, 1e-6)


def turntable_cameras(x, meta):
    count = int(meta["frames"])
    around = torch.linspace(-math.pi / 2, 1.5 * math.pi, count)
    notebook = orbit(around, math.radians(15), 1.0, math.radians(60), up="y")
    turn = torch.linspace(0, 2 * 3.1415, count)
    library = orbit(turn, 0.25 + 0.5 * torch.sin(turn))
    got = {
        "yup.yaw": around, "yup.extrinsics": notebook.view, "yup.intrinsics": notebook.intrinsics(),
        "zup.yaw": turn, "zup.extrinsics": library.view, "zup.intrinsics": library.intrinsics(),
    }  # fmt: skip
    return replay.compare(got, x, 1e-6)


_OTHERS = (postprocess_bake, postprocess_layout, postprocess_scene)
KINDS = {"views": views, "turntable_cameras": turntable_cameras, **{kind: way for part in _OTHERS for kind, way in part.KINDS.items()}}
