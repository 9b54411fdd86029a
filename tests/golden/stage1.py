"""How each kind of golden/stage1 is replayed: the file's inputs and weights through our modules, one function per kind.

A function takes (tensors by name without `in.`, state dict, config) and returns {name: tensor} for the names under `out.`.
"""

from __future__ import annotations

import torch
from comfyui_sam3d.contract.errors import Sam3dError
from comfyui_sam3d.worker.sam3d import occupancy, pose, preprocess
from comfyui_sam3d.worker.sam3d.dino import Dino
from comfyui_sam3d.worker.sam3d.flow import LATENTS, SparseStructureFlow, StepEmbedder, TwoStreamBlock, sincos_table
from comfyui_sam3d.worker.sam3d.fuser import EmbedderFuser
from comfyui_sam3d.worker.sam3d.point_patch import PointPatchEmbed
from comfyui_sam3d.worker.sam3d.sampler import SamplerOptions, draw, sample


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
    return PointPatchEmbed(config["input_size"], config["patch_size"], config["embed_dim"])


def point_patch(x, sd, config):
    return {"tokens": _loaded(_point_patch(config), sd)(x["pointmap"])}


def _fuser(config):
    build = {"dino": _vit, "point_patch": _point_patch}
    return EmbedderFuser(
        [(build[e["type"]](e), [tuple(i) for i in e["inputs"]]) for e in config["embedders"]],
        config.get("projection_net_hidden_dim_multiplier", 4.0),
    )


def fuser(x, sd, config):
    model = _loaded(_fuser(config), sd)
    return {"tokens": model(x), "tokens_pointmap_dropped": model(x, drop=("pointmap", "rgb_pointmap"))}


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


def noise(x, sd, config):
    side = config["backbone"]["resolution"]
    shapes = {
        "6drotation_normalized": (1, 1, 6),
        "scale": (1, 1, 3),
        "shape": (1, side**3, 8),
        "translation": (1, 1, 3),
        "translation_scale": (1, 1, 1),
    }
    assert tuple(shapes) == LATENTS
    return {f"noise.{k}": v for k, v in draw(shapes, torch.Generator().manual_seed(config["seed"])).items()}


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


def e2e(x, sd, config):
    def part(prefix):
        return {k.removeprefix(prefix): v for k, v in sd.items() if k.startswith(prefix)}

    first = preprocess.preprocess(
        x["rgba"], x["pointmap"], size=config["preprocess"]["size"], box_factor=config["preprocess"]["box_size_factor"]
    )
    fused = _loaded(_fuser(config["fuser"]), part("_base_models.condition_embedder."))
    cond = fused(first.inputs())
    model = _loaded(_flow(config["generator"]["backbone"]), part("_base_models.generator.reverse_fn.backbone."))
    latents = sample(_plain_velocity(model, cond), _named(x, "noise."), _sampler_options(config["generator"]))
    logits = _loaded(_ss_decoder(config["decoder"]), part("ss_decoder."))(occupancy.as_cube(latents["shape"]))
    original = occupancy.occupied(logits)
    voxels, factor = occupancy.halve(occupancy.prune(original))
    decoded = pose.decode_pose(latents, first.scale, first.shift, factor)
    moments = {f"pre.{name}_{p}": getattr(first, p) for name in ("pointmap", "rgb_pointmap") for p in ("scale", "shift")}
    return {
        **{f"pre.{k}": v for k, v in first.inputs().items()}, **moments, "cond": cond, **{f"latent.{k}": v for k, v in latents.items()},
        "logits": logits, "coords_original": original, "coords": voxels, **{f"pose.{k}": getattr(decoded, k) for k in ("translation", "rotation", "scale")},
    }  # fmt: skip


def _loaded(module, sd):
    module.load_state_dict(sd, strict=True)
    return module.eval()


KINDS = {
    "camera": camera, "ssi": ssi, "preprocess": preprocess_, "preprocess_public": preprocess_public, "dino": dino, "point_patch": point_patch,
    "fuser": fuser, "posenc": posenc, "mot_block": mot_block, "ss_flow": ss_flow, "sampler": sampler, "noise": noise, "ss_decoder": ss_decoder,
    "coords": coords, "pose": pose_, "rotations": rotations, "e2e": e2e,
}  # fmt: skip


def error_cases(document):
    """error_cases.json: what the original does with bad input. Returns what we do otherwise, in words."""
    build, wrong = document["construction"], []
    for case in document["preprocess"]:
        where = f"{case['name']}/{case['entry']}"
        rgba, pointmap = _constructed(build, case)
        options = {"size": build["size"], "box_factor": build["box_size_factor"]}
        try:
            made = preprocess.preprocess(rgba, pointmap if case["entry"] == "ss" else None, **options)
        except Sam3dError as problem:
            if case["outcome"] != "exception" or not problem.hint:
                wrong.append(f"{where}: {problem}")
            continue
        if case["outcome"] == "exception":
            wrong.append(f"{where}: no error")
            continue
        have = {**made.inputs(), "pointmap_scale": made.scale, "pointmap_shift": made.shift}
        for name, want in case["result"].items():
            value = have[name]
            if isinstance(want, list):
                same = torch.allclose(value[0].double(), torch.tensor(want, dtype=torch.float64), rtol=1e-4, atol=1e-6, equal_nan=True)
            else:
                total = float(value.double().nan_to_num(nan=0.0).sum())
                same = list(value.shape) == want["shape"] and int(value.isnan().sum()) == want["nan_count"]
                same = same and abs(total - want["nan_ignoring_sum"]) <= 1e-4 * max(1.0, abs(want["nan_ignoring_sum"]))
            if not same:
                wrong.append(f"{where}: {name} is another")
    for case in document["occupancy"]:
        rows = torch.tensor(case["coords"], dtype=torch.int32).reshape(-1, 4)
        try:
            if case["name"].startswith("downsample"):
                made, factor = occupancy.halve(rows)
                same = made.tolist() == case["result"]["coords"] and factor == case["result"]["factor"]
            else:
                same = occupancy.prune(rows).tolist() == case.get("result")
        except Sam3dError:
            same = case["outcome"] == "exception"
        if not same:
            wrong.append(f"{case['name']}: another outcome")
    logits = torch.full((1, 1, 5, 5, 5), -1.0)
    logits[0, 0, 1, 2, 3], logits[0, 0, 2, 2, 2], logits[0, 0, 3, 3, 3] = 0.0, 1e-7, torch.nan
    if occupancy.occupied(logits).tolist() != document["threshold"]["coords"]:
        wrong.append("threshold: other voxels")
    return wrong


def _constructed(build, case):
    """The picture and point map that the document describes in words."""
    height, width = build["height"], build["width"]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rgb = torch.stack([(8 * x) % 256, (10 * y) % 256, (x + y) % 256], dim=-1).to(torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.bool)
    if (box := case["mask_rows_cols_inclusive"]) is not None:
        mask[box[0] : box[1] + 1, box[2] : box[3] + 1] = True
    z = 2 + 0.01 * x + 0.02 * y
    regular = torch.stack([-(x - width / 2) / width * z, -(y - height / 2) / width * z, z])
    pointmap = regular.clone()
    text = case["pointmap"]
    if text == "all NaN" or text.startswith("all NaN except"):
        pointmap[:] = torch.nan
        if "except" in text:
            pointmap[:, 10, 12] = regular[:, 10, 12]
    elif text == "all +inf":
        pointmap[:] = torch.inf
    elif text != "regular":
        pointmap[:, 8:16, 10:20] = torch.nan
    return preprocess.with_alpha(rgb, mask), pointmap
