"""The .yaml files of the official layout: what they must say for this implementation to be the model that they describe.

They are read as data by a safe loader. `_target_` names a class of the original; here its last word is compared, and nothing is ever made from it.
A value that differs from what is implemented is a SetupError that names file, key and value: a network that runs otherwise than it was trained gives
wrong numbers without a word. Keys that only training reads are left alone; where a mapping stands among others doesn't matter, its class finds it.

Sources of the values: stage1.md section 0 and stage2.md section 1; what is called silent there are defaults of the original's classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...contract.errors import SetupError
from ..sam3d.architecture import TINY, Architecture
from ..sam3d.latents import LATENT_MEAN, LATENT_STD
from . import layout

Tree = dict[str, Any]
_VITS = {"sam3d_tiny": TINY.vit, "dinov2_vitl14_reg": Architecture().vit}  # name in the files -> sizes
_AGAIN = "Fetch the official files again (python sam3d.py weights fetch), or use the version of this pack that goes with these."

# What the released files don't say because it is the default; a file that says something else describes another model.
SILENT: dict[str, Tree] = {
    "InferencePipelinePointMap": {
        "ss_inference_steps": 25, "ss_rescale_t": 3, "ss_cfg_strength": 7, "ss_cfg_interval": [0, 500], "ss_cfg_strength_pm": 0,
        "slat_inference_steps": 25, "slat_cfg_interval": [0, 500], "shape_model_dtype": None, "clip_pointmap_beyond_scale": None,
    },
    "EmbedderFuser": {"force_drop_modalities": None},
    "Dino": {"prenorm_features": False, "normalize_images": True},
    "PointPatchEmbed": {"num_heads": 16, "remap_output": "linear"},
    "SparseStructureFlowTdfyWrapper": {"share_mod": False, "qk_rms_norm_cross": False, "use_fp16": False},
    "SLatFlowModelTdfyWrapper": {
        "share_mod": False, "qk_rms_norm_cross": False, "use_skip_connection": True, "is_shortcut_model": False, "pe_mode": "ape",
    },
    "SparseStructureDecoderTdfyWrapper": {"norm_type": "layer", "use_fp16": False},
    "SLatGaussianDecoderTdfyWrapper": {"pe_mode": "ape", "qk_rms_norm": False},
    "SLatMeshDecoderTdfyWrapper": {"pe_mode": "ape", "qk_rms_norm": False},
}  # fmt: skip


def read(path: Path) -> Tree:
    """A file as plain data. Raises SetupError."""
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SetupError(f"{path} can't be read: {problem.strerror or problem}.", "Type: python sam3d.py weights fetch") from problem
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        raise SetupError(f"{path} isn't the YAML that it should be: {problem}", _AGAIN) from problem
    if not isinstance(tree, dict):
        raise SetupError(f"{path} holds no settings.", _AGAIN)
    return tree


def architecture_of(folder: Path) -> Architecture:
    """The networks that the files of `folder` describe: the released ones, or the tiny ones of a folder that `weights fake --tiny` made.

    Compares every file that is there. Raises SetupError for the first value that isn't implemented.
    """
    pipeline = read(folder / layout.PIPELINE)
    architecture = TINY if fake_mark(pipeline).get("size") == "tiny" else Architecture()
    for name, expected in documents(architecture).items():
        if (folder / name).is_file():
            _Comparison(folder / name, pipeline if name == layout.PIPELINE else read(folder / name)).check(expected)
    return architecture


def fake_mark(pipeline: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `weights fake` left in pipeline.yaml; empty for any other."""
    mark = pipeline.get(layout.FAKE_KEY)
    return mark if isinstance(mark, dict) else {}


def documents(architecture: Architecture) -> dict[str, Tree]:
    """File name -> what it must hold, in the official nesting: what is compared, and what `weights fake` writes."""
    a = architecture
    return {
        layout.PIPELINE: _pipeline(a),
        "ss_generator.yaml": {
            "module": {"condition_embedder": {"backbone": _embedder(a, points=True)}, "generator": {"backbone": _stage1(a)}}
        },
        "slat_generator.yaml": {
            "module": {"condition_embedder": {"backbone": _embedder(a, points=False)}, "generator": {"backbone": _stage2(a)}}
        },
        "ss_decoder.yaml": _occupancy(a),
        "slat_decoder_gs.yaml": _splats(a, 32),
        "slat_decoder_gs_4.yaml": _splats(a, 4),
        "slat_decoder_mesh.yaml": _mesh(a),
    }


# -- the released values


def _target(path: str, **entries: Any) -> Tree:
    return {"_target_": f"sam3d_objects.{path}", **entries}


def _pipeline(a: Architecture) -> Tree:
    files = {f"{stem}_{kind}_path": f"{stem}.{suffix}" for stem in layout.STEMS for kind, suffix in (("config", "yaml"), ("ckpt", "ckpt"))}
    processing = "data.dataset.tdfy.img_and_mask_transforms."
    square = _target("data.dataset.tdfy.img_processing.pad_to_square_centered", _partial_=True)
    crop = _target(f"{processing}crop_around_mask_with_padding", _partial_=True, box_size_factor=1.2, padding_factor=0.0)
    same_size = _target(f"{processing}resize_all_to_same_size", _partial_=True)

    def resized(**more: int) -> Tree:
        resize = {"_target_": "torchvision.transforms.Resize", "size": a.size, **more}
        return {"_target_": "torchvision.transforms.Compose", "transforms": [square, resize]}

    smooth, nearest = resized(), resized(interpolation=0)
    preprocessor = "data.dataset.tdfy.preprocessor.PreProcessor"
    return _target(
        "pipeline.inference_pipeline_pointmap.InferencePipelinePointMap",
        **files,
        dtype="float16",
        slat_cfg_strength=1,
        slat_rescale_t=1,
        downsample_ss_dist=1,
        pose_decoder_name="ScaleShiftInvariant",
        ss_condition_input_mapping=[],
        slat_condition_input_mapping=[],
        slat_mean=list(LATENT_MEAN),
        slat_std=list(LATENT_STD),
        ss_preprocessor=_target(
            preprocessor,
            img_mask_joint_transform=[],
            img_mask_pointmap_joint_transform=[same_size, crop],
            img_transform=smooth,
            mask_transform=nearest,
            pointmap_transform=nearest,
            normalize_pointmap=True,
            pointmap_normalizer=_target(f"{processing}ObjectCentricSSI", allow_scale_and_shift_override=True, use_scene_scale=True),
        ),
        slat_preprocessor=_target(preprocessor, img_mask_joint_transform=[crop], img_transform=smooth, mask_transform=nearest),
        depth_model=_target("pipeline.depth_models.moge.MoGe"),
    )


def _embedder(a: Architecture, *, points: bool) -> Tree:
    name = next(name for name, sizes in _VITS.items() if sizes == a.vit)

    def routes(crop: str, whole: str) -> list[list[str]]:
        return [[crop, "cropped"], [whole, "full"]]

    prenorm = {} if points else {"prenorm_features": True}  # stage 2 reads the tokens from before the last norm
    dino = _target("model.backbone.dit.embedder.dino.Dino", dino_model=name, input_size=a.size, normalize_images=True, **prenorm)
    embedders = [[dino, routes("image", "rgb_image")], [dino, routes("mask", "rgb_image_mask")]]
    if points:
        sizes = {"size": 256, "patch": 8, "width": 512, **a.points}
        patch = _target(
            "model.backbone.dit.embedder.pointmap.PointPatchEmbed",
            input_size=sizes["size"],
            patch_size=sizes["patch"],
            embed_dim=sizes["width"],
            remap_output="linear",
            **({"num_heads": sizes["heads"]} if "heads" in sizes else {}),
        )
        embedders.append([patch, routes("pointmap", "rgb_pointmap")])
    fuser = "model.backbone.dit.embedder.embedder_fuser.EmbedderFuser"
    return _target(fuser, embedder_list=embedders, projection_net_hidden_dim_multiplier=4.0, use_pos_embedding="learned")


def _stage1(a: Architecture) -> Tree:
    sizes = {"width": 1024, "context": 1024, "blocks": 24, "heads": 16, "resolution": 16, **a.structure_flow}
    latents = "model.backbone.tdfy_dit.models.mm_latent."

    def latent(channels: int, **positions: Any) -> Tree:
        return _target(f"{latents}Latent", in_channels=channels, model_channels=sizes["width"], pos_embedder=positions)

    pose = _target(f"{latents}LearntPositionEmbedder", model_channels=sizes["width"], token_len=1)
    place = _target(f"{latents}ShapePositionEmbedder", model_channels=sizes["width"], patch_size=1, resolution=sizes["resolution"])
    flow = _target(
        "model.backbone.tdfy_dit.models.mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper",
        model_channels=sizes["width"],
        cond_channels=sizes["context"],
        num_blocks=sizes["blocks"],
        num_heads=sizes["heads"],
        resolution=sizes["resolution"],
        in_channels=8,
        out_channels=8,
        patch_size=1,
        mlp_ratio=4,
        pe_mode="ape",
        qk_rms_norm=True,
        is_shortcut_model=True,
        force_zeros_cond=True,
        condition_embedder=None,
        use_fp16=False,
        latent_mapping={
            "6drotation_normalized": latent(6, **pose),
            "scale": latent(3, **pose),
            "shape": latent(8, **place),
            "translation": latent(3, **pose),
            "translation_scale": latent(1, **pose),
        },
        latent_share_transformer={"6drotation_normalized": ["6drotation_normalized", "translation", "scale", "translation_scale"]},
    )
    # How often and how strongly it samples stands in the pipeline, which overrides what is written here.
    guidance = _target(
        "model.backbone.generator.classifier_free_guidance.ClassifierFreeGuidanceWithExternalUnconditionalProbability",
        backbone=flow,
        unconditional_handling="add_flag",
    )
    return _target(
        "model.backbone.generator.shortcut.model.ShortCut", reverse_fn=guidance, cfg_modalities=["shape"], sigma_min=0.0, time_scale=1000.0
    )


def _stage2(a: Architecture) -> Tree:
    sizes = {"width": 1024, "context": 1024, "blocks": 24, "heads": 16, "io_channels": (128,), "io_blocks": 2, **a.latent_flow}
    flow = _target(
        "model.backbone.tdfy_dit.models.structured_latent_flow.SLatFlowModelTdfyWrapper",
        resolution=a.grid,
        model_channels=sizes["width"],
        cond_channels=sizes["context"],
        num_blocks=sizes["blocks"],
        num_heads=sizes["heads"],
        io_block_channels=list(sizes["io_channels"]),
        num_io_res_blocks=sizes["io_blocks"],
        in_channels=8,
        out_channels=8,
        patch_size=2,
        mlp_ratio=4,
        pe_mode="ape",
        qk_rms_norm=True,
        force_zeros_cond=True,
        condition_embedder=None,
        use_fp16=True,
    )
    guidance = _target(
        "model.backbone.generator.classifier_free_guidance.ClassifierFreeGuidance", backbone=flow, unconditional_handling="add_flag"
    )
    return _target("model.backbone.generator.flow_matching.model.FlowMatching", reverse_fn=guidance, sigma_min=0.0, time_scale=1000.0)


def _occupancy(a: Architecture) -> Tree:
    sizes = {"channels": (512, 128, 32), "blocks": 2, "middle": 2, **a.structure_decoder}
    return _target(
        "model.backbone.tdfy_dit.models.sparse_structure_vae.SparseStructureDecoderTdfyWrapper",
        out_channels=1,
        latent_channels=8,
        num_res_blocks=sizes["blocks"],
        num_res_blocks_middle=sizes["middle"],
        channels=list(sizes["channels"]),
        reshape_input_to_cube=False,
    )


def _decoder(a: Architecture, given: Mapping[str, Any], kind: str, **representation: Any) -> Tree:
    sizes = {"width": 768, "blocks": 12, "heads": 12, "mlp_ratio": 4, "window": 8, **given}
    return _target(
        f"model.backbone.tdfy_dit.models.structured_latent_vae.{kind}",
        resolution=a.grid,
        model_channels=sizes["width"],
        latent_channels=8,
        num_blocks=sizes["blocks"],
        num_heads=sizes["heads"],
        mlp_ratio=sizes["mlp_ratio"],
        attn_mode="swin",
        window_size=sizes["window"],
        representation_config=representation,
        use_fp16=True,
    )


def _splats(a: Architecture, count: int) -> Tree:
    return _decoder(
        a,
        a.splats,
        "decoder_gs.SLatGaussianDecoderTdfyWrapper",
        **{"lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1}, "perturb_offset": True},
        **{"voxel_size": 1.5, "num_gaussians": count, "2d_filter_kernel_size": 0.1, "3d_filter_kernel_size": 0.0009},
        **{"scaling_bias": 0.004, "opacity_bias": 0.1, "scaling_activation": "softplus"},
    )


def _mesh(a: Architecture) -> Tree:
    return _decoder(a, a.mesh, "decoder_mesh.SLatMeshDecoderTdfyWrapper", use_color=True)


# -- comparing


class _Comparison:
    """One file against what it must hold."""

    def __init__(self, path: Path, tree: Tree) -> None:
        self.path, self.tree = path, tree

    def check(self, expected: Tree) -> None:
        for wanted in _outermost(expected):
            self._mapping(wanted, self._place(wanted, self.tree), "")

    def _place(self, wanted: Tree, near: Any) -> Tree:
        """The mapping of the same class: `near` itself, or the only one in the file."""
        if isinstance(near, dict) and _class(near) == _class(wanted):
            return near
        found = [tree for tree in _mappings(self.tree) if _class(tree) == _class(wanted)]
        if len(found) != 1:
            others = sorted({name for tree in _mappings(self.tree) if (name := _class(tree))})
            has = f"{len(found)} of them" if found else f"none, only {', '.join(others) or 'other things'}"
            raise SetupError(f"{self.path}: this version implements the class {_class(wanted)}; the file has {has}.", _AGAIN)
        return found[0]

    def _mapping(self, wanted: Tree, found: Tree, where: str) -> None:
        for key, value in wanted.items():
            name = f"{where}{key}"
            if key == "_target_":
                continue
            if key not in found:
                raise SetupError(f"{self.path} lacks `{name}`; this version implements {_text(value)}.", _AGAIN)
            self._value(value, found[key], name)
        for key, value in SILENT.get(_class(wanted), {}).items():
            if key in found and key not in wanted:
                self._value(value, found[key], f"{where}{key}")

    def _value(self, wanted: Any, found: Any, name: str) -> None:
        if isinstance(wanted, dict):
            if _class(wanted):
                found = self._place(wanted, found)
            if isinstance(found, dict):
                return self._mapping(wanted, found, f"{name}.")
        elif isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
            for index, (one, other) in enumerate(zip(wanted, found)):
                self._value(one, other, f"{name}[{index}]")
            return None
        elif not isinstance(wanted, list) and _same(wanted, found):
            return None
        raise SetupError(f"{self.path}: `{name}` is {_text(found)}; this version implements {_text(wanted)}.", _AGAIN)


def _same(wanted: Any, found: Any) -> bool:
    """Equal, and not by Python's counting of true as 1."""
    return isinstance(wanted, bool) == isinstance(found, bool) and bool(wanted == found)


def _class(tree: Mapping[str, Any]) -> str:
    return str(tree.get("_target_", "")).rsplit(".", 1)[-1]


def _outermost(tree: Tree) -> Iterator[Tree]:
    """The mappings with a class that no other one contains."""
    if "_target_" in tree:
        yield tree
        return
    for value in tree.values():
        if isinstance(value, dict):
            yield from _outermost(value)


def _mappings(tree: Any) -> Iterator[Tree]:
    if isinstance(tree, dict):
        yield tree
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _mappings(value)


def _text(value: Any) -> str:
    text = f"a {_class(value)}" if isinstance(value, dict) and _class(value) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
