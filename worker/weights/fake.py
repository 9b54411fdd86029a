"""Random weights in the official layout, so that everything runs without the official ones. They know nothing of pictures.

Noise alone would make noise: no voxel, or half of them. So a few layers are set by hand, at every size, such that the chain makes a thing with a surface:
stage 1's shape becomes a ball whatever the noise was, splats are opaque and as large as a voxel, the mesh decoder calls all of an occupied voxel inside.
Speed and memory are those of real weights; the result is a ball with noise for colours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..sam3d.flexicubes import COLOR, SDF
from ..sam3d.flow import SHAPE, SparseStructureFlow
from ..sam3d.mesh_decoder import MeshDecoder
from ..sam3d.occupancy import OccupancyDecoder, Upsample3d
from ..sam3d.splat_decoder import SplatDecoder

RADIUS = 0.38  # of the ball, in sides of the grid
SPREAD = 0.02  # standard deviation of a matrix's entries
QUIET = 1e-3  # and of those that must not drown what was set by hand


def fill(module: nn.Module, seed: int) -> nn.Module:
    """Give a network fresh weights, in place, where it is; equal seeds, equal weights on the same kind of device. Returns it, in float32."""
    device = next(module.parameters()).device
    source = torch.Generator(device).manual_seed(seed)
    with torch.no_grad(), device:
        for name, value in module.named_parameters():
            value.copy_(_random(name, value, source))
        for kind, shape in _BY_HAND.items():
            if isinstance(module, kind):
                shape(module)
    return module.requires_grad_(False).eval()


def _random(name: str, value: Tensor, source: torch.Generator) -> Tensor:
    last = name.rsplit(".", 1)[-1]
    norm = value.ndim == 1 and last == "weight"
    if norm or last == "gamma":
        return torch.ones_like(value)
    if last == "bias":
        return torch.zeros_like(value)
    return torch.randn(value.shape, generator=source, device=source.device) * SPREAD


def _ball_flow(flow: nn.Module) -> None:
    """The velocity of the shape's tokens leads to a field that is positive inside a ball: read off the position embedding by least squares."""
    assert isinstance(flow, SparseStructureFlow)
    for name, value in flow.blocks.named_parameters():
        if "adaLN_modulation" in name or "to_out" in name:
            value.mul_(QUIET / SPREAD)
    mapping = flow.latent_mapping[SHAPE]
    side = flow.resolution
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0).flatten()
    target = (20 * (RADIUS - distance)).clamp(-6, 6)
    features = torch.nn.functional.layer_norm(mapping.pos_emb.double(), mapping.pos_emb.shape[-1:], eps=1e-5)
    columns = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    ridge = columns.T @ columns + 1e-6 * torch.eye(columns.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(ridge, columns.T @ target)
    mapping.out_layer.weight.copy_(solved[:-1].float().expand_as(mapping.out_layer.weight))
    mapping.out_layer.bias.fill_(float(solved[-1]))


def _sign_decoder(decoder: nn.Module) -> None:
    """Occupied where the latent's mean is positive: half of the channels carry it, half its opposite; upsampling is linear interpolation."""
    assert isinstance(decoder, OccupancyDecoder)
    for name, value in decoder.named_parameters():
        if "conv2" in name:
            value.mul_(QUIET / SPREAD)
    first, last = decoder.input_layer.weight, decoder.out_layer[2].weight
    first[:, :, 1, 1, 1] += _signs(len(first))[:, None] / first.shape[1]
    last[:, :, 1, 1, 1] += _signs(last.shape[1])
    for block in decoder.blocks:
        if isinstance(block, Upsample3d):
            block.conv.weight.copy_(_interpolation(block.conv.weight))


def _signs(count: int) -> Tensor:
    return torch.where(torch.arange(count) < count // 2, 1.0, -1.0)


def _interpolation(weight: Tensor) -> Tensor:
    """(8 out, in, 3, 3, 3): child (p, q, r) of output channel o is the mean, over the input channels of its half, of the linear interpolation."""
    out, width = len(weight) // 8, weight.shape[1]
    taps = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])  # child 0 leans back, child 1 forward
    kernel = torch.einsum("pi,qj,rk->pqrijk", taps, taps, taps)
    same = _signs(out)[:, None] == _signs(width)[None]
    mixing = same / same.sum(1, keepdim=True)
    return torch.einsum("oc,pqrijk->opqrcijk", mixing, kernel).reshape(weight.shape)


def _opaque_splats(decoder: nn.Module) -> None:
    assert isinstance(decoder, SplatDecoder)
    _, features, scaling, _, opacity = decoder.out_layer.bias.split([n * decoder.count for n in (3, 3, 3, 4, 1)])
    scaling += 1.2 if decoder.count > 8 else 2.0
    opacity += 6.0
    features += torch.tensor([0.9, 0.3, -0.6]).repeat(decoder.count)


def _solid_mesh(decoder: nn.Module) -> None:
    assert isinstance(decoder, MeshDecoder)
    decoder.out_layer.weight[SDF] *= QUIET / SPREAD
    decoder.out_layer.bias[SDF] -= 1.0
    decoder.out_layer.bias[COLOR] += torch.tensor([1.2, 0.4, -0.8, 0.0, 0.0, 0.0]).repeat(8)


_BY_HAND: dict[type[nn.Module], Callable[[nn.Module], None]] = {
    SparseStructureFlow: _ball_flow,
    OccupancyDecoder: _sign_decoder,
    SplatDecoder: _opaque_splats,
    MeshDecoder: _solid_mesh,
}
