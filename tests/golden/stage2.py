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
from comfyui_sam3d.worker.sam3d import flexicubes, gaussians, latents, occupancy, scene_merge, splat_decoder
from comfyui_sam3d.worker.sam3d.dino import Dino
from comfyui_sam3d.worker.sam3d.fuser import IMAGE_INPUTS, MASK_INPUTS, EmbedderFuser
from comfyui_sam3d.worker.sam3d.latent_flow import LatentFlow, ModulatedBlock, SparseResBlock
from comfyui_sam3d.worker.sam3d.latent_flow_cached import CachedLatentFlow, Grid
from comfyui_sam3d.worker.sam3d.mesh_decoder import MeshDecoder, SubdivideBlock
from comfyui_sam3d.worker.sam3d.pose import DecodedPose
from comfyui_sam3d.worker.sam3d.sampler import SamplerOptions
from comfyui_sam3d.worker.sam3d.sparse import PointwiseConv, SubmanifoldConv3, Voxels, WindowedBlock, pool, subdivide
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
    kind = replay.kind_of(path)
    wrong = []
    for way in (KINDS[kind], *SECOND.get(kind, ())):
        with torch.inference_mode():
            wrong += [f"{way.__name__}: {line}" for line in _compared(way(file), file)]
    return wrong


def _compared(got: dict[str, torch.Tensor], file: File) -> list[str]:
    wrong = []
    for name, want in (file.wanted | file.mid).items():
        if name in file.wanted or name in got:
            if "rows_badly_conditioned" in file.meta and name in got and name.endswith(("._opacity", ".ply_table")):
                # Logits of opacities next to 1: these rows have a tolerance of their own.
                rows = slice(*file.meta["rows_badly_conditioned"])
                wrong += replay.compare({name: got[name][rows]}, {name: want[rows]}, file.meta["tol_badly_conditioned"])
                got[name], want = got[name].clone(), want.clone()
                got[name][rows] = want[rows] = 0
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


def slat_flow_cached(file):
    x, voxels, time = file.inputs, Voxels(file.inputs["coords"]), float(file.inputs["t"])

    def velocities(prefix, model):
        flow = CachedLatentFlow(model)
        row = flow.modulation_at(torch.tensor([time]))[0]
        found = flow.velocity(x["x"][0], row, flow.prepare(x["cond"]), Grid(voxels, model), guided=True)
        return {f"{prefix}.velocity_{name}": value[None] for name, value in zip(("cond", "uncond"), found)}

    out = velocities("out", _loaded(_flow(file.config), file.state))
    if file.config["use_fp16"]:
        out |= {name.replace("out.", "autocast."): value for name, value in out.items()}
        return {**out, **velocities("ref32", _loaded(_flow(file.config), file.state, torch.float32))}
    return out


def slat_sampling_plain(file):
    return slat_sampling(file, plain=True)


def slat_sampling(file, plain=False):
    x, sampler, states = file.inputs, file.meta["sampler"], []
    options = SamplerOptions(sampler["steps"], sampler["rescale_t"], sampler["cfg_strength"], tuple(sampler["cfg_interval"]))
    model, voxels = _loaded(_flow(file.config), file.state), Voxels(x["coords"])

    def keep(done, steps, latent):
        states.append(latent)

    found = latents.sample_latents(model, x["cond"], x["noise"][0], voxels, options, keep, plain=plain)
    return {
        "out.latent_normalised": found[None], "out.slat_feats": latents.denormalise(found), "mid.trajectory": torch.stack(states),
        "mid.t_seq": options.times(),
    }  # fmt: skip


class _Prenormed(Dino):
    """The end of the encoder alone: tokens before the last norm go in."""

    def __init__(self, width: int) -> None:
        super().__init__(14, prenorm=True, patch=14, width=width, depth=0, heads=1)

    def forward(self, x):
        return self.select(x)


def cond_fuser(file):
    image, mask = (_Prenormed(width) for width in file.config["embed_dims"])
    model = EmbedderFuser([(image, IMAGE_INPUTS), (mask, MASK_INPUTS)], file.config["projection_net_hidden_dim_multiplier"])
    assert file.config["order"] == [f"{name}:{group}" for name, group in IMAGE_INPUTS + MASK_INPUTS]
    fit = model.load_state_dict(file.state, strict=False)
    assert not fit.unexpected_keys and all(name.startswith("module_list.") for name in fit.missing_keys)
    return {"out.tokens": model({name.removeprefix("prenorm_"): value for name, value in file.inputs.items()})}


def _gaussian(prefix, splats, raw_only=False):
    raw = {f"{prefix}._{name}": getattr(splats, name) for name in ("xyz", "features_dc", "scaling", "rotation", "opacity")}
    if raw_only:
        return raw
    return raw | {
        f"{prefix}.get_xyz": splats.positions(), f"{prefix}.get_features": splats.features_dc, f"{prefix}.get_scaling": splats.scales(),
        f"{prefix}.get_rotation": splats.rotations(), f"{prefix}.get_opacity": splats.opacities(),
        f"{prefix}.ply_table": splats.records(),
    }  # fmt: skip


def _given(file, prefix=""):
    names = ("xyz", "features_dc", "scaling", "rotation", "opacity")
    assert (file.meta["gaussian_init"]["mininum_kernel_size"], file.meta["gaussian_init"]["scaling_bias"]) == (9e-4, 0.004)
    return gaussians.Gaussians(*(file.inputs[f"{prefix}_{name}"] for name in names))


def gs_decoder(file):
    config, x = file.config, file.inputs
    sizes = config["model_channels"], config["num_blocks"], config["num_heads"], config["mlp_ratio"], config["window_size"]
    voxels, out = Voxels(x["coords"]), {}
    for prefix, dtype in {"out": None, "ref32": torch.float32}.items():
        model = splat_decoder.SplatDecoder(
            config["representation_config"]["num_gaussians"], *sizes, config["latent_channels"], config["resolution"]
        )
        _loaded(model, file.state, dtype)
        if dtype is None:
            out["mid.torso"] = model.torso(x["feats"], voxels)
            assert torch.allclose(model.offset_perturbation, splat_decoder.offset_table(model.count), atol=1e-6)
        for index, splats in enumerate(model(x["feats"], voxels)):
            out |= _gaussian(f"{prefix}.{index}", splats)
    return out


def gs_offset(file):
    return {f"out.offset_perturbation_{count}": splat_decoder.offset_table(count) for count in (4, 8, 32)}


def gaussian_ply_io(file):
    splats = _given(file)
    table = splats.records()
    return {"out.ply_table": table, **_gaussian("out.loaded", gaussians.from_records(table))}


def scene_merge_(file):
    x, objects = file.inputs, []
    for index in range(file.meta["n_objects"]):
        pose = DecodedPose(*(x[f"{index}.{name}"] for name in ("translation", "rotation", "scale")))
        objects.append((_given(file, f"{index}."), pose))
    scene = scene_merge.make_scene(objects)
    made = {
        "scene": scene, "ready": scene_merge.normalise_scene(scene), "ready_fixalign": scene_merge.normalise_scene(scene, fix_alignment=True),
    }  # fmt: skip
    for name, splats in made.items():
        assert abs(splats.kernel / file.meta[f"{name}_min_kernel"] - 1) < 1e-5
    return {k: v for name, splats in made.items() for k, v in _gaussian(f"out.{name}", splats).items()}


def coords_stage2(file):
    pruned = occupancy.prune(file.inputs["coords"])
    small, factor = occupancy.halve(pruned, file.config["max_coords"])
    assert factor == file.meta["returned_factor"]
    return {"out.pruned": pruned, "out.downsampled": small}


def subdivide_block(file):
    config, x = file.config, file.inputs
    block = _loaded(SubdivideBlock(config["channels"], config["out_channels"], config["num_groups"]), file.state)
    voxels = Voxels(x["coords"])
    return {
        "out.feats": block(x["feats"], voxels), "out.coords": voxels.fine.coords, "mid.sub_coords": voxels.fine.coords,
        "mid.act": block.activate(x["feats"], voxels), "mid.skip": subdivide(block.skip_connection(x["feats"])),
    }  # fmt: skip


def _mesh_decoder(config):
    return MeshDecoder(
        config["model_channels"], config["num_blocks"], config["num_heads"], config["mlp_ratio"], config["window_size"],
        config["latent_channels"], config["resolution"],
    )  # fmt: skip


def mesh_decoder(file):
    x, model, voxels = file.inputs, _loaded(_mesh_decoder(file.config), file.state, torch.float32), Voxels(file.inputs["coords"])
    assert model.resolution == file.meta["res"]
    out = {"mid.torso": model.torso(x["feats"], voxels), "mid.cube_feats": model.features(x["feats"], voxels)}
    for index, mesh in enumerate(model(x["feats"], voxels)):
        out |= _surface(mesh, f"out.{index}")
    return out | {"mid.up1_coords": voxels.fine.fine.coords}


def mesh_decoder_features(file):
    x, voxels = file.inputs, Voxels(file.inputs["coords"])
    model = _loaded(_mesh_decoder(file.config), file.state)
    torso = model.torso(x["feats"], voxels)
    half = {"mid.torso": torso, "mid.up0": model.upsample[0](torso, voxels), "out.cube_feats": model.features(x["feats"], voxels)}
    exact = _loaded(_mesh_decoder(file.config), file.state, torch.float32).features(x["feats"], voxels)
    return {**half, "ref32.cube_feats": exact, "out.coords": voxels.fine.fine.coords}


def _surface(mesh, prefix="out"):
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    return {
        f"{prefix}.vertices": mesh.vertices, f"{prefix}.faces": mesh.faces, f"{prefix}.vertex_attrs": mesh.attributes, f"{prefix}.face_normal": normal,
    }  # fmt: skip


def _cases(grid):
    found = flexicubes.surface_cubes(grid)
    cases = flexicubes.resolve_ambiguous(found, grid.lattice.resolution)
    side, resolution = grid.lattice.resolution + 1, grid.lattice.resolution
    x, y, z = found.cubes // side**2, found.cubes // side % side, found.cubes % side
    dense = (x * resolution + y) * resolution + z
    return {"mid.surf_cubes": dense, "mid.case_ids_raw": found.case, "mid.case_ids": cases}


def flexicubes_sparse(file):
    x, side = file.inputs, file.config["res"]
    cubes = x["coords"][:, 1:]
    lattice = flexicubes.build_lattice(cubes, side)
    vertices, mean = lattice.vertices, flexicubes.average_corners(lattice, x["cube_feats"])[0]
    coords = torch.stack([vertices // (side + 1) ** 2, vertices // (side + 1) % (side + 1), vertices % (side + 1)], dim=1)
    mesh = flexicubes.extract_surface(cubes, x["cube_feats"], side)
    assert file.meta.get("success", True) == bool(len(mesh.faces))
    return {
        **_surface(mesh),
        **_cases(flexicubes.build_grid(cubes, x["cube_feats"], side)),
        "mid.vert_coords": coords,
        "mid.vert_attrs": mean,
    }


def flexicubes_grid(file):
    """A dense grid: every vertex and every cube is known, positions are final."""
    x, side = file.inputs, file.config["resolution"]
    values = torch.cat([x["grid_vertices"], torch.sigmoid(x["colors"])], dim=1)
    cubes = torch.cartesian_prod(*[torch.arange(side)] * 3)
    known = torch.zeros((side + 1) ** 3, dtype=torch.bool)
    grid = flexicubes.Grid(flexicubes.build_lattice(cubes, side), x["scalar_field"], values, known, x["weights"])
    return {**_surface(flexicubes.surface(grid)), **_cases(grid)}


KINDS = {
    "sparse_conv": sparse_conv, "sparse_resblock": sparse_resblock, "windowed_block": windowed_block, "modulated_cross_block": modulated_cross_block,
    "slat_flow": slat_flow, "slat_sampling": slat_sampling, "cond_fuser": cond_fuser, "coords_stage2": coords_stage2, "gs_decoder": gs_decoder,
    "gs_offset": gs_offset, "gaussian_ply_io": gaussian_ply_io, "scene_merge": scene_merge_,
    "subdivide_block": subdivide_block, "mesh_decoder": mesh_decoder, "mesh_decoder_features": mesh_decoder_features,
    "flexicubes_sparse": flexicubes_sparse, "flexicubes_grid": flexicubes_grid,
}  # fmt: skip
# Kinds that are computed in more ways than one, which must all fit.
SECOND = {"slat_flow": [slat_flow_cached], "slat_sampling": [slat_sampling_plain]}
