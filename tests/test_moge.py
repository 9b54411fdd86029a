"""MoGe: keys, configurations, checkpoints, inference. Its numbers: test_golden.py; focal length, shift and the worker's point map: test_moge_camera.py."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

import torch.nn.functional as F  # noqa: E402
from comfyui_sam3d.contract.errors import ImageError, OptionError, SetupError  # noqa: E402
from comfyui_sam3d.vendor.moge import checkpoint, layers  # noqa: E402
from comfyui_sam3d.vendor.moge.backbone import DinoV2  # noqa: E402
from comfyui_sam3d.vendor.moge.config import ENCODERS, OFFICIAL_V1, ViTSize  # noqa: E402
from comfyui_sam3d.vendor.moge.infer import infer, token_count, unproject  # noqa: E402
from comfyui_sam3d.vendor.moge.model_v2 import MoGeV2  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from golden.replay import near  # noqa: E402
from moge_models import TINY, V1, V2, changed, picture, stack, tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

# -- keys


def count(config) -> tuple[int, int, dict[str, tuple[int, ...]]]:
    with torch.device("meta"):
        state = checkpoint.build(config).state_dict()
    return len(state), sum(value.numel() for value in state.values()), {name: tuple(value.shape) for name, value in state.items()}


def official_v2():
    dims, resamplers = (1024, 256, 128, 64, 32), ["conv_transpose"] * 3 + ["bilinear"]
    neck = stack((1026, 2, 2, 2, 2), None, dims=dims, blocks=(0, 2, 2, 2, 0), resamplers=resamplers)
    heads = {
        f"{name}_head": stack(dims, last, dims=dims, blocks=(0, 1, 1, 1, 0), resamplers=resamplers)
        for name, last in (("points", 3), ("mask", 1), ("normal", 3))
    }
    encoder = {"backbone": "dinov2_vitl14", "intermediate_layers": [5, 11, 17, 23], "dim_out": 1024}
    return {"encoder": encoder, "neck": neck, **heads, "scale_head": {"dims": [1024, 1024, 1024, 1]}, "remap_output": "exp"}


def test_the_official_file_of_version_1() -> None:
    tensors, elements, shapes = count(OFFICIAL_V1)
    assert (tensors, elements) == (421, 314_174_026)
    wanted = {
        "image_mean": (1, 3, 1, 1), "backbone.pos_embed": (1, 1370, 1024), "backbone.mask_token": (1, 1024),
        "backbone.patch_embed.proj.weight": (1024, 3, 14, 14), "backbone.blocks.23.attn.qkv.weight": (3072, 1024),
        "backbone.blocks.0.ls2.gamma": (1024,), "backbone.blocks.7.mlp.fc2.weight": (1024, 4096), "backbone.norm.bias": (1024,),
        "head.projects.3.weight": (512, 1024, 1, 1), "head.upsample_blocks.0.0.0.weight": (514, 256, 2, 2),
        "head.upsample_blocks.1.0.0.weight": (258, 128, 2, 2), "head.upsample_blocks.2.0.1.weight": (64, 64, 3, 3),
        "head.upsample_blocks.0.2.layers.0.weight": (256,), "head.upsample_blocks.0.2.layers.2.weight": (512, 256, 3, 3),
        "head.upsample_blocks.0.1.layers.3.bias": (512,), "head.upsample_blocks.2.1.layers.5.weight": (64, 128, 3, 3),
        "head.output_block.0.0.weight": (32, 66, 3, 3), "head.output_block.0.2.weight": (3, 32, 1, 1), "head.output_block.1.2.bias": (1,),
    }  # fmt: skip
    assert {name: shapes.get(name) for name in wanted} == wanted


def test_the_public_configuration_of_version_2() -> None:
    tensors, elements, shapes = count(official_v2())
    assert (tensors, elements) == (521, 330_901_550)
    wanted = {
        "encoder.image_std": (1, 3, 1, 1), "encoder.backbone.cls_token": (1, 1, 1024), "encoder.output_projections.3.weight": (1024, 1024, 1, 1),
        "neck.input_blocks.4.weight": (32, 2, 1, 1), "neck.resamplers.3.1.weight": (32, 64, 3, 3), "neck.res_blocks.3.1.layers.5.bias": (64,),
        "normal_head.output_blocks.4.weight": (3, 32, 1, 1), "scale_head.4.weight": (1, 1024),
    }  # fmt: skip
    assert {name: shapes.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("name", ENCODERS)
def test_the_smaller_encoders(name: str) -> None:
    _, _, shapes = count(changed(OFFICIAL_V1, encoder=name))
    size = ENCODERS[name]
    assert shapes["backbone.pos_embed"] == (1, 1370, size.width)
    assert f"backbone.blocks.{size.depth - 1}.norm1.weight" in shapes and f"backbone.blocks.{size.depth}.norm1.weight" not in shapes


# -- configurations


def test_a_trained_area_becomes_a_range_of_tokens() -> None:
    with torch.device("meta"):
        assert checkpoint.build(OFFICIAL_V1).config.tokens == (1275, 2551)
        bare = checkpoint.build({"encoder": "dinov2_vits14"})
    assert bare.config.tokens == (1200, 2500)
    assert (bare.config.dim_proj, bare.config.hidden_norm, bare.config.last_res_blocks, bare.mask_threshold) == (512, "group_norm", 0, 0.5)
    with torch.device("meta"):
        assert checkpoint.build(official_v2()).config.tokens == (1200, 3600)


REFUSED = {
    "an unknown entry": (changed(V1, surprise=1), "surprise"), "an encoder": (changed(V1, encoder="dinov2_vitg14"), "encoder"),
    "no encoder": ({}, "encoder"), "a remap": (changed(V1, remap_output="log"), "remap_output"),
    "a norm": (changed(V1, res_block_norm="instance_norm"), "res_block_norm"), "too many taps": (changed(V1, intermediate_layers=25), "intermediate_layers"),
    "a tap twice": (changed(V1, intermediate_layers=[1, 1]), "intermediate_layers"), "a tap beyond": (changed(V1, intermediate_layers=[24]), "intermediate_layers"),
    "no taps": (changed(V1, intermediate_layers=[]), "intermediate_layers"), "an even kernel": (changed(V1, last_conv_size=2), "last_conv_size"),
    "a fraction": (changed(V1, dim_proj=1.5), "dim_proj"), "a truth": (changed(V1, num_res_blocks=True), "num_res_blocks"),
    "widths": (changed(V1, dim_upsample=[32, 0]), "dim_upsample"), "groups": (changed(V1, dim_upsample=[16]), "dim_upsample"),
    "a range": (changed(V1, num_tokens_range=[20, 8]), "num_tokens_range"), "an area": (changed(V1, trained_area_range=5), "trained_area_range"),
    "a threshold": (changed(V1, mask_threshold="half"), "mask_threshold"), "v2: an entry": (changed(V2, refiner={}), "refiner"),
    "v2: the encoder's entry": (changed(V2, encoder={**V2["encoder"], "registers": 4}), "encoder.registers"),
    "v2: a backbone": (changed(V2, encoder={**V2["encoder"], "backbone": "dinov3_vitl16"}), "encoder.backbone"),
    "v2: no width": (changed(V2, encoder={"backbone": "dinov2_vits14"}), "encoder.dim_out"),
    "v2: a resampler": (changed(V2, neck={**V2["neck"], "resamplers": ["pixel_shuffle", "bilinear"]}), "neck.resamplers"),
    "v2: too few resamplers": (changed(V2, neck={**V2["neck"], "resamplers": ["bilinear"]}), "neck.resamplers"),
    "v2: an activation": (changed(V2, mask_head={**V2["mask_head"], "activation": "silu"}), "mask_head.activation"),
    "v2: a norm": (changed(V2, points_head={**V2["points_head"], "res_block_in_norm": "batch"}), "points_head.res_block_in_norm"),
    "v2: levels": (changed(V2, points_head={**V2["points_head"], "num_res_blocks": [1]}), "points_head.num_res_blocks"),
    "v2: an input's width": (changed(V2, points_head=stack((32, 16, 32), 3)), "points_head.dim_in"),
    "v2: a missing input": (changed(V2, neck=stack((None, 2, 2), None)), "neck.dim_in"),
    "v2: an output's width": (changed(V2, mask_head=stack((32, 32, 32), 2)), "mask_head.dim_out"),
    "v2: no output": (changed(V2, points_head=stack((32, 32, 32), None)), "points_head.dim_out"),
    "v2: a scale": (changed(V2, scale_head={"dims": [32, 2]}), "scale_head.dims"), "v2: no neck": ({k: v for k, v in V2.items() if k != "neck"}, "neck"),
    "v2: a head that is no table": (changed(V2, mask_head=1), "mask_head"),
    "v2: groups": (changed(V2, neck=stack((26, 2, 2), None, dims=(16, 16, 16), blocks=(1, 0, 0), res_block_in_norm="group_norm")), "neck.dim_res_blocks"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(case: str) -> None:
    config, name = REFUSED[case]
    vit = ViTSize(384, 24, 6) if case in ("a remap", "widths") else None
    if vit is None and isinstance(config.get("encoder"), str) and config["encoder"] == "tiny":
        config = {**config, "encoder": "dinov2_vitl14"}
    if vit is None and isinstance(config.get("encoder"), dict) and config["encoder"].get("backbone") == "tiny":
        vit = TINY
    with pytest.raises(SetupError, match=rf"\b{name}\b") as caught:
        checkpoint.build(config, vit)
    assert caught.value.hint


@pytest.mark.parametrize("norms", [("layer_norm", "group_norm"), ("group_norm", "layer_norm"), ("none", "none")])
def test_norms_of_a_residual_block(norms) -> None:
    block = layers.ResBlock(64, 96, *norms)
    x = torch.randn(2, 64, 5, 7, generator=torch.Generator().manual_seed(0))

    def normed(value: torch.Tensor, kind: str) -> torch.Tensor:
        if kind == "none":
            return value
        groups = 1 if kind == "layer_norm" else value.shape[1] // 32
        parts = value.unflatten(1, (groups, -1)).flatten(2)
        return ((parts - parts.mean(-1, keepdim=True)) / (parts.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()).reshape(value.shape)

    def conv(value: torch.Tensor, part) -> torch.Tensor:
        return F.conv2d(F.pad(value, (1, 1, 1, 1), mode="replicate"), part.weight, part.bias)

    with torch.no_grad():
        wanted = x + conv(normed(conv(normed(x, norms[0]).relu(), block.layers[2]), norms[1]).relu(), block.layers[5])
        near(block(x), wanted, atol=1e-5)


@pytest.mark.parametrize("how", ["linear", "sinh", "exp", "sinh_exp"])
def test_remap(how: str) -> None:
    raw = torch.tensor([[0.5, -1.0, 0.25]])
    wanted = {
        "linear": [0.5, -1.0, 0.25], "sinh": [np.sinh(0.5), np.sinh(-1.0), np.sinh(0.25)],
        "exp": [0.5 * np.exp(0.25), -np.exp(0.25), np.exp(0.25)], "sinh_exp": [np.sinh(0.5), np.sinh(-1.0), np.exp(0.25)],
    }  # fmt: skip
    near(layers.remap(raw, how), torch.tensor([wanted[how]], dtype=torch.float32), atol=1e-6)
    assert torch.isfinite(tiny(changed(V1, remap_output=how))(picture()[None], 12).points).all()


def test_layer_norm_in_the_hidden_layer_changes_the_groups() -> None:
    model = tiny(changed(V1, res_block_norm="layer_norm", dim_times_res_block_hidden=2))
    assert model.head.upsample_blocks[0][1].layers[3].num_groups == 1
    assert tiny(changed(V1, dim_times_res_block_hidden=2)).head.upsample_blocks[0][1].layers[3].num_groups == 2


# -- the backbone


def test_positions_are_as_stored_on_the_native_grid_alone() -> None:
    vit = DinoV2(TINY)
    torch.nn.init.normal_(vit.pos_embed)
    assert torch.equal(vit.positions(4, 4), vit.pos_embed)
    for hp, wp in ((4, 5), (2, 8), (7, 3)):  # 2 x 8 has as many patches as the native grid, but isn't square
        found = vit.positions(hp, wp)
        assert found.shape == (1, 1 + hp * wp, 32) and torch.equal(found[:, 0], vit.pos_embed[:, 0])
        assert not torch.equal(found, vit.pos_embed)


def test_positions_between_patches_follow_the_cubic_kernel() -> None:
    """By hand: source coordinate (i + 0.5) / factor - 0.5, Keys' kernel with A = -0.75, edges repeated."""
    vit = DinoV2(ViTSize(width=2, depth=1, heads=1, native=56))
    torch.nn.init.normal_(vit.pos_embed)
    square = vit.pos_embed[0, 1:].unflatten(0, (4, 4)).double().detach().numpy()

    def weights(n: int) -> np.ndarray:
        factor, made = (n + 0.1) / 4, np.zeros((n, 4))
        for i in range(n):
            at = (i + 0.5) / factor - 0.5
            for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                t = abs(at - tap)
                kernel = 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
                made[i, min(max(tap, 0), 3)] += kernel
        return made

    wanted = np.einsum("ia,jb,abc->ijc", weights(3), weights(6), square).reshape(-1, 2)
    np.testing.assert_allclose(vit.positions(3, 6)[0, 1:].detach().numpy(), wanted, atol=1e-5)


# -- checkpoints


def written(tmp_path, form: str, config, state, name: str = "model"):
    if form == "pt":
        path = tmp_path / f"{name}.pt"
        torch.save({"model_config": config, "model": state}, path)
    else:
        path = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in state.items()}, path, None if config is None else {"model_config": json.dumps(config)})
    return path


@pytest.fixture
def small_encoder(monkeypatch):
    monkeypatch.setitem(ENCODERS, "tiny", TINY)


@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
def test_files_load(tmp_path, small_encoder, form: str, config) -> None:
    model = tiny(config)
    path = written(tmp_path, form, config, model.half().state_dict())
    loaded = checkpoint.load(path)
    assert type(loaded) is type(model) and not loaded.training
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, model.state_dict()[name].float()), name
    half = checkpoint.load(path, dtype=torch.float16)
    kinds = {name: value.dtype for name, value in half.state_dict().items()}
    assert {kind for name, kind in kinds.items() if "image_" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "image_" not in name} == {torch.float16}
    full, rough = (infer(each, picture(), num_tokens=16, apply_mask=False).points for each in (loaded, half))
    assert float((full - rough).norm() / full.norm()) < 0.02 and rough.dtype == torch.float32


def test_a_safetensors_copy_of_the_official_file_needs_no_configuration(tmp_path, small_encoder, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "OFFICIAL_V1", V1)
    model = tiny(V1)
    loaded = checkpoint.load(written(tmp_path, "safetensors", None, model.state_dict()))
    assert torch.equal(loaded(picture()[None], 12).points, model(picture()[None], 12).points)
    with pytest.raises(SetupError, match="version 2 without its configuration"):
        checkpoint.load(written(tmp_path, "safetensors", None, tiny(V2).state_dict()))


DAMAGE = {
    "lacks": (lambda s: s.pop("head.projects.1.bias"), r"lacks: head\.projects\.1\.bias"),
    "unknown": (lambda s: s.update({"head.surprise": torch.zeros(1)}), r"unknown keys: head\.surprise"),
    "misshapen": (lambda s: s.update({"backbone.cls_token": torch.zeros(1, 1, 31)}), r"backbone\.cls_token \(1, 1, 31\) instead of \(1, 1, 32\)"),
    "whole": (lambda s: s.update({"image_std": torch.ones(1, 3, 1, 1, dtype=torch.int32)}), r"floating-point numbers: image_std"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_loading_is_strict(tmp_path, small_encoder, form: str, damage: str) -> None:
    state = tiny(V1).state_dict()
    spoil, problem = DAMAGE[damage]
    spoil(state)
    with pytest.raises(SetupError, match=problem):
        checkpoint.load(written(tmp_path, form, V1, state))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("content", [b"", b"no weights", None, {"model": {}}, {"model_config": {}, "model": {"a": 1}}, [1]], ids=str)
def test_files_that_are_no_checkpoint(tmp_path, content) -> None:
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(SetupError) as caught:
        checkpoint.load(path)
    assert str(path) in caught.value.message and caught.value.hint
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(SetupError, match="can't be read"):
        checkpoint.load(tmp_path / "model.safetensors")


def test_a_file_with_code_is_refused_and_not_run(tmp_path) -> None:
    torch.save({"model_config": {}, "model": Trap(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(SetupError, match="can't be read as weights"):
        checkpoint.load(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_configuration_that_is_none(tmp_path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", {"model_config": text})
    with pytest.raises(SetupError, match="model_config"):
        checkpoint.load(tmp_path / "model.safetensors")


# -- token counts and grids


def test_token_counts() -> None:
    assert [token_count((1275, 2551), level) for level in (0, 1, 4.5, 9)] == [1275, 1416, 1913, 2551]
    for level in (-1, 10, float("nan")):
        with pytest.raises(OptionError, match="resolution_level"):
            token_count((1, 2), level)


@pytest.mark.parametrize(
    ("height", "width", "tokens", "resized", "grid"),
    [(64, 64, 25, (70, 70), (5, 5)), (30, 90, 20, (36, 108), (2, 7)), (90, 30, 20, (108, 36), (7, 2)), (208, 150, 13, (59, 42), (4, 3))],
)
def test_version_1_resizes_by_area(height: int, width: int, tokens: int, resized, grid) -> None:
    first, second = tiny(V1).prepare(torch.rand(1, 3, height, width), tokens)
    assert tuple(first.shape[2:]) == resized and tuple(second.shape[2:]) == (14 * grid[0], 14 * grid[1])


def test_the_released_model_sees_a_square_megapixel_as_50_by_50() -> None:
    first, second = tiny(V1).prepare(torch.rand(1, 3, 1024, 1024), 2551)
    assert first.shape[2:] == (707, 707) and second.shape[2:] == (700, 700)


def test_version_2_rounds_half_to_even() -> None:
    assert MoGeV2.grid(64, 64, 16) == (4, 4)
    assert MoGeV2.grid(48, 64, 16) == (3, 5)  # sqrt(12) and sqrt(21.3)
    assert MoGeV2.grid(100, 900, 36) == (2, 18)
    assert MoGeV2.grid(25, 100, 25) == (2, 10)  # 2.5 becomes 2


@pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
def test_a_sliver_of_a_picture_is_refused(config) -> None:
    with pytest.raises(ImageError, match="too narrow"):
        infer(tiny(config), torch.rand(3, 1, 400), num_tokens=9)


BAD_CALLS = {
    "bytes": ({"picture": torch.zeros(3, 8, 8, dtype=torch.uint8)}, ImageError), "grey": ({"picture": torch.zeros(1, 8, 8)}, ImageError),
    "flat": ({"picture": torch.zeros(8, 8)}, ImageError), "nothing": ({"picture": torch.zeros(3, 0, 8)}, ImageError),
    "fov": ({"fov_x": 180}, OptionError), "fov 0": ({"fov_x": 0}, OptionError), "tokens": ({"num_tokens": 0}, OptionError),
    "level": ({"resolution_level": 10}, OptionError),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_one_clear_error(case: str) -> None:
    options, kind = BAD_CALLS[case]
    with pytest.raises(kind):
        infer(tiny(V1), **{"picture": picture(), **options})


# -- inference


@pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
def test_a_batch_gives_what_its_pictures_give(config) -> None:
    model = tiny(config)
    pictures = torch.stack([picture(seed=1), picture(seed=2)])
    both = infer(model, pictures, num_tokens=16)
    for index, one in enumerate(pictures):
        alone = infer(model, one, num_tokens=16)
        for name, value in vars(alone).items():
            if name == "mask":
                assert torch.equal(both.mask[index], value)
            elif value is not None:
                near(getattr(both, name)[index].nan_to_num(posinf=1e6), value.nan_to_num(posinf=1e6), atol=1e-4, rtol=1e-4)


def test_the_level_chooses_the_tokens() -> None:
    model = tiny(V1)
    assert torch.equal(infer(model, picture()).depth, infer(model, picture(), num_tokens=20).depth)
    assert torch.equal(infer(model, picture(), resolution_level=0).depth, infer(model, picture(), num_tokens=8).depth)


@pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
def test_masks_projection_and_scale(config) -> None:
    model = tiny(config)
    if config is V1:
        model.head.output_block[1][2].bias.data += 0.5
        model.mask_threshold = float(model(picture()[None], 16).mask.median())
    masked = infer(model, picture(), num_tokens=16)
    bare = infer(model, picture(), num_tokens=16, apply_mask=False)
    assert 0 < int(masked.mask.sum()) < masked.mask.numel() if config is V1 else masked.mask.any()
    assert torch.equal(masked.points.isinf().all(-1), ~masked.mask) and torch.equal(masked.depth.isinf(), ~masked.mask)
    assert torch.equal(masked.points[masked.mask], bare.points[masked.mask]) and bare.points.isfinite().all()
    assert torch.equal(bare.points[..., 2], bare.depth)
    straight = infer(model, picture(), num_tokens=16, apply_mask=False, force_projection=True)
    scale = 1.0 if config is V1 else float(model(picture()[None], 16).scale)
    near(straight.points / scale, unproject(bare.depth[None] / scale, bare.intrinsics[None])[0], atol=1e-4)
    near(straight.depth, bare.depth)
    if config is V2:
        assert model.metric and abs(scale - 1) > 1e-3
        near(bare.normal.norm(dim=-1), torch.ones_like(bare.depth), atol=1e-5)
        assert (masked.normal[~masked.mask] == 0).all()


def test_a_known_field_of_view_fixes_the_focal_length() -> None:
    found = infer(tiny(V1), picture(40, 56), num_tokens=16, fov_x=60.0, apply_mask=False)
    assert float(found.intrinsics[0, 0]) == pytest.approx(0.5 / np.tan(np.radians(30)), rel=1e-5)
    assert float(found.intrinsics[0, 0]) * 56 == pytest.approx(float(found.intrinsics[1, 1]) * 40, rel=1e-5)


def test_version_2_without_its_optional_heads() -> None:
    model = tiny({name: value for name, value in V2.items() if name not in ("mask_head", "normal_head", "scale_head")})
    found = infer(model, picture(), num_tokens=16)
    assert not model.metric and found.normal is None and found.mask.all() and found.points.isfinite().all()


def test_only_what_lies_before_the_camera_counts_in_version_2() -> None:
    model = tiny(changed(V2, remap_output="linear"))
    model.mask_head.output_blocks[2].bias.data += 20
    bare, masked = (infer(model, picture(), num_tokens=16, apply_mask=apply) for apply in (False, True))
    depth = bare.depth / model(picture()[None], 16).scale
    assert (depth <= 0).any() and torch.equal(masked.mask, depth > 0)
