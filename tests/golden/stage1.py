"""How each kind of golden/stage1 is replayed: the file's inputs and weights through our modules, one function per kind.

A function takes (tensors by name without `in.`, state dict, config) and returns {name: tensor} for the names under `out.`. KINDS has one for each kind;
SECOND has a further one where we compute a thing in two ways: the plain twin, and the batched and cached way that jobs take.
"""

from __future__ import annotations

import torch
from comfyui_sam3d.worker.sam3d import occupancy, pose, preprocess, structure
from comfyui_sam3d.worker.sam3d.dino import Dino
from comfyui_sam3d.worker.sam3d.flow import SparseStructureFlow, StepEmbedder, TwoStreamBlock, sincos_table
from comfyui_sam3d.worker.sam3d.flow_cached import CachedFlow
from comfyui_sam3d.worker.sam3d.fuser import EmbedderFuser
from comfyui_sam3d.worker.sam3d.point_patch import PointPatchEmbed
from comfyui_sam3d.worker.sam3d.sampler import Noise, SamplerOptions, draw, sample


def camera(x, sd, config):
    return {"points_pytorch3d": preprocess.opencv_to_pytorch3d(x["points_opencv"])}


def ssi(x, sd, config):
    points, scale, shift = preprocess.normalise(x["pointmap"], x["mask"])
    override, _, _ = preprocess.normalise(x["pointmap"], x["mask"], x["scale_override"], x["shift_override"])
    lone_scale, lone_shift = preprocess.moments(x["pointmap"], x["mask_invalid_only"])
    return {
        "pointmap": points, "scale": scale, "shift": shift, "pointmap_override": override,
        "scale_novalid": lone_scale, "shift_novalid": lone_shift,
    }  # fmt: skip


def preprocess_(x, sd, config):
    return _conditions(x["rgba"], x["pointmap"], config)


def preprocess_public(x, sd, config):
    rgba = preprocess.with_alpha(x["image"], x["mask"])
    pointmap = preprocess.match_pointmap(x["pointmap_hw3"], tuple(rgba.shape[:2]))
    return {"rgba": rgba, "pointmap_resized": pointmap, **_conditions(rgba, pointmap, config)}


def _conditions(rgba, pointmap, config):
    options = {"size": config["size"], "box_factor": config["box_size_factor"]}
    first = preprocess.preprocess(rgba, pointmap, **options)
    second = preprocess.preprocess(rgba, None, **options)
    moments = {f"{name}_{part}": getattr(first, part) for name in ("pointmap", "rgb_pointmap") for part in ("scale", "shift")}
    box = torch.tensor(preprocess.crop_box(rgba[..., 3], config["box_size_factor"]))
    return {**first.inputs(), **moments, "crop_bbox_xyxy": box, **{f"slat.{k}": v for k, v in second.inputs().items()}}


def _vit(config):
    vit = config["vit"]
    return Dino(
        config["input_size"], prenorm=config["prenorm_features"], patch=vit["patch_size"], width=vit["embed_dim"], depth=vit["depth"],
        heads=vit["num_heads"], registers=vit["num_register_tokens"],
    )  # fmt: skip


def dino(x, sd, config):
    model = _loaded(_vit(config), sd)
    return {"tokens_rgb": model(x["image"]), "tokens_mask": model(x["mask"])}


def _point_patch(config):
    """Heads and MLP ratio aren't in the metadata of the known files: the original's own defaults."""
    sizes = config["input_size"], config["patch_size"], config["embed_dim"]
    return PointPatchEmbed(*sizes, heads=config.get("num_heads", 16), mlp_ratio=config.get("mlp_ratio", 2))


def point_patch(x, sd, config):
    return {"tokens": _loaded(_point_patch(config), sd)(x["pointmap"])}


def point_patch_plain(x, sd, config):
    return {"tokens": _loaded(_point_patch(config), sd).plain(x["pointmap"])}


def _fuser(config):
    build = {"dino": _vit, "point_patch": _point_patch}
    return EmbedderFuser(
        [(build[e["type"]](e), [tuple(i) for i in e["inputs"]]) for e in config["embedders"]],
        config.get("projection_net_hidden_dim_multiplier", 4.0),
    )


def fuser(x, sd, config):
    model = _loaded(_fuser(config), sd)
    points = [name for e in config["embedders"] if e["type"] == "point_patch" for name, _ in e["inputs"]]
    return {"tokens": model(x), "tokens_pointmap_dropped": model(x, drop=points)}


def posenc(x, sd, config):
    table = sincos_table(config["resolution"], config["model_channels"])
    i, j, k = x["coords"].long().unbind(1)
    rows = table[(i * config["resolution"] + j) * config["resolution"] + k]
    features = StepEmbedder(8, config["freq_dim"]).features(x["t"])
    return {
        "t_freq": features, "ape_rows": rows, "ape_colsum": table.double().sum(0).float(), "ape_channels40": sincos_table(4, 40)[:9],
    }  # fmt: skip


def mot_block(x, sd, config):
    block = _loaded(TwoStreamBlock(config["channels"], config["ctx_channels"], config["num_heads"], config["mlp_ratio"]), sd)
    streams = {"shape": x["x_shape"], "6drotation_normalized": x["x_pose"]}
    y, attended = block(streams, x["mod"], x["context"]), block.self_attn(streams)
    return {
        "y_shape": y["shape"], "y_pose": y["6drotation_normalized"],
        "self_attn_shape": attended["shape"], "self_attn_pose": attended["6drotation_normalized"],
    }  # fmt: skip


def _flow(config):
    return SparseStructureFlow(
        config["model_channels"],
        config["cond_channels"],
        config["num_blocks"],
        config["num_heads"],
        config["mlp_ratio"],
        config["resolution"],
    )


def ss_flow_cached(x, sd, config):
    model = _loaded(_flow(config), sd)
    flow, latents, time = CachedFlow(model), _named(x, "latent."), x["t"].double()
    context = flow.prepare(x["cond"])
    d0, uncond = flow.velocity(latents, flow.modulation_at(time, 0.0)[0], context, guided=True)
    d250, _ = flow.velocity(latents, flow.modulation_at(time, 250.0)[0], context, guided=False)
    calls = {"d0": d0, "uncond_d0": uncond, "d250": d250}
    out = {f"{name}.{k}": v for name, velocity in calls.items() for k, v in velocity.items()}
    return {**_only(ss_flow(x, sd, config), ("dnone.", "t_emb", "shape_pos_emb")), **out}


def _only(x, prefixes):
    """What the second way doesn't have, taken from the first."""
    return {k: v for k, v in x.items() if k.startswith(prefixes)}


def _named(x, prefix):
    return {k.removeprefix(prefix): v for k, v in x.items() if k.startswith(prefix)}


def ss_flow(x, sd, config):
    model = _loaded(_flow(config), sd)
    latents, t, zero = _named(x, "latent."), x["t"], torch.zeros(1)
    calls = {
        "d0": (zero, x["cond"]), "d250": (torch.tensor([250.0]), x["cond"]), "dnone": (None, x["cond"]), "uncond_d0": (zero, 0 * x["cond"]),
    }  # fmt: skip
    out = {f"{name}.{k}": v for name, (d, cond) in calls.items() for k, v in model(latents, t, d, cond).items()}
    return {**out, "t_emb": model.t_embedder(t), "shape_pos_emb": model.latent_mapping["shape"].pos_emb}


def _sampler_options(config):
    return SamplerOptions(
        steps=config["steps"], rescale=config["rescale_t"], guidance=config["strength"], interval=tuple(config["interval"]),
        shortcut=not config["no_shortcut"],
    )  # fmt: skip


def _plain_velocity(model, cond):
    def velocity(latents, t, d, conditional):
        return model(latents, torch.tensor([t]).float(), torch.tensor([d]), cond if conditional else 0 * cond)

    return velocity


def sampler(x, sd, config):
    model = _loaded(_flow(config["backbone"]), {k.removeprefix("reverse_fn.backbone."): v for k, v in sd.items()})
    options, out = _sampler_options(config), {}

    def keep(step, steps, latents):
        out.update({f"step{step}.{k}": v for k, v in latents.items()})

    sample(_plain_velocity(model, x["cond"]), _named(x, "noise."), options, keep)
    return {**out, "t_grid": options.times(), "d": torch.tensor(options.step_size)}


def sampler_cached(x, sd, config):
    model = _loaded(_flow(config["backbone"]), {k.removeprefix("reverse_fn.backbone."): v for k, v in sd.items()})
    options, out, fast = _sampler_options(config), {}, structure.StructureSampler(model)

    def keep(step, steps):
        out.update({f"step{step}.{k}": v.clone() for k, v in fast._step.latents.items()})

    fast.sample(x["cond"], _named(x, "noise."), options, keep)
    return {**out, "t_grid": options.times(), "d": torch.tensor(options.step_size)}


def noise(x, sd, config):
    shapes = {name: (config["batch"], *shape[1:]) for name, shape in structure.latent_shapes(config["backbone"]["resolution"]).items()}
    return {f"noise.{k}": v for k, v in draw(shapes, Noise(config["seed"], compatible=True).source("structure", 0)).items()}


def _ss_decoder(config):
    return occupancy.OccupancyDecoder(
        config["channels"], config["latent_channels"], config["out_channels"], config["num_res_blocks"], config["num_res_blocks_middle"]
    )


def ss_decoder(x, sd, config):
    return {"logits": _loaded(_ss_decoder(config), sd)(x["latent_cube"])}


def coords(x, sd, config):
    original = occupancy.occupied(x["logits"])
    pruned = occupancy.prune(original)
    small, factor = occupancy.halve(pruned, config["max_coords_trigger"])
    same, default = occupancy.halve(pruned)
    return {
        "coords_original": original, "coords_pruned": pruned, "coords_downsampled": small, "downsample_factor": torch.tensor(factor),
        "coords_no_downsample": same, "downsample_factor_default": torch.tensor(default), "voxel": occupancy.voxel_positions(pruned),
    }  # fmt: skip


def pose_(x, sd, config):
    latents = {k: x[k] for k in ("6drotation_normalized", "scale", "translation")}
    one = pose.decode_pose(latents, x["scene_scale"], x["scene_shift"])
    out = {k: getattr(one, k)[:, None] for k in ("translation", "rotation", "scale")}
    unit = pose.decode_pose({k: v[:1] for k, v in latents.items()}, torch.ones(1, 3), torch.zeros(1, 3))
    out |= {f"unit_scene.{k}": getattr(unit, k) for k in ("translation", "rotation", "scale")}
    if "downsample_factor" in x:
        final = pose.decode_pose(latents, x["scene_scale"], x["scene_shift"], x["downsample_factor"])
        out["scale_final"] = final.scale[:, None]
    return out


def rotations(x, sd, config):
    matrix = pose.rot6d_to_matrix(x["rot6d"])
    unit = pose.quat_to_matrix(x["quat"])
    return {
        "matrix": matrix, "quaternion_wxyz": pose.matrix_to_quat(matrix), "matrix_from_quat": unit, "quat_roundtrip": pose.matrix_to_quat(unit),
        "points_out": pose.transform_points(x["points"], x["quat"], x["obj_trans"], x["obj_scale"]),
    }  # fmt: skip


def _e2e_parts(sd, config):
    def weights(prefix):
        return {k.removeprefix(prefix): v for k, v in sd.items() if k.startswith(prefix)}

    return (
        _loaded(_fuser(config["fuser"]), weights("_base_models.condition_embedder.")),
        _loaded(_flow(config["generator"]["backbone"]), weights("_base_models.generator.reverse_fn.backbone.")),
        _loaded(_ss_decoder(config["decoder"]), weights("ss_decoder.")),
    )


def _e2e_answer(first, cond, latents, logits, original, coords, decoded):
    moments = {f"pre.{name}_{p}": getattr(first, p) for name in ("pointmap", "rgb_pointmap") for p in ("scale", "shift")}
    pose = {f"pose.{k}": getattr(decoded, k) for k in ("translation", "rotation", "scale")}
    return {
        **{f"pre.{k}": v for k, v in first.inputs().items()}, **moments, "cond": cond, **{f"latent.{k}": v for k, v in latents.items()},
        "logits": logits, "coords_original": original, "coords": coords, **pose,
    }  # fmt: skip


def e2e(x, sd, config):
    fused, model, decoder = _e2e_parts(sd, config)
    options = {"size": config["preprocess"]["size"], "box_factor": config["preprocess"]["box_size_factor"]}
    first = preprocess.preprocess(x["rgba"], x["pointmap"], **options)
    cond = fused(first.inputs())
    latents = sample(_plain_velocity(model, cond), _named(x, "noise."), _sampler_options(config["generator"]))
    logits = decoder(occupancy.as_cube(latents["shape"]))
    original = occupancy.occupied(logits)
    voxels, factor = occupancy.halve(occupancy.prune(original))
    decoded = pose.decode_pose(latents, first.scale, first.shift, factor)
    return _e2e_answer(first, cond, latents, logits, original, voxels, decoded)


def e2e_cached(x, sd, config):
    """As a job runs: two objects at once, the second with another mask and other noise; the first is the file's."""
    fused, model, decoder = _e2e_parts(sd, config)
    options = {"size": config["preprocess"]["size"], "box_factor": config["preprocess"]["box_size_factor"]}
    alpha = x["rgba"][..., 3]
    both = preprocess.preprocess_objects(x["rgba"][..., :3], torch.stack([alpha, alpha.roll(5, 1)]), x["pointmap"], **options)
    cond = structure.embed(fused, both)
    noise = {name: torch.cat([value, value.flip(-1)]) for name, value in _named(x, "noise.").items()}
    latents = structure.StructureSampler(model).sample(cond, noise, _sampler_options(config["generator"]))
    latents = {name: value[:1] for name, value in latents.items()}
    [made] = structure.decode(latents, decoder, both[:1])
    return _e2e_answer(both[0], cond[:1], latents, decoder(occupancy.as_cube(latents["shape"])), made.original, made.coords, made.pose)


def _loaded(module, sd):
    module.load_state_dict(sd, strict=True)
    return module.eval()


KINDS = {
    "camera": camera, "ssi": ssi, "preprocess": preprocess_, "preprocess_public": preprocess_public, "dino": dino, "point_patch": point_patch,
    "fuser": fuser, "posenc": posenc, "mot_block": mot_block, "ss_flow": ss_flow, "sampler": sampler, "noise": noise, "ss_decoder": ss_decoder,
    "coords": coords, "pose": pose_, "rotations": rotations, "e2e": e2e,
}  # fmt: skip
SECOND = {"point_patch": point_patch_plain, "ss_flow": ss_flow_cached, "sampler": sampler_cached, "e2e": e2e_cached}
