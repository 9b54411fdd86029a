"""The windowed transformer that the splat decoders and the mesh decoder begin with, each with weights of its own (spec: stage2.md section 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.fused import linear_gelu, residual_norm
from .latent_flow import LATENT_CHANNELS
from .sparse import Voxels, WindowedBlock


class DecoderTorso(nn.Module):
    """Latents (N, 8) -> features (N, width) on the same voxels. Keys input_layer, blocks; odd blocks' windows are shifted by half a window.

    The input layer, the position embedding and the residual stream are float32, the blocks' products run in their weights' dtype.
    """

    def __init__(
        self, width: int = 768, blocks: int = 12, heads: int = 12, mlp_ratio: float = 4, window: int = 8, latent: int = LATENT_CHANNELS
    ) -> None:
        super().__init__()
        self.width = width
        self.input_layer = nn.Linear(latent, width)
        self.blocks = nn.ModuleList(WindowedBlock(width, heads, mlp_ratio, window, shift=i % 2 * (window // 2)) for i in range(blocks))

    def stream(self, latents: Tensor, voxels: Voxels) -> Tensor:
        """Denormalised latents (N, 8) -> the residual stream after the last block, float32 (N, width).

        The same as one `WindowedBlock` after the other, with each norm fused with the addition before it.
        """
        entry, update = self.input_layer, None
        x = (entry(latents.to(entry.weight.dtype)) + voxels.positions(self.width)).float()
        for block in self.blocks:
            h = residual_norm(x, update, None, None, None, eps=block.norm.eps, dtype=self.dtype)  # type: ignore[arg-type, union-attr]
            update = block.attn(h, voxels)  # type: ignore[operator]
            h = residual_norm(x, update, None, None, None, eps=block.norm.eps, dtype=self.dtype)  # type: ignore[arg-type, union-attr]
            up, _, down = block.mlp.mlp  # type: ignore[union-attr]
            update = down(linear_gelu(h, up.weight, up.bias))
        return x if update is None else x.add_(update)

    @property
    def dtype(self) -> torch.dtype:
        """What the blocks run in."""
        return self.blocks[0].attn.to_qkv.weight.dtype  # type: ignore[union-attr, return-value]

    def torso(self, latents: Tensor, voxels: Voxels) -> Tensor:
        """`stream` in the blocks' dtype."""
        return self.stream(latents, voxels).to(self.dtype)
