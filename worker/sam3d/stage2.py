"""The networks of stage 2 as the official files hold them: where each stands, and which of its weights are half precision (spec: stage2.md 11, 12)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .checkpoint import find, load
from .latent_flow import LatentFlow
from .latents import stage2_fuser
from .mesh_decoder import MeshDecoder
from .sparse import Kernel
from .splat_decoder import SplatDecoder

TORSO = ("input_blocks", "blocks", "out_blocks", "upsample")  # what runs in half precision; both ends stay float32


@dataclass(frozen=True)
class Part:
    """stem of the file, prefix of the part's keys in it, and how the part is built."""

    stem: str
    prefix: str
    build: Callable[[], nn.Module]


PARTS = {
    "flow": Part("slat_generator", "_base_models.generator.reverse_fn.backbone.", LatentFlow),
    "embedder": Part("slat_generator", "_base_models.condition_embedder.", stage2_fuser),
    "splats": Part("slat_decoder_gs", "", SplatDecoder),
    "splats_4": Part("slat_decoder_gs_4", "", functools.partial(SplatDecoder, 4)),
    "mesh": Part("slat_decoder_mesh", "", MeshDecoder),
}


def load_part(folder: str | Path, name: str, *, torso: torch.dtype | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """A part of PARTS from a folder in the official layout, strictly. torso: the dtype of its torso; None keeps what is stored. Raises SetupError."""
    part = PARTS[name]
    module = load(part.build, find(folder, part.stem), part.prefix, device=device)
    return module if torso is None else mix_precision(module, torso)


def mix_precision(module: nn.Module, dtype: torch.dtype = torch.float16) -> nn.Module:
    """In place: `dtype` for the torso's matrices, kernels and their biases; norms, gammas and both ends stay as they are."""
    for name in TORSO:
        for layer in getattr(module, name, nn.Module()).modules():
            if isinstance(layer, (nn.Linear, Kernel)):
                layer.to(dtype)
    return module
