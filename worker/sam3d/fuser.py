"""The six (or four) conditioning inputs -> one sequence of context tokens (spec: stage1.md 3.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LayerNorm32

# (input, group) by embedder; a group is a learned offset that tells crop from whole picture
IMAGE_INPUTS = (("image", "cropped"), ("rgb_image", "full"))
MASK_INPUTS = (("mask", "cropped"), ("rgb_image_mask", "full"))
POINT_INPUTS = (("pointmap", "cropped"), ("rgb_pointmap", "full"))


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), without biases; the hidden width is 2/3 of 4 times the output's, rounded up to a multiple of 256."""

    def __init__(self, width_in: int, width_out: int, multiplier: float = 4.0) -> None:
        super().__init__()
        hidden = int(2 * int(multiplier * width_out) / 3)
        hidden = 256 * ((hidden + 255) // 256)
        self.w1 = nn.Linear(width_in, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width_out, bias=False)
        self.w3 = nn.Linear(width_in, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class EmbedderFuser(nn.Module):
    """Embedders with the inputs that each of them reads -> context (B, tokens, width), inputs in the order given.

    embedders: (module, ((input, group), ...)) pairs. The output is as wide as the widest embedder. Keys: module_list, projection_nets, idx_emb.
    """

    def __init__(self, embedders: Sequence[tuple[nn.Module, Sequence[tuple[str, str]]]], multiplier: float = 4.0) -> None:
        super().__init__()
        widths = [int(module.width) for module, _ in embedders]  # type: ignore[arg-type]
        self.width = max(widths)
        self.module_list = nn.ModuleList(module for module, _ in embedders)
        self.projection_nets = nn.ModuleList(
            nn.Sequential(LayerNorm32(width, eps=1e-5), SwiGLU(width, self.width, multiplier)) for width in widths
        )
        groups = list(dict.fromkeys(group for _, inputs in embedders for _, group in inputs))
        self.routes = [(name, index, groups.index(group)) for index, (_, inputs) in enumerate(embedders) for name, group in inputs]
        self.idx_emb = nn.Parameter(torch.zeros(len(groups) + 1, self.width))  # the last row is in the file, never used

    def forward(self, inputs: Mapping[str, Tensor], drop: Iterable[str] = ()) -> Tensor:
        """inputs: name -> tensor (B, ...). `drop`: inputs whose tokens are zeroed (they stay in the sequence)."""
        dropped = set(drop)
        parts = []
        for name, index, group in self.routes:
            tokens = self.project(index, group, self.embed(index, inputs[name]))
            parts.append(0 * tokens if name in dropped else tokens)
        return torch.cat(parts, dim=1)

    def embed(self, index: int, x: Tensor) -> Tensor:
        """Input (B, ...) -> the tokens of embedder `index`, (B, T, its width)."""
        return self.module_list[index](x)

    def project(self, index: int, group: int, tokens: Tensor) -> Tensor:
        """Tokens (B, T, its width) -> (B, T, width) with the group's offset, in the weights' dtype."""
        return self.projection_nets[index](tokens.to(self.idx_emb.dtype)) + self.idx_emb[group]
