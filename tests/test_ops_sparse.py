"""Operations on voxels: every backend that runs here against float64 by the definition; what can't run is refused when asked for by name.

On the CPU that is the plain twins (and Triton's kernels under TRITON_INTERPRET=1); on CUDA the rest. Needs nothing but torch, numpy and pytest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

import torch.nn.functional as F  # noqa: E402
from comfyui_sam3d.contract.errors import SetupError  # noqa: E402
from comfyui_sam3d.worker.ops import backends  # noqa: E402
from comfyui_sam3d.worker.ops.group_norm import group_norm  # noqa: E402
from comfyui_sam3d.worker.ops.neighbours import child_table, neighbour_table  # noqa: E402
from comfyui_sam3d.worker.ops.sparse_conv import _chunks, folded_kernel, subdivided_conv3, submanifold_conv3  # noqa: E402
from comfyui_sam3d.worker.ops.sparse_fused import gather_sum, norm_silu  # noqa: E402
from comfyui_sam3d.worker.ops.window_attention import group_rows, grouped_attention, window_ids  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import mix_precision  # noqa: E402
from comfyui_sam3d.worker.sam3d.mesh_decoder import MeshDecoder, SubdivideBlock  # noqa: E402
from comfyui_sam3d.worker.sam3d.sparse import Voxels, subdivide  # noqa: E402
from comfyui_sam3d.worker.sam3d.splat_decoder import SplatDecoder  # noqa: E402

import voxel_shapes  # noqa: E402
from voxel_shapes import source  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
FLOATS = (torch.float32, torch.float16)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=source(seed)).to(DEVICE)


def scattered(side: int, share: float, seed: int = 0, batch: int = 0) -> torch.Tensor:
    return voxel_shapes.scattered(side, share, seed, batch).to(DEVICE)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    return voxel_shapes.randomised(module).to(DEVICE)


def two_objects() -> torch.Tensor:
    """Objects 0 and 2 of a batch, the second sparse enough for voxels without any neighbour."""
    return torch.cat([scattered(5, 0.5, 1), scattered(6, 0.05, 2, batch=2)])


def near(got: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype and got.shape == wanted.shape
    limit = 2e-6 if dtype == torch.float32 else 2e-3
    assert torch.isfinite(got).all() and (got.double() - wanted).norm() <= limit * wanted.norm()


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Forces the named backend of an operation (given as `operation:name`), or skips."""
    operation, name = request.param.split(":")
    if INTERPRETED and name == "triton" and DEVICE.type == "cpu":
        pytest.importorskip("triton")
        monkeypatch.setattr(backends, "_able", lambda name, device: name == "triton")
    elif name not in backends.available(DEVICE)[operation]:
        pytest.skip(f"{name} can't run on {DEVICE} here")
    with backends.force(name):
        if name == "xformers":
            try:
                grouped_attention(*drawn(3, 2, 1, 16), group_rows(torch.zeros(2, dtype=torch.int64, device=DEVICE)))
            except SetupError as error:
                pytest.skip(error.message)
        yield name


def each_backend(operation: str):
    names = [*backends.OPERATIONS[operation], "torch"]
    return pytest.mark.parametrize("backend", [f"{operation}:{name}" for name in names], indirect=True)


# -- convolution


def by_definition(x: torch.Tensor, coords: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The dense convolution at the active sites, float64."""
    b, i, j, k = coords.long().unbind(1)
    size = [int(part.max()) + 1 for part in (b, i, j, k)]
    grid = torch.zeros(size[0], x.shape[1], *size[1:], dtype=torch.float64, device=x.device)
    grid[b, :, i, j, k] = x.double()
    return F.conv3d(grid, weight.double().permute(0, 4, 1, 2, 3), bias.double(), padding=1)[b, :, i, j, k]


@each_backend("sparse_conv")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("channels", "out", "levels"), [(5, 6, 0), (16, 24, 1), (96, 40, 0), (16, 130, 0), (8, 8, 2)])
def test_convolution(backend: str, dtype: torch.dtype, channels: int, out: int, levels: int) -> None:
    if backend == "spconv" and dtype == torch.float16 and (channels % 8 or out % 8):
        pytest.skip("spconv's half-precision kernels take channels in eights")
    voxels = Voxels(two_objects(), 3)
    table = voxels.neighbours
    for _ in range(levels):
        voxels = voxels.fine
    x, weight, bias = drawn(len(voxels), channels).to(dtype), drawn(out, 3, 3, 3, channels, seed=1).to(dtype) / 9, drawn(out).to(dtype)
    got = submanifold_conv3(x, table, weight, bias, levels=levels, coords=voxels.coords)
    near(got, by_definition(x, voxels.coords, weight, bias), dtype)
    near(submanifold_conv3(x, table, weight, levels=levels, coords=voxels.coords), by_definition(x, voxels.coords, weight, 0 * bias), dtype)


@each_backend("sparse_conv")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("channels", "out", "levels"), [(5, 6, 0), (16, 24, 1), (96, 40, 0), (24, 130, 0)])
def test_convolution_after_a_subdivision(backend: str, dtype: torch.dtype, channels: int, out: int, levels: int) -> None:
    voxels = Voxels(two_objects(), 3)
    table = voxels.neighbours
    for _ in range(levels):
        voxels = voxels.fine
    x, weight, bias = drawn(len(voxels), channels).to(dtype), drawn(out, 3, 3, 3, channels, seed=1).to(dtype) / 9, drawn(out).to(dtype)
    near(subdivided_conv3(x, table, weight, bias, levels=levels), by_definition(subdivide(x), voxels.fine.coords, weight, bias), dtype)


@each_backend("sparse_conv")
def test_rows_in_any_order_and_views(backend: str) -> None:
    coords = scattered(6, 0.3)
    coords = coords[torch.randperm(len(coords), generator=source()).to(DEVICE)]
    wide, weight, bias = drawn(len(coords), 48), drawn(8, 3, 3, 3, 16, seed=1), drawn(8)
    x = wide[:, 16:32]  # rows aren't next to one another in memory
    got = submanifold_conv3(x, neighbour_table(coords), weight, bias, coords=coords)
    near(got, by_definition(x, coords, weight, bias), torch.float32)


@each_backend("sparse_conv")
def test_a_lonely_voxel_sees_the_centre_alone(backend: str) -> None:
    coords = torch.tensor([[0, 3, 0, 7]], dtype=torch.int32, device=DEVICE)
    x, weight, bias = drawn(1, 16), drawn(8, 3, 3, 3, 16, seed=1), drawn(8)
    table = neighbour_table(coords)
    near(submanifold_conv3(x, table, weight, bias, coords=coords), F.linear(x, weight[:, 1, 1, 1], bias).double(), torch.float32)


@pytest.mark.parametrize("name", ["triton", "torch"])
def test_no_voxel_at_all(name: str) -> None:
    if name not in backends.available(DEVICE)["sparse_conv"]:
        pytest.skip(f"{name} can't run on {DEVICE} here")
    coords = torch.empty(0, 4, dtype=torch.int32, device=DEVICE)
    table, x, weight = neighbour_table(coords), drawn(0, 16), drawn(8, 3, 3, 3, 16)
    assert table.shape == (0, 27)
    with backends.force(name):
        assert submanifold_conv3(x, table, weight).shape == (0, 8) == submanifold_conv3(x, table, weight, levels=2).shape
        assert subdivided_conv3(x, table, weight).shape == (0, 8)
        groups = group_rows(window_ids(coords, 8, 4))
        assert grouped_attention(*drawn(3, 0, 2, 16), groups).shape == (0, 32)
        assert group_norm(x, [slice(0, 0)], drawn(16), drawn(16), 4).shape == (0, 16)


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_the_twins_chunks_change_nothing(levels: int, chunk: int) -> None:
    voxels = Voxels(scattered(4, 0.4))
    table, rows = voxels.neighbours, len(voxels) * 8**levels
    x, weight, bias = drawn(rows, 4), drawn(6, 3, 3, 3, 4, seed=1), drawn(6)
    with backends.force("torch"):
        near(submanifold_conv3(x, table, weight, bias, levels=levels, chunk=chunk),
             submanifold_conv3(x, table, weight, bias, levels=levels).double(), torch.float32)  # fmt: skip
        near(subdivided_conv3(x, table, weight, bias, levels=levels, chunk=chunk),
             subdivided_conv3(x, table, weight, bias, levels=levels).double(), torch.float32)  # fmt: skip
    seen = [len(near) for _, near in _chunks(x, table, levels, chunk)]
    assert sum(seen) == rows and max(seen) <= max(chunk, 8**levels)  # never more of a finer grid's table than asked for


@pytest.mark.parametrize("levels", [0, 1])
def test_the_twins_chunks_take_no_more_memory_than_there_is(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = Voxels(scattered(6, 0.5))
    x = drawn(len(voxels) * 8**levels, 16).half()
    row = 27 * (16 * 2 + 4)  # gathered features, and the table
    for rows in (8, 24, 10**6):
        monkeypatch.setattr("comfyui_sam3d.worker.ops.sparse_conv._spare_bytes", lambda device, spare=rows * row: spare)
        assert max(len(near) for _, near in _chunks(x, voxels.neighbours, levels, None)) == min(rows, len(x))


def test_a_folded_kernel_sums_each_cell_once() -> None:
    weight = drawn(3, 3, 3, 3, 2).half()
    folded = folded_kernel(weight)
    assert folded.shape == (8, 3, 8, 2) and folded.dtype == torch.float16
    for child in range(8):
        near(folded[child].sum(1), weight.flatten(1, 3).double().sum(1), torch.float16)
    # The first child's own corner of the kernel sees its last parent neighbour alone.
    assert torch.equal(folded[0][:, 0], weight[:, 0, 0, 0])
    assert torch.equal(folded[7][:, 7], weight[:, 2, 2, 2])


def test_a_finer_grid_keeps_no_table_of_its_own() -> None:
    voxels = Voxels(two_objects(), 3)
    finest = voxels.fine.fine
    assert finest.table[0] is voxels.neighbours and finest.table[1] == 2
    assert finest.counts == [64 * count for count in voxels.counts]
    assert torch.equal(finest.neighbours, child_table(child_table(voxels.neighbours)))
    assert torch.equal(finest.neighbours, neighbour_table(finest.coords))


# -- attention


@each_backend("window_attention")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("heads", "width", "shift"), [(2, 8, 0), (3, 24, 4), (12, 64, 4), (1, 128, 0)])
def test_attention_in_windows(backend: str, dtype: torch.dtype, heads: int, width: int, shift: int) -> None:
    coords = torch.cat([scattered(10, 0.3, 3), scattered(20, 0.01, 4, batch=1)])  # windows of one row to many
    windows = torch.cat([coords[:, :1], (coords[:, 1:] + shift) // 8], dim=1)
    qkv = drawn(len(coords), 3, heads, width).to(dtype)
    q, k, v = qkv.unbind(1)  # views, as the networks have them
    score = torch.einsum("nhd,mhd->hnm", q.double(), k.double()) / width**0.5
    score = score.masked_fill((windows[:, None] != windows[None]).any(-1), float("-inf"))
    wanted = torch.einsum("hnm,mhd->nhd", score.softmax(-1), v.double()).flatten(1)
    near(grouped_attention(q, k, v, group_rows(window_ids(coords, 8, shift))), wanted, dtype)


@each_backend("window_attention")
def test_attention_of_long_groups(backend: str) -> None:
    ids = torch.tensor([5] * 700 + [2] + [9] * 1100, device=DEVICE)
    ids = ids[torch.randperm(len(ids), generator=source()).to(DEVICE)]
    q, k, v = drawn(3, len(ids), 2, 16).half()
    got = grouped_attention(q, k, v, group_rows(ids))
    for number in (5, 2, 9):
        mine = ids == number
        wanted = F.scaled_dot_product_attention(*(t[mine].double().transpose(0, 1) for t in (q, k, v))).transpose(0, 1).flatten(1)
        near(got[mine], wanted, torch.float16)


# -- group norm


@each_backend("group_norm")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("counts", "channels", "groups", "mean"), [((1, 0, 700), 96, 32, 0), ((3000,), 24, 4, 50), ((40, 5), 768, 32, 5)])
def test_group_norm(
    backend: str,
    dtype: torch.dtype,
    silu: bool,
    counts: tuple[int, ...],
    channels: int,
    groups: int,
    mean: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("comfyui_sam3d.worker.ops.group_norm._ROWS", 300)  # the twin's pieces meet
    x, weight, bias = (drawn(sum(counts), channels) * 3 + mean).to(dtype), drawn(channels, seed=1) + 1, drawn(channels, seed=2)
    ends = torch.tensor(counts).cumsum(0).tolist()
    objects = [slice(end - count, end) for end, count in zip(ends, counts)]
    got = group_norm(x, objects, weight, bias, groups, silu=silu)
    parts = [
        F.group_norm(x[rows].double().t()[None], groups, weight.double(), bias.double())[0].t()
        for rows in objects
        if rows.stop > rows.start
    ]
    wanted = torch.cat(parts)
    assert got.dtype == dtype
    assert (got - (F.silu(wanted) if silu else wanted)).abs().max() < (1e-4 if dtype == torch.float32 else 2e-2)


# -- what stands between the convolutions


@each_backend("sparse_fused")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("same", [False, True])
def test_sums_of_gathered_rows(backend: str, dtype: torch.dtype, same: bool) -> None:
    values, bias, weight = drawn(9, 4, 24).to(dtype), drawn(24, seed=1).to(dtype), drawn(40, seed=2)
    if same:
        values = values[:, :1].expand(-1, 4, -1)
    table = torch.randint(-1, 9, (40, 4), generator=source()).int().to(DEVICE)
    sums = torch.zeros(40, 24, dtype=torch.float64, device=DEVICE)
    for row, places in enumerate(table.tolist()):
        for k, place in enumerate(places):
            sums[row] += values[place, k].double() if place >= 0 else 0
    near(gather_sum(values, table), sums, dtype)
    near(gather_sum(values, table, weight=weight), weight[:, None] * sums, dtype)
    near(gather_sum(values, table, bias=bias, weight=weight), bias + weight[:, None] * sums, dtype)


@each_backend("sparse_fused")
@pytest.mark.parametrize("dtype", FLOATS)
def test_norm_and_silu(backend: str, dtype: torch.dtype) -> None:
    x, mult, add = (3 * drawn(37, 200) + 1).to(dtype), drawn(200, seed=1).to(dtype), drawn(200, seed=2)
    wanted = F.silu(F.layer_norm(x.double(), (200,), eps=1e-6) * mult + add)
    near(norm_silu(x, mult, add, eps=1e-6), wanted, dtype)
    if backend == "torch":  # rounded once, at the end
        assert torch.equal(norm_silu(x, mult, add, eps=1e-6), norm_silu(x.float(), mult, add, eps=1e-6).to(dtype))


# -- the decoders that are made of them


def test_the_torso_is_one_block_after_the_other() -> None:
    decoder, voxels = randomised(SplatDecoder(4, width=48, blocks=3, heads=3, window=4)), Voxels(two_objects(), 3)
    latents = drawn(len(voxels), 8)
    with backends.force("torch"):
        h = decoder.input_layer(latents) + voxels.positions(48)
        for block in decoder.blocks:
            h = block(h, voxels)
        near(decoder.torso(latents, voxels), h.double(), torch.float32)


def test_a_subdivide_block_is_its_definition() -> None:
    block, voxels = randomised(SubdivideBlock(64, 32)), Voxels(two_objects(), 3)
    x = drawn(len(voxels), 64)
    conv1, norm, _, conv2 = block.out_layers
    fine = Voxels(voxels.fine.coords, 3)  # with a table of its own, by search
    with backends.force("torch"):
        h = conv1(subdivide(F.silu(block.act_layers[0](x, voxels))), fine)
        h = conv2(F.silu(norm(h, fine)), fine)
        wanted = h + block.skip_connection(subdivide(x))
        near(block(x, voxels), wanted.double(), torch.float32)


@needs_gpu
@pytest.mark.parametrize("kind", ["splats", "mesh"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_decoders_in_half_precision_on_a_gpu(kind: str, dtype: torch.dtype) -> None:
    voxels = Voxels(torch.cat([scattered(16, 0.1, 1), scattered(16, 0.2, 2, batch=1)]))
    latents = drawn(len(voxels), 8)
    if kind == "splats":
        model = randomised(SplatDecoder(8, width=192, blocks=4, heads=3))
        call = lambda: torch.cat([part.scaling for part in model(latents, voxels)])  # noqa: E731
    else:
        model = randomised(MeshDecoder(width=256, blocks=4, heads=4))
        call = lambda: model.features(latents, voxels)  # noqa: E731
    with backends.force("torch"):
        wanted = call().double()
    mix_precision(model, dtype)
    got = call()
    assert got.dtype == torch.float32
    assert (got - wanted).norm() <= (2e-5 if dtype == torch.float32 else 3e-3) * wanted.norm()


# -- what runs, and what is refused


@pytest.mark.parametrize("name", ["triton", "spconv", "varlen", "xformers"])
def test_an_absent_backend_is_refused_by_name(name: str) -> None:
    cpu = torch.device("cpu")
    coords = torch.tensor([[0, 0, 0, 0]], dtype=torch.int32)
    x, weight = torch.zeros(1, 4), torch.zeros(2, 3, 3, 3, 4)
    table, groups = neighbour_table(coords), group_rows(torch.zeros(1, dtype=torch.int64))
    with backends.force(name):
        with pytest.raises(SetupError, match=f"'{name}' was asked for, but can't run on cpu.*CUDA"):
            if name in ("triton", "spconv"):
                submanifold_conv3(x, table, weight, coords=coords)
            else:
                grouped_attention(x[None], x[None], x[None], groups)
        if name == "triton":
            for call in (
                lambda: subdivided_conv3(x, table, weight),
                lambda: grouped_attention(x[None], x[None], x[None], groups),
                lambda: group_norm(x, [slice(0, 1)], x[0], x[0], 2),
            ):
                with pytest.raises(SetupError, match="package triton"):
                    call()
        else:  # other operations don't know it: they run as ever
            assert group_norm(x, [slice(0, 1)], x[0], x[0], 2).shape == (1, 4)
    assert backends.choose(cpu, name) == "torch"


def test_a_name_that_nobody_knows_is_refused() -> None:
    with backends.force("tritn"), pytest.raises(SetupError, match=r"no backend 'tritn'.*triton"):
        backends.choose(torch.device("cpu"), "triton")
    with backends.force("tritn"), backends.force("torch"):
        assert backends.choose(torch.device("cpu"), "triton") == "torch"  # the innermost counts


def test_every_operation_says_what_it_has() -> None:
    here = backends.available(torch.device("cpu"))
    kernels = Path(backends.__file__).parent.glob("*_triton.py")
    assert sorted(here) == sorted(path.stem.removesuffix("_triton") for path in kernels)
    assert all(names[-1] == "torch" for names in here.values()) and "triton" not in here["sparse_conv"]
    if DEVICE.type == "cuda" and backends.has("triton"):
        assert backends.available(DEVICE)["sparse_conv"][0] == "triton" == backends.choose(DEVICE, "triton")
        assert "varlen" in backends.available(DEVICE)["window_attention"]
