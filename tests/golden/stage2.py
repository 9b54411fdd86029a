"""How each kind of golden/stage2 is replayed: the file's inputs and weights through our modules, one function per kind.

A function takes a `File` and returns {name: tensor} under the file's own names: every `out.`, `ref32.` and `autocast.` of the file must be
there, a `mid.` may. `differences` reads a file (its format differs from stage 1's: the README beside it) and compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from comfyui_sam3d.worker.sam3d import occupancy
from comfyui_sam3d.worker.sam3d.latent_flow import LatentFlow, ModulatedBlock, SparseResBlock
from comfyui_sam3d.worker.sam3d.sparse import PointwiseConv, SubmanifoldConv3, Voxels, WindowedBlock, pool
from safetensors import safe_open

from . import replay

WANTED = ("out", "ref32", "autocast")  # what must be reproduced


@dataclass
class File:
    meta: dict[str, Any]
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    wanted: dict[str, torch.Tensor] = field(default_factory=dict)
    mid: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        return self.meta["config"]

    def tolerance(self, name: str) -> float:
        last = name.rpartition(".")[2]
        if name.startswith("ref32."):
            return float(self.meta.get("tol_ref32", 2e-4))
        if last == "ply_table":
            return float(self.meta["tol_ply_abs"])
        if last == "face_normal":
            return 1e-4
        if name in self.mid and self.mid[name].dtype == torch.float16:
            return 0.05
        return float(self.meta["tol_abs"])


def read(path: Path) -> File:
    with safe_open(str(path), "pt") as source:
        file = File(json.loads(source.metadata()["meta"]))
        for name in source.keys():  # noqa: SIM118 - no mapping
            prefix, _, rest = name.partition(".")
            tensor = source.get_tensor(name)
            if prefix == "in":
                file.inputs[rest] = tensor
            elif prefix == "state":
                file.state[rest] = tensor
            elif prefix == "state8":
                file.state[rest] = (tensor.float() * file.meta["int8_scale"][rest]).half()
            else:
                (file.wanted if prefix in WANTED else file.mid)[name] = tensor
    return file


def differences(path: Path) -> list[str]:
    """What our modules make otherwise than the file says, in words; empty where nothing."""
    file = read(path)
    if not file.wanted:
        return ["a golden file without outputs checks nothing"]
    with torch.inference_mode():
        got = KINDS[replay.kind_of(path)](file)
    wrong = []
    for name, want in (file.wanted | file.mid).items():
        if name in file.wanted or name in got:
            wrong += replay.compare(got, {name: want}, file.tolerance(name))
    return wrong


def _loaded(module, state, dtype=None):
    """The module with its tensors, each in its own dtype; `dtype` for all of them."""
    module.load_state_dict({k: v if dtype is None else v.to(dtype) for k, v in state.items()}, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def sparse_conv(file):
    sizes, x = (file.config["in_channels"], file.config["out_channels"]), file.inputs
    if file.config["kernel_size"] == 1:
        return {"out.feats": _loaded(PointwiseConv(*sizes), file.state)(x["feats"])}
    return {"out.feats": _loaded(SubmanifoldConv3(*sizes), file.state)(x["feats"], Voxels(x["coords"]))}


def sparse_resblock(file):
    config, x = file.config, file.inputs
    how = "down" if config["downsample"] else "up" if config["upsample"] else "keep"
    block = _loaded(SparseResBlock(config["channels"], config["out_channels"], config["emb_channels"], how), file.state)
    voxels = Voxels(x.get("fine_coords", x["coords"]))
    out = {"out.feats": block(x["feats"], x["emb"], voxels), "out.coords": voxels.coords}
    if how == "down":
        out |= {
            "out.coords": voxels.coarse.coords,
            "mid.downsample_coords": voxels.coarse.coords,
            "mid.downsample_feats": pool(x["feats"], voxels),
        }
    if how == "up":
        assert torch.equal(voxels.coarse.coords, x["coords"])
    return out


def windowed_block(file):
    config, x = file.config, file.inputs
    block = WindowedBlock(config["channels"], config["num_heads"], config["mlp_ratio"], config["window_size"], config["shift_window"])
    _loaded(block, file.state)
    voxels = Voxels(x["coords"])
    return {"out.feats": block(x["feats"], voxels), "mid.attn_out": block.attn(block.norm(x["feats"]), voxels)}


def modulated_cross_block(file):
    config, x = file.config, file.inputs
    block = _loaded(ModulatedBlock(config["channels"], config["ctx_channels"], config["num_heads"], config["mlp_ratio"]), file.state)
    return {"out.feats": block(x["feats"], x["mod"], x["context"], Voxels(x["coords"]))}


def _flow(config):
    return LatentFlow(
        config["model_channels"], config["cond_channels"], config["num_blocks"], config["num_heads"], config["mlp_ratio"],
        config["io_block_channels"], config["num_io_res_blocks"], config["in_channels"],
    )  # fmt: skip


def slat_flow(file):
    x, voxels = file.inputs, Voxels(file.inputs["coords"])

    def velocities(prefix, model):
        return {
            f"{prefix}.velocity_cond": model(x["x"][0], x["t"], x["cond"], voxels)[None],
            f"{prefix}.velocity_uncond": model(x["x"][0], x["t"], 0 * x["cond"], voxels)[None],
        }

    out = velocities("out", _loaded(_flow(file.config), file.state))
    if file.config["use_fp16"]:
        out |= {name.replace("out.", "autocast."): value for name, value in out.items()}
        return {**out, **velocities("ref32", _loaded(_flow(file.config), file.state, torch.float32))}
    return {**out, "mid.coarse_coords": voxels.coarse.coords, "mid.pos_emb": voxels.coarse.positions(file.config["model_channels"])}


def coords_stage2(file):
    pruned = occupancy.prune(file.inputs["coords"])
    small, factor = occupancy.halve(pruned, file.config["max_coords"])
    assert factor == file.meta["returned_factor"]
    return {"out.pruned": pruned, "out.downsampled": small}


KINDS = {
    "sparse_conv": sparse_conv, "sparse_resblock": sparse_resblock, "windowed_block": windowed_block, "modulated_cross_block": modulated_cross_block,
    "slat_flow": slat_flow, "coords_stage2": coords_stage2,
}  # fmt: skip
