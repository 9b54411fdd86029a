"""What a checkpoint's `model_config` may say (spec: moge.md sections 1, 2, 6).

A name or a value that this implementation doesn't have is a SetupError that names it: a network that is built otherwise than it was trained
gives wrong numbers without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...contract.errors import SetupError

REMAPS = ("linear", "sinh", "exp", "sinh_exp")
NORMS = ("none", "layer_norm", "group_norm")
RESAMPLERS = ("conv_transpose", "bilinear")
GROUP = 32  # `group_norm` has width // GROUP groups
_REQUIRED = object()


@dataclass(frozen=True)
class ViTSize:
    """A DINOv2 backbone: width of its tokens, blocks, heads, and the side of the square pictures that its positions were learnt on."""

    width: int
    depth: int
    heads: int
    native: int = 518
    patch: int = 14

    @property
    def grid(self) -> int:
        return self.native // self.patch


ENCODERS = {"dinov2_vits14": ViTSize(384, 12, 6), "dinov2_vitb14": ViTSize(768, 12, 12), "dinov2_vitl14": ViTSize(1024, 24, 16)}


@dataclass(frozen=True)
class V1Config:
    vit: ViTSize
    taps: tuple[int, ...]  # blocks whose tokens the head reads
    dim_proj: int
    dim_upsample: tuple[int, ...]
    res_hidden: int  # a residual block's hidden channels over its channels
    res_blocks: int
    hidden_norm: str
    last_res_blocks: int
    last_channels: int
    last_kernel: int
    remap: str
    mask_threshold: float
    tokens: tuple[int, int]


@dataclass(frozen=True)
class StackConfig:
    """A neck or a head: one entry for each level; None means that there is no such convolution."""

    dims: tuple[int, ...]
    dims_in: tuple[int | None, ...]
    dims_out: tuple[int | None, ...]
    res_blocks: tuple[int, ...]
    res_hidden: int
    in_norm: str
    hidden_norm: str
    resamplers: tuple[str, ...]


@dataclass(frozen=True)
class V2Config:
    vit: ViTSize
    taps: tuple[int, ...]
    dim_features: int
    neck: StackConfig
    points_head: StackConfig
    mask_head: StackConfig | None
    normal_head: StackConfig | None
    scale_head: tuple[int, ...] | None  # widths of the MLP, input and output included
    remap: str
    tokens: tuple[int, int]


# The configuration inside the official file of version 1; used where a .safetensors copy of it carries none.
OFFICIAL_V1: dict[str, Any] = {
    "encoder": "dinov2_vitl14", "remap_output": "exp", "output_mask": True, "split_head": True, "intermediate_layers": 4,
    "dim_upsample": [256, 128, 64], "dim_times_res_block_hidden": 2, "num_res_blocks": 2, "trained_area_range": [250000, 500000],
    "last_conv_channels": 32, "last_conv_size": 1,
}  # fmt: skip


def is_v2(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("encoder"), Mapping)


def read_v1(config: Mapping[str, Any], vit: ViTSize | None = None) -> V1Config:
    """`vit` replaces the backbone that the configuration names. Raises SetupError."""
    entries = _Entries(config, "")
    vit = entries.encoder("encoder", vit)
    for legacy in ("output_mask", "split_head"):  # the mask's head is always there and always separate
        entries.take(legacy, None)
    tokens = entries.range("num_tokens_range", (1200, 2500))
    area = entries.take("trained_area_range", None)
    if area is not None:  # in pixels, as the first files have it
        low, high = _pair("trained_area_range", area)
        tokens = low // vit.patch**2, high // vit.patch**2
    made = V1Config(
        vit=vit,
        taps=entries.taps("intermediate_layers", vit, 4),
        dim_proj=entries.whole("dim_proj", 512),
        dim_upsample=entries.wholes("dim_upsample", (256, 128, 128)),
        res_hidden=entries.whole("dim_times_res_block_hidden", 1),
        res_blocks=entries.whole("num_res_blocks", 1, least=0),
        hidden_norm=entries.choice("res_block_norm", ("group_norm", "layer_norm"), "group_norm"),
        last_res_blocks=entries.whole("last_res_blocks", 0, least=0),
        last_channels=entries.whole("last_conv_channels", 32),
        last_kernel=entries.whole("last_conv_size", 1),
        remap=entries.choice("remap_output", REMAPS, "linear"),
        mask_threshold=entries.number("mask_threshold", 0.5),
        tokens=tokens,
    )
    if made.last_kernel % 2 == 0:
        raise _unfit("last_conv_size", made.last_kernel, "an odd number")
    if made.hidden_norm == "group_norm":
        widths = made.dim_upsample if made.res_blocks else ()
        widths += (made.last_channels,) if made.last_res_blocks else ()
        _check_groups("dim_upsample, last_conv_channels", widths, made.res_hidden)
    entries.done()
    return made


def read_v2(config: Mapping[str, Any], vit: ViTSize | None = None) -> V2Config:
    """`vit` replaces the backbone that the configuration names. Raises SetupError."""
    entries = _Entries(config, "")
    encoder = entries.nested("encoder")
    vit = encoder.encoder("backbone", vit)
    taps, features = encoder.taps("intermediate_layers", vit, 4), encoder.whole("dim_out", _REQUIRED)
    encoder.done()
    scale = entries.nested("scale_head", optional=True)
    dims = scale.wholes("dims", _REQUIRED) if scale else None
    if scale:
        scale.done()
    made = V2Config(
        vit=vit,
        taps=taps,
        dim_features=features,
        neck=_stack(entries.nested("neck")),
        points_head=_stack(entries.nested("points_head")),
        mask_head=_optional_stack(entries, "mask_head"),
        normal_head=_optional_stack(entries, "normal_head"),
        scale_head=dims,
        remap=entries.choice("remap_output", REMAPS, "linear"),
        tokens=entries.range("num_tokens_range", (1200, 3600)),
    )
    entries.done()
    if dims is not None and (len(dims) < 2 or dims[0] != vit.width or dims[-1] != 1):
        raise _unfit("scale_head.dims", list(dims), f"a list from {vit.width} to 1")
    _check_chain(made)
    return made


def _check_chain(config: V2Config) -> None:
    """What one part hands on must be what the next one expects."""
    neck = config.neck
    given: list[tuple[str, StackConfig, int, list[int]]] = [("neck", neck, 0, [config.dim_features + 2, *[2] * (len(neck.dims) - 1)])]
    from_neck = [wide if out is None else out for wide, out in zip(neck.dims, neck.dims_out)]
    heads = {"points_head": (config.points_head, 3), "mask_head": (config.mask_head, 1), "normal_head": (config.normal_head, 3)}
    given += [(name, head, channels, from_neck) for name, (head, channels) in heads.items() if head is not None]
    for name, stack, channels, inputs in given:
        wanted = [wide if entry is None else entry for wide, entry in zip(stack.dims, stack.dims_in)]
        if len(stack.dims) != len(neck.dims) or inputs != wanted:
            raise _unfit(f"{name}.dim_in", list(stack.dims_in), f"one that takes {inputs}")
        last = stack.dims[-1] if stack.dims_out[-1] is None else stack.dims_out[-1]
        if channels and last != channels:
            raise _unfit(f"{name}.dim_out", list(stack.dims_out), f"one that ends with {channels}")


def _optional_stack(entries: _Entries, name: str) -> StackConfig | None:
    found = entries.nested(name, optional=True)
    return _stack(found) if found else None


def _stack(entries: _Entries) -> StackConfig:
    dims = entries.wholes("dim_res_blocks", _REQUIRED)
    levels = len(dims)
    made = StackConfig(
        dims=dims,
        dims_in=entries.per_level("dim_in", levels, _REQUIRED, _whole_or_none, "whole numbers > 0 or null"),
        dims_out=entries.per_level("dim_out", levels, None, _whole_or_none, "whole numbers > 0 or null"),
        res_blocks=entries.per_level("num_res_blocks", levels, 1, lambda n: _is_whole(n, 0), "whole numbers"),
        res_hidden=entries.whole("dim_times_res_block_hidden", 1),
        in_norm=entries.choice("res_block_in_norm", NORMS, "layer_norm"),
        hidden_norm=entries.choice("res_block_hidden_norm", NORMS, "group_norm"),
        resamplers=entries.per_level("resamplers", levels - 1, _REQUIRED, lambda kind: kind in RESAMPLERS, f"of {', '.join(RESAMPLERS)}"),
    )
    entries.choice("activation", ("relu",), "relu")
    entries.done()
    widths = tuple(wide for wide, blocks in zip(made.dims, made.res_blocks) if blocks)
    if made.in_norm == "group_norm":
        _check_groups(f"{entries.where}dim_res_blocks", widths, 1)
    if made.hidden_norm == "group_norm":
        _check_groups(f"{entries.where}dim_res_blocks", widths, made.res_hidden)
    return made


def _check_groups(name: str, widths: tuple[int, ...], factor: int) -> None:
    for channels in (factor * wide for wide in widths):
        groups = channels // GROUP
        if groups == 0 or channels % groups:
            raise _unfit(name, channels, f"a width that divides into groups of about {GROUP} with group_norm")


def _is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _whole_or_none(value: object) -> bool:
    return value is None or _is_whole(value)


def _pair(name: str, value: object) -> tuple[int, int]:
    number = isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(n, (int, float)) and n >= 1 for n in value)
    if not number or value[0] > value[1]:
        raise _unfit(name, value, "two positive numbers, the smaller one first")
    return int(value[0]), int(value[1])


def _unfit(name: str, value: object, wanted: str) -> SetupError:
    return SetupError(
        f"The MoGe checkpoint's configuration has {name} = {value!r}, which isn't implemented: it must be {wanted}.",
        "Use one of the published MoGe models (v1 or v2).",
    )


class _Entries:
    """A dict's entries, each taken once; `done` refuses what nobody took."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = dict(data), where

    def take(self, name: str, default: Any) -> Any:
        if name not in self.data and default is _REQUIRED:
            raise SetupError(f"The MoGe checkpoint's configuration lacks {self.where}{name}.", "Use one of the published MoGe models.")
        return self.data.pop(name, default)

    def done(self) -> None:
        if self.data:
            name, value = next(iter(self.data.items()))
            raise SetupError(
                f"The MoGe checkpoint's configuration has the unknown entry {self.where}{name} = {value!r}.",
                "Use one of the published MoGe models (v1 or v2).",
            )

    def checked(self, name: str, value: Any, fits: bool, wanted: str) -> Any:
        if not fits:
            raise _unfit(self.where + name, value, wanted)
        return value

    def whole(self, name: str, default: Any, least: int = 1) -> int:
        value = self.take(name, default)
        return self.checked(name, value, _is_whole(value, least), f"a whole number >= {least}")

    def number(self, name: str, default: float) -> float:
        value = self.take(name, default)
        return self.checked(name, value, isinstance(value, (int, float)) and not isinstance(value, bool), "a number")

    def choice(self, name: str, among: tuple[str, ...], default: str) -> str:
        value = self.take(name, default)
        return self.checked(name, value, value in among, f"one of {', '.join(among)}")

    def wholes(self, name: str, default: Any) -> tuple[int, ...]:
        value = self.take(name, default)
        fits = isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_whole, value))
        return tuple(self.checked(name, value, fits, "a list of whole numbers > 0"))

    def range(self, name: str, default: tuple[int, int]) -> tuple[int, int]:
        return _pair(self.where + name, self.take(name, default))

    def per_level(self, name: str, levels: int, default: Any, fits: Any, wanted: str) -> tuple[Any, ...]:
        """A list with an entry for each level, or one value for all of them."""
        value = self.take(name, default)
        values = list(value) if isinstance(value, (list, tuple)) else [value] * levels
        good = len(values) == levels and all(map(fits, values))
        return tuple(self.checked(name, values, good, f"{levels} {wanted}"))

    def taps(self, name: str, vit: ViTSize, default: int) -> tuple[int, ...]:
        """A number means that many of the last blocks; a list names blocks, from 0."""
        value = self.take(name, default)
        if _is_whole(value) and value <= vit.depth:
            return tuple(range(vit.depth - value, vit.depth))
        fits = isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_whole(i, 0) and i < vit.depth for i in value)
        fits = fits and len(set(value)) == len(value)
        return tuple(sorted(self.checked(name, value, fits, f"a number up to {vit.depth}, or a list of different blocks")))

    def encoder(self, name: str, given: ViTSize | None) -> ViTSize:
        value = self.take(name, _REQUIRED)
        if given is not None:
            return given
        known = isinstance(value, str) and value in ENCODERS
        return ENCODERS[self.checked(name, value, known, f"one of {', '.join(ENCODERS)}")]

    def nested(self, name: str, optional: bool = False) -> Any:
        value = self.take(name, None if optional else _REQUIRED)
        if value is None and optional:
            return None
        self.checked(name, value, isinstance(value, Mapping), "a table")
        return _Entries(value, f"{self.where}{name}.")
