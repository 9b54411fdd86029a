"""The published files -> these modules, key for key (spec: moge.md sections 1, 5, 6).

`model.pt` is a dict of `model_config` and `model` (the tensors). A `.safetensors` file holds the tensors alone; its configuration is the JSON under
`model_config` in the metadata, or, where there is none, that of the official file of version 1.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...contract.errors import SetupError
from .config import OFFICIAL_V1, ViTSize, is_v2, read_v1, read_v2
from .model import MoGeV1
from .model_v2 import MoGeV2

_AGAIN = "Fetch it again."
_CONSTANTS = ("image_mean", "image_std")  # stay float32 in every precision


def build(config: Mapping[str, Any], vit: ViTSize | None = None) -> MoGeV1 | MoGeV2:
    """The network that a `model_config` describes, version 1 or 2 as it says itself; `vit` replaces the backbone that it names.

    Raises SetupError, naming the entry that isn't implemented.
    """
    return MoGeV2(read_v2(config, vit)) if is_v2(config) else MoGeV1(read_v1(config, vit))


def load(path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> MoGeV1 | MoGeV2:
    """A network from its file, ready to run. dtype None: float16 on a GPU, float32 elsewhere. Raises SetupError."""
    config, tensors = read(Path(path))
    if dtype is None:
        dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    return fill(config, tensors, device=device, dtype=dtype)


def fill(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    vit: ViTSize | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MoGeV1 | MoGeV2:
    """`build` with these tensors. Keys that are missing, unknown, misshapen or no floating-point numbers are one SetupError that names them."""
    with torch.device("meta"):
        model = build(config, vit)
    wanted = model.state_dict()
    problems = {
        "lacks": sorted(wanted.keys() - tensors.keys()),
        "has unknown keys": sorted(tensors.keys() - wanted.keys()),
        "has misshapen tensors": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & tensors.keys())
            if tensors[name].shape != wanted[name].shape
        ],
        "has tensors that aren't floating-point numbers": sorted(k for k, v in tensors.items() if not v.is_floating_point()),
    }
    if any(problems.values()):
        told = "; it ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
        raise SetupError(f"The MoGe checkpoint {told}.", "Use one of the published MoGe models (v1 or v2), unchanged.")
    state = {
        name: tensor.to(device=device, dtype=torch.float32 if name.endswith(_CONSTANTS) else dtype).contiguous()
        for name, tensor in tensors.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a file, mapped into memory where its form allows. Raises SetupError."""
    if not path.is_file():
        raise SetupError(f"The MoGe weights {path} aren't there.", "Fetch model.pt of Ruicheng/moge-vitl, or name its place.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_torch(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as problem:  # torch raises whatever the damaged part raises
        raise SetupError(f"{path} can't be read as weights: {problem}.", f"{_AGAIN} Files that hold code are refused.") from problem
    config, tensors = (data.get(name) if isinstance(data, dict) else None for name in ("model_config", "model"))
    if not isinstance(config, dict) or not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise SetupError(f"{path} isn't a MoGe checkpoint: it must hold `model_config` and `model`.", _AGAIN)
    return config, tensors


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("model_config")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as problem:
        raise SetupError(f"{path} can't be read: {problem}.", _AGAIN) from problem
    if text is None:
        if any(name.startswith("encoder.") for name in tensors):
            raise SetupError(f"{path} is a MoGe of version 2 without its configuration.", "Use model.pt, which has it.")
        return dict(OFFICIAL_V1), tensors
    try:
        config = json.loads(text)
    except ValueError as problem:
        raise SetupError(f"{path} has a `model_config` that isn't JSON: {problem}.", _AGAIN) from problem
    if not isinstance(config, dict):
        raise SetupError(f"{path} has a `model_config` that isn't a table.", _AGAIN)
    return config, tensors


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
