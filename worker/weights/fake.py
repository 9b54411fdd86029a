"""Random weights in the official layout, so that everything runs without the official ones. They know nothing of pictures.

Noise alone would make noise: no voxel, or half of them. So a few layers are set by hand, at every size, such that the chain makes a thing with a surface:
stage 1's shape becomes a ball whatever the noise was, splats are opaque and as large as a voxel, the mesh decoder calls all of an occupied voxel inside.
Speed and memory are those of real weights; the result is a ball with noise for colours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...contract.errors import OutputError
from ...vendor.moge import checkpoint as moge_files
from ...vendor.moge.config import OFFICIAL_V1, ViTSize
from ...vendor.moge.model import MoGeV1
from ..sam3d.architecture import TINY, Architecture
from ..sam3d.flexicubes import COLOR, SDF
from ..sam3d.flow import SHAPE, SparseStructureFlow
from ..sam3d.mesh_decoder import MeshDecoder
from ..sam3d.occupancy import OccupancyDecoder, Upsample3d
from ..sam3d.splat_decoder import SplatDecoder
from . import config, files, layout

WARNING = "Made with random weights (sam3d weights fake): not a reconstruction of the picture."
# MoGe at a tiny size: a name that only our own files have.
MOGE_VITS = {"sam3d_tiny": ViTSize(width=32, depth=3, heads=2, native=56)}
TINY_MOGE = {
    "encoder": "sam3d_tiny", "remap_output": "exp", "intermediate_layers": 2, "dim_proj": 32, "dim_upsample": [32, 32], "num_tokens_range": [16, 64],
    "last_conv_channels": 8,
}  # fmt: skip
# How the official files hold their tensors: under `state_dict` or bare, and in which precision (None: mixed, stage2.md 12.1).
_NESTED = ("ss_generator", "slat_generator")
_STORED: dict[str, torch.dtype | None] = {"ss_decoder": torch.float16, "slat_decoder_gs": None, "slat_decoder_gs_4": None}

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


def _plane_before_the_camera(moge: nn.Module) -> None:
    """Something everywhere: a shallow bowl, one and a half away, seen under about 50 degrees. A pixel's place is the last two channels of the head."""
    assert isinstance(moge, MoGeV1)
    points, mask = moge.head.output_block
    first, last = points[0], points[-1]
    middle = first.weight.shape[-1] // 2, last.weight.shape[-1] // 2
    for value in (last.weight, mask[-1].weight, mask[-1].bias):
        value.mul_(QUIET / SPREAD)
    first.weight[:4] = 0
    for channel, (place, sign) in enumerate([(-2, 1), (-2, -1), (-1, 1), (-1, -1)]):  # the positive and the negative part of u, then of v
        first.weight[channel, place, middle[0], middle[0]] = sign
        last.weight[channel // 2, channel, middle[1], middle[1]] = 0.5 * sign
        last.weight[2, channel, middle[1], middle[1]] = 0.1
    last.bias[2] += 0.4
    mask[-1].bias += 1.0


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
    MoGeV1: _plane_before_the_camera,
}


# -- the whole folder


def write(folder: Path, *, tiny: bool = False, seed: int = 0, report: Callable[..., None] = lambda *_, **__: None) -> None:
    """The official layout with random weights, full size (13 GB) or tiny (8 MB), file after file; the largest needs 7 GB of memory.

    pipeline.yaml and fake.json say what they are. Raises OutputError: a folder that holds anything but random weights, or a full disk.
    """
    import yaml

    ours = (folder / layout.FAKE_FILE).is_file()
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} isn't an empty folder.", "Name one that isn't there: random weights never replace others.")
    architecture = TINY if tiny else Architecture()
    if not tiny:
        files.check_space(folder, layout.MOGE_CHECKPOINT.about + sum(network.checkpoint.about for network in layout.NETWORKS))
    mark: dict[str, Any] = {"size": "tiny" if tiny else "full", "seed": seed}
    try:
        (folder / layout.MOGE).mkdir(parents=True, exist_ok=True)
        for old in [
            *folder.glob("*.safetensors"),
            *folder.glob("moge/*.safetensors"),
            folder / layout.RECORD_FILE,
            folder / layout.PIPELINE,
        ]:
            old.unlink(missing_ok=True)  # of earlier random weights
        (folder / layout.FAKE_FILE).write_text(json.dumps({"what": WARNING, **mark}), encoding="utf-8")
        for network in layout.NETWORKS:
            if not tiny:  # tiny ones are there before anybody has read it
                report("bytes", name=network.checkpoint.name, what="making", done=0, total=network.checkpoint.about)
            _save(_checkpoint(architecture, network.stem, seed), folder / network.checkpoint.name, report)
        settings = TINY_MOGE if tiny else OFFICIAL_V1
        model = fill(moge_files.build(settings, MOGE_VITS.get(str(settings["encoder"]))), seed)
        _save({"model_config": dict(settings), "model": model.state_dict()}, folder / layout.MOGE_FILE, report)
        for name, tree in config.documents(architecture).items():
            tree = {**tree, layout.FAKE_KEY: mark} if name == layout.PIPELINE else tree
            (folder / name).write_text(yaml.dump(tree, Dumper=_plain_dumper(), sort_keys=False), encoding="utf-8")
    except OSError as problem:
        raise OutputError(f"{folder} can't be written: {problem.strerror or problem}.") from problem


def _checkpoint(architecture: Architecture, stem: str, seed: int) -> dict[str, Any]:
    """What torch.save gets for one file."""
    state: dict[str, Tensor] = {}
    for part in architecture.parts().values():
        duplicate = stem == "ss_generator" and part.stem == "ss_decoder"
        if part.stem == stem or duplicate:
            module = fill(part.build(), seed)
            stored = None if duplicate else _STORED.get(stem, torch.float32)
            if stem in _STORED:
                module = part.to_precision(module, torch.float16) if stored is None else module.to(stored)
            prefix = "_base_models.decoder." if duplicate else part.prefix
            state.update({prefix + name: value for name, value in module.state_dict().items()})
    return {"state_dict": state} if stem in _NESTED else state


def _save(data: dict[str, Any], path: Path, report: Callable[..., None]) -> None:
    aside = path.with_name(f".{path.name}.part")
    torch.save(data, aside)
    aside.replace(path)
    report("file", name=path.name, state="made", bytes=path.stat().st_size, text="random weights")


def _plain_dumper() -> Any:
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return Plain
