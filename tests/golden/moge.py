"""How each kind of golden/moge is replayed: the file's inputs and weights through vendor/moge, one function per kind.

A function takes a `File` and returns {name: tensor} under the file's own names; all `out.`, `mid.`, `aux.` and `infer*.` of the file must be there.
`differences` reads a file (its format: the README beside it) and compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfyui_sam3d.vendor.moge import checkpoint, focal
from comfyui_sam3d.vendor.moge.config import ViTSize
from comfyui_sam3d.vendor.moge.infer import infer
from safetensors import safe_open

from . import replay


@dataclass
class File:
    meta: dict[str, Any]
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    wanted: dict[str, torch.Tensor] = field(default_factory=dict)

    def model(self):
        size = self.meta["backbone"]
        vit = ViTSize(size["embed_dim"], size["depth"], size["num_heads"], size["img_size"], size["patch_size"])
        return checkpoint.fill(self.meta["config"], self.state, vit)

    @property
    def tokens(self) -> int:
        return int(self.meta["num_tokens"])


def read(path: Path) -> File:
    with safe_open(str(path), "pt") as source:
        meta = source.metadata()
        file = File({**meta, **{name: json.loads(meta[name]) for name in ("config", "backbone") if name in meta}})
        for name in source.keys():  # noqa: SIM118 - no mapping
            prefix, _, rest = name.partition(".")
            if prefix == "in":
                file.inputs[rest] = source.get_tensor(name)
            elif prefix == "sd":
                file.state[rest] = source.get_tensor(name)
            else:
                file.wanted[name] = source.get_tensor(name)
    return file


def tolerance(name: str, want: torch.Tensor) -> float:
    """As the README has them: absolute for what the network gives, relative for what follows from the solver."""
    finite = want.double()[want.isfinite()].abs()
    if name.startswith("out.focal") or name.startswith("out.shift"):
        return 1e-3 * float(finite.mean()) + 1e-6
    if name.startswith("infer"):
        return 2e-3 * float(finite.mean())
    return {"mid": 1e-4, "aux": 1e-6}.get(name.partition(".")[0], 2e-4)


def differences(path: Path) -> list[str]:
    """What our modules make otherwise than the file says, in words; empty where nothing."""
    file = read(path)
    if not any(name.startswith("out.") for name in file.wanted):
        return ["a golden file without outputs checks nothing"]
    got = KINDS[replay.kind_of(path)](file)
    return [problem for name, want in file.wanted.items() for problem in replay.compare(got, {name: want}, tolerance(name, want))]


def moge_v1(file: File) -> dict[str, torch.Tensor]:
    model = file.model()
    with torch.inference_mode():
        resized, patched = model.prepare(file.inputs["image"][None], file.tokens)
        taps = model.backbone(patched, model.config.taps)
        found = model(file.inputs["image"][None], file.tokens)
    got = {"mid.image_resized_norm": resized, "mid.image_14": patched, "out.points": found.points, "out.mask_logit": found.mask}
    for index, (patches, cls) in enumerate(taps):
        got |= {f"mid.feat{index}": patches, f"mid.cls{index}": cls}
    return got | _camera(model, found) | _inferred(model, file, masked=("infer",))


def moge_v2(file: File) -> dict[str, torch.Tensor]:
    model = file.model()
    with torch.inference_mode():
        found = model(file.inputs["image"][None], file.tokens)
    got = {"out.points": found.points, "out.normal": found.normal, "out.mask_prob": found.mask, "out.metric_scale": found.scale}
    return {name: value for name, value in got.items() if value is not None} | _camera(model, found) | _inferred(model, file)


def _camera(model, found) -> dict[str, torch.Tensor]:
    mask = None if found.mask is None else (found.mask[0] > model.mask_threshold).numpy()
    return _scalars(dict(zip(("out.focal", "out.shift"), focal.recover(found.points[0].numpy(), mask))))


def _inferred(model, file: File, masked: tuple[str, ...] | None = None) -> dict[str, torch.Tensor]:
    """`infer` once for each set of options that the file names. In files of version 1 (`masked` given) only plain `infer` is masked."""
    got = {}
    for call in {name.partition(".")[0] for name in file.wanted if name.startswith("infer")}:
        options: dict[str, Any] = {"apply_mask": masked is None or call in masked}
        for word in call.split("_")[1:]:
            if word.startswith("fov"):
                options["fov_x"] = float(word.removeprefix("fov"))
            else:
                options |= {"proj": {"force_projection": True}, "nomask": {"apply_mask": False}}[word]
        made = infer(model, file.inputs["image"], num_tokens=file.tokens, **options)
        got |= {f"{call}.{name}": value for name, value in vars(made).items() if value is not None}
    return got


def moge_focal_shift(file: File) -> dict[str, torch.Tensor]:
    points, mask = file.inputs["points"].numpy(), file.inputs["mask"].numpy()
    one_pixel = np.zeros_like(mask)
    one_pixel[0, 0] = True
    masked, bare, lone = focal.recover(points, mask), focal.recover(points), focal.recover(points, one_pixel)
    _, given = focal.recover(points, mask, float(file.inputs["focal_given"]))
    numbers = {
        "out.focal_masked": masked[0], "out.shift_masked": masked[1], "out.focal_nomask": bare[0], "out.shift_nomask": bare[1],
        "out.focal_degenerate": lone[0], "out.shift_degenerate": lone[1], "out.shift_given_focal": given,
    }  # fmt: skip
    return {**_scalars(numbers), "aux.uv": torch.from_numpy(focal.places(*mask.shape))}


def _scalars(numbers: dict[str, float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([value]) for name, value in numbers.items()}


KINDS = {"moge_v1": moge_v1, "moge_v2": moge_v2, "moge_focal_shift": moge_focal_shift}
