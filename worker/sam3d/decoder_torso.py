"""The windowed transformer that the splat decoders and the mesh decoder begin with, each with weights of its own (spec: stage2.md section 7)."""

from __future__ import annotations

from torch import Tensor, nn

from .latent_flow import LATENT_CHANNELS
from .sparse import Voxels, WindowedBlock


class DecoderTorso(nn.Module):
    """Latents (N, 8) -> features (N, width) on the same voxels. Keys input_layer, blocks; odd blocks' windows are shifted by half a window.

    The input layer and the position embedding are float32, the blocks run in their weights' dtype.
    """

    def __init__(
        self, width: int = 768, blocks: int = 12, heads: int = 12, mlp_ratio: float = 4, window: int = 8, latent: int = LATENT_CHANNELS
    ) -> None:
        super().__init__()
        self.width = width
        self.input_layer = nn.Linear(latent, width)
        self.blocks = nn.ModuleList(WindowedBlock(width, heads, mlp_ratio, window, shift=i % 2 * (window // 2)) for i in range(blocks))

    def torso(self, latents: Tensor, voxels: Voxels) -> Tensor:
        """Denormalised latents (N, 8) -> (N, width), in the blocks' dtype."""
        h = self.input_layer(latents.to(self.input_layer.weight.dtype)) + voxels.positions(self.width)
        h = h.to(self.blocks[0].attn.to_qkv.weight.dtype)  # type: ignore[union-attr, arg-type]
        for block in self.blocks:
            h = block(h, voxels)
        return h
