"""The engine's networks as the official files hold them: which file, which keys in it, how each is built, in which precision it runs.

The released model is `Architecture()`. Other sizes exist for tests: same keys, smaller shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .dino import Dino
from .flow import SparseStructureFlow
from .fuser import IMAGE_INPUTS, MASK_INPUTS, POINT_INPUTS, EmbedderFuser
from .latent_flow import LatentFlow
from .mesh_decoder import MeshDecoder
from .occupancy import OccupancyDecoder
from .point_patch import PointPatchEmbed
from .sparse import Kernel
from .splat_decoder import SplatDecoder

BACKBONE, EMBEDDER = "_base_models.generator.reverse_fn.backbone.", "_base_models.condition_embedder."
TORSO = ("input_blocks", "blocks", "out_blocks", "upsample")  # what of stage 2 runs in half precision; both ends stay float32
Options = Mapping[str, Any]


def mix_precision(module: nn.Module, dtype: torch.dtype = torch.float16) -> nn.Module:
    """In place: `dtype` for the matrices, kernels and their biases inside TORSO; norms, gammas and both ends stay as they are."""
    for name in TORSO:
        for layer in getattr(module, name, nn.Module()).modules():
            if isinstance(layer, (nn.Linear, Kernel)):
                layer.to(dtype)
    return module


@dataclass(frozen=True)
class Part:
    """One network. stem: of its file; prefix: of its keys there. mixed: only the torso takes the working precision (stage2.md section 11)."""

    stem: str
    prefix: str
    build: Callable[[], nn.Module]
    mixed: bool = False

    def to_precision(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        """In place. Stage 1's networks run in one dtype throughout; stage 2's keep their ends in float32."""
        return mix_precision(module, dtype) if self.mixed else module.to(dtype)


@dataclass(frozen=True)
class Architecture:
    """The sizes of all networks, as keyword arguments of their classes; empty: the released model's.

    size: of the pictures that the vision transformers read. grid: voxels along a side of stage 1's result.
    """

    size: int = 518
    grid: int = 64
    vit: Options = field(default_factory=dict)
    points: Options = field(default_factory=dict)
    structure_flow: Options = field(default_factory=dict)
    structure_decoder: Options = field(default_factory=dict)
    latent_flow: Options = field(default_factory=dict)
    splats: Options = field(default_factory=dict)
    mesh: Options = field(default_factory=dict)

    def parts(self) -> dict[str, Part]:
        """Every network by its name here."""
        return {
            "structure_embedder": Part("ss_generator", EMBEDDER, self._stage1_embedder),
            "structure_flow": Part("ss_generator", BACKBONE, lambda: SparseStructureFlow(**self.structure_flow)),
            "structure_decoder": Part("ss_decoder", "", lambda: OccupancyDecoder(**self.structure_decoder)),
            "latent_embedder": Part("slat_generator", EMBEDDER, self._stage2_embedder),
            "latent_flow": Part("slat_generator", BACKBONE, lambda: LatentFlow(**self.latent_flow), mixed=True),
            "splats": Part("slat_decoder_gs", "", lambda: SplatDecoder(32, resolution=self.grid, **self.splats), mixed=True),
            "splats_4": Part("slat_decoder_gs_4", "", lambda: SplatDecoder(4, resolution=self.grid, **self.splats), mixed=True),
            "mesh": Part("slat_decoder_mesh", "", lambda: MeshDecoder(resolution=self.grid, **self.mesh), mixed=True),
        }

    def _stage1_embedder(self) -> EmbedderFuser:
        """Pictures, masks and point maps: 7528 tokens of width 1024 in the released model."""
        return EmbedderFuser(
            [(self._dino(False), IMAGE_INPUTS), (self._dino(False), MASK_INPUTS), (PointPatchEmbed(**self.points), POINT_INPUTS)]
        )

    def _stage2_embedder(self) -> EmbedderFuser:
        """Pictures and masks, from before the transformers' last norm: 5496 tokens."""
        return EmbedderFuser([(self._dino(True), IMAGE_INPUTS), (self._dino(True), MASK_INPUTS)])

    def _dino(self, prenorm: bool) -> Dino:
        return Dino(self.size, prenorm=prenorm, **self.vit)


# Small enough to run on a CPU within seconds, yet with every part. Group norms want 32 channels at the mesh decoder's end.
TINY = Architecture(
    size=28,
    grid=16,
    vit={"width": 48, "depth": 2, "heads": 3},
    points={"size": 16, "patch": 4, "width": 32, "heads": 2},
    structure_flow={"width": 48, "context": 48, "blocks": 2, "heads": 3, "resolution": 4},
    structure_decoder={"channels": (16, 16, 8), "blocks": 1, "middle": 1},
    latent_flow={"width": 48, "context": 48, "blocks": 2, "heads": 3, "io_channels": (32,)},
    splats={"width": 48, "blocks": 2, "heads": 3},
    mesh={"width": 256, "blocks": 1, "heads": 4, "mlp_ratio": 0.25},
)
